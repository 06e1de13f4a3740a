//! The rules that open a circuit, over the windows they look at.

use std::time::Duration;

use super::super::trip::{Span, Trip, TripKind};
use super::word;
use crate::event::Cause;
use crate::instant::nanos;
use crate::window::{Sample, Tracks};

/// The rules, as they are looked at: by window.
#[derive(Debug)]
pub(crate) struct Plan {
    causes: Vec<Cause>,
    /// The smallest number of consecutive failures that opens, and its rule.
    pub(super) consecutive: Option<(u64, usize)>,
    /// What is watched; apart from the others what most breakers watch, and nothing beside it.
    pub(super) first: Option<Watch>,
    pub(super) others: Vec<Watch>,
    pub(super) tracks: Tracks,
    pub(super) failures_only: bool,
    /// Calls this long are slow, in nanoseconds.
    slow: u64,
    needs_clock: bool,
    is_of_one_time: bool,
}

/// A window and the rules over it.
#[derive(Debug)]
pub(super) struct Watch {
    pub(super) span: Span,
    pub(super) slices: u32,
    pub(super) from_first_call: bool,
    pub(super) rules: Vec<Rule>,
    pub(super) has_average: bool,
}

#[derive(Debug)]
pub(super) struct Rule {
    /// Its place in the order the rules were given.
    pub(super) index: usize,
    pub(super) kind: TripKind,
    pub(super) min_calls: u64,
}

impl Plan {
    /// How many slices a window of time has by default.
    pub(crate) const SLICES: u32 = 10;
    const MIN_CALLS: u32 = 20;

    /// The rules must have been checked.
    pub(crate) fn new(
        trips: &[Trip],
        slow: Option<Duration>,
        durations: bool,
        failures_only: bool,
    ) -> Self {
        let mut plan = Self {
            causes: trips.iter().map(|trip| cause(trip.kind)).collect(),
            consecutive: None,
            first: None,
            others: Vec::new(),
            tracks: Tracks {
                slow: slow.is_some(),
                durations,
            },
            failures_only,
            slow: slow.map_or(u64::MAX, nanos),
            needs_clock: slow.is_some() || durations,
            is_of_one_time: false,
        };
        for (index, trip) in trips.iter().enumerate() {
            plan.add(index, trip);
        }
        plan.is_of_one_time = !durations
            && plan.others.is_empty()
            && plan
                .first
                .as_ref()
                .is_some_and(|watch| matches!(watch.span, Span::Time(_)) && !watch.has_average);
        plan
    }

    pub(super) fn watches(&self) -> impl Iterator<Item = &Watch> {
        self.first.iter().chain(&self.others)
    }

    fn add(&mut self, index: usize, trip: &Trip) {
        let span = match (trip.kind, trip.span) {
            (TripKind::Consecutive(n), _) => {
                let n = u64::from(n);
                if self.consecutive.is_none_or(|(least, _)| n < least) {
                    self.consecutive = Some((n, index));
                }
                return;
            }
            (_, Some(span)) => span,
            (_, None) => return,
        };
        let slices = trip.slices.unwrap_or(Self::SLICES);
        self.needs_clock |= matches!(span, Span::Time(_));
        let preset = match span {
            Span::Calls(calls) => Self::MIN_CALLS.min(calls),
            Span::Time(_) => Self::MIN_CALLS,
        };
        let rule = Rule {
            index,
            kind: trip.kind,
            min_calls: u64::from(trip.min_calls.unwrap_or(preset)),
        };
        let has_average = matches!(trip.kind, TripKind::SuccessAverage(_));
        let mut watches = self.first.iter_mut().chain(&mut self.others);
        let same = watches.find(|watch| {
            (watch.span, watch.slices, watch.from_first_call)
                == (span, slices, trip.from_first_call)
        });
        if let Some(watch) = same {
            watch.rules.push(rule);
            watch.has_average |= has_average;
            return;
        }
        let watch = Watch {
            span,
            slices,
            from_first_call: trip.from_first_call,
            rules: vec![rule],
            has_average,
        };
        match self.first {
            None => self.first = Some(watch),
            Some(_) => self.others.push(watch),
        }
    }

    /// Whether calls must be timed.
    #[inline]
    pub(crate) const fn needs_clock(&self) -> bool {
        self.needs_clock
    }

    /// Whether one window of time is all that calls are counted in, a run of failures apart.
    #[inline]
    pub(crate) const fn is_of_one_time(&self) -> bool {
        self.is_of_one_time
    }

    /// What the fast path has to know of the rules, as bits of the [`word`].
    pub(crate) fn flags(&self) -> u64 {
        let mut flags = 0;
        if self.needs_clock {
            flags |= word::TIMED;
        }
        // Good calls need not be counted where there is nothing to push out, nothing is timed or
        // averaged, and a few loads tell.
        let is_simple = self.first.as_ref().is_none_or(|watch| !watch.has_average);
        if self.needs_clock || !is_simple || !self.others.is_empty() {
            flags |= word::COUNTS_GOOD;
        }
        flags
    }

    /// Why the first of these rules opens.
    pub(crate) fn cause(&self, held: u64) -> Cause {
        self.causes[held.trailing_zeros() as usize]
    }

    /// What a call was that took this long, in nanoseconds.
    #[inline]
    pub(crate) const fn sample(&self, failed: bool, took: u64) -> Sample {
        Sample {
            failed,
            slow: self.tracks.slow && took >= self.slow,
            took,
        }
    }

    /// Returns how far back the rules look: an hour for those that count calls, which have no window of
    /// time.
    pub(crate) fn horizon(&self) -> Duration {
        const OF_CALLS: Duration = Duration::from_secs(3600);
        let spans = self.watches().map(|watch| match watch.span {
            Span::Time(span) => span,
            Span::Calls(_) => OF_CALLS,
        });
        let of_run = self.consecutive.map(|_| OF_CALLS);
        spans.chain(of_run).max().unwrap_or(OF_CALLS)
    }

    pub(crate) const fn tracks_durations(&self) -> bool {
        self.tracks.durations
    }

    /// The least number of calls that the first rule over a rate needs.
    pub(crate) fn min_calls(&self) -> u64 {
        let rules = self.watches().flat_map(|watch| &watch.rules);
        rules
            .filter(|rule| !matches!(rule.kind, TripKind::Failures(_)))
            .map(|rule| rule.min_calls)
            .next()
            .unwrap_or(1)
    }
}

const fn cause(kind: TripKind) -> Cause {
    match kind {
        TripKind::Consecutive(_) => Cause::ConsecutiveFailures,
        TripKind::Failures(_) => Cause::Failures,
        TripKind::FailureRate(_) => Cause::FailureRate,
        TripKind::SlowRate(_) => Cause::SlowRate,
        TripKind::SuccessAverage(_) => Cause::SuccessAverage,
    }
}
