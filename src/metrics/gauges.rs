//! Gauges and totals from snapshots.

use std::hash::Hash;

use super::table::{
    BUDGET_RATIO, CIRCUIT_STATE, DEAD_LETTERS, ENDPOINTS, IN_FLIGHT, KEYS, LEASE_TRIPS, LIMIT,
    QUEUE_DEPTH, SHED_LEVEL, STORE_UP, THROTTLE_RATIO, TOKENS,
};
use crate::bulkhead::{self, Bulkhead};
use crate::circuit_breaker::{self, CircuitBreaker, State};
use crate::circuit_votes::CircuitVotes;
use crate::coalesce::Coalesce;
use crate::dead_letter::DeadLetterQueue;
use crate::endpoints::{Endpoints, NodeState};
use crate::hedge::Hedge;
use crate::keyed::Keyed;
use crate::load_shedder::LoadShedder;
use crate::rate_limiter::{self, KeyedRateLimiter, RateLimiter};
use crate::retry_budget::{self, RetryBudget};
use crate::shared_bulkhead::SharedBulkhead;
use crate::shared_rate_limiter::{SharedKeyedRateLimiter, SharedRateLimiter};
use crate::standard::Standard;
use crate::throttle::Throttle;

/// A value of a gauge, or of a counter kept by the handle.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Reading {
    /// The name of the metric.
    pub metric: &'static str,
    /// The label `policy`.
    pub policy: &'static str,
    /// A further label and its value.
    pub label: Option<(&'static str, &'static str)>,
    /// The value.
    pub value: f64,
}

impl Reading {
    const fn new(metric: &'static str, policy: &'static str, value: f64) -> Self {
        Self {
            metric,
            policy,
            label: None,
            value,
        }
    }

    const fn of_state(mut self, state: &'static str) -> Self {
        self.label = Some(("state", state));
        self
    }
}

/// A handle whose snapshot has gauges or totals, for [`Metrics::watch`](super::Metrics::watch).
pub trait Gauges: Send + Sync {
    /// Takes a snapshot and returns the values in it.
    fn readings(&self) -> Vec<Reading>;
}

/// Implements [`Gauges`] for handles, by their snapshots.
macro_rules! gauges {
    ($([$($generics:tt)*] $handle:ty, $snapshot:ident => $readings:expr;)+) => {$(
        impl<$($generics)*> Gauges for $handle {
            fn readings(&self) -> Vec<Reading> {
                let $snapshot = self.snapshot();
                $readings
            }
        }
    )+};
}

gauges! {
    [] CircuitBreaker, it => of_breaker(&it);
    [] Bulkhead, it => of_bulkhead(&it);
    [] RateLimiter, it => of_limiter(&it);
    [] RetryBudget, it => of_budget(&it);
    [K: Send + Sync] KeyedRateLimiter<K>, it => vec![
        Reading::new(KEYS, it.name, it.keys as f64),
        Reading::new(QUEUE_DEPTH, it.name, it.waiting as f64),
    ];
    [K: Send + Sync, P: Send + Sync] Keyed<K, P>, it => vec![
        Reading::new(KEYS, it.name, it.keys as f64),
    ];
    [] LoadShedder, it => vec![Reading::new(SHED_LEVEL, it.name, it.shed_rate)];
    [] Throttle, it => vec![
        Reading::new(THROTTLE_RATIO, it.name, it.rejection_probability),
        Reading::new(IN_FLIGHT, it.name, it.in_flight as f64),
    ];
    [] Hedge, it => vec![Reading::new(IN_FLIGHT, it.name, it.in_flight as f64)];
    [] Standard, it => {
        let mut readings = it.breaker.iter().flat_map(of_breaker).collect::<Vec<_>>();
        readings.extend(it.limiter.iter().flat_map(of_limiter));
        let budget = it.budget.iter().flat_map(of_budget);
        // A budget that other policies share has a name of its own; here it is the budget of this stack.
        readings.extend(budget.map(|reading| Reading {
            policy: it.name,
            ..reading
        }));
        readings
    };
    [N: Send + Sync] Endpoints<N>, it => NODE_STATES
        .iter()
        .map(|&state| {
            let nodes = it.nodes.iter().filter(|node| node.state == state).count();
            Reading::new(ENDPOINTS, it.name, nodes as f64).of_state(state.as_str())
        })
        .collect();
    [R: Send + Sync + 'static] DeadLetterQueue<R>, it => vec![
        Reading::new(DEAD_LETTERS, it.name, it.letters as f64),
    ];
    [K: Send + Sync, T: Send + Sync, E: Send + Sync] Coalesce<K, T, E>, it => vec![
        Reading::new(IN_FLIGHT, it.name, it.flights as f64),
        Reading::new(QUEUE_DEPTH, it.name, it.waiting as f64),
    ];
    [] SharedRateLimiter, it => {
        let mut readings = of_store(it.name, it.store_up, it.trips);
        readings.extend([
            Reading::new(TOKENS, it.name, it.held as f64),
            Reading::new(LIMIT, it.name, it.quota.limit() as f64),
            Reading::new(QUEUE_DEPTH, it.name, it.waiting as f64),
        ]);
        readings
    };
    [K: Hash + Eq + Send + Sync] SharedKeyedRateLimiter<K>, it => {
        let mut readings = of_store(it.name, it.store_up, it.trips);
        readings.push(Reading::new(KEYS, it.name, it.keys as f64));
        readings
    };
    [] SharedBulkhead, it => {
        let mut readings = of_store(it.name, it.store_up, it.trips);
        readings.extend([
            Reading::new(IN_FLIGHT, it.name, it.in_flight as f64),
            Reading::new(LIMIT, it.name, it.limit as f64),
            Reading::new(QUEUE_DEPTH, it.name, it.waiting as f64),
        ]);
        readings
    };
    [] CircuitVotes, it => vec![of_store_up(it.name, it.store_up)];
}

const STATES: [State; 6] = [
    State::Closed,
    State::Open,
    State::HalfOpen,
    State::Isolated,
    State::Disabled,
    State::MetricsOnly,
];

const NODE_STATES: [NodeState; 7] = [
    NodeState::Available,
    NodeState::Starting,
    NodeState::Ejected,
    NodeState::Returning,
    NodeState::Parked,
    NodeState::Unhealthy,
    NodeState::Draining,
];

fn of_breaker(it: &circuit_breaker::Snapshot) -> Vec<Reading> {
    let of = |state: State| {
        let value = f64::from(u8::from(state == it.state));
        Reading::new(CIRCUIT_STATE, it.name, value).of_state(state.as_str())
    };
    STATES.into_iter().map(of).collect()
}

fn of_bulkhead(it: &bulkhead::Snapshot) -> Vec<Reading> {
    vec![
        Reading::new(IN_FLIGHT, it.name, it.in_flight.into()),
        Reading::new(LIMIT, it.name, it.limit.into()),
        Reading::new(QUEUE_DEPTH, it.name, it.waiting as f64),
    ]
}

fn of_limiter(it: &rate_limiter::Snapshot) -> Vec<Reading> {
    let tightest = it.quotas.iter().map(|quota| quota.limit()).min();
    vec![
        Reading::new(TOKENS, it.name, it.remaining as f64),
        Reading::new(LIMIT, it.name, tightest.unwrap_or_default() as f64),
        Reading::new(QUEUE_DEPTH, it.name, it.waiting as f64),
    ]
}

fn of_store_up(name: &'static str, is_up: bool) -> Reading {
    Reading::new(STORE_UP, name, f64::from(u8::from(is_up)))
}

fn of_store(name: &'static str, is_up: bool, trips: u64) -> Vec<Reading> {
    let trips = Reading::new(LEASE_TRIPS, name, trips as f64);
    vec![of_store_up(name, is_up), trips]
}

fn of_budget(it: &retry_budget::Snapshot) -> Vec<Reading> {
    vec![Reading::new(BUDGET_RATIO, it.name, it.ratio)]
}
