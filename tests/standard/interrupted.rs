//! Changes of a layer while `reconfigure` replaces it.

use backstop::circuit_breaker::CircuitBreakerBuilder;
use backstop::{Clock, Instant, Sleep};

use super::*;

/// A clock that runs a piece of code at one reading.
#[derive(Clone, Debug)]
struct Interrupted(ManualClock, Arc<Mutex<Interrupt>>);

#[derive(Default)]
struct Interrupt {
    readings: u32,
    code: Option<Box<dyn FnOnce() + Send>>,
}

impl std::fmt::Debug for Interrupt {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Interrupt")
    }
}

impl Clock for Interrupted {
    fn now(&self) -> Instant {
        let mut interrupt = self.1.lock().unwrap();
        interrupt.readings = interrupt.readings.saturating_sub(1);
        let code = match interrupt.readings {
            0 => interrupt.code.take(),
            _ => None,
        };
        drop(interrupt);
        if let Some(code) = code {
            code();
        }
        self.0.now()
    }

    fn sleep_until(&self, deadline: Instant) -> Sleep {
        self.0.sleep_until(deadline)
    }
}

impl Interrupted {
    fn at(&self, readings: u32, code: impl FnOnce() + Send + 'static) {
        let code: Box<dyn FnOnce() + Send> = Box::new(code);
        let code = Some(code);
        *self.1.lock().unwrap() = Interrupt { readings, code };
    }

    /// Runs the code unless it has run. Returns whether it had not.
    fn run_rest(&self) -> bool {
        let code = self.1.lock().unwrap().code.take();
        let is_left = code.is_some();
        code.into_iter().for_each(|code| code());
        is_left
    }
}

fn breaker(measures: bool) -> backstop::circuit_breaker::CircuitBreakerBuilder {
    CircuitBreaker::builder().measure_durations(measures)
}

#[test]
fn no_manual_change_is_lost_while_the_breaker_is_replaced() {
    type Change = fn(&CircuitBreaker);
    let nothing: Change = |_| ();
    let changes: [(&str, Change, Change, State); 6] = [
        ("trip", nothing, CircuitBreaker::trip, State::Open),
        ("disable", nothing, CircuitBreaker::disable, State::Disabled),
        ("pause", nothing, |it| it.pause_for(s(30)), State::Open),
        (
            "reset",
            CircuitBreaker::trip,
            CircuitBreaker::reset,
            State::Closed,
        ),
        (
            "close",
            CircuitBreaker::disable,
            CircuitBreaker::close,
            State::Closed,
        ),
        (
            "count",
            CircuitBreaker::trip,
            CircuitBreaker::metrics_only,
            State::MetricsOnly,
        ),
    ];
    for (name, before, change, state) in changes {
        for reading in 1.. {
            let clock = Interrupted(ManualClock::new(), Arc::default());
            let config = Config::new().breaker(breaker(false));
            let standard = Standard::builder().config(config).clock(clock.clone());
            let standard = standard.build().unwrap();
            let kept = standard.breaker().unwrap();
            before(&kept);
            let mut transitions = kept.subscribe();
            let changed = kept.clone();
            clock.at(reading, move || change(&changed));
            let config = standard.config().breaker(breaker(true));
            standard.reconfigure(config).unwrap();
            let is_over = clock.run_rest();
            let new = standard.breaker().unwrap();
            let at = format!("{name}, reading {reading}");
            assert_eq!([new.state(), kept.state()], [state; 2], "{at}");
            assert!(transitions.try_next().is_some(), "{at}");
            assert_eq!(transitions.try_next(), None, "{at}");
            new.trip_for(s(1));
            assert_eq!(new.state(), State::Open, "{at}");
            if is_over {
                assert!(reading > 3, "{at}");
                break;
            }
        }
    }
}

#[test]
fn no_pause_is_lost_while_the_limiter_is_replaced() {
    for reading in 1.. {
        let clock = Interrupted(ManualClock::new(), Arc::default());
        let config = Config::new().quota(Quota::per_second(9));
        let standard = Standard::builder().config(config).clock(clock.clone());
        let standard = standard.build().unwrap();
        let paused = standard.clone();
        clock.at(reading, move || {
            paused.limiter().unwrap().pause_for(s(30));
        });
        let sliding = Quota::per_second(9).sliding_log();
        let config = standard.config().quota(sliding);
        standard.reconfigure(config).unwrap();
        let is_over = clock.run_rest();
        let seen = standard.snapshot().limiter.unwrap();
        assert_eq!(seen.paused_for, s(30), "reading {reading}");
        assert_eq!(seen.quotas, [sliding]);
        if is_over {
            assert!(reading > 3);
            break;
        }
    }
}

#[test]
fn threads_that_change_the_circuit_and_reconfigure_lose_no_change() {
    let clock = ManualClock::new();
    let standard = standard(&clock).without_retry().breaker(breaker(false));
    let standard = standard.build().unwrap();
    let kept = standard.breaker().unwrap();
    for round in 0..200 {
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let config = standard.config();
                let changed = config.clone().breaker(breaker(round % 2 == 0));
                standard.reconfigure(changed).unwrap();
            });
            scope.spawn(|| match round % 3 {
                0 => kept.trip(),
                1 => kept.disable(),
                _ => drop(kept.isolate()),
            });
        });
        let new = standard.breaker().unwrap();
        let state = [State::Open, State::Disabled, State::Closed][round % 3];
        assert_eq!([new.state(), kept.state()], [state; 2], "round {round}");
        kept.reset();
        assert_eq!(new.state(), State::Closed);
    }
}

fn with_rules(clock: &ManualClock, rules: CircuitBreakerBuilder) -> Standard {
    let standard = standard(clock).without_retry().breaker(rules);
    standard.build().unwrap()
}

type Code = Box<dyn FnOnce() + Send>;

/// Code that runs once, when it is called.
#[derive(Clone, Default)]
struct Once(Arc<Mutex<Option<Code>>>);

impl Once {
    fn set(&self, code: impl FnOnce() + Send + 'static) {
        *self.0.lock().unwrap() = Some(Box::new(code));
    }

    fn run(&self) {
        let code = self.0.lock().unwrap().take();
        code.into_iter().for_each(|code| code());
    }
}

#[test]
fn a_trip_opens_the_breaker_that_replaces_its_own_while_the_break_is_computed() {
    let clock = ManualClock::new();
    let once = Once::default();
    let rules = || {
        let once = once.clone();
        CircuitBreaker::builder().break_with(move |_, _| {
            once.run();
            s(7)
        })
    };
    let standard = with_rules(&clock, rules());
    let first = standard.breaker().unwrap();
    let (stack, other) = (standard.clone(), rules().seed(1));
    once.set(move || {
        stack.reconfigure(stack.config().breaker(other)).unwrap();
    });
    first.trip();
    let second = standard.breaker().unwrap();
    assert_eq!(second.snapshot().retry_after, Some(s(7)));
    assert_eq!(first.snapshot(), second.snapshot());
}

#[test]
fn a_rule_and_a_break_of_user_code_may_replace_the_breaker() {
    for in_rule in [true, false] {
        let clock = ManualClock::new();
        let once = Once::default();
        let rules = || {
            let (in_trip, in_break) = (once.clone(), once.clone());
            let breaker = CircuitBreaker::builder().break_with(move |_, _| {
                if !in_rule {
                    in_break.run();
                }
                s(7)
            });
            let matches = move |counts: &backstop::circuit_breaker::Counts| {
                if in_rule {
                    in_trip.run();
                }
                counts.failures >= 2
            };
            breaker.trip_on(Trip::custom("two", matches).of_last(10).min_calls(1))
        };
        let standard = with_rules(&clock, rules());
        let mut transitions = standard.breaker().unwrap().subscribe();
        let (stack, other) = (standard.clone(), rules().seed(1));
        once.set(move || {
            stack.reconfigure(stack.config().breaker(other)).unwrap();
            panic!("after the change");
        });
        let call = || clock.block_on(standard.call(|| async { Err::<(), _>("down") }));
        let call = || std::panic::catch_unwind(std::panic::AssertUnwindSafe(call));
        if !in_rule {
            assert!(call().is_ok());
        }
        assert!(call().is_err(), "no panic");
        let second = standard.breaker().unwrap();
        assert_eq!(second.state(), State::Closed);
        // Both failures count in the new breaker.
        assert_eq!(second.snapshot().failures, 1 + u64::from(!in_rule));
        assert!(call().is_ok());
        assert_eq!(second.state(), State::Open);
        let change = transitions.try_next().unwrap();
        assert_eq!((change.from, change.to), (State::Closed, State::Open));
        assert!(transitions.try_next().is_none());
    }
}
