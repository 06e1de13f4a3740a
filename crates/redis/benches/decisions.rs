//! The cost of decisions, all in one run: the local limiter, a call inside a lease, one rejected locally, one without
//! the store, and decisions that take a trip, by this crate and by a script on the same client.
//!
//! Starts a `redis-server` of its own. Prints the best and the median of several rounds, in which the candidates
//! take turns.

#[path = "../examples/fleet/server.rs"]
#[allow(dead_code, reason = "shared with the example")]
mod server;

use std::future::Future;
use std::hint::black_box;
use std::time::{Duration, Instant};

use backstop::shared_rate_limiter::{Outage, SyncMode};
use backstop::store::{Fault, MemoryStore};
use backstop::{FastClock, ManualClock, Policy, Quota, RateLimiter, SharedRateLimiter};
use backstop_redis::RedisStore;
use server::Server;

const ROUNDS: usize = 15;
/// Number of calls per round that spend tokens of a lease.
const FEW: u32 = 10_000;

/// A candidate: its name, and the nanoseconds a call took in each round.
struct Candidate {
    name: &'static str,
    rounds: Vec<f64>,
}

impl Candidate {
    const fn new(name: &'static str) -> Self {
        Self {
            name,
            rounds: Vec::new(),
        }
    }

    fn measure(&mut self, calls: u32, mut call: impl FnMut()) {
        let begun = Instant::now();
        for _ in 0..calls {
            call();
        }
        self.rounds
            .push(begun.elapsed().as_nanos() as f64 / f64::from(calls));
    }

    async fn measure_async<F: Future>(&mut self, calls: u32, mut call: impl FnMut() -> F) {
        let begun = Instant::now();
        for _ in 0..calls {
            black_box(call().await);
        }
        self.rounds
            .push(begun.elapsed().as_nanos() as f64 / f64::from(calls));
    }

    fn print(&mut self) {
        self.rounds.sort_by(f64::total_cmp);
        let (best, median) = (self.rounds[0], self.rounds[self.rounds.len() / 2]);
        println!(
            "{:44} best {best:9.1} ns   median {median:9.1} ns",
            self.name
        );
    }
}

/// A token bucket in a script, as a program would write it without this crate: one trip per decision.
const BY_HAND: &str = "
local t = redis.call('TIME')
local now = (t[1] - 1704067200) * 1000000 + t[2]
local token, burst = tonumber(ARGV[1]), tonumber(ARGV[2])
local tat = math.max(tonumber(redis.call('GET', KEYS[1]) or now), now)
if tat + token - now > burst * token then return tat + token - now - burst * token end
redis.call('SET', KEYS[1], string.format('%.0f', tat + token), 'PX', math.ceil((tat + token - now) / 1000) + 1000)
return 0";

fn main() {
    let Some(server) = Server::start() else {
        println!("SKIPPED: this bench needs `redis-server`, which is not installed");
        return;
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build();
    runtime.unwrap().block_on(run(&server));
}

async fn run(server: &Server) {
    let client = redis::Client::open(server.url()).unwrap();
    let store = RedisStore::connect(client.clone()).await.unwrap();
    // Leases last 200 ms and are as large as the demand, so the bucket must hold those of all rounds.
    let large = Quota::per_second(1_000_000).burst(100_000_000);
    let local = RateLimiter::builder()
        .quota(large)
        .clock(FastClock::default())
        .build()
        .unwrap();
    let none = RateLimiter::builder()
        .quota(Quota::per_day(1))
        .clock(FastClock::default())
        .build()
        .unwrap();
    let shared = |key: &str, quota| {
        let builder = SharedRateLimiter::builder()
            .store(store.clone())
            .key(key)
            .quota(quota);
        builder.clock(FastClock::default())
    };
    let leased = shared("leased", large).build().unwrap();
    let empty = shared("empty", Quota::per_day(1)).build().unwrap();
    let exact = shared("exact", large)
        .sync(SyncMode::Exact)
        .build()
        .unwrap();
    let lost_store = MemoryStore::new(ManualClock::new());
    lost_store.set_fault(Some(Fault::Fail));
    let lost = SharedRateLimiter::builder()
        .store(lost_store)
        .key("lost")
        .quota(large)
        .on_outage(Outage::Local(large))
        .clock(FastClock::default())
        .build()
        .unwrap();
    let _ = none.try_acquire();
    for limiter in [&leased, &empty, &lost] {
        let _ = limiter.try_acquire().await;
        let _ = limiter.try_acquire().await;
    }
    let mut connection = client.get_multiplexed_async_connection().await.unwrap();
    let script = redis::Script::new(BY_HAND);

    // Leases the tokens for a round, so that no call of it finds the lease used up. The next round begins with a new
    // lease.
    let fill = async || {
        let _ = leased.try_acquire().await;
        while leased.snapshot().held < u64::from(FEW) + 1_000 {
            let _ = leased.try_acquire().await;
        }
    };
    let mut all = [
        "local limiter, admitted",
        "shared limiter, inside a lease, sync",
        "local limiter, admitted, future",
        "shared limiter, inside a lease, future",
        "local limiter, admitted, call",
        "shared limiter, inside a lease, call",
        "local limiter, rejected",
        "shared limiter, rejected locally, future",
        "shared limiter, store lost, future",
        "shared limiter, exact (a trip)",
        "by hand, one script on the same client",
    ]
    .map(Candidate::new);
    for _ in 0..ROUNDS {
        all[0].measure(FEW, || _ = black_box(local.try_acquire()));
        fill().await;
        all[1].measure(FEW, || _ = black_box(leased.try_acquire_held()));
        all[2].measure_async(FEW, || local.acquire()).await;
        fill().await;
        all[3].measure_async(FEW, || leased.try_acquire()).await;
        let call = || async { Ok::<(), std::convert::Infallible>(()) };
        all[4].measure_async(FEW, || local.call(call)).await;
        fill().await;
        all[5].measure_async(FEW, || leased.call(call)).await;
        all[6].measure(200_000, || _ = black_box(none.try_acquire()));
        all[7].measure_async(200_000, || empty.try_acquire()).await;
        all[8].measure_async(FEW, || lost.try_acquire()).await;
        all[9].measure_async(2_000, || exact.try_acquire()).await;
        all[10]
            .measure_async(2_000, || {
                let mut connection = connection.clone();
                let mut call = script.prepare_invoke();
                call.key("by hand").arg(1.0).arg(1_000_000);
                async move { call.invoke_async::<i64>(&mut connection).await.unwrap() }
            })
            .await;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    for candidate in &mut all {
        candidate.print();
    }
    let snapshot = leased.snapshot();
    println!(
        "leased: {} trips, {} rejected, held {}",
        snapshot.trips, snapshot.rejected, snapshot.held
    );
    let _ = redis::cmd("PING")
        .query_async::<String>(&mut connection)
        .await;
}
