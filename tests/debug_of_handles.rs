//! `Debug` of a handle begins with the name of its type.
#![cfg(feature = "tokio")]

use std::time::Duration;

use backstop::dead_letter::DeadLetterQueue;
use backstop::store::MemoryStore;
use backstop::{
    Bulkhead, CircuitBreaker, CircuitVotes, Coalesce, Endpoints, Hedge, Keyed, KeyedRateLimiter,
    LoadShedder, ManualClock, Quota, RateLimiter, Retry, RetryBudget, SharedBulkhead,
    SharedKeyedRateLimiter, SharedRateLimiter, Stale, Standard, Throttle, Timeout,
};

#[test]
fn a_handle_prints_its_type() {
    let clock = ManualClock::new();
    let store = MemoryStore::new(clock.clone());
    let quota = Quota::per_second(10);
    let breaker = CircuitBreaker::builder().build().unwrap();
    macro_rules! prints {
        ($($name:literal: $handle:expr;)*) => {$(
            let text = format!("{:?}", $handle);
            assert!(text.starts_with($name), "{text}");
            let rest = &text[$name.len()..];
            assert!(rest.starts_with('(') || rest.starts_with(" {"), "{text}");
            let inside = concat!($name, " {"); // twice, or a lock
            assert!(!rest.contains(inside) && !rest.contains("Mutex"), "{text}");
        )*};
    }
    prints! {
        "Bulkhead": Bulkhead::builder().build().unwrap();
        "CircuitVotes": CircuitVotes::builder().store(store.clone()).key("a").breaker(breaker.clone()).build().unwrap();
        "CircuitBreaker": breaker;
        "Coalesce": Coalesce::<u32, (), ()>::builder().build().unwrap();
        "DeadLetterQueue": DeadLetterQueue::<u32>::builder().build().unwrap();
        "Endpoints": Endpoints::<u32>::builder().build().unwrap();
        "Hedge": Hedge::builder().build().unwrap();
        "Keyed": Keyed::new(|_: &u32| Timeout::after(Duration::ZERO));
        "KeyedRateLimiter": KeyedRateLimiter::<u32>::new(quota).unwrap();
        "LoadShedder": LoadShedder::builder().build().unwrap();
        "ManualClock": clock.clone();
        "RateLimiter": RateLimiter::new(quota).unwrap();
        "RetryBudget": RetryBudget::percentage().build().unwrap();
        "RetryBudget": RetryBudget::in_flight().build().unwrap();
        "Retry": Retry::builder().build().unwrap();
        "SharedBulkhead": SharedBulkhead::builder().store(store.clone()).key("a").max_concurrent(1).build().unwrap();
        "SharedKeyedRateLimiter": SharedKeyedRateLimiter::<String>::builder().store(store.clone()).key_by(|key| key.clone()).quota(quota).build().unwrap();
        "SharedRateLimiter": SharedRateLimiter::builder().store(store.clone()).key("a").quota(quota).build().unwrap();
        "Stale": Stale::<u32>::builder().max_age(Duration::ZERO).build().unwrap();
        "Standard": Standard::new("name");
        "Throttle": Throttle::builder().build().unwrap();
        "Timeout": Timeout::after(Duration::ZERO);
    }
}
