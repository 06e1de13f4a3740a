//! Settings of policies around single calls: timeout, hedge, throttle, load shedder.

use std::time::Duration;

use super::budget::BudgetSettings;
use super::bulkhead::CodelSettings;
use super::section::{builds, section};
use crate::error::ConfigError;
use crate::forms::interned;
use crate::hedge::{Hedge, HedgeBuilder};
use crate::load_shedder::{LoadShedder, LoadShedderBuilder, UserFairness, UserFairnessBuilder};
use crate::throttle::{Throttle, ThrottleBuilder};
use crate::timeout::{Timeout, TimeoutBuilder};
use crate::verdict::Health;

section! {
    /// Settings of a [`Timeout`], named after the setters of [`TimeoutBuilder`].
    TimeoutSettings, for [] TimeoutBuilder => {
        /// The time limit.
        after: Duration,
        /// The name in errors and events.
        name: String => |builder, name, _| builder.name(interned(&name)),
    }
}

section! {
    /// Settings of a [`Hedge`], named after the setters of [`HedgeBuilder`].
    HedgeSettings, for [] HedgeBuilder => {
        /// A fixed delay before a copy.
        after: Duration,
        /// The quantile of recent latencies that is the delay, above 0 and below 1.
        quantile: f64,
        /// The largest share of copies among the calls, above 0 and at most 1. Default 0.05, unless another
        /// setting determines the delay.
        max_extra_load: f64,
        /// How many further copies a call has at most, from 1 to 10.
        max_hedges: u32 = 1,
        /// The shortest delay that follows from latencies. Default 1 ms.
        min_delay: Duration,
        /// The number of recent latencies below which no copy is launched. Default 20.
        min_calls: u32,
        /// The length of a window of latencies, from 1 s to 1 hour. Default 30 s.
        window: Duration,
        /// How long no call is hedged after a throttled answer without a hint.
        throttled_pause: Duration = Duration::from_secs(1),
        /// A budget of the copies.
        budget: BudgetSettings => |builder, budget, at| match budget.build_in(at) {
            Some(budget) => builder.budget(budget),
            None => builder,
        },
        /// The name in events and snapshots.
        name: String => |builder, name, _| builder.name(interned(&name)),
    }
}

section! {
    /// Settings of a [`Throttle`], named after the setters of [`ThrottleBuilder`].
    ThrottleSettings, for [] ThrottleBuilder => {
        /// The share of accepted calls below which it rejects.
        success_threshold: f64 = 0.9,
        /// The length of the window.
        window: Duration = Duration::from_secs(60),
        /// The number of slices of the window.
        slices: u32 = 20,
        /// The least number of calls in the window before it rejects.
        min_calls: u32 = 10,
        /// The least rate of calls before it rejects.
        min_calls_per_second: f64 = 0.0,
        /// The largest probability of a rejection.
        max_rejection: f64 = 0.9,
        /// The exponent of the probability.
        aggression: f64 = 1.0,
        /// The longest time without an admitted call.
        probe_every: Duration = Duration::from_secs(1),
        /// The time for which a call in flight does not count as failed.
        grace: Duration = Duration::from_secs(1),
        /// Whether its own rejections count as calls.
        count_rejected: bool = false,
        /// How a call counts that is dropped before it ends.
        cancelled_as: Health = Health::Neutral,
        /// How a call counts that panics.
        panicked_as: Health = Health::Unhealthy,
        /// Counts rejections, and admits all calls.
        shadow: bool = false,
        /// Makes its choices reproducible.
        seed: u64,
        /// The name in errors, events, and snapshots.
        name: String => |builder, name, _| builder.name(interned(&name)),
    }
}

section! {
    /// Settings of a [`LoadShedder`], named after the setters of [`LoadShedderBuilder`].
    LoadShedderSettings, for [] LoadShedderBuilder => {
        /// Measures overload by the queue delay.
        codel: CodelSettings => |builder, codel, _| {
            let (target, interval) = codel.pair();
            builder.codel(target, interval)
        },
        /// The largest share of calls to shed, above 0 and at most 1.
        max_shed: f64 = 0.9,
        /// The time for which the share is kept after the last overload.
        cool_off: Duration = Duration::from_secs(1),
        /// The interval between updates of the share.
        update_interval: Duration = Duration::from_millis(100),
        /// Counts what it would shed, and admits all calls.
        shadow: bool = false,
        /// Makes its choices reproducible.
        seed: u64,
        /// The name in errors and events.
        name: String => |builder, name, _| builder.name(interned(&name)),
    }
}

section! {
    /// Settings of a [`UserFairness`], named after the setters of [`UserFairnessBuilder`].
    FairnessSettings, for [] UserFairnessBuilder => {
        /// The most users that are tracked.
        max_users: usize = 10_000,
        /// The half-life of recorded usage.
        half_life: Duration = Duration::from_secs(60),
    }
}

builds! {
    TimeoutSettings: Timeout, Timeout::builder();
    HedgeSettings: Hedge, Hedge::builder(), "retry_budget" => "budget";
    ThrottleSettings: Throttle, Throttle::builder();
    LoadShedderSettings: LoadShedder, LoadShedder::builder();
    FairnessSettings: UserFairness, UserFairness::builder();
}
