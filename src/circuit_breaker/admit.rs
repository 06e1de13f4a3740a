//! Admission. Lock-free when the packed state suffices, otherwise decided by the state machine.

use std::time::Duration;

use super::inner::Inner;
use super::permit::Permit;
use super::state::{Admission, word};
use super::ticket::{End, Listener, Ticket};
use crate::error::{Reason, Rejected};
use crate::event::State;
use crate::instant::Instant;
use crate::life::Life;
use crate::striped::Striped;
use crate::sync::Ordering;

/// The ticket of a call whose result changes nothing: of a generation that never is.
const UNRECORDED: Ticket = Ticket(word::DISABLED);

/// A rejection: the nanoseconds after which to retry, or a marker. One word, so that rejections are
/// returned in registers; through memory they take half as long again.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Refused(u64);

impl Refused {
    /// The circuit is open or has no place for a probe, and when that ends is not known.
    const UNKNOWN: Self = Self(u64::MAX);
    const ISOLATED: Self = Self(u64::MAX - 1);

    fn after(now: Instant, until: Instant) -> Self {
        let after = until.as_nanos().saturating_sub(now.as_nanos());
        Self(after.min(u64::MAX - 2))
    }
}

impl Inner {
    /// As [`CircuitBreaker::try_acquire`](super::CircuitBreaker::try_acquire).
    #[inline]
    pub(super) fn acquire(&self) -> Result<Permit<'_>, Rejected> {
        // Acquire: as in `admit`.
        let word = self.word.load(Ordering::Acquire);
        let (mut ticket, mut started) = (Ticket(word), Instant::ORIGIN);
        if !word::is_plain(word) {
            if word::admits_all(word) {
                if word::is_timed(word) {
                    started = self.now();
                }
            } else {
                let mut now = Instant::ORIGIN;
                ticket = match self.admit_now(word, &mut now) {
                    Ok(ticket) => ticket,
                    Err(refused) => return Err(self.rejection(refused)),
                };
                // Not read again: a clock that panics would cost a probe its place.
                started = now;
            }
        }
        Ok(Permit::new(self, ticket, started, Life::of_a_handle()))
    }

    /// Admits a call or rejects it. Calls `now` only where the time matters.
    #[inline(always)]
    pub(super) fn admit(
        &self,
        now: impl FnOnce() -> Instant,
        listener: Listener<'_>,
    ) -> Result<Ticket, Refused> {
        // Acquire: pairs with `publish`, so a tally is seen cleared by the calls that it counts.
        let word = self.word.load(Ordering::Acquire);
        if word::admits_all(word) {
            return Ok(Ticket(word));
        }
        self.admit_some(word, now(), listener)
    }

    // Cold, so that nothing of it lies in the way of a closed circuit.
    #[cold]
    #[inline(never)]
    fn admit_now(&self, word: u64, now: &mut Instant) -> Result<Ticket, Refused> {
        *now = self.base.now();
        self.admit_some(word, *now, None)
    }

    /// As [`admit`](Self::admit), where `word` does not admit all calls.
    #[inline]
    fn admit_some(
        &self,
        word: u64,
        now: Instant,
        listener: Listener<'_>,
    ) -> Result<Ticket, Refused> {
        // Acquire: a break's end is written before the word that says open. One that is newer than
        // the word is the end of a newer break, and as good an answer.
        let until = Instant::from_nanos(self.until.load(Ordering::Acquire));
        if word::kind(word) == word::OPEN && now < until {
            let refused = match until {
                Instant::FAR_FUTURE => Refused::UNKNOWN,
                _ => Refused::after(now, until),
            };
            return self.reject(refused, listener);
        }
        if word::kind(word) == word::RAMPING && now < until {
            return if self.rng.unit() < self.ramp_share(until.saturating_duration_since(now)) {
                Ok(Ticket(word))
            } else {
                // Every call has a chance, so there is no time to wait for.
                self.reject(Refused::UNKNOWN, listener)
            };
        }
        self.decide(now, listener)
    }

    /// The share of calls that are admitted while this much of the ramp-up is left.
    fn ramp_share(&self, left: Duration) -> f64 {
        let ramp_up = self.settings().ramp_up;
        // A late reading may be from before the ramp-up.
        let rest = left.min(ramp_up).as_secs_f64() / ramp_up.as_secs_f64();
        1.0 - 0.9 * rest
    }

    /// Lets the machine decide whether a call is admitted.
    #[cold]
    fn decide(&self, now: Instant, listener: Listener<'_>) -> Result<Ticket, Refused> {
        loop {
            let ((admission, word), news) = self.change(listener, now, |machine| {
                (machine.acquire(now), machine.word())
            });
            let panics = self.report(news, listener);
            if let Admission::Admitted { probe: probe @ 1.. } = admission {
                if !panics.is_empty() {
                    // The call is not made, so its place has to come back.
                    self.end_probe(
                        Ticket::of_probe(probe, self.rules.flags()),
                        None,
                        &End::UNKNOWN,
                    );
                }
            }
            panics.resume();
            let refused = match admission {
                Admission::Admitted { probe: 0 } => return Ok(Ticket(word)),
                Admission::Admitted { probe } => {
                    return Ok(Ticket::of_probe(probe, self.rules.flags()));
                }
                Admission::Due(due) => {
                    self.open(due, None, listener, now);
                    continue;
                }
                Admission::Isolated => Refused::ISOLATED,
                Admission::Refused { until } => {
                    until.map_or(Refused::UNKNOWN, |until| Refused::after(now, until))
                }
            };
            return self.reject(refused, listener);
        }
    }

    /// Rejects a copy of a call that still runs unless the circuit is closed: a half-open circuit has few
    /// probes, and a call needs one of them at most.
    #[cold]
    #[inline(never)]
    pub(super) fn reject_hedge(&self, listener: Listener<'_>) -> Option<Rejected> {
        if !matches!(self.state(), State::Open | State::HalfOpen) {
            return None;
        }
        let refused = self.reject(Refused::UNKNOWN, listener).err()?;
        Some(self.rejection(refused))
    }

    #[inline]
    fn reject(&self, refused: Refused, listener: Listener<'_>) -> Result<Ticket, Refused> {
        self.rejected.get_or_init(Striped::new).increment();
        if self.base.reports_rejections(listener) {
            return self.report_rejection(refused, listener);
        }
        Err(refused)
    }

    #[cold]
    fn report_rejection(
        &self,
        refused: Refused,
        listener: Listener<'_>,
    ) -> Result<Ticket, Refused> {
        match self.base.reject(self.rejection(refused), listener) {
            Ok(()) => Ok(UNRECORDED),
            Err(_) => Err(refused),
        }
    }

    #[inline]
    pub(super) fn rejection(&self, refused: Refused) -> Rejected {
        let (reason, after) = match refused {
            Refused::ISOLATED => (Reason::Isolated, u64::MAX),
            Refused(after) => (Reason::CircuitOpen, after),
        };
        Rejected::new(self.base.name, reason).with_retry_nanos(after)
    }
}
