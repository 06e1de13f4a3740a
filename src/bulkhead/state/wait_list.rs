//! The wait queue. Operations are O(1), by priority O(log n); no allocation once its slab has grown.

use std::collections::BTreeMap;

use super::Taken;
use crate::error::Reason;
use crate::instant::Instant;

/// The waiters of a bulkhead, in one list per partition. `W` is the waker's type.
///
/// Waiters live in a slab. A waiter owns a cell of the slab from its arrival until it collects the result of its wait.
/// Cells are linked in the order of arrival. With priorities, a map sorts them instead.
#[derive(Debug)]
pub(crate) struct WaitList<W> {
    cells: Vec<Cell<W>>,
    /// Head of the list of free cells.
    free: usize,
    /// Number of cells that are not free.
    used: usize,
    lists: Box<[List]>,
    len: usize,
    arrivals: u64,
}

/// A waiting call.
#[derive(Debug)]
pub(crate) struct Waiter<W> {
    pub(crate) cost: u32,
    pub(crate) since: Instant,
    pub(crate) waker: W,
    /// Sort key: FIFO and priority order admit the smallest first.
    pub(crate) key: Key,
    before: usize,
    after: usize,
}

/// The rank, which is 0 unless the order is by priority, and the arrival number.
pub(crate) type Key = (u16, u64);

/// The result of a wait.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Settled {
    Admitted(Taken),
    Rejected(Reason),
}

#[derive(Debug)]
enum Cell<W> {
    Free { next: usize },
    Waiting(Waiter<W>),
    Settled(Settled),
}

#[derive(Debug)]
struct List {
    first: usize,
    last: usize,
    len: usize,
    /// Present when the order is by priority. Then the links are not used.
    sorted: Option<BTreeMap<Key, usize>>,
}

const NONE: usize = usize::MAX;

/// Number of cells that an empty list keeps.
const KEPT: usize = 64;

impl<W> WaitList<W> {
    pub(crate) fn new(lists: usize, by_rank: bool) -> Self {
        let list = || List {
            first: NONE,
            last: NONE,
            len: 0,
            sorted: by_rank.then(BTreeMap::new),
        };
        Self {
            cells: Vec::new(),
            free: NONE,
            used: 0,
            lists: (0..lists).map(|_| list()).collect(),
            len: 0,
            arrivals: 0,
        }
    }

    /// Returns the number of waiters.
    pub(crate) const fn len(&self) -> usize {
        self.len
    }

    pub(crate) const fn len_of(&self, partition: usize) -> usize {
        self.lists[partition].len
    }

    /// Adds a waiter and returns the index of its cell.
    pub(crate) fn push(
        &mut self,
        partition: usize,
        rank: u16,
        cost: u32,
        since: Instant,
        waker: W,
    ) -> usize {
        self.arrivals += 1;
        let key = (rank, self.arrivals);
        let list = &mut self.lists[partition];
        let cell = Cell::Waiting(Waiter {
            cost,
            since,
            waker,
            key,
            before: list.last,
            after: NONE,
        });
        let index = match self.cells.get_mut(self.free) {
            Some(vacant) => {
                let index = self.free;
                if let Cell::Free { next } = *vacant {
                    self.free = next;
                }
                *vacant = cell;
                index
            }
            None => {
                self.cells.push(cell);
                self.cells.len() - 1
            }
        };
        list.len += 1;
        self.len += 1;
        self.used += 1;
        if let Some(sorted) = &mut list.sorted {
            sorted.insert(key, index);
            return index;
        }
        let last = std::mem::replace(&mut list.last, index);
        match self.cells.get_mut(last) {
            Some(Cell::Waiting(last)) => last.after = index,
            _ => list.first = index,
        }
        index
    }

    /// Returns the waiter that FIFO and priority order admit first.
    pub(crate) fn first(&self, partition: usize) -> Option<(usize, &Waiter<W>)> {
        let list = &self.lists[partition];
        let index = match &list.sorted {
            Some(sorted) => *sorted.first_key_value()?.1,
            None => list.first,
        };
        self.waiter(index)
    }

    /// Returns the newest waiter, or in priority order the last one.
    pub(crate) fn last(&self, partition: usize) -> Option<(usize, &Waiter<W>)> {
        let list = &self.lists[partition];
        let index = match &list.sorted {
            Some(sorted) => *sorted.last_key_value()?.1,
            None => list.last,
        };
        self.waiter(index)
    }

    fn waiter(&self, index: usize) -> Option<(usize, &Waiter<W>)> {
        match self.cells.get(index)? {
            Cell::Waiting(waiter) => Some((index, waiter)),
            Cell::Free { .. } | Cell::Settled(_) => None,
        }
    }

    /// Ends a wait and returns the waker. The waiter keeps its cell until it calls [`collect`](Self::collect).
    pub(crate) fn settle(&mut self, partition: usize, index: usize, how: Settled) -> Option<W> {
        self.leave(partition, index, Cell::Settled(how))
    }

    /// Returns how the wait in this cell ended, if it has, and frees the cell.
    pub(crate) fn collect(&mut self, index: usize) -> Option<Settled> {
        let Cell::Settled(settled) = *self.cells.get(index)? else {
            return None;
        };
        self.cells[index] = Cell::Free { next: self.free };
        self.vacate(index);
        Some(settled)
    }

    /// Removes a waiter, frees its cell, and returns the waker.
    pub(crate) fn remove(&mut self, partition: usize, index: usize) -> Option<W> {
        let waker = self.leave(partition, index, Cell::Free { next: self.free })?;
        self.vacate(index);
        Some(waker)
    }

    /// Returns the waker of the waiter in this cell.
    pub(crate) fn waker_mut(&mut self, index: usize) -> Option<&mut W> {
        match self.cells.get_mut(index)? {
            Cell::Waiting(waiter) => Some(&mut waiter.waker),
            Cell::Free { .. } | Cell::Settled(_) => None,
        }
    }

    /// Unlinks a waiter and puts `instead` into its cell.
    ///
    /// Inlined, so that `instead` is written in place: moving it costs more than everything else here.
    #[inline(always)]
    fn leave(&mut self, partition: usize, index: usize, instead: Cell<W>) -> Option<W> {
        let cell = self.cells.get_mut(index)?;
        if !matches!(cell, Cell::Waiting(_)) {
            return None;
        }
        let Cell::Waiting(waiter) = std::mem::replace(cell, instead) else {
            return None;
        };
        let list = &mut self.lists[partition];
        list.len -= 1;
        self.len -= 1;
        if let Some(sorted) = &mut list.sorted {
            sorted.remove(&waiter.key);
            return Some(waiter.waker);
        }
        match self.cells.get_mut(waiter.before) {
            Some(Cell::Waiting(before)) => before.after = waiter.after,
            _ => list.first = waiter.after,
        }
        match self.cells.get_mut(waiter.after) {
            Some(Cell::Waiting(after)) => after.before = waiter.before,
            _ => list.last = waiter.before,
        }
        Some(waiter.waker)
    }

    fn vacate(&mut self, index: usize) {
        self.free = index;
        self.used -= 1;
        if self.used == 0 && self.cells.len() > KEPT {
            // Frees the memory of a burst.
            self.cells = Vec::new();
            self.free = NONE;
        }
    }
}

#[cfg(all(test, not(backstop_loom)))]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const AT: Instant = Instant::ORIGIN;
    const OVER: Settled = Settled::Rejected(Reason::QueueTimeout);

    /// The model: a plain list of waiters.
    #[derive(Default)]
    struct Model {
        waiting: Vec<(usize, Key, usize)>,
        settled: Vec<usize>,
        arrivals: u64,
    }

    impl Model {
        fn ends(&self, partition: usize) -> (Option<usize>, Option<usize>) {
            let mut list: Vec<_> = self.waiting.iter().filter(|w| w.0 == partition).collect();
            list.sort_by_key(|w| w.1);
            (list.first().map(|w| w.2), list.last().map(|w| w.2))
        }
    }

    fn check(by_rank: bool, steps: &[(u8, usize, u16)]) {
        let (mut list, mut model) = (WaitList::new(2, by_rank), Model::default());
        for &(what, pick, rank) in steps {
            let partition = pick % 2;
            let rank = if by_rank { rank } else { 0 };
            match what {
                0..=3 => {
                    let index = list.push(partition, rank, 1, AT, ());
                    model.arrivals += 1;
                    model
                        .waiting
                        .push((partition, (rank, model.arrivals), index));
                }
                4..=5 if !model.waiting.is_empty() => {
                    let (partition, _, index) =
                        model.waiting.swap_remove(pick % model.waiting.len());
                    assert!(list.collect(index).is_none());
                    assert!(list.waker_mut(index).is_some());
                    assert!(list.settle(partition, index, OVER).is_some());
                    assert!(list.settle(partition, index, OVER).is_none());
                    assert!(list.remove(partition, index).is_none());
                    model.settled.push(index);
                }
                6 if !model.waiting.is_empty() => {
                    let (partition, _, index) =
                        model.waiting.swap_remove(pick % model.waiting.len());
                    assert!(list.remove(partition, index).is_some());
                }
                _ if !model.settled.is_empty() => {
                    let index = model.settled.swap_remove(pick % model.settled.len());
                    assert!(list.waker_mut(index).is_none());
                    assert_eq!(list.collect(index), Some(OVER));
                }
                _ => {}
            }
            assert_eq!(list.len(), model.waiting.len());
            for partition in 0..2 {
                let ends = (
                    list.first(partition).map(|(index, _)| index),
                    list.last(partition).map(|(index, _)| index),
                );
                assert_eq!(ends, model.ends(partition));
                let len = model.waiting.iter().filter(|w| w.0 == partition).count();
                assert_eq!(list.len_of(partition), len);
            }
        }
    }

    proptest! {
        #[test]
        fn every_sequence_of_operations_agrees_with_a_plain_list(
            by_rank: bool,
            steps in prop::collection::vec((0..9_u8, 0..1000_usize, 0..4_u16), 0..200),
        ) {
            check(by_rank, &steps);
        }
    }

    #[test]
    fn cells_are_reused_and_the_memory_of_a_burst_is_freed() {
        let mut list = WaitList::new(1, false);
        for _ in 0..1000 {
            let index = list.push(0, 0, 1, AT, ());
            list.remove(0, index);
        }
        assert_eq!(list.cells.len(), 1);
        let burst: Vec<_> = (0..1000).map(|_| list.push(0, 0, 1, AT, ())).collect();
        for index in burst {
            list.settle(0, index, OVER);
            assert!(list.cells.len() == 1000);
            list.collect(index);
            list.push(0, 0, 1, AT, ());
        }
        while let Some((index, _)) = list.first(0) {
            list.remove(0, index);
        }
        assert_eq!((list.cells.capacity(), list.used), (0, 0));
    }
}
