//! Replays scenarios from other systems' own test suites against backstop.
//!
//! `cargo test --test conformance -- --nocapture` prints one line for each file of `tests/conformance/*.json`, the
//! reasons for scenarios that do not pass, and the totals as the last line. The variable `CONFORMANCE_DIR` names
//! another directory, absolute or relative to the package.
//!
//! `mutated_expectations_are_noticed`, ignored by default, changes the expectations one at a time and counts the
//! changes that no adapter notices.
//!
//! `tests/conformance/harness.rs` describes the files and how to write an adapter.

mod accrual;
mod aws_adaptive_rate;
mod aws_retry;
mod breakers;
mod bucket4j;
mod buckets;
mod clock;
mod cockatiel;
mod cycles;
mod delays;
mod envoy_gradient;
mod failsafe_go_breaker;
mod failsafe_limiter;
mod fields;
mod file;
mod finagle_budget;
mod folly_codel;
mod gcra;
mod go_limits;
mod gobreaker;
mod golang_rate;
mod grpc_throttling;
mod harness;
mod harness_tests;
mod limits;
mod mutations;
mod netflix_limits;
mod polly_breakers;
mod polly_rate_limit;
mod polly_v8_retry;
mod report;
mod resilience4j_breaker;
mod resilience4j_interval;
mod sliding_windows;
mod throttler;

use std::path::PathBuf;

use harness::Adapter;
use report::run_directory;

/// All adapters. Several may accept a file; the first that can express a scenario decides.
const ADAPTERS: &[Adapter] = &[
    accrual::FINAGLE,
    accrual::LINKERD,
    aws_adaptive_rate::ADAPTER,
    aws_retry::ADAPTER,
    envoy_gradient::ADAPTER,
    failsafe_go_breaker::ADAPTER,
    failsafe_go_breaker::STATS,
    bucket4j::ADAPTER,
    cockatiel::ADAPTER,
    cycles::FAILSAFE,
    cycles::RESILIENCE4J,
    failsafe_limiter::ADAPTER,
    finagle_budget::ADAPTER,
    gcra::ADAPTER,
    go_limits::ADAPTER,
    gobreaker::ADAPTER,
    golang_rate::ADAPTER,
    folly_codel::ADAPTER,
    grpc_throttling::ADAPTER,
    netflix_limits::ADAPTER,
    polly_breakers::V7,
    polly_rate_limit::ADAPTER,
    polly_v8_retry::ADAPTER,
    polly_breakers::V8,
    resilience4j_breaker::ADAPTER,
    resilience4j_breaker::WINDOWS,
    resilience4j_interval::ADAPTER,
    sliding_windows::ADAPTER,
    throttler::ENVOY,
    throttler::FAILSAFE_GO,
];

/// Returns the directory of the scenario files.
fn directory() -> PathBuf {
    match std::env::var_os("CONFORMANCE_DIR") {
        Some(directory) if !directory.is_empty() => PathBuf::from(directory),
        _ => PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/conformance")),
    }
}

#[test]
fn scenarios() {
    let report = run_directory(&directory(), ADAPTERS);
    // A single print, so that no other test interleaves. The leading line break ends libtest's own output.
    print!("\n{report}");
    assert!(report.is_good(), "the conformance scenarios do not hold");
}
