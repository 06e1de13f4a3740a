use std::cell::Cell;
use std::future::pending;
use std::time::Duration;

use backstop::circuit_breaker::{State, Trip};
use backstop::{Backoff, CircuitBreaker, Jitter, ManualClock, Verdict};
use futures::future::select;
use futures::pin_mut;

use super::{builder, feed, ms, secs};

#[test]
fn a_health_check_does_not_end_a_later_break() {
    let clock = ManualClock::new();
    let breaker = builder(&clock).build().unwrap();
    clock.block_on(async {
        let check = breaker.check_with(secs(60), || async {
            clock.sleep(secs(3)).await;
            Ok::<(), ()>(())
        });
        let work = async {
            breaker.trip();
            clock.sleep(secs(1)).await;
            breaker.reset();
            breaker.trip();
            // The check of the first break ends at 3 s, the next one at 6 s.
            clock.sleep(secs(4)).await;
            assert_eq!(breaker.state(), State::Open);
            clock.sleep(secs(2)).await;
            assert_eq!(breaker.state(), State::Closed);
        };
        pin_mut!(check, work);
        select(check, work).await;
    });
}

#[test]
fn a_health_check_fails_after_the_probe_lease() {
    let clock = ManualClock::new();
    let breaker = builder(&clock).probe_lease(ms(500)).build().unwrap();
    breaker.trip();
    let is_first = std::cell::Cell::new(true);
    let check = || {
        let hangs = is_first.replace(false);
        async move {
            if hangs {
                std::future::pending::<()>().await;
            }
            Ok::<_, ()>(())
        }
    };
    // The first check fails after the lease; the second one follows an interval later.
    let checks = breaker.check_with(secs(10), check);
    let look = async {
        clock.sleep(ms(10_400)).await;
        let before = breaker.state();
        clock.sleep(ms(200)).await;
        (before, breaker.state())
    };
    pin_mut!(checks, look);
    let seen = match clock.block_on(select(checks, look)) {
        futures::future::Either::Right((seen, _)) => seen,
        futures::future::Either::Left(_) => panic!("health checks never end"),
    };
    assert_eq!(seen.0, State::Open);
    assert_ne!(seen.1, State::Open);
}

#[test]
fn a_health_check_replaces_probes() {
    let clock = ManualClock::new();
    let breaker = builder(&clock)
        .trip_on(Trip::consecutive(1))
        .build()
        .unwrap();
    let checks = Cell::new(0);
    let healthy_after = secs(30);
    clock.block_on(async {
        let check = breaker.check_with(secs(10), || {
            checks.set(checks.get() + 1);
            let hangs = checks.get() == 2;
            let is_healthy = backstop::Clock::now(&clock).as_nanos() >= nanos(healthy_after);
            async move {
                if hangs {
                    pending::<()>().await;
                }
                if is_healthy { Ok(()) } else { Err(()) }
            }
        });
        let work = async {
            feed(&breaker, &clock, "x");
            clock.sleep(secs(8)).await;
            // The break is over, but probes are suspended.
            let rejected = breaker.try_acquire().unwrap_err();
            assert_eq!(rejected.retry_after(), None);
            clock.sleep(secs(22)).await;
            assert_eq!(breaker.state(), State::Open);
            clock.sleep(secs(2)).await;
            assert_eq!(breaker.state(), State::Closed);
            feed(&breaker, &clock, "x");
        };
        pin_mut!(check, work);
        select(check, work).await;
    });
    // At 0 s, at 10 s (fails after 11 s), and at 31 s.
    assert_eq!(checks.get(), 3);
    assert_eq!(clock.sleepers(), 0);
    clock.advance(secs(5));
    assert!(breaker.try_acquire().is_ok(), "probes are admitted again");
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap()
}

#[test]
fn a_health_check_ends_neither_a_pause_nor_a_break_that_a_server_asked_for() {
    type Begin = fn(&CircuitBreaker);
    let begins: [Begin; 4] = [
        |breaker| breaker.pause_for(secs(30)),
        |breaker| breaker.trip_for(secs(30)),
        |breaker| {
            let permit = breaker.try_acquire().unwrap();
            permit.record(Verdict::throttled(secs(30)));
        },
        // Within a break that is longer.
        |breaker| {
            breaker.trip();
            breaker.pause_for(secs(30));
        },
    ];
    for (number, begin) in begins.into_iter().enumerate() {
        let clock = ManualClock::new();
        let breaker = builder(&clock)
            .trip_on(Trip::consecutive(1))
            .break_for(Backoff::fixed(secs(20)).jitter(Jitter::None))
            .build()
            .unwrap();
        clock.block_on(async {
            let check = breaker.check_with(secs(7), || async { Ok::<(), ()>(()) });
            let work = async {
                begin(&breaker);
                clock.sleep(secs(30) - ms(1)).await;
                assert_eq!(breaker.state(), State::Open, "{number}");
                clock.sleep(ms(2)).await;
                assert_eq!(breaker.state(), State::Closed, "{number}");
            };
            pin_mut!(check, work);
            select(check, work).await;
        });
    }
}
