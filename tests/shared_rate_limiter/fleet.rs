//! Simulated processes on one store, in virtual time.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use backstop::shared_rate_limiter::SharedRateLimiterBuilder;
use backstop::store::{MemoryStore, Reply, Store, StoreError, Take, Taken};
use backstop::{Clock, ManualClock, Quota, Rejected, SharedRateLimiter};

pub(crate) const MILLISECOND: Duration = Duration::from_millis(1);

/// A call that waits for its answer.
struct Pending {
    node: usize,
    cost: u64,
    /// Whether one central limiter admits it.
    central: bool,
    future: Pin<Box<dyn Future<Output = Result<(), Rejected>>>>,
}

/// The connection of a process to the store, which can be cut.
#[derive(Clone)]
struct Connection(MemoryStore, Arc<AtomicBool>);

impl Store for Connection {
    fn take(&self, takes: Vec<Take>, reply: Reply<Vec<Taken>>) {
        match self.1.load(Ordering::Relaxed) {
            false => self.0.take(takes, reply),
            true => reply.send(Err(StoreError::new("cut"))),
        }
    }
}

/// The processes, each with a clock of its own.
pub(crate) struct Fleet {
    pub(crate) time: ManualClock,
    pub(crate) store: MemoryStore,
    pub(crate) clocks: Vec<ManualClock>,
    pub(crate) nodes: Vec<SharedRateLimiter>,
    /// Whether a node is cut off from the store.
    pub(crate) cut: Vec<Arc<AtomicBool>>,
    pending: Vec<Pending>,
    /// Calls admitted and rejected, by node.
    pub(crate) admitted: Vec<u64>,
    pub(crate) rejected: Vec<u64>,
    /// Tokens a nanosecond.
    rate: f64,
    /// The smallest burst that explains what was admitted until `explained_at`, and what of it is used.
    pub(crate) burst: f64,
    used: f64,
    explained_at: u64,
    /// One central limiter that gets the same calls: its burst, its tokens, and when it had them.
    central: (f64, f64, u64),
    pub(crate) centrally_admitted: u64,
    /// Calls rejected that the central limiter admits.
    pub(crate) falsely_rejected: u64,
}

impl Fleet {
    pub(crate) fn new(
        nodes: usize,
        quota: Quota,
        settings: impl Fn(SharedRateLimiterBuilder) -> SharedRateLimiterBuilder,
    ) -> Self {
        let time = ManualClock::new();
        let store = MemoryStore::new(time.clone());
        let clocks: Vec<ManualClock> = (0..nodes).map(|_| ManualClock::new()).collect();
        let cut: Vec<Arc<AtomicBool>> = clocks.iter().map(|_| Arc::default()).collect();
        let nodes = clocks.iter().enumerate().map(|(number, clock)| {
            // No two clocks agree.
            clock.advance(Duration::from_secs(17 * number as u64));
            let builder = SharedRateLimiter::builder()
                .store(Connection(store.clone(), cut[number].clone()))
                .key("key")
                .quota(quota)
                .seed(number as u64)
                .clock(clock.clone());
            settings(builder).build().unwrap()
        });
        let nodes: Vec<SharedRateLimiter> = nodes.collect();
        Self {
            time,
            store,
            admitted: vec![0; nodes.len()],
            rejected: vec![0; nodes.len()],
            clocks,
            nodes,
            cut,
            pending: Vec::new(),
            rate: quota.tokens() as f64 / quota.period().as_nanos() as f64,
            burst: 0.0,
            used: 0.0,
            explained_at: 0,
            central: (quota.limit() as f64, quota.limit() as f64, 0),
            centrally_admitted: 0,
            falsely_rejected: 0,
        }
    }

    /// Makes a call that does not wait for its turn.
    pub(crate) fn call(&mut self, node: usize, cost: u64) {
        let limiter = self.nodes[node].clone();
        let future = Box::pin(async move { limiter.try_acquire_n(cost).await });
        let central = self.ask_central(cost);
        self.pending.push(Pending {
            node,
            cost,
            central,
            future,
        });
        self.poll();
    }

    fn ask_central(&mut self, cost: u64) -> bool {
        let now = self.time.now().as_nanos();
        let (burst, tokens, at) = self.central;
        let tokens = (tokens + (now - at) as f64 * self.rate).min(burst);
        let admits = tokens + 1e-9 >= cost as f64;
        let debited = if admits { cost } else { 0 };
        self.central = (burst, tokens - debited as f64, now);
        self.centrally_admitted += debited;
        admits
    }

    /// Polls the calls that wait.
    pub(crate) fn poll(&mut self) {
        let mut pending = std::mem::take(&mut self.pending);
        pending.retain_mut(|call| {
            let poll = call
                .future
                .as_mut()
                .poll(&mut Context::from_waker(Waker::noop()));
            match poll {
                Poll::Pending => return true,
                Poll::Ready(Ok(())) => self.admit(call.node, call.cost),
                Poll::Ready(Err(_)) => {
                    self.rejected[call.node] += call.cost;
                    self.falsely_rejected += if call.central { call.cost } else { 0 };
                }
            }
            false
        });
        self.pending.append(&mut pending);
    }

    fn admit(&mut self, node: usize, cost: u64) {
        self.admitted[node] += cost;
        let now = self.time.now().as_nanos();
        let passed = (now - self.explained_at) as f64;
        self.used = (self.used - passed * self.rate).max(0.0) + cost as f64;
        self.explained_at = now;
        self.burst = self.burst.max(self.used);
    }

    /// Lets time pass, on all clocks.
    pub(crate) fn advance(&mut self, time: Duration) {
        for clock in &self.clocks {
            clock.advance(time);
        }
        self.time.advance(time);
        self.poll();
    }

    /// Lets time pass in steps of a millisecond.
    pub(crate) fn advance_slowly(&mut self, time: Duration) {
        for _ in 0..time.as_millis() {
            self.advance(MILLISECOND);
        }
    }

    pub(crate) fn waiting(&self) -> usize {
        self.pending.len()
    }

    pub(crate) fn all_admitted(&self) -> u64 {
        self.admitted.iter().sum()
    }

    pub(crate) fn all_rejected(&self) -> u64 {
        self.rejected.iter().sum()
    }
}

/// A demand of `load` times the rate for `seconds`, of which each node gets half of what the one before gets, as
/// calls that come independently of each other (Poisson). `between` runs before each step of 100 µs, with its
/// number.
pub(crate) fn run(
    fleet: &mut Fleet,
    load: f64,
    seconds: f64,
    between: impl FnMut(&mut Fleet, u64),
) {
    run_seeded(fleet, load, seconds, 0, between);
}

/// Like [`run`], with another sequence of calls for each `seed`.
pub(crate) fn run_seeded(
    fleet: &mut Fleet,
    load: f64,
    seconds: f64,
    seed: u64,
    mut between: impl FnMut(&mut Fleet, u64),
) {
    const STEP: Duration = Duration::from_micros(100);
    let nodes = fleet.nodes.len();
    let weights: Vec<f64> = (1..=nodes).map(|node| 1.0 / node as f64).collect();
    let all: f64 = weights.iter().sum();
    let per_step = fleet.rate * load * STEP.as_nanos() as f64;
    let mut random = Random(0x5eed ^ (load * 1000.0) as u64 ^ (seed << 20));
    for step in 0..(seconds * 1e4) as u64 {
        between(fleet, step);
        for (node, weight) in weights.iter().enumerate() {
            for _ in 0..random.poisson(per_step * weight / all) {
                fleet.call(node, 1);
            }
        }
        fleet.advance(STEP);
    }
}

/// SplitMix64.
struct Random(u64);

impl Random {
    fn unit(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((bits ^ (bits >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// By Knuth's method, for small means.
    fn poisson(&mut self, mean: f64) -> u64 {
        let (limit, mut product, mut count) = ((-mean).exp(), self.unit(), 0);
        while product > limit {
            product *= self.unit();
            count += 1;
        }
        count
    }
}
