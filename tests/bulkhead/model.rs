//! Random operations against a simple model.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context as TaskContext, Poll, Waker};

use backstop::bulkhead::{Permit, QueueOrder};
use backstop::{Bulkhead, Context, Priority, Rejected};
use proptest::prelude::*;

#[derive(Clone, Debug)]
enum Step {
    TryAcquire(u32),
    Acquire(u32, u8),
    Release(usize),
    Cancel(usize),
    Resize(u32),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        (0..4_u32).prop_map(Step::TryAcquire),
        (1..4_u32, 0..3_u8).prop_map(|(cost, level)| Step::Acquire(cost, level)),
        any::<usize>().prop_map(Step::Release),
        any::<usize>().prop_map(Step::Cancel),
        (1..8_u32).prop_map(Step::Resize),
    ];
    prop::collection::vec(step, 1..80)
}

/// The expected behavior.
#[derive(Debug)]
struct Model {
    limit: u32,
    capacity: usize,
    order: QueueOrder,
    running: Vec<(usize, u32)>,
    /// Id, cost, level.
    queue: Vec<(usize, u32, u8)>,
    rejected: Vec<usize>,
}

impl Model {
    fn in_flight(&self) -> u32 {
        self.running.iter().map(|(_, cost)| cost).sum()
    }

    fn fits(&self, cost: u32) -> bool {
        self.in_flight() + cost <= self.limit
    }

    fn serve(&mut self) {
        while !self.queue.is_empty() {
            let next = match self.order {
                QueueOrder::Lifo => self.queue.len() - 1,
                QueueOrder::Priority => {
                    let highest = self.queue.iter().map(|(_, _, level)| *level).max();
                    self.queue
                        .iter()
                        .position(|(_, _, level)| Some(*level) == highest)
                        .unwrap()
                }
                _ => 0,
            };
            let (id, cost, _) = self.queue[next];
            if cost > self.limit {
                self.rejected.push(id);
            } else if self.fits(cost) {
                self.running.push((id, cost));
            } else {
                return;
            }
            self.queue.remove(next);
        }
    }
}

type Waiting<'a> = Pin<Box<dyn Future<Output = Result<Permit<'a>, Rejected>> + 'a>>;

fn check(order: QueueOrder, capacity: usize, steps: Vec<Step>) {
    let bulkhead = Bulkhead::builder()
        .max_concurrent(4)
        .max_waiting(capacity)
        .order(order)
        .build();
    let bulkhead = bulkhead.unwrap();
    let mut model = Model {
        limit: 4,
        capacity,
        order,
        running: Vec::new(),
        queue: Vec::new(),
        rejected: Vec::new(),
    };
    let mut permits: Vec<(usize, Permit<'_>)> = Vec::new();
    let mut waiting: Vec<(usize, Waiting<'_>)> = Vec::new();
    let mut poll = TaskContext::from_waker(Waker::noop());
    for (id, step) in steps.into_iter().enumerate() {
        match step {
            Step::TryAcquire(cost) => {
                let expected = model.queue.is_empty() && model.fits(cost);
                let got = bulkhead.try_acquire_with(Context::new().with_cost(cost));
                assert_eq!(got.is_ok(), expected);
                if let Ok(permit) = got {
                    permits.push((id, permit));
                    model.running.push((id, cost));
                }
            }
            Step::Acquire(cost, level) => {
                let cx = Context::new()
                    .with_cost(cost)
                    .with_priority(Priority::LOW.level(level));
                let mut future: Waiting<'_> = Box::pin(bulkhead.acquire_with(cx));
                let polled = future.as_mut().poll(&mut poll);
                if model.queue.is_empty() && model.fits(cost) {
                    model.running.push((id, cost));
                } else if cost > model.limit || model.queue.len() >= model.capacity {
                    model.rejected.push(id);
                } else {
                    model.queue.push((id, cost, level));
                    model.serve();
                }
                match polled {
                    Poll::Ready(Ok(permit)) => permits.push((id, permit)),
                    Poll::Ready(Err(_)) => assert!(model.rejected.contains(&id)),
                    Poll::Pending => waiting.push((id, future)),
                }
            }
            Step::Release(which) if !permits.is_empty() => {
                let (id, permit) = permits.swap_remove(which % permits.len());
                drop(permit);
                model.running.retain(|(other, _)| *other != id);
                model.serve();
            }
            Step::Cancel(which) if !waiting.is_empty() => {
                let (id, future) = waiting.swap_remove(which % waiting.len());
                drop(future);
                model.running.retain(|(other, _)| *other != id);
                model.queue.retain(|(other, ..)| *other != id);
                model.serve();
            }
            Step::Resize(limit) => {
                bulkhead.set_limit(limit).unwrap();
                model.limit = limit;
                model.serve();
            }
            Step::Release(_) | Step::Cancel(_) => {}
        }
        let snapshot = bulkhead.snapshot();
        assert_eq!(snapshot.in_flight, model.in_flight());
        assert_eq!(snapshot.waiting, model.queue.len());
        // Half of the time, admitted calls are polled later.
        if id % 2 == 0 {
            let mut still = Vec::new();
            for (id, mut future) in waiting {
                match future.as_mut().poll(&mut poll) {
                    Poll::Ready(Ok(permit)) => {
                        assert!(model.running.iter().any(|(other, _)| *other == id));
                        permits.push((id, permit));
                    }
                    Poll::Ready(Err(_)) => assert!(model.rejected.contains(&id)),
                    Poll::Pending => {
                        assert!(model.queue.iter().any(|(other, ..)| *other == id));
                        still.push((id, future));
                    }
                }
            }
            waiting = still;
        }
    }
    drop(waiting);
    drop(permits);
    assert_eq!(
        (bulkhead.snapshot().in_flight, bulkhead.snapshot().waiting),
        (0, 0)
    );
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn permits_queue_and_resize_agree_with_the_model(
        steps in steps(),
        capacity in 1..6_usize,
        order in prop::sample::select(vec![
            QueueOrder::Fifo, QueueOrder::Lifo, QueueOrder::Priority,
        ]),
    ) {
        check(order, capacity, steps);
    }
}
