//! Whom to shed: the rate, and the cut that makes it so.

use std::collections::VecDeque;
use std::time::Duration;

use crate::clock::Instant;
use crate::policy::Priority;

/// How many levels there are: five classes of a hundred.
pub(super) const LEVELS: usize = 500;
/// Over how many calls the distribution of priorities is known.
const CALLS: usize = 1000;

/// What share of the calls to shed: a little more while overloaded, a little less while not.
///
/// Source: WeChat's DAGOR, +5 % and −1 % a window; the cool-off is that of kratos aegis.
#[derive(Clone, Debug)]
pub(super) struct Pressure {
    rate: f64,
    max: f64,
    cool_off: Duration,
    overloaded_until: Option<Instant>,
}

const MORE: f64 = 0.05;
const LESS: f64 = 0.01;

impl Pressure {
    pub(super) const fn new(max: f64, cool_off: Duration) -> Self {
        Self {
            rate: 0.0,
            max,
            cool_off,
            overloaded_until: None,
        }
    }

    /// A window has passed.
    pub(super) fn update(&mut self, overloaded: bool, now: Instant) {
        if overloaded {
            self.rate = (self.rate + MORE).min(self.max);
            self.overloaded_until = Some(now + self.cool_off);
        } else if self.overloaded_until.is_none_or(|until| now >= until) {
            // Rounded, so that steps up and down meet at zero again.
            self.rate = ((self.rate - LESS) * 1e6).round().max(0.0) / 1e6;
        }
    }

    pub(super) const fn rate(&self) -> f64 {
        self.rate
    }
}

/// What one shedder tells those that share a cut with it.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Share {
    /// Its calls since the last time.
    pub(super) calls: u64,
    /// The share of them it wants shed.
    pub(super) rate: f64,
}

/// The share that all of them together want shed: the mean, weighted by their calls.
pub(super) fn combine(shares: impl IntoIterator<Item = Share>) -> f64 {
    let (calls, shed) = shares.into_iter().fold((0.0, 0.0), |(calls, shed), share| {
        let weight = share.calls as f64;
        (calls + weight, shed + weight * share.rate)
    });
    if calls > 0.0 { shed / calls } else { 0.0 }
}

/// Everybody below the level is shed, of those on it a share.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Cut {
    pub(super) level: u16,
    pub(super) share: f32,
}

impl Cut {
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

/// The priorities of the last thousand calls.
#[derive(Debug)]
pub(super) struct Levels {
    recent: VecDeque<u16>,
    counts: Box<[u32]>,
}

impl Levels {
    pub(super) fn new() -> Self {
        Self {
            recent: VecDeque::new(),
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

    /// The cut that sheds the share `rate` of such calls, the lowest priorities first.
    ///
    /// Source: failsafe-go's prioritizer, with one change: there whole levels are shed, here the last
    /// one in part, so that few levels do not mean large steps.
    pub(super) fn cut(&self, rate: f64) -> Cut {
        if rate <= 0.0 || self.recent.is_empty() {
            return Cut::default();
        }
        let mut left = rate * self.recent.len() as f64;
        for (level, &count) in self.counts.iter().enumerate() {
            let count = f64::from(count);
            if left < count {
                return Cut {
                    level: level as u16,
                    share: (left / count) as f32,
                };
            }
            left -= count;
        }
        Cut {
            level: LEVELS as u16,
            share: 0.0,
        }
    }
}

#[cfg(all(test, not(backstop_loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_cut_sheds_the_share_it_should_and_the_lowest_first() {
        let mut levels = Levels::new();
        for call in 0..5000 {
            levels.add(if call % 4 == 0 {
                Priority::HIGH
            } else {
                Priority::LOW
            });
        }
        for rate in [0.0, 0.1, 0.5, 0.74, 0.76, 0.9, 1.0] {
            let cut = levels.cut(rate);
            let shed = |priority| {
                (0..1000)
                    .filter(|i| cut.sheds(priority, f64::from(*i) / 1e3))
                    .count()
            };
            let (low, high) = (
                shed(Priority::LOW) as f64 / 1e3,
                shed(Priority::HIGH) as f64 / 1e3,
            );
            assert!(
                (0.75 * low + 0.25 * high - rate).abs() < 0.01,
                "{rate}: {low} {high}"
            );
            assert!(high == 0.0 || low == 1.0, "{rate}: {low} {high}");
            assert_eq!(Cut::from_bits(cut.to_bits()), cut);
        }
        assert_eq!(Levels::new().cut(0.5), Cut::default(), "nobody is known");
        let nobody = levels.cut(0.0);
        assert!(
            !nobody.sheds(Priority::LOWEST, 0.0),
            "also a level not seen before"
        );
    }

    #[test]
    fn pressure_rises_fast_cools_off_and_falls_slowly() {
        let at = |ms| Instant::ORIGIN + Duration::from_millis(ms);
        let mut pressure = Pressure::new(0.12, Duration::from_millis(1000));
        for (now, overloaded, rate) in [
            (0, true, 0.05),
            (100, true, 0.10),
            (200, true, 0.12),
            (300, false, 0.12),
            (1199, false, 0.12),
            (1200, false, 0.11),
            (1300, false, 0.10),
        ] {
            pressure.update(overloaded, at(now));
            assert!(
                (pressure.rate() - rate).abs() < 1e-9,
                "{now}: {}",
                pressure.rate()
            );
        }
        for now in 0..100 {
            pressure.update(false, at(2000 + now));
        }
        assert_eq!(pressure.rate(), 0.0);
    }

    #[test]
    fn shares_are_weighted_by_their_calls() {
        let share = |calls, rate| Share { calls, rate };
        assert_eq!(combine([]), 0.0);
        assert!((combine([share(100, 0.2), share(100, 0.4)]) - 0.3).abs() < 1e-9);
        assert!((combine([share(100, 0.3), share(0, 0.8)]) - 0.3).abs() < 1e-9);
    }
}
