//! The effect of a hedge on the slow tail of a real HTTP server, and its cost.
//!
//! ```sh
//! cargo run --release --example hedge
//! ```
//!
//! One answer in a hundred takes 100 times longer than the others. Three clients send the same calls at the same rate:
//! one waits, one sends a copy after a fixed delay, and one only limits the extra load to 2 % of the requests.

mod server;

use std::error::Error;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use backstop::{Hedge, Policy};
use futures::future::join_all;
use http_body_util::{BodyExt, Empty};
use hyper::body::Bytes;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;

use self::server::{FAST, Server};

const CALLS: u32 = 2000;
/// Interval between the starts of two calls, whether or not earlier ones have ended.
const EVERY: Duration = Duration::from_millis(3);
/// Calls at the start that are not measured: the hedge has no latencies yet, and connections are being opened.
const WARM_UP: usize = 300;

type Http = Client<HttpConnector, Empty<Bytes>>;

/// The results of one client.
struct Run {
    name: &'static str,
    /// Sorted.
    latencies: Vec<Duration>,
    requests: u64,
    copies: String,
}

impl Run {
    fn quantile(&self, quantile: f64) -> Duration {
        let last = self.latencies.len() - 1;
        self.latencies[(last as f64 * quantile) as usize]
    }

    /// The number of calls in each column of the plot.
    fn columns(&self) -> [usize; COLUMNS] {
        let mut counts = [0; COLUMNS];
        for took in &self.latencies {
            counts[column(*took)] += 1;
        }
        counts
    }
}

async fn hello(client: &Http, address: SocketAddr) -> Result<Bytes, Box<dyn Error + Send + Sync>> {
    let response = client.get(format!("http://{address}/").parse()?).await?;
    Ok(response.into_body().collect().await?.to_bytes())
}

async fn run(
    name: &'static str,
    hedge: Option<Hedge>,
) -> Result<Run, Box<dyn Error + Send + Sync>> {
    let (server, address) = Server::start(7).await?;
    let client: Http = Client::builder(TokioExecutor::new()).build_http();
    let start = tokio::time::Instant::now();
    let calls = join_all((0..CALLS).map(|number| {
        let (client, hedge) = (&client, &hedge);
        async move {
            tokio::time::sleep_until(start + number * EVERY).await;
            let began = Instant::now();
            hedge.call(|| hello(client, address)).await?;
            Ok::<_, backstop::Error<_>>(began.elapsed())
        }
    }));
    let latencies: Result<Vec<_>, _> = calls.await.into_iter().collect();
    let mut latencies = latencies
        .map_err(backstop::Error::into_boxed)?
        .split_off(WARM_UP);
    latencies.sort();
    let copies = hedge.map_or(String::new(), |hedge| {
        let seen = hedge.snapshot();
        let delay = seen
            .delay
            .map_or(String::new(), |delay| format!("after {delay:.1?}: "));
        format!(
            "{delay}{} sent, {} won, {} in vain",
            seen.launched, seen.won, seen.lost
        )
    });
    Ok(Run {
        name,
        latencies,
        requests: server.requests(),
        copies,
    })
}

fn print(runs: &[Run]) {
    println!(
        "{:<22} {:>8} {:>8} {:>8} {:>8} {:>14}   copies",
        "", "p50", "p90", "p99", "p99.9", "requests/call"
    );
    for run in runs {
        let [p50, p90, p99, p999] = [0.5, 0.9, 0.99, 0.999]
            .map(|quantile| format!("{:.1} ms", run.quantile(quantile).as_secs_f64() * 1e3));
        let sent = run.requests as f64 / f64::from(CALLS);
        let (name, copies) = (run.name, &run.copies);
        println!("{name:<22} {p50:>8} {p90:>8} {p99:>8} {p999:>8} {sent:>14.3}   {copies}");
    }
    println!("\nlatencies, on logarithmic scales: how long a call took, and how many calls did");
    for run in runs {
        println!("{:<22} {}", run.name, bars(&run.columns()));
    }
    let mut axis = String::new();
    for millis in [5, 10, 20, 50, 100, 200, 500] {
        let at = column(Duration::from_millis(millis));
        axis += &format!("{:at$}", "", at = at.saturating_sub(axis.len()));
        axis += &format!("|{millis} ms");
    }
    println!("{:<22} {axis}", "");
}

/// The columns of the plot: 20 for each factor of 10, from 4 ms on.
const COLUMNS: usize = 50;

fn column(took: Duration) -> usize {
    let decades = (took.as_secs_f64() / 0.004).log10();
    ((decades * 20.0).max(0.0) as usize).min(COLUMNS - 1)
}

/// Returns a bar for each count. Each step in height doubles the count.
fn bars(counts: &[usize]) -> String {
    const BARS: [char; 9] = [' ', '▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let steps = |count: usize| (usize::BITS - count.leading_zeros()) as usize;
    counts
        .iter()
        .map(|&count| BARS[steps(count).min(BARS.len() - 1)])
        .collect()
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error + Send + Sync>> {
    let after = Hedge::builder().after(FAST * 6);
    let price = Hedge::builder().max_extra_load(0.02);
    let runs = [
        run("without", None).await?,
        run("after a fixed delay", Some(after.build()?)).await?,
        run("at most 2 % more load", Some(price.build()?)).await?,
    ];
    print(&runs);
    Ok(())
}
