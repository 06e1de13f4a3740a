//! The pause of requests after a grant that fell short.

use super::request::Request;
use super::rules::Rules;
use super::scarcity::Scarcity;
use crate::instant::Instant;
use crate::store::Taken;

/// A pause, during which calls that need a request are rejected. By default, none.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Pause {
    until: Instant,
    /// Calls for at most this many tokens do not pause.
    above: u64,
    /// How much longer the pause is than the time that the store named, in nanoseconds.
    extra: u64,
}

impl Pause {
    /// Returns the pause after a request whose grant fell short. `gap` is the time between calls, in nanoseconds, and
    /// `unit` a random number in `[0, 1)`.
    pub(crate) fn new(
        now: Instant,
        (request, taken): (&Request, &Taken),
        rules: &Rules,
        scarcity: &Scarcity,
        gap: f64,
        unit: f64,
    ) -> Self {
        let retry = taken.retry_after.as_nanos() as f64;
        let full = rules.pause(retry, request.just_enough, gap, unit);
        let length = match request.just_enough {
            true => full,
            false => scarcity
                .shorten(full, now, rules.every)
                .max(retry.min(full)),
        };
        Self {
            until: now.after(length as u64),
            above: taken.remaining,
            extra: (length - retry).max(0.0) as u64,
        }
    }

    /// Returns until when a call for `tokens` pauses. `refilled_at` is when the store has them at the earliest: sooner
    /// than those of the rejected call if they are fewer.
    pub(crate) fn until(&self, tokens: u64, refilled_at: Instant) -> Instant {
        match tokens > self.above {
            true => self.until.min(refilled_at.after(self.extra)),
            false => Instant::ORIGIN,
        }
    }

    /// Returns the end of the pause for calls of any cost.
    pub(crate) const fn end(&self) -> Instant {
        self.until
    }
}
