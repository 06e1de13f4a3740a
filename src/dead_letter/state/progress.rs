//! Progress of a replay, and the rules that stop it.

use std::fmt;
use std::time::Duration;

use super::letter::LetterId;
use crate::error::Reason;

/// The progress of a replay.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Progress {
    /// Letters that were replayed successfully, and removed.
    pub delivered: u64,
    /// Replays that failed. Their letters are kept.
    pub failed: u64,
    /// Letters parked by this replay: those whose last replay failed, and those that had no replay left.
    pub parked: u64,
    /// Replays that were rejected before they were executed.
    pub rejected: u64,
    /// Letters that could not be read as this type of request, among those that the filter asks for by number. They
    /// are kept.
    pub unreadable: u64,
    /// Letters being replayed now.
    pub in_flight: u32,
    /// The newest letter that was begun.
    pub last: Option<LetterId>,
}

/// The reason why a replay ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ReplayEnd {
    /// No letter is left.
    Finished,
    /// The requested number of letters was replayed.
    Limit,
    /// Too many replays failed in a row.
    ConsecutiveFailures,
    /// A policy rejected a replay because its circuit is open or isolated.
    CircuitOpen,
}

impl ReplayEnd {
    /// Returns the reason as an identifier for logs and metrics, such as `circuit_open`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Finished => "finished",
            Self::Limit => "limit",
            Self::ConsecutiveFailures => "consecutive_failures",
            Self::CircuitOpen => "circuit_open",
        }
    }
}

impl fmt::Display for ReplayEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// The result of one replay.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Attempted {
    Delivered,
    Failed(String),
    /// Rejected before it was executed.
    NotExecuted(Reason, Option<Duration>),
}

/// Counts replays and decides when to stop.
#[derive(Clone, Debug)]
pub(crate) struct RunState {
    pub(crate) progress: Progress,
    pub(crate) end: Option<ReplayEnd>,
    rules: Rules,
    begun: u64,
    failures_in_a_row: u32,
}

/// The rules for stopping a replay and for parking a letter.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rules {
    pub(crate) stop_after: u32,
    pub(crate) limit: u64,
    pub(crate) wait_for_circuit: bool,
    /// Replays of one letter, over all runs.
    pub(crate) max_replays: u32,
}

impl RunState {
    /// Wait after a rejection without a `retry_after`.
    const PAUSE: Duration = Duration::from_secs(1);

    pub(crate) fn new(rules: Rules) -> Self {
        Self {
            progress: Progress::default(),
            end: (rules.limit == 0).then_some(ReplayEnd::Limit),
            rules,
            begun: 0,
            failures_in_a_row: 0,
        }
    }

    /// Returns whether a letter with this many replays has none left.
    pub(crate) const fn is_spent(&self, replays: u32) -> bool {
        replays >= self.rules.max_replays
    }

    /// Counts a letter that is begun.
    pub(crate) fn begin(&mut self, id: LetterId) {
        self.progress.in_flight += 1;
        self.progress.last = self.progress.last.max(Some(id));
        self.begun += 1;
        if self.begun >= self.rules.limit {
            self.stop(ReplayEnd::Limit);
        }
    }

    /// Counts a letter parked because it had no replay left.
    pub(crate) fn park(&mut self) {
        self.progress.in_flight -= 1;
        self.progress.parked += 1;
    }

    /// Removes from the count a letter that was removed or parked before its replay began.
    pub(crate) fn vanish(&mut self) {
        self.progress.in_flight -= 1;
        self.uncount();
    }

    /// Takes a letter that was not replayed out of the count for the limit.
    fn uncount(&mut self) {
        self.begun -= 1;
        if self.end == Some(ReplayEnd::Limit) {
            self.end = None;
        }
    }

    /// Counts the end of a replay. Returns how long to wait before the next letter, if at all.
    pub(crate) fn finish(&mut self, attempted: &Attempted, parked: bool) -> Option<Duration> {
        self.progress.in_flight -= 1;
        match attempted {
            Attempted::Delivered => {
                self.progress.delivered += 1;
                self.failures_in_a_row = 0;
                return None;
            }
            Attempted::Failed(_) => {
                self.progress.failed += 1;
                self.progress.parked += u64::from(parked);
            }
            Attempted::NotExecuted(reason, after) => {
                self.progress.rejected += 1;
                // The letter will be begun again.
                self.uncount();
                if matches!(reason, Reason::CircuitOpen | Reason::Isolated) {
                    if self.rules.wait_for_circuit {
                        // An open circuit rejects all replays in flight. That is one failure of the dependency, not
                        // many.
                        return Some(after.unwrap_or(Self::PAUSE));
                    }
                    self.stop(ReplayEnd::CircuitOpen);
                }
            }
        }
        self.failures_in_a_row = self.failures_in_a_row.saturating_add(1);
        if self.failures_in_a_row >= self.rules.stop_after {
            self.stop(ReplayEnd::ConsecutiveFailures);
        }
        match attempted {
            Attempted::NotExecuted(_, after) => Some(after.unwrap_or(Self::PAUSE)),
            _ => None,
        }
    }

    /// Records why to stop. The first reason stays, unless it was only the limit.
    fn stop(&mut self, end: ReplayEnd) {
        if self.end.is_none_or(|old| old == ReplayEnd::Limit) {
            self.end = Some(end);
        }
    }
}
