//! The probes of a half-open circuit.

use std::time::Duration;

use crate::instant::Instant;
use crate::verdict::Health;
use crate::window::{Counts, Sample};

/// Rules of a half-open circuit: the number of probes, and the decision from their results.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct HalfOpenRules {
    /// Number of results after which the circuit closes or opens.
    pub(crate) of: u32,
    /// Number of successes that close it; unused with a failure rate.
    pub(crate) needed: u32,
    pub(crate) failure_rate: Option<f64>,
    pub(crate) slow_rate: Option<f64>,
    pub(crate) early: bool,
    /// The most probes in flight; `None` for `of`.
    pub(crate) permitted: Option<u32>,
    pub(crate) lease: Option<Duration>,
    pub(crate) lost_as: Health,
    pub(crate) max: Option<Duration>,
    /// The transition after `max`.
    pub(crate) timeout: HalfOpenTimeout,
}

/// The transition of a circuit that has been half-open for the longest permitted time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HalfOpenTimeout {
    Opens,
    Closes,
}

impl HalfOpenRules {
    /// One probe, and the defaults of builders for the rest.
    pub(crate) const DEFAULT: Self = Self {
        of: 1,
        needed: 1,
        failure_rate: None,
        slow_rate: None,
        early: true,
        permitted: None,
        lease: None,
        lost_as: Health::Unhealthy,
        max: None,
        timeout: HalfOpenTimeout::Opens,
    };
}

/// The probes in flight, and the results of finished ones.
#[derive(Clone, Debug)]
pub(crate) struct Probes {
    in_flight: Vec<Probe>,
    pub(super) results: Counts,
    lease: Duration,
    /// The number of the last probe of earlier half-open phases.
    last_earlier: u64,
}

#[derive(Clone, Copy, Debug)]
struct Probe {
    id: u64,
    started: Instant,
}

impl Probes {
    pub(super) fn new(rules: &HalfOpenRules, last_break: Duration, last_earlier: u64) -> Self {
        let default_lease = match last_break {
            Duration::ZERO => Duration::from_secs(60),
            length => length.clamp(Duration::from_secs(1), Duration::from_secs(300)),
        };
        Self {
            in_flight: Vec::new(),
            results: Counts::default(),
            lease: rules.lease.unwrap_or(default_lease),
            last_earlier,
        }
    }

    /// Returns whether a probe belongs to this half-open phase.
    pub(super) const fn has_started(&self, probe: u64) -> bool {
        probe > self.last_earlier
    }

    pub(super) fn in_flight(&self) -> u32 {
        u32::try_from(self.in_flight.len()).unwrap_or(u32::MAX)
    }

    /// Returns how many more probes may start.
    pub(super) fn free(&self, rules: &HalfOpenRules) -> u32 {
        let in_flight = self.in_flight();
        let permitted = rules.permitted.unwrap_or(rules.of);
        let wanted = u64::from(rules.of).saturating_sub(self.results.calls);
        let wanted = u32::try_from(wanted).unwrap_or(u32::MAX);
        permitted.min(wanted).saturating_sub(in_flight)
    }

    /// Starts a probe. Returns `false` if none is free.
    pub(super) fn start(&mut self, rules: &HalfOpenRules, id: u64, now: Instant) -> bool {
        let is_free = self.free(rules) > 0;
        if is_free {
            self.in_flight.push(Probe { id, started: now });
        }
        is_free
    }

    /// Releases a probe and counts its result; no sample if it is neutral. A probe whose lease has been
    /// reclaimed is ignored.
    pub(super) fn finish(
        &mut self,
        rules: &HalfOpenRules,
        id: u64,
        sample: Option<Sample>,
        now: Instant,
    ) {
        let Some(index) = self.in_flight.iter().position(|probe| probe.id == id) else {
            return;
        };
        let probe = self.in_flight.swap_remove(index);
        if self.is_lost(&probe, now) {
            self.count_lost(rules);
        } else if let Some(sample) = sample {
            self.count(sample);
        }
    }

    fn count(&mut self, sample: Sample) {
        self.results.calls += 1;
        self.results.failures += u64::from(sample.is_failure());
        self.results.slow += u64::from(sample.is_slow());
        self.results.slow_failures += u64::from(sample.is_failure() && sample.is_slow());
        let total = &mut self.results.total_duration;
        *total = total.saturating_add(Duration::from_nanos(sample.duration));
    }

    /// Releases the probes whose lease has ended.
    pub(super) fn reclaim(&mut self, rules: &HalfOpenRules, now: Instant) {
        let mut index = 0;
        while let Some(&probe) = self.in_flight.get(index) {
            if self.is_lost(&probe, now) {
                self.in_flight.swap_remove(index);
                self.count_lost(rules);
            } else {
                index += 1;
            }
        }
    }

    fn is_lost(&self, probe: &Probe, now: Instant) -> bool {
        now >= probe.started + self.lease
    }

    /// Counts a probe whose lease has ended.
    fn count_lost(&mut self, rules: &HalfOpenRules) {
        if rules.lost_as != Health::Neutral {
            self.count(Sample::new(rules.lost_as == Health::Unhealthy, false, 0));
        }
    }

    /// Returns whether the circuit closes (`true`) or opens, as soon as the remaining results cannot change it.
    pub(super) fn decision(&self, rules: &HalfOpenRules) -> Option<bool> {
        let of = u64::from(rules.of);
        let left = of.saturating_sub(self.results.calls);
        if left > 0 && !rules.early {
            return None;
        }
        let failures = match rules.failure_rate {
            Some(limit) => below(self.results.failures, left, of, limit),
            None => {
                let successes = self.results.calls - self.results.failures;
                if successes >= u64::from(rules.needed) {
                    Some(true)
                } else if successes + left < u64::from(rules.needed) {
                    Some(false)
                } else {
                    None
                }
            }
        };
        let slow = match rules.slow_rate {
            Some(limit) => below(self.results.slow, left, of, limit),
            None => Some(true),
        };
        match (failures, slow) {
            (Some(false), _) | (_, Some(false)) => Some(false),
            (Some(true), Some(true)) => Some(true),
            _ => None,
        }
    }

    /// Returns the share of results so far that failed or were slow, whichever is larger.
    pub(super) fn rate(&self) -> f64 {
        self.results.failures.max(self.results.slow) as f64 / self.results.calls.max(1) as f64
    }
}

/// Returns whether the rate of `bad` among `of` calls stays below `limit`, with `left` calls still to come.
/// `None` while both are possible.
fn below(bad: u64, left: u64, of: u64, limit: f64) -> Option<bool> {
    if bad as f64 / of as f64 >= limit {
        Some(false)
    } else if ((bad + left) as f64 / of as f64) < limit {
        Some(true)
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_of_probes_is_the_larger_of_the_failure_rate_and_the_slow_rate() {
        let mut probes = Probes::new(&HalfOpenRules::DEFAULT, Duration::ZERO, 0);
        for (failures, slow) in [(1, 3), (3, 1)] {
            probes.results = Counts {
                calls: 4,
                failures,
                slow,
                ..Counts::default()
            };
            assert_eq!(probes.rate(), 0.75);
        }
    }
}
