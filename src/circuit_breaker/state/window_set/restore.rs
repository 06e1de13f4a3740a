//! Windows that continue others, or the counts of a snapshot.

use std::time::Duration;

use super::super::rules::{Rules, WindowRules};
use super::super::trip_rule::Span;
use super::{DURATION, RuleWindow, Window, WindowSet};
use crate::instant::{Instant, nanos};
use crate::sync::Ordering;
use crate::window::{Counts, Sample, TimeWindow};

/// What a window starts with.
enum Content<'a> {
    Counts(Counts),
    Of(&'a Window),
}

impl WindowRules {
    /// Returns the size of a window of calls.
    const fn calls(&self) -> usize {
        match self.span {
            Span::Calls(calls) => calls as usize,
            Span::Time(_) => usize::MAX,
        }
    }
}

impl WindowSet {
    /// Records the counts of a snapshot, successes first. They are those of the first window: a shorter one begins empty,
    /// because they would be too many.
    pub(crate) fn restore(&self, rules: &Rules, counts: Counts, consecutive: u64, now: Instant) {
        let first = rules.windows.first().map(|window| window.span);
        self.record_all(rules, consecutive, now, |index, of| match first {
            Some(first) if index > 0 && of.span.is_shorter_than(first) => {
                Content::Counts(Counts::default())
            }
            _ => Content::Counts(counts),
        });
    }

    /// Continues the windows of `old`, and averages over the same window. A window that `old` did not have gets the content
    /// of the longest window that is not longer, or else of the shortest one.
    pub(crate) fn continue_from(&self, rules: &Rules, old: &Self, of: &Rules, now: Instant) {
        self.clear(now);
        let olds: Vec<(&WindowRules, &Window)> = of.windows.iter().zip(old.windows()).collect();
        let is_shorter =
            |one: &WindowRules, other: &WindowRules| one.span.is_shorter_than(other.span);
        let nearest = |new: &WindowRules| {
            let comparable = || {
                let olds = olds.iter().copied();
                olds.filter(|(old, _)| old.span.is_comparable_to(new.span))
            };
            let longest = comparable()
                .filter(|(old, _)| !is_shorter(new, old))
                .reduce(|one, other| {
                    if is_shorter(one.0, other.0) {
                        other
                    } else {
                        one
                    }
                });
            let shortest = || {
                comparable().reduce(|one, other| {
                    if is_shorter(other.0, one.0) {
                        other
                    } else {
                        one
                    }
                })
            };
            // One with the same slices continues exactly.
            let same = olds.iter().copied().find(|(old, _)| {
                (old.span, old.slices, old.from_first_call)
                    == (new.span, new.slices, new.from_first_call)
            });
            let first = olds.first().copied();
            same.or(longest).or_else(shortest).or(first)
        };
        self.record_all(rules, old.consecutive(), now, |_, new| match nearest(new) {
            Some((_, window)) => Content::Of(window),
            None => Content::Counts(Counts::default()),
        });
        for (average, new) in self.averages().zip(&rules.windows) {
            let mut others = old.averages().zip(&of.windows);
            let same = others.find_map(|(other, of)| other.filter(|_| of.span == new.span));
            if let (Some(average), Some(same)) = (average, same) {
                average.continue_from(same);
            }
        }
    }

    /// Records consecutive failures, and the content of each window.
    fn record_all<'a>(
        &self,
        rules: &Rules,
        consecutive: u64,
        now: Instant,
        content: impl Fn(usize, &WindowRules) -> Content<'a>,
    ) {
        let totals = self.totals();
        totals.consecutive.store(consecutive, Ordering::Relaxed);
        let mut is_bad = consecutive != 0;
        for (index, of) in rules.windows.iter().enumerate() {
            let content = content(index, of);
            let counts = match content {
                Content::Counts(counts) => counts,
                Content::Of(window) => window.counts(now),
            };
            is_bad |= counts.failures | counts.slow != 0;
            match index.checked_sub(1) {
                None => self.first.fill(rules, of, (&content, counts), now),
                Some(other) => totals.others[other].fill(rules, of, (&content, counts), now),
            }
        }
        if is_bad {
            let last_bad = now.as_nanos().saturating_add(1);
            totals.last_bad.store(last_bad, Ordering::Relaxed);
        }
    }
}

impl<B> RuleWindow<B> {
    /// Fills an empty window. A window of the same kind is continued call by call, or slice by slice. Otherwise more calls
    /// than fit into a window of calls keep their rates.
    fn fill(
        &self,
        rules: &Rules,
        of: &WindowRules,
        (content, counts): (&Content<'_>, Counts),
        now: Instant,
    ) {
        let counts = plausible(counts, rules.tracks_slow());
        if counts.calls == 0 {
            return;
        }
        match (&self.window, content) {
            (Window::None, _) => {}
            (Window::Calls(window), Content::Of(Window::Calls(old))) => {
                let samples = old.samples();
                let more = samples.len().saturating_sub(of.calls());
                for sample in samples.skip(more) {
                    let slow = sample.is_slow() && rules.tracks_slow();
                    let sample = Sample::new(sample.is_failure(), slow, sample.duration);
                    window.record(&self.dirty, sample);
                }
            }
            (Window::Calls(window), _) => {
                let counts = scaled(counts, of.calls() as u64);
                each_sample(counts, |sample| window.record(&self.dirty, sample));
            }
            (Window::Time(window), Content::Of(Window::Time(old))) => {
                for (at, sums) in old.slices_at(now) {
                    self.add_all(window, rules, super::counts(sums), at);
                }
            }
            (Window::Time(window), _) => self.add_all(window, rules, counts, now),
        }
        if let Some(average) = &self.average {
            average.start(1.0 - counts.failure_rate());
        }
    }

    /// Adds the calls of some counts to a window of time.
    fn add_all(&self, window: &TimeWindow, rules: &Rules, counts: Counts, at: Instant) {
        let counts = plausible(counts, rules.tracks_slow());
        if counts.calls == 0 {
            return;
        }
        window.advance(at);
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
            // A call may have ended as late as the slice.
            let expires = window.expires_at(at + window.slice_length());
            self.clean_from.fetch_max(expires, Ordering::Relaxed);
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
