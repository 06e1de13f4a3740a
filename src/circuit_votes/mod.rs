#![cfg_attr(feature = "tokio", doc = include_str!("../../docs/patterns/circuit-votes.md"))]
#![cfg_attr(
    not(feature = "tokio"),
    doc = "Circuit breakers of a fleet that learn from each other."
)]

use std::fmt;
use std::future::Future;
use std::sync::{Arc, Mutex};
use std::task::{Poll, Waker};

use crate::circuit_breaker::Transitions;
use crate::clock::ClockHandle;
use crate::event::State;
use crate::instant::Instant;
use crate::store::{Reply, StoreError, Tally, Vote};
use crate::sync::lock;

mod config;
mod inner;
mod state;

pub use self::config::CircuitVotesBuilder;
pub use self::state::Follow;

use self::inner::Inner;
use self::state::Following;

/// Publishes the state of a breaker to the fleet, and opens it with the fleet's circuits. See the [module
/// page](self).
///
/// Cheap to clone; clones are one voter. Run only one of them.
#[derive(Clone)]
pub struct CircuitVotes {
    inner: Arc<Inner>,
}

/// A snapshot of a voter.
#[cfg_attr(feature = "config", derive(serde::Serialize, serde::Deserialize))]
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Snapshot {
    /// The name of the breaker.
    #[cfg_attr(feature = "config", serde(deserialize_with = "crate::forms::name"))]
    pub name: &'static std::primitive::str,
    /// The other votes at the last reading; empty while the store does not answer.
    pub tally: Tally,
    /// Number of times that a quorum opened the breaker.
    pub followed: u64,
    /// Whether the store answers.
    pub store_up: bool,
    /// The last error of the store.
    pub last_error: Option<String>,
}

impl CircuitVotes {
    /// Publishes the breaker's vote, reads those of the others, and follows a quorum, while the returned future runs.
    /// Votes at each [`every`](CircuitVotesBuilder::every), and when the breaker opens or closes. Spawn it.
    ///
    /// # Cancel safety
    ///
    /// Dropping it changes nothing; the vote expires after three times `every`.
    pub async fn run(&self) {
        let inner = &*self.inner;
        let mut transitions = inner.breaker.subscribe();
        let mut following = Following::default();
        loop {
            let next = inner.clock.now() + inner.every;
            let breaker = inner.breaker().snapshot();
            let is_open = matches!(breaker.state, State::Open | State::HalfOpen);
            // A vote counts only with evidence: not without calls, nor while the circuit is open only because of
            // others.
            let counts = match is_open {
                true => !following.is_active(),
                false => breaker.calls > 0,
            };
            let answer = self.vote(is_open, counts, next).await;
            if self.follow(answer) {
                following.opened(inner.breaker().snapshot().generation);
            }
            wait(&mut transitions, &mut following, &inner.clock, next).await;
        }
    }

    /// Votes, and returns the votes of the others, or an error if the store does not answer by `latest`.
    async fn vote(&self, open: bool, counts: bool, latest: Instant) -> Result<Tally, StoreError> {
        let inner = &*self.inner;
        let vote = Vote {
            key: inner.key.clone(),
            instance: inner.instance.clone(),
            open,
            counts,
            ttl: inner.every * 3,
        };
        let slot = Arc::new(Mutex::new(Slot::default()));
        let filled = slot.clone();
        let reply = Reply::new(move |answer| {
            let waker = {
                let mut slot = lock(&filled);
                slot.answer = Some(answer);
                slot.waker.take()
            };
            if let Some(waker) = waker {
                waker.wake();
            }
        });
        inner.store.vote(vote, reply);
        let mut timer = Box::pin(inner.clock.sleep_until(latest));
        std::future::poll_fn(move |task| {
            let waker = task.waker().clone();
            let replaced = {
                let mut slot = lock(&slot);
                if let Some(answer) = slot.answer.take() {
                    return Poll::Ready(answer);
                }
                slot.waker.replace(waker)
            };
            drop(replaced);
            let late = timer.as_mut().poll(task);
            late.map(|()| Err(StoreError::new("no answer in time")))
        })
        .await
    }

    /// Opens the breaker if a quorum of the others is open. Returns whether it did so without evidence of its own.
    fn follow(&self, answer: Result<Tally, StoreError>) -> bool {
        let inner = &*self.inner;
        let tally = {
            let mut seen = lock(&inner.seen);
            match answer {
                Ok(tally) => {
                    seen.tally = tally;
                    seen.error = None;
                    tally
                }
                Err(error) => {
                    seen.tally = Tally::default();
                    seen.error = Some(error);
                    return false;
                }
            }
        };
        let circuit = inner.breaker();
        let breaker = circuit.snapshot();
        let (calls, failures) = (breaker.calls, breaker.failures);
        let has_evidence = inner.rules.is_evidence(calls, failures, breaker.min_calls);
        let opens = breaker.state == State::Closed && inner.rules.opens(tally, has_evidence);
        if opens {
            lock(&inner.seen).followed += 1;
            circuit.trip();
        }
        opens && !has_evidence
    }

    /// Returns the state of the voter. Changes nothing.
    pub fn snapshot(&self) -> Snapshot {
        let seen = lock(&self.inner.seen).clone();
        Snapshot {
            name: self.inner.breaker.name(),
            tally: seen.tally,
            followed: seen.followed,
            store_up: seen.error.is_none(),
            last_error: seen.error.map(|error| error.to_string()),
        }
    }
}

/// The answer of the store, or the waker of the task that waits for it.
#[derive(Default)]
struct Slot {
    answer: Option<Result<Tally, StoreError>>,
    waker: Option<Waker>,
}

/// Waits for a transition of the breaker, at most until `until`.
async fn wait(
    transitions: &mut Transitions,
    following: &mut Following,
    clock: &ClockHandle,
    until: Instant,
) {
    let mut timer = Box::pin(clock.sleep_until(until));
    let mut is_over = false;
    std::future::poll_fn(|task| {
        if !is_over {
            match transitions.poll_next_transition(task) {
                Poll::Ready(Some(transition)) => {
                    following.note(&transition);
                    return Poll::Ready(());
                }
                // Unreachable in practice: this voter holds a handle of the breaker.
                Poll::Ready(None) => is_over = true,
                Poll::Pending => {}
            }
        }
        timer.as_mut().poll(task)
    })
    .await;
    // Further transitions are covered by the same vote.
    while let Some(transition) = transitions.try_next() {
        following.note(&transition);
    }
}

impl fmt::Debug for CircuitVotes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("CircuitVotes")
            .field(&self.snapshot())
            .finish()
    }
}
