//! A flaky HTTP server and a client, first without policies, then under backstop's `Standard` stack.
//!
//! ```sh
//! cargo run --release --example quickstart             # a table, and what each policy did
//! cargo run --release --example quickstart -- --json   # one JSON object
//! cargo run --release --example quickstart -- --check  # fails if a target is missed
//! ```
//!
//! The server has latency spikes, answers `503` with `Retry-After`, resets connections, and is down for a third of a
//! second. Both runs face the same script.

mod heard;
mod report;
mod server;

use std::error::Error as StdError;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use backstop::circuit_breaker::Trip;
use backstop::{
    Backoff, BoxPolicy, CircuitBreaker, Classify, ClassifyErrors, ConfigError, Error, Health,
    Quota, Retry, Standard, Verdict,
};
use futures::future::join_all;
use http_body_util::{BodyExt, Empty};
use hyper::body::Bytes;
use hyper::header::RETRY_AFTER;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use indicatif::{ProgressBar, ProgressStyle};

use self::heard::Heard;
use self::report::{Call, Run};
use self::server::Server;

const SEED: u64 = 42;
const CALLS: u32 = 2000;
/// Interval between the starts of two calls, whether or not earlier ones have ended.
const EVERY: Duration = Duration::from_micros(2500);

/// Errors of a request.
#[derive(Debug)]
enum HttpError {
    /// No answer, or a part of one.
    Connection,
    /// An error status, and the wait that the server asked for.
    Status(u16, Option<Duration>),
}

/// Returns the verdict of an error for the policies.
fn verdict(error: &HttpError) -> Verdict {
    match error {
        HttpError::Connection => Verdict::transient(),
        HttpError::Status(503, after) => Verdict::throttled(*after),
        // The quota of this caller is used up, which says nothing about the server.
        HttpError::Status(429, after) => Verdict::throttled(*after).with_health(Health::Neutral),
        HttpError::Status(500.., _) => Verdict::transient(),
        HttpError::Status(..) => Verdict::permanent(),
    }
}

/// The wait that the server asks for when it is busy.
const HINT: Duration = Duration::from_secs(1);

/// The time limits of a call and of an attempt.
const TOTAL: Duration = Duration::from_secs(3);
const ATTEMPT: Duration = Duration::from_millis(150);

/// The stack: the first policy is the outermost.
type Stack = (Standard, ClassifyErrors<fn(&HttpError) -> Verdict>);

fn stack(heard: &Arc<Heard>) -> Result<Stack, ConfigError> {
    let heard = heard.clone();
    let retry = Retry::builder()
        // An open circuit rejects some attempts, which count too but cost the server nothing.
        .max_attempts(12)
        .backoff(Backoff::exponential(Duration::from_millis(150)))
        // Waits until a circuit is half-open, if the call has enough time left.
        .retry_open_circuit(true);
    // After ten consecutive failures the circuit opens, and then admits a few probes.
    let breaker = CircuitBreaker::builder()
        .trip_on(Trip::consecutive(10))
        .break_for(Backoff::fixed(Duration::from_millis(100)));
    let standard = Standard::builder()
        .name("hello")
        // The rate that was agreed with the server.
        .quota(Quota::per_second(1000).burst(100))
        .total_timeout(TOTAL)
        .retry(retry)
        .breaker(breaker)
        .attempt_timeout(ATTEMPT)
        .observer(move |event: &backstop::Event| heard.add(event));
    let classify = Classify::errors(verdict as fn(&HttpError) -> Verdict);
    Ok((standard.build()?, classify))
}

#[derive(Clone)]
struct Api {
    client: Client<HttpConnector, Empty<Bytes>>,
    address: SocketAddr,
}

impl Api {
    fn new(address: SocketAddr) -> Self {
        Self {
            client: Client::builder(TokioExecutor::new()).build_http(),
            address,
        }
    }

    async fn hello(&self) -> Result<Bytes, HttpError> {
        let uri = format!("http://{}/", self.address);
        let uri = uri.parse().map_err(|_| HttpError::Connection)?;
        let response = self.client.get(uri).await;
        let response = response.map_err(|_| HttpError::Connection)?;
        let status = response.status();
        if !status.is_success() {
            let after = response.headers().get(RETRY_AFTER);
            let seconds = after.and_then(|value| value.to_str().ok()?.parse().ok());
            let after = seconds.map(Duration::from_secs);
            return Err(HttpError::Status(status.as_u16(), after));
        }
        let body = response.into_body().collect().await;
        body.map(|body| body.to_bytes())
            .map_err(|_| HttpError::Connection)
    }
}

/// Starts a server and calls it at a fixed rate, through `policy`.
async fn run(
    policy: BoxPolicy<Bytes, HttpError>,
    bar: &ProgressBar,
) -> Result<Run, Box<dyn StdError + Send + Sync>> {
    let (server, address) = Server::start(SEED).await?;
    let api = Api::new(address);
    let start = tokio::time::Instant::now();
    let calls = join_all((0..CALLS).map(|number| {
        let (api, policy, server) = (&api, &policy, &server);
        async move {
            tokio::time::sleep_until(start + number * EVERY).await;
            let outage = server.is_down();
            let began = Instant::now();
            let result = policy.call(|| api.hello()).await;
            bar.inc(1);
            Call {
                good: result.is_ok(),
                outage,
                took: began.elapsed(),
                failed: reason(result.err()),
            }
        }
    }));
    Ok(Run::new(calls.await, server.counts()))
}

/// Returns why a policy ended the call, if one did.
fn reason(error: Option<Error<HttpError>>) -> Option<&'static str> {
    match error? {
        Error::TimedOut(_) => Some("timed_out"),
        error => Some(error.reason()?.as_str()),
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn StdError + Send + Sync>> {
    let has = |name| std::env::args().any(|argument| argument == name);
    let style =
        ProgressStyle::with_template("{msg:>8} [{bar:40}] {pos}/{len}")?.progress_chars("=> ");
    let bar = |name| {
        let bar = ProgressBar::new(CALLS.into()).with_style(style.clone());
        bar.with_message(name)
    };

    // The empty tuple passes calls through.
    let bare = run(BoxPolicy::new(()), &bar("bare")).await?;
    let heard = Arc::new(Heard::default());
    let stack = stack(&heard)?;
    let backstop = run(BoxPolicy::new(stack), &bar("backstop")).await?;

    if has("--json") {
        println!("{}", report::json(&bare, &backstop));
    } else {
        println!("\n{}", report::table(&bare, &backstop));
        println!("{}", report::story(&backstop, &heard));
    }
    let missed = report::missed(&bare, &backstop);
    if has("--check") && !missed.is_empty() {
        return Err(format!("missed: {}", missed.join(", ")).into());
    }
    Ok(())
}
