//! When copies are launched, and which answer counts.

use super::*;
use backstop::{CallOptions, Pipeline, RetryBudget};

#[test]
fn a_copy_is_launched_after_the_delay_and_the_faster_answer_counts() {
    let clock = ManualClock::new();
    let hedge = hedge(&clock, 50).build().unwrap();
    assert_eq!(
        call!(&clock, &hedge, [Good(1000), Good(10)]),
        good(1, 60, &[0, 50])
    );
    assert_eq!(
        call!(&clock, &hedge, [Good(55), Good(10)]),
        good(0, 55, &[0, 50])
    );
    assert_eq!(call!(&clock, &hedge, [Good(0)]), good(0, 0, &[0]));
    // At the very instant, the first copy is asked first.
    assert_eq!(call!(&clock, &hedge, [Good(50)]), good(0, 50, &[0]));
    let seen = hedge.snapshot();
    assert_eq!(
        (seen.calls, seen.launched, seen.won, seen.lost),
        (4, 2, 1, 1)
    );
    assert_eq!((seen.in_flight, seen.extra_load()), (0, 0.5));
}

#[test]
fn a_copy_that_fails_is_followed_at_once() {
    let clock = ManualClock::new();
    let hedge = hedge(&clock, 1000).build().unwrap();
    assert_eq!(
        call!(&clock, &hedge, [Down(0), Good(10)]),
        good(1, 10, &[0, 0])
    );
    assert_eq!(
        call!(&clock, &hedge, [Down(300), Good(10)]),
        good(1, 310, &[0, 300])
    );
    assert_eq!(hedge.snapshot().saved, 2);
}

#[test]
fn each_copy_has_a_delay_of_its_own() {
    let clock = ManualClock::new();
    let delay = |copy| if copy == 1 { Duration::ZERO } else { ms(1000) };
    let hedge = Hedge::builder()
        .after_with(delay)
        .max_hedges(2)
        .clock(clock.clone());
    let hedge = hedge.build().unwrap();
    let seen = call!(&clock, &hedge, [Hang, Hang, Good(5)]);
    assert_eq!(seen, good(2, 1005, &[0, 0, 1000]));
}

#[test]
fn delays_of_zero_launch_all_copies_at_once() {
    let clock = ManualClock::new();
    let hedge = hedge(&clock, 0).max_hedges(3).build().unwrap();
    let seen = call!(&clock, &hedge, [Hang, Good(20), Good(10), Hang]);
    assert_eq!(seen, good(2, 10, &[0, 0, 0, 0]));
    assert_eq!((hedge.snapshot().won, hedge.snapshot().lost), (1, 2));
}

#[test]
fn without_a_delay_copies_follow_failures_only() {
    let clock = ManualClock::new();
    let hedge = Hedge::builder()
        .after(Duration::MAX)
        .max_hedges(2)
        .clock(clock.clone());
    let hedge = hedge.build().unwrap();
    assert_eq!(call!(&clock, &hedge, [Good(9999)]), good(0, 9999, &[0]));
    let seen = call!(&clock, &hedge, [Down(5), Down(5), Good(5)]);
    assert_eq!(seen, good(2, 15, &[0, 5, 10]));
}

#[test]
fn the_next_delay_counts_from_the_last_launch() {
    let clock = ManualClock::new();
    let hedge = hedge(&clock, 100).max_hedges(3).build().unwrap();
    let seen = call!(&clock, &hedge, [Hang, Down(30), Hang, Good(1)]);
    assert_eq!(seen, good(3, 231, &[0, 100, 130, 230]));
}

#[test]
fn a_copy_that_fails_does_not_end_the_call_while_another_runs() {
    let clock = ManualClock::new();
    let hedge = hedge(&clock, 50).build().unwrap();
    assert_eq!(
        call!(&clock, &hedge, [Good(200), Down(10)]),
        good(0, 200, &[0, 50])
    );
    assert_eq!(
        call!(&clock, &hedge, [Down(60), Good(100)]),
        good(1, 150, &[0, 50])
    );
    let seen = hedge.snapshot();
    assert_eq!((seen.won, seen.saved, seen.lost), (0, 1, 1));
}

#[test]
fn when_all_copies_fail_the_last_error_is_returned_and_the_others_are_reported() {
    let clock = ManualClock::new();
    let hedge = hedge(&clock, 50).max_hedges(2).build().unwrap();
    let seen = call!(&clock, &hedge, [Down(70), Down(60), Down(90)]);
    assert_eq!(seen, bad(Fault::Down(2), 160, &[0, 50, 70]));
    assert_eq!(hedge.snapshot().lost, 2);

    let number = Cell::new(0);
    let report = clock.block_on(hedge.call_reported(|| {
        let copy = number.replace(number.get() + 1);
        async move { if copy == 2 { Ok(()) } else { Err(copy) } }
    }));
    assert_eq!((report.result, report.attempts), (Ok(()), 3));
    assert_eq!(report.last_error, Some(1));
}

#[test]
fn the_verdict_decides_what_a_good_answer_is() {
    let clock = ManualClock::new();
    let stack = (hedge(&clock, 50).build().unwrap(), classify());
    // The caller's fault is an answer.
    let seen = call!(&clock, &stack, [Bad(10, Fault::Forbidden)]);
    assert_eq!(seen, bad(Fault::Forbidden, 10, &[0]));
    let seen = call!(&clock, &stack, [Hang, Bad(10, Fault::Forbidden)]);
    assert_eq!(seen, bad(Fault::Forbidden, 60, &[0, 50]));
    // A fault that no retry cures is none, but no further copy is launched.
    assert_eq!(
        call!(&clock, &stack, [Bad(10, Fault::Final)]),
        bad(Fault::Final, 10, &[0])
    );
    let seen = call!(&clock, &stack, [Good(200), Bad(10, Fault::Final)]);
    assert_eq!(seen, good(0, 200, &[0, 50]));
    // A value may be bad.
    let by = Classify::by(|result: Result<&usize, &Error<Fault>>| match result {
        Ok(0) => Verdict::transient(),
        _ => Verdict::success(),
    });
    let stack = (hedge(&clock, 50).build().unwrap(), by);
    assert_eq!(
        call!(&clock, &stack, [Good(10), Good(10)]),
        good(1, 20, &[0, 10])
    );
}

#[test]
fn a_call_that_must_not_run_twice_has_no_copies() {
    let clock = ManualClock::new();
    let pipeline = Pipeline::new(hedge(&clock, 50).build().unwrap());
    for options in [
        CallOptions::new().idempotent(false),
        CallOptions::new().repeatable(false),
    ] {
        let once = pipeline.with(options);
        assert_eq!(call!(&clock, &once, [Good(200)]), good(0, 200, &[0]));
        assert_eq!(
            call!(&clock, &once, [Down(10)]),
            bad(Fault::Down(0), 10, &[0])
        );
    }
}

#[test]
fn a_copy_has_no_copies() {
    let clock = ManualClock::new();
    let stack = (
        hedge(&clock, 50).build().unwrap(),
        hedge(&clock, 20).build().unwrap(),
    );
    // The first copy of the outer one is hedged by the inner one, the other is not.
    let seen = call!(&clock, &stack, [Hang, Hang, Good(100)]);
    assert_eq!(seen, good(2, 150, &[0, 20, 50]));
}

#[test]
fn no_call_is_hedged_while_the_dependency_throttles() {
    let clock = ManualClock::new();
    let hedge = hedge(&clock, 50).throttled_pause(ms(100)).build().unwrap();
    let stack = (&hedge, classify());
    let busy = |after| Bad(10, Fault::Busy(after));
    assert_eq!(
        call!(&clock, &stack, [busy(500)]),
        bad(Fault::Busy(500), 10, &[0])
    );
    // 10 ms of the 500 have passed.
    assert_eq!(call!(&clock, &stack, [Good(400)]), good(0, 400, &[0]));
    assert_eq!(hedge.snapshot().not_sent, 1);
    // At 450 ms of 510: due at 500.
    clock.advance(ms(40));
    assert_eq!(call!(&clock, &stack, [Good(400)]), good(0, 400, &[0]));
    assert_eq!(
        call!(&clock, &stack, [Good(400), Good(1)]),
        good(1, 51, &[0, 50])
    );
    // Copies in flight go on.
    let seen = call!(&clock, &stack, [Good(200), busy(0)]);
    assert_eq!(seen, good(0, 200, &[0, 50]));
    // Without a hint.
    let stack = (
        &hedge,
        Classify::errors(|_: &Fault| Verdict::throttled(None)),
    );
    assert_eq!(
        call!(&clock, &stack, [Down(0)]),
        bad(Fault::Down(0), 0, &[0])
    );
    assert_eq!(call!(&clock, &stack, [Good(60)]), good(0, 60, &[0]));
    assert_eq!(
        call!(&clock, &stack, [Good(60), Good(1)]),
        good(1, 51, &[0, 50])
    );
}

#[test]
fn an_empty_budget_launches_nothing_and_cancels_nothing() {
    let clock = ManualClock::new();
    let budget = RetryBudget::tokens().capacity(14).build().unwrap();
    let hedge = hedge(&clock, 50)
        .max_hedges(3)
        .budget(budget.clone())
        .build()
        .unwrap();
    // The first copy takes all of it; the second one is not launched, and the first goes on.
    let seen = call!(&clock, &hedge, [Hang, Good(500)]);
    assert_eq!(seen, good(1, 550, &[0, 50]));
    assert_eq!(hedge.snapshot().not_sent, 1);
    // A success gives back what its last copy has paid.
    assert_eq!(budget.snapshot().available, 14.0);
}

#[test]
fn a_copy_is_not_launched_after_the_deadline() {
    let clock = ManualClock::new();
    for (limit, starts) in [(50, &[0][..]), (51, &[0, 50])] {
        let stack = (timeout(&clock, limit), hedge(&clock, 50).build().unwrap());
        let seen = call!(&clock, &stack, [Hang, Hang]);
        assert!(seen.result.unwrap_err().is_timeout());
        assert_eq!((seen.millis, &*seen.starts), (limit, starts));
    }
}

#[test]
fn an_attempt_that_times_out_is_a_copy_that_is_lost() {
    let clock = ManualClock::new();
    let stack = (hedge(&clock, 80).build().unwrap(), timeout(&clock, 100));
    assert_eq!(
        call!(&clock, &stack, [Hang, Good(70)]),
        good(1, 150, &[0, 80])
    );
    let seen = call!(&clock, &stack, [Hang, Hang]);
    assert!(seen.result.unwrap_err().is_timeout());
    assert_eq!(seen.millis, 180);
}
