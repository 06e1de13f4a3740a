//! A simulated server of known capacity, and clients that call it, in virtual time.

use std::cell::{Cell, RefCell};
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::future::Future;
use std::time::Duration;

use backstop::{Clock, Instant, ManualClock};
use futures::future::join_all;

/// A server with a fixed number of workers and an internal FIFO queue.
///
/// It does not notice that a caller has given up, and does the work nevertheless. That makes overload costly.
#[derive(Debug)]
pub(crate) struct Server {
    clock: ManualClock,
    /// When each worker will be free.
    free_at: RefCell<BinaryHeap<Reverse<Instant>>>,
    service: Cell<Duration>,
}

impl Server {
    /// Returns a server with `workers` workers that take `service` per request.
    pub(crate) fn new(clock: &ManualClock, workers: u32, service: Duration) -> Self {
        Self {
            clock: clock.clone(),
            free_at: RefCell::new((0..workers).map(|_| Reverse(Instant::ORIGIN)).collect()),
            service: Cell::new(service),
        }
    }

    /// Serves one request.
    pub(crate) async fn handle(&self) {
        let now = self.clock.now();
        let end = {
            let mut free_at = self.free_at.borrow_mut();
            let start = free_at.pop().map_or(now, |Reverse(at)| at.max(now));
            let end = start + self.service.get();
            free_at.push(Reverse(end));
            end
        };
        self.clock.sleep_until(end).await;
    }

    /// Returns the capacity in requests per second.
    pub(crate) fn capacity(&self) -> f64 {
        self.free_at.borrow().len() as f64 / self.service.get().as_secs_f64()
    }
}

/// Results of a run.
#[derive(Debug, Default)]
pub(crate) struct Results {
    /// Latency of each successful call.
    pub(crate) latencies: Vec<Duration>,
    /// Number of calls.
    pub(crate) offered: usize,
}

impl Results {
    /// Returns the 99th percentile of the latencies, or `None` without successful calls.
    pub(crate) fn p99(&mut self) -> Option<Duration> {
        self.latencies.sort_unstable();
        let rank = (self.latencies.len() * 99).div_ceil(100);
        let index = rank.saturating_sub(1);
        self.latencies.get(index).copied()
    }
}

/// Starts calls at a constant rate for `length`, regardless of their results. The first fifth is warm-up and does not
/// count. `call` gets the number of the call, and returns whether it succeeded.
pub(crate) fn open_loop<Fut: Future<Output = bool>>(
    clock: &ManualClock,
    per_second: f64,
    length: Duration,
    call: impl Fn(usize) -> Fut,
) -> Results {
    let calls = (per_second * length.as_secs_f64()) as usize;
    let warm_up = calls / 5;
    let start = clock.now();
    let results = RefCell::new(Results {
        offered: calls - warm_up,
        ..Results::default()
    });
    let (call, results_ref) = (&call, &results);
    clock.block_on(join_all((0..calls).map(|number| async move {
        let at = start + Duration::from_secs_f64(number as f64 / per_second);
        clock.sleep_until(at).await;
        if call(number).await && number >= warm_up {
            let latency = clock.now().saturating_duration_since(at);
            results_ref.borrow_mut().latencies.push(latency);
        }
    })));
    results.into_inner()
}
