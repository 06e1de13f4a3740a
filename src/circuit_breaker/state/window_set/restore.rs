//! Windows that continue others, or those of a snapshot.

use std::time::Duration;

use super::super::rules::{Rules, WindowRules};
use super::super::trip_rule::Span;
use super::{DURATION, RuleWindow, Window, WindowSet};
use crate::instant::{Instant, nanos};
use crate::sync::Ordering;
use crate::window::{Counts, Sample};

impl WindowSet {
    /// Records the counts of a snapshot, successes first. They are those of the first window: a shorter one begins empty,
    /// because they would be too many.
    pub(crate) fn restore(&self, rules: &Rules, counts: Counts, consecutive: u64, now: Instant) {
        let first = rules.windows.first().map(|window| window.span);
        self.record_all(rules, consecutive, now, |index, span| match first {
            Some(first) if index > 0 && span.is_shorter_than(first) => Counts::default(),
            _ => counts,
        });
    }

    /// Continues the windows of `old`, and averages over the same window. A window that `old` did not have gets the content
    /// of the longest window that is not longer, or else of the shortest one.
    pub(crate) fn continue_from(&self, rules: &Rules, old: &Self, of: &Rules, now: Instant) {
        self.clear(now);
        let contents: Vec<(Span, Counts)> = of
            .windows
            .iter()
            .zip(old.windows())
            .map(|(of, window)| (of.span, window.counts(now)))
            .collect();
        let content = |_: usize, span: Span| {
            let comparable = || {
                contents
                    .iter()
                    .filter(|(other, _)| other.is_comparable_to(span))
            };
            let longest = comparable()
                .filter(|(other, _)| !span.is_shorter_than(*other))
                .reduce(|one, other| {
                    if one.0.is_shorter_than(other.0) {
                        other
                    } else {
                        one
                    }
                });
            let shortest = || {
                comparable().reduce(|one, other| {
                    if other.0.is_shorter_than(one.0) {
                        other
                    } else {
                        one
                    }
                })
            };
            let nearest = longest.or_else(shortest).or(contents.first());
            nearest.map_or(Counts::default(), |(_, counts)| *counts)
        };
        self.record_all(rules, old.consecutive(), now, content);
        for (average, new) in self.averages().zip(&rules.windows) {
            let mut others = old.averages().zip(&of.windows);
            let same = others.find_map(|(other, of)| other.filter(|_| of.span == new.span));
            if let (Some(average), Some(same)) = (average, same) {
                average.continue_from(same);
            }
        }
    }

    /// Records consecutive failures, and the content of each window.
    fn record_all(
        &self,
        rules: &Rules,
        consecutive: u64,
        now: Instant,
        content: impl Fn(usize, Span) -> Counts,
    ) {
        let totals = self.totals();
        totals.consecutive.store(consecutive, Ordering::Relaxed);
        let mut is_bad = consecutive != 0;
        for (index, of) in rules.windows.iter().enumerate() {
            let counts = content(index, of.span);
            is_bad |= counts.failures | counts.slow != 0;
            match index.checked_sub(1) {
                None => self.first.record_all(rules, of, counts, now),
                Some(other) => totals.others[other].record_all(rules, of, counts, now),
            }
        }
        if is_bad {
            let last_bad = now.as_nanos().saturating_add(1);
            totals.last_bad.store(last_bad, Ordering::Relaxed);
        }
    }
}

impl<B> RuleWindow<B> {
    /// Records the calls of some counts in an empty window. More calls than fit into a window of calls keep their rates.
    fn record_all(&self, rules: &Rules, of: &WindowRules, counts: Counts, now: Instant) {
        let counts = plausible(counts, rules.tracks_slow());
        if counts.calls == 0 {
            return;
        }
        match (&self.window, of.span) {
            (Window::None, _) => {}
            (Window::Calls(window), span) => {
                let counts = match span {
                    Span::Calls(size) => scaled(counts, u64::from(size)),
                    Span::Time(_) => counts,
                };
                each_sample(counts, |sample| window.record(&self.dirty, sample));
            }
            (Window::Time(window), _) => {
                window.advance(now);
                let both = counts.slow_failures;
                let amounts = [
                    counts.calls,
                    counts.failures - both,
                    counts.slow - both,
                    both,
                ];
                for (kind, amount) in amounts.into_iter().enumerate() {
                    window.add(kind, amount);
                }
                if rules.durations {
                    window.add(DURATION, nanos(counts.total_duration).min(1 << 62));
                }
                if counts.failures | counts.slow != 0 {
                    self.clean_from
                        .fetch_max(window.expires_at(now), Ordering::Relaxed);
                }
            }
        }
        if let Some(average) = &self.average {
            average.start(1.0 - counts.failure_rate());
        }
    }
}

/// Returns counts that a window can have. Those of a snapshot may come from a file and contain any number.
fn plausible(mut counts: Counts, tracks_slow: bool) -> Counts {
    counts.calls = counts.calls.min(1 << 40);
    counts.failures = counts.failures.min(counts.calls);
    counts.slow = match tracks_slow {
        true => counts.slow.min(counts.calls),
        false => 0,
    };
    // A call that is both is counted once.
    let overlap = (counts.failures + counts.slow).saturating_sub(counts.calls);
    let most = counts.failures.min(counts.slow);
    counts.slow_failures = counts.slow_failures.max(overlap).min(most);
    counts
}

/// Returns counts of at most `most` calls with the same rates.
fn scaled(counts: Counts, most: u64) -> Counts {
    if counts.calls <= most {
        return counts;
    }
    // Fits, because `number` is at most `calls`.
    let part =
        |number: u64| (u128::from(number) * u128::from(most) / u128::from(counts.calls)) as u64;
    Counts {
        calls: most,
        failures: part(counts.failures),
        slow: part(counts.slow),
        slow_failures: part(counts.slow_failures),
        total_duration: Duration::from_nanos(nanos(counts.total_duration) / counts.calls * most),
    }
}

/// Passes the calls of some counts to `record`, successes first.
fn each_sample(counts: Counts, record: impl Fn(Sample) -> bool) {
    let both = counts.slow_failures;
    let bad = counts.failures + counts.slow - both;
    let duration = nanos(counts.total_duration) / counts.calls.max(1);
    for (failed, slow, number) in [
        (false, false, counts.calls.saturating_sub(bad)),
        (false, true, counts.slow - both),
        (true, false, counts.failures - both),
        (true, true, both),
    ] {
        let sample = Sample::new(failed, slow, duration);
        for _ in 0..number {
            record(sample);
        }
    }
}
