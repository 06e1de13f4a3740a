//! Admission.

use super::inner::Inner;
use super::permit::Permit;
use super::state::Decision;
use crate::error::{Reason, Rejected};
use crate::event::{Event, Observer, Panics};
use crate::instant::Instant;
use crate::life::Life;
use crate::sync::Ordering;

impl Inner {
    /// Admits a call or rejects it.
    #[inline]
    pub(super) fn admit(
        &self,
        now: Instant,
        life: Life,
        listener: Option<&dyn Observer>,
    ) -> Result<Permit<'_>, Rejected> {
        let decision = self.state.decide(now, || self.rng.unit());
        match decision {
            Decision::Pass => {}
            Decision::Probe => self.emit(
                listener,
                Event::ProbeForced {
                    policy: self.settings.name,
                },
            ),
            Decision::Refuse => self.reject(now, listener)?,
        }
        let is_probe = decision == Decision::Probe;
        let slice = self.state.begin(now);
        Ok(Permit::new(self, slice, is_probe, life))
    }

    /// In shadow mode the call goes on.
    #[cold]
    fn reject(&self, now: Instant, listener: Option<&dyn Observer>) -> Result<(), Rejected> {
        // Relaxed: a number for people.
        self.rejected.fetch_add(1, Ordering::Relaxed);
        let rejected = Rejected::new(self.settings.name, Reason::Throttled);
        if self.settings.shadow {
            self.emit(listener, Event::would_reject(&rejected));
            return Ok(());
        }
        if self.settings.count_refused {
            self.state.record(false, now);
        }
        self.emit(listener, Event::rejected(&rejected));
        Err(rejected)
    }

    fn emit(&self, listener: Option<&dyn Observer>, event: Event) {
        let mut panics = Panics::default();
        panics.tell([self.settings.observer.as_deref(), listener], &event);
        panics.resume();
    }
}
