//! Tests of the load shedder through its public API, against a simulated server in virtual time.

mod fairness;
mod overload;
#[path = "../simulated_server/mod.rs"]
mod server;
mod sharing;

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use backstop::load_shedder::LoadShedderBuilder;
use backstop::{
    Clock, Event, Instant, LoadShedder, ManualClock, Pipeline, Policy, Priority, Reason, Sleep,
};

const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn on(clock: &ManualClock) -> LoadShedderBuilder {
    LoadShedder::builder().clock(clock.clone()).seed(1)
}

/// Returns a signal and its value in hundredths.
fn signal() -> (Arc<AtomicU32>, impl Fn() -> f64 + Send + Sync + 'static) {
    let value = Arc::new(AtomicU32::new(0));
    let read = value.clone();
    (value, move || {
        f64::from(read.load(Ordering::SeqCst)) / 100.0
    })
}

/// Offers one call per millisecond with alternating priorities. Returns the admitted share of each priority.
fn admitted<const N: usize>(
    shedder: &LoadShedder,
    clock: &ManualClock,
    priorities: [Priority; N],
    calls: usize,
) -> [f64; N] {
    let mut counts = [0_u32; N];
    for call in 0..calls {
        clock.advance(ms(1));
        counts[call % N] += u32::from(shedder.try_acquire(priorities[call % N]).is_ok());
    }
    counts.map(|count| f64::from(count) * N as f64 / calls as f64)
}

#[test]
fn the_lowest_priorities_are_shed_first_and_none_without_overload() {
    let clock = ManualClock::new();
    let (load, read) = signal();
    let shedder = on(&clock).signal(0.8, read).build().unwrap();
    let priorities = [Priority::LOW, Priority::HIGH];
    load.store(79, Ordering::SeqCst);
    assert_eq!(admitted(&shedder, &clock, priorities, 1000), [1.0, 1.0]);
    load.store(80, Ordering::SeqCst);
    // Half a second of overload sheds up to 25 % of all calls, which is half of the low ones.
    let [low, high] = admitted(&shedder, &clock, priorities, 500);
    assert!(low < 0.9 && high == 1.0, "{low} {high}");
    let [low, high] = admitted(&shedder, &clock, priorities, 500);
    assert!(low < 0.3 && high > 0.95, "{low} {high}");
    // In the long run it sheds nine in ten.
    let [low, high] = admitted(&shedder, &clock, priorities, 4000);
    let [low, high] = [low, high].map(|share| (share * 100.0).round());
    assert!(low == 0.0 && (15.0..35.0).contains(&high), "{low} {high}");
    assert!((shedder.snapshot().shed_rate - 0.9).abs() < 1e-9);
}

#[test]
fn the_priority_of_a_single_call_makes_no_threshold() {
    let clock = ManualClock::new();
    let shedder = on(&clock).signal(0.5, || 1.0).build().unwrap();
    assert!(shedder.try_acquire(Priority::HIGHEST).is_ok());
    clock.advance(ms(100));
    // The share is 5 %, and the distribution has a single call.
    let shed = (0..99).filter(|_| shedder.try_acquire(Priority::LOW).is_err());
    assert_eq!(shed.count(), 0);
    clock.advance(ms(100));
    let shed = (0..1000).filter(|_| shedder.try_acquire(Priority::LOW).is_err());
    assert!((100..200).contains(&shed.count()), "15 %");
}

#[test]
fn max_shed_holds_when_priorities_change_between_two_updates() {
    let clock = ManualClock::new();
    let shedder = on(&clock).signal(0.5, || 1.0).build().unwrap();
    for _ in 0..500 {
        clock.advance(ms(1));
        let _ = shedder.try_acquire(Priority::HIGH);
    }
    let shed = (0..100).filter(|_| shedder.try_acquire(Priority::LOW).is_err());
    assert!(shed.count() <= 90);
}

#[test]
fn check_reports_a_shedder_outside_the_bulkhead_in_which_calls_wait() {
    let clock = ManualClock::new();
    let queue = || {
        let bulkhead = backstop::Bulkhead::builder()
            .max_concurrent(1)
            .max_waiting(9);
        bulkhead.clock(clock.clone()).build().unwrap()
    };
    let by_delay = || on(&clock).build().unwrap();
    let by_signal = on(&clock).signal(0.5, || 0.0).build().unwrap();
    let found = Pipeline::new((by_delay(), queue())).check();
    assert_eq!(found.len(), 1);
    assert!(
        found[0]
            .to_string()
            .contains("put the shedder inside the bulkhead")
    );
    assert!(Pipeline::new((queue(), by_delay())).check().is_empty());
    assert!(Pipeline::new((by_signal, queue())).check().is_empty());
}

#[test]
fn the_share_is_kept_for_the_cool_off() {
    let clock = ManualClock::new();
    let (load, read) = signal();
    let shedder = on(&clock)
        .signal(0.8, read)
        .cool_off(ms(2000))
        .build()
        .unwrap();
    load.store(100, Ordering::SeqCst);
    admitted(&shedder, &clock, [Priority::NORMAL], 1000);
    let rate = shedder.snapshot().shed_rate;
    assert!(rate > 0.4);
    load.store(0, Ordering::SeqCst);
    admitted(&shedder, &clock, [Priority::NORMAL], 1800);
    assert!((shedder.snapshot().shed_rate - rate).abs() < 1e-9);
    admitted(&shedder, &clock, [Priority::NORMAL], 10_000);
    assert_eq!(admitted(&shedder, &clock, [Priority::NORMAL], 1000), [1.0]);
}

#[test]
fn an_overload_before_a_pause_sheds_no_call_after_it() {
    let clock = ManualClock::new();
    let (load, read) = signal();
    let shedder = on(&clock).signal(0.8, read).build().unwrap();
    load.store(100, Ordering::SeqCst);
    admitted(&shedder, &clock, [Priority::LOWEST], 4000);
    assert!((shedder.snapshot().shed_rate - 0.9).abs() < 1e-9);
    load.store(0, Ordering::SeqCst);
    clock.advance(Duration::from_secs(60));
    assert_eq!(admitted(&shedder, &clock, [Priority::LOWEST], 100), [1.0]);
    // A pause shorter than the cool-off changes nothing.
    load.store(100, Ordering::SeqCst);
    admitted(&shedder, &clock, [Priority::LOWEST], 4000);
    load.store(0, Ordering::SeqCst);
    clock.advance(ms(800));
    admitted(&shedder, &clock, [Priority::LOWEST], 50);
    assert!((shedder.snapshot().shed_rate - 0.9).abs() < 1e-9);
}

#[test]
fn a_signal_that_flaps_within_the_cool_off_counts_as_overload() {
    let clock = ManualClock::new();
    let (load, read) = signal();
    let shedder = on(&clock).signal(0.8, read).build().unwrap();
    let mut before = 0.0;
    for half in 0..40 {
        load.store(100 * (half % 2), Ordering::SeqCst);
        admitted(&shedder, &clock, [Priority::NORMAL], 500);
        let rate = shedder.snapshot().shed_rate;
        assert!(rate >= before, "{before} to {rate}");
        before = rate;
    }
    assert!((before - 0.9).abs() < 1e-9);
}

#[test]
fn shadow_mode_counts_and_reports_without_rejecting() {
    let clock = ManualClock::new();
    let heard = Arc::new(Mutex::new(Vec::new()));
    let log = heard.clone();
    let observer = move |event: &Event| log.lock().unwrap().push(event.kind());
    let shadow = on(&clock)
        .signal(0.5, || 1.0)
        .shadow(true)
        .observer(observer)
        .build()
        .unwrap();
    assert_eq!(admitted(&shadow, &clock, [Priority::LOW], 2000), [1.0]);
    let would_reject = shadow.snapshot().would_reject;
    assert!(would_reject > 500);
    let heard = heard.lock().unwrap();
    assert!(heard.len() as u64 == would_reject && heard.iter().all(|kind| *kind == "would_reject"));

    let shedder = on(&clock)
        .signal(0.5, || 1.0)
        .max_shed(1.0)
        .name("door")
        .build()
        .unwrap();
    admitted(&shedder, &clock, [Priority::LOW], 3000);
    let error = clock
        .block_on(shedder.call(|| async { Ok::<_, ()>(()) }))
        .unwrap_err();
    assert_eq!(error.reason(), Some(Reason::Shed));
    assert_eq!(
        error.map(|()| "").to_string(),
        "rejected by door: load shed"
    );
}

#[test]
fn codel_can_be_changed_live() {
    let clock = ManualClock::new();
    let shedder = on(&clock).build().unwrap();
    for (target, interval, fails) in [
        (110, 100, true),
        (20, 100, false),
        (20, 5, true),
        (0, 5, true),
        (10, 200, false),
    ] {
        let result = shedder.set_codel(ms(target), ms(interval));
        assert_eq!(result.is_err(), fails, "{target} {interval}");
    }
    shedder.observe_delay(ms(10));
    assert_eq!(shedder.snapshot().load, 0.5);
    let signalled = on(&clock).signal(0.5, || 0.0).build().unwrap();
    assert!(signalled.set_codel(ms(5), ms(100)).is_err());
}

#[test]
fn invalid_settings_are_errors_and_extreme_ones_saturate() {
    let table: Vec<(&str, LoadShedderBuilder)> = vec![
        ("codel", LoadShedder::builder().codel(ms(0), ms(1))),
        ("codel", LoadShedder::builder().codel(ms(2), ms(1))),
        ("signal", LoadShedder::builder().signal(f64::NAN, || 0.0)),
        ("signal", LoadShedder::builder().signal(0.0, || 0.0)),
        ("signal", LoadShedder::builder().signal(1.1, || 0.0)),
        (
            "signal",
            LoadShedder::builder()
                .signal(0.5, || 0.0)
                .codel(ms(5), ms(100)),
        ),
        ("max_shed", LoadShedder::builder().max_shed(0.0)),
        ("max_shed", LoadShedder::builder().max_shed(f64::INFINITY)),
        (
            "update_interval",
            LoadShedder::builder().update_interval(ms(0)),
        ),
    ];
    for (setting, builder) in table {
        assert_eq!(builder.build().unwrap_err().setting(), setting);
    }
    let clock = ManualClock::new();
    let long = on(&clock)
        .codel(Duration::MAX / 2, Duration::MAX)
        .cool_off(Duration::MAX)
        .update_interval(Duration::MAX)
        .build()
        .unwrap();
    long.observe_delay(Duration::MAX);
    assert!(long.try_acquire(Priority::LOWEST).is_ok());
    let odd = on(&clock).signal(1.0, || f64::NAN).build().unwrap();
    assert_eq!(admitted(&odd, &clock, [Priority::LOWEST], 1000), [1.0]);
    assert!(clock.now().as_nanos() > 0);
}

/// A clock that can be set.
#[derive(Clone, Debug, Default)]
struct Settable(Arc<AtomicU64>);

impl Settable {
    fn set(&self, at: Duration) {
        self.0.store(at.as_nanos() as u64, Ordering::SeqCst);
    }

    fn advance(&self, by: Duration) {
        self.0.fetch_add(by.as_nanos() as u64, Ordering::SeqCst);
    }
}

impl Clock for Settable {
    fn now(&self) -> Instant {
        Instant::from_nanos(self.0.load(Ordering::SeqCst))
    }

    fn sleep_until(&self, _: Instant) -> Sleep {
        Sleep::never()
    }
}

const HOUR: Duration = Duration::from_secs(3600);

#[test]
fn a_backward_jump_of_the_clock_neither_ends_nor_prolongs_shedding() {
    for by_signal in [true, false] {
        let clock = Settable::default();
        let (load, read) = signal();
        let builder = LoadShedder::builder().clock(clock.clone());
        let builder = if by_signal {
            builder.signal(0.5, read)
        } else {
            builder
        };
        let shedder = builder.build().unwrap();
        // Returns the smallest share to shed.
        let run = |from: Duration, seconds: u64, overloaded: bool| {
            load.store(100 * u32::from(overloaded), Ordering::SeqCst);
            clock.set(from);
            let mut smallest = 1.0_f64;
            for _ in 0..seconds * 100 {
                clock.advance(ms(10));
                shedder.observe_delay(ms(if overloaded { 50 } else { 0 }));
                let _ = shedder.try_acquire(Priority::NORMAL);
                smallest = smallest.min(shedder.snapshot().shed_rate);
            }
            smallest
        };
        run(HOUR, 60, true);
        // The overload continues after the jump.
        assert!(run(Duration::ZERO, 60, true) > 0.5);
        // Without overload, shedding ends after the cool-off.
        run(HOUR, 60, true);
        assert!(run(Duration::ZERO, 1, false) > 0.5);
        run(Duration::from_secs(1), 120, false);
        assert_eq!(shedder.snapshot().shed_rate, 0.0);
    }
}

#[test]
fn a_small_max_shed_holds_when_priorities_change_between_two_updates() {
    let clock = ManualClock::new();
    let shedder = on(&clock).signal(0.5, || 1.0).max_shed(0.001);
    let shedder = shedder.build().unwrap();
    for _ in 0..500 {
        clock.advance(ms(1));
        let _ = shedder.try_acquire(Priority::HIGH);
    }
    let shed = (0..5000).filter(|_| shedder.try_acquire(Priority::LOW).is_err());
    assert_eq!(shed.count(), 5);
}

#[test]
fn the_load_of_a_shedder_with_a_signal_is_that_of_the_signal() {
    let clock = ManualClock::new();
    let (value, read) = signal();
    let shedder = on(&clock).signal(0.8, read).build().unwrap();
    assert_eq!(shedder.snapshot().load, 0.0);
    for (hundredths, load) in [(37, 0.37), (250, 1.0)] {
        value.store(hundredths, Ordering::SeqCst);
        clock.advance(ms(100));
        let _ = shedder.try_acquire(Priority::NORMAL);
        assert_eq!(shedder.snapshot().load, load);
    }
}
