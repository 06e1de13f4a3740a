//! The windows over which the rules are evaluated.

mod restore;

use std::time::Duration;

use super::rules::{Rules, WindowRules};
use super::success_average::SuccessAverage;
use super::trip_rule::{Span, TripKind};
use crate::instant::Instant;
use crate::sync::{AtomicU64, Ordering};
use crate::window::{COUNTS_SUCCESSES, CountWindow, Counts, Kind, Sample, Sums, TimeWindow};

/// The windows of all rules, counted since the circuit closed.
///
/// In cache lines of its own, so threads that record do not invalidate the state that others read.
#[derive(Debug)]
#[repr(align(64))]
pub(crate) struct WindowSet {
    /// The window of the first rule that has one. Inline, because most breakers have exactly one and the fast
    /// path reads its `dirty` word.
    first: RuleWindow<Totals>,
}

/// Counters apart from the windows. They share the first cache line with the head of the first window.
#[derive(Debug, Default)]
struct Totals {
    /// Consecutive failures; zero unless a rule counts them.
    consecutive: AtomicU64,
    others: Box<[RuleWindow]>,
    /// Rules that have been reported in the metrics-only state.
    reported: AtomicU64,
    /// When a call last failed or was slow, plus one, in nanoseconds. Zero before.
    last_bad: AtomicU64,
}

/// A window, its derived values, and `beside`, which shares their cache line.
#[derive(Debug)]
struct RuleWindow<B = ()> {
    /// Zero if a success changes nothing here. See [`CountWindow`].
    dirty: AtomicU64,
    window: Window,
    /// When the last failed or slow call leaves a window of time, in nanoseconds.
    clean_from: AtomicU64,
    average: Option<Box<SuccessAverage>>,
    beside: B,
}

#[derive(Debug)]
enum Window {
    None,
    Calls(CountWindow),
    Time(TimeWindow),
}

/// Kinds in a [`TimeWindow`]: all calls; failed, slow, and both, which exclude each other; nanoseconds.
const CALLS: usize = 0;
const FAILED: usize = Kind::Failed as usize;
const BOTH: usize = Kind::SlowFailure as usize;
const DURATION: usize = 4;

impl Window {
    fn new(rules: &Rules, of: &WindowRules) -> Self {
        match of.span {
            Span::Calls(calls) => {
                // If a success may be slow, or is needed by another window or an average, the `dirty` word alone
                // cannot show that it changes nothing.
                let skips_successes =
                    rules.windows.len() == 1 && !rules.needs_clock() && !of.has_average;
                Self::Calls(CountWindow::new(calls, rules.durations, skips_successes))
            }
            Span::Time(window) => {
                let kinds = match (rules.durations, rules.tracks_slow()) {
                    (true, _) => DURATION + 1,
                    (false, true) => BOTH + 1,
                    (false, false) => FAILED + 1,
                };
                let aligned = !of.from_first_call;
                Self::Time(TimeWindow::new(window, of.slices, aligned, kinds))
            }
        }
    }

    /// Returns the content right after a call was recorded.
    fn latest(&self) -> Counts {
        match self {
            Self::None => Counts::default(),
            Self::Calls(window) => window.counts(),
            Self::Time(window) => counts(window.sums()),
        }
    }

    /// Returns the content at `now`.
    fn counts(&self, now: Instant) -> Counts {
        match self {
            Self::None => Counts::default(),
            Self::Calls(window) => window.counts(),
            Self::Time(window) => counts(window.sums_at(now)),
        }
    }
}

fn counts(sums: Sums) -> Counts {
    let [calls, failed, slow, both, nanos] = sums;
    Counts {
        // A call that is being recorded may be in only one of the sums.
        calls: calls.max(failed + slow + both),
        failures: failed + both,
        slow: slow + both,
        slow_failures: both,
        total_duration: Duration::from_nanos(nanos),
    }
}

impl<B> RuleWindow<B> {
    fn new(rules: &Rules, of: &WindowRules, beside: B) -> Self {
        Self {
            dirty: AtomicU64::new(COUNTS_SUCCESSES),
            window: Window::new(rules, of),
            clean_from: AtomicU64::new(0),
            average: of
                .has_average
                .then(|| Box::new(SuccessAverage::new(of.span))),
            beside,
        }
    }

    /// Returns a window that counts nothing, for breakers whose rules have none.
    fn none(beside: B) -> Self {
        Self {
            dirty: AtomicU64::new(0),
            window: Window::None,
            clean_from: AtomicU64::new(0),
            average: None,
            beside,
        }
    }

    /// Records a call. Returns the rules that match after it, a bit for each.
    #[inline(always)]
    fn record(&self, rules: &Rules, of: &WindowRules, sample: Sample, now: Instant) -> u64 {
        if self.add(rules, sample, now) || self.average.is_some() {
            self.evaluate(rules, of, sample, now)
        } else {
            0
        }
    }

    /// Records a call. Returns whether a rule may match that did not match before.
    #[inline(always)]
    fn add(&self, rules: &Rules, sample: Sample, now: Instant) -> bool {
        let window = match &self.window {
            Window::None => return false,
            Window::Calls(window) => return window.record(&self.dirty, sample),
            Window::Time(window) => window,
        };
        window.advance(now);
        window.add(CALLS, 1);
        if !sample.is_success() {
            window.add(sample.kind as usize, 1);
            self.clean_from
                .fetch_max(window.expires_at(now), Ordering::Relaxed);
        }
        if rules.durations {
            // Clamped, so that no clock can overflow the sum.
            window.add(DURATION, sample.duration.min(1 << 54));
        }
        now.as_nanos() < self.clean_from.load(Ordering::Relaxed)
    }

    fn clear(&self, now: Instant) {
        match &self.window {
            Window::None => {}
            Window::Calls(window) => window.clear(&self.dirty),
            Window::Time(window) => {
                window.clear();
                self.clean_from.store(0, Ordering::Relaxed);
            }
        }
        if let Some(average) = &self.average {
            average.clear(now);
        }
    }

    fn is_clean(&self, now: Instant) -> bool {
        let counts = self.window.counts(now);
        let average = self.average.as_ref();
        counts.failures + counts.slow == 0 && average.is_none_or(|average| average.is_clean())
    }

    #[inline(never)]
    fn evaluate(&self, rules: &Rules, of: &WindowRules, sample: Sample, now: Instant) -> u64 {
        let counts = self.window.latest();
        let average = self
            .average
            .as_ref()
            .and_then(|average| average.update(!sample.is_failure(), &counts, now));
        if rules.failures_only && sample.is_success() {
            return 0;
        }
        let mut matched = 0;
        for (index, rule) in rules.of(of) {
            if counts.calls < u64::from(rule.min_calls) {
                continue;
            }
            let matches = match &rule.kind {
                TripKind::Consecutive(_) => false,
                TripKind::Failures(k) => counts.failures >= u64::from(*k),
                TripKind::FailureRate(limit) => counts.failure_rate() >= *limit,
                TripKind::SlowRate(limit) => counts.slow_rate() >= *limit,
                TripKind::SuccessAverage(limit) => average.is_some_and(|now| now < *limit),
                TripKind::Custom(rule) => {
                    counts.failures + counts.slow > 0 && (rule.matches)(&counts)
                }
            };
            matched |= u64::from(matches) << index;
        }
        matched
    }
}

impl WindowSet {
    pub(crate) fn new(rules: &Rules, now: Instant) -> Self {
        let others = rules.windows.iter().skip(1);
        let totals = Totals {
            others: others.map(|of| RuleWindow::new(rules, of, ())).collect(),
            ..Totals::default()
        };
        let first = match rules.windows.first() {
            Some(of) => RuleWindow::new(rules, of, totals),
            None => RuleWindow::none(totals),
        };
        let windows = Self { first };
        windows.clear(now);
        windows
    }

    #[inline(always)]
    const fn totals(&self) -> &Totals {
        &self.first.beside
    }

    /// Returns whether a success changes nothing. Costs two loads.
    #[inline]
    pub(crate) fn skips_successes(&self) -> bool {
        // Relaxed, here and below: the counters order nothing else.
        self.totals().consecutive.load(Ordering::Relaxed) | self.first.dirty.load(Ordering::Relaxed)
            == 0
    }

    /// Records a call that ended at `now`. Returns the rules that match after it, a bit for each.
    #[inline(always)]
    pub(crate) fn record(&self, rules: &Rules, sample: Sample, now: Instant) -> u64 {
        let mut matched = 0;
        if !sample.is_success() {
            self.totals()
                .last_bad
                .store(now.as_nanos().saturating_add(1), Ordering::Relaxed);
        }
        if !sample.is_failure() {
            // This may overwrite a concurrent failure, which then counts as before this success.
            if self.totals().consecutive.load(Ordering::Relaxed) != 0 {
                self.totals().consecutive.store(0, Ordering::Relaxed);
            }
        } else if let Some((limit, index)) = rules.consecutive {
            let failures = self.totals().consecutive.fetch_add(1, Ordering::Relaxed) + 1;
            matched |= u64::from(failures >= u64::from(limit)) << index;
        }
        if let Some(of) = rules.windows.first() {
            matched |= self.first.record(rules, of, sample, now);
        }
        if !self.totals().others.is_empty() {
            matched |= self.record_in_others(rules, sample, now);
        }
        matched
    }

    #[inline(never)]
    fn record_in_others(&self, rules: &Rules, sample: Sample, now: Instant) -> u64 {
        let others = self
            .totals()
            .others
            .iter()
            .zip(rules.windows.iter().skip(1));
        others.fold(0, |matched, (window, of)| {
            matched | window.record(rules, of, sample, now)
        })
    }

    /// Returns the content of the first window.
    pub(crate) fn counts(&self, now: Instant) -> Counts {
        self.first.window.counts(now)
    }

    /// Returns the rate that the first matched rule evaluates: the slow rate or the failure rate.
    pub(crate) fn rate(&self, rules: &Rules, matched: u64, now: Instant) -> f64 {
        let index = matched.trailing_zeros() as usize;
        for (window, of) in self.windows().zip(&rules.windows) {
            if let Some((_, rule)) = rules.of(of).find(|(other, _)| *other == index) {
                let counts = window.counts(now);
                return match rule.kind {
                    TripKind::SlowRate(_) => counts.slow_rate(),
                    _ => counts.failure_rate(),
                };
            }
        }
        1.0
    }

    /// Returns the number of consecutive failures. Zero unless a rule counts them.
    pub(crate) fn consecutive(&self) -> u64 {
        self.totals().consecutive.load(Ordering::Relaxed)
    }

    /// Marks rules as reported. Returns those that were not before.
    pub(crate) fn mark_reported(&self, matched: u64) -> u64 {
        matched & !self.totals().reported.fetch_or(matched, Ordering::Relaxed)
    }

    /// Lets rules be reported again.
    pub(crate) fn forget_reported(&self) {
        self.totals().reported.store(0, Ordering::Relaxed);
    }

    /// Returns the time from which the windows contain no failed or slow call, or from which none has occurred for
    /// `horizon`. It is at most `now` if that is already true.
    pub(crate) fn forgettable_at(&self, horizon: Duration, now: Instant) -> Instant {
        let last_bad = self.totals().last_bad.load(Ordering::Relaxed);
        if last_bad == 0 {
            return Instant::ORIGIN;
        }
        let others = &self.totals().others;
        let is_clean = self.consecutive() == 0
            && self.first.is_clean(now)
            && others.iter().all(|other| other.is_clean(now));
        match is_clean {
            true => Instant::ORIGIN,
            false => Instant::from_nanos(last_bad) + horizon,
        }
    }

    /// Empties the windows.
    pub(crate) fn clear(&self, now: Instant) {
        self.totals().consecutive.store(0, Ordering::Relaxed);
        self.totals().reported.store(0, Ordering::Relaxed);
        self.totals().last_bad.store(0, Ordering::Relaxed);
        self.first.clear(now);
        self.totals()
            .others
            .iter()
            .for_each(|other| other.clear(now));
    }

    fn averages(&self) -> impl Iterator<Item = Option<&SuccessAverage>> {
        let others = self.totals().others.iter();
        std::iter::once(self.first.average.as_deref())
            .chain(others.map(|other| other.average.as_deref()))
    }

    fn windows(&self) -> impl Iterator<Item = &Window> {
        let others = self.totals().others.iter().map(|other| &other.window);
        std::iter::once(&self.first.window).chain(others)
    }
}
