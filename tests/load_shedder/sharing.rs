//! Several shedders with one threshold.

use std::sync::atomic::Ordering;

use backstop::load_shedder::SharedThreshold;
use backstop::{ManualClock, Priority};

use super::{admitted, ms, on, signal};

#[test]
fn shedders_with_a_shared_threshold_shed_the_same_calls() {
    let clock = ManualClock::new();
    let (load, read) = signal();
    let threshold = SharedThreshold::new();
    let busy = on(&clock)
        .signal(0.5, read)
        .shared_threshold(threshold.clone())
        .build()
        .unwrap();
    let idle = on(&clock)
        .signal(0.5, || 0.0)
        .shared_threshold(threshold.clone())
        .build()
        .unwrap();
    load.store(100, Ordering::SeqCst);
    let mut shed = [0, 0];
    for call in 0..4000_u32 {
        clock.advance(ms(1));
        let priority = if call % 2 == 0 {
            Priority::LOW
        } else {
            Priority::HIGH
        };
        shed[0] += u32::from(busy.try_acquire(priority).is_err());
        shed[1] += u32::from(idle.try_acquire(priority).is_err());
    }
    assert!(
        shed[0] > 0 && shed[0].abs_diff(shed[1]) < shed[0] / 5,
        "{shed:?}"
    );
    assert_eq!(busy.snapshot().threshold, idle.snapshot().threshold);
    // The shedder with half of the calls wants to shed none.
    assert!((busy.snapshot().shed_rate - 0.9).abs() < 1e-9);
    assert!(f64::from(shed[0]) < 4000.0 * 0.5);
    // The share of a dropped shedder does not count.
    drop(busy);
    admitted(&idle, &clock, [Priority::LOW], 100);
    assert_eq!(admitted(&idle, &clock, [Priority::LOW], 1000), [1.0]);
}

/// Its last report asked for nine in ten.
#[test]
fn the_share_of_a_shedder_without_calls_expires() {
    let clock = ManualClock::new();
    let threshold = SharedThreshold::new();
    let shedder = |load: f64| {
        let builder = on(&clock)
            .signal(0.5, move || load)
            .shared_threshold(threshold.clone());
        builder.build().unwrap()
    };
    let (busy, idle) = (shedder(1.0), shedder(0.0));
    for _ in 0..4000 {
        clock.advance(ms(1));
        let _ = busy.try_acquire(Priority::LOW);
        let _ = idle.try_acquire(Priority::LOW);
    }
    let [some] = admitted(&idle, &clock, [Priority::LOW], 500);
    assert!(some < 0.7, "{some}");
    // The cool-off is a second.
    admitted(&idle, &clock, [Priority::LOW], 1000);
    assert_eq!(admitted(&idle, &clock, [Priority::LOW], 1000), [1.0]);
}

#[test]
fn the_weight_of_a_shedder_does_not_depend_on_its_update_interval() {
    let clock = ManualClock::new();
    let threshold = SharedThreshold::new();
    let seldom = on(&clock)
        .signal(0.5, || 1.0)
        .update_interval(ms(1000))
        .shared_threshold(threshold.clone());
    let (seldom, often) = (
        seldom.build().unwrap(),
        on(&clock)
            .signal(0.5, || 0.0)
            .shared_threshold(threshold)
            .build()
            .unwrap(),
    );
    let mut shed = 0;
    for call in 0..40_000 {
        clock.advance(ms(1));
        let _ = seldom.try_acquire(Priority::LOW);
        let rejected = often.try_acquire(Priority::LOW).is_err();
        shed += u32::from(rejected && call >= 30_000);
    }
    // One shedder asks for nine in ten, the other with as many calls for none.
    assert!((4000..5000).contains(&shed), "{shed}");
}

/// Neither its overload nor the priorities of its calls.
#[test]
fn a_shadow_does_not_influence_the_others() {
    let clock = ManualClock::new();
    let threshold = SharedThreshold::new();
    let shedder = |load: f64, shadow| {
        let builder = on(&clock).signal(0.5, move || load).shadow(shadow);
        builder.shared_threshold(threshold.clone()).build().unwrap()
    };
    // The live one joins first.
    let (live, shadow) = (shedder(0.0, false), shedder(1.0, true));
    for _ in 0..5000 {
        clock.advance(ms(1));
        assert!(live.try_acquire(Priority::LOW).is_ok());
        assert!(shadow.try_acquire(Priority::LOW).is_ok());
    }
    // The shadow reports what would happen without shadow mode.
    assert!(shadow.snapshot().would_reject > 1000);
    assert!(shadow.snapshot().threshold > 0 && live.snapshot().threshold == 0);
    drop((live, shadow));

    // The shadow's unimportant calls are not part of the distribution.
    let (live, shadow) = (shedder(1.0, false), shedder(0.0, true));
    let mut shed = 0;
    for call in 0..10_000 {
        clock.advance(ms(1));
        let _ = shadow.try_acquire(Priority::LOWEST);
        let rejected = live.try_acquire(Priority::HIGH).is_err();
        shed += u32::from(rejected && call >= 5000);
    }
    assert!((4300..4700).contains(&shed), "{shed}");
}
