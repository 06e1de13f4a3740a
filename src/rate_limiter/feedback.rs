//! Feedback from results of calls: pauses that servers ask for, and an adaptive rate.

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

/// The rate of an adaptive limiter.
#[derive(Debug)]
pub(super) struct Adaptive {
    rate: CubicRate,
    /// The builder's quota, which the rate never exceeds.
    most: Quota,
    /// The quota in force, or the next one while `applying` is set.
    current: Quota,
    /// Whether a thread is applying a quota. Other threads leave theirs in `current`, so the newest is
    /// applied last.
    applying: bool,
    /// The time of the newest result.
    last: Instant,
}

/// A quota that differs by less than this share is not applied, because each change wakes waiters.
const MIN_CHANGE: f64 = 0.01;
/// Time for which a measured rate that was never throttled counts.
const MEMORY: Duration = Duration::from_secs(60);

impl Feedback {
    /// Returns the pause that a result demands, if any.
    pub(super) fn pause(&self, verdict: &Verdict) -> Option<Duration> {
        let hint = verdict.hint()?.min(self.longest_pause);
        (!hint.is_zero()).then_some(hint)
    }

    /// Records a result. Returns the new quota if there is one; the caller applies it and then calls
    /// [`applied`](Self::applied).
    pub(super) fn learn(&self, now: Instant, verdict: &Verdict) -> Option<Quota> {
        let throttled = verdict.class() == ErrorClass::Throttled;
        // Neutral results are ignored, except throttled ones: a 429 is about this caller's rate.
        if verdict.health() == Health::Neutral && !throttled {
            return None;
        }
        let mut adaptive = lock_checked(self.adaptive.as_ref()?);
        adaptive.rate.on_response(now, throttled);
        adaptive.last = now;
        let quota = adaptive.found();
        if adaptive.current == quota || !(throttled || adaptive.differs_enough(&quota)) {
            return None;
        }
        adaptive.current = quota;
        let applies = !std::mem::replace(&mut adaptive.applying, true);
        applies.then_some(quota)
    }

    /// Continues the rate of `old`, if both are adaptive. Returns the quota for it; the caller applies it before the first
    /// call.
    pub(super) fn continue_from(&self, old: &Self) -> Option<Quota> {
        let (rate, last) = {
            let old = lock_checked(old.adaptive.as_ref()?);
            (old.rate.clone(), old.last)
        };
        let mut adaptive = lock_checked(self.adaptive.as_ref()?);
        adaptive.rate.continue_from(&rate);
        adaptive.last = last;
        let quota = adaptive.found();
        (std::mem::replace(&mut adaptive.current, quota) != quota).then_some(quota)
    }

    /// Ends the application of `quota`. Returns a newer one found meanwhile, unless this was the caller's last round.
    /// In that case, a later result applies it.
    pub(super) fn applied(&self, quota: Quota, is_last: bool) -> Option<Quota> {
        let mut adaptive = lock_checked(self.adaptive.as_ref()?);
        if is_last {
            adaptive.current = quota;
        }
        let newer = (adaptive.current != quota).then_some(adaptive.current);
        adaptive.applying = newer.is_some();
        newer
    }

    /// Returns when all measurements are out of date; `None` once a rate was found.
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

    /// Returns the quota for the rate that was found, or the builder's if that is lower.
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

    fn differs_enough(&self, quota: &Quota) -> bool {
        let (old, new) = (per_second(&self.current), per_second(quota));
        (new - old).abs() >= MIN_CHANGE * old
    }
}

fn per_second(quota: &Quota) -> f64 {
    quota.tokens() as f64 / quota.period().as_secs_f64()
}
