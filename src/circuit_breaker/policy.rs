//! The breaker as a policy.

use super::inner::Inner;
use super::ticket::{Finish, Ticket};
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
        // On a copy, because the address of `cx` must not escape: see `Gate::enter`.
        let mut copy = *cx;
        match inner.admit(|| copy.now(clock), observer) {
            Ok(ticket) => {
                // Branch-free, because most calls are not probes.
                *cx = cx.with_probe(cx.is_probe() | ticket.is_probe());
                Entered::Admitted((ticket, started))
            }
            Err(rejection) => Entered::Rejected(inner.rejected(rejection)),
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
        if outcome.verdict.health() == Health::Healthy && inner.success_changes_nothing(ticket) {
            return outcome;
        }
        record(inner, ticket, started, outcome, observer)
    }
}

/// Records an outcome that may change something.
///
/// Takes the outcome by value and is inlined: an outcome whose address escapes is moved through memory, which
/// costs 7 ns a call.
#[inline(always)]
fn record<T, E>(
    inner: &Inner,
    ticket: Ticket,
    started: Instant,
    mut outcome: Outcome<T, E>,
    observer: Option<&dyn Observer>,
) -> Outcome<T, E> {
    // If the clock panics, a probe must still be released.
    let on_unwind = OnUnwind::new(|| {
        let health = inner.settings().panicked_as;
        inner.record(ticket, started, health, &Finish::UNKNOWN);
    });
    let now = (inner.rules.needs_clock()).then(|| outcome.finished(&inner.base.clock));
    on_unwind.disarm();
    let finish = Finish {
        duration: None,
        now,
        hint: outcome.verdict.hint(),
        observer,
    };
    inner.record(ticket, started, outcome.verdict.health(), &finish);
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
