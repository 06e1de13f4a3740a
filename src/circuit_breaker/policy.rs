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
    AtMostOnce, Context, Describe, Finished, LayerKind, OnUnwind, Operation, Outcome, Policy, Run,
};
use crate::sync::cold_path;
use crate::verdict::{Health, Verdict};

impl Policy for CircuitBreaker {}

impl AtMostOnce for CircuitBreaker {}

impl<'a, Op: Operation> Run<Op> for &'a CircuitBreaker {
    type Future = GuardedFuture<&'a CircuitBreaker, Op>;

    #[inline(always)]
    fn run(self, op: Op, cx: Context) -> Self::Future {
        guarded::run(self, op, cx)
    }
}

impl Describe for CircuitBreaker {
    fn clock(&self) -> Option<ClockHandle> {
        Some(self.inner.base.clock.clone())
    }

    fn describe(&self, layers: &mut Vec<LayerKind>) {
        layers.push(LayerKind::CircuitBreaker);
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
            cold_path();
            match inner.reject_hedge(observer) {
                None => {}
                // The result is not recorded, so no start time is needed.
                Some(Ok(ticket)) => return Entered::Admitted((ticket, Instant::ORIGIN)),
                Some(Err(rejected)) => return Entered::Rejected(rejected),
            }
        }
        let started = if inner.needs_clock() {
            cold_path();
            cx.now(clock)
        } else {
            Instant::ORIGIN
        };
        // No closure reads the time: it would take the address of `cx`, see `Gate::enter`.
        let admitted = match inner.admit_if_closed() {
            Ok(ticket) => Ok(ticket),
            Err(state) => inner.admit_some(state, cx.now(clock), observer),
        };
        match admitted {
            Ok(ticket) => {
                // Branch-free, because most calls are not probes.
                *cx = cx.with_probe(cx.is_probe() | ticket.is_probe());
                Entered::Admitted((ticket, started))
            }
            Err(rejection) => Entered::Rejected(rejection.by(inner.base.name)),
        }
    }

    #[inline(always)]
    fn permit(self, (ticket, started): Self::Ticket) -> Permit<'a> {
        Permit::new(&self.inner, ticket, started, Life::of_policy())
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
        outcome.shown_to(|verdict, finished| {
            if verdict.health() == Health::Healthy && inner.success_changes_nothing(ticket) {
                return finished;
            }
            cold_path();
            record(inner, ticket, started, verdict, finished, observer)
        })
    }
}

/// Records a verdict that may change something.
#[inline(never)]
fn record(
    inner: &Inner,
    ticket: Ticket,
    started: Instant,
    verdict: Verdict,
    mut finished: Finished,
    observer: Option<&dyn Observer>,
) -> Finished {
    // If the clock panics, a probe must still be released.
    let on_unwind = OnUnwind::new(|| {
        let health = inner.settings().panicked_as;
        inner.record(ticket, started, health, &Finish::UNKNOWN);
    });
    let now = inner.needs_clock().then(|| finished.on(&inner.base.clock));
    on_unwind.disarm();
    let finish = Finish {
        duration: None,
        now,
        hint: verdict.hint(),
        observer,
    };
    inner.record(ticket, started, verdict.health(), &finish);
    finished
}
