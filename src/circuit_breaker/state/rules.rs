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
    trips: Box<[Trip]>,
    /// The smallest number of consecutive failures that opens, and the index of its rule.
    pub(super) consecutive: Option<(u64, usize)>,
    pub(super) watches: Box<[Watch]>,
    /// Calls this long are slow, in nanoseconds.
    slow: Option<u64>,
    pub(super) durations: bool,
    /// Rules are evaluated only after calls that failed or were slow.
    pub(super) failures_only: bool,
    needs_clock: bool,
    horizon: Duration,
}

/// A window and the rules over it.
#[derive(Debug)]
pub(super) struct Watch {
    pub(super) span: Span,
    pub(super) slices: u32,
    pub(super) from_first_call: bool,
    /// Indices of the rules.
    rules: Vec<usize>,
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
                let n = u64::from(n);
                if consecutive.is_none_or(|(least, _)| n < least) {
                    consecutive = Some((n, index));
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
                    watch.rules.push(index);
                    watch.has_average |= has_average;
                }
                None => watches.push(Watch {
                    span,
                    slices: trip.slice_count(),
                    from_first_call: trip.from_first_call,
                    rules: vec![index],
                    has_average,
                }),
            }
        }
        let is_timed = |watch: &Watch| matches!(watch.span, Span::Time(_));
        Self {
            needs_clock: slow.is_some() || durations || watches.iter().any(is_timed),
            trips: trips.into(),
            consecutive,
            watches: watches.into(),
            slow: slow.map(nanos),
            durations,
            failures_only,
            horizon,
        }
    }

    /// The rules over a window, with their indices.
    pub(super) fn of(&self, watch: &Watch) -> impl Iterator<Item = (usize, &Trip)> {
        watch.rules.iter().map(|&index| (index, &self.trips[index]))
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
        self.trips[held.trailing_zeros() as usize].cause()
    }

    pub(super) const fn tracks_slow(&self) -> bool {
        self.slow.is_some()
    }

    pub(crate) const fn tracks_durations(&self) -> bool {
        self.durations
    }

    /// The sample of a call that took this long, in nanoseconds.
    #[inline]
    pub(crate) fn sample(&self, failed: bool, took: u64) -> Sample {
        let slow = self.slow.is_some_and(|slow| took >= slow);
        Sample::new(failed, slow, took)
    }

    /// The least number of calls that the first rule over a window needs.
    pub(crate) fn min_calls(&self) -> u64 {
        let mut windowed = self.watches.iter().flat_map(|watch| self.of(watch));
        windowed
            .find(|(_, trip)| !matches!(trip.kind, TripKind::Failures(_)))
            .map_or(1, |(_, trip)| trip.least_calls())
    }

    /// How long after its last failure a breaker without calls still differs from a new one.
    pub(crate) const fn horizon(&self) -> Duration {
        self.horizon
    }
}
