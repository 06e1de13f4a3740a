//! A store in memory, with injectable faults.

use std::collections::HashMap;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Wake, Waker};
use std::time::Duration;

use super::error::StoreError;
use super::reply::Reply;
use super::state::ballot::{Ballot, Tally, Vote};
use super::state::bucket::Bucket;
use super::state::holders::{Held, Hold, Holders};
use super::state::take::{StoreTime, Take, Taken};
use super::traits::{PermitStore, Store, VoteStore};
use crate::clock::{ClockHandle, Sleep};
use crate::instant::Instant;
use crate::sync::lock;

/// A store in memory, for tests and for programs of a single process.
///
/// Clones share the content: give each simulated process a clone. It computes exactly what `backstop-redis` does, on
/// the given clock. [Faults](Self::set_fault), [latency](Self::set_latency), [loss of memory](Self::lose_memory), and
/// [clock steps](Self::step_clock) can be injected, so that tests of outages are deterministic.
///
/// # Example
///
/// ```
/// use backstop::store::{Fault, MemoryStore};
/// use backstop::{ManualClock, Quota, SharedRateLimiter};
///
/// let clock = ManualClock::new();
/// let store = MemoryStore::new(clock.clone());
/// let limiter = SharedRateLimiter::builder()
///     .store(store.clone())
///     .key("github")
///     .quota(Quota::per_second(10))
///     .clock(clock.clone())
///     .build()?;
/// assert!(clock.block_on(limiter.try_acquire()).is_ok());
///
/// store.set_fault(Some(Fault::Fail));
/// for _ in 0..9 {
///     let _ = clock.block_on(limiter.try_acquire());
/// }
/// assert!(!limiter.snapshot().store_up);
/// # Ok::<(), backstop::ConfigError>(())
/// ```
#[derive(Clone)]
pub struct MemoryStore {
    inner: Arc<Inner>,
}

/// A fault of a [`MemoryStore`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Fault {
    /// Requests fail at once, as with a closed port.
    Fail,
    /// Requests wait, and are executed once the fault is cleared, as with a suspended process.
    Stall,
    /// Requests are executed, but their answers are lost, as with a broken connection.
    LoseReplies,
}

struct Inner {
    clock: ClockHandle,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    buckets: HashMap<Arc<str>, Bucket>,
    permits: HashMap<Arc<str>, Holders>,
    votes: HashMap<Arc<str>, Ballot>,
    fault: Option<Fault>,
    latency: Duration,
    /// Offset of the store's clock, in microseconds.
    shift: i64,
    requests: u64,
    stalled: Vec<Request>,
    sweeps: Sweeps,
}

/// The numbers of keys at which the keys that equal new ones are removed.
#[derive(Default)]
struct Sweeps {
    buckets: usize,
    permits: usize,
    votes: usize,
}

/// Removes the entries that are not needed once the map has `at` entries. Then sets `at` to twice the remaining number,
/// so that the cost for each new key is constant.
fn sweep<V>(map: &mut HashMap<Arc<str>, V>, at: &mut usize, is_needed: impl Fn(&mut V) -> bool) {
    if map.len() >= *at {
        map.retain(|_, value| is_needed(value));
        *at = (2 * map.len()).max(1024);
    }
}

enum Request {
    Take(Vec<Take>, Reply<Vec<Taken>>),
    Hold(Hold, Reply<Held>),
    Vote(Vote, Reply<Tally>),
}

/// A deferred answer.
type Answer = Box<dyn FnOnce() + Send>;

impl MemoryStore {
    /// Returns an empty store on this clock.
    pub fn new(clock: impl Into<ClockHandle>) -> Self {
        Self {
            inner: Arc::new(Inner {
                clock: clock.into(),
                state: Mutex::default(),
            }),
        }
    }

    /// Injects a fault. `None` clears it, and executes stalled requests.
    pub fn set_fault(&self, fault: Option<Fault>) {
        let stalled = {
            let mut state = lock(&self.inner.state);
            state.fault = fault;
            match fault {
                Some(Fault::Stall) => Vec::new(),
                _ => std::mem::take(&mut state.stalled),
            }
        };
        for request in stalled {
            self.execute(request);
        }
    }

    /// Sets the latency of answers. With zero, the default, answers arrive on the requesting thread.
    pub fn set_latency(&self, latency: Duration) {
        lock(&self.inner.state).latency = latency;
    }

    /// Clears the store, as a restart without persistence does.
    pub fn lose_memory(&self) {
        let mut state = lock(&self.inner.state);
        state.buckets.clear();
        state.permits.clear();
        state.votes.clear();
    }

    /// Steps the store's clock by `micros` microseconds; negative values step backward. Affects only buckets.
    pub fn step_clock(&self, micros: i64) {
        let mut state = lock(&self.inner.state);
        state.shift = state.shift.saturating_add(micros);
    }

    /// Returns the number of requests so far, including failed ones.
    pub fn requests(&self) -> u64 {
        lock(&self.inner.state).requests
    }

    /// Returns the number of stored keys whose state differs from that of a new key.
    pub fn len(&self) -> usize {
        let now = self.inner.clock.now();
        let mut state = lock(&self.inner.state);
        let time = state.time(now);
        state.buckets.retain(|_, bucket| !bucket.is_full(time));
        state.permits.retain(|_, holders| !holders.is_empty(now));
        state.votes.retain(|_, ballot| !ballot.is_empty(now));
        state.buckets.len() + state.permits.len() + state.votes.len()
    }

    /// Returns whether every key is in the state of a new key.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn request(&self, request: Request) {
        let failed = {
            let mut state = lock(&self.inner.state);
            state.requests += 1;
            match state.fault {
                Some(Fault::Stall) => {
                    state.stalled.push(request);
                    return;
                }
                Some(Fault::Fail) => true,
                Some(Fault::LoseReplies) | None => false,
            }
        };
        match failed {
            true => request.fail("the store is down"),
            false => self.execute(request),
        }
    }

    fn execute(&self, request: Request) {
        let clock = &self.inner.clock;
        let now = clock.now();
        let (answer, latency) = {
            let mut state = lock(&self.inner.state);
            match state.fault {
                Some(Fault::Fail) => (None, Duration::ZERO),
                fault => {
                    let answer = state.execute(now, &request);
                    let lost = fault == Some(Fault::LoseReplies);
                    ((!lost).then_some(answer), state.latency)
                }
            }
        };
        let Some(answer) = answer else {
            return request.fail("the connection broke");
        };
        let send = request.answer(answer);
        if latency.is_zero() {
            send();
        } else {
            Delivery::start(clock, now + latency, send);
        }
    }
}

/// The answer to a request.
enum Done {
    Taken(Vec<Taken>),
    Held(Held),
    Tally(Tally),
}

impl Request {
    fn fail(self, text: &str) {
        let error = StoreError::new(text);
        match self {
            Self::Take(_, reply) => reply.send(Err(error)),
            Self::Hold(_, reply) => reply.send(Err(error)),
            Self::Vote(_, reply) => reply.send(Err(error)),
        }
    }

    fn answer(self, done: Done) -> Answer {
        Box::new(move || match (self, done) {
            (Self::Take(_, reply), Done::Taken(taken)) => reply.send(Ok(taken)),
            (Self::Hold(_, reply), Done::Held(held)) => reply.send(Ok(held)),
            (Self::Vote(_, reply), Done::Tally(tally)) => reply.send(Ok(tally)),
            // Not reached: each kind of request has its own kind of answer.
            _ => {}
        })
    }
}

impl State {
    fn time(&self, now: Instant) -> StoreTime {
        let micros = now.as_nanos() / 1000;
        // The clock starts a year after the origin, so that it can step backward.
        const YEAR: u64 = 365 * 86_400 * 1_000_000;
        StoreTime::from_micros(
            micros
                .saturating_add(YEAR)
                .saturating_add_signed(self.shift),
        )
    }

    fn execute(&mut self, now: Instant, request: &Request) -> Done {
        match request {
            Request::Take(takes, _) => Done::Taken(self.take(now, takes)),
            Request::Hold(hold, _) => {
                let at = &mut self.sweeps.permits;
                sweep(&mut self.permits, at, |holders| !holders.is_empty(now));
                let holders = self.permits.entry(hold.key.clone()).or_default();
                Done::Held(holders.hold(now, hold))
            }
            Request::Vote(vote, _) => {
                let at = &mut self.sweeps.votes;
                sweep(&mut self.votes, at, |ballot| !ballot.is_empty(now));
                let ballot = self.votes.entry(vote.key.clone()).or_default();
                Done::Tally(ballot.vote(now, vote))
            }
        }
    }

    fn take(&mut self, now: Instant, takes: &[Take]) -> Vec<Taken> {
        let time = self.time(now);
        let at = &mut self.sweeps.buckets;
        sweep(&mut self.buckets, at, |bucket| !bucket.is_full(time));
        let prepared: Vec<_> = takes
            .iter()
            .map(|take| {
                let bucket = self.buckets.get(&take.key).copied();
                bucket.unwrap_or_default().prepare(time, take)
            })
            .collect();
        let both = || takes.iter().zip(&prepared);
        let grants = both().all(|(take, prepared)| prepared.suffices(take));
        let ends = both().map(|(take, prepared)| {
            let (bucket, taken) = prepared.finish(take, grants);
            self.buckets.insert(take.key.clone(), bucket);
            taken
        });
        ends.collect()
    }
}

impl Store for MemoryStore {
    fn take(&self, takes: Vec<Take>, reply: Reply<Vec<Taken>>) {
        self.request(Request::Take(takes, reply));
    }
}

impl PermitStore for MemoryStore {
    fn hold(&self, hold: Hold, reply: Reply<Held>) {
        self.request(Request::Hold(hold, reply));
    }
}

impl VoteStore for MemoryStore {
    fn vote(&self, vote: Vote, reply: Reply<Tally>) {
        self.request(Request::Vote(vote, reply));
    }
}

/// An answer with latency. As the waker of its own sleep, it sends itself when the sleep ends.
struct Delivery {
    clock: ClockHandle,
    due: Instant,
    sleep: Mutex<Option<Pin<Box<Sleep>>>>,
    answer: Mutex<Option<Answer>>,
}

impl Delivery {
    fn start(clock: &ClockHandle, due: Instant, answer: Answer) {
        let delivery = Arc::new(Self {
            clock: clock.clone(),
            due,
            sleep: Mutex::new(Some(Box::pin(clock.sleep_until(due)))),
            answer: Mutex::new(Some(answer)),
        });
        delivery.poll();
    }

    /// Sends the answer if it is due. Otherwise the sleep keeps the delivery alive as its waker.
    fn poll(self: &Arc<Self>) {
        let sleep = lock(&self.sleep).take();
        if let Some(mut sleep) = sleep {
            let waker = Waker::from(self.clone());
            let is_over = sleep
                .as_mut()
                .poll(&mut Context::from_waker(&waker))
                .is_ready();
            if !is_over {
                *lock(&self.sleep) = Some(sleep);
            }
        }
        if self.clock.now() >= self.due {
            let answer = lock(&self.answer).take();
            if let Some(answer) = answer {
                let sleep = lock(&self.sleep).take();
                drop(sleep);
                answer();
            }
        }
    }
}

impl Wake for Delivery {
    fn wake(self: Arc<Self>) {
        self.poll();
    }
}

impl fmt::Debug for MemoryStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = lock(&self.inner.state);
        f.debug_struct("MemoryStore")
            .field("buckets", &state.buckets.len())
            .field("fault", &state.fault)
            .field("latency", &state.latency)
            .field("requests", &state.requests)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::ManualClock;
    use crate::rate_limiter::Quota;

    #[test]
    fn keys_of_all_kinds_that_expired_are_removed_while_others_are_used() {
        let clock = ManualClock::new();
        let store = MemoryStore::new(clock.clone());
        let second = Duration::from_secs(1);
        for number in 0..10_000 {
            clock.advance(second / 100);
            let key: Arc<str> = number.to_string().into();
            let instance: Arc<str> = "a".into();
            let hold = Hold::new(key.clone(), instance.clone(), 1, 1, second);
            store.hold(hold, Reply::new(|held| assert!(held.is_ok())));
            let vote = Vote {
                key: key.clone(),
                instance,
                open: true,
                counts: true,
                ttl: second,
            };
            store.vote(vote, Reply::new(|tally| assert!(tally.is_ok())));
            let take = Take::new(key, Quota::per_second(1), 1);
            store.take(vec![take], Reply::new(|taken| assert!(taken.is_ok())));
        }
        let state = lock(&store.inner.state);
        let stored = [state.buckets.len(), state.permits.len(), state.votes.len()];
        assert!(
            stored.iter().all(|keys| (100..=1100).contains(keys)),
            "{stored:?}"
        );
    }

    #[test]
    fn extreme_requests_and_clocks_do_not_panic() {
        let clock = ManualClock::new();
        let store = MemoryStore::new(clock.clone());
        for micros in [i64::MAX, i64::MAX, i64::MIN, i64::MIN, i64::MIN] {
            store.step_clock(micros);
            for quota in [
                Quota::per_second(10),
                Quota::per_second(0),
                Quota::new(1, Duration::ZERO),
                Quota::new(u64::MAX, Duration::MAX).burst(u64::MAX),
            ] {
                let mut take = Take::new("key".into(), quota, u64::MAX);
                take.spent = u64::MAX;
                take.give_back = Some((u64::MAX, StoreTime::from_micros(u64::MAX)));
                store.take(vec![take], Reply::new(|taken| assert!(taken.is_ok())));
            }
        }
    }
}
