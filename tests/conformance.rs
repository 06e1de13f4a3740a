//! Replays scenario files taken from other systems' own test suites against backstop.
//!
//! `cargo test --test conformance -- --nocapture` prints one line for each file of
//! `tests/conformance/*.json`, the reasons for what does not pass, and the sum as its last line.
//! The variable `CONFORMANCE_DIR` names another directory, absolute or relative to the package.
//!
//! How the files look and how to write an adapter: `tests/conformance/harness.rs`.

#[path = "conformance/clock.rs"]
mod clock;
#[path = "conformance/fields.rs"]
mod fields;
#[path = "conformance/harness.rs"]
mod harness;
#[path = "conformance/harness_tests.rs"]
mod harness_tests;

use std::path::PathBuf;

use harness::{Adapter, run_directory};

/// Who speaks which dialect. Several may accept a file: the first that can express a scenario
/// decides about it.
const ADAPTERS: &[Adapter] = &[];

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
