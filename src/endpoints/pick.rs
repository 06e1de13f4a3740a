//! The pick of a node for a call.

use super::flight::Flight;
use super::inner::{Inner, Then};
use super::plan::Plan;
use super::state::health::Standing;
use super::state::routes::{Ask, Entry};
use super::state::rules::Strategy;
use crate::error::{Reason, Rejected};
use crate::event::{Event, Observer, Panics};
use crate::instant::Instant;
use crate::life::Life;
use crate::sync::Ordering;

impl<N> Inner<N> {
    /// Picks a node for a call that has tried these ones, and counts the call as in flight.
    #[inline]
    pub(super) fn pick(
        &self,
        now: Instant,
        tried: u64,
        key: Option<u64>,
        life: Life,
        listener: Option<&dyn Observer>,
    ) -> Result<Flight<'_, N>, Rejected> {
        // Relaxed: what is due is found out under the lock.
        if now.as_nanos() >= self.due.load(Ordering::Relaxed) {
            self.maintain(now, listener);
        }
        let turn = match self.settings.strategy {
            Strategy::RoundRobin => self.turn.fetch_add(1, Ordering::Relaxed),
            Strategy::LeastLoaded(_) => 0,
        };
        let mut ask = Ask {
            now,
            decay: self.settings.decay,
            strategy: self.settings.strategy,
            key,
            tried,
            turn,
            chance: self.streams.begin(),
        };
        for _ in 0..MAX_CLOSED {
            match self.published.read(|plan| self.enter(plan, &mut ask, life)) {
                Entered::InFlight(flight) => return Ok(flight),
                Entered::NoRoute => break,
                // The node was closed after these routes were made: another one.
                Entered::Closed(bit) => ask.tried |= bit,
            }
        }
        Err(self.reject(now, listener))
    }

    #[inline]
    fn enter(&self, plan: &Plan<N>, ask: &mut Ask, life: Life) -> Entered<'_, N> {
        let Some(picked) = plan.routes.pick(ask) else {
            return Entered::NoRoute;
        };
        let Entry { vitals, slot, .. } = picked.entry;
        if !vitals.enter() {
            return Entered::Closed(Entry::bit(*slot));
        }
        let member = plan.members[*slot as usize].as_ref();
        let word = member.map_or(0, |member| member.address.word());
        Entered::InFlight(Flight::new(
            self,
            vitals.clone(),
            word,
            ask.now,
            picked.is_probe,
            life,
        ))
    }

    #[cold]
    fn reject(&self, now: Instant, listener: Option<&dyn Observer>) -> Rejected {
        self.rejected.fetch_add(1, Ordering::Relaxed);
        let until = {
            let core = self.core();
            let members = core.machine.iter().map(|(_, record)| record);
            let waits = members.filter(|record| record.is_member() && !record.is_unhealthy);
            let until = waits.map(|record| match record.standing {
                Standing::Ejected { until } => until.max(record.parked_until),
                _ => record.parked_until,
            });
            until.filter(|until| *until > now).min()
        };
        let rejected = Rejected::new(self.settings.name, Reason::NoEndpoint);
        let rejected = match until {
            Some(until) => rejected.with_retry_after(until.saturating_duration_since(now)),
            None => rejected,
        };
        let mut panics = Panics::default();
        let observers = [self.settings.observer.as_deref(), listener];
        panics.tell(observers, &Event::rejected(&rejected));
        panics.resume();
        rejected
    }

    /// Ends ejections and slow starts, and compares the nodes, where it is time for that. Other calls go
    /// on with the routes as they are meanwhile.
    #[cold]
    fn maintain(&self, now: Instant, listener: Option<&dyn Observer>) {
        let mut chance = self.streams.begin();
        self.change(now, listener, |core| {
            if now.as_nanos() < self.due.load(Ordering::Relaxed) {
                return Then::Nothing;
            }
            Then::Reroute(core.machine.advance(now, &mut chance))
        });
    }
}

/// How many closed nodes one pick meets before it gives up. Routes without a closed node are published
/// within microseconds.
const MAX_CLOSED: usize = 64;

/// What became of a pick.
enum Entered<'a, N> {
    InFlight(Flight<'a, N>),
    /// The node takes no calls any more; its bit.
    Closed(u64),
    NoRoute,
}
