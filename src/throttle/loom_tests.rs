use std::time::Duration;

use loom::sync::Arc;
use loom::thread;

use super::state::{Admission, RejectionRule, State};
use crate::instant::Instant;

fn always_rejecting() -> State {
    let rule = RejectionRule {
        success_threshold: 1.0,
        aggression: 1.0,
        max_rejection: 1.0,
        min_calls: 1,
        min_calls_per_second: 0.0,
    };
    let second = Duration::from_secs(1);
    let state = State::new(rule, second, 1, Duration::ZERO, second / 10);
    state.record(false, Instant::ORIGIN);
    state
}

#[test]
fn loom_one_of_two_racing_calls_becomes_the_probe() {
    loom::model(|| {
        let state = Arc::new(always_rejecting());
        let now = Instant::ORIGIN + Duration::from_millis(200);
        let admit = move |state: &State| state.admit(now, || 0.0);
        let other = {
            let state = state.clone();
            thread::spawn(move || admit(&state))
        };
        let here = admit(&state);
        let there = other.join().unwrap();
        let probes = [here, there]
            .into_iter()
            .filter(|admission| matches!(admission, Admission::Probe { .. }));
        assert_eq!(probes.count(), 1, "{here:?} {there:?}");
    });
}

#[test]
fn loom_results_that_race_are_counted_once() {
    loom::model(|| {
        let state = Arc::new(always_rejecting());
        let slices = [state.start(Instant::ORIGIN), state.start(Instant::ORIGIN)];
        let other = {
            let state = state.clone();
            thread::spawn(move || state.finish(slices[0], Some(true)))
        };
        state.finish(slices[1], None);
        other.join().unwrap();
        let totals = state.totals(Instant::ORIGIN);
        assert_eq!(
            (totals.requests, totals.accepts, totals.failures),
            (2, 1, 1)
        );
        assert_eq!(totals.in_flight, 0);
    });
}
