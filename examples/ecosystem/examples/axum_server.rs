//! An axum server: a limit for each client with headers, a limit for all, shedding by priority, and a shutdown that stops
//! retries.
//!
//! ```sh
//! cargo run --example axum_server
//! ```

use std::error::Error as StdError;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{ConnectInfo, Request, State};
use axum::http::StatusCode;
use axum::routing::get;
use backstop::http as rules;
use backstop::tower::{PolicyLayer, RateLimitLayer, key};
use backstop::{
    Bulkhead, CallOptions, Classify, ConfigError, KeyedRateLimiter, LoadShedder, Policy, Priority,
    Quota, RateLimiter, Retry, Timeout,
};

/// A client for the upstream service, whose retries stop when the server shuts down.
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
    // recipe: inbound limit with headers, at most 8 lines
    let limits = KeyedRateLimiter::new(Quota::per_second(2).burst(5))?;
    let per_client = RateLimitLayer::new(
        limits,
        key::peer_by(|info: &ConnectInfo<SocketAddr>| info.0),
    );
    // end of recipe

    // Limits for all clients: calls wait in the bulkhead, and the shedder inside it rejects the least important by
    // their delay.
    let stack = (
        Bulkhead::builder()
            .max_concurrent(10)
            .max_waiting(1000)
            .build()?,
        LoadShedder::builder().build()?,
        RateLimiter::new(Quota::per_second(10_000))?,
        Timeout::after(Duration::from_secs(5)),
    );
    // recipe: tower layer, at most 2 lines
    let for_all = PolicyLayer::new(stack).options(priority).respond();
    // end of recipe

    let limited = Router::new()
        .route("/", get(|| async { "hello\n" }))
        // recipe: tower layer, at most 2 lines
        .layer(for_all.clone())
        // end of recipe
        // recipe: inbound limit with headers, at most 8 lines
        .layer(per_client);
    // end of recipe
    let others = Router::new()
        .route("/report", get(report))
        .route("/upstream", get(ask_upstream))
        .layer(for_all);
    Ok(limited.merge(others).with_state(upstream))
}

async fn report() {
    tokio::time::sleep(Duration::from_millis(20)).await;
}

async fn ask_upstream(State(upstream): State<Upstream>) -> Result<&'static str, StatusCode> {
    let answer = upstream.load().await;
    answer.map_err(|_| StatusCode::BAD_GATEWAY)
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
    // A real service waits for `tokio::signal::ctrl_c()` instead.
    let server = axum::serve(listener, app).with_graceful_shutdown(async move {
        let _ = stopped.await;
        stopping.store(true, Ordering::Relaxed);
    });
    let server = tokio::spawn(server.into_future());
    let http = reqwest::Client::builder()
        .retry(reqwest::retry::never())
        .build()?;

    one_client(&http, &url).await?;
    overload(&http, &url).await?;

    // A request that would be retried for a minute, and a shutdown.
    let pending = tokio::spawn(http.get(format!("{url}/upstream")).send());
    tokio::time::sleep(Duration::from_millis(300)).await;
    let start = std::time::Instant::now();
    let _ = stop.send(());
    let status = pending.await??.status();
    println!("shutdown: the last request ends with {status}");
    assert_eq!(status, StatusCode::BAD_GATEWAY);
    drop(http);
    server.await??;
    println!("stopped after {:.1} s", start.elapsed().as_secs_f64());
    Ok(())
}

/// Sends more requests of one client than its limit allows.
async fn one_client(http: &reqwest::Client, url: &str) -> reqwest::Result<()> {
    for number in 1..=6 {
        let response = http.get(url).send().await?;
        let field = |name: &str| {
            let value = response.headers().get(name);
            value.map_or("-", |value| value.to_str().unwrap_or("?"))
        };
        println!(
            "request {number}: {} ratelimit {} retry-after {}",
            response.status(),
            field("ratelimit"),
            field("retry-after")
        );
        let expected = if number < 6 { 200 } else { 429 };
        assert_eq!(response.status().as_u16(), expected);
    }
    Ok(())
}

/// Sends three times the requests that the server can answer, most of them unimportant.
async fn overload(http: &reqwest::Client, url: &str) -> Result<(), Box<dyn StdError>> {
    let clients = (0..150).map(|client| {
        let is_batch = client % 5 != 0;
        let (http, url) = (http.clone(), format!("{url}/report"));
        tokio::spawn(async move {
            let mut answered = [0; 2];
            for _ in 0..20 {
                let mut request = http.get(&url);
                if is_batch {
                    request = request.header("x-batch", "1");
                }
                let is_answered = request.send().await.is_ok_and(|r| r.status() == 200);
                answered[usize::from(is_answered)] += 1;
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            (is_batch, answered)
        })
    });
    let mut sums = [[0; 2]; 2];
    for client in clients.collect::<Vec<_>>() {
        let (is_batch, [shed, answered]) = client.await?;
        let sum = &mut sums[usize::from(is_batch)];
        *sum = [sum[0] + shed, sum[1] + answered];
    }
    for (name, [shed, answered]) in ["users", "batch jobs"].into_iter().zip(sums) {
        println!(
            "overload: {answered} of {} requests of {name} answered",
            shed + answered
        );
    }
    let share = |[shed, answered]: [u32; 2]| f64::from(answered) / f64::from(shed + answered);
    assert!(
        share(sums[0]) > share(sums[1]),
        "the least important are shed first"
    );
    Ok(())
}
