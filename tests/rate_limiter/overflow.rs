//! Numbers that overflow unless arithmetic saturates.

use std::time::Duration;

use backstop::ManualClock;
use backstop::rate_limiter::Quota;

use super::{drain, limiter};

#[test]
fn what_many_windows_earn_saturates() {
    let clock = ManualClock::new();
    let tokens = 1 << 40;
    let limiter = limiter(
        &clock,
        Quota::new(tokens, Duration::from_nanos(1)).fixed_window(),
    );
    limiter.try_acquire_n(tokens).unwrap();
    assert_eq!(drain(&limiter), 0);
    // So many windows that what they earn is 2^64.
    clock.advance(Duration::from_nanos(1 << 24));
    assert_eq!(limiter.peek().remaining, tokens);
    limiter.try_acquire_n(tokens).unwrap();
}
