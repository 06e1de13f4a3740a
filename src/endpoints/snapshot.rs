//! Snapshots of a set of endpoints.

use std::sync::Arc;
use std::time::Duration;

use super::Endpoints;
use super::state::health::Machine;
use super::state::record::{Record, Standing};
use super::state::routes::Routes;
use crate::instant::Instant;
use crate::sync::Ordering;

/// A snapshot of a set of endpoints. Returned by [`Endpoints::snapshot`].
#[cfg_attr(feature = "config", derive(serde::Serialize, serde::Deserialize))]
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Snapshot {
    /// The name of the set.
    #[cfg_attr(feature = "config", serde(deserialize_with = "crate::forms::name"))]
    pub name: &'static std::primitive::str,
    /// The nodes, in the order of their names. Removed nodes are included while they have calls in flight.
    pub nodes: Vec<NodeSnapshot>,
    /// The priorities, the most preferred one first.
    pub priorities: Vec<PrioritySnapshot>,
    /// Calls rejected because no node was available.
    pub rejected: u64,
}

/// A snapshot of a node.
#[cfg_attr(feature = "config", derive(serde::Serialize, serde::Deserialize))]
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct NodeSnapshot {
    /// The name of the node.
    #[cfg_attr(feature = "config", serde(with = "crate::forms::shared_text"))]
    pub name: Arc<str>,
    /// The weight of the node, relative to the others of its priority.
    pub weight: f64,
    /// The priority of the node: 0 is used first.
    pub priority: u32,
    /// Whether it takes calls, and if not, why.
    pub state: NodeState,
    /// Calls in flight.
    pub in_flight: u32,
    /// The moving average of its latency; `None` before the first call has ended.
    #[cfg_attr(
        feature = "config",
        serde(default, with = "crate::forms::optional_duration")
    )]
    pub latency: Option<Duration>,
    /// Calls that ended, healthy or not. Those that were cancelled are not counted.
    pub calls: u64,
    /// Calls of `calls` that failed.
    pub failures: u64,
    /// Number of ejections, less one for each healthy interval.
    pub ejections: u32,
    /// Time until it takes calls again; `None` if it takes calls, or if that is not known.
    #[cfg_attr(
        feature = "config",
        serde(default, with = "crate::forms::optional_duration")
    )]
    pub retry_after: Option<Duration>,
}

/// A snapshot of the nodes of a priority.
///
/// It has no name, because it is part of a [`Snapshot`], which has that of the set.
#[cfg_attr(feature = "config", derive(serde::Serialize, serde::Deserialize))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PrioritySnapshot {
    /// The priority.
    pub priority: u32,
    /// The share of calls that it gets, in percent.
    pub percent: u32,
    /// Whether calls go to all of its nodes because too few are available.
    pub panics: bool,
}

/// Whether a node takes calls.
#[cfg_attr(feature = "config", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "config", serde(rename_all = "snake_case"))]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum NodeState {
    /// The node takes calls.
    Available,
    /// It is new or has returned, and takes fewer calls than its share.
    Starting,
    /// The node is ejected.
    Ejected,
    /// The ejection is over: the next call is the probe that decides.
    Returning,
    /// The node asked for a pause.
    Parked,
    /// Health checks of the node fail.
    Unhealthy,
    /// The node is drained, or was removed and still has calls in flight.
    Draining,
}

impl NodeState {
    /// Returns the state as an identifier for logs and metrics, such as `ejected`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Available => "available",
            Self::Starting => "starting",
            Self::Ejected => "ejected",
            Self::Returning => "returning",
            Self::Parked => "parked",
            Self::Unhealthy => "unhealthy",
            Self::Draining => "draining",
        }
    }

    fn of(record: &Record, machine: &Machine, now: Instant) -> Self {
        match record.standing {
            _ if !record.is_member() => Self::Draining,
            _ if record.is_unhealthy => Self::Unhealthy,
            Standing::Ejected { .. } => Self::Ejected,
            _ if record.parked_until > now => Self::Parked,
            Standing::Returning => Self::Returning,
            Standing::Admitted if machine.is_starting(record, now) => Self::Starting,
            Standing::Admitted => Self::Available,
        }
    }
}

impl std::fmt::Display for NodeState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.as_str())
    }
}

impl<N> Endpoints<N> {
    /// Returns a consistent reading of the set. Changes nothing: an ejection that is over ends with the next
    /// call.
    pub fn snapshot(&self) -> Snapshot {
        let inner = &*self.inner;
        let now = inner.base.clock.now();
        let (mut nodes, routes) = {
            let core = inner.core();
            let nodes = core.machine.iter().filter_map(|(index, record)| {
                let member = core.member(index)?;
                let until = record.barred_until();
                let totals = record.totals();
                let latency = record.stats.latency.at(now, inner.settings.decay);
                Some(NodeSnapshot {
                    name: member.name.clone(),
                    weight: record.weight,
                    priority: record.priority,
                    state: NodeState::of(record, &core.machine, now),
                    in_flight: record.stats.in_flight(),
                    latency: latency.map(|nanos| Duration::from_nanos(nanos as u64)),
                    calls: totals.calls(),
                    failures: totals.failed,
                    ejections: record.times,
                    retry_after: (until > now).then(|| until.saturating_duration_since(now)),
                })
            });
            (nodes.collect::<Vec<_>>(), Routes::new(&core.machine, now))
        };
        nodes.sort_by(|a, b| a.name.cmp(&b.name));
        let priorities = routes.tiers.iter().map(|tier| PrioritySnapshot {
            priority: tier.priority,
            percent: tier.share.percent,
            panics: tier.share.panics,
        });
        Snapshot {
            name: inner.base.name,
            nodes,
            priorities: priorities.collect(),
            rejected: inner.rejected.load(Ordering::Relaxed),
        }
    }
}
