use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body;
use axum::extract::ConnectInfo;
use axum::routing::get;
use backstop::bulkhead::limit::Aimd;
use backstop::http::ClassifyResponses;
use backstop::tower::{BulkheadLayer, PolicyLayer, RateLimitLayer, RespondLayer, key};
use backstop::{
    Bulkhead, CircuitBreaker, KeyedRateLimiter, LoadShedder, Quota, RateLimiter, Retry, Timeout,
};
use http::{Request, StatusCode};
use tower_service::Service;

use crate::ms;

fn limiter(rate: u64) -> RateLimiter {
    RateLimiter::builder()
        .quota(Quota::per_second(rate))
        .build()
        .unwrap()
}

/// `Request<Body>` is not `Clone`: a stack of five compiles, with a retry, too.
fn router() -> Router {
    let stack = (
        Timeout::after(ms(10_000)),
        Retry::builder().build().unwrap(),
        CircuitBreaker::builder().build().unwrap(),
        limiter(1000),
        ClassifyResponses::new(),
    );
    Router::new()
        .route("/", get(|| async { "hello" }))
        .route("/down", get(|| async { StatusCode::BAD_GATEWAY }))
        .layer(PolicyLayer::new(stack).respond())
}

#[tokio::test(start_paused = true)]
async fn a_router_takes_a_stack_of_five() {
    let mut router = router();
    for (path, status) in [("/", 200), ("/down", 502)] {
        let request = Request::get(path).body(Body::empty()).unwrap();
        assert_eq!(router.call(request).await.unwrap().status(), status);
    }
}

#[tokio::test(start_paused = true)]
async fn all_kinds_of_layers_fit_a_router() {
    let limits = KeyedRateLimiter::new(Quota::per_second(2)).unwrap();
    let bulkhead = Bulkhead::builder().max_concurrent(10).build().unwrap();
    let shedder = LoadShedder::builder().build().unwrap();
    let mut router: Router = Router::new()
        .route("/", get(|| async { "hello" }))
        .layer((RespondLayer::new(), BulkheadLayer::new(bulkhead.clone())))
        .layer(PolicyLayer::new(shedder).replayable(100).respond())
        .layer(RateLimitLayer::new(
            limits,
            key::peer_by(|info: &ConnectInfo<SocketAddr>| info.0),
        ));
    let mut statuses = Vec::new();
    for address in ["192.0.2.1:1", "192.0.2.1:2", "192.0.2.1:3", "192.0.2.2:1"] {
        let info = ConnectInfo(address.parse::<SocketAddr>().unwrap());
        let request = Request::get("/")
            .extension(info)
            .body(Body::empty())
            .unwrap();
        statuses.push(router.call(request).await.unwrap().status().as_u16());
    }
    assert_eq!(statuses, [200, 200, 429, 200]);
    assert_eq!(bulkhead.snapshot().in_flight, 0);
    let without = Request::get("/").body(Body::empty()).unwrap();
    assert_eq!(router.call(without).await.unwrap().status(), 400);
}

/// axum makes the services of a route again and again.
#[tokio::test(start_paused = true)]
async fn each_second_has_as_many_requests_as_the_limit_says() {
    let limiter = RateLimiter::builder()
        .quota(Quota::per_second(100).burst(1))
        .build()
        .unwrap();
    let router: Router = Router::new()
        .route("/", get(|| async { "hello" }))
        .layer(PolicyLayer::new(limiter).respond());
    for _ in 0..10 {
        let mut admitted = 0;
        for _ in 0..1000 {
            let request = Request::get("/").body(Body::empty()).unwrap();
            let response = router.clone().call(request).await.unwrap();
            admitted += u32::from(response.status() == StatusCode::OK);
            tokio::time::advance(ms(1)).await;
        }
        assert!((99..=101).contains(&admitted), "{admitted}");
    }
}

/// Real load, in real time: `cargo test --release --all-features --test tower -- --ignored --nocapture`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes 12 s of real time, and 1000 connections"]
async fn a_thousand_connections_at_a_hundred_a_second() {
    const CONNECTIONS: usize = 1000;
    const SECONDS: usize = 10;
    // The burst is spent in the first second, which is not counted.
    let limiter = limiter(100);
    let epoch = Instant::now();
    let admitted: Arc<Vec<AtomicU64>> = Arc::new((0..100).map(|_| AtomicU64::new(0)).collect());
    let log = admitted.clone();
    let handler = move || async move {
        // Where it is admitted: by the time it is read, a loaded client may be late.
        log[epoch.elapsed().as_secs() as usize].fetch_add(1, Ordering::Relaxed);
        "hello"
    };
    let app: Router = Router::new()
        .route("/", get(handler))
        .layer(PolicyLayer::new(limiter).respond());
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, app).await });
    let (stop, rejected) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(AtomicU64::new(0)),
    );
    let connections: Vec<_> = (0..CONNECTIONS)
        .map(|number| {
            let (stop, rejected) = (stop.clone(), rejected.clone());
            tokio::spawn(async move {
                use tokio::io::{AsyncReadExt, AsyncWriteExt};
                // Evenly spread over the interval of each.
                tokio::time::sleep(Duration::from_micros(200 * number as u64)).await;
                let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
                let mut buffer = vec![0; 4096];
                while !stop.load(Ordering::Relaxed) {
                    stream
                        .write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
                        .await
                        .unwrap();
                    let length = stream.read(&mut buffer).await.unwrap();
                    if buffer[..length].starts_with(b"HTTP/1.1 429") {
                        rejected.fetch_add(1, Ordering::Relaxed);
                    }
                    // 5000 a second in all.
                    tokio::time::sleep(Duration::from_millis(200)).await;
                }
            })
        })
        .collect();
    tokio::time::sleep(Duration::from_secs(SECONDS as u64 + 2)).await;
    stop.store(true, Ordering::Relaxed);
    for connection in connections {
        connection.await.unwrap();
    }
    let seconds: Vec<u64> = admitted[1..=SECONDS]
        .iter()
        .map(|count| count.load(Ordering::Relaxed))
        .collect();
    println!(
        "admitted per second: {seconds:?}; rejected in all: {}",
        rejected.load(Ordering::Relaxed)
    );
    assert!(
        seconds.iter().all(|count| (99..=101).contains(count)),
        "{seconds:?}"
    );
    assert!(rejected.load(Ordering::Relaxed) > 10_000);
}

/// A server drops the body of the answer to a `HEAD` without a poll: health checks of load balancers do not lower the
/// limit.
#[tokio::test(start_paused = true)]
async fn head_requests_are_no_overload_for_an_adaptive_limit() {
    let limit = Aimd::builder().initial(10).max(10).build().unwrap();
    let bulkhead = Bulkhead::builder().adaptive(limit).build().unwrap();
    let mut router: Router = Router::new()
        .route("/", get(|| async { "hello" }))
        .layer(BulkheadLayer::new(bulkhead.clone()).respond());
    for _ in 0..30 {
        let request = Request::head("/").body(Body::empty()).unwrap();
        assert_eq!(router.call(request).await.unwrap().status(), 200);
        tokio::time::advance(ms(10)).await;
    }
    let snapshot = bulkhead.snapshot();
    assert_eq!((snapshot.limit, snapshot.in_flight), (10, 0));
}

/// A server that has sent the declared length does not poll the body again, but drops it.
#[tokio::test]
async fn a_body_of_declared_length_is_no_overload_for_an_adaptive_limit() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let limit = Aimd::builder().initial(10).max(10).build().unwrap();
    let bulkhead = Bulkhead::builder().adaptive(limit).build().unwrap();
    let file = || async {
        let frames = ["hello ", "world"].map(Ok::<_, Infallible>);
        let body = Body::from_stream(futures::stream::iter(frames));
        ([("content-length", "11")], body)
    };
    let router = Router::new()
        .route("/", get(file))
        .layer(BulkheadLayer::new(bulkhead.clone()).respond());
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, router).await });
    for _ in 0..3 {
        let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
        let request = b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
        stream.write_all(request).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert!(answer.ends_with("\r\n\r\nhello world"), "{answer}");
    }
    let snapshot = bulkhead.snapshot();
    assert_eq!((snapshot.limit, snapshot.in_flight), (10, 0));
}
