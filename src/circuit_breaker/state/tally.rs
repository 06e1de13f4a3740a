//! The windows that the rules look at.

use std::time::Duration;

use super::average::Average;
use super::rules::{Rules, Watch};
use super::trip::{Span, TripKind};
use crate::instant::{Instant, nanos};
use crate::sync::{AtomicU64, Ordering};
use crate::window::{CountWindow, Counts, Kind, Sample, Sums, TimeWindow, UNSETTLED};

/// What was counted since the circuit closed.
///
/// In cache lines of its own: threads that record must not invalidate the state that others read.
#[derive(Debug)]
#[repr(align(64))]
pub(crate) struct Tally {
    /// The window of the first rule that has one. Apart from the others: most breakers have one, and
    /// the fast path looks at its marks.
    first: Watched<Totals>,
}

/// What is counted beside the windows. It fills the cache line that the first window begins with.
#[derive(Debug, Default)]
struct Totals {
    /// Failures in a row; zero unless a rule counts them.
    consecutive: AtomicU64,
    others: Box<[Watched]>,
    /// Rules that have been reported while the circuit never opens.
    noted: AtomicU64,
    /// When a call failed or was slow last, plus one, in nanoseconds. Zero before.
    last_bad: AtomicU64,
}

/// A window, the rules over it, and `beside` in the same cache line.
#[derive(Debug)]
struct Watched<B = ()> {
    /// Zero when a good call changes nothing here. See [`CountWindow`].
    marks: AtomicU64,
    window: Window,
    /// When the last bad call has left a window of time, in nanoseconds.
    clean_from: AtomicU64,
    average: Option<Box<Average>>,
    beside: B,
}

#[derive(Debug)]
enum Window {
    None,
    Calls(CountWindow),
    Time(TimeWindow),
}

/// Kinds of calls in a [`TimeWindow`]: all calls; the bad ones, each in one kind; nanoseconds.
const CALLS: usize = 0;
const FAILED: usize = Kind::Failed as usize;
const BOTH: usize = Kind::SlowFailure as usize;
const TOOK: usize = 4;

impl Window {
    fn new(rules: &Rules, watch: &Watch) -> Self {
        match watch.span {
            Span::Calls(calls) => {
                // Where a good call may be slow, or changes something else, the marks do not say
                // enough.
                let settles =
                    rules.watches.len() == 1 && !rules.needs_clock() && !watch.has_average;
                Self::Calls(CountWindow::new(calls, rules.durations, settles))
            }
            Span::Time(window) => {
                let kinds = match (rules.durations, rules.tracks_slow()) {
                    (true, _) => TOOK + 1,
                    (false, true) => BOTH + 1,
                    (false, false) => FAILED + 1,
                };
                let aligned = !watch.from_first_call;
                Self::Time(TimeWindow::new(window, watch.slices, aligned, kinds))
            }
        }
    }

    /// Returns the content after a call that has just been recorded.
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
    let [calls, failed, slow, both, took] = sums;
    Counts {
        // A call that is being recorded may be in one of the sums only.
        calls: calls.max(failed + slow + both),
        failures: failed + both,
        slow: slow + both,
        slow_failures: both,
        took: Duration::from_nanos(took),
    }
}

impl<B> Watched<B> {
    fn new(rules: &Rules, watch: &Watch, beside: B) -> Self {
        Self {
            marks: AtomicU64::new(UNSETTLED),
            window: Window::new(rules, watch),
            clean_from: AtomicU64::new(0),
            average: watch
                .has_average
                .then(|| Box::new(Average::new(watch.span))),
            beside,
        }
    }

    /// No window, for rules that have none.
    fn none(beside: B) -> Self {
        Self {
            marks: AtomicU64::new(0),
            window: Window::None,
            clean_from: AtomicU64::new(0),
            average: None,
            beside,
        }
    }

    /// Records a call, and returns the rules that hold after it, a bit for each.
    #[inline(always)]
    fn record(&self, rules: &Rules, watch: &Watch, sample: Sample, now: Instant) -> u64 {
        if self.add(rules, sample, now) || self.average.is_some() {
            self.held(rules, watch, sample, now)
        } else {
            0
        }
    }

    /// Records a call. Returns whether a rule may hold that did not hold before.
    #[inline(always)]
    fn add(&self, rules: &Rules, sample: Sample, now: Instant) -> bool {
        let window = match &self.window {
            Window::None => return false,
            Window::Calls(window) => return window.record(&self.marks, sample),
            Window::Time(window) => window,
        };
        window.advance(now);
        window.add(CALLS, 1);
        if !sample.is_good() {
            window.add(sample.kind as usize, 1);
            self.clean_from
                .fetch_max(window.leaves(now), Ordering::Relaxed);
        }
        if rules.durations {
            // Far below an overflow of the sum, whatever a clock says.
            window.add(TOOK, sample.took.min(1 << 54));
        }
        now.as_nanos() < self.clean_from.load(Ordering::Relaxed)
    }

    fn clear(&self, now: Instant) {
        match &self.window {
            Window::None => {}
            Window::Calls(window) => window.clear(&self.marks),
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
    fn held(&self, rules: &Rules, watch: &Watch, sample: Sample, now: Instant) -> u64 {
        let counts = self.window.latest();
        let average = self
            .average
            .as_ref()
            .and_then(|average| average.update(!sample.has_failed(), &counts, now));
        if rules.failures_only && sample.is_good() {
            return 0;
        }
        let mut held = 0;
        for (index, rule) in rules.of(watch) {
            if counts.calls < u64::from(rule.least_calls) {
                continue;
            }
            let holds = match &rule.kind {
                TripKind::Consecutive(_) => false,
                TripKind::Failures(k) => counts.failures >= u64::from(*k),
                TripKind::FailureRate(limit) => counts.failure_rate() >= *limit,
                TripKind::SlowRate(limit) => counts.slow_rate() >= *limit,
                TripKind::SuccessAverage(limit) => average.is_some_and(|now| now < *limit),
                TripKind::Custom(rule) => {
                    counts.failures + counts.slow > 0 && (rule.holds)(&counts)
                }
            };
            held |= u64::from(holds) << index;
        }
        held
    }
}

impl Tally {
    pub(crate) fn new(rules: &Rules, now: Instant) -> Self {
        let others = rules.watches.iter().skip(1);
        let totals = Totals {
            others: others.map(|watch| Watched::new(rules, watch, ())).collect(),
            ..Totals::default()
        };
        let first = match rules.watches.first() {
            Some(watch) => Watched::new(rules, watch, totals),
            None => Watched::none(totals),
        };
        let tally = Self { first };
        tally.clear(now);
        tally
    }

    #[inline(always)]
    const fn totals(&self) -> &Totals {
        &self.first.beside
    }

    /// Returns whether a good call would change nothing. Costs two loads.
    #[inline]
    pub(crate) fn is_settled(&self) -> bool {
        // Relaxed, here and below: the counters publish nothing else.
        self.totals().consecutive.load(Ordering::Relaxed) | self.first.marks.load(Ordering::Relaxed)
            == 0
    }

    /// Records a call that ended at `now`, and returns the rules that hold after it, a bit for each.
    #[inline(always)]
    pub(crate) fn record(&self, rules: &Rules, sample: Sample, now: Instant) -> u64 {
        let mut held = 0;
        if !sample.is_good() {
            self.totals()
                .last_bad
                .store(now.as_nanos().saturating_add(1), Ordering::Relaxed);
        }
        if !sample.has_failed() {
            // A failure that races with this may be lost: it counts as before the success.
            if self.totals().consecutive.load(Ordering::Relaxed) != 0 {
                self.totals().consecutive.store(0, Ordering::Relaxed);
            }
        } else if let Some((limit, index)) = rules.consecutive {
            let run = self.totals().consecutive.fetch_add(1, Ordering::Relaxed) + 1;
            held |= u64::from(run >= u64::from(limit)) << index;
        }
        if let Some(watch) = rules.watches.first() {
            held |= self.first.record(rules, watch, sample, now);
        }
        if !self.totals().others.is_empty() {
            held |= self.record_in_others(rules, sample, now);
        }
        held
    }

    #[inline(never)]
    fn record_in_others(&self, rules: &Rules, sample: Sample, now: Instant) -> u64 {
        let others = self
            .totals()
            .others
            .iter()
            .zip(rules.watches.iter().skip(1));
        others.fold(0, |held, (watched, watch)| {
            held | watched.record(rules, watch, sample, now)
        })
    }

    /// Returns the content of the first window.
    pub(crate) fn counts(&self, now: Instant) -> Counts {
        self.first.window.counts(now)
    }

    /// Returns the share of calls that were bad in the way that the first of these rules looks at.
    pub(crate) fn rate(&self, rules: &Rules, held: u64, now: Instant) -> f64 {
        let index = held.trailing_zeros() as usize;
        let others = self.totals().others.iter().map(|watched| &watched.window);
        let windows = std::iter::once(&self.first.window).chain(others);
        for (window, watch) in windows.zip(&rules.watches) {
            if let Some((_, rule)) = rules.of(watch).find(|(of, _)| *of == index) {
                let counts = window.counts(now);
                return match rule.kind {
                    TripKind::SlowRate(_) => counts.slow_rate(),
                    _ => counts.failure_rate(),
                };
            }
        }
        1.0
    }

    /// Returns the number of failures in a row. Zero unless a rule counts them.
    pub(crate) fn consecutive(&self) -> u64 {
        self.totals().consecutive.load(Ordering::Relaxed)
    }

    /// Returns those of the rules that are noted for the first time.
    pub(crate) fn note(&self, held: u64) -> u64 {
        held & !self.totals().noted.fetch_or(held, Ordering::Relaxed)
    }

    /// Returns when no call has failed or been slow within the windows, or none has for `horizon`: not after
    /// `now` if that is so already.
    pub(crate) fn forgettable_at(&self, horizon: Duration, now: Instant) -> Instant {
        let last_bad = self.totals().last_bad.load(Ordering::Relaxed);
        if last_bad == 0 {
            return Instant::ORIGIN;
        }
        let others = &self.totals().others;
        let is_clean = self.consecutive() == 0
            && self.first.is_clean(now)
            && others.iter().all(|watched| watched.is_clean(now));
        match is_clean {
            true => Instant::ORIGIN,
            false => Instant::from_nanos(last_bad) + horizon,
        }
    }

    /// Forgets everything.
    pub(crate) fn clear(&self, now: Instant) {
        self.totals().consecutive.store(0, Ordering::Relaxed);
        self.totals().noted.store(0, Ordering::Relaxed);
        self.totals().last_bad.store(0, Ordering::Relaxed);
        self.first.clear(now);
        self.totals()
            .others
            .iter()
            .for_each(|watched| watched.clear(now));
    }

    /// Records what a snapshot counted, the good calls first.
    pub(crate) fn restore(&self, rules: &Rules, counts: Counts, consecutive: u64, now: Instant) {
        self.totals()
            .consecutive
            .store(consecutive, Ordering::Relaxed);
        if consecutive | counts.failures | counts.slow != 0 {
            self.totals()
                .last_bad
                .store(now.as_nanos().saturating_add(1), Ordering::Relaxed);
        }
        let both = counts.slow_failures;
        let bad = counts.failures.saturating_add(counts.slow);
        let calls = counts.calls.saturating_add(both);
        for (failed, slow, number) in [
            (false, false, calls.saturating_sub(bad)),
            (false, true, counts.slow.saturating_sub(both)),
            (true, false, counts.failures.saturating_sub(both)),
            (true, true, both),
        ] {
            let took = nanos(counts.took) / counts.calls.max(1);
            let sample = Sample::new(failed, slow, took);
            // Windows remember no more than this; numbers from a file could be anything.
            for _ in 0..number.min(counts.calls).min(1 << 20) {
                self.first.add(rules, sample, now);
                for watched in &self.totals().others {
                    watched.add(rules, sample, now);
                }
            }
        }
    }
}
