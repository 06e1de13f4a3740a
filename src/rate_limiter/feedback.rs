//! What a limiter learns from the results of calls: pauses that servers ask for, and a rate of its own.

use std::time::Duration;

use super::state::Quota;
use crate::adaptive_rate::CubicRate;
use crate::instant::Instant;
use crate::sync::{Mutex, lock_checked};
use crate::verdict::{ErrorClass, Health, Verdict};

#[derive(Debug)]
pub(super) struct Feedback {
    /// The longest pause that a hint may cause; zero if hints cause none.
    pub(super) longest_pause: Duration,
    pub(super) adaptive: Option<Mutex<Adaptive>>,
}

/// The rate that a limiter finds by itself.
#[derive(Debug)]
pub(super) struct Adaptive {
    rate: CubicRate,
    /// The quota of the builder, which the rate never exceeds.
    most: Quota,
    /// The quota in force, or the next one while `applying`.
    current: Quota,
    /// Whether a call brings a quota into force. Calls beside it leave theirs to it, so that the newest is
    /// applied last.
    applying: bool,
    /// The time of the last result.
    last: Instant,
}

/// A quota that differs by less than this share is not worth a change, which wakes waiters.
const WORTH: f64 = 0.01;

impl Feedback {
    /// The pause that a result causes.
    pub(super) fn pause(&self, verdict: &Verdict) -> Option<Duration> {
        let hint = verdict.hint()?.min(self.longest_pause);
        (!hint.is_zero()).then_some(hint)
    }

    /// Learns from a result. Returns the new quota, if there is one; the caller applies it and asks
    /// [`applied`](Self::applied).
    pub(super) fn learn(&self, now: Instant, verdict: &Verdict) -> Option<Quota> {
        if verdict.health() == Health::Neutral {
            return None;
        }
        let throttled = verdict.class() == ErrorClass::Throttled;
        let mut adaptive = lock_checked(self.adaptive.as_ref()?);
        adaptive.rate.on_response(now, throttled);
        adaptive.last = now;
        let quota = adaptive.found();
        if adaptive.current == quota || !(throttled || adaptive.is_worth(&quota)) {
            return None;
        }
        adaptive.current = quota;
        let applies = !std::mem::replace(&mut adaptive.applying, true);
        applies.then_some(quota)
    }

    /// Says that `quota` is in force. Returns the newer one that has been found meanwhile, unless the caller
    /// applies no more: then a later result brings it.
    pub(super) fn applied(&self, quota: Quota, is_last: bool) -> Option<Quota> {
        let mut adaptive = lock_checked(self.adaptive.as_ref()?);
        if is_last {
            adaptive.current = quota;
        }
        let newer = (adaptive.current != quota).then_some(adaptive.current);
        adaptive.applying = newer.is_some();
        newer
    }
}

/// What an adaptive limiter has measured without a throttled answer counts for this time.
const MEMORY: Duration = Duration::from_secs(60);

impl Feedback {
    /// Returns when nothing that it has learned counts any more; `None` once a rate is found.
    pub(super) fn forgotten_at(&self) -> Option<Instant> {
        let Some(adaptive) = &self.adaptive else {
            return Some(Instant::ORIGIN);
        };
        let adaptive = lock_checked(adaptive);
        match (adaptive.rate.rate(), adaptive.last) {
            (Some(_), _) => None,
            (None, Instant::ORIGIN) => Some(Instant::ORIGIN),
            (None, last) => Some(last + MEMORY),
        }
    }
}

impl Adaptive {
    pub(super) const fn new(rate: CubicRate, most: Quota) -> Self {
        Self {
            rate,
            most,
            current: most,
            applying: false,
            last: Instant::ORIGIN,
        }
    }

    /// The quota of the rate found, or that of the builder if it is lower.
    fn found(&self) -> Quota {
        let (Some(rate), Some(interval)) = (self.rate.rate(), self.rate.interval()) else {
            return self.most;
        };
        if rate >= per_second(&self.most) {
            return self.most;
        }
        let burst = self.rate.bucket().capacity() as u64;
        Quota::new(1, interval).burst(burst.clamp(1, self.most.limit()))
    }

    fn is_worth(&self, quota: &Quota) -> bool {
        let (old, new) = (per_second(&self.current), per_second(quota));
        (new - old).abs() >= WORTH * old
    }
}

fn per_second(quota: &Quota) -> f64 {
    quota.tokens() as f64 / quota.period().as_secs_f64()
}
