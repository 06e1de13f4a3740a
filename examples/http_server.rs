//! A real HTTP server that limits each client, and real clients that it limits.
//!
//! ```sh
//! cargo run --release --example http_server
//! ```
//!
//! Every answer has the IETF's fields (draft-ietf-httpapi-ratelimit-headers): the limit in `RateLimit-Policy`, and the
//! remaining quota in `RateLimit`. A rejection is `429 Too Many Requests` with `Retry-After`. One client keeps to its
//! rate, one sends as fast as it can, and one does the same under a backstop `Retry` that waits as long as the server
//! states. Ends after a few seconds.

use std::convert::Infallible;
use std::error::Error as StdError;
use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use backstop::rate_limiter::Decision;
use backstop::{
    Classify, ConfigError, Error, KeyedRateLimiter, Policy, Quota, Retry, TokioClock, Verdict,
};
use http_body_util::{BodyExt, Empty, Full};
use hyper::body::{Bytes, Incoming};
use hyper::header::{HeaderMap, HeaderValue, RETRY_AFTER};
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpListener;

/// Four requests a second for each client, and up to eight at once.
const RATE: u64 = 4;
const BURST: u64 = 8;

/// The client of a request. A service would take this from its authentication.
const CLIENT: &str = "x-client";
const POLICY: &str = "ratelimit-policy";
const STATE: &str = "ratelimit";

// The server

#[derive(Clone)]
struct Server {
    per_client: KeyedRateLimiter<String>,
}

impl Server {
    fn new() -> Result<Self, ConfigError> {
        let per_client = KeyedRateLimiter::builder()
            .quota(Quota::per_second(RATE).burst(BURST))
            // A flood of invented names shares one bucket, so it takes no more memory than this.
            .max_keys(10_000)
            .clock(TokioClock)
            .build()?;
        Ok(Self { per_client })
    }

    async fn listen(self) -> io::Result<SocketAddr> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?;
        tokio::spawn(async move {
            while let Ok((stream, peer)) = listener.accept().await {
                let server = self.clone();
                tokio::spawn(async move {
                    let service = service_fn(|request| {
                        let response = server.answer(&request, peer);
                        async { Ok::<_, Infallible>(response) }
                    });
                    // An error here is a client that disconnected.
                    let _ = hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(stream), service)
                        .await;
                });
            }
        });
        Ok(address)
    }

    fn answer(&self, request: &Request<Incoming>, peer: SocketAddr) -> Response<Full<Bytes>> {
        // Requests without a name are limited by address.
        let address = peer.ip().to_string();
        let name = request
            .headers()
            .get(CLIENT)
            .and_then(|name| name.to_str().ok());
        let decision = self.per_client.decide(name.unwrap_or(&address), 1);
        let mut response = match decision.allowed {
            true => Response::new("hello\n".into()),
            false => Response::new("too many requests\n".into()),
        };
        if !decision.allowed {
            *response.status_mut() = StatusCode::TOO_MANY_REQUESTS;
        }
        describe(&decision, response.headers_mut());
        response
    }
}

/// Writes a decision into the headers of the answer.
///
/// The fields have whole seconds. They are rounded up, so that a client that returns then finds a token.
fn describe(decision: &Decision, headers: &mut HeaderMap) {
    // The bucket holds what its rate earns in this window.
    let policy = format!("\"client\";q={BURST};w={}", BURST.div_ceil(RATE));
    // After a rejection, the draft requires `t` to state the same time as `Retry-After`.
    let more = decision.retry_after.or(decision.more_after);
    let reset = whole_seconds(more.unwrap_or_default());
    let state = format!("\"client\";r={};t={reset}", decision.remaining);
    for (name, value) in [(POLICY, policy), (STATE, state)] {
        if let Ok(value) = HeaderValue::try_from(value) {
            headers.insert(name, value);
        }
    }
    if let Some(after) = decision.retry_after {
        headers.insert(RETRY_AFTER, whole_seconds(after).into());
    }
}

fn whole_seconds(duration: Duration) -> u64 {
    duration.as_secs() + u64::from(duration.subsec_nanos() > 0)
}

// The clients

type Http = Client<HttpConnector, Empty<Bytes>>;

#[derive(Debug)]
enum HttpError {
    Connection,
    /// Rejected, with the time after which to retry.
    TooMany(Option<Duration>),
}

#[derive(Default)]
struct Counts {
    good: u32,
    rejected: u32,
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn StdError>> {
    let address = Server::new()?.listen().await?;
    let http: Http = Client::builder(TokioExecutor::new()).build_http();
    println!(
        "listening on http://{address}: {RATE} requests a second for each client, {BURST} at once\n"
    );

    // All headers of the first rejection, and of the answers around it.
    println!("a client sends {} requests one after the other:", BURST + 1);
    for number in 1..=BURST + 1 {
        let response = http.request(request(address, "curious")?).await?;
        if [1, 2, BURST, BURST + 1].contains(&number) {
            print_response(number, &response);
        }
        response.into_body().collect().await?;
    }

    println!("\nthree clients at the same time, for 3 s each or 20 requests:");
    println!("{:24} {:>5} {:>5} {:>9}", "client", "200", "429", "took");
    let (steady, greedy, told) = tokio::join!(
        timed(steady(&http, address)),
        timed(greedy(&http, address)),
        timed(as_told(&http, address)),
    );
    for (name, (counts, took)) in [
        ("one every 300 ms", steady),
        ("as fast as it can", greedy),
        ("the same under a Retry", told),
    ] {
        let counts = counts?;
        println!(
            "{name:24} {:>5} {:>5} {:>7.2} s",
            counts.good,
            counts.rejected,
            took.as_secs_f64()
        );
    }
    Ok(())
}

/// Keeps to its rate.
async fn steady(http: &Http, address: SocketAddr) -> Result<Counts, Box<dyn StdError>> {
    let mut counts = Counts::default();
    for _ in 0..10 {
        count(&mut counts, &get(http, address, "steady").await)?;
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    Ok(counts)
}

/// Sends the next request as soon as the last one is answered, whatever the answer.
async fn greedy(http: &Http, address: SocketAddr) -> Result<Counts, Box<dyn StdError>> {
    let mut counts = Counts::default();
    for _ in 0..20 {
        count(&mut counts, &get(http, address, "greedy").await)?;
    }
    Ok(counts)
}

/// Like `greedy`, but under a policy that obeys `Retry-After`, so every request succeeds in the end.
async fn as_told(http: &Http, address: SocketAddr) -> Result<Counts, Box<dyn StdError>> {
    let stack = (
        Retry::builder().max_attempts(5).build()?,
        Classify::errors(|error: &HttpError| match error {
            HttpError::TooMany(after) => Verdict::throttled(*after),
            HttpError::Connection => Verdict::transient(),
        }),
    );
    let mut counts = Counts::default();
    let rejected = std::sync::atomic::AtomicU32::new(0);
    for _ in 0..20 {
        let result = stack
            .call(|| async {
                let result = get(http, address, "told").await;
                if matches!(result, Err(HttpError::TooMany(_))) {
                    rejected.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                }
                result
            })
            .await;
        match result {
            Ok(()) => counts.good += 1,
            Err(Error::Operation(HttpError::TooMany(_))) => {}
            Err(error) => return Err(format!("{error:?}").into()),
        }
    }
    counts.rejected = rejected.into_inner();
    Ok(counts)
}

fn count(counts: &mut Counts, result: &Result<(), HttpError>) -> Result<(), Box<dyn StdError>> {
    match result {
        Ok(()) => counts.good += 1,
        Err(HttpError::TooMany(_)) => counts.rejected += 1,
        Err(HttpError::Connection) => return Err("the connection broke".into()),
    }
    Ok(())
}

async fn timed<F: Future>(work: F) -> (F::Output, Duration) {
    let start = Instant::now();
    let output = work.await;
    (output, start.elapsed())
}

fn request(address: SocketAddr, client: &str) -> Result<Request<Empty<Bytes>>, hyper::http::Error> {
    Request::get(format!("http://{address}/"))
        .header(CLIENT, client)
        .body(Empty::new())
}

async fn get(http: &Http, address: SocketAddr, client: &str) -> Result<(), HttpError> {
    let connection = |_| HttpError::Connection;
    let request = request(address, client).map_err(|_| HttpError::Connection)?;
    let response = http.request(request).await.map_err(connection)?;
    let (status, after) = (response.status(), retry_after(response.headers()));
    // Read to the end, so that the connection can be reused.
    response
        .into_body()
        .collect()
        .await
        .map_err(|_| HttpError::Connection)?;
    match status {
        StatusCode::TOO_MANY_REQUESTS => Err(HttpError::TooMany(after)),
        _ => Ok(()),
    }
}

fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let seconds = headers.get(RETRY_AFTER)?.to_str().ok()?.parse().ok()?;
    Some(Duration::from_secs(seconds))
}

fn print_response(number: u64, response: &Response<Incoming>) {
    println!("  request {number}: {}", response.status());
    for name in [POLICY, STATE, RETRY_AFTER.as_str()] {
        if let Some(value) = response.headers().get(name) {
            println!("    {name}: {}", value.to_str().unwrap_or("?"));
        }
    }
}
