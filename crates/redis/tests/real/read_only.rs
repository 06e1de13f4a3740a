//! Servers that answer and reject writes: a demoted primary, and one without memory. Real servers, real time.

use std::io;
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use backstop::{Event, Quota, SharedRateLimiter};
use backstop_redis::RedisStore;
use tokio::time::sleep;

use crate::server::Server;
use crate::with_servers;

fn port(server: &Server) -> u16 {
    let url = server.url();
    let port = url.trim_end_matches('/').rsplit(':').next();
    port.unwrap().parse().unwrap()
}

/// Forwards each new connection to the port that `target` then has, as the name of a primary does. Returns its URL.
fn forward(target: Arc<AtomicU16>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("redis://{}/", listener.local_addr().unwrap());
    thread::spawn(move || {
        for client in listener.incoming() {
            let client = client.unwrap();
            let server = TcpStream::connect(("127.0.0.1", target.load(Ordering::Relaxed))).unwrap();
            for (mut from, mut to) in [
                (client.try_clone().unwrap(), server.try_clone().unwrap()),
                (server, client),
            ] {
                thread::spawn(move || io::copy(&mut from, &mut to));
            }
        }
    });
    url
}

/// A limiter on a store, with the kinds of its events.
async fn limiter(url: String) -> (SharedRateLimiter, Arc<Mutex<Vec<&'static str>>>) {
    let client = redis::Client::open(url).unwrap();
    let store = RedisStore::connect(client).await.unwrap();
    let events = Arc::new(Mutex::new(Vec::new()));
    let log = events.clone();
    let limiter = SharedRateLimiter::builder()
        .store(store)
        .key("key")
        .quota(Quota::per_second(100))
        .store_timeout(Duration::from_secs(10))
        .observer(move |event: &Event| {
            if let Event::Store { .. } = event {
                log.lock().unwrap().push(event.kind());
            }
        })
        .build()
        .unwrap();
    limiter.try_acquire().await.unwrap();
    (limiter, events)
}

/// Calls until `is_over`, at most for ten seconds.
async fn call_until(limiter: &SharedRateLimiter, is_over: impl Fn() -> bool) {
    let start = Instant::now();
    while !is_over() {
        assert!(start.elapsed() < Duration::from_secs(10), "{limiter:?}");
        let _ = limiter.try_acquire().await;
        sleep(Duration::from_millis(5)).await;
    }
}

#[test]
fn a_server_that_became_a_replica_is_left_for_the_promoted_one() {
    with_servers(
        "a_server_that_became_a_replica_is_left_for_the_promoted_one",
        2,
        |servers| async move {
            let (old, promoted) = (&servers[0], &servers[1]);
            let target = Arc::new(AtomicU16::new(port(old)));
            let (limiter, events) = limiter(forward(target.clone())).await;
            target.store(port(promoted), Ordering::Relaxed);
            old.command(&["REPLICAOF", "127.0.0.1", &port(promoted).to_string()]);
            call_until(&limiter, || events.lock().unwrap().len() >= 2).await;
            // A limiter that stays with the replica is lost again at once.
            let start = Instant::now();
            call_until(&limiter, || start.elapsed() > Duration::from_secs(1)).await;
            assert_eq!(*events.lock().unwrap(), ["store_lost", "store_back"]);
            assert!(limiter.snapshot().store_up);
        },
    );
}

#[test]
fn a_server_without_memory_is_lost_until_it_can_write() {
    with_servers(
        "a_server_without_memory_is_lost_until_it_can_write",
        1,
        |servers| async move {
            let (limiter, events) = limiter(servers[0].url()).await;
            servers[0].command(&["CONFIG", "SET", "maxmemory", "1"]);
            call_until(&limiter, || !limiter.snapshot().store_up).await;
            // Long enough for the bucket to be full, so that a probe finds nothing to write about it.
            let start = Instant::now();
            call_until(&limiter, || start.elapsed() > Duration::from_secs(3)).await;
            assert_eq!(*events.lock().unwrap(), ["store_lost"]);
            servers[0].command(&["CONFIG", "SET", "maxmemory", "0"]);
            call_until(&limiter, || limiter.snapshot().store_up).await;
            assert_eq!(*events.lock().unwrap(), ["store_lost", "store_back"]);
        },
    );
}
