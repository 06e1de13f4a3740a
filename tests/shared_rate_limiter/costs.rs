//! Calls that cost different numbers of tokens.

use std::time::Duration;

use backstop::shared_rate_limiter::SyncMode;
use backstop::store::MemoryStore;
use backstop::{ManualClock, Quota, RateLimiter, Rejected, SharedRateLimiter};
use futures::FutureExt;

/// A reproducible source of random numbers.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % bound
    }
}

fn limiter(
    store: &MemoryStore,
    clock: &ManualClock,
    quota: Quota,
    sync: SyncMode,
) -> SharedRateLimiter {
    SharedRateLimiter::builder()
        .store(store.clone())
        .key("key")
        .quota(quota)
        .sync(sync)
        .clock(clock.clone())
        .seed(7)
        .build()
        .unwrap()
}

/// Decides a call on a store without latency.
fn decide(limiter: &SharedRateLimiter, cost: u64) -> Result<(), Rejected> {
    let decided = limiter.try_acquire_n(cost).now_or_never();
    decided.expect("the store answers at once")
}

#[test]
fn exact_mode_decides_calls_of_any_cost_as_one_central_limiter_does() {
    let mut random = Random(99);
    for case in 0..60 {
        let clock = ManualClock::new();
        let store = MemoryStore::new(clock.clone());
        let burst = 1 + random.below(30);
        let rate = [1, 10, 1000, 100_000][random.below(4) as usize];
        let quota = Quota::per_second(rate).burst(burst);
        let processes = [(); 4].map(|()| limiter(&store, &clock, quota, SyncMode::Exact));
        let central = RateLimiter::builder().quota(quota).clock(clock.clone());
        let central = central.build().unwrap();
        let longest_gap = 1_000_000 / rate * (1 + random.below(burst)) + 1;
        for step in 0..300 {
            clock.advance(Duration::from_micros(random.below(longest_gap)));
            let cost = 1 + random.below(burst);
            let process = &processes[random.below(4) as usize];
            let shared = decide(process, cost);
            assert_eq!(
                shared.is_ok(),
                central.try_acquire_n(cost).is_ok(),
                "case {case}, step {step}: {cost} of {quota:?}, {shared:?}"
            );
        }
    }
}

#[test]
fn after_the_time_of_its_rejection_a_call_of_any_cost_is_admitted() {
    let mut random = Random(5);
    for sync in [SyncMode::Exact, SyncMode::Leased] {
        for case in 0..100 {
            let clock = ManualClock::new();
            let store = MemoryStore::new(clock.clone());
            let burst = 1 + random.below(100);
            let rate = [1, 3, 7, 10, 100, 1000, 100_000][random.below(7) as usize];
            let quota = Quota::per_second(rate).burst(burst);
            let limiter = limiter(&store, &clock, quota, sync);
            for step in 0..200 {
                clock.advance(Duration::from_micros(random.below(1_000_000 / rate)));
                let cost = match random.below(3) {
                    0 => 1 + random.below(burst),
                    _ => 1,
                };
                let Err(rejected) = decide(&limiter, cost) else {
                    continue;
                };
                let retry_after = rejected.retry_after().unwrap();
                assert!(!retry_after.is_zero());
                clock.advance(retry_after);
                let again = decide(&limiter, cost);
                assert!(
                    again.is_ok(),
                    "{sync:?}, case {case}, step {step}: {cost} of {quota:?}, {rejected:?}, {again:?}"
                );
            }
        }
    }
}
