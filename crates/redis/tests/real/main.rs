//! The limits on a real server, started by each test. These tests use real time, because another process is
//! involved; with `BACKSTOP_LONG=1` they run with more keys.

mod permits;
mod read_only;
#[path = "../../examples/fleet/server.rs"]
#[allow(dead_code, reason = "shared with the example")]
mod server;

use std::env;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use backstop::shared_rate_limiter::SyncMode;
use backstop::store::{MemoryStore, Reply, Store, StoreError, StoreTime, Take, Taken};
use backstop::{
    CircuitBreaker, CircuitVotes, ManualClock, Quota, Reason, SharedBulkhead,
    SharedKeyedRateLimiter, SharedRateLimiter,
};
use backstop_redis::RedisStore;
use server::Server;
use tokio::sync::oneshot;
use tokio::time::sleep;

/// Runs a test with a server of its own, or prints that the test is skipped.
fn with_server<F: Future<Output = ()>>(name: &str, test: impl FnOnce(Server) -> F) {
    with_servers(name, 1, |mut servers| test(servers.remove(0)));
}

/// Runs a test with this many servers of its own, or prints that the test is skipped.
fn with_servers<F: Future<Output = ()>>(
    name: &str,
    count: usize,
    test: impl FnOnce(Vec<Server>) -> F,
) {
    let servers: Option<Vec<Server>> = (0..count).map(|_| Server::start()).collect();
    let Some(servers) = servers else {
        eprintln!("\n*** SKIPPED {name}: redis-server is not installed ***\n");
        return;
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build();
    runtime.unwrap().block_on(test(servers));
}

fn is_long() -> bool {
    env::var("BACKSTOP_LONG").is_ok_and(|long| long == "1")
}

async fn connect(server: &Server) -> RedisStore {
    RedisStore::connect(redis::Client::open(server.url()).unwrap())
        .await
        .unwrap()
}

/// Other tests on this machine may suspend a process for longer than the default timeout, so only tests of outages use
/// that.
const PATIENT: Duration = Duration::from_secs(10);
/// The builder's default.
const DEFAULT: Duration = Duration::from_millis(25);
const SECOND: Duration = Duration::from_secs(1);

fn limiter(store: &RedisStore, quota: Quota, store_timeout: Duration) -> SharedRateLimiter {
    let builder = SharedRateLimiter::builder().store(store.clone()).key("key");
    let builder = builder.quota(quota).store_timeout(store_timeout);
    builder.build().unwrap()
}

async fn take(store: &impl Store, takes: Vec<Take>) -> Result<Vec<Taken>, StoreError> {
    let (send, answer) = oneshot::channel();
    let send = std::sync::Mutex::new(Some(send));
    store.take(
        takes,
        Reply::new(move |answer| {
            let _ = send.lock().unwrap().take().unwrap().send(answer);
        }),
    );
    answer.await.unwrap()
}

#[test]
fn the_script_does_what_the_memory_store_does() {
    with_server(
        "the_script_does_what_the_memory_store_does",
        |server| async move {
            let store = connect(&server).await;
            let mut random = 0x5eed_u64;
            let mut below = |bound: u64| {
                random = random
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1);
                (random >> 33) % bound
            };
            for (case, quota) in [
                Quota::per_second(7).burst(3),
                Quota::per_second(1000).burst(100),
                Quota::per_second(1_000_000).burst(50_000),
                Quota::new(3, Duration::from_millis(7)).burst(11),
                Quota::per_day(10),
            ]
            .into_iter()
            .enumerate()
            {
                let clock = ManualClock::new();
                let memory = MemoryStore::new(clock.clone());
                let mut begun: Option<(u64, u64)> = None;
                let mut granted_at: Option<[StoreTime; 2]> = None;
                for step in 0..200 {
                    let keys = 1 + below(2);
                    let mut takes = Vec::new();
                    for key in 0..keys {
                        let mut take = Take::new(
                            format!("{case}-{key}").into(),
                            quota,
                            below(quota.limit() + 2),
                        );
                        take.at_least = below(3);
                        take.spent = below(3).saturating_sub(1) * below(4);
                        takes.push(take);
                    }
                    let back = below(3).saturating_sub(1) * below(5);
                    let mut of_memory = takes.clone();
                    if let (Some([redis, memory]), true) = (granted_at, back > 0) {
                        takes[0].give_back = Some((back, redis));
                        of_memory[0].give_back = Some((back, memory));
                    }
                    let real = take(&store, takes).await.unwrap();
                    // The memory's clock follows the server's.
                    let (first, start) = *begun.get_or_insert((real[0].now.as_micros(), 0));
                    let now = start + real[0].now.as_micros() - first;
                    let passed = now * 1000 - backstop::Clock::now(&clock).as_nanos();
                    clock.advance(Duration::from_nanos(passed));
                    let model = take(&memory, of_memory).await.unwrap();
                    assert_eq!(real.len(), model.len());
                    for (real, model) in real.iter().zip(&model) {
                        let facts = |taken: &Taken| {
                            (
                                taken.granted,
                                taken.remaining,
                                taken.retry_after,
                                taken.reset_after,
                            )
                        };
                        assert_eq!(facts(real), facts(model), "quota {quota}, step {step}");
                    }
                    granted_at = Some([real[0].now, model[0].now]);
                    if below(4) == 0 {
                        sleep(Duration::from_micros(below(3000))).await;
                    }
                }
            }
        },
    );
}

#[test]
fn a_flushed_script_is_sent_again() {
    with_server("a_flushed_script_is_sent_again", |server| async move {
        let store = connect(&server).await;
        let exact = SharedRateLimiter::builder()
            .store(store)
            .key("key")
            .quota(Quota::per_second(1000))
            .sync(SyncMode::Exact)
            .store_timeout(Duration::from_secs(5))
            .build()
            .unwrap();
        for _ in 0..20 {
            server.command(&["SCRIPT", "FLUSH"]);
            exact.try_acquire().await.unwrap();
        }
        assert!(exact.snapshot().store_up);
        assert_eq!(exact.snapshot().trips, 20);
        assert_eq!(exact.snapshot().last_error, None);
    });
}

#[test]
fn a_cost_of_ten_at_one_token_is_rejected_and_debits_nothing() {
    with_server("a_cost_of_ten_at_one_token", |server| async move {
        let store = connect(&server).await;
        let limiter = limiter(&store, Quota::per_hour(20), PATIENT);
        limiter.try_acquire_n(19).await.unwrap();
        for _ in 0..5 {
            let rejected = limiter.try_acquire_n(10).await.unwrap_err();
            assert_eq!(rejected.reason(), Reason::RateLimited);
            let wait = rejected.retry_after().unwrap().as_secs_f64();
            assert!((1600.0..=1620.0).contains(&wait), "{wait} s");
        }
        limiter.try_acquire().await.unwrap();
        assert!(limiter.try_acquire().await.is_err());
    });
}

#[test]
fn the_time_of_a_rejection_is_exact() {
    with_server("the_time_of_a_rejection_is_exact", |server| async move {
        let store = connect(&server).await;
        let limiter = limiter(&store, Quota::per_second(5).burst(1), PATIENT);
        limiter.try_acquire().await.unwrap();
        for _ in 0..3 {
            let wait = limiter
                .try_acquire()
                .await
                .unwrap_err()
                .retry_after()
                .unwrap();
            assert!(
                wait <= Duration::from_millis(200) && wait > Duration::from_millis(100),
                "{wait:?}"
            );
            sleep(wait).await;
            limiter.try_acquire().await.unwrap();
        }
    });
}

#[test]
fn ten_thousand_keys_at_once_are_not_an_outage() {
    with_server("ten_thousand_keys_at_once", |server| async move {
        let store = connect(&server).await;
        let limits = SharedKeyedRateLimiter::<u64>::builder()
            .store(store)
            .key_by(|key| key.to_string())
            .quota(Quota::per_minute(60))
            .store_timeout(if is_long() { DEFAULT } else { PATIENT })
            .build()
            .unwrap();
        let begun = Instant::now();
        let calls = (0..10_000).map(|key| {
            let limits = limits.clone();
            tokio::spawn(async move { limits.try_acquire(&key).await })
        });
        let calls: Vec<_> = calls.collect();
        let mut rejected = 0;
        for call in calls {
            rejected += u64::from(call.await.unwrap().is_err());
        }
        let (took, snapshot) = (begun.elapsed(), limits.snapshot());
        println!("10 000 keys at once: {took:?}, {rejected} rejected, {snapshot:?}");
        assert_eq!(rejected, 0, "{snapshot:?}");
        assert_eq!(snapshot.last_error, None, "no timeout");
        assert_eq!(snapshot.trips, 10_000);
    });
}

#[test]
fn a_reply_that_panics_stops_no_other_request() {
    with_server("a_reply_that_panics", |server| async move {
        let store = connect(&server).await;
        let one = || vec![Take::new("key".into(), Quota::per_hour(10), 1)];
        store.take(one(), Reply::new(|_| panic!("a reply that panics")));
        let taken = take(&store, one()).await.unwrap();
        assert_eq!((taken[0].granted, taken[0].remaining), (1, 8));
    });
}

#[test]
fn keys_expire_when_they_are_full() {
    with_server("keys_expire_when_they_are_full", |server| async move {
        let store = connect(&server).await;
        // Long enough that all keys are there together.
        let (keys, full) = match is_long() {
            true => (1_000_000, 60 * SECOND),
            false => (20_000, SECOND / 2),
        };
        let limits = SharedKeyedRateLimiter::<u64>::builder()
            .store(store)
            .key_by(|key| key.to_string())
            .quota(Quota::new(1, full))
            .store_timeout(PATIENT)
            .build()
            .unwrap();
        let next = Arc::new(AtomicU64::new(0));
        let tasks = (0..64).map(|_| {
            let (limits, next) = (limits.clone(), next.clone());
            tokio::spawn(async move {
                loop {
                    let key = next.fetch_add(1, Ordering::Relaxed);
                    if key >= keys {
                        return;
                    }
                    limits.try_acquire(&key).await.unwrap();
                }
            })
        });
        let tasks: Vec<_> = tasks.collect();
        let begun = Instant::now();
        for task in tasks {
            task.await.unwrap();
        }
        let took = begun.elapsed();
        let size = || match server.command(&["DBSIZE"]) {
            redis::Value::Int(size) => size,
            other => panic!("{other:?}"),
        };
        let (at_once, idle) = (size(), Instant::now());
        assert!(at_once > 0);
        // The server deletes expired keys in the background.
        while size() > 0 && idle.elapsed() < full + 5 * SECOND {
            sleep(Duration::from_millis(20)).await;
        }
        let idle = idle.elapsed();
        println!("{keys} keys in {took:?}, {at_once} of them left, none after {idle:?}");
        // Other tests on this machine may suspend the server.
        let most = full + if is_long() { SECOND } else { 2 * SECOND };
        assert!(idle <= most, "{idle:?}, {} left", size());
        assert!(limits.snapshot().keys <= 100_000);
    });
}

#[test]
fn a_quota_lowered_a_hundredfold_locks_no_key_for_longer_than_it_takes_to_fill() {
    with_server("a_quota_lowered_a_hundredfold", |server| async move {
        let store = connect(&server).await;
        let limiter = limiter(&store, Quota::per_second(1000), PATIENT);
        limiter.try_acquire_n(1000).await.unwrap();
        limiter.set_quota(Quota::per_second(10).burst(10)).unwrap();
        let begun = Instant::now();
        limiter.acquire_n(10).await.unwrap();
        let took = begun.elapsed();
        println!("10 of 10 tokens after {took:?}, time to full 1 s");
        assert!(took < Duration::from_millis(1100), "{took:?}");
    });
}

/// Returns four limiters with connections of their own, like those of four processes.
async fn fleet(server: &Server, quota: Quota, timeout: Duration) -> Vec<SharedRateLimiter> {
    let mut fleet = Vec::new();
    for _ in 0..4 {
        fleet.push(limiter(&connect(server).await, quota, timeout));
    }
    fleet
}

/// Makes 2000 calls a second for `time`. Returns the number of admitted calls and the slowest one.
async fn load(fleet: &[SharedRateLimiter], time: Duration) -> (u64, Duration) {
    let (begun, mut slowest, mut admitted, mut calls) = (Instant::now(), Duration::ZERO, 0, 0);
    while begun.elapsed() < time {
        let due = (begun.elapsed().as_secs_f64() * 2000.0) as u64;
        while calls < due {
            let came = Instant::now();
            admitted += u64::from(fleet[calls as usize % 4].try_acquire().await.is_ok());
            slowest = slowest.max(came.elapsed());
            calls += 1;
        }
        sleep(Duration::from_millis(1)).await;
    }
    (admitted, slowest)
}

#[test]
fn a_killed_server_stops_nothing_and_is_found_again() {
    with_server("a_killed_server", |mut server| async move {
        let fleet = fleet(&server, Quota::per_second(1000).burst(100), DEFAULT).await;
        let (_, _) = load(&fleet, SECOND).await;
        server.kill();
        let (admitted, slowest) = load(&fleet, 2 * SECOND).await;
        println!("kill -9: {admitted} admitted in 2 s at 1000/s, slowest call {slowest:?}");
        assert!((1500..=2500).contains(&admitted), "{admitted}");
        assert!(slowest < Duration::from_millis(300), "{slowest:?}");
        assert!(fleet.iter().all(|node| !node.snapshot().store_up));
        server.restart();
        let (_, _) = load(&fleet, 2 * SECOND).await;
        let snapshots: Vec<_> = fleet.iter().map(SharedRateLimiter::snapshot).collect();
        assert!(snapshots.iter().all(|node| node.store_up), "{snapshots:?}");
    });
}

#[test]
fn a_stopped_server_stops_nothing_and_is_found_again() {
    with_server("a_stopped_server", |server| async move {
        let fleet = fleet(&server, Quota::per_second(1000).burst(100), DEFAULT).await;
        let (_, _) = load(&fleet, SECOND).await;
        server.signal("STOP");
        let (admitted, slowest) = load(&fleet, 2 * SECOND).await;
        println!("SIGSTOP: {admitted} admitted in 2 s at 1000/s, slowest call {slowest:?}");
        assert!((1500..=2500).contains(&admitted), "{admitted}");
        assert!(slowest < Duration::from_millis(300), "{slowest:?}");
        server.signal("CONT");
        let (_, _) = load(&fleet, 2 * SECOND).await;
        let snapshots: Vec<_> = fleet.iter().map(SharedRateLimiter::snapshot).collect();
        assert!(snapshots.iter().all(|node| node.store_up), "{snapshots:?}");
    });
}

#[test]
fn a_server_that_lost_its_memory_costs_at_most_a_burst() {
    with_server("a_server_that_lost_its_memory", |mut server| async move {
        let fleet = fleet(&server, Quota::per_second(1000).burst(200), PATIENT).await;
        let begun = Instant::now();
        let (first, _) = load(&fleet, SECOND).await;
        server.command(&["FLUSHALL"]);
        let (second, _) = load(&fleet, SECOND).await;
        server.kill();
        server.restart();
        let (third, _) = load(&fleet, 2 * SECOND).await;
        let limit = begun.elapsed().as_secs_f64() * 1000.0 + 200.0;
        let admitted = (first + second + third) as f64;
        println!(
            "FLUSHALL and an empty replacement: {:.0} more than the limit",
            admitted - limit
        );
        assert!(admitted <= limit + 2.0 * 200.0, "{admitted} of {limit}");
        assert!(admitted >= 0.9 * limit, "{admitted} of {limit}");
    });
}

#[test]
fn a_value_of_another_form_is_none() {
    with_server("a_value_of_another_form", |server| async move {
        let store = connect(&server).await;
        for value in ["", "a b c", "1", "nan 0 0", "inf 1 1", "1e9e 5 5", "1 2"] {
            server.command(&["SET", "backstop:rate:key", value]);
            let quota = Quota::per_hour(20);
            let taken = take(&store, vec![Take::new("key".into(), quota, 5)]).await;
            assert_eq!(taken.unwrap()[0].granted, 5, "{value:?}");
        }
    });
}

#[test]
fn a_user_with_few_permissions_suffices() {
    with_server("a_user_of_few_rights", |server| async move {
        let mut rights =
            Vec::from_iter("ACL SETUSER limits on >secret ~backstop:* resetchannels".split(' '));
        let commands = "+evalsha +eval +time +get +set +del +hgetall +hset +hdel +pexpire +client";
        rights.extend(commands.split(' '));
        server.command(&rights);
        let url = server.url().replace("redis://", "redis://limits:secret@");
        let store = RedisStore::connect(redis::Client::open(url).unwrap())
            .await
            .unwrap();
        let limiter = limiter(&store, Quota::per_second(5), PATIENT);
        limiter.try_acquire().await.unwrap();
        assert_eq!(limiter.snapshot().last_error, None);
        let bulkhead = SharedBulkhead::builder().store(store.clone()).key("key");
        let bulkhead = bulkhead.max_concurrent(5).store_timeout(SECOND);
        let bulkhead = bulkhead.build().unwrap();
        drop(bulkhead.try_acquire().await.unwrap());
        assert!(bulkhead.snapshot().store_up);
        let breaker = CircuitBreaker::builder().build().unwrap();
        let votes = CircuitVotes::builder()
            .store(store)
            .key("key")
            .breaker(breaker.clone());
        let votes = votes.build().unwrap();
        let run = async {
            // Without calls it does not vote, and then it votes open.
            sleep(SECOND / 4).await;
            assert_eq!(votes.snapshot().last_error, None);
            breaker.trip();
            sleep(SECOND / 4).await;
        };
        let _ = tokio::time::timeout(SECOND, async { tokio::join!(votes.run(), run) }).await;
        assert_eq!(votes.snapshot().last_error, None);
        let field = server.command(&["HLEN", "backstop:votes:key"]);
        assert_eq!(field, redis::Value::Int(1));
    });
}
