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
        |_| true,
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
    let debug = format!("{:?}", builder());
    assert!(debug.starts_with("HedgeBuilder"), "{debug}");
}
