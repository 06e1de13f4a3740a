#![cfg_attr(feature = "tokio", doc = include_str!("../../docs/config.md"))]
#![cfg_attr(not(feature = "tokio"), doc = "Settings from files, with live reload.")]

mod backoff;
mod breaker;
mod budget;
mod bulkhead;
mod calls;
mod clients;
#[cfg(feature = "schema")]
mod document;
mod error;
mod fingerprint;
mod kinds;
mod limiter;
mod registry;
mod retry;
#[cfg(feature = "schema")]
mod schema;
mod scope;
mod section;
mod sets;
mod setting;
mod shared;
mod source;
mod standard;
mod value;
mod watch;

pub use self::backoff::{BackoffKind, BackoffSettings};
pub use self::breaker::{BreakerSettings, HalfOpenSettings, TripSettings};
pub use self::budget::{
    BudgetSettings, CostSettings, GrpcBudgetSettings, InFlightBudgetSettings,
    PercentageBudgetSettings, TokenBudgetSettings,
};
pub use self::bulkhead::{
    AdaptiveSettings, AimdSettings, BulkheadSettings, CalibrationSettings, CodelSettings,
    CorrelatedSettings, FixedSettings, Gradient2Settings, GradientSettings, MaxLimitFactor,
    PartitionSettings, VegasSettings, WindowLengths, WindowedSettings,
};
pub use self::calls::{
    FairnessSettings, HedgeSettings, LoadShedderSettings, ThrottleSettings, TimeoutSettings,
};
pub use self::clients::FileSettings;
#[cfg(feature = "schema")]
pub use self::document::schema;
pub use self::error::{LoadError, Problem, SettingsError};
pub use self::limiter::{
    CubicRateSettings, KeyedLimiterSettings, LimiterSettings, QuotaSettings, WarmUpSettings,
};
pub use self::registry::{Registry, RegistryBuilder, Reloaded};
pub use self::retry::RetrySettings;
#[cfg(feature = "dead-letter-file")]
pub use self::sets::FileSinkSettings;
pub use self::sets::{
    BelowMeanSettings, CoalesceSettings, CodelMachineSettings, DeadLetterSettings,
    EndpointsSettings, FailureShareSettings, KeyedSettings, MemorySettings, SlowStartShape,
    StaleSettings,
};
#[cfg(feature = "chaos")]
pub use self::sets::{ChaosSettings, LatencySettings};
pub use self::shared::{
    CircuitVotesSettings, SharedBulkheadSettings, SharedKeyedLimiterSettings, SharedLimiterSettings,
};
pub use self::standard::{BudgetShareSettings, StackBudget, StandardSettings};
pub use self::value::Value;
