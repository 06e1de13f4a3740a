//! Calls of any cost, answers that are late or never come, and processes that are killed.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use backstop::shared_bulkhead::Permit;
use backstop::store::Fault;
use backstop::{Rejected, SharedBulkhead};
use proptest::prelude::*;

use super::{fleet, process};

#[derive(Clone, Debug)]
enum Step {
    /// A call of a process and of this cost, which waits for permits or not.
    Call(usize, u64, bool),
    Cancel(usize),
    Release(usize),
    Advance(u64),
    Latency(u64),
    Fault(Option<Fault>),
    Kill(usize),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (0_usize..4, prop_oneof![3 => 1_u64..3, 1 => 1_u64..13], any::<bool>())
            .prop_map(|(process, cost, waits)| Step::Call(process, cost, waits)),
        2 => (0_usize..64).prop_map(Step::Cancel),
        5 => (0_usize..64).prop_map(Step::Release),
        6 => (1_u64..60).prop_map(Step::Advance),
        1 => (500_u64..4000).prop_map(Step::Advance),
        1 => (0_u64..60).prop_map(Step::Latency),
        1 => prop_oneof![
            2 => Just(None),
            1 => Just(Some(Fault::Fail)),
            1 => Just(Some(Fault::LoseReplies)),
            1 => Just(Some(Fault::Stall)),
        ].prop_map(Step::Fault),
        1 => (0_usize..4).prop_map(Step::Kill),
    ]
}

type Call = Pin<Box<dyn Future<Output = Result<Permit, Rejected>>>>;

fn call(bulkhead: &SharedBulkhead, cost: u64, waits: bool) -> Call {
    let bulkhead = bulkhead.clone();
    Box::pin(async move {
        match waits {
            true => bulkhead.acquire_n(cost).await,
            false => bulkhead.try_acquire_n(cost).await,
        }
    })
}

/// Polls the calls that wait, and keeps the permits of those that are admitted.
fn poll_calls(waiting: &mut Vec<(usize, Call)>, permits: &mut Vec<(usize, Permit)>) {
    let mut cx = Context::from_waker(Waker::noop());
    waiting.retain_mut(|(number, call)| match call.as_mut().poll(&mut cx) {
        Poll::Pending => true,
        Poll::Ready(admitted) => {
            permits.extend(admitted.ok().map(|permit| (*number, permit)));
            false
        }
    });
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn calls_of_any_cost_never_exceed_the_limit_and_all_end(
        limit in 1_u64..12,
        steps in prop::collection::vec(step(), 1..120),
    ) {
        let (clock, store, mut processes) = fleet(4, limit);
        let mut waiting: Vec<(usize, Call)> = Vec::new();
        let mut permits: Vec<(usize, Permit)> = Vec::new();
        let mut upkeep: Vec<Pin<Box<dyn Future<Output = ()>>>> = Vec::new();
        let maintain = |it: &SharedBulkhead| -> Pin<Box<dyn Future<Output = ()>>> {
            let it = it.clone();
            Box::pin(async move { it.maintain().await })
        };
        upkeep.extend(processes.iter().map(maintain));
        let mut cx = Context::from_waker(Waker::noop());
        for step in steps {
            let mut millis = 0;
            match step {
                Step::Call(number, cost, waits) => waiting.push((number, call(&processes[number], cost, waits))),
                Step::Cancel(index) if !waiting.is_empty() => drop(waiting.swap_remove(index % waiting.len())),
                Step::Release(index) if !permits.is_empty() => drop(permits.swap_remove(index % permits.len())),
                Step::Cancel(_) | Step::Release(_) => {}
                Step::Advance(time) => millis = time,
                Step::Latency(millis) => store.set_latency(Duration::from_millis(millis)),
                Step::Fault(fault) => store.set_fault(fault),
                Step::Kill(number) => {
                    // Nothing of it runs any more, so nothing is returned.
                    let (dead, alive) = permits.into_iter().partition(|(process, _)| *process == number);
                    permits = alive;
                    std::mem::forget::<Vec<(usize, Permit)>>(dead);
                    let (dead, alive) = waiting.into_iter().partition(|(process, _)| *process == number);
                    waiting = alive;
                    std::mem::forget::<Vec<(usize, Call)>>(dead);
                    let new = process(&clock, &store, limit);
                    std::mem::forget(std::mem::replace(&mut upkeep[number], maintain(&new)));
                    std::mem::forget(std::mem::replace(&mut processes[number], new));
                }
            }
            for _ in 0..=millis {
                poll_calls(&mut waiting, &mut permits);
                for maintain in &mut upkeep {
                    let _ = maintain.as_mut().poll(&mut cx);
                }
                let held: u64 = processes.iter().map(|process| process.snapshot().held).sum();
                prop_assert!(held <= limit, "{held} of {limit}");
                if millis > 0 {
                    clock.advance(Duration::from_millis(1));
                }
            }
        }
        // With the store, and calls that end, each waiter gets its permits.
        store.set_fault(None);
        store.set_latency(Duration::ZERO);
        for _ in 0..4000 {
            permits.clear();
            poll_calls(&mut waiting, &mut permits);
            for maintain in &mut upkeep {
                let _ = maintain.as_mut().poll(&mut cx);
            }
            if waiting.is_empty() {
                break;
            }
            clock.advance(Duration::from_millis(5));
        }
        prop_assert!(waiting.is_empty(), "{} calls wait for good: {processes:?}", waiting.len());
        permits.clear();
        for process in &processes {
            prop_assert_eq!(process.snapshot().in_flight, 0);
        }
    }
}
