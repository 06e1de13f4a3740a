//! Three real HTTP servers. One dies, one becomes slow, the dead one returns; the client notices little.
//!
//! ```sh
//! cargo run --release --example failover
//! ```
//!
//! The client has the three as `Endpoints` inside a retry: attempts of one call go to different nodes, a node that
//! fails is ejected, a slow node gets few calls, and a returning node has a slow start. For each half second, the
//! example prints where the attempts went and the results of the calls.

mod server;

use std::error::Error as StdError;
use std::net::SocketAddr;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use backstop::endpoints::Node;
use backstop::{Backoff, Endpoints, Policy, Retry, Timeout};
use futures::future::join_all;
use http_body_util::{BodyExt, Empty};
use hyper::body::Bytes;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;

use self::server::Server;

type Http = Client<HttpConnector, Empty<Bytes>>;
type BoxError = Box<dyn StdError + Send + Sync>;

/// Interval between the starts of two calls, whether or not earlier ones have ended.
const EVERY: Duration = Duration::from_millis(4);
const SLICE: Duration = Duration::from_millis(500);
const SLICES: usize = 12;

/// The changes at the starts of slices.
const SCRIPT: [(usize, &str); 4] = [
    (2, "a dies"),
    (5, "b is 30 times slower"),
    (8, "a returns"),
    (10, "b is fast again"),
];

/// Counts of one slice.
#[derive(Default)]
struct Slice {
    /// Attempts that went to each node.
    attempts: [u32; 3],
    latencies: Vec<Duration>,
    failed: u32,
}

struct Board {
    start: Instant,
    slices: Mutex<Vec<Slice>>,
}

impl Board {
    fn note(&self, note: impl FnOnce(&mut Slice)) {
        let slice = (self.start.elapsed().as_secs_f64() / SLICE.as_secs_f64()) as usize;
        let mut slices = self.slices.lock().expect("no thread panics");
        if slices.len() <= slice {
            slices.resize_with(slice + 1, Slice::default);
        }
        note(&mut slices[slice]);
    }
}

async fn get(client: &Http, address: SocketAddr) -> Result<Bytes, BoxError> {
    let response = client.get(format!("http://{address}/").parse()?).await?;
    Ok(response.into_body().collect().await?.to_bytes())
}

async fn act(servers: [&Server; 3], at: usize) -> Result<(), BoxError> {
    match at {
        2 => servers[0].kill(),
        5 => servers[1].set_slow(true),
        8 => servers[0].restart().await?,
        _ => servers[1].set_slow(false),
    }
    Ok(())
}

fn print(slices: &[Slice]) {
    println!(
        "{:>6}  {:<22} {:<32} {:>6} {:>8} {:>7}",
        "time", "", "attempts per node", "calls", "p99", "failed"
    );
    for (at, slice) in slices.iter().take(SLICES).enumerate() {
        let event = SCRIPT.iter().find(|(when, _)| *when == at);
        let event = event.map_or("", |(_, what)| what);
        let all = slice.attempts.iter().sum::<u32>().max(1);
        let bar: String = ["a", "b", "c"]
            .into_iter()
            .zip(slice.attempts)
            .map(|(node, attempts)| {
                node.repeat((attempts as f64 * 30.0 / f64::from(all)).round() as usize)
            })
            .collect();
        let mut latencies = slice.latencies.clone();
        latencies.sort();
        let p99 = latencies
            .get(latencies.len() * 99 / 100)
            .map_or(0.0, Duration::as_secs_f64);
        let calls = latencies.len() as u32 + slice.failed;
        let time = (SLICE * at as u32).as_secs_f64();
        println!(
            "{time:>4.1} s  {event:<22} {bar:<32} {calls:>6} {:>5.0} ms {:>7}",
            p99 * 1e3,
            slice.failed
        );
    }
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let [a, b, c] = [
        Server::start().await?,
        Server::start().await?,
        Server::start().await?,
    ];
    let endpoints = Endpoints::builder()
        .node("a", (0, a.address()))
        .node("b", (1, b.address()))
        .node("c", (2, c.address()))
        // One of three nodes may be ejected, and is probed again soon, because the example lasts only seconds.
        .max_ejected(0.34)
        .eject_after(3)
        .base_ejection(Duration::from_millis(700))
        .slow_start(Duration::from_millis(1000))
        .decay(Duration::from_millis(500))
        .build()?;
    let stack = (
        Timeout::after(Duration::from_secs(1)),
        Retry::builder()
            .backoff(Backoff::fixed(Duration::from_millis(5)))
            .build()?,
        endpoints.clone(),
        Timeout::after(Duration::from_millis(250)),
    );

    let client: Http = Client::builder(TokioExecutor::new()).build_http();
    let board = Board {
        start: Instant::now(),
        slices: Mutex::default(),
    };
    let start = tokio::time::Instant::now();
    let until = SLICE * SLICES as u32;
    let numbers = 0..(until.as_nanos() / EVERY.as_nanos()) as u32;
    let calls = numbers.map(|number| {
        let (client, stack, endpoints, board) = (&client, &stack, &endpoints, &board);
        async move {
            tokio::time::sleep_until(start + number * EVERY).await;
            let attempt = |node: Node<(usize, SocketAddr)>| async move {
                let (index, address) = *node;
                board.note(|slice| slice.attempts[index] += 1);
                get(client, address).await
            };
            let began = Instant::now();
            let result = stack.call_with(endpoints.each(attempt)).await;
            board.note(|slice| match result {
                Ok(_) => slice.latencies.push(began.elapsed()),
                Err(_) => slice.failed += 1,
            });
        }
    });
    let script = async {
        for (at, _) in SCRIPT {
            tokio::time::sleep_until(start + SLICE * at as u32).await;
            act([&a, &b, &c], at).await?;
        }
        Ok::<_, BoxError>(())
    };
    let (_, script) = tokio::join!(join_all(calls), script);
    script?;

    print(&board.slices.lock().expect("no thread panics"));
    let nodes = endpoints.snapshot().nodes;
    let ejected = nodes
        .iter()
        .map(|node| format!("{} {} times", node.name, node.ejections));
    println!("\nejected: {}", ejected.collect::<Vec<_>>().join(", "));
    Ok(())
}
