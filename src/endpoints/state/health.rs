//! The health of nodes: ejections, checks, parks, and drains.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::record::{Change, Record, Standing, Streak};
use super::rules::{Rules, SuccessRate};
use super::stats::{Ended, NodeStats};
use crate::event::{EjectionCause, Unenforced};
use crate::instant::{Instant, nanos};
use crate::rng::Stream;

/// The health of the nodes of a set, by index.
#[derive(Debug)]
pub(crate) struct Machine {
    pub(crate) rules: Rules,
    pub(super) records: Vec<Option<Record>>,
    last_sweep: Instant,
    /// Calls of a node per second between the last two sweeps.
    rate: Option<f64>,
    /// Indices below this one are taken.
    first_free: usize,
}

/// Number of ejected nodes, and the largest number allowed.
struct EjectionCounts {
    members: usize,
    ejected: usize,
    /// Available nodes by priority.
    available: BTreeMap<u32, usize>,
}

impl Machine {
    pub(crate) const fn new(rules: Rules, now: Instant) -> Self {
        Self {
            rules,
            records: Vec::new(),
            last_sweep: now,
            rate: None,
            first_free: 0,
        }
    }

    /// Puts a record into the lowest free index, and returns the index.
    pub(crate) fn insert(&mut self, record: Record) -> u32 {
        let mut rest = self.records.iter().skip(self.first_free);
        let taken = rest.position(Option::is_none);
        let index = taken.map_or(self.records.len(), |taken| self.first_free + taken);
        if index == self.records.len() {
            self.records.push(None);
        }
        self.records[index] = Some(record);
        self.first_free = index + 1;
        index as u32
    }

    /// Removes the record at an index.
    pub(crate) fn remove(&mut self, index: u32) {
        self.records[index as usize] = None;
        self.first_free = self.first_free.min(index as usize);
    }

    pub(crate) fn get(&self, index: u32) -> Option<&Record> {
        self.records.get(index as usize)?.as_ref()
    }

    pub(crate) fn get_mut(&mut self, index: u32) -> Option<&mut Record> {
        self.records.get_mut(index as usize)?.as_mut()
    }

    /// Closes the nodes that are drained or removed. No call may read routes that lead to them any more.
    pub(crate) fn close_drained(&self) {
        let drained = self.iter().filter(|(_, record)| !record.is_member());
        drained.for_each(|(_, record)| record.stats.close());
    }

    /// Returns the record at an index, if it still belongs to the node with these counters.
    fn of_call(&mut self, index: u32, stats: &Arc<NodeStats>) -> Option<&mut Record> {
        self.get_mut(index)
            .filter(|record| Arc::ptr_eq(&record.stats, stats))
    }

    /// Returns the records with their indices.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u32, &Record)> {
        let records = self.records.iter().enumerate();
        records.filter_map(|(index, record)| Some((index as u32, record.as_ref()?)))
    }

    fn next_sweep(&self) -> Instant {
        self.last_sweep + self.rules.interval
    }

    /// Returns when the next change by time is due.
    pub(crate) fn due(&self, now: Instant) -> Instant {
        let mut due = self.next_sweep();
        for (_, record) in self.iter() {
            if let Standing::Ejected { until } = record.standing {
                due = due.min(until);
            }
            if record.parked_until > now {
                due = due.min(record.parked_until);
            }
            if let Some(since) = record.new_since {
                due = due.min(self.rules.slow_start.ends_at(since));
            }
        }
        due
    }

    /// Returns whether a node is in its slow start.
    pub(crate) fn is_starting(&self, record: &Record, now: Instant) -> bool {
        let goes_on = |since| now < self.rules.slow_start.ends_at(since);
        record.new_since.is_some_and(goes_on)
    }

    /// Ends ejections and slow starts that are over, and sweeps if an interval has passed.
    pub(crate) fn advance(&mut self, now: Instant, random: &mut Stream) -> Vec<Change> {
        for record in self.records.iter_mut().flatten() {
            if matches!(record.standing, Standing::Ejected { until } if until <= now) {
                record.standing = Standing::Returning;
            }
            let ends = |since| self.rules.slow_start.ends_at(since) <= now;
            if record.new_since.is_some_and(ends) {
                record.new_since = None;
            }
        }
        if self.next_sweep() > now {
            return Vec::new();
        }
        self.sweep(now, random)
    }

    /// Compares the nodes by their results since the last sweep.
    fn sweep(&mut self, now: Instant, random: &mut Stream) -> Vec<Change> {
        // Several intervals may have passed without a call.
        let interval = nanos(self.rules.interval);
        let intervals = (now.as_nanos() - self.last_sweep.as_nanos()) / interval;
        let elapsed = Duration::from_nanos(intervals * interval);
        self.last_sweep += elapsed;
        let intervals = u32::try_from(intervals).unwrap_or(u32::MAX);
        let (mut members, mut calls) = (0_u32, 0);
        let mut ended: Vec<(u32, Ended)> = Vec::new();
        for (index, record) in self.records.iter_mut().enumerate() {
            let Some(record) = record else { continue };
            let counts = record.sweep();
            if !record.is_member() {
                continue;
            }
            members += 1;
            calls += counts.calls();
            let was_ejected = std::mem::take(&mut record.was_ejected);
            if record.standing == Standing::Admitted {
                // `intervals` may be zero at the end of the clock's range.
                let healthy = intervals.saturating_sub(was_ejected.into());
                record.times = record.times.saturating_sub(healthy);
                ended.push((index as u32, counts));
            }
        }
        self.rate = (members > 0 && !elapsed.is_zero())
            .then(|| calls as f64 / f64::from(members) / elapsed.as_secs_f64());

        // Worst first, in case only some of them may be ejected.
        ended.sort_by(|a, b| success_rate(a.1).total_cmp(&success_rate(b.1)));
        let too_low = self
            .rules
            .success_rate
            .and_then(|rule| lowest(rule, &ended));
        let mut ejections = self.ejection_counts(now);
        let mut changes = Vec::new();
        for (index, counts) in ended {
            let rate = self.rules.success_rate.zip(too_low);
            let is_outlier = rate.is_some_and(|(rule, lowest)| {
                counts.calls() >= rule.min_calls && success_rate(counts) < lowest - ROUNDING
            });
            let fails = self.rules.failure_share.is_some_and(|rule| {
                let share = counts.failed as f64 / counts.calls().max(1) as f64;
                counts.calls() >= rule.min_calls && share >= rule.share
            });
            let cause = match (is_outlier, fails) {
                (true, _) => EjectionCause::SuccessRate,
                (_, true) => EjectionCause::FailureShare,
                _ => continue,
            };
            changes.extend(self.try_eject(index, cause, &mut ejections, now, random.unit()));
        }
        changes
    }

    /// Ejects a node after consecutive failures, if they belong to its current epoch.
    pub(crate) fn eject_failing(
        &mut self,
        index: u32,
        stats: &Arc<NodeStats>,
        epoch: u32,
        now: Instant,
        random: f64,
    ) -> Option<Change> {
        let limit = self.rules.consecutive?;
        self.of_call(index, stats)
            .filter(|record| record.stats.epoch() == epoch)?;
        let mut ejections = self.ejection_counts(now);
        let cause = EjectionCause::ConsecutiveFailures(limit);
        self.try_eject(index, cause, &mut ejections, now, random)
    }

    /// Ends the probe of a returning node.
    pub(crate) fn end_probe(
        &mut self,
        index: u32,
        stats: &Arc<NodeStats>,
        epoch: u32,
        is_good: bool,
        now: Instant,
        random: f64,
    ) -> Option<Change> {
        let record = self.of_call(index, stats)?;
        if record.standing != Standing::Returning || record.stats.epoch() != epoch {
            return None;
        }
        if is_good {
            return self.admit(index, now);
        }
        self.eject(index, EjectionCause::ProbeFailed, now, random)
    }

    /// Admits a node that was ejected.
    fn admit(&mut self, index: u32, now: Instant) -> Option<Change> {
        let record = self.get_mut(index)?;
        record.standing = Standing::Admitted;
        record.new_since = Some(now);
        record.begin_epoch();
        record.stats.latency.clear();
        Some(Change::Returned { index })
    }

    /// Ejects a node that is admitted, unless that would leave too few.
    fn try_eject(
        &mut self,
        index: u32,
        cause: EjectionCause,
        ejections: &mut EjectionCounts,
        now: Instant,
        random: f64,
    ) -> Option<Change> {
        let record = self.get(index)?;
        if !record.is_member() || record.standing != Standing::Admitted {
            return None;
        }
        let is_available = record.is_available(now);
        let available = ejections.available.entry(record.priority).or_default();
        let others = *available - usize::from(is_available);
        let max = self.rules.max_ejected(ejections.members);
        let reason = if others == 0 {
            Some(Unenforced::LastAvailable)
        } else if ejections.ejected >= max {
            Some(Unenforced::MaxEjected)
        } else if self.rules.shadow {
            Some(Unenforced::Shadow)
        } else {
            None
        };
        if let Some(reason) = reason {
            return Some(Change::NotEjected {
                index,
                cause,
                reason,
            });
        }
        *available = others;
        ejections.ejected += 1;
        self.eject(index, cause, now, random)
    }

    /// Counts the nodes.
    fn ejection_counts(&self, now: Instant) -> EjectionCounts {
        let mut ejections = EjectionCounts {
            members: 0,
            ejected: 0,
            available: BTreeMap::new(),
        };
        for (_, record) in self.iter().filter(|(_, record)| record.is_member()) {
            ejections.members += 1;
            ejections.ejected += usize::from(record.standing != Standing::Admitted);
            let available = ejections.available.entry(record.priority).or_default();
            *available += usize::from(record.is_available(now));
        }
        ejections
    }

    /// Ends the ejection of one node in each priority that has no other, because the others were removed or
    /// drained.
    pub(crate) fn admit_last(&mut self, now: Instant) -> Vec<Change> {
        // By priority: the node whose ejection ends first, and when; `None` if a node is not ejected.
        let mut last: BTreeMap<u32, Option<(Instant, u32)>> = BTreeMap::new();
        for (index, record) in self.iter().filter(|(_, record)| record.is_member()) {
            let ends = match record.standing {
                Standing::Admitted => None,
                Standing::Returning => Some((Instant::ORIGIN, index)),
                Standing::Ejected { until } => Some((until, index)),
            };
            let first = last.entry(record.priority).or_insert(ends);
            *first = first.zip(ends).map(|(first, ends)| first.min(ends));
        }
        let indices = last.into_values().flatten();
        indices
            .filter_map(|(_, index)| self.admit(index, now))
            .collect()
    }

    /// Ejects a node, whatever is left.
    fn eject(
        &mut self,
        index: u32,
        cause: EjectionCause,
        now: Instant,
        random: f64,
    ) -> Option<Change> {
        let times = self.get(index)?.times.saturating_add(1);
        let length = self.rules.ejection(times);
        let jitter = (length as f64 * self.rules.jitter * random) as u64;
        let length = length.saturating_add(jitter);
        let record = self.get_mut(index)?;
        record.times = times;
        record.was_ejected = true;
        record.standing = Standing::Ejected {
            until: now.after(length),
        };
        record.begin_epoch();
        Some(Change::Ejected {
            index,
            cause,
            length: Duration::from_nanos(length),
            times,
        })
    }

    /// Parks a node: it takes no calls for a time.
    pub(crate) fn park(
        &mut self,
        index: u32,
        stats: &Arc<NodeStats>,
        length: Duration,
        now: Instant,
    ) -> Option<Change> {
        let record = self.of_call(index, stats)?;
        let was_parked = record.parked_until > now;
        record.parked_until = record.parked_until.max(now + length);
        (!was_parked && record.parked_until > now).then_some(Change::Parked { index, length })
    }

    /// Records the result of a health check.
    pub(crate) fn checked(&mut self, index: u32, is_good: bool, now: Instant) -> Vec<Change> {
        let needed = match is_good {
            true => self.rules.healthy_after,
            false => self.rules.unhealthy_after,
        };
        let Some(record) = self.get_mut(index).filter(|record| record.is_member()) else {
            return Vec::new();
        };
        let is_ejected = record.standing != Standing::Admitted;
        // A good check also counts towards the end of an ejection.
        if is_good != record.is_unhealthy && !(is_good && is_ejected) {
            record.streak = Streak::default();
            return Vec::new();
        }
        if record.streak.add(is_good) < needed {
            return Vec::new();
        }
        record.streak = Streak::default();
        let mut changes = Vec::new();
        if record.is_unhealthy == is_good {
            record.is_unhealthy = !is_good;
            changes.push(match is_good {
                true => Change::Healthy { index },
                false => Change::Unhealthy { index },
            });
            if is_good {
                record.new_since = Some(now);
            }
        }
        if is_good && is_ejected {
            changes.extend(self.admit(index, now));
        }
        changes
    }

    /// Discards the results of health checks: nodes that were unhealthy have a slow start.
    pub(crate) fn forget_checks(&mut self, now: Instant) -> Vec<Change> {
        let mut changes = Vec::new();
        for (index, record) in self.records.iter_mut().enumerate() {
            let Some(record) = record else { continue };
            record.streak = Streak::default();
            if std::mem::take(&mut record.is_unhealthy) {
                record.new_since = Some(now);
                let index = index as u32;
                changes.push(Change::Healthy { index });
            }
        }
        changes
    }

    /// Returns whether slow start applies to the new nodes of a priority: not if most nodes are new, nor if calls are
    /// so rare that a small share of them would be no call at all.
    pub(crate) fn warms_up(&self, new: usize, available: usize) -> bool {
        let has_traffic = self.rate.is_none_or(|rate| rate >= 1.0);
        new > 0 && new * 2 <= available && has_traffic
    }
}

/// The error of a mean of success rates: equal rates are not outliers because of it.
const ROUNDING: f64 = 1e-9;

fn success_rate(ended: Ended) -> f64 {
    match ended.calls() {
        0 => 1.0,
        calls => ended.good as f64 / calls as f64,
    }
}

/// Returns the success rate below which a node is an outlier. `None` if too few nodes can be compared.
fn lowest(rule: SuccessRate, ended: &[(u32, Ended)]) -> Option<f64> {
    let compared = ended
        .iter()
        .filter(|(_, ended)| ended.calls() >= rule.min_calls);
    let rates: Vec<f64> = compared.map(|(_, ended)| success_rate(*ended)).collect();
    if rates.len() < rule.min_nodes.max(1) {
        return None;
    }
    let count = rates.len() as f64;
    let mean = rates.iter().sum::<f64>() / count;
    let variance = rates.iter().map(|rate| (rate - mean).powi(2)).sum::<f64>() / count;
    Some(mean - rule.deviations * variance.sqrt())
}
