//! The share of calls to shed, and the priority threshold that yields it.

use std::collections::VecDeque;
use std::time::Duration;

use crate::instant::Instant;
use crate::priority::Priority;

/// Number of priorities: five classes of a hundred levels.
pub(super) const LEVELS: usize = 500;
/// Number of calls in the distribution of priorities.
const CALLS: usize = 1000;
/// Least number of calls for a threshold. A threshold from a single call of normal priority would shed every call
/// of a lower priority, at any rate.
const MIN_CALLS: usize = 100;

/// The share of calls to shed.
///
/// A signal only says whether the server is overloaded, so [`update`](Self::update) changes the share in steps.
/// Source: WeChat's DAGOR, +5 % and −1 % per window, with the cool-off of kratos aegis.
///
/// A queue delay also measures by how much. See [`follow`](Self::follow).
#[derive(Clone, Debug)]
pub(super) struct Pressure {
    rate: f64,
    /// Whether the rate is applied. It is computed earlier, but not applied until a standing queue is confirmed.
    in_force: bool,
    max: f64,
    cool_off: Duration,
    overloaded_at: Option<Instant>,
    /// The delay at the last update.
    delay: Option<Duration>,
}

/// Observations of the queue since the last update.
#[derive(Clone, Copy, Debug)]
pub(super) struct QueueReport {
    /// The smallest delay since the last update.
    pub(super) delay: Duration,
    pub(super) target: Duration,
    /// Whether this is a standing queue rather than a burst.
    pub(super) overloaded: bool,
}

const STEP_UP: f64 = 0.05;
const STEP_DOWN: f64 = 0.01;

/// Share of the excess load, estimated from the growth of the delay, that one update sheds. 1 would follow all of
/// the noise.
const GROWTH_GAIN: f64 = 0.7;
/// Share of the delay above the target that one update works off. The linear gain is small to suppress noise, and
/// the quadratic one works off long delays.
const DELAY_GAIN: f64 = 0.15;
const LONG_DELAY_GAIN: f64 = 0.3;
/// Increase of the admitted share per update while the queue is empty.
const DRY_GAIN: f64 = 0.02;
/// Least number of updates with a short delay after which the overload is over. Before, the delay may be short only
/// because of shedding.
const CALM_UPDATES: u32 = 8;
/// Factor of the admitted share per two cool-offs without overload.
const RELEASE: f64 = 10.0;

impl Pressure {
    pub(super) const fn new(max: f64, cool_off: Duration) -> Self {
        Self {
            rate: 0.0,
            in_force: false,
            max,
            cool_off,
            overloaded_at: None,
            delay: None,
        }
    }

    /// Updates the share from a signal, once per `window`. The last update was `elapsed` ago.
    pub(super) fn update(
        &mut self,
        overloaded: bool,
        window: Duration,
        elapsed: Duration,
        now: Instant,
    ) {
        self.in_force = true;
        if overloaded {
            self.rate = (self.rate + STEP_UP).min(self.max);
            self.overloaded_at = Some(now);
        } else if let Some(calm) = self.calm(self.cool_off, now) {
            // Windows without calls count as calm, so the first calls after a pause are not shed for an earlier
            // overload.
            let windows = elapsed.min(calm).as_nanos() / window.as_nanos().max(1);
            let less = STEP_DOWN * (windows as f64).max(1.0);
            // Rounded, so that steps up and down cancel exactly.
            self.rate = ((self.rate - less) * 1e6).round().max(0.0) / 1e6;
        }
    }

    /// Updates the share from a queue delay, once per `window`. The last update was `elapsed` ago.
    ///
    /// Keeps the delay at the target, where the queue is never empty, so no capacity is lost, and no call waits for
    /// long. The gains suit any overload, because they multiply the admitted share:
    ///
    /// * If the delay grows by a tenth of a second per second, a tenth of the admitted calls exceed the capacity. So
    ///   the excess is known before the queue is long.
    /// * A delay above the target must be worked off. A delay below it may grow.
    ///
    /// The share is applied once a queue persists, so a burst sheds no call. After a cool-off with delays below half
    /// of the target the overload is over, and the share falls faster.
    ///
    /// Source: the controllers of PIE (RFC 8033) and Uber's Cinnamon, applied to an admitted share.
    pub(super) fn follow(
        &mut self,
        queue: QueueReport,
        window: Duration,
        elapsed: Duration,
        now: Instant,
    ) {
        let delay = queue.delay.as_secs_f64();
        let before = self.delay.replace(queue.delay).unwrap_or(queue.delay);
        let calm_after = self.calm_after(window);
        // A delay near the target means that shedding holds it there.
        if queue.delay > queue.target / 2 {
            self.overloaded_at = Some(now);
        }
        let elapsed = elapsed.max(window).as_secs_f64();
        let growth = (delay - before.as_secs_f64()) / elapsed;
        let target = queue.target.as_secs_f64();
        let excess = (delay - target) / window.as_secs_f64();
        let too_long = if excess > 0.0 {
            DELAY_GAIN * excess + LONG_DELAY_GAIN * excess * excess
        } else {
            (DELAY_GAIN * excess).min(DRY_GAIN * (delay / target - 1.0))
        };
        let mut admitted = (1.0 - self.rate)
            * (1.0 - GROWTH_GAIN * growth.clamp(-1.0, 1.0))
            * (1.0 - too_long.clamp(-0.5, 0.5));
        if self.calm(calm_after, now).is_some() {
            let cool_offs = elapsed / (2.0 * calm_after.as_secs_f64());
            admitted = admitted.max((1.0 - self.rate) * RELEASE.powf(cool_offs));
        }
        self.rate = (1.0 - admitted).clamp(0.0, self.max);
        self.in_force = self.rate > 0.0 && (self.in_force || queue.overloaded);
    }

    /// Returns the time after the last overload from which the server counts as calm.
    pub(super) fn calm_after(&self, window: Duration) -> Duration {
        self.cool_off.max(window.saturating_mul(CALM_UPDATES))
    }

    /// Returns how long the overload has been over, or `None` if it is not.
    fn calm(&self, calm_after: Duration, now: Instant) -> Option<Duration> {
        let Some(overloaded_at) = self.overloaded_at else {
            return Some(Duration::MAX);
        };
        let since = overloaded_at + calm_after;
        (now >= since).then(|| now.saturating_duration_since(since))
    }

    pub(super) const fn rate(&self) -> f64 {
        if self.in_force { self.rate } else { 0.0 }
    }
}

/// One participant's report to a shared threshold.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Share {
    /// Number of calls since the previous report, and the time since then.
    pub(super) calls: u64,
    pub(super) over: Duration,
    /// The share of calls that the participant wants to shed.
    pub(super) rate: f64,
    /// When it was reported, and for how long it counts.
    pub(super) at: Instant,
    pub(super) good_for: Duration,
}

impl Share {
    /// Returns whether the report has expired.
    fn is_stale(&self, now: Instant) -> bool {
        now > self.at + self.good_for
    }

    /// Returns the calls per second.
    fn weight(&self) -> f64 {
        self.calls as f64 / self.over.as_secs_f64().max(1e-9)
    }
}

/// Returns the mean of the shares, weighted by calls per second.
pub(super) fn combine(shares: impl IntoIterator<Item = Share>, now: Instant) -> f64 {
    let fresh = shares.into_iter().filter(|share| !share.is_stale(now));
    let (calls, shed) = fresh.fold((0.0, 0.0), |(calls, shed), share| {
        let weight = share.weight();
        (calls + weight, shed + weight * share.rate)
    });
    if calls > 0.0 { shed / calls } else { 0.0 }
}

/// A priority threshold. Calls below the level are shed, and a share of those at the level.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Threshold {
    pub(super) level: u16,
    pub(super) share: f32,
}

impl Threshold {
    /// Returns whether a call is shed. `random` is in `[0, 1)`.
    pub(super) fn sheds(self, priority: Priority, random: f64) -> bool {
        let level = priority.as_u16();
        level < self.level || (level == self.level && random < f64::from(self.share))
    }

    /// Packs the threshold for an atomic.
    pub(super) fn to_bits(self) -> u64 {
        u64::from(self.level) << 32 | u64::from(self.share.to_bits())
    }

    pub(super) const fn from_bits(bits: u64) -> Self {
        Self {
            level: (bits >> 32) as u16,
            share: f32::from_bits(bits as u32),
        }
    }
}

/// Bounds the number of shed calls in any hundred consecutive calls, even when priorities change between updates. A
/// share of less than one in a hundred is bounded by the number of admitted calls before each shed one.
#[derive(Clone, Copy, Debug)]
pub(super) struct ShedCap {
    max: u32,
    /// One bit per recent call, newest lowest, set if the call was shed.
    recent: u128,
    /// Least number of calls from one shed call to the next.
    distance: u64,
    /// Number of calls since the last shed one, or since the start.
    since: u64,
}

impl ShedCap {
    const CALLS: u32 = 100;

    pub(super) fn new(share: f64) -> Self {
        // In binary, 0.29 · 100 is slightly less than 29.
        let max = (f64::from(Self::CALLS) * share + 1e-9) as u32;
        let distance = match max {
            0 => share.recip().ceil() as u64,
            _ => 1,
        };
        Self {
            max: max.max(1),
            recent: 0,
            distance,
            since: 0,
        }
    }

    /// Returns whether a call is shed. `below`: its priority is below the threshold.
    pub(super) fn sheds(&mut self, below: bool) -> bool {
        self.recent = self.recent << 1 & ((1 << Self::CALLS) - 1);
        self.since = self.since.saturating_add(1);
        let is_due = self.since >= self.distance;
        let sheds = below && is_due && self.recent.count_ones() < self.max;
        self.recent |= u128::from(sheds);
        if sheds {
            self.since = 0;
        }
        sheds
    }
}

/// The priorities of the last thousand calls.
#[derive(Debug)]
pub(super) struct Levels {
    recent: VecDeque<u16>,
    counts: Box<[u32]>,
}

impl Levels {
    pub(super) fn new() -> Self {
        Self {
            // Allocated once, so that no call pays for growth.
            recent: VecDeque::with_capacity(CALLS),
            counts: vec![0; LEVELS].into(),
        }
    }

    pub(super) fn add(&mut self, priority: Priority) {
        if self.recent.len() >= CALLS {
            if let Some(oldest) = self.recent.pop_front() {
                self.counts[usize::from(oldest)] -= 1;
            }
        }
        self.recent.push_back(priority.as_u16());
        self.counts[usize::from(priority.as_u16())] += 1;
    }

    /// Returns the threshold that sheds a share `rate` of these calls, lowest priorities first. It sheds none while
    /// there are fewer than `MIN_CALLS`.
    ///
    /// Source: failsafe-go's prioritizer, with one change. There whole levels are shed. Here the highest one is shed
    /// in part, so that few distinct priorities do not cause large steps.
    pub(super) fn threshold(&self, rate: f64) -> Threshold {
        if rate <= 0.0 || self.recent.len() < MIN_CALLS {
            return Threshold::default();
        }
        let mut left = rate * self.recent.len() as f64;
        for (level, &count) in self.counts.iter().enumerate() {
            let count = f64::from(count);
            if left < count {
                return Threshold {
                    level: level as u16,
                    share: (left / count) as f32,
                };
            }
            left -= count;
        }
        Threshold {
            level: LEVELS as u16,
            share: 0.0,
        }
    }
}

#[cfg(all(test, not(backstop_loom)))]
mod tests;
