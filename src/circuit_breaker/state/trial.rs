//! The probes of a half-open circuit.

use std::time::Duration;

use crate::instant::Instant;
use crate::verdict::Health;
use crate::window::{Counts, Sample};

/// How many trial calls there are and what they decide.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct HalfOpenRules {
    /// How many results there are at most.
    pub(crate) of: u32,
    /// How many of them must be good; not looked at with a failure rate.
    pub(crate) needed: u32,
    pub(crate) failure_rate: Option<f64>,
    pub(crate) slow_rate: Option<f64>,
    pub(crate) early: bool,
    /// How many may be in flight; `None` for as many as there are results.
    pub(crate) permitted: Option<u32>,
    pub(crate) lease: Option<Duration>,
    pub(crate) lost_as: Health,
    pub(crate) max: Option<Duration>,
    /// What happens after `max`.
    pub(crate) after: AfterHalfOpen,
}

/// Where a circuit goes that was half-open for as long as it may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AfterHalfOpen {
    Opens,
    Closes,
}

impl HalfOpenRules {
    /// One probe, and what builders begin with.
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
        after: AfterHalfOpen::Opens,
    };
}

/// Trial calls in flight, and the results of those that ended.
#[derive(Clone, Debug)]
pub(super) struct Trial {
    in_flight: Vec<Probe>,
    pub(super) results: Counts,
    lease: Duration,
    /// The number of the last probe before this trial.
    before: u64,
}

#[derive(Clone, Copy, Debug)]
struct Probe {
    id: u64,
    started: Instant,
}

impl Trial {
    pub(super) fn new(rules: &HalfOpenRules, last_break: Duration, before: u64) -> Self {
        let preset = match last_break {
            Duration::ZERO => Duration::from_secs(60),
            length => length.clamp(Duration::from_secs(1), Duration::from_secs(300)),
        };
        Self {
            in_flight: Vec::new(),
            results: Counts::default(),
            lease: rules.lease.unwrap_or(preset),
            before,
        }
    }

    /// Whether a probe was started by this trial, and not by an older one.
    pub(super) const fn has_started(&self, probe: u64) -> bool {
        probe > self.before
    }

    pub(super) fn in_flight(&self) -> u32 {
        u32::try_from(self.in_flight.len()).unwrap_or(u32::MAX)
    }

    /// How many more calls may start now.
    pub(super) fn free(&self, rules: &HalfOpenRules) -> u32 {
        let in_flight = self.in_flight();
        let permitted = rules.permitted.unwrap_or(rules.of);
        let wanted = u64::from(rules.of).saturating_sub(self.results.calls);
        let wanted = u32::try_from(wanted).unwrap_or(u32::MAX);
        permitted.min(wanted).saturating_sub(in_flight)
    }

    /// Starts a call, if one is free.
    pub(super) fn start(&mut self, rules: &HalfOpenRules, id: u64, now: Instant) -> bool {
        let free = self.free(rules) > 0;
        if free {
            self.in_flight.push(Probe { id, started: now });
        }
        free
    }

    /// Ends a call, with its result unless it has none. Of a call that has lost its place nothing
    /// is left to end.
    pub(super) fn end(
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
            self.lose(rules);
        } else if let Some(sample) = sample {
            self.count(sample);
        }
    }

    fn count(&mut self, sample: Sample) {
        self.results.calls += 1;
        self.results.failures += u64::from(sample.has_failed());
        self.results.slow += u64::from(sample.was_slow());
        self.results.slow_failures += u64::from(sample.has_failed() && sample.was_slow());
        self.results.took = self
            .results
            .took
            .saturating_add(Duration::from_nanos(sample.took));
    }

    /// Takes the places of the calls whose lease has ended.
    pub(super) fn reclaim(&mut self, rules: &HalfOpenRules, now: Instant) {
        let mut index = 0;
        while let Some(&probe) = self.in_flight.get(index) {
            if self.is_lost(&probe, now) {
                self.in_flight.swap_remove(index);
                self.lose(rules);
            } else {
                index += 1;
            }
        }
    }

    fn is_lost(&self, probe: &Probe, now: Instant) -> bool {
        now >= probe.started + self.lease
    }

    /// A call has lost its place.
    fn lose(&mut self, rules: &HalfOpenRules) {
        if rules.lost_as != Health::Neutral {
            self.count(Sample::new(rules.lost_as == Health::Unhealthy, false, 0));
        }
    }

    /// Whether the circuit closes (`true`) or opens, once that is certain.
    pub(super) fn decision(&self, rules: &HalfOpenRules) -> Option<bool> {
        let of = u64::from(rules.of);
        let left = of.saturating_sub(self.results.calls);
        if left > 0 && !rules.early {
            return None;
        }
        let failures = match rules.failure_rate {
            Some(limit) => below(self.results.failures, left, of, limit),
            None => {
                let good = self.results.calls - self.results.failures;
                if good >= u64::from(rules.needed) {
                    Some(true)
                } else if good + left < u64::from(rules.needed) {
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

    /// The share of calls so far that failed or were slow, whichever is larger.
    pub(super) fn rate(&self) -> f64 {
        self.results.failures.max(self.results.slow) as f64 / self.results.calls.max(1) as f64
    }
}

/// Whether the rate of `bad` calls stays below `limit`, when `left` of `of` are still to come.
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
    fn the_rate_of_a_trial_is_that_of_failed_or_of_slow_calls_whichever_is_larger() {
        let mut trial = Trial::new(&HalfOpenRules::DEFAULT, Duration::ZERO, 0);
        for (failures, slow) in [(1, 3), (3, 1)] {
            trial.results = Counts {
                calls: 4,
                failures,
                slow,
                ..Counts::default()
            };
            assert_eq!(trial.rate(), 0.75);
        }
    }
}
