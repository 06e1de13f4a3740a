//! The breaker around an operation.

use super::inner::Inner;
use super::ticket::{End, Ticket};
use super::{CircuitBreaker, Permit};
use crate::clock::ClockHandle;
use crate::event::Observer;
use crate::instant::Instant;
use crate::life::Life;
use crate::policy::guarded::{self, Entered, Gate, GuardedFuture, NoWait};
use crate::policy::{
    AtMostOnce, Context, Describe, LayerKind, OnUnwind, Operation, Outcome, Policy, Run,
};
use crate::verdict::Health;

impl Policy for CircuitBreaker {}

impl AtMostOnce for CircuitBreaker {}

impl<'a, Op: Operation> Run<Op> for &'a CircuitBreaker {
    type Future = GuardedFuture<&'a CircuitBreaker, Op>;

    #[inline(always)]
    fn run(self, op: Op, cx: Context) -> Self::Future {
        guarded::run(self, op, cx)
    }
}

impl<'a> Gate for &'a CircuitBreaker {
    type Ticket = (Ticket, Instant);
    type Permit = Permit<'a>;
    type Entrance = NoWait<Permit<'a>>;

    #[inline(always)]
    fn enter(
        self,
        cx: &mut Context,
        observer: Option<&dyn Observer>,
    ) -> Entered<Self::Ticket, Self::Entrance> {
        let inner = &*self.inner;
        let clock = &inner.base.clock;
        if cx.is_hedge() {
            if let Some(rejected) = inner.reject_hedge(observer) {
                return Entered::Rejected(rejected);
            }
        }
        let started = if inner.rules.needs_clock() {
            cx.now(clock)
        } else {
            Instant::ORIGIN
        };
        // A copy: see `Gate::enter`.
        let mut copy = *cx;
        match inner.admit(|| copy.now(clock), observer) {
            Ok(ticket) => {
                // Without a branch: most calls are none, and most operations do not ask.
                *cx = cx.with_probe(cx.is_probe() | ticket.is_probe());
                Entered::Admitted((ticket, started))
            }
            Err(refused) => Entered::Rejected(inner.rejection(refused)),
        }
    }

    #[inline(always)]
    fn permit(self, (ticket, started): Self::Ticket) -> Permit<'a> {
        Permit::new(&self.inner, ticket, started, Life::of_a_policy())
    }
}

impl guarded::Permit for Permit<'_> {
    #[inline]
    fn panicked(&mut self) {
        self.life.panicked();
    }

    #[inline(always)]
    fn take(&mut self) -> Self {
        self.move_out()
    }

    #[inline(always)]
    fn exit<T, E>(self, outcome: Outcome<T, E>, observer: Option<&dyn Observer>) -> Outcome<T, E> {
        let (inner, ticket, started) = self.into_parts();
        if outcome.verdict.health() == Health::Healthy && inner.is_settled(ticket) {
            return outcome;
        }
        record(inner, ticket, started, outcome, observer)
    }
}

/// Records the end of a call that may change something.
///
/// By value, and inlined: an outcome whose address gets out is moved through memory, 7 ns a call.
#[inline(always)]
fn record<T, E>(
    inner: &Inner,
    ticket: Ticket,
    started: Instant,
    mut outcome: Outcome<T, E>,
    observer: Option<&dyn Observer>,
) -> Outcome<T, E> {
    // A clock may panic: a probe's place comes back all the same.
    let mark = OnUnwind::new(|| inner.record_health(ticket, started, inner.settings().panicked_as));
    let now = (inner.rules.needs_clock()).then(|| outcome.finished(&inner.base.clock));
    mark.disarm();
    let end = End {
        took: None,
        now,
        hint: outcome.verdict.hint(),
        listener: observer,
    };
    inner.record(ticket, started, outcome.verdict.health(), &end);
    outcome
}

impl Describe for CircuitBreaker {
    fn clock(&self) -> Option<ClockHandle> {
        Some(self.inner.base.clock.clone())
    }

    fn describe(&self, layers: &mut Vec<LayerKind>) {
        layers.push(LayerKind::CircuitBreaker);
    }
}
