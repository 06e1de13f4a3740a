//! A reqwest client: status classes, `Retry-After`, idempotency keys, a breaker for each host, and a limit for each tenant.
//!
//! ```sh
//! cargo run --example reqwest_client
//! ```

use std::error::Error as StdError;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::Router;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use backstop::http::{self as rules, ClassifyResponses, idempotency};
use backstop::{
    CircuitBreaker, Classify, Error, Keyed, KeyedRateLimiter, Pipeline, Policy, Quota, Retry,
    Timeout, Verdict,
};
use reqwest::{Client, Request, Response};

const fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// An invalid URL or a redirect loop is the same at each attempt, and says nothing about the server's health.
fn verdict(error: &reqwest::Error) -> Verdict {
    match error.is_builder() || error.is_redirect() {
        true => Verdict::permanent(),
        false => rules::transport_error(error),
    }
}

/// The whole recipe for one host.
async fn one_host(http: &Client, mut request: Request) -> Result<Response, Box<dyn StdError>> {
    // recipe: HTTP client, at most 12 lines
    let stack = Pipeline::new((
        Timeout::after(secs(10)),
        Retry::builder().max_attempts(4).build()?,
        CircuitBreaker::builder().build()?,
        ClassifyResponses::by(|response: &Response| (response.status(), response.headers())),
        Classify::errors(verdict),
        Timeout::after(secs(2)),
    ));
    idempotency::ensure(&request.method().clone(), request.headers_mut());
    let policy = stack.with(rules::call_options(request.method(), request.headers()));
    let copy = || request.try_clone().expect("its body is not a stream");
    Ok(policy.call(|| http.execute(copy())).await?)
    // end of recipe
}

/// A client for many hosts and tenants.
struct Api {
    http: Client,
    retry: Retry,
    breakers: Keyed<String, CircuitBreaker>,
    tenants: KeyedRateLimiter<String>,
}

impl Api {
    fn new(http: Client) -> Result<Self, backstop::ConfigError> {
        Ok(Self {
            http,
            retry: Retry::builder().build()?,
            breakers: Keyed::<String, CircuitBreaker>::builder(|_: &String| {
                CircuitBreaker::builder()
                    .build()
                    .expect("the settings are valid")
            })
            .max_keys(1000)
            .build()?,
            tenants: KeyedRateLimiter::new(Quota::per_second(2))?,
        })
    }

    async fn send(
        &self,
        tenant: &str,
        mut request: Request,
    ) -> Result<Response, Error<reqwest::Error>> {
        idempotency::ensure(&request.method().clone(), request.headers_mut());
        let breaker = self
            .breakers
            .get(request.url().host_str().unwrap_or_default());
        let limit = self.tenants.get(tenant);
        let by_head =
            ClassifyResponses::by(|response: &Response| (response.status(), response.headers()));
        let copy = || request.try_clone().expect("its body is not a stream");
        let stack = (
            limit,
            &self.retry,
            breaker,
            by_head,
            Classify::errors(verdict),
            Timeout::after(secs(2)),
        );
        stack.call(|| self.http.execute(copy())).await
    }
}

/// Answers 429 with a time, then 503, then 200, and keeps the idempotency keys of the requests.
async fn server(keys: Arc<Mutex<Vec<String>>>) -> std::io::Result<String> {
    let calls = Arc::new(AtomicU32::new(0));
    let handler = move |headers: HeaderMap| async move {
        let key = headers
            .get("idempotency-key")
            .and_then(|key| key.to_str().ok());
        keys.lock().unwrap().push(key.unwrap_or("none").to_owned());
        match calls.fetch_add(1, Ordering::Relaxed) {
            0 => (StatusCode::TOO_MANY_REQUESTS, [("retry-after", "1")]),
            1 => (StatusCode::SERVICE_UNAVAILABLE, [("x", "y")]),
            _ => (StatusCode::OK, [("x", "y")]),
        }
    };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("http://{}/", listener.local_addr()?);
    tokio::spawn(axum::serve(listener, Router::new().route("/", post(handler))).into_future());
    Ok(url)
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn StdError>> {
    let keys = Arc::new(Mutex::new(Vec::new()));
    let url = server(keys.clone()).await?;
    // Disables reqwest's own retries, which would multiply ours.
    let http = Client::builder().retry(reqwest::retry::never()).build()?;

    let start = Instant::now();
    let response = one_host(&http, http.post(&url).body("order 7").build()?).await?;
    let (status, keys) = (
        response.status(),
        std::mem::take(&mut *keys.lock().unwrap()),
    );
    println!(
        "{status} after {} attempts and {:.1} s, with the keys {keys:?}",
        keys.len(),
        start.elapsed().as_secs_f64()
    );
    assert!(status == 200 && keys.len() == 3 && keys.iter().all(|key| *key == keys[0]));
    assert!(start.elapsed() >= secs(1), "the server asked to wait");

    let api = Api::new(http.clone())?;
    for number in 1..=3 {
        match api.send("acme", http.post(&url).build()?).await {
            Ok(response) => println!("request {number} of acme: {}", response.status()),
            Err(error) => println!("request {number} of acme: {error}"),
        }
    }
    // A host that does not answer: the request was not executed, so it is repeated, and the error has the cause.
    let error = api
        .send("other", http.post("http://127.0.0.1:1/").build()?)
        .await
        .unwrap_err();
    println!("{error:#}");
    Ok(())
}
