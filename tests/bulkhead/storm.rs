//! Random configurations, and threads that do everything the API allows.

use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::pin::pin;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context as TaskContext, Waker};
use std::time::Duration;

use backstop::bulkhead::limit::{Aimd, Gradient2, Vegas};
use backstop::bulkhead::{OwnedPermit, QueueOrder};
use backstop::{Bulkhead, CallOptions, Context, ManualClock, Pipeline, Policy, Priority, Reason};

use super::stress::{Inside, until_done};

/// Number of bulkheads, or the environment variable `STORMS`.
fn storms() -> u64 {
    let asked = std::env::var("STORMS").ok().and_then(|n| n.parse().ok());
    asked.unwrap_or(if cfg!(debug_assertions) { 40 } else { 400 })
}

const THREADS: u64 = 4;
const STEPS: u64 = 400;

/// Reproducible pseudo-random numbers.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ z >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z ^ z >> 31) % sides
    }

    fn hits(&mut self, one_in: u64) -> bool {
        self.roll(one_in) == 0
    }
}

struct Storm {
    /// One handle for each partition.
    handles: Vec<Bulkhead>,
    clock: ManualClock,
    /// The largest limit of the run.
    largest: u32,
    /// Whether calls may exceed the limit.
    exceeds: bool,
    adaptive: bool,
    inside: Inside,
    /// Permits on their way to another thread.
    parcels: Mutex<Vec<OwnedPermit>>,
    served: AtomicU64,
}

impl Storm {
    fn new(dice: &mut Dice) -> Self {
        let clock = ManualClock::new();
        let largest = [1, 2, 4, 7, 16, 64][dice.roll(6) as usize];
        let mut builder = Bulkhead::builder().clock(clock.clone()).name("storm");
        let (shadow, adaptive) = (dice.hits(8), dice.hits(5));
        let mut exceeds = shadow;
        if adaptive {
            builder = match dice.roll(3) {
                0 => builder.adaptive(Aimd::builder().max(largest).build().unwrap()),
                1 => builder.adaptive(Vegas::builder().max(largest).build().unwrap()),
                _ => builder.adaptive(Gradient2::builder().max(largest).build().unwrap()),
            };
        } else {
            builder = builder.max_concurrent(largest);
        }
        if dice.roll(4) > 0 {
            builder = builder.max_waiting(1 + dice.roll(6) as usize);
            builder = match dice.roll(4) {
                0 => builder.order(QueueOrder::Lifo),
                1 => builder.order(QueueOrder::Priority),
                2 => builder.codel_default(),
                _ => builder,
            };
            if dice.hits(2) {
                builder = builder.max_wait(Duration::from_millis(1 + dice.roll(500)));
            }
        }
        let partitioned = dice.hits(3);
        if partitioned {
            builder = builder.partition("a", 0.3).partition("b", 0.5);
            if dice.hits(2) {
                builder = builder.shares_may_exceed(true);
                exceeds = true;
            }
        }
        let bulkhead = builder.shadow(shadow).build().unwrap();
        let mut handles = vec![bulkhead.clone()];
        if partitioned {
            handles.extend(["a", "b"].map(|name| bulkhead.partition(name).unwrap()));
        }
        Self {
            handles,
            clock,
            largest,
            exceeds,
            adaptive,
            inside: Inside::default(),
            parcels: Mutex::default(),
            served: AtomicU64::new(0),
        }
    }

    fn rage(&self, seed: u64) {
        std::thread::scope(|scope| {
            for thread in 0..THREADS {
                let mut dice = Dice(seed << 8 | thread);
                scope.spawn(move || (0..STEPS).for_each(|_| self.step(&mut dice)));
            }
        });
        drop(std::mem::take(&mut *self.parcels.lock().unwrap()));
        let bulkhead = &self.handles[0];
        let snapshot = bulkhead.snapshot();
        assert_eq!((snapshot.in_flight, snapshot.waiting), (0, 0));
        for partition in &snapshot.partitions {
            assert_eq!((partition.in_flight, partition.waiting), (0, 0));
        }
        assert!(self.exceeds || self.inside.most() <= self.largest);
        assert!(self.served.load(Ordering::Relaxed) > 0);
        // Cached permits are available to a call that needs all permits.
        bulkhead.set_limit(self.largest).unwrap();
        let all = Context::new().with_cost(self.largest);
        assert!(bulkhead.try_acquire_with(all).is_ok());
    }

    fn step(&self, dice: &mut Dice) {
        let bulkhead = &self.handles[dice.roll(self.handles.len() as u64) as usize];
        let cost = match dice.roll(8) {
            0 => 0,
            1 => 1 + dice.roll(u64::from(self.largest)) as u32,
            2 => [2, self.largest, self.largest + 1, u32::MAX][dice.roll(4) as usize],
            _ => 1,
        };
        // With an adaptive limit a cost is clamped, so only the permit knows the number taken.
        let counted = if self.adaptive { 0 } else { cost };
        let level = dice.roll(4) as u8;
        let cx = Context::new()
            .with_cost(cost)
            .with_priority(Priority::LOW.level(level));
        let mut noop = TaskContext::from_waker(Waker::noop());
        match dice.roll(32) {
            0 if !self.adaptive => {
                bulkhead
                    .set_limit(1 + dice.roll(u64::from(self.largest)) as u32)
                    .unwrap();
            }
            1 => self.clock.advance(Duration::from_millis(dice.roll(400))),
            2 => {
                let _ = bulkhead.set_codel(Duration::from_millis(5), Duration::from_millis(50));
                let snapshot = bulkhead.snapshot();
                assert!(snapshot.waiting <= 6);
            }
            3..=8 => {
                if let Ok(permit) = bulkhead.try_acquire_owned(cx) {
                    self.parcels.lock().unwrap().push(permit);
                }
            }
            9..=12 => self.open_a_parcel(),
            13..=16 => {
                // Cancelled in the wait queue, or while it runs.
                let pipeline = Pipeline::new(bulkhead);
                let policy = pipeline.with(CallOptions::new().cost(cost));
                let mut call = pin!(policy.call(std::future::pending::<Result<(), ()>>));
                let _ = call.as_mut().poll(&mut noop);
                std::thread::yield_now();
            }
            17 => {
                let makes = dice.hits(2);
                let explode = |now: bool| {
                    if now {
                        resume_unwind(Box::new("part of the test"));
                    }
                };
                let panics = || {
                    explode(makes);
                    async move {
                        explode(!makes);
                        Ok::<(), ()>(())
                    }
                };
                let call = || self.wait_for(bulkhead.call(panics));
                let _ = catch_unwind(AssertUnwindSafe(call));
            }
            18..=23 => {
                if let Ok(_permit) = bulkhead.try_acquire_with(cx) {
                    let _visit = self.inside.visit(counted.min(1 << 20));
                    self.served.fetch_add(1, Ordering::Relaxed);
                }
            }
            _ => match self.wait_for(bulkhead.acquire_with(cx)) {
                Ok(permit) => {
                    let visit = self.inside.visit(counted.min(1 << 20));
                    if dice.hits(4) {
                        std::thread::yield_now();
                    }
                    drop(visit);
                    if dice.hits(2) {
                        permit.success();
                    }
                    self.served.fetch_add(1, Ordering::Relaxed);
                }
                Err(rejected) => match rejected.reason() {
                    Reason::CostExceedsLimit => assert!(cost > 1 && !self.adaptive),
                    Reason::BulkheadFull | Reason::QueueTimeout => {}
                    other => panic!("{other:?}"),
                },
            },
        }
    }

    fn open_a_parcel(&self) {
        let parcel = self.parcels.lock().unwrap().pop();
        drop(parcel);
    }

    /// Runs a future whenever it is woken. Meanwhile drops permits of other threads, so that no call waits forever.
    fn wait_for<F: Future>(&self, future: F) -> F::Output {
        until_done(future, || {
            self.open_a_parcel();
            std::thread::yield_now();
        })
    }
}

#[test]
fn whatever_the_configuration_nothing_is_lost() {
    let began = std::env::var("STORM").ok().and_then(|n| n.parse().ok());
    let first = began.unwrap_or(0);
    for seed in first..first + storms() {
        let mut dice = Dice(seed);
        let storm = Storm::new(&mut dice);
        let calm = catch_unwind(AssertUnwindSafe(|| storm.rage(seed)));
        if let Err(panic) = calm {
            eprintln!("STORM={seed}: {:?}", storm.handles[0].snapshot());
            resume_unwind(panic);
        }
    }
}
