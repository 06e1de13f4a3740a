//! Which layer is outside which: pairs, by the outer one, and the usual stack.

use backstop::event::Ending::{Failed, Succeeded, TimedOut};
use backstop::{Attempt, Classify, Error, ManualClock, Pipeline, Policy, Verdict};

use super::Does::{Bad, Good, Hang};
use super::Fault::{self, Busy, Down, Forbidden};
use super::{all_are, classify, retry, timeout};

#[test]
fn timeouts_nest_and_the_earliest_wins() {
    for (outer, inner) in [(100, 300), (300, 100), (100, 100)] {
        given! {
            |c| (timeout(c, outer), timeout(c, inner)) => {
                [Hang] => TimedOut, 1, 100;
                [Good(99)] => Succeeded, 1, 99;
                // At the very instant, the operation is asked first.
                [Good(100)] => Succeeded, 1, 100;
                [Good(101)] => TimedOut, 1, 100;
            }
        }
    }
}

#[test]
fn a_timeout_limits_the_retries_inside() {
    given! {
        |c| (timeout(c, 250), retry(c)) => {
            [Hang] => TimedOut, 1, 250;
            [Bad(0, Down), Good(10)] => Succeeded, 2, 110;
            // The second attempt begins at 100 ms. The third would at 300 ms: no layer waits for it.
            [Bad(0, Down)] => Failed, 2, 100;
            [Bad(0, Down), Hang] => TimedOut, 2, 250;
        }
    }
}

#[test]
fn a_retry_repeats_what_timed_out_inside() {
    given! {
        |c| (retry(c), timeout(c, 50)) => {
            [Hang, Good(10)] => Succeeded, 2, 160;
            [Hang, Bad(10, Down), Good(49)] => Succeeded, 3, 409;
        }
    }
}

#[test]
fn when_every_attempt_times_out_the_call_returns_an_error() {
    given! {
        |c| (retry(c), timeout(c, 50)) => { [Hang] => TimedOut, 3, 450; }
        |c| (timeout(c, 1000), retry(c), timeout(c, 50)) => { [Hang] => TimedOut, 3, 450; }
        |c| (timeout(c, 60), retry(c), timeout(c, 50)) => { [Hang] => TimedOut, 1, 50; }
    }
}

#[test]
fn a_retry_follows_the_classifier_inside() {
    given! {
        |c| (retry(c), classify()) => {
            [Bad(0, Forbidden)] => Failed, 1, 0;
            [Bad(0, Down), Bad(0, Forbidden)] => Failed, 2, 100;
            [Bad(0, Busy(700)), Good(0)] => Succeeded, 2, 700;
        }
    }
}

#[test]
fn a_classifier_outside_a_retry_comes_too_late_for_it() {
    given! {
        |c| (classify(), retry(c)) => {
            [Bad(0, Forbidden)] => Failed, 3, 300;
            [Bad(0, Busy(700)), Good(0)] => Succeeded, 2, 100;
        }
    }
}

#[test]
fn a_classifier_sees_only_the_timeouts_inside_it() {
    let permanent = || all_are(Verdict::permanent());
    given! {
        |c| (retry(c), permanent(), timeout(c, 50)) => { [Hang] => TimedOut, 1, 50; }
        |c| (retry(c), timeout(c, 50), permanent()) => { [Hang] => TimedOut, 3, 450; }
    }
}

#[test]
fn of_two_classifiers_the_outer_one_has_the_last_word() {
    let (yes, no) = (Verdict::transient(), Verdict::permanent());
    given! {
        |c| (retry(c), all_are(yes), all_are(no)) => { [Bad(0, Down)] => Failed, 3, 300; }
        |c| (retry(c), all_are(no), all_are(yes)) => { [Bad(0, Down)] => Failed, 1, 0; }
    }
}

#[test]
fn only_the_errors_that_retry_if_names_are_retried() {
    given! {
        |c| (retry(c), Classify::retry_if(|fault: &Fault| *fault == Forbidden)) => {
            [Bad(0, Down)] => Failed, 1, 0;
            [Bad(0, Forbidden)] => Failed, 3, 300;
        }
    }
}

#[test]
fn a_classifier_sees_the_number_of_the_attempt() {
    given! {
        |c| (retry(c), Classify::by_attempt(|result: Result<&(), &Error<Fault>>, attempt: Attempt| match result {
            Ok(_) => Verdict::success(),
            Err(_) if attempt.number() < 2 => Verdict::transient(),
            Err(_) => Verdict::permanent(),
        })) => {
            [Bad(0, Down)] => Failed, 2, 100;
        }
    }
}

#[test]
fn nested_retries_multiply_and_the_check_says_so() {
    given! {
        // Three times 300 ms inside, and 100 ms and 200 ms outside.
        |c| (retry(c), retry(c)) => { [Bad(0, Down)] => Failed, 9, 1200; }
    }
    let clock = ManualClock::new();
    let found = Pipeline::new((retry(&clock), retry(&clock))).check();
    assert_eq!(found.len(), 1);
}

#[test]
fn the_usual_stack() {
    given! {
        |c| (timeout(c, 1000), retry(c), timeout(c, 200), classify()) => {
            [Good(0)] => Succeeded, 1, 0;
            [Good(201)] => TimedOut, 3, 900;
            [Hang, Good(150)] => Succeeded, 2, 450;
            [Bad(20, Forbidden)] => Failed, 1, 20;
            [Bad(0, Busy(999)), Good(0)] => Succeeded, 2, 999;
        }
    }
}
