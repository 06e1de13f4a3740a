//! Shared by the adapters of circuit breakers.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::time::Duration;

use backstop::circuit_breaker::{CircuitBreakerBuilder, Permit, State};
use backstop::{Backoff, CircuitBreaker, Jitter, Rejected, Verdict};

use super::clock::TestClock;
use super::harness::{Failure, failed, inexpressible};

pub(crate) const NANOSECOND: Duration = Duration::from_nanos(1);

/// Builds the breaker of a configuration. The source accepts it, so ours must too.
pub(crate) fn build(
    builder: CircuitBreakerBuilder,
    clock: &TestClock,
) -> Result<CircuitBreaker, Failure> {
    let built = builder.clock(clock.clone()).build();
    built.or_else(|error| failed(error.to_string()))
}

/// Returns a constant delay, or none.
pub(crate) fn fixed(delay: Duration) -> Backoff {
    match delay {
        Duration::ZERO => Backoff::NONE,
        delay => Backoff::fixed(delay).max(delay).jitter(Jitter::None),
    }
}

/// A breaker whose scenario does not identify calls: a result belongs to the oldest admitted call, or to a new
/// one.
pub(crate) struct Subject<'a> {
    pub(crate) breaker: &'a CircuitBreaker,
    held: RefCell<VecDeque<(u64, Permit<'a>)>>,
    named: RefCell<Vec<(String, Permit<'a>)>>,
}

impl<'a> Subject<'a> {
    pub(crate) fn new(breaker: &'a CircuitBreaker) -> Self {
        Self {
            breaker,
            held: RefCell::default(),
            named: RefCell::default(),
        }
    }

    /// Acquires a permit and keeps it.
    pub(crate) fn acquire(&self) -> bool {
        self.keep(self.breaker.try_acquire())
    }

    /// Keeps a permit, if any.
    pub(crate) fn keep(&self, permit: Result<Permit<'a>, Rejected>) -> bool {
        let Ok(permit) = permit else {
            return false;
        };
        let generation = self.breaker.snapshot().generation;
        self.held.borrow_mut().push_back((generation, permit));
        true
    }

    /// Returns the oldest kept permit, unless the state has changed since its admission.
    fn oldest(&self) -> Option<Permit<'a>> {
        let generation = self.breaker.snapshot().generation;
        let mut held = self.held.borrow_mut();
        held.retain(|(given, _)| *given == generation);
        held.pop_front().map(|(_, permit)| permit)
    }

    /// Records a result. A circuit that admits no call ignores it.
    pub(crate) fn record(&self, verdict: Verdict, took: Option<Duration>) {
        self.try_record(verdict, took);
    }

    /// As [`record`](Self::record). Returns whether the result was recorded.
    fn try_record(&self, verdict: Verdict, took: Option<Duration>) -> bool {
        let permit = self.oldest().or_else(|| self.breaker.try_acquire().ok());
        let Some(permit) = permit else {
            return false;
        };
        match took {
            Some(took) => permit.record_with_duration(verdict, took),
            None => permit.record(verdict),
        }
        true
    }

    /// As [`record`](Self::record), for sources whose results need no admission: a circuit that admits no call
    /// keeps its state at any time and counts no rejection. Returns whether the result was recorded.
    pub(crate) fn record_unasked(&self, verdict: Verdict, took: Option<Duration>) -> bool {
        // The end of the half-open phase may not have been noticed yet.
        let shut = [State::Open, State::Isolated];
        !shut.contains(&self.breaker.state())
            && self.breaker.peek() != State::Open
            && self.try_record(verdict, took)
    }

    /// Returns a permit unused.
    pub(crate) fn release(&self) {
        drop(self.oldest());
    }

    pub(crate) fn begin(&self, call: &str) -> bool {
        let permit = self.breaker.try_acquire();
        let admitted = permit.is_ok();
        permit
            .into_iter()
            .for_each(|permit| self.name(call, permit));
        admitted
    }

    /// Keeps the permit of a call in flight.
    pub(crate) fn name(&self, call: &str, permit: Permit<'a>) {
        self.named.borrow_mut().push((call.to_owned(), permit));
    }

    pub(crate) fn end(&self, call: &str, verdict: Verdict) {
        let mut named = self.named.borrow_mut();
        let index = named.iter().position(|(name, _)| name == call);
        if let Some(index) = index {
            named.remove(index).1.record(verdict);
        }
    }

    /// Forces the breaker into a state.
    pub(crate) fn force(&self, state: &str) -> Result<(), Failure> {
        match state {
            "open" => self.breaker.trip(),
            "half_open" => self.breaker.half_open(),
            "closed" => self.breaker.reset(),
            "disabled" => self.breaker.disable(),
            "metrics_only" => self.breaker.metrics_only(),
            state => return inexpressible(format!("state {state:?}")),
        }
        Ok(())
    }
}

/// Returns the verdict of an outcome.
pub(crate) fn verdict(outcome: Option<&str>) -> Result<Verdict, Failure> {
    match outcome {
        Some("success") => Ok(Verdict::success()),
        Some("failure" | "error") => Ok(Verdict::failure()),
        Some("ignored_error" | "unhandled_error" | "ignored" | "cancelled") => {
            Ok(Verdict::ignore())
        }
        outcome => inexpressible(format!("outcome {outcome:?}")),
    }
}

/// Returns the name that most sources use for a state.
pub(crate) const fn name(state: State) -> &'static str {
    state.as_str()
}

/// Rounds a number to a 32-bit float, for sources that compute in those.
pub(crate) fn float(number: f64) -> f64 {
    let text = (number as f32).to_string();
    text.parse().unwrap_or(number)
}
