//! The rules that open a circuit, grouped by their windows.

use std::time::Duration;

use super::trip_rule::{Span, Trip, TripKind};
use crate::event::Cause;
use crate::instant::nanos;
use crate::window::Sample;

/// Validated rules, grouped by window, and the measurements that they need.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Rules {
    all: Box<[Rule]>,
    /// The smallest number of consecutive failures that opens, and the index of its rule.
    pub(super) consecutive: Option<(u32, u8)>,
    pub(super) windows: Box<[WindowRules]>,
    /// The duration from which a call is slow, in nanoseconds; zero if none is.
    slow: u64,
    pub(super) durations: bool,
    /// Whether rules are evaluated only after calls that failed or were slow.
    pub(super) failures_only: bool,
    needs_clock: bool,
    /// See [`horizon`](Self::horizon); in nanoseconds.
    horizon: u64,
}

/// A rule without its window.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Rule {
    pub(super) kind: TripKind,
    pub(super) min_calls: u32,
}

/// A window and the rules over it.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct WindowRules {
    pub(super) span: Span,
    pub(super) slices: u32,
    pub(super) from_first_call: bool,
    /// A bit for the index of each rule.
    rules: u32,
    pub(super) has_average: bool,
}

impl Rules {
    /// Time for which an idle breaker keeps failures in a window without a duration, such as the last 100 calls.
    const CALLS_HORIZON: Duration = Duration::from_secs(3600);

    /// Groups validated rules.
    pub(crate) fn new(
        trips: Vec<Trip>,
        slow: Option<Duration>,
        durations: bool,
        failures_only: bool,
    ) -> Self {
        let mut consecutive = None;
        let mut windows: Vec<WindowRules> = Vec::new();
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
            let same = windows
                .iter_mut()
                .find(|window| (window.span, window.slices, window.from_first_call) == key);
            match same {
                Some(window) => {
                    window.rules |= 1 << index;
                    window.has_average |= has_average;
                }
                None => windows.push(WindowRules {
                    span,
                    slices: trip.slice_count(),
                    from_first_call: trip.from_first_call,
                    rules: 1 << index,
                    has_average,
                }),
            }
        }
        let is_timed = |window: &WindowRules| matches!(window.span, Span::Time(_));
        Self {
            needs_clock: slow.is_some() || durations || windows.iter().any(is_timed),
            all: trips.into_iter().map(Rule::new).collect(),
            consecutive,
            windows: windows.into(),
            slow: slow.map_or(0, nanos),
            durations,
            failures_only,
            horizon: nanos(horizon),
        }
    }

    /// Returns whether windows that were made for `other` fit these rules.
    pub(crate) fn fit_windows_of(&self, other: &Self) -> bool {
        let shape = |window: &WindowRules| {
            let slices = (window.slices, window.from_first_call);
            (window.span, slices, window.has_average)
        };
        (self.durations, self.tracks_slow()) == (other.durations, other.tracks_slow())
            && self
                .windows
                .iter()
                .map(shape)
                .eq(other.windows.iter().map(shape))
    }

    /// Returns the rules over a window, with their indices.
    pub(super) fn of(&self, window: &WindowRules) -> impl Iterator<Item = (usize, &Rule)> {
        let mut left = window.rules;
        std::iter::from_fn(move || {
            let index = left.trailing_zeros() as usize;
            left &= left.wrapping_sub(1);
            Some((index, self.all.get(index)?))
        })
    }

    /// Returns whether calls must be timed.
    #[inline]
    pub(crate) const fn needs_clock(&self) -> bool {
        self.needs_clock
    }

    /// Returns the cause for the first of the matched rules.
    pub(crate) fn cause(&self, matched: u64) -> Cause {
        self.all[matched.trailing_zeros() as usize].kind.cause()
    }

    pub(super) const fn tracks_slow(&self) -> bool {
        self.slow > 0
    }

    pub(crate) const fn tracks_durations(&self) -> bool {
        self.durations
    }

    /// Returns the sample of a call with this duration in nanoseconds.
    #[inline]
    pub(crate) fn sample(&self, failed: bool, duration: u64) -> Sample {
        let slow = self.slow > 0 && duration >= self.slow;
        Sample::new(failed, slow, duration)
    }

    /// Returns whether a rule has a window, which counts all calls.
    pub(crate) const fn has_window(&self) -> bool {
        !self.windows.is_empty()
    }

    /// Returns the `min_calls` of the first rule over a window.
    pub(crate) fn min_calls(&self) -> u64 {
        let mut windowed = self.windows.iter().flat_map(|window| self.of(window));
        windowed
            .find(|(_, rule)| !matches!(rule.kind, TripKind::Failures(_)))
            .map_or(1, |(_, rule)| u64::from(rule.min_calls))
    }

    /// Returns how long after its last failure an idle breaker differs from a new one.
    pub(crate) const fn horizon(&self) -> Duration {
        Duration::from_nanos(self.horizon)
    }
}

impl Rule {
    fn new(trip: Trip) -> Self {
        Self {
            min_calls: trip.min_calls_or_default(),
            kind: trip.kind,
        }
    }
}
