//! Faults on purpose, in virtual time.
#![cfg(feature = "chaos")]

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use backstop::chaos::{Chaos, Fault};
use backstop::{
    CallOptions, Clock, Error, Event, ManualClock, Pipeline, Policy, Priority, Timeout,
};

const fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

fn good() -> std::future::Ready<Result<u32, &'static str>> {
    std::future::ready(Ok(1))
}

#[test]
fn without_rates_nothing_is_injected() {
    let clock = ManualClock::new();
    let chaos = Chaos::builder().clock(clock.clone()).build().unwrap();
    for _ in 0..1000 {
        assert_eq!(clock.block_on(chaos.call(good)), Ok(1));
    }
    assert_eq!(
        (chaos.snapshot().calls, chaos.snapshot().injected()),
        (1000, 0)
    );
    assert_eq!(clock.now().as_nanos(), 0);
}

#[test]
fn each_fault_is_injected_at_its_rate() {
    let clock = ManualClock::new();
    let ran = Arc::new(AtomicU32::new(0));
    let counter = ran.clone();
    let chaos = Chaos::builder()
        .latency(0.1, ms(10))
        .behavior(0.1, move || {
            let counter = counter.clone();
            async move {
                counter.fetch_add(1, Ordering::Relaxed);
            }
        })
        .error(0.1, || "injected")
        .result(0.1, || Ok(7))
        .max_share(1.0)
        .seed(1)
        .clock(clock.clone());
    let chaos = chaos.build().unwrap();
    let (mut errors, mut results) = (0, 0);
    for _ in 0..10_000 {
        match clock.block_on(chaos.call(good)) {
            Ok(1) => {}
            Ok(7) => results += 1,
            Err(Error::Operation("injected")) => errors += 1,
            other => panic!("{other:?}"),
        }
    }
    let snapshot = chaos.snapshot();
    let delays = clock.now().as_nanos() / 10_000_000;
    let behaviors = u64::from(ran.load(Ordering::Relaxed));
    let seen = [delays, behaviors, errors, results];
    assert_eq!(
        seen,
        [
            snapshot.latency,
            snapshot.behavior,
            snapshot.error,
            snapshot.result
        ]
    );
    assert!(
        seen.iter().all(|count| (850..1_150).contains(count)),
        "{seen:?}"
    );
    assert_eq!(snapshot.capped, 0);
}

#[test]
fn the_cap_is_hard() {
    let clock = ManualClock::new();
    let chaos = Chaos::builder()
        .error(1.0, || "injected")
        .clock(clock.clone())
        .build()
        .unwrap();
    let mut injected = 0;
    for calls in 1..=2000 {
        injected += u64::from(clock.block_on(chaos.call(good)).is_err());
        assert!(injected * 10 <= calls, "{injected} of {calls}");
    }
    assert!(injected >= 199, "{injected}");
    assert_eq!(chaos.snapshot().capped, 2000 - injected);

    // What quiet calls save up is bounded.
    chaos.switch().set_rate(Fault::Error, 0.0).unwrap();
    for _ in 0..10_000 {
        let _ = clock.block_on(chaos.call(good));
    }
    chaos.switch().set_rate(Fault::Error, 1.0).unwrap();
    let burst = (0..100)
        .filter(|_| clock.block_on(chaos.call(good)).is_err())
        .count();
    assert!((10..=20).contains(&burst), "{burst}");
}

#[test]
fn a_switch_acts_while_calls_run() {
    let clock = ManualClock::new();
    let chaos = Chaos::builder()
        .latency(1.0, ms(50))
        .max_share(1.0)
        .enabled(false)
        .clock(clock.clone());
    let chaos = chaos.build().unwrap();
    let switch = chaos.switch();
    let took = || {
        let start = clock.now();
        clock.block_on(chaos.call(good)).unwrap();
        clock.now().saturating_duration_since(start)
    };
    assert_eq!((took(), chaos.snapshot().calls), (Duration::ZERO, 0));
    switch.enable();
    assert!(switch.is_enabled());
    assert_eq!(took(), ms(50));
    switch.set_latency(ms(70)).unwrap();
    assert_eq!(took(), ms(70));
    switch.set_latency(ms(70)..ms(90)).unwrap();
    let drawn: Vec<Duration> = (0..20).map(|_| took()).collect();
    assert!(drawn.iter().all(|took| (ms(70)..ms(90)).contains(took)));
    assert!(drawn.windows(2).any(|pair| pair[0] != pair[1]));
    switch.set_rate(Fault::Latency, 0.0).unwrap();
    (0..20).for_each(|_| assert!(took().is_zero()));
    switch.set_rate(Fault::Latency, 1.0).unwrap();
    switch.set_max_share(0.0).unwrap();
    assert!(
        (0..50).all(|_| took().is_zero()),
        "not even what was saved up"
    );
    switch.set_max_share(1.0).unwrap();
    switch.set_rate(Fault::Latency, 0.0).unwrap();
    assert_eq!(took(), Duration::ZERO);
    switch.disable();
    assert!(!chaos.snapshot().enabled);
}

#[test]
fn a_switch_rejects_what_the_builder_would() {
    let clock = ManualClock::new();
    let chaos = Chaos::builder()
        .error(0.6, || "injected")
        .clock(clock)
        .build()
        .unwrap();
    let switch = chaos.switch();
    for rate in [-0.1, 1.1, f64::NAN, f64::INFINITY] {
        assert!(switch.set_rate(Fault::Error, rate).is_err(), "{rate}");
        assert!(switch.set_max_share(rate).is_err(), "{rate}");
    }
    assert!(
        switch.set_rate(Fault::Latency, 0.5).is_err(),
        "more than 1 in sum"
    );
    assert!(
        switch.set_rate(Fault::Result, 0.1).is_err(),
        "nothing makes results"
    );
    assert!(
        switch.set_rate(Fault::Behavior, 0.1).is_err(),
        "there is no function"
    );
    assert!(switch.set_rate(Fault::Latency, 0.4).is_ok());
    let empty = switch.set_latency(ms(2)..ms(1)).unwrap_err();
    assert_eq!(empty.setting(), "latency");
}

#[test]
fn builders_reject_what_has_no_meaning() {
    let setting = |built: Result<Chaos, backstop::ConfigError>| {
        built.err().map(|error| error.setting().to_owned())
    };
    let chaos = || Chaos::builder().clock(ManualClock::new());
    for rate in [-0.1, 1.1, f64::NAN, f64::INFINITY] {
        assert_eq!(
            setting(chaos().latency(rate, ms(1)).build()).as_deref(),
            Some("latency")
        );
        assert_eq!(
            setting(chaos().max_share(rate).build()).as_deref(),
            Some("max_share")
        );
    }
    let sum = chaos().latency(0.6, ms(1)).behavior(0.5, || async {});
    assert_eq!(setting(sum.build()).as_deref(), Some("rates"));
    let empty = chaos().latency(0.1, ms(2)..ms(1));
    assert_eq!(setting(empty.build()).as_deref(), Some("latency"));
    let longest = chaos().latency(1.0, Duration::MAX).max_share(1.0);
    assert_eq!(setting(longest.build()), None);
}

#[test]
fn a_seed_reproduces_the_faults() {
    let run = |seed| {
        let clock = ManualClock::new();
        let chaos = Chaos::builder()
            .error(0.3, || "injected")
            .max_share(1.0)
            .seed(seed);
        let chaos = chaos.clock(clock.clone()).build().unwrap();
        (0..200)
            .map(|_| clock.block_on(chaos.call(good)).is_err())
            .collect::<Vec<_>>()
    };
    assert_eq!(run(1), run(1));
    assert_ne!(run(1), run(2));
}

#[test]
fn only_the_calls_that_are_meant_get_faults() {
    let clock = ManualClock::new();
    let chaos = Chaos::builder()
        .error(1.0, || "injected")
        .max_share(1.0)
        .only(|cx| cx.priority() < Priority::NORMAL)
        .clock(clock.clone());
    let pipeline = Pipeline::new(chaos.build().unwrap());
    let call = |priority| {
        let options = CallOptions::new().priority(priority);
        clock.block_on(pipeline.with(options).call(good)).is_err()
    };
    let low = [Priority::NORMAL, Priority::LOWEST].map(call);
    assert_eq!(low, [false, true]);
    assert_eq!(pipeline.policies().snapshot().calls, 1);
}

#[test]
fn injected_latency_is_cut_off_by_a_timeout_and_leaves_no_timer() {
    let clock = ManualClock::new();
    let chaos = Chaos::builder()
        .latency(1.0, ms(500))
        .max_share(1.0)
        .clock(clock.clone());
    let timeout = Timeout::builder()
        .after(ms(100))
        .clock(clock.clone())
        .build()
        .unwrap();
    let stack = (timeout, chaos.build().unwrap());
    assert!(clock.block_on(stack.call(good)).unwrap_err().is_timeout());
    assert_eq!((clock.now().as_nanos(), clock.sleepers()), (100_000_000, 0));
}

#[test]
fn a_delay_counts_against_the_time_that_is_left() {
    let clock = ManualClock::new();
    let chaos = Chaos::builder()
        .latency(1.0, ms(30))
        .max_share(1.0)
        .clock(clock.clone());
    let timeout = Timeout::builder()
        .after(ms(100))
        .clock(clock.clone())
        .build()
        .unwrap();
    let stack = (timeout, chaos.build().unwrap());
    let left = stack.call_with(|attempt| async move { Ok::<_, &str>(attempt.remaining()) });
    assert_eq!(clock.block_on(left), Ok(Some(ms(70))));
}

#[test]
fn a_call_that_gets_an_error_is_not_made() {
    let clock = ManualClock::new();
    let chaos = Chaos::builder()
        .error(1.0, || "injected")
        .max_share(1.0)
        .clock(clock.clone());
    let chaos = chaos.build().unwrap();
    let report = clock.block_on(chaos.call_reported(good));
    assert_eq!(
        (report.attempts, report.result),
        (0, Err(Error::Operation("injected")))
    );
}

#[test]
fn both_observers_get_an_event_for_a_fault() {
    let clock = ManualClock::new();
    let lines = Arc::new(Mutex::new(Vec::new()));
    let log = |lines: &Arc<Mutex<Vec<String>>>, layer: &'static str| {
        let lines = lines.clone();
        move |event: &Event| {
            if let Event::ChaosInjected { .. } = event {
                lines
                    .lock()
                    .unwrap()
                    .push(format!("{layer}: {event} ({})", event.kind()));
            }
        }
    };
    let chaos = Chaos::builder()
        .error(1.0, || "injected")
        .max_share(1.0)
        .name("faults")
        .observer(log(&lines, "own"))
        .clock(clock.clone());
    let pipeline = Pipeline::new(chaos.build().unwrap()).observer(log(&lines, "pipeline"));
    let _ = clock.block_on(pipeline.call(good));
    let line = "faults: injected error (chaos_injected)";
    assert_eq!(
        *lines.lock().unwrap(),
        [format!("pipeline: {line}"), format!("own: {line}")]
    );
}
