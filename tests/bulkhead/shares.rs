//! Partitions against a simple model.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context as TaskContext, Poll, Waker};

use backstop::bulkhead::{Permit, QueueOrder};
use backstop::{Bulkhead, Context, Rejected};
use proptest::prelude::*;

const SHARES: [(&str, f64); 2] = [("a", 0.25), ("b", 0.5)];
/// The calls without a partition, and the calls of each partition.
const PARTITIONS: usize = SHARES.len() + 1;
const CAPACITY: usize = 6;

#[derive(Clone, Debug)]
enum Step {
    TryAcquire(usize, u32),
    Acquire(usize, u32),
    Release(usize),
    Cancel(usize),
    Resize(u32),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        (0..PARTITIONS, 0..4_u32).prop_map(|(partition, cost)| Step::TryAcquire(partition, cost)),
        (0..PARTITIONS, 0..4_u32).prop_map(|(partition, cost)| Step::Acquire(partition, cost)),
        any::<usize>().prop_map(Step::Release),
        any::<usize>().prop_map(Step::Cancel),
        (1..9_u32).prop_map(Step::Resize),
    ];
    prop::collection::vec(step, 1..80)
}

#[derive(Clone, Copy, Debug)]
struct Call {
    id: usize,
    partition: usize,
    cost: u32,
}

#[derive(Debug)]
struct Model {
    limit: u32,
    exceed: bool,
    newest_first: bool,
    running: Vec<Call>,
    queue: Vec<Call>,
}

impl Model {
    fn in_flight(&self) -> u32 {
        self.running.iter().map(|call| call.cost).sum()
    }

    fn in_flight_of(&self, partition: usize) -> u32 {
        let its = self
            .running
            .iter()
            .filter(|call| call.partition == partition);
        its.map(|call| call.cost).sum()
    }

    fn is_below_share(&self, call: Call) -> bool {
        let share = match call.partition {
            0 => 0.0,
            partition => SHARES[partition - 1].1,
        };
        // A quarter and a half of small numbers are exact.
        let its_own = (share * f64::from(self.limit)).ceil() as u32;
        self.in_flight_of(call.partition) + call.cost <= its_own
    }

    fn has_room(&self, call: Call) -> bool {
        self.in_flight() + call.cost <= self.limit || (self.exceed && self.is_below_share(call))
    }

    /// Returns whether a new call is admitted.
    fn admits(&self, call: Call) -> bool {
        let passes =
            self.is_below_share(call) && self.queue.iter().all(|w| w.partition != call.partition);
        (self.queue.is_empty() || passes) && self.has_room(call)
    }

    fn serve(&mut self) {
        loop {
            let heads = (0..PARTITIONS).filter_map(|partition| {
                let mut its = self.queue.iter().filter(|call| call.partition == partition);
                let head = if self.newest_first {
                    its.next_back()
                } else {
                    its.next()
                };
                head.copied()
            });
            let order = |call: &Call| {
                let place = call.id as isize;
                let place = if self.newest_first { -place } else { place };
                (!self.is_below_share(*call), place)
            };
            let Some(next) = heads.min_by_key(order) else {
                return;
            };
            if next.cost <= self.limit {
                if !self.has_room(next) {
                    return;
                }
                self.running.push(next);
            }
            self.queue.retain(|call| call.id != next.id);
        }
    }
}

type Waiting<'a> = Pin<Box<dyn Future<Output = Result<Permit<'a>, Rejected>> + 'a>>;

fn check(order: QueueOrder, exceed: bool, steps: Vec<Step>) {
    let mut builder = Bulkhead::builder()
        .max_concurrent(4)
        .max_waiting(CAPACITY)
        .order(order)
        .shares_may_exceed(exceed);
    for (name, share) in SHARES {
        builder = builder.partition(name, share);
    }
    let bulkhead = builder.build().unwrap();
    let mut handles = vec![bulkhead.clone()];
    handles.extend(SHARES.map(|(name, _)| bulkhead.partition(name).unwrap()));
    let mut model = Model {
        limit: 4,
        exceed,
        newest_first: order == QueueOrder::Lifo,
        running: Vec::new(),
        queue: Vec::new(),
    };
    let mut permits: Vec<(usize, Permit<'_>)> = Vec::new();
    let mut waiting: Vec<(usize, Waiting<'_>)> = Vec::new();
    let mut poll = TaskContext::from_waker(Waker::noop());
    for (id, step) in steps.into_iter().enumerate() {
        match step {
            Step::TryAcquire(partition, cost) => {
                let call = Call {
                    id,
                    partition,
                    cost,
                };
                let got = handles[partition].try_acquire_with(Context::new().with_cost(cost));
                assert_eq!(got.is_ok(), model.admits(call));
                if let Ok(permit) = got {
                    permits.push((id, permit));
                    model.running.push(call);
                }
            }
            Step::Acquire(partition, cost) => {
                let call = Call {
                    id,
                    partition,
                    cost,
                };
                let cx = Context::new().with_cost(cost);
                let mut future: Waiting<'_> = Box::pin(handles[partition].acquire_with(cx));
                let polled = future.as_mut().poll(&mut poll);
                if model.admits(call) {
                    model.running.push(call);
                } else if cost <= model.limit && model.queue.len() < CAPACITY {
                    model.queue.push(call);
                    model.serve();
                }
                match polled {
                    Poll::Ready(Ok(permit)) => permits.push((id, permit)),
                    Poll::Ready(Err(_)) => {}
                    Poll::Pending => waiting.push((id, future)),
                }
            }
            Step::Release(which) if !permits.is_empty() => {
                let (id, permit) = permits.swap_remove(which % permits.len());
                drop(permit);
                model.running.retain(|call| call.id != id);
                model.serve();
            }
            Step::Cancel(which) if !waiting.is_empty() => {
                let (id, future) = waiting.swap_remove(which % waiting.len());
                drop(future);
                model.queue.retain(|call| call.id != id);
                model.running.retain(|call| call.id != id);
                model.serve();
            }
            Step::Resize(limit) => {
                bulkhead.set_limit(limit).unwrap();
                model.limit = limit;
                model.serve();
            }
            Step::Release(_) | Step::Cancel(_) => {}
        }
        waiting.retain_mut(|(id, future)| {
            let is = |call: &Call| call.id == *id;
            match future.as_mut().poll(&mut poll) {
                Poll::Ready(Ok(permit)) => {
                    assert!(model.running.iter().any(is));
                    permits.push((*id, permit));
                    false
                }
                Poll::Ready(Err(_)) => {
                    assert!(!model.running.iter().chain(&model.queue).any(is));
                    false
                }
                Poll::Pending => {
                    assert!(model.queue.iter().any(is));
                    true
                }
            }
        });
        let snapshot = bulkhead.snapshot();
        assert_eq!(snapshot.in_flight, model.in_flight());
        assert_eq!(snapshot.waiting, model.queue.len());
        for (index, partition) in (1..).zip(&snapshot.partitions) {
            assert_eq!(partition.in_flight, model.in_flight_of(index));
            let queued = model.queue.iter().filter(|call| call.partition == index);
            assert_eq!(partition.waiting, queued.count());
        }
        let ids = |calls: &[Call]| calls.iter().map(|call| call.id).collect::<Vec<_>>();
        let mut held: Vec<_> = permits.iter().map(|(id, _)| *id).collect();
        let mut running = ids(&model.running);
        held.sort_unstable();
        running.sort_unstable();
        assert_eq!(held, running);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn partitions_agree_with_the_model(
        steps in steps(),
        newest_first: bool,
        exceed: bool,
    ) {
        let order = if newest_first { QueueOrder::Lifo } else { QueueOrder::Fifo };
        check(order, exceed, steps);
    }
}
