//! Permits of a shared bulkhead, and values that other versions have written.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use backstop::store::{Hold, PermitStore, Reply, Take, Tally, Vote, VoteStore};
use backstop::{CircuitBreaker, CircuitVotes, Quota, SharedBulkhead};
use backstop_redis::RedisStore;
use tokio::sync::oneshot;
use tokio::time::sleep;

use crate::server::Server;
use crate::{SECOND, connect, take, with_server};

#[test]
fn permits_of_a_killed_process_come_back_and_the_limit_holds() {
    with_server("permits_of_a_killed_process", |server| async move {
        let ttl = Duration::from_millis(1200);
        let store = connect(&server).await;
        // A process that holds seven permits and sends no further request.
        let mut dead = Hold::new("key".into(), "dead".into(), 10, 7, ttl);
        dead.in_use = 7;
        assert_eq!(hold(&store, dead).await, 7);
        let died = Instant::now();
        let bulkhead = SharedBulkhead::builder()
            .store(store)
            .key("key")
            .max_concurrent(10)
            .ttl(ttl)
            .store_timeout(ttl / 4)
            .build()
            .unwrap();
        let keeper = bulkhead.clone();
        tokio::spawn(async move { keeper.maintain().await });
        let mut permits = Vec::new();
        while let Ok(permit) = bulkhead.try_acquire().await {
            permits.push(permit);
        }
        assert_eq!(permits.len(), 3, "the limit holds");
        for _ in 0..7 {
            permits.push(bulkhead.acquire_within(1, 5 * SECOND).await.unwrap());
        }
        let back = died.elapsed();
        println!("seven permits back after {back:?}, time to live {ttl:?}");
        assert!(
            back >= ttl - Duration::from_millis(5) && back < 2 * ttl + SECOND,
            "{back:?}"
        );
        assert!(bulkhead.try_acquire().await.is_err());
        // The permits stay held beyond the time to live.
        sleep(2 * ttl).await;
        assert_eq!(bulkhead.snapshot().held, 10);
        assert!(bulkhead.try_acquire().await.is_err());
    });
}

#[test]
fn a_late_request_for_permits_changes_nothing() {
    with_server("a_late_request_for_permits", |server| async move {
        let store = connect(&server).await;
        let request = |instance: &str, permits, number| {
            let mut hold = Hold::new("key".into(), instance.into(), 10, permits, 5 * SECOND);
            hold.number = number;
            hold
        };
        // As large as the numbers of a process: microseconds since 1970.
        let first = 1_800_000_000_000_000;
        assert_eq!(hold(&store, request("one", 8, first + 1)).await, 8);
        assert_eq!(hold(&store, request("one", 1, first)).await, 8);
        assert_eq!(hold(&store, request("other", 10, first)).await, 2);
        assert_eq!(hold(&store, request("one", 1, first + 2)).await, 1);
    });
}

#[test]
fn values_of_other_versions_keep_their_meaning() {
    with_server("values_of_other_versions", |server| async move {
        let store = connect(&server).await;
        // The server's seconds since 2024: it runs on this machine.
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        let seconds = now.as_secs() - 1_704_067_200;
        let till = (seconds + 60) * 1000;
        for (instance, value) in [
            ("without a number", format!("3 {till}")),
            ("with more words", format!("4 {till} 5 60000 6")),
        ] {
            server.command(&["HSET", "backstop:permits:key", instance, &value]);
        }
        let mine = Hold::new("key".into(), "mine".into(), 10, 10, 5 * SECOND);
        assert_eq!(hold(&store, mine).await, 3, "seven are held by others");

        // Nine of ten tokens are missing, an hour each.
        let value = format!("3.24e10 {seconds}000000 9 and more");
        server.command(&["SET", "backstop:rate:key", &value]);
        let quota = Quota::per_hour(1).burst(10);
        let taken = take(&store, vec![Take::new("key".into(), quota, 10)]).await;
        assert_eq!(taken.unwrap()[0].granted, 1);

        let value = format!("1 {till} and more");
        server.command(&["HSET", "backstop:votes:key", "other", &value]);
        let breaker = CircuitBreaker::builder().build().unwrap();
        let votes = CircuitVotes::builder().store(store).key("key");
        let votes = votes.breaker(breaker).build().unwrap();
        let running = votes.clone();
        tokio::spawn(async move { running.run().await });
        for _ in 0..5000 {
            if votes.snapshot().tally.voters == 0 {
                sleep(Duration::from_millis(1)).await;
            }
        }
        assert_eq!(votes.snapshot().tally, Tally::new(1, 1));
    });
}

/// Changes a stored value, as if the server's clock had been an hour ahead when it was written.
fn step_back(server: &Server, key: &str, field: &str) {
    let redis::Value::BulkString(value) = server.command(&["HGET", key, field]) else {
        panic!("no value");
    };
    let value = String::from_utf8(value).unwrap();
    let mut words: Vec<&str> = value.split(' ').collect();
    let till = (words[1].parse::<u64>().unwrap() + 3_600_000).to_string();
    words[1] = &till;
    server.command(&["HSET", key, field, &words.join(" ")]);
}

#[test]
fn after_a_backward_step_of_the_clock_nothing_lasts_longer_than_its_time_to_live() {
    with_server("after_a_backward_step", |server| async move {
        let store = connect(&server).await;
        let ttl = SECOND / 2;
        let of = |instance: &str, permits| {
            Hold::new("key".into(), instance.into(), 10, permits, 10 * SECOND)
        };
        let mut dead = of("dead", 7);
        dead.ttl = ttl;
        assert_eq!(hold(&store, dead).await, 7);
        let dead = Vote::new("key".into(), "dead".into(), true, ttl);
        vote(&store, dead).await;
        step_back(&server, "backstop:permits:key", "dead");
        step_back(&server, "backstop:votes:key", "dead");
        assert_eq!(hold(&store, of("other", 10)).await, 3);
        let other = Vote::new("key".into(), "other".into(), false, 10 * SECOND);
        assert_eq!(vote(&store, other.clone()).await, Tally::new(1, 1));
        sleep(ttl + SECOND / 5).await;
        assert_eq!(hold(&store, of("other", 10)).await, 10);
        assert_eq!(vote(&store, other).await, Tally::new(0, 0));
    });
}

#[test]
fn values_beyond_all_ranges_stop_no_key() {
    with_server("values_beyond_all_ranges", |server| async move {
        const HUGE: &str = "99999999999999999999999999";
        let store = connect(&server).await;
        server.command(&["SET", "backstop:rate:key", &format!("5 1 {HUGE}")]);
        for _ in 0..2 {
            let take = take(
                &store,
                vec![Take::new("key".into(), Quota::per_hour(20), 5)],
            )
            .await;
            assert_eq!(take.unwrap()[0].granted, 5);
        }
        let mut spent = Take::new("spent".into(), Quota::per_hour(20), 0);
        (spent.at_least, spent.spent) = (0, u64::MAX);
        for _ in 0..2 {
            take(&store, vec![spent.clone()]).await.unwrap();
        }
        for value in [format!("5 {HUGE} 1"), format!("5 {HUGE} {HUGE} {HUGE}")] {
            server.command(&["HSET", "backstop:permits:key", "odd", &value]);
            let mine = Hold::new("key".into(), "mine".into(), 10, 10, SECOND);
            assert_eq!(hold(&store, mine).await, 5, "{value}");
        }
        server.command(&[
            "HSET",
            "backstop:votes:key",
            "odd",
            &format!("1 {HUGE} {HUGE}"),
        ]);
        let mine = Vote::new("key".into(), "mine".into(), true, SECOND);
        assert_eq!(vote(&store, mine).await, Tally::new(1, 1));
    });
}

async fn vote(store: &RedisStore, vote: Vote) -> Tally {
    let (send, answer) = oneshot::channel();
    let send = std::sync::Mutex::new(Some(send));
    store.vote(
        vote,
        Reply::new(move |tally| {
            let _ = send.lock().unwrap().take().unwrap().send(tally);
        }),
    );
    answer.await.unwrap().unwrap()
}

async fn hold(store: &RedisStore, hold: Hold) -> u64 {
    let (send, answer) = oneshot::channel();
    let send = std::sync::Mutex::new(Some(send));
    store.hold(
        hold,
        Reply::new(move |held| {
            let _ = send.lock().unwrap().take().unwrap().send(held);
        }),
    );
    answer.await.unwrap().unwrap().permits
}
