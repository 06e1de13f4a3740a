//! Traits of builders, and defaults of handles.

use std::time::Duration;

use backstop::{
    Bulkhead, CircuitBreaker, Coalesce, Endpoints, Hedge, Keyed, KeyedRateLimiter, LoadShedder,
    RateLimiter, Retry, RetryBudget, Throttle, Timeout,
};

/// All builders but that of a dead letter queue, which owns its sink.
#[test]
fn a_cloned_builder_prints_like_the_original() {
    fn check<B: Clone + std::fmt::Debug>(builder: &B) {
        assert_eq!(format!("{:?}", builder.clone()), format!("{builder:?}"));
    }
    check(&backstop::adaptive_rate::CubicRate::builder());
    check(&backstop::bulkhead::limit::Aimd::builder());
    check(&backstop::bulkhead::limit::Correlated::builder());
    check(&backstop::bulkhead::limit::Gradient::builder());
    check(&backstop::bulkhead::limit::Gradient2::builder());
    check(&backstop::bulkhead::limit::Vegas::builder());
    check(&backstop::bulkhead::limit::Windowed::builder());
    check(&Bulkhead::builder());
    check(&CircuitBreaker::builder());
    check(&Coalesce::<u32, (), ()>::builder());
    check(&backstop::codel::Codel::builder());
    check(&Endpoints::<u32>::builder());
    check(&Hedge::builder());
    check(&Keyed::builder(|_: &u32| {
        Timeout::after(Duration::from_secs(60))
    }));
    check(&KeyedRateLimiter::<u32>::builder());
    check(&LoadShedder::builder());
    check(&backstop::load_shedder::UserFairness::builder());
    check(&RateLimiter::builder());
    check(&Retry::builder());
    check(&RetryBudget::grpc(10, 0.1));
    check(&RetryBudget::in_flight());
    check(&RetryBudget::percentage());
    check(&RetryBudget::tokens());
    check(&backstop::Stale::<u32>::builder());
    check(&backstop::Standard::builder());
    check(&Throttle::builder());
    check(&Timeout::builder());
    #[cfg(feature = "chaos")]
    check(&backstop::Chaos::builder());
    #[cfg(feature = "dead-letter-file")]
    check(&backstop::dead_letter::FileSink::builder("folder"));
}

/// A client may derive `Default`.
#[derive(Default)]
struct Client {
    retry: Retry,
    breaker: CircuitBreaker,
    bulkhead: Bulkhead,
    hedge: Hedge,
    throttle: Throttle,
}

#[tokio::test(start_paused = true)]
async fn default_handles_have_the_settings_of_a_builder() {
    let client = Client::default();
    let same = |default: String, built: String| assert_eq!(default, built);
    same(
        format!("{:?}", client.breaker.snapshot()),
        format!(
            "{:?}",
            CircuitBreaker::builder().build().unwrap().snapshot()
        ),
    );
    same(
        format!("{:?}", client.bulkhead.snapshot()),
        format!("{:?}", Bulkhead::builder().build().unwrap().snapshot()),
    );
    same(
        format!("{:?}", client.hedge.snapshot()),
        format!("{:?}", Hedge::builder().build().unwrap().snapshot()),
    );
    same(
        format!("{:?}", client.throttle.snapshot()),
        format!("{:?}", Throttle::builder().build().unwrap().snapshot()),
    );
    assert_eq!(client.retry.name(), "retry");
}
