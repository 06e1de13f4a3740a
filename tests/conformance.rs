//! Replays scenario files taken from other systems' own test suites against backstop.
//!
//! `cargo test --test conformance -- --nocapture` prints one line for each file of
//! `tests/conformance/*.json`, the reasons for what does not pass, and the sum as its last line.
//! The variable `CONFORMANCE_DIR` names another directory, absolute or relative to the package.
//!
//! How the files look and how to write an adapter: `tests/conformance/harness.rs`.

#[path = "conformance/accrual.rs"]
mod accrual;
#[path = "conformance/aws_adaptive_rate.rs"]
mod aws_adaptive_rate;
#[path = "conformance/aws_retry.rs"]
mod aws_retry;
#[path = "conformance/breakers.rs"]
mod breakers;
#[path = "conformance/bucket4j.rs"]
mod bucket4j;
#[path = "conformance/clock.rs"]
mod clock;
#[path = "conformance/cycles.rs"]
mod cycles;
#[path = "conformance/delays.rs"]
mod delays;
#[path = "conformance/envoy_gradient.rs"]
mod envoy_gradient;
#[path = "conformance/failsafe_go_breaker.rs"]
mod failsafe_go_breaker;
#[path = "conformance/failsafe_limiter.rs"]
mod failsafe_limiter;
#[path = "conformance/fields.rs"]
mod fields;
#[path = "conformance/finagle_budget.rs"]
mod finagle_budget;
#[path = "conformance/folly_codel.rs"]
mod folly_codel;
#[path = "conformance/gcra.rs"]
mod gcra;
#[path = "conformance/golang_rate.rs"]
mod golang_rate;
#[path = "conformance/grpc_throttling.rs"]
mod grpc_throttling;
#[path = "conformance/harness.rs"]
mod harness;
#[path = "conformance/harness_tests.rs"]
mod harness_tests;
#[path = "conformance/limits.rs"]
mod limits;
#[path = "conformance/netflix_limits.rs"]
mod netflix_limits;
#[path = "conformance/polly_breakers.rs"]
mod polly_breakers;
#[path = "conformance/polly_v8_retry.rs"]
mod polly_v8_retry;
#[path = "conformance/resilience4j_breaker.rs"]
mod resilience4j_breaker;
#[path = "conformance/resilience4j_interval.rs"]
mod resilience4j_interval;
#[path = "conformance/sliding_windows.rs"]
mod sliding_windows;
#[path = "conformance/throttler.rs"]
mod throttler;

use std::path::PathBuf;

use harness::{Adapter, run_directory};

/// Who speaks which dialect. Several may accept a file: the first that can express a scenario
/// decides about it.
const ADAPTERS: &[Adapter] = &[
    accrual::FINAGLE,
    accrual::LINKERD,
    aws_adaptive_rate::ADAPTER,
    aws_retry::ADAPTER,
    envoy_gradient::ADAPTER,
    failsafe_go_breaker::ADAPTER,
    failsafe_go_breaker::STATS,
    bucket4j::ADAPTER,
    cycles::FAILSAFE,
    cycles::RESILIENCE4J,
    failsafe_limiter::ADAPTER,
    finagle_budget::ADAPTER,
    gcra::ADAPTER,
    golang_rate::ADAPTER,
    folly_codel::ADAPTER,
    grpc_throttling::ADAPTER,
    netflix_limits::ADAPTER,
    polly_breakers::V7,
    polly_v8_retry::ADAPTER,
    polly_breakers::V8,
    resilience4j_breaker::ADAPTER,
    resilience4j_breaker::WINDOWS,
    resilience4j_interval::ADAPTER,
    sliding_windows::ADAPTER,
    throttler::ENVOY,
    throttler::FAILSAFE_GO,
];

#[test]
fn scenarios() {
    let directory = match std::env::var_os("CONFORMANCE_DIR") {
        Some(directory) if !directory.is_empty() => PathBuf::from(directory),
        _ => PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/conformance")),
    };
    let report = run_directory(&directory, ADAPTERS);
    // In one piece, so that no other test prints into it; the line break ends libtest's own line.
    print!("\n{report}");
    assert!(report.is_good(), "the conformance scenarios do not hold");
}
