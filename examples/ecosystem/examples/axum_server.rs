//! An axum server: a limit for each client with headers, a limit for all, shedding by priority, and a shutdown that stops
//! retries.
//!
//! ```sh
//! cargo run --release --example axum_server
//! ```

use std::error::Error as StdError;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{ConnectInfo, Request, State};
use axum::routing::get;
use backstop::http as rules;
use backstop::tower::{BulkheadLayer, PolicyLayer, RateLimitLayer, RespondLayer, key};
use backstop::{
    Bulkhead, CallOptions, Classify, ConfigError, KeyedRateLimiter, LoadShedder, Policy, Priority,
    Quota, RateLimiter, Retry, Timeout,
};

/// A client for what the server itself calls, whose retries stop when the server does.
#[derive(Clone)]
struct Upstream {
    stopping: Arc<AtomicBool>,
    retry: Retry,
}

impl Upstream {
    async fn load(&self) -> Result<&'static str, backstop::Error<std::io::Error>> {
        let keeps_on =
            Classify::retry_if(|_: &std::io::Error| !self.stopping.load(Ordering::Relaxed));
        (&self.retry, keeps_on)
            .call(|| async { Err(std::io::Error::other("down")) })
            .await
    }
}

fn priority(request: &Request<Body>) -> CallOptions {
    let is_batch = request.headers().contains_key("x-batch");
    let options = rules::call_options(request.method(), request.headers());
    options.priority(if is_batch {
        Priority::LOW
    } else {
        Priority::NORMAL
    })
}

fn router(upstream: Upstream) -> Result<Router, ConfigError> {
    // A limit for each client, with headers.
    let limits = KeyedRateLimiter::new(Quota::per_second(2).burst(5))?;
    let per_client = RateLimitLayer::new(
        limits,
        key::peer_by(|info: &ConnectInfo<SocketAddr>| info.0),
    );

    // A limit for all, and shedding of the least important requests.
    let all = RateLimiter::builder()
        .quota(Quota::per_second(10_000))
        .build()?;
    let stack = (
        LoadShedder::builder().build()?,
        all,
        Timeout::after(Duration::from_secs(5)),
    );
    let shared = PolicyLayer::new(stack).options(priority).respond();

    // Requests in flight, to the end of their bodies.
    let in_flight = (
        RespondLayer::new(),
        BulkheadLayer::new(Bulkhead::builder().max_concurrent(500).build()?),
    );

    Ok(Router::new()
        .route("/", get(|| async { "hello\n" }))
        .route(
            "/upstream",
            get(|State(upstream): State<Upstream>| async move {
                upstream
                    .load()
                    .await
                    .map_err(|_| axum::http::StatusCode::BAD_GATEWAY)
            }),
        )
        .layer(in_flight)
        .layer(shared)
        .layer(per_client)
        .with_state(upstream))
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn StdError>> {
    let upstream = Upstream {
        stopping: Arc::default(),
        retry: Retry::builder()
            .max_attempts(100)
            .max_elapsed(Duration::from_secs(60))
            .build()?,
    };
    let stopping = upstream.stopping.clone();
    let app = router(upstream)?.into_make_service_with_connect_info::<SocketAddr>();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("http://{}", listener.local_addr()?);
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    // A service waits for `tokio::signal::ctrl_c()` instead.
    let server = axum::serve(listener, app).with_graceful_shutdown(async move {
        let _ = stopped.await;
        stopping.store(true, Ordering::Relaxed);
    });
    let server = tokio::spawn(server.into_future());

    let http = reqwest::Client::builder()
        .retry(reqwest::retry::never())
        .build()?;
    for number in 1..=6 {
        let response = http.get(&url).send().await?;
        let field = |name: &str| {
            response
                .headers()
                .get(name)
                .map_or("-", |value| value.to_str().unwrap_or("?"))
        };
        println!(
            "request {number}: {} ratelimit {} retry-after {}",
            response.status(),
            field("ratelimit"),
            field("retry-after")
        );
        assert_eq!(
            response.status().as_u16(),
            if number < 6 { 200 } else { 429 }
        );
    }

    // A request that would be retried for a minute, and a shutdown.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let pending = tokio::spawn(http.get(format!("{url}/upstream")).send());
    tokio::time::sleep(Duration::from_millis(300)).await;
    let start = std::time::Instant::now();
    let _ = stop.send(());
    println!(
        "shutdown: the last request ends with {}",
        pending.await??.status()
    );
    drop(http);
    server.await??;
    println!("stopped after {:.1} s", start.elapsed().as_secs_f64());
    Ok(())
}
