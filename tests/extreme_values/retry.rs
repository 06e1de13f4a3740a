//! Retries.

use super::values::{COUNTS, TIMES, check};
use backstop::{HintRule, ManualClock, Retry};

use super::try_out;

#[test]
fn retry() {
    let build = |n| {
        Retry::builder()
            .max_attempts(n)
            .clock(ManualClock::new())
            .build()
    };
    check("max_attempts", &COUNTS, |n| n > 0, build, drop);
    for attempts in COUNTS.into_iter().filter(|n| *n > 0) {
        try_out(Retry::builder().max_attempts(attempts));
    }
    for time in TIMES {
        try_out(Retry::builder().max_elapsed(time));
        try_out(Retry::builder().hint(HintRule::Within(time)));
        try_out(Retry::builder().hint(HintRule::UpTo(time)));
        try_out(Retry::builder().delay_with(move |_| time));
    }
    for seed in [0, 1, u64::MAX] {
        try_out(Retry::builder().seed(seed));
    }
}
