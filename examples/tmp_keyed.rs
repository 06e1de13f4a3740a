//! Temporary.
use backstop::{FastClock, KeyedRateLimiter, Quota};
use std::time::{Duration, Instant};
fn main() {
    let n: u64 = std::env::args().nth(1).map_or(1000, |a| a.parse().unwrap());
    let rounds: u64 = std::env::args()
        .nth(2)
        .map_or(20_000_000, |a| a.parse().unwrap());
    let limits = KeyedRateLimiter::<u64>::builder()
        .quota(Quota::new(1, Duration::from_secs(3600)).burst(1_000_000))
        .max_keys(2 * n as usize)
        .clock(FastClock::new())
        .build()
        .unwrap();
    for k in 0..n {
        limits.try_acquire(&k).unwrap();
    }
    for _ in 0..5 {
        let mut r = 0x9e3779b97f4a7c15u64;
        let start = Instant::now();
        let mut ok = 0u64;
        for _ in 0..rounds {
            r ^= r << 13;
            r ^= r >> 7;
            r ^= r << 17;
            let key = ((u128::from(r) * u128::from(n)) >> 64) as u64;
            ok += u64::from(std::hint::black_box(limits.try_acquire(&key)).is_ok());
        }
        println!(
            "{:.2} ns ({ok})",
            start.elapsed().as_nanos() as f64 / rounds as f64
        );
    }
}
