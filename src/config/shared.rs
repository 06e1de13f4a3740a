//! Settings of limits shared by a fleet. The program supplies the store.

use std::time::Duration;

use super::scope::Scope;
use super::section::section;
use super::setting::{Setting, expected};
use super::value::Value;
use crate::circuit_votes::{CircuitVotesBuilder, Follow};
use crate::forms::interned;
use crate::rate_limiter::Quota;
use crate::shared_bulkhead::SharedBulkheadBuilder;
use crate::shared_rate_limiter::{
    Outage, SharedKeyedRateLimiterBuilder, SharedRateLimiterBuilder, SyncMode,
};

const OUTAGES: [&str; 3] = ["own_share", "open", "closed"];

impl Setting for Outage {
    fn read(value: &Value, at: &mut Scope) -> Option<Self> {
        if let Value::Text(text) = value {
            match text.as_str() {
                "own_share" => return Some(Self::OwnShare),
                "open" => return Some(Self::Open),
                "closed" => return Some(Self::Closed),
                _ => {}
            }
        }
        if let (Value::Table(entries), Some(quota)) = (value, value.get("local")) {
            if entries.len() == 1 {
                return at.at("local", |at| Quota::read(quota, at)).map(Self::Local);
            }
        }
        let rule = "must be \"own_share\", \"open\", \"closed\", or { local = \"100/s\" }";
        expected(rule, value, at)
    }

    fn write(&self) -> Value {
        let text = match self {
            Self::OwnShare => OUTAGES[0],
            Self::Open => OUTAGES[1],
            Self::Closed => OUTAGES[2],
            Self::Local(quota) => return Value::Table(vec![("local".into(), quota.write())]),
        };
        Value::Text(text.into())
    }

    #[cfg(feature = "schema")]
    fn schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
        let local = super::schema::single("local", Quota::schema(generator));
        schemars::json_schema!({ "anyOf": [{ "type": "string", "enum": OUTAGES }, local] })
    }
}

section! {
    /// Settings of a [`SharedRateLimiter`](crate::SharedRateLimiter), named after the setters of
    /// [`SharedRateLimiterBuilder`].
    SharedLimiterSettings, for [] SharedRateLimiterBuilder => {
        /// The limit of the whole fleet.
        quota: Quota,
        /// The mode of leases: `leased` or `exact`.
        sync: SyncMode = SyncMode::Leased,
        /// The length of a lease, from 1 ms to 10 s.
        sync_every: Duration = Duration::from_millis(50),
        /// The behavior while the store does not answer: `own_share`, `open`, `closed`, or `{ local = "100/s" }`.
        on_outage: Outage = Outage::OwnShare,
        /// The timeout of a request to the store.
        store_timeout: Duration = Duration::from_millis(25),
        /// The longest wait for tokens.
        max_wait: Duration,
        /// The most calls that wait.
        max_waiting: usize,
        /// Makes pauses reproducible.
        seed: u64,
        /// Counts rejections, and admits all calls.
        shadow: bool = false,
        /// The key in the store.
        key: String,
        /// The name in errors, events, and snapshots.
        name: String => |builder, name, _| builder.name(interned(&name)),
    }
}

section! {
    /// Settings of a [`SharedKeyedRateLimiter`](crate::SharedKeyedRateLimiter), named after the setters of
    /// [`SharedKeyedRateLimiterBuilder`].
    SharedKeyedLimiterSettings, for [K] SharedKeyedRateLimiterBuilder<K> => {
        /// The limit of each key in the whole fleet.
        quota: Quota,
        /// The mode of leases: `leased` or `exact`.
        sync: SyncMode = SyncMode::Leased,
        /// The length of a lease, from 1 ms to 10 s.
        sync_every: Duration = Duration::from_millis(50),
        /// The behavior while the store does not answer: `own_share`, `open`, `closed`, or `{ local = "100/s" }`.
        on_outage: Outage = Outage::OwnShare,
        /// The timeout of a request to the store.
        store_timeout: Duration = Duration::from_millis(25),
        /// The longest wait for tokens.
        max_wait: Duration,
        /// The most calls that wait for one key.
        max_waiting: usize,
        /// The largest number of keys.
        max_keys: usize,
        /// Makes pauses reproducible.
        seed: u64,
        /// Counts rejections, and admits all calls.
        shadow: bool = false,
        /// The name in errors, events, and snapshots.
        name: String => |builder, name, _| builder.name(interned(&name)),
    }
}

section! {
    /// Settings of a [`SharedBulkhead`](crate::SharedBulkhead), named after the setters of [`SharedBulkheadBuilder`].
    SharedBulkheadSettings, for [] SharedBulkheadBuilder => {
        /// The most permits in use in the whole fleet.
        max_concurrent: u64,
        /// The time after which the store takes back a permit that is not renewed.
        ttl: Duration,
        /// The timeout of a request to the store.
        store_timeout: Duration,
        /// The longest wait for a permit.
        max_wait: Duration,
        /// The most calls that wait.
        max_waiting: usize,
        /// The key in the store.
        key: String,
        /// The identifier of this process.
        instance: String,
        /// Makes pauses reproducible.
        seed: u64,
        /// Counts rejections, and admits all calls.
        shadow: bool = false,
        /// The name in errors, events, and snapshots.
        name: String => |builder, name, _| builder.name(interned(&name)),
    }
}

section! {
    /// Settings of [`CircuitVotes`](crate::CircuitVotes), named after the setters of [`CircuitVotesBuilder`].
    CircuitVotesSettings, for [] CircuitVotesBuilder => {
        /// The key in the store.
        key: String,
        /// The identifier of this process.
        instance: String,
        /// The interval at which the process votes.
        every: Duration = Duration::from_secs(1),
        /// The share of the other voters that must have open circuits, from 0 to below 1.
        quorum: f64 = 0.5,
        /// The least number of other voters with open circuits.
        min_votes: u64 = 2,
        /// The effect of a quorum: `sooner` or `at_once`.
        follow: Follow = Follow::Sooner,
        /// The failure rate that opens the circuit while a quorum of the others is open.
        failure_rate: f64 = 0.25,
    }
}
