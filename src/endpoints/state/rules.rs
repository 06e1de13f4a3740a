//! The rules of ejections.

use std::time::Duration;

use super::slow_start::SlowStart;
use crate::instant::nanos;

/// The most candidates that one pick compares.
pub(crate) const MAX_CHOICES: usize = 16;

/// The rule that picks a node for calls without a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Strategy {
    /// The best of this many random nodes.
    LeastLoaded(usize),
    /// Each node in turn.
    RoundRobin,
}

/// The rules of a set of endpoints.
#[derive(Clone, Debug)]
pub(crate) struct Rules {
    /// Failures in a row.
    pub(crate) consecutive: Option<u32>,
    pub(crate) success_rate: Option<SuccessRate>,
    pub(crate) failure_share: Option<FailureShare>,
    pub(crate) interval: Duration,
    pub(crate) base_ejection: Duration,
    pub(crate) max_ejection: Duration,
    /// The largest addition to an ejection, as a share of it.
    pub(crate) jitter: f64,
    /// The largest share of nodes that may be ejected at once.
    pub(crate) max_ejected: f64,
    /// Whether ejections are only reported, but not enforced.
    pub(crate) shadow: bool,
    pub(crate) overprovisioning: f64,
    /// Zero: never.
    pub(crate) panic_threshold: f64,
    pub(crate) slow_start: SlowStart,
    /// Failed checks in a row.
    pub(crate) unhealthy_after: u32,
    /// Good checks in a row.
    pub(crate) healthy_after: u32,
}

/// Ejects nodes whose success rate is far below that of the others.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SuccessRate {
    /// Number of standard deviations below the mean.
    pub(crate) deviations: f64,
    /// Minimum number of calls in the interval of a node that is compared.
    pub(crate) min_calls: u64,
    /// Minimum number of such nodes for a comparison.
    pub(crate) min_nodes: usize,
}

/// Ejects nodes that fail this share of their calls.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FailureShare {
    pub(crate) share: f64,
    pub(crate) min_calls: u64,
}

impl Rules {
    pub(crate) const DEFAULT: Self = Self {
        consecutive: Some(5),
        success_rate: Some(SuccessRate {
            deviations: 1.9,
            min_calls: 100,
            min_nodes: 5,
        }),
        failure_share: Some(FailureShare {
            share: 0.85,
            min_calls: 50,
        }),
        interval: Duration::from_secs(10),
        base_ejection: Duration::from_secs(30),
        max_ejection: Duration::from_secs(300),
        jitter: 0.1,
        max_ejected: 0.1,
        shadow: false,
        overprovisioning: 1.4,
        panic_threshold: 0.5,
        slow_start: SlowStart::new(Duration::from_secs(30), 0.1, 1.0),
        unhealthy_after: 3,
        healthy_after: 1,
    };

    /// Returns the length of the ejection number `times` in a row, in nanoseconds, without jitter:
    /// `min(base × times, max)`.
    pub(crate) fn ejection(&self, times: u32) -> u64 {
        let length = nanos(self.base_ejection).saturating_mul(u64::from(times));
        length.min(nanos(self.max_ejection))
    }

    /// Returns how many of `members` nodes may be ejected at once: at least one, unless the share is zero.
    pub(crate) fn max_ejected(&self, members: usize) -> usize {
        let max = (self.max_ejected * members as f64) as usize;
        max.max(usize::from(self.max_ejected > 0.0))
    }
}
