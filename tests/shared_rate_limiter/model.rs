//! Whatever the processes, their demand and their clocks do, and whatever happens to the store: never more than
//! the rate, the burst, and what is leased.

use std::time::Duration;

use backstop::Quota;
use backstop::shared_rate_limiter::{Outage, SyncMode};
use backstop::store::Fault;
use proptest::prelude::*;

use crate::fleet::Fleet;

#[derive(Clone, Debug)]
enum Step {
    /// Lets milliseconds pass.
    Advance(u64),
    /// Calls of a node, of one cost.
    Calls {
        node: usize,
        calls: u64,
        cost: u64,
    },
    Latency(u64),
    Fault(Option<Fault>),
    LoseMemory,
    Clock(i64),
    /// The clock of a node jumps ahead by an hour.
    JumpNode(usize),
}

fn step(faults: bool) -> impl Strategy<Value = Step> {
    let normal = prop_oneof![
        4 => (1_u64..60).prop_map(Step::Advance),
        1 => (60_u64..1500).prop_map(Step::Advance),
        6 => (0_usize..4, 1_u64..40, 1_u64..4)
            .prop_map(|(node, calls, cost)| Step::Calls { node, calls, cost }),
        1 => (0_u64..30).prop_map(Step::Latency),
        1 => (0_usize..4).prop_map(Step::JumpNode),
    ];
    let fault = prop_oneof![
        Just(Step::Fault(None)),
        Just(Step::Fault(Some(Fault::Fail))),
        Just(Step::Fault(Some(Fault::Stall))),
        Just(Step::Fault(Some(Fault::LoseReplies))),
        Just(Step::LoseMemory),
        (-3_600_000_000_i64..3_600_000_000).prop_map(Step::Clock),
    ];
    match faults {
        true => prop_oneof![12 => normal, 2 => fault].boxed(),
        false => normal.boxed(),
    }
}

/// Runs the steps. Returns the fleet and the number of faults that may cost a burst.
fn simulate(quota: Quota, mode: SyncMode, outage: Outage, steps: &[Step]) -> (Fleet, u64) {
    let mut fleet = Fleet::new(4, quota, |builder| builder.sync(mode).on_outage(outage));
    let mut faults = 0;
    for step in steps {
        match *step {
            Step::Advance(millis) => fleet.advance_slowly(Duration::from_millis(millis)),
            Step::Calls { node, calls, cost } => (0..calls).for_each(|_| fleet.call(node, cost)),
            Step::Latency(millis) => fleet.store.set_latency(Duration::from_millis(millis)),
            Step::Fault(fault) => {
                faults += u64::from(fault.is_some());
                fleet.store.set_fault(fault);
            }
            Step::LoseMemory => {
                faults += 1;
                fleet.store.lose_memory();
            }
            Step::Clock(micros) => {
                faults += 1;
                fleet.store.step_clock(micros);
            }
            Step::JumpNode(node) => fleet.clocks[node].advance(Duration::from_secs(3600)),
        }
        fleet.poll();
    }
    fleet.store.set_fault(None);
    fleet.advance_slowly(Duration::from_millis(300));
    (fleet, faults)
}

/// Nanoseconds for which leased tokens may be spent, and a trip.
const LIFE: f64 = 230e6;

fn quotas() -> impl Strategy<Value = Quota> {
    (1_u64..3000, 1_u64..1000).prop_map(|(rate, burst)| Quota::per_second(rate).burst(burst))
}

fn modes() -> impl Strategy<Value = SyncMode> {
    prop_oneof![3 => Just(SyncMode::Leased), 1 => Just(SyncMode::Exact)]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn while_the_store_answers_the_limit_holds_in_every_window(
        quota in quotas(),
        mode in modes(),
        steps in prop::collection::vec(step(false), 1..60),
    ) {
        let (fleet, _) = simulate(quota, mode, Outage::Closed, &steps);
        let leased = quota.tokens() as f64 / 1e9 * LIFE;
        let bound = quota.limit() as f64 + leased + 1.0;
        prop_assert!(fleet.burst <= bound, "a burst of {} > {bound}", fleet.burst);
        prop_assert_eq!(fleet.waiting(), 0, "every call was answered");
    }

    #[test]
    fn a_fault_costs_at_most_a_burst(
        quota in quotas(),
        mode in modes(),
        steps in prop::collection::vec(step(true), 1..60),
    ) {
        let (fleet, faults) = simulate(quota, mode, Outage::Closed, &steps);
        let leased = quota.tokens() as f64 / 1e9 * LIFE;
        let bound = quota.limit() as f64 * (1 + faults) as f64 + leased + 1.0;
        prop_assert!(fleet.burst <= bound, "a burst of {} > {bound}", fleet.burst);
        prop_assert_eq!(fleet.waiting(), 0, "every call was answered");
    }

    #[test]
    fn processes_on_their_own_shares_stay_within_the_limit_of_each(
        quota in quotas(),
        steps in prop::collection::vec(step(true), 1..60),
    ) {
        // What processes know of each other's shares may be old: at worst each believes that it is alone.
        let (fleet, faults) = simulate(quota, SyncMode::Leased, Outage::OwnShare, &steps);
        for (node, admitted) in fleet.admitted.iter().enumerate() {
            let passed = backstop::Clock::now(&fleet.time).as_nanos() as f64;
            let bound = quota.tokens() as f64 / 1e9 * (passed + LIFE)
                + (quota.limit() as f64 + 1.0) * (1 + faults) as f64;
            prop_assert!(*admitted as f64 <= bound, "node {node}: {admitted} > {bound}");
        }
        prop_assert_eq!(fleet.waiting(), 0, "every call was answered");
    }
}
