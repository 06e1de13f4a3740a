//! A store that answers requests about some keys late, or never.

use std::future::Future;
use std::sync::{Arc, Mutex};

use backstop::shared_rate_limiter::SyncMode;
use backstop::store::{MemoryStore, Reply, Store, Take, Taken};
use backstop::{ManualClock, Quota, Rejected, SharedKeyedRateLimiter};

use crate::fleet::MILLISECOND;

fn exact(store: impl Store + 'static, clock: &ManualClock) -> SharedKeyedRateLimiter<String> {
    SharedKeyedRateLimiter::<String>::builder()
        .store(store)
        .key_by(String::clone)
        .quota(Quota::per_second(1000))
        .sync(SyncMode::Exact)
        .clock(clock.clone())
        .build()
        .unwrap()
}

/// Polls a call until it is decided, and runs `each` before every further poll. Returns how many milliseconds passed.
fn time_of(
    call: impl Future<Output = Result<(), Rejected>>,
    clock: &ManualClock,
    mut each: impl FnMut(),
) -> u64 {
    let mut call = std::pin::pin!(call);
    let mut task = std::task::Context::from_waker(std::task::Waker::noop());
    let mut millis = 0;
    while call.as_mut().poll(&mut task).is_pending() {
        assert!(millis < 2000);
        clock.advance(MILLISECOND);
        millis += 1;
        each();
    }
    millis
}

#[test]
fn a_request_may_take_forty_times_as_long_while_those_before_it_are_answered() {
    let clock = ManualClock::new();
    let replies = Arc::new(Mutex::new(Vec::new()));
    let limits = exact(Queues(replies.clone()), &clock);
    let mut task = std::task::Context::from_waker(std::task::Waker::noop());
    let names: Vec<String> = (0..2000).map(|key| key.to_string()).collect();
    let mut before: Vec<_> = names
        .iter()
        .map(|name| Box::pin(limits.try_acquire(name)))
        .collect();
    for call in &mut before {
        assert!(call.as_mut().poll(&mut task).is_pending());
    }
    let last = limits.try_acquire("last");
    // One answer in ten milliseconds.
    let mut millis = 0;
    let waited = time_of(last, &clock, || {
        millis += 1;
        if millis % 10 == 0 {
            let (take, reply): (Vec<Take>, Reply<Vec<Taken>>) = replies.lock().unwrap().remove(0);
            MemoryStore::new(clock.clone()).take(take, reply);
        }
    });
    assert_eq!(waited, 40 * 25);
}

#[test]
fn a_request_is_lost_when_those_sent_a_timeout_later_are_answered() {
    let clock = ManualClock::new();
    let store = Ignores(MemoryStore::new(clock.clone()), Mutex::default());
    let limits = exact(store, &clock);
    let waited = time_of(limits.try_acquire("bad"), &clock, || {
        clock.block_on(limits.try_acquire("good")).unwrap();
    });
    assert!((25..=26).contains(&waited), "{waited} ms");
    assert!(limits.snapshot().store_up, "only that key");
    assert!(!limits.get("bad").snapshot().store_up);
}

#[test]
fn requests_that_were_given_up_give_others_no_more_time() {
    let clock = ManualClock::new();
    let store = Ignores(MemoryStore::new(clock.clone()), Mutex::default());
    let limits = exact(store, &clock);
    let names: Vec<String> = (0..2000).map(|key| format!("bad{key}")).collect();
    let calls = names.iter().map(|name| limits.try_acquire(name));
    let all = async {
        let _ = futures::future::join_all(calls).await;
        Ok(())
    };
    let good = || clock.block_on(limits.try_acquire("good")).unwrap();
    // 25 ms, and 50 µs for each other request.
    let waited = time_of(all, &clock, good);
    assert!((125..=127).contains(&waited), "{waited} ms");
    let waited = time_of(limits.try_acquire("bad"), &clock, good);
    assert!((25..=26).contains(&waited), "{waited} ms");
}

/// A store that queues all requests.
#[expect(clippy::type_complexity, reason = "spelled out once")]
struct Queues(Arc<Mutex<Vec<(Vec<Take>, Reply<Vec<Taken>>)>>>);

impl Store for Queues {
    fn take(&self, takes: Vec<Take>, reply: Reply<Vec<Taken>>) {
        self.0.lock().unwrap().push((takes, reply));
    }
}

/// A store that never answers requests about keys that begin with `bad`.
struct Ignores(MemoryStore, Mutex<Vec<Reply<Vec<Taken>>>>);

impl Store for Ignores {
    fn take(&self, takes: Vec<Take>, reply: Reply<Vec<Taken>>) {
        match takes.iter().any(|take| take.key.starts_with("bad")) {
            true => self.1.lock().unwrap().push(reply),
            false => self.0.take(takes, reply),
        }
    }
}
