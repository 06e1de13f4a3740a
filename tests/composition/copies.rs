//! Hedges, fallbacks, stale values, and shared executions beside the other layers.

use std::cell::Cell;
use std::future::pending;
use std::sync::{Arc, Mutex};

use backstop::event::Ending::{Cancelled, Failed, Succeeded, TimedOut};

use super::Does::{Bad, Good, Hang};
use super::Fault::{Busy, Down, Forbidden};
use super::{Fault, classify, ms, retry, timeout};
use backstop::circuit_breaker::{State, Trip};
use backstop::{
    Bulkhead, CircuitBreaker, Coalesce, Error, Event, Fallback, Hedge, ManualClock, MaybeStale,
    Pipeline, Policy, Quota, RateLimiter, Stale,
};

/// A hedge with one copy.
fn hedge(clock: &ManualClock, millis: u64) -> Hedge {
    let hedge = Hedge::builder().after(ms(millis)).clock(clock.clone());
    hedge.build().unwrap()
}

fn breaker(clock: &ManualClock) -> CircuitBreaker {
    let breaker = CircuitBreaker::builder().trip_on(Trip::consecutive(2));
    breaker.clock(clock.clone()).build().unwrap()
}

#[test]
fn a_hedge_cuts_the_tail_of_each_attempt() {
    given! {
        |c| (retry(c), hedge(c, 20), timeout(c, 50)) => {
            [Good(10)] => Succeeded, 1, 10;
            [Hang, Good(10)] => Succeeded, 2, 30;
            // Both copies hang: the second one for its own 50 ms.
            [Hang, Hang, Good(5)] => Succeeded, 3, 175;
            // A copy follows the failure at once, and the retry a while later.
            [Bad(0, Down), Bad(0, Down), Good(5)] => Succeeded, 3, 105;
            [Bad(0, Down)] => Failed, 6, 300;
        }
        |c| (timeout(c, 30), hedge(c, 20)) => {
            [Hang, Good(5)] => Succeeded, 2, 25;
            [Hang, Good(15)] => TimedOut, 2, 30;
            [Hang] => TimedOut, 2, 30;
        }
    }
}

#[test]
fn a_hedge_follows_the_classifier_inside() {
    given! {
        |c| (hedge(c, 20), classify()) => {
            [Bad(5, Forbidden)] => Failed, 1, 5;
            [Bad(5, Down), Good(5)] => Succeeded, 2, 10;
            [Bad(5, Busy(50))] => Failed, 1, 5;
            [Hang, Bad(5, Forbidden)] => Failed, 2, 25;
        }
        // A classifier outside comes too late for it.
        |c| (classify(), hedge(c, 20)) => {
            [Bad(5, Forbidden), Good(5)] => Succeeded, 2, 10;
        }
    }
}

#[test]
fn a_breaker_inside_a_hedge_sees_each_copy_and_one_outside_sees_the_call() {
    let clock = ManualClock::new();
    let (outside, inside) = (breaker(&clock), breaker(&clock));
    let stack = (&outside, hedge(&clock, 20), &inside);
    let fail = || async { Err::<(), _>(Fault::Down) };
    assert!(clock.block_on(stack.call(fail)).is_err());
    assert_eq!(
        (outside.state(), inside.state()),
        (State::Closed, State::Open)
    );
    // A loser that is dropped says nothing.
    let (outside, inside) = (breaker(&clock), breaker(&clock));
    let stack = (&outside, hedge(&clock, 20), &inside);
    for _ in 0..10 {
        let number = Cell::new(0);
        let call = stack.call(|| {
            let copy = number.replace(number.get() + 1);
            async move {
                if copy == 0 {
                    pending::<()>().await;
                }
                Ok::<_, Fault>(())
            }
        });
        clock.block_on(call).unwrap();
    }
    assert_eq!(
        (outside.state(), inside.state()),
        (State::Closed, State::Closed)
    );
}

#[test]
fn copies_take_permits_and_tokens_of_layers_inside_and_give_permits_back() {
    let clock = ManualClock::new();
    let room = Bulkhead::builder().max_concurrent(2).clock(clock.clone());
    let room = room.build().unwrap();
    let tokens = RateLimiter::builder()
        .quota(Quota::per_second(5))
        .clock(clock.clone());
    let tokens = tokens.build().unwrap();
    let stack = (hedge(&clock, 20), &room, &tokens);
    let slow = || async {
        clock.sleep(ms(50)).await;
        Ok::<_, Fault>(())
    };
    clock.block_on(stack.call(slow)).unwrap();
    assert_eq!(room.snapshot().in_flight, 0);
    assert_eq!(tokens.snapshot().available[0], 3);
}

#[test]
fn a_fallback_outside_replaces_whatever_is_left() {
    let usual = || Fallback::value(());
    given! {
        |c| (usual(), timeout(c, 250), retry(c), hedge(c, 20), timeout(c, 50), classify()) => {
            [Good(10)] => Succeeded, 1, 10;
            [Bad(0, Down)] => Succeeded, 4, 100;
            // Two attempts end at 70 and 240 ms. The third would begin too late.
            [Hang] => Succeeded, 4, 240;
            // The caller's fault is not replaced.
            [Bad(10, Forbidden)] => Failed, 1, 10;
        }
    }
}

#[test]
fn a_stale_value_comes_before_a_constant() {
    let clock = ManualClock::new();
    let stale = Stale::<u64>::builder()
        .max_age(ms(1000))
        .clock(clock.clone());
    let stale = stale.build().unwrap();
    let stack = (Fallback::value(MaybeStale::fresh(0)), &stale, retry(&clock));
    let call = |result: Result<u64, Fault>| {
        let result = clock.block_on(stack.call(|| async { result.map(MaybeStale::fresh) }));
        let value = result.unwrap();
        (*value, value.age())
    };
    assert_eq!(call(Err(Down)), (0, None));
    assert_eq!(call(Ok(7)), (7, None));
    // The retry waits for 300 ms.
    assert_eq!(call(Err(Down)), (7, Some(ms(300))));
    clock.advance(ms(500));
    assert_eq!(call(Err(Down)), (0, None));
}

#[test]
fn a_shared_execution_takes_one_permit_and_counts_once() {
    let clock = ManualClock::new();
    let pages = Coalesce::<u64, u64, Fault>::builder().clock(clock.clone());
    let pages = pages.build().unwrap();
    let (breaker, room) = (breaker(&clock), Bulkhead::builder().max_concurrent(1));
    let room = room.clock(clock.clone()).build().unwrap();
    let total = timeout(&clock, 500);
    let stack = (&total, pages.get(&7), &breaker, &room);
    let load = || async {
        clock.sleep(ms(50)).await;
        Err(Fault::Down)
    };
    let all = clock
        .block_on(async { futures::join!(stack.call(load), stack.call(load), stack.call(load)) });
    assert_eq!(
        [all.0, all.1, all.2],
        [Err(Error::Operation(Fault::Down)); 3]
    );
    assert_eq!(breaker.state(), State::Closed, "one failure and not three");
    let found = Pipeline::new((&breaker, pages.get(&7))).check();
    assert_eq!(found.len(), 1, "{found:?}");
}

#[test]
fn a_pipeline_inside_a_hedge_reports_the_attempts_of_its_own_copy() {
    let clock = ManualClock::new();
    let ends = Arc::new(Mutex::new(Vec::new()));
    let heard = ends.clone();
    let inside = Pipeline::new(retry(&clock)).observer(move |event: &Event| {
        if let Event::CallFinished {
            ending, attempts, ..
        } = event
        {
            heard.lock().unwrap().push((*ending, *attempts));
        }
    });
    let stack = (hedge(&clock, 20), inside);
    // The first copy hangs in its first attempt; the other one fails twice, and then answers.
    let result = clock.block_on(stack.call_with(|attempt| async move {
        match attempt.is_hedge() {
            false => pending().await,
            true if attempt.number() < 3 => Err(Down),
            true => Ok(()),
        }
    }));
    assert_eq!(result, Ok(()));
    let ends = ends.lock().unwrap();
    assert_eq!(*ends, [(Succeeded, 3), (Cancelled, 1)]);
}
