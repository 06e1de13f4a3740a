//! Surprising answers of servers, by a server that answers as the test says. On real time, because of the sockets.

mod fake;

use std::future::Future;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use backstop::store::{Hold, PermitStore, Reply, Store, StoreError, Take, Taken};
use backstop::{Event, Quota, SharedKeyedRateLimiter, SharedRateLimiter};
use backstop_redis::RedisStore;
use fake::{Answer, Fake, grant};
use tokio::sync::oneshot;
use tokio::time::sleep;

const SECOND: Duration = Duration::from_secs(1);
/// Longer than other tests on this machine suspend a process.
const PATIENT: Duration = Duration::from_secs(10);

fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build();
    runtime.unwrap().block_on(test);
}

async fn connect(fake: &Fake) -> RedisStore {
    let client = redis::Client::open(fake.url()).unwrap();
    RedisStore::connect(client).await.unwrap()
}

async fn take(store: &RedisStore, key: &str) -> Result<Vec<Taken>, StoreError> {
    let (send, answer) = oneshot::channel();
    let send = Mutex::new(Some(send));
    let take = Take::new(key.into(), Quota::per_second(1000), 7);
    let reply = Reply::new(move |answer| {
        let send = send.lock().unwrap().take();
        let _ = send.unwrap().send(answer);
    });
    store.take(vec![take], reply);
    answer.await.unwrap()
}

/// Takes tokens until the store answers, at most for ten seconds.
async fn take_until_answered(store: &RedisStore) -> Taken {
    let start = Instant::now();
    loop {
        match take(store, "key").await {
            Ok(taken) => return taken[0],
            Err(error) => assert!(start.elapsed() < PATIENT, "{error}"),
        }
        sleep(Duration::from_millis(5)).await;
    }
}

/// Waits until `is_true`, at most for ten seconds.
async fn until(mut is_true: impl AsyncFnMut() -> bool) {
    let start = Instant::now();
    while !is_true().await {
        assert!(start.elapsed() < PATIENT, "it did not happen");
        sleep(Duration::from_millis(5)).await;
    }
}

#[test]
fn an_error_of_the_server_is_reported_and_keeps_the_connection() {
    run(async {
        let fake = Fake::start();
        let store = connect(&fake).await;
        for text in [
            "LOADING Redis is loading the dataset in memory",
            "MOVED 3999 127.0.0.1:6381",
            "ASK 3999 127.0.0.1:6381",
            "CLUSTERDOWN Hash slot not served",
            "TRYAGAIN Multiple keys request during rehashing of slot",
            "CROSSSLOT Keys in request don't hash to the same slot",
            "OOM command not allowed when used memory > 'maxmemory'.",
            "BUSY Redis is busy running a script. You can only call SCRIPT KILL or SHUTDOWN NOSAVE.",
            "MISCONF Redis is configured to save RDB snapshots, but it's currently unable to persist to disk.",
            "NOREPLICAS Not enough good replicas to write.",
            "NOPERM User app has no permissions to run the 'evalsha' command",
            "WRONGTYPE Operation against a key holding the wrong kind of value",
            "ERR max number of clients reached",
            "ERR",
            "",
            "LOADING",
            "MOVED",
            "ASK -1 :",
        ] {
            let line = text.to_owned();
            fake.script(move |_| Answer::error(&line));
            let error = take(&store, "key").await.unwrap_err();
            assert_eq!(fake.requests().len(), 1, "{text}: sent once, {error}");
        }
        fake.script(|_| Answer::Grant);
        assert_eq!(take(&store, "key").await.unwrap()[0].granted, 7);
        assert_eq!(fake.connections(), 1);
    });
}

#[test]
fn an_answer_of_another_form_is_an_error_and_the_next_one_is_used() {
    run(async {
        let fake = Fake::start();
        let store = connect(&fake).await;
        for bytes in [
            "$-1\r\n",
            "*-1\r\n",
            "_\r\n",
            "+OK\r\n",
            ":6\r\n",
            "$2\r\nOK\r\n",
            "*0\r\n",
            "*5\r\n:1\r\n:1\r\n:1\r\n:1\r\n:1\r\n",
            "*7\r\n:1\r\n:1\r\n:1\r\n:1\r\n:1\r\n:1\r\n:1\r\n",
            "*6\r\n:1\r\n:1\r\n:-1\r\n:1\r\n:1\r\n:1\r\n",
            "*6\r\n:1\r\n:1\r\n$1\r\n1\r\n:1\r\n:1\r\n:1\r\n",
            "*6\r\n:1\r\n:1\r\n$-1\r\n:1\r\n:1\r\n:1\r\n",
            "*6\r\n:1\r\n:1\r\n*1\r\n:1\r\n:1\r\n:1\r\n:1\r\n",
            "*2\r\n:1\r\n-ERR inner\r\n",
            "*1\r\n-NOSCRIPT No matching script.\r\n",
            ",1.5\r\n",
            "#t\r\n",
            "(3492890328409238509324850943850943825024385\r\n",
            "%1\r\n+a\r\n:1\r\n",
            "~2\r\n:1\r\n:2\r\n",
            "=6\r\ntxt:ab\r\n",
            "!21\r\nSYNTAX invalid syntax\r\n",
        ] {
            fake.script(move |_| Answer::Send(bytes.into()));
            take(&store, "key").await.unwrap_err();
            fake.script(|_| Answer::Grant);
            assert_eq!(take_until_answered(&store).await.granted, 7, "{bytes:?}");
        }
        // Well formed, so the connection is fine.
        assert_eq!(fake.connections(), 1);
    });
}

#[test]
fn a_broken_answer_breaks_the_connection_and_not_the_store() {
    run(async {
        for bytes in [
            "",
            "*",
            "*6\r\n:1\r\n:1",
            "hello\r\n",
            "\r\n\r\n",
            "$5\r\nab",
            "*6\r\n?1\r\n",
            ":12a\r\n",
            "*99999999999999999999\r\n",
            "*2147483647\r\n",
            "$2147483647\r\n",
        ] {
            for closes in [true, false] {
                let fake = Fake::start();
                let builder = RedisStore::builder().response_timeout(SECOND / 5);
                let client = redis::Client::open(fake.url()).unwrap();
                let store = builder.connect(client).await.unwrap();
                fake.script(move |_| match closes {
                    true => Answer::Close(bytes.into()),
                    false => Answer::Send(bytes.into()),
                });
                take(&store, "key").await.unwrap_err();
                fake.script(|_| Answer::Grant);
                assert_eq!(take_until_answered(&store).await.granted, 7, "{bytes:?}");
                assert!(fake.connections() > 1, "{bytes:?}");
            }
        }
    });
}

#[test]
fn a_script_that_is_unknown_is_sent_once_with_its_text() {
    run(async {
        const UNKNOWN: &str = "NOSCRIPT No matching script. Please use EVAL.";
        let fake = Fake::start();
        let store = connect(&fake).await;
        fake.script(|request| match &*request.command {
            "EVALSHA" => Answer::error(UNKNOWN),
            _ => Answer::Grant,
        });
        assert_eq!(take(&store, "key").await.unwrap()[0].granted, 7);
        let commands = |fake: &Fake| -> Vec<String> {
            let requests = fake.requests();
            requests.into_iter().map(|it| it.command).collect()
        };
        assert_eq!(commands(&fake), ["EVALSHA", "EVAL"]);
        fake.script(|_| Answer::error(UNKNOWN));
        assert!(take(&store, "key").await.is_err());
        assert_eq!(commands(&fake), ["EVALSHA", "EVAL"]);
        assert_eq!(fake.connections(), 1);
    });
}

/// A limiter on a server, with the kinds of its events.
async fn limiter(fake: &Fake) -> (SharedRateLimiter, Arc<Mutex<Vec<&'static str>>>) {
    let events = Arc::new(Mutex::new(Vec::new()));
    let log = events.clone();
    let limiter = SharedRateLimiter::builder()
        .store(connect(fake).await)
        .key("key")
        .quota(Quota::per_second(1000))
        .store_timeout(PATIENT)
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

/// Calls until the store is up, or lost.
async fn call_until(limiter: &SharedRateLimiter, is_up: bool) {
    until(async || {
        let _ = limiter.try_acquire().await;
        limiter.snapshot().store_up == is_up
    })
    .await;
}

#[test]
fn a_server_that_loads_its_data_is_lost_until_it_has_loaded() {
    run(async {
        let fake = Fake::start();
        let (limiter, events) = limiter(&fake).await;
        fake.script(|_| Answer::error("LOADING Redis is loading the dataset in memory"));
        call_until(&limiter, false).await;
        let error = limiter.snapshot().last_error.unwrap();
        assert!(error.contains("loading the dataset"), "{error}");
        // Calls continue at the share of the process, and send no request each.
        sleep(SECOND / 5).await;
        limiter.try_acquire().await.unwrap();
        fake.requests();
        for _ in 0..100 {
            let _ = limiter.try_acquire().await;
        }
        let requests = fake.requests().len();
        assert!(requests < 50, "{requests}");
        fake.script(|_| Answer::Grant);
        call_until(&limiter, true).await;
        assert_eq!(*events.lock().unwrap(), ["store_lost", "store_back"]);
        assert_eq!(fake.connections(), 1);
    });
}

#[test]
fn a_server_that_became_a_replica_is_left() {
    const OF_SCRIPTS: &str = "ERR Error running script: @user_script:64: -READONLY You can't write against a read only replica.";
    for text in [
        "READONLY You can't write against a read only replica.",
        OF_SCRIPTS,
        "MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.",
        "MOVED 3999 127.0.0.1:6381",
    ] {
        run(async move {
            let fake = Fake::start();
            let (limiter, events) = limiter(&fake).await;
            fake.script(move |request| match request.connection {
                0 => Answer::error(text),
                _ => Answer::Grant,
            });
            call_until(&limiter, false).await;
            call_until(&limiter, true).await;
            assert_eq!(*events.lock().unwrap(), ["store_lost", "store_back"]);
            assert_eq!(fake.connections(), 2, "{text}");
        });
    }
}

#[test]
fn a_key_that_moved_to_another_node_does_not_affect_the_others() {
    run(async {
        let fake = Fake::start();
        let limits = SharedKeyedRateLimiter::<String>::builder()
            .store(connect(&fake).await)
            .key_by(|key| key.clone())
            .quota(Quota::per_second(1_000_000))
            .store_timeout(PATIENT)
            .build()
            .unwrap();
        let moved = |key: &str| key.ends_with("moved");
        fake.script(move |request| match moved(&request.key) {
            true => Answer::error("MOVED 3999 127.0.0.1:6381"),
            false => Answer::Grant,
        });
        limits.try_acquire("other").await.unwrap();
        let start = Instant::now();
        while start.elapsed() < SECOND * 2 {
            let _ = limits.try_acquire("moved").await;
            let result = limits.try_acquire_n("other", 1000).await;
            assert!(result.is_ok(), "{result:?} {:?}", limits.snapshot());
            sleep(Duration::from_millis(1)).await;
        }
        assert!(!limits.get("moved").snapshot().store_up);
        assert!(limits.get("other").snapshot().store_up);
        assert!(limits.snapshot().store_up);
        let error = limits.snapshot().last_error.unwrap();
        assert!(error.to_lowercase().contains("moved"), "{error}");
        // The connection is renewed at most once a second, which the other requests do not notice.
        assert!(fake.connections() <= 3, "{}", fake.connections());
        fake.script(|_| Answer::Grant);
        until(async || {
            let _ = limits.try_acquire("moved").await;
            limits.get("moved").snapshot().store_up
        })
        .await;
    });
}

#[test]
fn pushed_messages_are_no_answers() {
    run(async {
        let fake = Fake::start();
        let client = redis::Client::open(format!("{}?protocol=resp3", fake.url())).unwrap();
        let store = RedisStore::connect(client).await.unwrap();
        fake.script(|_| {
            let mut bytes = b">2\r\n+invalidate\r\n*1\r\n+key\r\n".to_vec();
            bytes.extend(grant(3));
            Answer::Send(bytes)
        });
        for _ in 0..3 {
            assert_eq!(take(&store, "key").await.unwrap()[0].granted, 3);
        }
        fake.script(|_| Answer::error("LOADING x"));
        take(&store, "key").await.unwrap_err();
        fake.script(|_| Answer::Grant);
        take(&store, "key").await.unwrap();
        assert_eq!(fake.connections(), 1);
    });
}

#[test]
fn an_answer_that_is_no_answer_of_permits_is_an_error() {
    run(async {
        let fake = Fake::start();
        let store = connect(&fake).await;
        for bytes in [
            "*2\r\n:1\r\n:1\r\n",
            "*3\r\n:1\r\n:-1\r\n:1\r\n",
            "$-1\r\n",
            "-LOADING x\r\n",
        ] {
            fake.script(move |_| Answer::Send(bytes.into()));
            let (send, answer) = oneshot::channel();
            let send = Mutex::new(Some(send));
            let hold = Hold::new("key".into(), "a".into(), 10, 5, SECOND);
            store.hold(
                hold,
                Reply::new(move |answer| {
                    let _ = send.lock().unwrap().take().unwrap().send(answer);
                }),
            );
            assert!(answer.await.unwrap().is_err(), "{bytes:?}");
        }
    });
}
