//! Under loom: the probe that is due goes to one caller.

use std::time::Duration;

use loom::sync::Arc;
use loom::thread;

use super::state::{Decision, Rule, State};
use crate::instant::Instant;

fn always_refusing() -> State {
    let rule = Rule {
        success_threshold: 1.0,
        aggression: 1.0,
        max_rejection: 1.0,
        min_requests: 1,
        min_rps: 0.0,
    };
    let second = Duration::from_secs(1);
    let state = State::new(rule, second, 1, Duration::ZERO, second / 10);
    state.record(false, Instant::ORIGIN);
    state
}

#[test]
fn loom_one_of_two_callers_gets_the_probe() {
    loom::model(|| {
        let state = Arc::new(always_refusing());
        let now = Instant::ORIGIN + Duration::from_millis(200);
        let decide = move |state: &State| state.decide(now, || 0.0);
        let other = {
            let state = state.clone();
            thread::spawn(move || decide(&state))
        };
        let here = decide(&state);
        let there = other.join().unwrap();
        let probes = [here, there]
            .into_iter()
            .filter(|d| matches!(d, Decision::Probe { .. }));
        assert_eq!(probes.count(), 1, "{here:?} {there:?}");
    });
}

#[test]
fn loom_calls_that_end_at_once_are_counted_once() {
    loom::model(|| {
        let state = Arc::new(always_refusing());
        let slices = [state.begin(Instant::ORIGIN), state.begin(Instant::ORIGIN)];
        let other = {
            let state = state.clone();
            thread::spawn(move || state.end(slices[0], Some(true)))
        };
        state.end(slices[1], None);
        other.join().unwrap();
        let seen = state.seen(Instant::ORIGIN);
        assert_eq!((seen.requests, seen.accepts, seen.failures), (2, 1, 1));
        assert_eq!(seen.pending, 0);
    });
}
