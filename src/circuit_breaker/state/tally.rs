//! The windows that the rules look at.

use super::super::trip::{Span, TripKind};
use super::average::Average;
use super::rules::{Plan, Rule, Watch};
#[cfg(doc)]
use super::word;
use crate::instant::{Instant, nanos};
use crate::sync::{AtomicU64, Ordering};
use crate::window::{CountWindow, Counts, Pushed, Sample, TimeWindow};

/// What was counted since the circuit closed.
///
/// In cache lines of its own: who counts into it must not take the state's away from others.
#[derive(Debug)]
#[repr(align(64))]
pub(crate) struct Tally {
    consecutive: AtomicU64,
    /// As in the [`Plan`]; if there is none, it watches nothing.
    first: Watched,
    others: Box<[Watched]>,
    /// Rules already reported while nothing opens.
    noted: AtomicU64,
}

/// A window, of one kind or the other, or of none. Where the fast path looks is at the same place in
/// all of them.
#[derive(Debug)]
struct Watched {
    calls: CountWindow,
    time: Option<Box<TimeWindow>>,
    average: Average,
}

impl Watched {
    fn new(plan: &Plan, watch: &Watch) -> Self {
        let mut watched = Self::nothing();
        watched.average = Average::new(watch.span);
        match watch.span {
            Span::Calls(calls) => watched.calls = CountWindow::new(calls, plan.tracks),
            Span::Time(window) => {
                let aligned = !watch.from_first_call;
                let window = TimeWindow::new(window, watch.slices, aligned, plan.tracks);
                watched.time = Some(Box::new(window));
            }
        }
        watched
    }

    fn nothing() -> Self {
        Self {
            calls: CountWindow::nothing(),
            time: None,
            average: Average::new(Span::Calls(1)),
        }
    }

    fn counts(&self, now: Instant) -> Counts {
        match &self.time {
            Some(window) => window.counts(now),
            None => self.calls.counts(),
        }
    }
}

impl Tally {
    pub(crate) fn new(plan: &Plan) -> Self {
        Self {
            consecutive: AtomicU64::new(0),
            first: match &plan.first {
                Some(watch) => Watched::new(plan, watch),
                None => Watched::nothing(),
            },
            others: plan
                .others
                .iter()
                .map(|watch| Watched::new(plan, watch))
                .collect(),
            noted: AtomicU64::new(0),
        }
    }

    fn watched(&self) -> impl Iterator<Item = &Watched> {
        std::iter::once(&self.first).chain(&self.others)
    }

    /// Whether a good call would change nothing, where a plan without
    /// [`COUNTS_GOOD`](word::COUNTS_GOOD) is all there is to know. Costs two loads.
    #[inline]
    pub(crate) fn is_settled(&self) -> bool {
        // Relaxed, here and below: the numbers publish nothing else.
        self.consecutive.load(Ordering::Relaxed) | self.first.calls.unsettled() == 0
    }

    /// Counts a call, and gives the rules that hold after it, a bit for each.
    ///
    /// `now` is looked at only where the plan needs the clock.
    #[inline(always)]
    pub(crate) fn record(&self, plan: &Plan, sample: Sample, now: Instant) -> u64 {
        let mut held = 0;
        if let Some((limit, index)) = plan.consecutive {
            if sample.failed {
                let run = self.consecutive.fetch_add(1, Ordering::Relaxed) + 1;
                held |= u64::from(run >= limit) << index;
            } else {
                self.end_run();
            }
        }
        if let Some(watch) = &plan.first {
            held |= self.record_in(plan, (&self.first, watch), sample, now);
        }
        if !self.others.is_empty() {
            // Field by field: a sample in memory would have to be there for all the others too.
            held |= self.record_in_others(plan, sample.failed, sample.slow, sample.took, now);
        }
        held
    }

    /// As [`record`](Self::record), for a good call where the plan is without
    /// [`COUNTS_GOOD`](word::COUNTS_GOOD). What takes more is left to
    /// [`after_good`](Self::after_good).
    #[inline(always)]
    pub(crate) fn record_good(&self) -> Pushed {
        self.end_run();
        self.first.calls.push_good()
    }

    /// The rules that hold after a good call.
    pub(crate) fn after_good(&self, plan: &Plan, pushed: Pushed) -> u64 {
        let counts = self.first.calls.after_good(pushed);
        match (&plan.first, counts) {
            (Some(watch), Some(counts)) if counts.failures > 0 => {
                let watched = (&self.first, watch);
                self.held(plan, watched, false, false, &counts, Instant::ORIGIN)
            }
            _ => 0,
        }
    }

    /// As [`record`](Self::record), for a good and fast call where the plan
    /// [is of one window of time](Plan::is_of_one_time).
    #[inline(always)]
    pub(crate) fn record_good_in_time(&self, plan: &Plan, now: Instant) -> u64 {
        self.end_run();
        let (Some(window), Some(watch)) = (&self.first.time, &plan.first) else {
            return 0;
        };
        window.record_clean(now);
        if window.is_clean(now) {
            return 0;
        }
        self.held_in_time(plan, (&self.first, watch), false, false, now)
    }

    /// A call did not fail.
    #[inline(always)]
    fn end_run(&self) {
        if self.consecutive.load(Ordering::Relaxed) != 0 {
            // A failure that races with this may be lost: it counts as before the success.
            self.consecutive.store(0, Ordering::Relaxed);
        }
    }

    #[inline(never)]
    fn record_in_others(
        &self,
        plan: &Plan,
        failed: bool,
        slow: bool,
        took: u64,
        now: Instant,
    ) -> u64 {
        let others = self.others.iter().zip(&plan.others);
        let sample = Sample { took, failed, slow };
        others.fold(0, |held, watched| {
            held | self.record_in(plan, watched, sample, now)
        })
    }

    #[inline(always)]
    fn record_in(
        &self,
        plan: &Plan,
        (watched, watch): (&Watched, &Watch),
        sample: Sample,
        now: Instant,
    ) -> u64 {
        let Sample { failed, slow, .. } = sample;
        if let Some(window) = &watched.time {
            window.record(sample, now);
            if !watch.has_average && window.is_clean(now) {
                return 0;
            }
            return self.held_in_time(plan, (watched, watch), failed, slow, now);
        }
        let counts = if watch.has_average {
            watched.calls.record(sample)
        } else {
            match watched.calls.push(sample) {
                Some(counts) if counts.failures + counts.slow > 0 => counts,
                _ => return 0,
            }
        };
        self.held(plan, (watched, watch), failed, slow, &counts, now)
    }

    /// As [`held`](Self::held), where the window has to be summed up first.
    #[inline(never)]
    fn held_in_time(
        &self,
        plan: &Plan,
        watched: (&Watched, &Watch),
        failed: bool,
        slow: bool,
        now: Instant,
    ) -> u64 {
        let counts = watched.0.counts(now);
        self.held(plan, watched, failed, slow, &counts, now)
    }

    /// The rules that hold over a window that has these counts after a call.
    #[inline(never)]
    fn held(
        &self,
        plan: &Plan,
        (watched, watch): (&Watched, &Watch),
        failed: bool,
        slow: bool,
        counts: &Counts,
        now: Instant,
    ) -> u64 {
        let (mut average, mut is_ripe) = (1.0, false);
        if watch.has_average {
            average = watched.average.update(!failed, now);
            is_ripe = match watch.span {
                Span::Calls(calls) => counts.calls >= u64::from(calls),
                Span::Time(window) => {
                    let began = watched.average.began();
                    now.saturating_duration_since(began) >= window
                }
            };
        }
        if plan.failures_only && !failed && !slow {
            return 0;
        }
        let rate = |bad: u64| bad as f64 / counts.calls as f64;
        let enough = |rule: &Rule| counts.calls >= rule.min_calls.max(1);
        watch.rules.iter().fold(0, |held, rule| {
            let holds = match rule.kind {
                TripKind::Consecutive(_) => false,
                TripKind::Failures(k) => counts.failures >= u64::from(k),
                TripKind::FailureRate(limit) => enough(rule) && rate(counts.failures) >= limit,
                TripKind::SlowRate(limit) => enough(rule) && rate(counts.slow) >= limit,
                TripKind::SuccessAverage(limit) => enough(rule) && is_ripe && average < limit,
            };
            held | u64::from(holds) << rule.index
        })
    }

    /// The content of the first window.
    pub(crate) fn counts(&self, now: Instant) -> Counts {
        self.first.counts(now)
    }

    /// The share of calls that were bad in the way that this rule looks at.
    pub(crate) fn rate(&self, plan: &Plan, held: u64, now: Instant) -> f64 {
        let index = held.trailing_zeros() as usize;
        for (watched, watch) in self.watched().zip(plan.watches()) {
            let Some(rule) = watch.rules.iter().find(|rule| rule.index == index) else {
                continue;
            };
            let counts = watched.counts(now);
            let bad = match rule.kind {
                TripKind::SlowRate(_) => counts.slow,
                _ => counts.failures,
            };
            return bad as f64 / counts.calls.max(1) as f64;
        }
        1.0
    }

    /// How many calls failed in a row. Zero when no rule asks for it.
    pub(crate) fn consecutive(&self) -> u64 {
        self.consecutive.load(Ordering::Relaxed)
    }

    /// Those of the rules that are noted for the first time.
    pub(crate) fn note(&self, held: u64) -> u64 {
        held & !self.noted.fetch_or(held, Ordering::Relaxed)
    }

    /// Whether nothing bad is in it.
    pub(crate) fn is_clean(&self, now: Instant) -> bool {
        self.consecutive() == 0
            && self.watched().all(|watched| {
                let counts = watched.counts(now);
                counts.failures + counts.slow == 0 && watched.average.is_clean()
            })
    }

    /// Forgets everything.
    pub(crate) fn clear(&self, now: Instant) {
        self.consecutive.store(0, Ordering::Relaxed);
        self.noted.store(0, Ordering::Relaxed);
        for watched in self.watched() {
            watched.average.clear(now);
            watched.calls.clear();
            if let Some(window) = &watched.time {
                window.clear();
            }
        }
    }

    /// Counts what a snapshot counted, the good calls first.
    pub(crate) fn restore(&self, counts: Counts, consecutive: u64, now: Instant) {
        self.consecutive.store(consecutive, Ordering::Relaxed);
        let bad = |kind: &Sample| match (kind.failed, kind.slow) {
            (false, false) => {
                let bad = counts.failures.saturating_add(counts.slow);
                let calls = counts.calls.saturating_add(counts.slow_failures);
                calls.saturating_sub(bad)
            }
            (false, true) => counts.slow.saturating_sub(counts.slow_failures),
            (true, false) => counts.failures.saturating_sub(counts.slow_failures),
            (true, true) => counts.slow_failures,
        };
        // Windows remember no more than this; numbers from a file could be anything.
        let most = counts.calls.min(1 << 20);
        for failed in [false, true] {
            for slow in [false, true] {
                let sample = Sample {
                    failed,
                    slow,
                    took: nanos(counts.took) / counts.calls.max(1),
                };
                for _ in 0..bad(&sample).min(most) {
                    for watched in self.watched() {
                        match &watched.time {
                            Some(window) => window.record(sample, now),
                            None => drop(watched.calls.push(sample)),
                        }
                    }
                }
            }
        }
    }
}
