//! Settings of rate limiters.

use std::time::Duration;

use super::scope::Scope;
use super::section::{Checked, allow_only_in_stacks, builds, section};
use super::setting::{Setting, expected, identifiers};
use super::value::Value;
use crate::adaptive_rate::{CubicRate, CubicRateBuilder};
use crate::error::ConfigError;
use crate::forms::interned;
use crate::instant::Instant;
use crate::keyed::Overflow;
use crate::rate_limiter::{
    Algorithm, KeyedRateLimiterBuilder, Quota, RateLimiter, RateLimiterBuilder,
};

crate::forms::as_text!(Quota);

identifiers! {
    Algorithm: Self::TokenBucket, Self::LeakyBucket, Self::FixedWindow, Self::FixedWindowFromFirst,
        Self::SlidingLog, Self::SlidingCounter => |algorithm| algorithm.as_str();
}

section! {
    /// A warm-up of the rate after idle time.
    WarmUpSettings => {
        /// The time of steady use until the full rate.
        within: Duration,
        /// The factor by which a cold limit is slower.
        cold: u32,
    }
}

section! {
    /// A quota as a table.
    QuotaSettings, aliases [("limit", "tokens"), ("period", "per")] => {
        /// Tokens per period.
        tokens: u64,
        /// The period.
        per: Duration,
        /// The most tokens that can be saved up.
        burst: u64,
        /// The tokens of a new limit.
        initial: u64,
        /// The algorithm.
        algorithm: Algorithm,
        /// The size of a leaky bucket's queue, in tokens.
        queue: u64,
        /// A warm-up of the rate after idle time.
        warm_up: WarmUpSettings,
    }
}

impl QuotaSettings {
    fn quota(&self, at: &mut Scope) -> Option<Quota> {
        let needed = |key, is_given: bool, at: &mut Scope| {
            if !is_given {
                at.at(key, |at| at.report("must be given", None));
            }
        };
        needed("tokens", self.tokens.is_some(), at);
        needed("per", self.per.is_some(), at);
        let mut quota = Quota::new(self.tokens?, self.per?);
        if let Some(burst) = self.burst {
            quota = quota.burst(burst);
        }
        if let Some(initial) = self.initial {
            quota = quota.initial(initial);
        }
        let is_leaky = self.algorithm == Some(Algorithm::LeakyBucket);
        if is_leaky != self.queue.is_some() {
            let rule = "must be given for a leaky bucket, and only then";
            let queue = self.queue.map(|queue| queue.write());
            at.at("queue", |at| at.report(rule, queue.as_ref()));
            return None;
        }
        quota = match self.algorithm.unwrap_or(Algorithm::TokenBucket) {
            Algorithm::TokenBucket => quota,
            Algorithm::LeakyBucket => quota.leaky_bucket(self.queue?),
            Algorithm::FixedWindow => quota.fixed_window(),
            Algorithm::FixedWindowFromFirst => quota.fixed_window_from_first(),
            Algorithm::SlidingLog => quota.sliding_log(),
            Algorithm::SlidingCounter => quota.sliding_counter(),
        };
        if let Some(warm_up) = &self.warm_up {
            let (Some(within), Some(cold)) = (warm_up.within, warm_up.cold) else {
                at.at("warm_up", |at| {
                    at.report("needs within and cold", Some(&warm_up.write()))
                });
                return None;
            };
            quota = quota.warm_up(within, cold);
        }
        Some(quota)
    }
}

/// A string such as `100/s, burst 20`, or a table.
impl Setting for Quota {
    fn read(value: &Value, at: &mut Scope) -> Option<Self> {
        match value {
            // Unchecked, because the builder checks it.
            Value::Text(text) => match Self::parse_unchecked(text) {
                Some(quota) => Some(quota),
                None => expected("must be like \"300/1s\" or \"10/min, burst 5\"", value, at),
            },
            Value::Table(_) => QuotaSettings::read(value, at)?.quota(at),
            other => expected(
                "must be a string such as \"100/s, burst 20\", or a table",
                other,
                at,
            ),
        }
    }

    fn write(&self) -> Value {
        Value::Text(self.to_string())
    }

    #[cfg(feature = "schema")]
    fn schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
        let mut table = QuotaSettings::schema(generator);
        // Keys that `quota` needs, in addition to the shape.
        table.insert("required".into(), serde_json::json!(["tokens", "per"]));
        let warm_up = serde_json::json!({ "required": ["within", "cold"] });
        table.insert(
            "properties".into(),
            serde_json::json!({ "warm_up": warm_up }),
        );
        let leaky = serde_json::json!({ "algorithm": { "const": "leaky_bucket" } });
        let is_leaky = serde_json::json!({ "properties": leaky, "required": ["algorithm"] });
        table.insert("if".into(), is_leaky);
        table.insert("then".into(), serde_json::json!({ "required": ["queue"] }));
        let no_queue = serde_json::json!({ "properties": { "queue": false } });
        table.insert("else".into(), no_queue);
        schemars::json_schema!({ "anyOf": [{
            "type": "string",
            "description": "a quota such as \"100/s\" or \"10/min, burst 5\"",
            "pattern": r"^\s*\d+\s*/",
        }, table] })
    }
}

section! {
    /// Settings of an adaptive rate, named after the setters of [`CubicRateBuilder`].
    CubicRateSettings, for [] CubicRateBuilder => {
        /// The factor of the rate after a throttled answer, from 0 to 1.
        decrease_factor: f64 = 0.7,
        /// The growth constant of the cubic function, in calls per second per cubed second.
        scale: f64 = 0.4,
        /// The weight of the newest window in the measured rate, above 0 and at most 1.
        smoothing: f64 = 0.8,
        /// The length of the windows that measure the rate.
        window: Duration = Duration::from_millis(500),
        /// The lowest rate, in calls per second.
        min_rate: f64 = 0.5,
    }
}

impl Checked for CubicRateSettings {
    fn try_build(&self, at: &mut Scope) -> Result<(), ConfigError> {
        let builder = self.apply_in(CubicRate::builder(), at);
        builder.build(Instant::ORIGIN).map(|_| ())
    }
}

impl CubicRateSettings {
    /// Returns the builder.
    ///
    /// # Errors
    ///
    /// All mistakes in the settings.
    pub fn builder(&self) -> Result<CubicRateBuilder, super::SettingsError> {
        let mut scope = Scope::default();
        self.clone().settle(&mut scope);
        let builder = self.apply_in(CubicRate::builder(), &mut scope);
        scope.finish(Some(builder))
    }
}

section! {
    /// Settings of a [`RateLimiter`], named after the setters of [`RateLimiterBuilder`].
    LimiterSettings, for [] RateLimiterBuilder => {
        /// Whether the layer is on. Allowed only in a stack.
        enabled: bool = true => allow_only_in_stacks,
        /// A quota, or a list of quotas that must all admit a call: strings such as `"100/s, burst 20"`, or tables.
        quota: Vec<Quota> => |builder, quotas, _| quotas.into_iter().fold(builder, RateLimiterBuilder::quota),
        /// Adapts the rate to throttled results.
        adaptive: CubicRateSettings => |builder, rate, at| {
            builder.adaptive(rate.apply_in(CubicRate::builder(), at))
        },
        /// The longest pause that a server's hint leads to.
        pause_on_hint: Duration,
        /// The longest wait for tokens.
        max_wait: Duration,
        /// The most calls in the wait queue.
        max_waiting: usize,
        /// Tokens that reservations may take beyond those available.
        max_debt: u64,
        /// The number of stripes of a token bucket.
        stripes: usize = 1,
        /// Counts rejections, and admits all calls.
        shadow: bool = false,
        /// The name in errors and events.
        name: String => |builder, name, _| builder.name(interned(&name)),
    }
}

builds! { LimiterSettings: RateLimiter, RateLimiter::builder(), "cubic_rate" => "adaptive"; }

section! {
    /// Settings of a [`KeyedRateLimiter`](crate::KeyedRateLimiter), named after the setters of
    /// [`KeyedRateLimiterBuilder`].
    KeyedLimiterSettings, for [K] KeyedRateLimiterBuilder<K> => {
        /// A quota for each key, or a list of quotas that must all admit a call.
        quota: Vec<Quota> => |builder, quotas, _| quotas.into_iter().fold(builder, KeyedRateLimiterBuilder::quota),
        /// The most keys in the table.
        max_keys: usize = 100_000,
        /// What happens to new keys while the table is full: `reject`, `shared`, or `evict`.
        overflow: Overflow = Overflow::Shared,
        /// Adapts the rate of each key to throttled results.
        adaptive: CubicRateSettings => |builder, rate, at| {
            builder.adaptive(rate.apply_in(CubicRate::builder(), at))
        },
        /// The longest pause of a key that a server's hint leads to.
        pause_on_hint: Duration,
        /// The longest wait for tokens.
        max_wait: Duration,
        /// The most calls in the wait queue of a key.
        max_waiting: usize,
        /// Tokens that reservations may take beyond those available.
        max_debt: u64,
        /// Counts rejections, and admits all calls.
        shadow: bool = false,
        /// The name in errors and events.
        name: String => |builder, name, _| builder.name(interned(&name)),
    }
}
