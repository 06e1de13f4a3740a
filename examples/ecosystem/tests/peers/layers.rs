use std::convert::Infallible;
use std::time::Duration;

use axum::body::Body;
use axum::extract::ConnectInfo;
use axum::http::{Request, StatusCode};
use tower::{Layer, Service, ServiceExt, service_fn};
use tower_governor::GovernorLayer;
use tower_governor::governor::GovernorConfigBuilder;
use tower_governor::key_extractor::{KeyExtractor, SmartIpKeyExtractor};

const SECOND: Duration = Duration::from_secs(1);

/// How many calls a service admits at this moment.
async fn admitted<S: Service<(), Response = ()>>(service: &mut S) -> u32
where
    S::Error: std::fmt::Debug,
{
    let mut calls = 0;
    while let Ok(ready) = tokio::time::timeout(Duration::from_millis(1), service.ready()).await {
        let Ok(ready) = ready else { break };
        if ready.call(()).await.is_err() {
            break;
        }
        calls += 1;
    }
    calls
}

#[tokio::test(start_paused = true)]
async fn rate_limit_of_tower_is_a_fixed_window_from_the_first_call() {
    let layer = tower::limit::RateLimitLayer::new(5, SECOND);
    let mut service = layer.layer(service_fn(|()| async { Ok::<_, Infallible>(()) }));
    service.ready().await.unwrap().call(()).await.unwrap();
    tokio::time::sleep(SECOND - Duration::from_millis(10)).await;
    let before = admitted(&mut service).await;
    tokio::time::sleep(Duration::from_millis(10)).await;
    // Nine of a limit of five, within 20 ms.
    assert_eq!((before, admitted(&mut service).await), (4, 5));
}

#[tokio::test(start_paused = true)]
async fn a_layer_of_tower_makes_a_limit_for_each_service() {
    let layer = tower::limit::RateLimitLayer::new(5, SECOND);
    let inner = service_fn(|()| async { Ok::<_, Infallible>(()) });
    let (mut first, mut second) = (layer.layer(inner), layer.layer(inner));
    assert_eq!(
        (admitted(&mut first).await, admitted(&mut second).await),
        (5, 5)
    );
}

#[tokio::test(start_paused = true)]
async fn tower_resilience_makes_a_limit_for_each_service_and_waits() {
    use tower_resilience_ratelimiter::RateLimiterLayer;
    let builder = || {
        RateLimiterLayer::builder()
            .limit_for_period(5)
            .refresh_period(SECOND)
    };
    let inner = service_fn(|()| async { Ok::<_, Infallible>(()) });
    let layer = builder().build().unwrap();
    let (mut first, mut second) = (layer.layer(inner), layer.layer(inner));
    assert_eq!(
        (admitted(&mut first).await, admitted(&mut second).await),
        (5, 5)
    );

    let bulkhead = tower_resilience_bulkhead::BulkheadLayer::builder()
        .max_concurrent_calls(1)
        .build()
        .unwrap();
    let never = service_fn(|()| std::future::pending::<Result<(), Infallible>>());
    let mut service = bulkhead.layer(never);
    let _first = tokio::spawn(service.ready().await.unwrap().call(()));
    tokio::task::yield_now().await;
    let second = service.ready().await.unwrap().call(());
    assert!(tokio::time::timeout(3600 * SECOND, second).await.is_err());
}

/// The response of an axum-like service under a governor, to a request with and without a peer.
async fn answers(
    config: GovernorLayer<tower_governor::key_extractor::PeerIpKeyExtractor, Middleware, Body>,
) -> [axum::response::Response; 3] {
    let inner = service_fn(|_: Request<Body>| async {
        Ok::<_, Infallible>(axum::response::Response::new(Body::empty()))
    });
    let service = config.layer(inner);
    let request = |with_peer: bool| {
        let mut request = Request::new(Body::empty());
        if with_peer {
            let peer: std::net::SocketAddr = "192.0.2.1:1".parse().unwrap();
            request.extensions_mut().insert(ConnectInfo(peer));
        }
        request
    };
    [
        service.clone().oneshot(request(true)).await.unwrap(),
        service.clone().oneshot(request(true)).await.unwrap(),
        service.clone().oneshot(request(false)).await.unwrap(),
    ]
}

type Middleware = governor::middleware::NoOpMiddleware;

#[tokio::test]
async fn tower_governor_rounds_down_and_has_no_answer_without_a_key() {
    let mut config = GovernorConfigBuilder::default();
    let config = config.per_millisecond(900).burst_size(1).finish().unwrap();
    let [first, second, third] = answers(GovernorLayer::new(config)).await;
    assert_eq!(first.status(), StatusCode::OK);
    assert_eq!(second.status(), StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(second.headers()["retry-after"], "0");
    assert_eq!(third.status(), StatusCode::INTERNAL_SERVER_ERROR);
}

#[test]
fn per_second_of_tower_governor_is_an_interval() {
    let mut config = GovernorConfigBuilder::default();
    let config = config.per_second(4).burst_size(1).finish().unwrap();
    let peer = "192.0.2.1".parse().unwrap();
    config.limiter().check_key(&peer).unwrap();
    let rejected = config.limiter().check_key(&peer).unwrap_err();
    assert_eq!(rejected.quota().replenish_interval(), 4 * SECOND);
}

#[test]
fn smart_ip_believes_what_the_client_writes() {
    let mut request = Request::new(());
    let chain = "203.0.113.7, 192.0.2.1".parse().unwrap();
    request.headers_mut().insert("x-forwarded-for", chain);
    let key = SmartIpKeyExtractor.extract(&request).unwrap();
    assert_eq!(key.to_string(), "203.0.113.7");
}
