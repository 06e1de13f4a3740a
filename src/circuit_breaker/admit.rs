//! Who is let through: a look at the word where that says it, the machine where not.

use std::thread;

use super::Permit;
use super::inner::{Inner, Listener, Ticket};
use super::state::{Admission, word};
use crate::error::{Reason, Rejected};
use crate::event::Event;
use crate::instant::{Instant, nanos};
use crate::striped::Striped;
use crate::sync::Ordering;

/// The ticket of a call whose result changes nothing.
const UNRECORDED: Ticket = Ticket {
    word: word::DISABLED | word::NOT_PLAIN,
    probe: 0,
};

/// Whether a call may start: its place among the trial calls and the word it is admitted under; or
/// [`REFUSED`] or [`ISOLATED`] and the nanoseconds after which a call has a chance. Two words, for
/// two registers.
struct Decision(u64, u64);

const REFUSED: u64 = u64::MAX - 1;
const ISOLATED: u64 = u64::MAX;

impl Inner {
    /// As [`CircuitBreaker::try_acquire`](super::CircuitBreaker::try_acquire).
    ///
    /// It stands in the caller's code, so what is not usual is out of line; and comes back in
    /// registers: a result that goes through memory costs as much as all the rest.
    #[inline]
    pub(super) fn acquire(&self) -> Result<Permit<'_>, Rejected> {
        // Acquire: as in `admit`.
        let word = self.word.load(Ordering::Acquire);
        let mut ticket = Ticket { word, probe: 0 };
        let mut started = Instant::ORIGIN;
        if !word::is_plain(word) {
            ticket.word |= word::NOT_PLAIN;
            if word::kind(word) != word::CLOSED {
                let Decision(probe, of) = self.decide(word);
                if probe >= REFUSED {
                    let reason = match probe {
                        REFUSED => Reason::CircuitOpen,
                        _ => Reason::Isolated,
                    };
                    return Err(self.refusal(reason, of));
                }
                ticket = Ticket { word: of, probe };
            }
            started = self.starts(word);
        }
        Ok(Permit::of(self, ticket, started, thread::panicking()))
    }

    #[cold]
    #[inline(never)]
    fn decide(&self, word: u64) -> Decision {
        if word::kind(word) <= word::DISABLED {
            return Decision(0, word | word::NOT_PLAIN);
        }
        let now = self.settings.clock.now();
        if word::refuses_quietly(word) {
            if let (Some(left), Some(rejected)) = (self.rest_of_break(now), self.rejected.get()) {
                rejected.increment();
                return Decision(REFUSED, left);
            }
        }
        self.decide_slowly(word, now)
    }

    #[cold]
    fn decide_slowly(&self, word: u64, now: Instant) -> Decision {
        match self.admit_slowly(word, now, None) {
            Ok(ticket) => Decision(ticket.probe, ticket.word),
            Err(rejected) => Decision(
                match rejected.reason() {
                    Reason::Isolated => ISOLATED,
                    _ => REFUSED,
                },
                rejected.retry_after().map_or(u64::MAX, nanos),
            ),
        }
    }

    /// When a call starts that `word` lets through, where that matters.
    #[cold]
    #[inline(never)]
    fn starts(&self, word: u64) -> Instant {
        match word::is_timed(word) {
            true => self.settings.clock.now(),
            false => Instant::ORIGIN,
        }
    }

    /// Lets a call through or not. `now` is asked only where the time matters.
    #[inline(always)]
    pub(super) fn admit(
        &self,
        now: impl FnOnce() -> Instant,
        listener: Listener<'_>,
    ) -> Result<Ticket, Rejected> {
        // Acquire: pairs with `publish`, so a tally is seen cleared by those who are told to use it.
        let word = self.word.load(Ordering::Acquire);
        if word::is_plain(word) {
            return Ok(Ticket { word, probe: 0 });
        }
        if word::kind(word) <= word::DISABLED {
            let word = word | word::NOT_PLAIN;
            return Ok(Ticket { word, probe: 0 });
        }
        self.admit_slowly(word, now(), listener)
    }

    /// As [`admit`](Self::admit), where `word` does not let all calls through.
    #[inline(never)]
    fn admit_slowly(
        &self,
        word: u64,
        now: Instant,
        listener: Listener<'_>,
    ) -> Result<Ticket, Rejected> {
        if word::kind(word) != word::OPEN {
            return self.admit_some(word, now, listener);
        }
        match self.rest_of_break(now) {
            Some(left) => self.refuse(Reason::CircuitOpen, left, listener),
            // It is over: the machine decides.
            None => self.ask(now, listener),
        }
    }

    /// How much of the break is left, in nanoseconds; `u64::MAX` when it does not end by itself.
    /// `None` when the machine has to decide.
    #[inline]
    fn rest_of_break(&self, now: Instant) -> Option<u64> {
        // Acquire: a break's end is written before the word that says open. One that is newer than
        // the word is the end of a newer break, and as good an answer.
        let until = self.until.load(Ordering::Acquire);
        if until == u64::MAX {
            return Some(until);
        }
        let left = until.saturating_sub(now.as_nanos());
        (left > 0).then_some(left)
    }

    /// As [`admit`](Self::admit), where `word` lets some calls through.
    #[cold]
    fn admit_some(
        &self,
        word: u64,
        now: Instant,
        listener: Listener<'_>,
    ) -> Result<Ticket, Rejected> {
        if word::kind(word) == word::RAMPING {
            let ends = Instant::from_nanos(self.until.load(Ordering::Acquire));
            let ramp_up = self.settings.ramp_up;
            let mut left = ends.saturating_duration_since(now);
            if left.is_zero() {
                left = self.with_machine(listener, now, |machine| machine.rest_of_ramp(now));
            }
            if !left.is_zero() {
                // A late reading may be from before the ramp-up.
                let rest = left.min(ramp_up).as_secs_f64() / ramp_up.as_secs_f64();
                let share = 1.0 - 0.9 * rest;
                if self.rng.unit() < share {
                    let word = word | word::NOT_PLAIN;
                    return Ok(Ticket { word, probe: 0 });
                }
                return self.refuse(Reason::CircuitOpen, nanos(left), listener);
            }
        }
        self.ask(now, listener)
    }

    /// Lets the machine decide whether a call is let through.
    #[cold]
    fn ask(&self, now: Instant, listener: Listener<'_>) -> Result<Ticket, Rejected> {
        loop {
            let (admission, word) = self.with_machine(listener, now, |machine| {
                (machine.acquire(now), machine.word())
            });
            match admission {
                Admission::Admitted { probe } => {
                    let word = word | word::NOT_PLAIN;
                    return Ok(Ticket { word, probe });
                }
                Admission::Isolated => return self.refuse(Reason::Isolated, u64::MAX, listener),
                Admission::Refused { until } => {
                    let after = until.map_or(u64::MAX, |until| {
                        until.as_nanos().saturating_sub(now.as_nanos())
                    });
                    return self.refuse(Reason::CircuitOpen, after, listener);
                }
                Admission::Due(due) => drop(self.open(due, None, listener, now)),
            }
        }
    }

    #[inline]
    fn refuse(
        &self,
        reason: Reason,
        after: u64,
        listener: Listener<'_>,
    ) -> Result<Ticket, Rejected> {
        self.rejected.get_or_init(Striped::new).increment();
        if self.settings.shadow || listener.is_some() || self.settings.observer.is_some() {
            return self.tell_refused(reason, after, listener);
        }
        Err(self.refusal(reason, after))
    }

    #[inline]
    fn refusal(&self, reason: Reason, after: u64) -> Rejected {
        Rejected::new(self.settings.name, reason).with_retry_nanos(after)
    }

    // Makes a refusal of its own: one that was handed over would have to be in memory before anybody
    // knows whether it is needed there.
    #[cold]
    fn tell_refused(
        &self,
        reason: Reason,
        after: u64,
        listener: Listener<'_>,
    ) -> Result<Ticket, Rejected> {
        let rejected = self.refusal(reason, after);
        if self.settings.shadow {
            self.emit(listener, || Event::would_reject(&rejected));
            return Ok(UNRECORDED);
        }
        self.emit(listener, || Event::rejected(&rejected));
        Err(rejected)
    }
}
