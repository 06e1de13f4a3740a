//! Picks of one node of a thousand by latency and load, with what a call records when it ends.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use backstop::endpoints::Endpoint;
use backstop::{Endpoints, FastClock};
use tower::Service;
use tower::balance::p2c::Balance;
use tower::discover::ServiceList;
use tower::load::{CompleteOnResponse, PeakEwma, PendingRequests};

use super::Row;
use crate::measure::Candidate;
use crate::work::{Failure, blocking, future, leak, ready, sole_service};

const NODES: usize = 1000;
const RTT: Duration = Duration::from_millis(1);
const DECAY: Duration = Duration::from_secs(10);

pub fn rows() -> Vec<Row> {
    let nodes = (0..NODES).map(|node| Endpoint::new(format!("node {node}"), node));
    let endpoints = Endpoints::builder().nodes(nodes).clock(FastClock::new());
    let endpoints = leak(endpoints.build().expect("the settings are sound"));
    let acquire = || {
        blocking("endpoints", || {
            let permit = endpoints.try_acquire().expect("all nodes are available");
            permit.success();
        })
    };
    let mut rows = vec![];
    for threads in [1, 2] {
        rows.push(Row::race(
            "endpoints, acquire and release, 1000 nodes",
            threads,
            1.0,
            acquire(),
            vec![by_hand()],
        ));
    }
    rows.push(Row::race(
        "endpoints, call of a ready operation, 1000 nodes",
        1,
        1.0,
        future("endpoints", || endpoints.call(|_| ready())),
        vec![
            sole_service("tower p2c, peak EWMA", peak_ewma()),
            sole_service("tower p2c, pending requests", pending_requests()),
        ],
    ));
    rows.push(Row::no_allocations(
        "endpoints, allocations of a call",
        future("endpoints", || endpoints.call(|_| ready())),
        vec![sole_service("tower p2c, peak EWMA", peak_ewma())],
    ));
    rows
}

/// A power of two choices over a moving average of latencies, as it is written by hand: no ejection, no update of
/// the nodes.
fn by_hand() -> Candidate {
    struct Node {
        in_flight: AtomicU32,
        /// Moving average.
        nanos: AtomicU64,
    }
    let node = |_| {
        Arc::new(Node {
            in_flight: AtomicU32::new(0),
            nanos: AtomicU64::new(1000),
        })
    };
    let nodes: Vec<Arc<Node>> = (0..NODES).map(node).collect();
    let random = AtomicU64::new(1);
    blocking("by hand", move || {
        let mut bits = random
            .fetch_add(1, Ordering::Relaxed)
            .wrapping_mul(0x9e37_79b9_7f4a_7c15);
        bits ^= bits >> 32;
        let pair = [bits as usize % NODES, (bits >> 20) as usize % NODES].map(|at| &nodes[at]);
        let cost = |node: &Node| {
            let load = node.in_flight.load(Ordering::Relaxed) + 1;
            node.nanos.load(Ordering::Relaxed) * u64::from(load)
        };
        let best = match cost(pair[0]) <= cost(pair[1]) {
            true => pair[0],
            false => pair[1],
        };
        let node = best.clone();
        node.in_flight.fetch_add(1, Ordering::Relaxed);
        let start = Instant::now();
        let took = start.elapsed().as_nanos() as u64;
        let average = node.nanos.load(Ordering::Relaxed);
        let average = average - average / 16 + took / 16;
        node.nanos.store(average, Ordering::Relaxed);
        node.in_flight.fetch_sub(1, Ordering::Relaxed);
    })
}

/// A node of tower's.
#[derive(Clone)]
struct Ready;

impl Service<()> for Ready {
    type Response = u64;
    type Error = Failure;
    type Future = std::future::Ready<Result<u64, Failure>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, (): ()) -> Self::Future {
        ready()
    }
}

fn peak_ewma() -> impl Service<(), Response = u64, Future: Send> + Send + 'static {
    let _entered = crate::work::enter();
    let decay = DECAY.as_nanos() as f64;
    let node = |_| PeakEwma::new(Ready, RTT, decay, CompleteOnResponse::default());
    Balance::new(ServiceList::new::<()>(
        (0..NODES).map(node).collect::<Vec<_>>(),
    ))
}

fn pending_requests() -> impl Service<(), Response = u64, Future: Send> + Send + 'static {
    let node = |_| PendingRequests::new(Ready, CompleteOnResponse::default());
    Balance::new(ServiceList::new::<()>(
        (0..NODES).map(node).collect::<Vec<_>>(),
    ))
}
