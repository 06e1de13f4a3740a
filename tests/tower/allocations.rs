use std::future::Future;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use allocation_counter::measure;
use backstop::tower::{BulkheadLayer, KeyedLayer, PolicyLayer, RateLimitLayer, RespondLayer, key};
use backstop::{
    Bulkhead, CircuitBreaker, Keyed, KeyedRateLimiter, Quota, RateLimiter, Retry, Timeout,
};
use bytes::Bytes;
use http::Request;
use http_body_util::Full;
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
async fn answers_add_nothing() {
    let inner = allocations(&mut Counting::default(), Request::new(()));
    let policy = PolicyLayer::new(Timeout::after(ms(1000)));
    let mut layered = RespondLayer::new().layer(policy.layer(Counting::default()));
    allocations(&mut layered, Request::new(()));
    assert_eq!(allocations(&mut layered, Request::new(())), inner + 1);
}

/// Answers with a header, as services do, so that the map is there.
#[derive(Clone)]
struct WithHeader;

impl Service<Request<()>> for WithHeader {
    type Response = http::Response<String>;
    type Error = std::convert::Infallible;
    type Future = std::future::Ready<Result<Self::Response, Self::Error>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Request<()>) -> Self::Future {
        let mut response = http::Response::new(String::new());
        let plain = http::HeaderValue::from_static("text/plain");
        response.headers_mut().insert("content-type", plain);
        std::future::ready(Ok(response))
    }
}

#[tokio::test(start_paused = true)]
async fn the_fields_of_a_rate_limit_are_written_into_a_shared_buffer() {
    const CALLS: u64 = 1000;
    let inner = allocations(&mut WithHeader, from("192.0.2.1"));
    let limits = KeyedRateLimiter::new(Quota::per_second(10_000)).unwrap();
    let mut limited = RateLimitLayer::new(limits, key::peer_ip()).layer(WithHeader);
    allocations(&mut limited, from("192.0.2.1"));
    let all: u64 = (0..CALLS)
        .map(|_| allocations(&mut limited, from("192.0.2.1")))
        .sum();
    assert_eq!(all, CALLS * (inner + 1));
}

#[test]
fn values_that_are_kept_share_buffers() {
    let limiter = RateLimiter::builder()
        .quota(Quota::per_second(10_000))
        .clock(backstop::ManualClock::new())
        .build()
        .unwrap();
    let mut heads: Vec<_> = (0..1000)
        .map(|_| http::HeaderMap::with_capacity(8))
        .collect();
    let count = measure(|| {
        for headers in &mut heads {
            backstop::http::rate_limit::write(headers, "api", &limiter.decide(1));
        }
    });
    // Two for each buffer: 50 bytes a head, 4096 a buffer.
    assert!(count.count_total <= 30, "{}", count.count_total);
    assert_eq!(heads[0]["ratelimit"], "\"api\";r=9999;t=1");
    assert_eq!(heads[999]["ratelimit"], "\"api\";r=9000;t=1");
    assert_eq!(heads[500]["ratelimit-policy"], "\"api\";q=10000;w=1");
}

/// Answers with a body, and allocates nothing.
#[derive(Clone)]
struct WithBody;

impl Service<Request<()>> for WithBody {
    type Response = http::Response<Full<Bytes>>;
    type Error = std::convert::Infallible;
    type Future = std::future::Ready<Result<Self::Response, Self::Error>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Request<()>) -> Self::Future {
        let body = Full::new(Bytes::from_static(b"hello"));
        std::future::ready(Ok(http::Response::new(body)))
    }
}

#[tokio::test(start_paused = true)]
async fn layers_of_keys_and_of_permits_allocate_once() {
    let inner = allocations(&mut WithHeader, from("192.0.2.1"));
    let breakers = Keyed::try_builder(|| CircuitBreaker::builder().build());
    let keyed = KeyedLayer::new(breakers.build().unwrap(), key::peer_ip());
    let mut keyed = keyed.layer(WithHeader);
    let mut held = BulkheadLayer::new(Bulkhead::new(10)).layer(WithBody);
    // The first call of a key allocates its entry.
    allocations(&mut keyed, from("192.0.2.1"));
    assert_eq!(allocations(&mut keyed, from("192.0.2.1")), inner + 1);
    assert_eq!(allocations(&mut held, from("192.0.2.1")), 1);
}
