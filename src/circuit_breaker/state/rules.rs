//! The rules that open a circuit, grouped by the windows they look at.

use std::time::Duration;

use super::trip::{Span, Trip, TripKind};
use super::word;
use crate::event::Cause;
use crate::instant::nanos;
use crate::window::Sample;

/// Checked rules, and what has to be measured for them.
#[derive(Debug)]
pub(crate) struct Rules {
    all: Box<[Rule]>,
    /// The smallest number of consecutive failures that opens, and the index of its rule.
    pub(super) consecutive: Option<(u32, u8)>,
    pub(super) watches: Box<[Watch]>,
    /// Calls this long are slow, in nanoseconds. Zero if none are.
    slow: u64,
    pub(super) durations: bool,
    /// Rules are evaluated only after calls that failed or were slow.
    pub(super) failures_only: bool,
    needs_clock: bool,
    /// In nanoseconds.
    horizon: u64,
}

/// A rule without its window.
#[derive(Debug)]
pub(super) struct Rule {
    pub(super) kind: TripKind,
    /// The number of calls that the window needs before the rule says anything.
    pub(super) least_calls: u32,
}

/// A window and the rules over it.
#[derive(Debug)]
pub(super) struct Watch {
    pub(super) span: Span,
    pub(super) slices: u32,
    pub(super) from_first_call: bool,
    /// The indices of the rules, a bit for each.
    rules: u32,
    pub(super) has_average: bool,
}

impl Rules {
    /// How long failures in a window without a duration, such as the last 100 calls, are
    /// remembered by a breaker that gets no calls.
    const CALLS_HORIZON: Duration = Duration::from_secs(3600);

    /// Groups rules that have been checked.
    pub(crate) fn new(
        trips: Vec<Trip>,
        slow: Option<Duration>,
        durations: bool,
        failures_only: bool,
    ) -> Self {
        let mut consecutive = None;
        let mut watches: Vec<Watch> = Vec::new();
        let mut horizon = Duration::ZERO;
        for (index, trip) in trips.iter().enumerate() {
            if let TripKind::Consecutive(n) = trip.kind {
                if consecutive.is_none_or(|(least, _)| n < least) {
                    consecutive = Some((n, index as u8));
                }
            }
            horizon = horizon.max(match trip.span() {
                Some(Span::Time(window)) => window,
                _ => Self::CALLS_HORIZON,
            });
            let Some(span) = trip.span() else { continue };
            let key = (span, trip.slice_count(), trip.from_first_call);
            let has_average = matches!(trip.kind, TripKind::SuccessAverage(_));
            let same = watches
                .iter_mut()
                .find(|watch| (watch.span, watch.slices, watch.from_first_call) == key);
            match same {
                Some(watch) => {
                    watch.rules |= 1 << index;
                    watch.has_average |= has_average;
                }
                None => watches.push(Watch {
                    span,
                    slices: trip.slice_count(),
                    from_first_call: trip.from_first_call,
                    rules: 1 << index,
                    has_average,
                }),
            }
        }
        let is_timed = |watch: &Watch| matches!(watch.span, Span::Time(_));
        Self {
            needs_clock: slow.is_some() || durations || watches.iter().any(is_timed),
            all: trips.into_iter().map(Rule::new).collect(),
            consecutive,
            watches: watches.into(),
            slow: slow.map_or(0, nanos),
            durations,
            failures_only,
            horizon: nanos(horizon),
        }
    }

    /// The rules over a window, with their indices.
    pub(super) fn of(&self, watch: &Watch) -> impl Iterator<Item = (usize, &Rule)> {
        let mut left = watch.rules;
        std::iter::from_fn(move || {
            let index = left.trailing_zeros() as usize;
            left &= left.wrapping_sub(1);
            Some((index, self.all.get(index)?))
        })
    }

    /// Whether the end of calls must be timed.
    #[inline]
    pub(crate) const fn needs_clock(&self) -> bool {
        self.needs_clock
    }

    /// The bits of the [`word`] that the rules set.
    pub(crate) const fn flags(&self) -> u64 {
        if self.needs_clock { word::TIMED } else { 0 }
    }

    /// The cause of an opening by the first of these rules.
    pub(crate) fn cause(&self, held: u64) -> Cause {
        self.all[held.trailing_zeros() as usize].kind.cause()
    }

    pub(super) const fn tracks_slow(&self) -> bool {
        self.slow > 0
    }

    pub(crate) const fn tracks_durations(&self) -> bool {
        self.durations
    }

    /// The sample of a call that took this long, in nanoseconds.
    #[inline]
    pub(crate) fn sample(&self, failed: bool, took: u64) -> Sample {
        let slow = self.slow > 0 && took >= self.slow;
        Sample::new(failed, slow, took)
    }

    /// The least number of calls that the first rule over a window needs.
    pub(crate) fn min_calls(&self) -> u64 {
        let mut windowed = self.watches.iter().flat_map(|watch| self.of(watch));
        windowed
            .find(|(_, rule)| !matches!(rule.kind, TripKind::Failures(_)))
            .map_or(1, |(_, rule)| u64::from(rule.least_calls))
    }

    /// How long after its last failure a breaker without calls still differs from a new one.
    pub(crate) const fn horizon(&self) -> Duration {
        Duration::from_nanos(self.horizon)
    }
}

impl Rule {
    fn new(trip: Trip) -> Self {
        Self {
            least_calls: trip.least_calls(),
            kind: trip.kind,
        }
    }
}
