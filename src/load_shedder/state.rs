//! The share of calls to shed, and the priority threshold that yields it.

use std::collections::VecDeque;
use std::time::Duration;

use crate::instant::Instant;
use crate::priority::Priority;

/// How many levels there are: five classes of a hundred.
pub(super) const LEVELS: usize = 500;
/// Number of calls in the distribution of priorities.
const CALLS: usize = 1000;
/// Fewer calls say too little about the next ones: a threshold from a single call of normal priority would
/// shed every call of a lower one, whatever the rate.
const MIN_CALLS: usize = 100;

/// What share of the calls to shed.
///
/// A signal says no more than whether there is too much load. Then the share moves in steps; source:
/// WeChat's DAGOR, +5 % and −1 % a window. The cool-off is that of kratos aegis.
///
/// A queue's delay says how much too much. See [`follow`](Self::follow).
#[derive(Clone, Debug)]
pub(super) struct Pressure {
    rate: f64,
    /// Whether the rate is in force. Before a queue is known to stand, it is only prepared.
    in_force: bool,
    max: f64,
    cool_off: Duration,
    overloaded_at: Option<Instant>,
    /// The delay at the last update.
    delay: Option<Duration>,
}

/// What a shedder knows about its queue when an update is due.
#[derive(Clone, Copy, Debug)]
pub(super) struct QueueReport {
    /// The smallest delay since the last update.
    pub(super) delay: Duration,
    pub(super) target: Duration,
    /// Whether the queue stands, and is no burst that drains.
    pub(super) overloaded: bool,
}

const MORE: f64 = 0.05;
const LESS: f64 = 0.01;

/// How much of the excess that a growing delay shows is taken back in one update. With 1 it would be
/// all of it, and all of the noise.
const GROWTH_GAIN: f64 = 0.7;
/// How much of a delay above the target is worked off in one update: of a short one little, so that
/// noise stays small, of a long one more.
const DELAY_GAIN: f64 = 0.15;
const LONG_DELAY_GAIN: f64 = 0.3;
/// How much more is let in per update while the queue runs dry.
const DRY_GAIN: f64 = 0.02;
/// A queue that has been short for fewer updates may only be short because so much is shed.
const CALM_UPDATES: u32 = 8;
/// How many times as many calls are let in after two cool-offs of calm.
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

    /// A window of `window` has passed, after which a signal told about the load; the last update was
    /// `elapsed` ago.
    pub(super) fn update(
        &mut self,
        overloaded: bool,
        window: Duration,
        elapsed: Duration,
        now: Instant,
    ) {
        self.in_force = true;
        if overloaded {
            self.rate = (self.rate + MORE).min(self.max);
            self.overloaded_at = Some(now);
        } else if let Some(calm) = self.calm(self.cool_off, now) {
            // Windows in which nobody came were calm too: who comes first after a pause is not shed for
            // what was before it.
            let windows = elapsed.min(calm).as_nanos() / window.as_nanos().max(1);
            let less = LESS * (windows as f64).max(1.0);
            // Rounded, so that steps up and down meet at zero again.
            self.rate = ((self.rate - less) * 1e6).round().max(0.0) / 1e6;
        }
    }

    /// A window of `window` has passed in which a queue told about the load; the last update was
    /// `elapsed` ago.
    ///
    /// It keeps the delay at the target: there the queue never runs dry, so nothing of the capacity
    /// is lost, and nobody waits for long. The gains hold at any overload, because they multiply the
    /// share of calls that is let in:
    ///
    /// * A delay that grows by a tenth of a second each second says that a tenth of those let in are too
    ///   many. So the load is known before the queue is long.
    /// * A delay above the target has to be worked off, one below it may grow.
    ///
    /// It is in force from when the queue stands, so a burst sheds nobody. When the delay has been
    /// below half of the target for a cool-off, the overload is over, and the share falls faster.
    ///
    /// Source: the controllers of PIE (RFC 8033) and of Uber's Cinnamon, in the form that fits a share
    /// to admit.
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
        // At the target the delay is where it should be because of what is shed.
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

    /// How long after a delay above half of the target the overload is over.
    pub(super) fn calm_after(&self, window: Duration) -> Duration {
        self.cool_off.max(window.saturating_mul(CALM_UPDATES))
    }

    /// For how long the last overload has been more than `calm_after` ago; `None` if it has not.
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

/// What one shedder tells those that share a cut with it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Share {
    /// Its calls since the last time, and how long that was.
    pub(super) calls: u64,
    pub(super) over: Duration,
    /// The share of them it wants shed.
    pub(super) rate: f64,
    /// When it said so, and for how long it holds.
    pub(super) at: Instant,
    pub(super) good_for: Duration,
}

impl Share {
    /// Whether it is too old to count. Who has no calls says nothing, and nothing is shed for its sake.
    fn is_stale(&self, now: Instant) -> bool {
        now > self.at + self.good_for
    }

    /// Its calls per second.
    fn weight(&self) -> f64 {
        self.calls as f64 / self.over.as_secs_f64().max(1e-9)
    }
}

/// The share that all of them together want shed: the mean, weighted by their calls per second.
pub(super) fn combine(shares: impl IntoIterator<Item = Share>, now: Instant) -> f64 {
    let fresh = shares.into_iter().filter(|share| !share.is_stale(now));
    let (calls, shed) = fresh.fold((0.0, 0.0), |(calls, shed), share| {
        let weight = share.weight();
        (calls + weight, shed + weight * share.rate)
    });
    if calls > 0.0 { shed / calls } else { 0.0 }
}

/// Calls below the level are shed, and a share of those on it.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Threshold {
    pub(super) level: u16,
    pub(super) share: f32,
}

impl Threshold {
    /// Whether a call is shed. `random` is in `[0, 1)`.
    pub(super) fn sheds(self, priority: Priority, random: f64) -> bool {
        let level = priority.as_u16();
        level < self.level || (level == self.level && random < f64::from(self.share))
    }

    /// In one word, for an atomic.
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

/// Keeps the share of shed calls within a maximum, however priorities change between two updates: it
/// holds for any hundred calls in a row.
#[derive(Clone, Copy, Debug)]
pub(super) struct ShedCap {
    most: u32,
    /// One bit for each of the last calls, the newest first: whether it was shed.
    recent: u128,
}

impl ShedCap {
    const CALLS: u32 = 100;

    pub(super) fn new(max: f64) -> Self {
        // Rounding: 0.29 of 100 is a little less than 29.
        let most = f64::from(Self::CALLS) * max + 1e-9;
        Self {
            most: (most as u32).max(1),
            recent: 0,
        }
    }

    /// Whether a call is shed, of which `below` says whether it is below the threshold.
    pub(super) fn sheds(&mut self, below: bool) -> bool {
        self.recent = self.recent << 1 & ((1 << Self::CALLS) - 1);
        let sheds = below && self.recent.count_ones() < self.most;
        self.recent |= u128::from(sheds);
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
            // All of it now: no call is the one that has to wait for more memory.
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

    /// Returns the threshold that sheds the share `rate` of such calls, the lowest priorities first;
    /// none from too few calls.
    ///
    /// Source: failsafe-go's prioritizer, with one change: there whole levels are shed, here the last
    /// one in part, so that few levels do not mean large steps.
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
