//! Calls that cost different numbers of tokens.

use std::future::Future;
use std::task::{Context, Waker};
use std::time::Duration;

use backstop::shared_rate_limiter::{Outage, SyncMode};
use backstop::store::{Fault, MemoryStore};
use backstop::{Clock, ManualClock, Quota, RateLimiter, Rejected, SharedRateLimiter};
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
fn a_call_that_fits_is_admitted_behind_one_that_does_not() {
    for sync in [SyncMode::Leased, SyncMode::Exact] {
        let clock = ManualClock::new();
        let store = MemoryStore::new(clock.clone());
        store.set_latency(Duration::from_millis(1));
        let limiter = limiter(&store, &clock, Quota::per_second(1).burst(6), sync);
        let calls = [1, 6, 1, 5, 4, 1].map(|cost| limiter.try_acquire_n(cost));
        let decided = clock.block_on(futures::future::join_all(calls));
        let admitted = decided.iter().map(Result::is_ok).collect::<Vec<_>>();
        assert_eq!(
            admitted,
            [true, false, true, false, true, false],
            "{sync:?}"
        );
        let mut waits = decided.iter().filter_map(|it| it.as_ref().err());
        assert!(waits.all(|rejected| rejected.retry_after().is_some_and(|wait| !wait.is_zero())));
    }
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

#[test]
fn the_waiter_behind_one_that_gives_up_waits_only_for_its_own_tokens() {
    for sync in [SyncMode::Exact, SyncMode::Leased] {
        let clock = ManualClock::new();
        let store = MemoryStore::new(clock.clone());
        let limiter = limiter(&store, &clock, Quota::per_second(10).burst(30), sync);
        decide(&limiter, 30).unwrap();
        let mut task = Context::from_waker(Waker::noop());
        let mut first = Box::pin(limiter.acquire_n(20));
        assert!(first.as_mut().poll(&mut task).is_pending());
        clock.block_on(async {
            let second = limiter.acquire_n(2);
            let gives_up = async {
                clock.sleep(Duration::from_millis(10)).await;
                drop(first);
            };
            futures::join!(second, gives_up).0.unwrap();
        });
        let waited = clock.now().as_nanos() / 1_000_000;
        assert!((200..=230).contains(&waited), "{sync:?}: {waited} ms");
    }
}

#[test]
fn without_the_store_too_a_call_is_admitted_after_the_time_of_its_rejection() {
    let mut random = Random(5);
    for outage in [
        Outage::OwnShare,
        Outage::Local(Quota::per_second(50).burst(20)),
    ] {
        let clock = ManualClock::new();
        let store = MemoryStore::new(clock.clone());
        let limiter = SharedRateLimiter::builder()
            .store(store.clone())
            .key("key")
            .quota(Quota::per_second(100).burst(50))
            .on_outage(outage)
            .clock(clock.clone())
            .build()
            .unwrap();
        for _ in 0..2000 {
            let _ = decide(&limiter, 1);
            clock.advance(Duration::from_millis(5));
        }
        store.set_fault(Some(Fault::Fail));
        while limiter.snapshot().store_up {
            let _ = decide(&limiter, 1);
            clock.advance(Duration::from_millis(5));
        }
        let mut rejections = 0;
        for step in 0..5000 {
            clock.advance(Duration::from_micros(random.below(20_000)));
            let cost = 1 + random.below(10);
            let Err(rejected) = decide(&limiter, cost) else {
                continue;
            };
            rejections += 1;
            clock.advance(rejected.retry_after().unwrap());
            let again = decide(&limiter, cost);
            assert!(
                again.is_ok(),
                "{outage:?}, step {step}: {cost}, {rejected:?}, {again:?}"
            );
        }
        assert!(rejections > 500, "{rejections}");
    }
}
