//! Random pipelines of six policies on virtual time: every call ends, every permit returns, no limit is
//! exceeded, and the same seed gives the same trace.
//!
//! `PROPTEST_CASES=10000 cargo test --all-features --test composition pipelines` runs more of them.

mod layers;
mod world;

use std::time::Duration;

use proptest::prelude::*;

use self::layers::{LayerPlan, layer_plans};
use self::world::{CallPlan, Trace, World, call_plans};
use super::ms;

/// Number of layers of a pipeline.
const LAYERS: usize = 6;

/// Runs the calls through a pipeline of these layers, and checks what must hold in every one.
fn run(seed: u64, layers: &[LayerPlan], calls: &[CallPlan]) -> Result<Trace, TestCaseError> {
    let world = World::new(seed, layers, calls);
    world.run();
    let trace = world.trace();
    for broken in world.broken() {
        prop_assert!(false, "{broken}\n{trace}");
    }
    prop_assert_eq!(world.ended(), calls.len(), "calls that ended\n{}", trace);
    Ok(trace)
}

fn cases(default: u32) -> ProptestConfig {
    let cases = std::env::var("PROPTEST_CASES").ok();
    let cases = cases
        .and_then(|cases| cases.parse().ok())
        .unwrap_or(default);
    ProptestConfig {
        cases,
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}

proptest! {
    #![proptest_config(cases(200))]

    #[test]
    fn every_call_ends_every_permit_returns_and_no_limit_is_exceeded(
        seed in any::<u64>(),
        layers in layer_plans(LAYERS),
        calls in call_plans(),
    ) {
        let first = run(seed, &layers, &calls)?;
        let second = run(seed, &layers, &calls)?;
        prop_assert_eq!(first, second, "the same seed gives the same trace");
    }
}

#[test]
fn the_checks_can_fail() {
    // A limit of one, and a call that is let past the bulkhead.
    let calls = [CallPlan::good(0, 50), CallPlan::good(10, 50)];
    let layers = [LayerPlan::bulkhead(1, 0)];
    assert!(run(1, &layers, &calls).is_ok());
    let world = World::new(1, &layers, &calls);
    world.claim_limit(0, 0);
    world.run();
    assert_eq!(world.broken().len(), 1, "{:?}", world.broken());
    // A permit that does not come back.
    let world = World::new(1, &layers, &calls);
    world.run_and_forget(Duration::from_millis(20));
    assert!(!world.broken().is_empty());
    let trace = run(1, &layers, &calls).unwrap();
    assert_ne!(trace, run(1, &layers, &[CallPlan::good(0, 51)]).unwrap());
    let _ = ms(0);
}
