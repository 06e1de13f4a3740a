//! Those who wait: who is next in constant time, and nothing is allocated once warm.

use std::collections::BTreeMap;

use super::Taken;
use crate::error::Reason;
use crate::instant::Instant;

/// The lines of a bulkhead, one for each partition. `W` wakes somebody.
///
/// Everybody has a slot, from lining up until they have noticed how their waiting ended. Slots are
/// used again. Those who wait are linked in the order they came; where priorities decide, a map sorts
/// them.
#[derive(Debug)]
pub(crate) struct Lines<W> {
    slots: Vec<Slot<W>>,
    /// The first slot that is free.
    free: usize,
    /// How many slots are not free.
    used: usize,
    lanes: Box<[Line]>,
    len: usize,
    arrivals: u64,
}

/// One in line.
#[derive(Debug)]
pub(crate) struct Waiter<W> {
    pub(crate) cost: u32,
    pub(crate) since: Instant,
    pub(crate) waker: W,
    /// Ascending: whom FIFO and priority serve first.
    pub(crate) place: Place,
    before: usize,
    after: usize,
}

/// The rank, which is 0 but in a line by priority, and the number of the arrival.
pub(crate) type Place = (u16, u64);

/// How a waiting ended.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Settled {
    Admitted(Taken),
    Refused(Reason),
}

#[derive(Debug)]
enum Slot<W> {
    Free { next: usize },
    Waiting(Waiter<W>),
    Settled(Settled),
}

#[derive(Debug)]
struct Line {
    first: usize,
    last: usize,
    len: usize,
    /// Only where priorities decide; then the links are not used.
    sorted: Option<BTreeMap<Place, usize>>,
}

const NOBODY: usize = usize::MAX;

/// How many slots are kept when nobody waits any more.
const KEPT: usize = 64;

impl<W> Lines<W> {
    pub(crate) fn new(lanes: usize, by_rank: bool) -> Self {
        let line = || Line {
            first: NOBODY,
            last: NOBODY,
            len: 0,
            sorted: by_rank.then(BTreeMap::new),
        };
        Self {
            slots: Vec::new(),
            free: NOBODY,
            used: 0,
            lanes: (0..lanes).map(|_| line()).collect(),
            len: 0,
            arrivals: 0,
        }
    }

    /// How many wait.
    pub(crate) const fn len(&self) -> usize {
        self.len
    }

    pub(crate) const fn len_of(&self, lane: usize) -> usize {
        self.lanes[lane].len
    }

    pub(crate) const fn lanes(&self) -> usize {
        self.lanes.len()
    }

    /// Lines somebody up, and says in which slot.
    pub(crate) fn push(
        &mut self,
        lane: usize,
        rank: u16,
        cost: u32,
        since: Instant,
        waker: W,
    ) -> usize {
        self.arrivals += 1;
        let place = (rank, self.arrivals);
        let line = &mut self.lanes[lane];
        let slot = Slot::Waiting(Waiter {
            cost,
            since,
            waker,
            place,
            before: line.last,
            after: NOBODY,
        });
        let index = match self.slots.get_mut(self.free) {
            Some(vacant) => {
                let index = self.free;
                if let Slot::Free { next } = *vacant {
                    self.free = next;
                }
                *vacant = slot;
                index
            }
            None => {
                self.slots.push(slot);
                self.slots.len() - 1
            }
        };
        line.len += 1;
        self.len += 1;
        self.used += 1;
        if let Some(sorted) = &mut line.sorted {
            sorted.insert(place, index);
            return index;
        }
        let last = std::mem::replace(&mut line.last, index);
        match self.slots.get_mut(last) {
            Some(Slot::Waiting(last)) => last.after = index,
            _ => line.first = index,
        }
        index
    }

    /// The one whom FIFO and priority serve first.
    pub(crate) fn first(&self, lane: usize) -> Option<(usize, &Waiter<W>)> {
        let line = &self.lanes[lane];
        let index = match &line.sorted {
            Some(sorted) => *sorted.first_key_value()?.1,
            None => line.first,
        };
        self.waiter(index)
    }

    /// The one who came last; where priorities decide, the last to be served.
    pub(crate) fn last(&self, lane: usize) -> Option<(usize, &Waiter<W>)> {
        let line = &self.lanes[lane];
        let index = match &line.sorted {
            Some(sorted) => *sorted.last_key_value()?.1,
            None => line.last,
        };
        self.waiter(index)
    }

    fn waiter(&self, index: usize) -> Option<(usize, &Waiter<W>)> {
        match self.slots.get(index)? {
            Slot::Waiting(waiter) => Some((index, waiter)),
            Slot::Free { .. } | Slot::Settled(_) => None,
        }
    }

    /// Ends somebody's waiting. Their slot is theirs until they [`collect`](Self::collect).
    pub(crate) fn settle(&mut self, lane: usize, index: usize, how: Settled) -> Option<W> {
        self.leave(lane, index, Slot::Settled(how))
    }

    /// How the waiting in this slot ended, if it has ended. Then the slot is given up.
    pub(crate) fn collect(&mut self, index: usize) -> Option<Settled> {
        let Slot::Settled(settled) = *self.slots.get(index)? else {
            return None;
        };
        self.slots[index] = Slot::Free { next: self.free };
        self.vacate(index);
        Some(settled)
    }

    /// Gives up a slot in which somebody waits.
    pub(crate) fn remove(&mut self, lane: usize, index: usize) -> Option<W> {
        let waker = self.leave(lane, index, Slot::Free { next: self.free })?;
        self.vacate(index);
        Some(waker)
    }

    /// Who is to be woken for this slot, while somebody waits in it.
    pub(crate) fn waker_mut(&mut self, index: usize) -> Option<&mut W> {
        match self.slots.get_mut(index)? {
            Slot::Waiting(waiter) => Some(&mut waiter.waker),
            Slot::Free { .. } | Slot::Settled(_) => None,
        }
    }

    /// Takes somebody out of the line, and leaves `instead` in their slot.
    ///
    /// Inlined, so that it is written where it stays: to move it costs more than all the rest.
    #[inline(always)]
    fn leave(&mut self, lane: usize, index: usize, instead: Slot<W>) -> Option<W> {
        let slot = self.slots.get_mut(index)?;
        if !matches!(slot, Slot::Waiting(_)) {
            return None;
        }
        let Slot::Waiting(waiter) = std::mem::replace(slot, instead) else {
            return None;
        };
        let line = &mut self.lanes[lane];
        line.len -= 1;
        self.len -= 1;
        if let Some(sorted) = &mut line.sorted {
            sorted.remove(&waiter.place);
            return Some(waiter.waker);
        }
        match self.slots.get_mut(waiter.before) {
            Some(Slot::Waiting(before)) => before.after = waiter.after,
            _ => line.first = waiter.after,
        }
        match self.slots.get_mut(waiter.after) {
            Some(Slot::Waiting(after)) => after.before = waiter.before,
            _ => line.last = waiter.before,
        }
        Some(waiter.waker)
    }

    fn vacate(&mut self, index: usize) {
        self.free = index;
        self.used -= 1;
        if self.used == 0 && self.slots.len() > KEPT {
            // After a rush: the memory goes back.
            self.slots = Vec::new();
            self.free = NOBODY;
        }
    }
}

#[cfg(all(test, not(backstop_loom)))]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const AT: Instant = Instant::ORIGIN;
    const OVER: Settled = Settled::Refused(Reason::QueueTimeout);

    /// Who waits, as a list; the slow, obvious way.
    #[derive(Default)]
    struct Model {
        waiting: Vec<(usize, Place, usize)>,
        settled: Vec<usize>,
        arrivals: u64,
    }

    impl Model {
        fn ends(&self, lane: usize) -> (Option<usize>, Option<usize>) {
            let mut line: Vec<_> = self.waiting.iter().filter(|w| w.0 == lane).collect();
            line.sort_by_key(|w| w.1);
            (line.first().map(|w| w.2), line.last().map(|w| w.2))
        }
    }

    fn check(by_rank: bool, steps: &[(u8, usize, u16)]) {
        let (mut lines, mut model) = (Lines::new(2, by_rank), Model::default());
        for &(what, pick, rank) in steps {
            let lane = pick % 2;
            let rank = if by_rank { rank } else { 0 };
            match what {
                0..=3 => {
                    let index = lines.push(lane, rank, 1, AT, ());
                    model.arrivals += 1;
                    model.waiting.push((lane, (rank, model.arrivals), index));
                }
                4..=5 if !model.waiting.is_empty() => {
                    let (lane, _, index) = model.waiting.swap_remove(pick % model.waiting.len());
                    assert!(lines.collect(index).is_none());
                    assert!(lines.waker_mut(index).is_some());
                    assert!(lines.settle(lane, index, OVER).is_some());
                    assert!(lines.settle(lane, index, OVER).is_none());
                    assert!(lines.remove(lane, index).is_none());
                    model.settled.push(index);
                }
                6 if !model.waiting.is_empty() => {
                    let (lane, _, index) = model.waiting.swap_remove(pick % model.waiting.len());
                    assert!(lines.remove(lane, index).is_some());
                }
                _ if !model.settled.is_empty() => {
                    let index = model.settled.swap_remove(pick % model.settled.len());
                    assert!(lines.waker_mut(index).is_none());
                    assert_eq!(lines.collect(index), Some(OVER));
                }
                _ => {}
            }
            assert_eq!(lines.len(), model.waiting.len());
            for lane in 0..2 {
                let ends = (
                    lines.first(lane).map(|(index, _)| index),
                    lines.last(lane).map(|(index, _)| index),
                );
                assert_eq!(ends, model.ends(lane));
                let len = model.waiting.iter().filter(|w| w.0 == lane).count();
                assert_eq!(lines.len_of(lane), len);
            }
        }
    }

    proptest! {
        #[test]
        fn lines_are_as_a_list(
            by_rank: bool,
            steps in prop::collection::vec((0..9_u8, 0..1000_usize, 0..4_u16), 0..200),
        ) {
            check(by_rank, &steps);
        }
    }

    #[test]
    fn slots_are_used_again_and_the_memory_of_a_rush_is_given_back() {
        let mut lines = Lines::new(1, false);
        for _ in 0..1000 {
            let index = lines.push(0, 0, 1, AT, ());
            lines.remove(0, index);
        }
        assert_eq!(lines.slots.len(), 1);
        let rush: Vec<_> = (0..1000).map(|_| lines.push(0, 0, 1, AT, ())).collect();
        for index in rush {
            lines.settle(0, index, OVER);
            assert!(lines.slots.len() == 1000);
            lines.collect(index);
            lines.push(0, 0, 1, AT, ());
        }
        while let Some((index, _)) = lines.first(0) {
            lines.remove(0, index);
        }
        assert_eq!((lines.slots.capacity(), lines.used), (0, 0));
    }
}
