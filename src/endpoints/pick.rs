//! The pick of a node for a call.

use super::flight::Flight;
use super::inner::{Inner, Then};
use super::node::NodeAddress;
use super::plan::Plan;
use super::state::health::Standing;
use super::state::routes::{Ask, Picked};
use super::state::rules::Strategy;
use super::state::tried::TriedSlots;
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
        tried: TriedSlots,
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
        tried: TriedSlots,
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
        let picked = self.published.read(|plan| {
            let Picked { entry, is_probe } = plan.routes.pick(&mut ask)?;
            let (slot, number) = (entry.slot, entry.number);
            entry.vitals.enter();
            let address = NodeAddress { slot, number };
            Some((entry.vitals.clone(), address, is_probe, take(plan, slot)))
        });
        match picked {
            Some((vitals, address, is_probe, taken)) => {
                let flight = Flight::new(self, vitals, address.word(), now, is_probe, life);
                Ok((flight, taken))
            }
            None => Err(self.reject(now, listener)),
        }
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
