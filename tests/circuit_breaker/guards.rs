//! What keeps a breaker right when somebody meddles at the worst moment, and at exact instants.

use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use backstop::circuit_breaker::{HalfOpen, State, Trip};
use backstop::{Backoff, CircuitBreaker, Clock, Event, Instant, Jitter, ManualClock, Sleep};
use futures::future::select;
use futures::pin_mut;

use super::{builder, feed, ms, secs};

type Deed = Box<dyn FnOnce() + Send>;

/// A clock that does something when it is read the next time.
#[derive(Clone, Default)]
struct Meddler(Arc<Mutex<Option<Deed>>>);

impl Meddler {
    fn arm(&self, deed: impl FnOnce() + Send + 'static) {
        *self.0.lock().unwrap() = Some(Box::new(deed));
    }
}

impl fmt::Debug for Meddler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Meddler")
    }
}

impl Clock for Meddler {
    fn now(&self) -> Instant {
        let deed = self.0.lock().unwrap().take();
        if let Some(deed) = deed {
            deed();
        }
        Instant::ORIGIN
    }

    fn sleep_until(&self, _: Instant) -> Sleep {
        Sleep::never()
    }
}

#[test]
fn a_rule_that_held_before_a_reset_opens_nothing_after_it() {
    let clock = Meddler::default();
    let breaker = CircuitBreaker::builder()
        .trip_on(Trip::consecutive(1))
        .clock(clock.clone())
        .build()
        .unwrap();
    let permit = breaker.try_acquire().unwrap();
    let meddler = breaker.clone();
    // Between the count of the failure and the opening the time is asked for.
    clock.arm(move || meddler.reset());
    permit.failure();
    assert!(clock.0.lock().unwrap().is_none(), "the deed was done");
    assert_eq!(breaker.state(), State::Closed);
    assert_eq!(breaker.snapshot().trips, 0);
}

#[test]
fn a_reset_while_the_break_is_computed_wins() {
    let clock = ManualClock::new();
    let handle: Arc<Mutex<Option<CircuitBreaker>>> = Arc::default();
    let breaker = {
        let handle = handle.clone();
        CircuitBreaker::builder()
            .trip_on(Trip::consecutive(1))
            .break_with(move |_, _| {
                let breaker = handle.lock().unwrap().take();
                if let Some(breaker) = breaker {
                    breaker.reset();
                }
                secs(5)
            })
            .clock(clock.clone())
            .build()
            .unwrap()
    };
    *handle.lock().unwrap() = Some(breaker.clone());
    feed(&breaker, &clock, "x");
    assert_eq!(breaker.state(), State::Closed);
    assert_eq!(breaker.snapshot().trips, 0);
    feed(&breaker, &clock, "x");
    assert_eq!(breaker.state(), State::Open);
}

#[test]
fn a_health_check_of_one_break_does_not_end_the_next() {
    let clock = ManualClock::new();
    let breaker = builder(&clock).build().unwrap();
    clock.block_on(async {
        let check = breaker.probe_with(secs(60), || async {
            clock.sleep(secs(3)).await;
            Ok::<(), ()>(())
        });
        let work = async {
            breaker.trip();
            clock.sleep(secs(1)).await;
            breaker.reset();
            breaker.trip();
            // The check that began in the first break ends at 3 s, the one after it at 6 s.
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
fn the_half_open_time_ends_at_its_exact_instant() {
    let clock = ManualClock::new();
    let breaker = builder(&clock)
        .trip_on(Trip::consecutive(1))
        .half_open(HalfOpen::successes(1))
        .max_half_open(secs(1))
        .build()
        .unwrap();
    feed(&breaker, &clock, "x");
    clock.advance(secs(5));
    let _hung = breaker.try_acquire().unwrap();
    clock.advance(secs(1) - Duration::from_nanos(1));
    assert_eq!(breaker.try_acquire().unwrap_err().retry_after(), None);
    assert_eq!(breaker.state(), State::HalfOpen);
    clock.advance(Duration::from_nanos(1));
    let rejected = breaker.try_acquire().unwrap_err();
    assert_eq!(rejected.retry_after(), Some(secs(5)));
    assert_eq!(breaker.state(), State::Open);
}

#[test]
fn each_time_of_metrics_only_tells_anew_which_rules_hold() {
    let clock = ManualClock::new();
    let told = Arc::new(Mutex::new(0));
    let log = told.clone();
    let breaker = builder(&clock)
        .trip_on(Trip::consecutive(1))
        .observer(move |event: &Event| {
            if matches!(event, Event::CircuitWouldOpen { .. }) {
                *log.lock().unwrap() += 1;
            }
        })
        .build()
        .unwrap();
    // Two sets of counters take turns.
    for time in 1..=4 {
        breaker.metrics_only();
        feed(&breaker, &clock, "xx");
        assert_eq!(*told.lock().unwrap(), time);
    }
}

#[test]
fn an_average_begins_anew_with_each_closed_time() {
    let clock = ManualClock::new();
    let breaker = builder(&clock)
        .trip_on(Trip::success_average(0.8).of_last(10))
        .build()
        .unwrap();
    for _ in 0..4 {
        // All good but the last: 1 - (1 - exp(-1/10)), which is above 0.8.
        feed(&breaker, &clock, "..........x");
        assert_eq!(breaker.state(), State::Closed);
        feed(&breaker, &clock, "xx");
        assert_eq!(breaker.state(), State::Open);
        breaker.reset();
    }
}

#[test]
fn durations_of_weeks_do_not_spoil_the_window() {
    let clock = ManualClock::new();
    let breaker = builder(&clock)
        .trip_on(Trip::failure_rate(1.0).within(secs(30)).min_calls(100))
        .measure_durations(true)
        .build()
        .unwrap();
    let month = secs(30 * 24 * 3600);
    for calls in 1..=5 {
        let permit = breaker.try_acquire().unwrap();
        permit.record_taken(backstop::Verdict::success(), month);
        let snapshot = breaker.snapshot();
        assert_eq!(snapshot.calls, calls);
        // A slice holds no more than this, and says so rather than nothing.
        assert!(snapshot.total_duration.unwrap() >= secs(12 * 24 * 3600));
    }
    // A slice of the next time has room again.
    clock.advance(secs(30));
    let permit = breaker.try_acquire().unwrap();
    permit.record_taken(backstop::Verdict::success(), ms(7));
    assert_eq!(breaker.snapshot().total_duration, Some(ms(7)));
}

#[test]
fn a_break_of_no_time_admits_a_trial_at_once() {
    let clock = ManualClock::new();
    let breaker = CircuitBreaker::builder()
        .trip_on(Trip::consecutive(1))
        .break_for(Backoff::fixed(secs(5)).jitter(Jitter::None))
        .half_open(HalfOpen::successes(1))
        .clock(clock.clone())
        .build()
        .unwrap();
    breaker.trip_for(Duration::ZERO);
    assert_eq!(breaker.state(), State::Open);
    assert_eq!(breaker.peek(), State::HalfOpen);
    assert!(breaker.try_acquire().unwrap().is_probe());
}

#[test]
fn a_health_check_may_take_as_long_as_the_lease_of_a_probe() {
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
    // The first check is given up after the lease, the second one comes an interval later.
    let checks = breaker.probe_with(secs(10), check);
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
