//! The ends of every setting.

#[path = "../values/mod.rs"]
mod values;

use self::values::{COUNTS, NUMBERS, TIMES, check};
use super::*;

fn try_out(hedge: Hedge) {
    let clock = ManualClock::new();
    drop(clock);
    let text = format!("{hedge:?} {:?}", hedge.snapshot());
    assert!(text.contains("hedge"));
}

#[test]
fn every_setting_is_taken_or_rejected_at_its_ends() {
    let builder = || Hedge::builder().clock(ManualClock::new());
    check(
        "max_extra_load",
        &NUMBERS,
        |share| share > 0.0 && share <= 1.0,
        |share| builder().max_extra_load(share).build(),
        try_out,
    );
    check(
        "quantile",
        &NUMBERS,
        |share| share > 0.0 && share < 1.0,
        |share| builder().quantile(share).build(),
        try_out,
    );
    check(
        "max_hedges",
        &COUNTS,
        |copies| (1..=10).contains(&copies),
        |copies| builder().max_hedges(copies).build(),
        try_out,
    );
    check(
        "min_calls",
        &COUNTS,
        |calls| calls > 0,
        |calls| builder().min_calls(calls).build(),
        try_out,
    );
    let hour = Duration::from_secs(3600);
    check(
        "window",
        &TIMES,
        |window| (Duration::from_secs(1)..=hour).contains(&window),
        |window| builder().window(window).build(),
        try_out,
    );
    for time in TIMES {
        for builder in [
            builder().after(time),
            builder().after_with(move |_| time),
            builder().after(ms(1)).throttled_pause(time),
            builder().min_delay(time),
        ] {
            let hedge = builder.build().unwrap();
            // On a clock of its own.
            let call = hedge.call(|| async { Ok::<_, ()>(7) });
            assert_eq!(ManualClock::new().block_on(call), Ok(7));
            try_out(hedge);
        }
    }
}

#[test]
fn settings_that_contradict_each_other_are_rejected() {
    let builder = || Hedge::builder().clock(ManualClock::new()).after(ms(1));
    let both = builder().quantile(0.5).build().unwrap_err();
    assert_eq!((both.policy(), both.setting()), ("hedge", "quantile"));
    let both = builder().after_with(|_| ms(1)).build().unwrap_err();
    assert_eq!(both.setting(), "after_with");
    // They would be ignored.
    for (setting, both) in [
        ("min_delay", builder().min_delay(ms(1))),
        ("min_calls", builder().min_calls(20)),
        ("window", builder().window(Duration::from_secs(30))),
    ] {
        assert_eq!(both.build().unwrap_err().setting(), setting);
    }
    let debug = format!("{:?}", builder());
    assert!(debug.starts_with("HedgeBuilder"), "{debug}");
}

#[test]
fn the_number_of_copies_and_a_fixed_delay_change_while_calls_run() {
    let clock = ManualClock::new();
    let hedge = hedge(&clock, 50).max_hedges(2).build().unwrap();
    let script = [Hang, Hang, Good(10)];
    assert_eq!(call!(&clock, &hedge, script), good(2, 110, &[0, 50, 100]));
    hedge.set_after(ms(20)).unwrap();
    assert_eq!(hedge.snapshot().delay, Some(ms(20)));
    assert_eq!(call!(&clock, &hedge, script), good(2, 50, &[0, 20, 40]));
    hedge.set_max_hedges(1).unwrap();
    assert_eq!(
        call!(&clock, &hedge, [Hang, Good(10)]),
        good(1, 30, &[0, 20])
    );
    hedge.set_max_hedges(0).unwrap();
    assert_eq!(call!(&clock, &hedge, [Good(100)]), good(0, 100, &[0]));
    assert_eq!(
        call!(&clock, &hedge, [Down(1)]),
        bad(Fault::Down(0), 1, &[0])
    );
    assert_eq!(
        hedge.set_max_hedges(11).unwrap_err().setting(),
        "max_hedges"
    );
    assert_eq!(hedge.max_hedges(), 0);
}

#[test]
fn the_quantile_and_the_extra_load_change_without_losing_latencies() {
    let clock = ManualClock::new();
    let run = |hedge: &Hedge| {
        for millis in 1..=100 {
            let call = hedge.call(|| async {
                clock.sleep(ms(millis)).await;
                Ok::<_, ()>(())
            });
            clock.block_on(call).unwrap();
        }
    };
    let by_quantile = Hedge::builder()
        .quantile(0.99)
        .clock(clock.clone())
        .build()
        .unwrap();
    run(&by_quantile);
    let delay = |hedge: &Hedge| hedge.snapshot().delay.unwrap().as_millis();
    assert!(delay(&by_quantile) >= 97, "{}", delay(&by_quantile));
    let launched = by_quantile.snapshot().launched;
    by_quantile.set_quantile(0.5).unwrap();
    assert!(
        (48..=52).contains(&delay(&by_quantile)),
        "{}",
        delay(&by_quantile)
    );
    run(&by_quantile);
    assert!(
        by_quantile.snapshot().launched >= launched + 40,
        "the next call follows it"
    );

    let by_load = Hedge::builder()
        .max_extra_load(0.01)
        .clock(clock.clone())
        .build()
        .unwrap();
    run(&by_load);
    assert!(by_load.snapshot().launched <= 1);
    by_load.set_max_extra_load(0.5).unwrap();
    assert!((48..=52).contains(&delay(&by_load)), "{}", delay(&by_load));
    run(&by_load);
    assert!(
        by_load.snapshot().launched >= 40,
        "{:?}",
        by_load.snapshot()
    );
}

#[test]
fn live_changes_reject_what_the_builder_would_and_what_has_no_effect() {
    let clock = ManualClock::new();
    let fixed = hedge(&clock, 50).build().unwrap();
    let by_load = Hedge::builder().clock(clock.clone()).build().unwrap();
    for share in [0.0, -0.1, 1.1, f64::NAN, f64::INFINITY] {
        assert!(by_load.set_max_extra_load(share).is_err(), "{share}");
        assert!(by_load.set_quantile(share).is_err(), "{share}");
    }
    let problem = |result: Result<(), backstop::ConfigError>| result.unwrap_err().to_string();
    assert_eq!(
        problem(fixed.set_max_extra_load(0.1)),
        "hedge: max_extra_load cannot change: the hedge was built without a bound"
    );
    assert!(problem(fixed.set_quantile(0.5)).contains("without a quantile"));
    assert!(problem(by_load.set_quantile(0.5)).contains("without a quantile"));
    assert!(problem(by_load.set_after(ms(1))).contains("without a fixed delay"));
}
