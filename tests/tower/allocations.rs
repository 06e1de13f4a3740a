use std::future::Future;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use allocation_counter::measure;
use backstop::tower::{PolicyLayer, RateLimitLayer, RespondLayer, key};
use backstop::{CircuitBreaker, KeyedRateLimiter, Quota, RateLimiter, Retry, Timeout};
use http::Request;
use tower_layer::Layer;
use tower_service::Service;

use crate::{Counting, from, ms};

/// How many allocations a call makes, and the response.
fn allocations<S>(service: &mut S, request: Request<()>) -> u64
where
    S: Service<Request<()>>,
    S::Error: std::fmt::Debug,
{
    let mut cx = Context::from_waker(Waker::noop());
    assert!(service.poll_ready(&mut cx).is_ready());
    let count = measure(|| {
        let mut call = pin!(service.call(request));
        match call.as_mut().poll(&mut cx) {
            Poll::Ready(response) => assert!(response.is_ok()),
            Poll::Pending => panic!("it is ready at once"),
        }
    });
    count.count_total
}

#[tokio::test]
async fn a_call_allocates_once_beyond_the_inner_service() {
    let stack = (
        Timeout::after(ms(10_000)),
        Retry::builder().build().unwrap(),
        CircuitBreaker::builder().build().unwrap(),
        RateLimiter::builder()
            .quota(Quota::per_second(100))
            .build()
            .unwrap(),
        Timeout::after(ms(2000)),
    );
    let mut bare = Counting::default();
    let inner = allocations(&mut bare, Request::new(()));
    let mut layered = PolicyLayer::new(stack).layer(Counting::default());
    let mut warm = |request| allocations(&mut layered, request);
    warm(Request::new(()));
    assert_eq!(warm(Request::new(())), inner + 1);
}

#[tokio::test]
async fn answers_and_keys_that_are_addresses_add_nothing() {
    let inner = allocations(&mut Counting::default(), Request::new(()));
    let policy = PolicyLayer::new(Timeout::after(ms(1000)));
    let mut layered = RespondLayer::new().layer(policy.layer(Counting::default()));
    allocations(&mut layered, Request::new(()));
    assert_eq!(allocations(&mut layered, Request::new(())), inner + 1);
    // The fields of the response are written; their strings and the map are the inner response's business.
    let limits = KeyedRateLimiter::new(Quota::per_second(100)).unwrap();
    let fields = {
        let (limiter, mut map) = (
            RateLimiter::new(Quota::per_second(100)).unwrap(),
            http::HeaderMap::new(),
        );
        measure(|| backstop::http::rate_limit::write(&mut map, "rate limiter", &limiter.decide(1)))
            .count_total
    };
    let mut limited = RateLimitLayer::new(limits, key::peer_ip()).layer(Counting::default());
    allocations(&mut limited, from("192.0.2.1"));
    assert!(allocations(&mut limited, from("192.0.2.1")) <= inner + 1 + fields);
}
