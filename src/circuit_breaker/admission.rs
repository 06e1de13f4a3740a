//! Admission. Lock-free when the packed state suffices, otherwise decided by the state machine.

use std::time::Duration;

use super::inner::Inner;
use super::state::{Admission, PackedState, packed_state};
use super::ticket::{Finish, Ticket};
use crate::error::{Reason, Rejected, Rejection};
use crate::event::{Observer, State};
use crate::instant::Instant;
use crate::striped::StripedCounter;
use crate::sync::Ordering;

/// The circuit is open or has no free probe, and it is not known when that ends.
const OPEN: Rejection = Rejection::new(Reason::CircuitOpen);

/// Returns the rejection of a circuit that is open until `end`.
fn open_until(end: Instant, now: Instant) -> Rejection {
    if end == Instant::FAR_FUTURE {
        return OPEN;
    }
    let after = end.as_nanos().saturating_sub(now.as_nanos());
    OPEN.with_retry_nanos(after)
}

impl Inner {
    /// Admits a call if the state admits all calls, or returns the state.
    #[inline(always)]
    pub(super) fn admit_if_closed(&self) -> Result<Ticket, PackedState> {
        // Acquire: pairs with `publish`, so calls record into window sets that have been cleared.
        let state = self.packed_state(Ordering::Acquire);
        if state.admits_all() {
            Ok(Ticket(state))
        } else {
            Err(state)
        }
    }

    /// Admits a call of a handle or rejects it, in a state that does not admit all calls. Returns the time of the
    /// decision too: read once, because a clock that panics after the admission would leak a probe.
    #[cold]
    #[inline(never)]
    pub(super) fn admit_at(&self, state: PackedState) -> Result<(Ticket, Instant), Rejection> {
        let now = self.base.clock.now();
        Ok((self.decide(state, now, None)?, now))
    }

    /// Admits or rejects a call of a policy, in a state that does not admit all calls.
    // Cold, because calls of a closed circuit do not come here.
    #[cold]
    #[inline(never)]
    pub(super) fn admit_some(
        &self,
        state: PackedState,
        now: Instant,
        observer: Option<&dyn Observer>,
    ) -> Result<Ticket, Rejection> {
        self.decide(state, now, observer)
    }

    /// Admits or rejects a call at `now`, in a state that does not admit all calls.
    #[inline(always)]
    fn decide(
        &self,
        state: PackedState,
        now: Instant,
        observer: Option<&dyn Observer>,
    ) -> Result<Ticket, Rejection> {
        // Acquire: `until` is stored before the state. A value that is newer than the state is the end of a
        // newer break, which is an equally valid answer.
        let until = Instant::from_nanos(self.until.load(Ordering::Acquire));
        match state.phase() {
            packed_state::OPEN if now < until => self.reject(open_until(until, now), observer),
            packed_state::RAMPING_UP if now < until => {
                if self.rng.unit() < self.ramp_up_share(until.saturating_duration_since(now)) {
                    Ok(Ticket(state))
                } else {
                    // The next call may be admitted, so there is nothing to wait for.
                    self.reject(OPEN, observer)
                }
            }
            _ => self.admit_locked(now, observer),
        }
    }

    /// Returns the share of calls admitted when `left` of the ramp-up remains.
    fn ramp_up_share(&self, left: Duration) -> f64 {
        let ramp_up = self.settings().ramp_up;
        if ramp_up.is_zero() {
            // The ramp-up was turned off while it lasted.
            return 1.0;
        }
        // `left` may exceed the ramp-up if the reading of the clock is late.
        let rest = left.min(ramp_up).as_secs_f64() / ramp_up.as_secs_f64();
        1.0 - 0.9 * rest
    }

    /// Lets the state machine decide.
    #[cold]
    fn admit_locked(
        &self,
        now: Instant,
        observer: Option<&dyn Observer>,
    ) -> Result<Ticket, Rejection> {
        loop {
            let ((admission, state), notifications) = self.change(observer, now, |machine| {
                (machine.admit(now), machine.packed_state())
            });
            let ticket = match admission {
                Admission::Admitted { probe: Some(probe) } => Ticket(PackedState::of_probe(probe)),
                _ => Ticket(state),
            };
            let panics = self.notify(notifications, observer);
            if ticket.is_probe() && !panics.is_empty() {
                // The panic prevents the call, so the probe must be released.
                self.finish_probe(ticket, None, &Finish::UNKNOWN);
            }
            panics.resume();
            let rejection = match admission {
                Admission::Admitted { .. } => return Ok(ticket),
                Admission::Opens(opening) => {
                    self.open(opening, None, observer, now);
                    continue;
                }
                Admission::Isolated => Rejection::new(Reason::Isolated),
                Admission::NoFreeProbe => OPEN,
                Admission::OpenUntil(until) => open_until(until, now),
            };
            return self.reject(rejection, observer);
        }
    }

    /// Rejects the copy of a call that is still running, unless the circuit is closed. A half-open circuit
    /// has few probes, and one call needs at most one of them. In shadow mode the copy is admitted, but not as a probe.
    #[cold]
    #[inline(never)]
    pub(super) fn reject_hedge(
        &self,
        observer: Option<&dyn Observer>,
    ) -> Option<Result<Ticket, Rejected>> {
        if !matches!(self.state(), State::Open | State::HalfOpen) {
            return None;
        }
        let decision = self.reject(OPEN, observer);
        Some(decision.map_err(|rejection| rejection.by(self.base.name)))
    }

    /// Counts and reports a rejection. In shadow mode the call is admitted, and its result is not recorded.
    #[inline]
    fn reject(
        &self,
        rejection: Rejection,
        observer: Option<&dyn Observer>,
    ) -> Result<Ticket, Rejection> {
        self.rejections.get_or_init(StripedCounter::new).increment();
        if self.base.reports_rejections(observer) {
            return self.report_rejection(rejection, observer);
        }
        Err(rejection)
    }

    #[cold]
    fn report_rejection(
        &self,
        rejection: Rejection,
        observer: Option<&dyn Observer>,
    ) -> Result<Ticket, Rejection> {
        match self.base.reject(rejection.by(self.base.name), observer) {
            Ok(()) => Ok(Ticket(PackedState::UNRECORDED)),
            Err(_) => Err(rejection),
        }
    }
}
