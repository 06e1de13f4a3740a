//! The pick of a node for a call.

use std::sync::Arc;

use super::flight::Flight;
use super::inner::{Inner, Then};
use super::node::NodeAddress;
use super::plan::Plan;
use super::state::health::Standing;
use super::state::routes::{Ask, Entry, Picked};
use super::state::rules::Strategy;
use super::state::vitals::Vitals;
use crate::error::{Reason, Rejected};
use crate::event::{Event, Observer};
use crate::instant::Instant;
use crate::life::Life;
use crate::sync::Ordering;

impl<N> Inner<N> {
    /// Picks a node for a call that has tried these ones, and counts the call as in flight.
    #[inline]
    pub(super) fn pick(
        &self,
        now: Instant,
        tried: u32,
        key: Option<u64>,
        life: Life,
        listener: Option<&dyn Observer>,
    ) -> Result<Flight<'_, N>, Rejected> {
        let picked = self.pick_with(now, tried, key, life, listener, |_, _| ());
        picked.map(|(flight, ())| flight)
    }

    /// As [`pick`](Self::pick), and takes something out of the plan that the node, of this slot, is part of.
    #[inline]
    pub(super) fn pick_with<T>(
        &self,
        now: Instant,
        tried: u32,
        key: Option<u64>,
        life: Life,
        listener: Option<&dyn Observer>,
        take: impl Fn(&Plan<N>, u32) -> T,
    ) -> Result<(Flight<'_, N>, T), Rejected> {
        let due = self.due.load(Ordering::Relaxed);
        if now.as_nanos() >= due {
            self.maintain(due, now, listener);
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
            match self.published.read(|plan| enter(plan, &mut ask, &take)) {
                Entered::InFlight {
                    vitals,
                    address,
                    is_probe,
                    taken,
                } => {
                    let flight = Flight::new(self, vitals, address.word(), now, is_probe, life);
                    return Ok((flight, taken));
                }
                Entered::NoRoute => break,
                // The node was closed after these routes were made: another one.
                Entered::Closed(bit) => ask.tried |= bit,
            }
        }
        Err(self.reject(now, listener))
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
        let rejected = Rejected::new(self.base.name, Reason::NoEndpoint);
        let rejected = match until {
            Some(until) => rejected.with_retry_after(until.saturating_duration_since(now)),
            None => rejected,
        };
        self.base.tell(Event::rejected(&rejected), listener);
        rejected
    }

    /// Ends ejections and slow starts, and compares the nodes. One call does it; others go on with the routes
    /// as they are.
    #[cold]
    fn maintain(&self, due: u64, now: Instant, listener: Option<&dyn Observer>) {
        // Relaxed: the word only decides which call it is. New routes set the next time.
        let claimed =
            self.due
                .compare_exchange(due, u64::MAX, Ordering::Relaxed, Ordering::Relaxed);
        if claimed.is_ok() {
            let mut chance = self.streams.begin();
            self.change(now, listener, |core| {
                Then::Reroute(core.machine.advance(now, &mut chance))
            });
        }
    }
}

/// How many closed nodes one pick meets before it gives up. Routes without a closed node are published
/// within microseconds.
const MAX_CLOSED: usize = 64;

/// What became of a pick.
enum Entered<T> {
    InFlight {
        vitals: Arc<Vitals>,
        address: NodeAddress,
        is_probe: bool,
        taken: T,
    },
    /// The node takes no calls any more; its bit.
    Closed(u32),
    NoRoute,
}

/// Picks a node, and counts the call as in flight on it.
#[inline]
fn enter<N, T>(plan: &Plan<N>, ask: &mut Ask, take: &impl Fn(&Plan<N>, u32) -> T) -> Entered<T> {
    let Some(Picked { entry, is_probe }) = plan.routes.pick(ask) else {
        return Entered::NoRoute;
    };
    let (slot, number) = (entry.slot, entry.number);
    if !entry.vitals.enter() {
        return Entered::Closed(Entry::bit(slot));
    }
    Entered::InFlight {
        vitals: entry.vitals.clone(),
        address: NodeAddress { slot, number },
        is_probe,
        taken: take(plan, slot),
    }
}
