//! Settings of bulkheads and their adaptive limits.

use std::time::Duration;

use super::kinds::kinds;
use super::scope::Scope;
use super::section::{Checked, builds, section};
use super::setting::Setting;
use crate::bulkhead::limit::{
    Aimd, AimdBuilder, Calibration, ConcurrencyLimit, Correlated, CorrelatedBuilder, Fixed,
    Gradient, Gradient2, Gradient2Builder, GradientBuilder, Vegas, VegasBuilder, Windowed,
    WindowedBuilder,
};
use crate::bulkhead::{Bulkhead, BulkheadBuilder, QueueOrder};
use crate::codel::Codel;
use crate::error::ConfigError;
use crate::forms::interned;

section! {
    /// Settings of CoDel, which bounds the delay of a queue.
    CodelSettings => {
        /// The queue delay above which the queue is overloaded.
        target: Duration = Codel::TARGET,
        /// The time for which the delay must exceed the target.
        interval: Duration = Codel::INTERVAL,
    }
}

impl CodelSettings {
    pub(super) fn pair(&self) -> (Duration, Duration) {
        let target = self.target.unwrap_or(Codel::TARGET);
        (target, self.interval.unwrap_or(Codel::INTERVAL))
    }
}

section! {
    /// How a baseline is measured, see [`Calibration`].
    CalibrationSettings, for [] Calibration => {
        /// Whether the baseline is measured again. Only Vegas can do without.
        enabled: bool = true => |calibration, _, _| calibration,
        /// The time between measurements.
        every: Duration = Duration::from_secs(60) => |_, every, _| Calibration::every(every),
        /// The jitter of the interval, as a share of it, so that processes do not measure together.
        jitter: f64 = 0.15,
        /// The limit during a measurement.
        concurrency: u32 = 3,
        /// The number of samples.
        samples: u32 = 50,
        /// The quantile of the latencies that becomes the baseline.
        quantile: f64 = 0.5,
    }
}

section! {
    /// A limit that never changes.
    FixedSettings => {
        /// The limit.
        limit: u32,
    }
}

section! {
    /// Settings of [`Aimd`], named after the setters of [`AimdBuilder`].
    AimdSettings, for [] AimdBuilder => {
        /// The limit at the start.
        initial: u32 = 20,
        /// The smallest limit.
        min: u32 = 1,
        /// The largest limit.
        max: u32 = 200,
        /// The share of the limit that must be in use for it to grow.
        utilization: f64 = 0.5,
        /// The increment of the limit.
        increase_by: u32 = 1,
        /// The factor that an overload multiplies the limit by.
        decrease_factor: f64 = 0.9,
        /// The latency that counts as an overload.
        timeout: Duration = Duration::from_secs(5),
        /// Lets every sample change the limit, instead of one per round trip.
        every_sample: bool = false,
    }
}

section! {
    /// Settings of [`Vegas`], named after the setters of [`VegasBuilder`].
    VegasSettings, for [] VegasBuilder => {
        /// The limit at the start.
        initial: u32 = 20,
        /// The smallest limit.
        min: u32 = 1,
        /// The largest limit.
        max: u32 = 200,
        /// The share of the limit that must be in use for it to grow.
        utilization: f64 = 0.5,
        /// How far one sample moves the limit towards its target.
        smoothing: f64 = 1.0,
        /// How the baseline is measured.
        calibration: CalibrationSettings => |builder, settings, at| match settings.enabled {
            Some(false) => builder.calibration(None),
            _ => builder.calibration(settings.apply_in(Calibration::default(), at)),
        },
        /// The age at which a baseline is replaced.
        max_baseline_age: Duration,
        /// Lets every sample change the limit, instead of one per round trip.
        every_sample: bool = false,
    }
}

section! {
    /// Settings of [`Gradient`], named after the setters of [`GradientBuilder`].
    GradientSettings, for [] GradientBuilder => {
        /// The smallest limit.
        min: u32 = 3,
        /// The largest limit.
        max: u32 = 1000,
        /// The time between updates of the limit.
        update_interval: Duration = Duration::from_millis(100),
        /// The quantile of the latencies of an interval.
        quantile: f64 = 0.5,
        /// The share by which latencies may exceed the baseline.
        buffer: f64 = 0.25,
        /// How the baseline is measured.
        calibration: CalibrationSettings => |builder, settings, at| {
            if settings.enabled == Some(false) {
                at.at("enabled", |at| at.report("must be true: only vegas can do without", Some(&false.write())));
            }
            builder.calibration(settings.apply_in(Calibration::default(), at))
        },
        /// The share of overloads in an interval that counts as an overload.
        overload_share: f64 = 0.1,
        /// The share of the limit that must be in use for it to grow.
        utilization: f64 = 0.5,
    }
}

section! {
    /// Settings of [`Gradient2`], named after the setters of [`Gradient2Builder`].
    Gradient2Settings, for [] Gradient2Builder => {
        /// The limit at the start.
        initial: u32 = 20,
        /// The smallest limit.
        min: u32 = 1,
        /// The largest limit.
        max: u32 = 200,
        /// The share of the limit that must be in use for it to grow.
        utilization: f64 = 0.5,
        /// How far one sample moves the limit.
        smoothing: f64 = 0.2,
        /// The number of calls that may queue in the dependency.
        queue_size: u32 = 4,
        /// The factor by which latencies may exceed the long-term average.
        tolerance: f64 = 1.5,
        /// The number of samples in the long-term average.
        long_window: u32 = 600,
        /// The factor that the long-term average shrinks by while it far exceeds the latency.
        recovery: f64 = 0.95,
        /// The factor that an overload multiplies the limit by.
        decrease_factor: f64 = 0.9,
    }
}

section! {
    /// The windows of an algorithm, see [`WindowedBuilder`].
    WindowedSettings, for [] WindowedBuilder => {
        /// The shortest and the longest window.
        window_between: WindowLengths => |builder, window, at| match window.pair(at) {
            Some((shortest, longest)) => builder.window_between(shortest, longest),
            None => builder,
        },
        /// The least number of calls in a window.
        min_calls: u32,
        /// The quantile of the latencies of a window.
        quantile: f64 = 0.9,
        /// Latencies below this are ignored.
        min_latency: Duration,
        /// The share of overloads in a window that counts as an overload.
        overload_share: f64 = 0.1,
    }
}

section! {
    /// The lengths of windows.
    WindowLengths => {
        /// The shortest window.
        shortest: Duration = Duration::from_secs(1),
        /// The longest window.
        longest: Duration = Duration::from_secs(30),
    }
}

impl WindowLengths {
    fn pair(&self, _at: &mut Scope) -> Option<(Duration, Duration)> {
        let all = self.effective();
        Some((all.shortest?, all.longest?))
    }
}

section! {
    /// The ratio by which the limit may exceed the calls in flight.
    MaxLimitFactor => {
        /// The ratio with one call in flight.
        factor: f64 = 5.0,
        /// The decrease of the ratio per decimal logarithm of the calls in flight.
        decay: f64 = 0.0,
        /// The smallest ratio.
        min: f64 = 1.2,
    }
}

section! {
    /// Settings of [`Correlated`], named after the setters of [`CorrelatedBuilder`].
    CorrelatedSettings, for [] CorrelatedBuilder => {
        /// The limit at the start.
        initial: u32 = 20,
        /// The smallest limit.
        min: u32 = 1,
        /// The largest limit.
        max: u32 = 200,
        /// The windows of samples.
        windowed: WindowedSettings => |builder, window, at| {
            let default = Windowed::builder().min_calls(50).min_latency(Duration::ZERO);
            builder.windowed(window.apply_in(default, at))
        },
        /// The number of windows in the baseline.
        long_window: u32 = 10,
        /// A known baseline.
        baseline: Duration,
        /// The number of windows over which latency and concurrency are correlated.
        correlation_window: usize = 50,
        /// The ratio by which the limit may exceed the calls in flight.
        max_limit_factor: MaxLimitFactor => |builder, factor, _| {
            let all = factor.effective();
            match (all.factor, all.decay, all.min) {
                (Some(factor), Some(decay), Some(min)) => builder.max_limit_factor(factor, decay, min),
                _ => builder,
            }
        },
        /// The time for which the largest number of calls in flight counts.
        max_limit_stabilization: Duration = Duration::ZERO,
    }
}

kinds! {
    /// An algorithm that finds the limit of a [`Bulkhead`].
    AdaptiveSettings {
        /// Netflix's Gradient2.
        "gradient2" Gradient2(Gradient2Settings),
        /// Additive increase, multiplicative decrease.
        "aimd" Aimd(AimdSettings),
        /// TCP Vegas.
        "vegas" Vegas(VegasSettings),
        /// Envoy's gradient.
        "gradient" Gradient(GradientSettings),
        /// Failsafe-go's correlation of latency and throughput.
        "correlated" Correlated(CorrelatedSettings),
        /// A limit that never changes.
        "fixed" Fixed(FixedSettings),
    }
}

/// An algorithm, boxed.
type Algorithm = Box<dyn ConcurrencyLimit>;

macro_rules! algorithms {
    ($($settings:ident: $algorithm:ident;)+) => {$(
        impl Checked for $settings {
            fn try_build(&self, at: &mut Scope) -> Result<(), ConfigError> {
                self.apply_in($algorithm::builder(), at).build().map(|_| ())
            }
        }

        impl $settings {
            fn algorithm(&self, at: &mut Scope) -> Option<Algorithm> {
                self.clone().settle(at);
                let built = self.apply_in($algorithm::builder(), at).build();
                built.ok().map(|algorithm| Box::new(algorithm) as Algorithm)
            }
        }
    )+};
}

algorithms! {
    AimdSettings: Aimd;
    VegasSettings: Vegas;
    GradientSettings: Gradient;
    Gradient2Settings: Gradient2;
    CorrelatedSettings: Correlated;
}

impl AdaptiveSettings {
    fn algorithm(&self, at: &mut Scope) -> Option<Algorithm> {
        match self {
            Self::Gradient2(settings) => settings.algorithm(at),
            Self::Aimd(settings) => settings.algorithm(at),
            Self::Vegas(settings) => settings.algorithm(at),
            Self::Gradient(settings) => settings.algorithm(at),
            Self::Correlated(settings) => settings.algorithm(at),
            Self::Fixed(settings) => match settings.limit {
                Some(limit) => Some(Box::new(Fixed::new(limit))),
                None => {
                    at.at("limit", |at| at.report("must be given", None));
                    None
                }
            },
        }
    }
}

section! {
    /// A partition of a bulkhead.
    PartitionSettings => {
        /// The name of the partition.
        name: String,
        /// The guaranteed share of the limit, above 0 and at most 1.
        share: f64,
    }
}

section! {
    /// Settings of a [`Bulkhead`], named after the setters of [`BulkheadBuilder`].
    BulkheadSettings, for [] BulkheadBuilder => {
        /// The most calls in flight.
        max_concurrent: u32,
        /// The algorithm that adapts the limit.
        adaptive: AdaptiveSettings => |builder, adaptive, at| match adaptive.algorithm(at) {
            Some(algorithm) => builder.adaptive(algorithm),
            None => builder,
        },
        /// The most calls in the wait queue.
        max_waiting: usize = 0,
        /// The longest wait for a permit.
        max_wait: Duration,
        /// The order of the wait queue: `fifo`, `lifo`, or `priority`.
        order: QueueOrder = QueueOrder::Fifo,
        /// CoDel on the queue's delay.
        codel: CodelSettings => |builder, codel, _| {
            let (target, interval) = codel.pair();
            builder.codel(target, interval)
        },
        /// Partitions with guaranteed shares.
        partition: Vec<PartitionSettings> => |builder, partitions, at| {
            partitions.iter().enumerate().fold(builder, |builder, (index, partition)| {
                match (&partition.name, partition.share) {
                    (Some(name), Some(share)) => builder.partition(interned(name), share),
                    _ => {
                        let value = partition.write();
                        at.at_index(index, |at| at.report("needs name and share", Some(&value)));
                        builder
                    }
                }
            })
        },
        /// Whether a partition below its share is admitted although others have borrowed all permits.
        shares_may_exceed: bool = false,
        /// Whether a cancelled call counts as an overload.
        cancel_is_overload: bool,
        /// Counts rejections, and admits all calls.
        shadow: bool = false,
        /// Makes the algorithm's random choices reproducible.
        seed: u64,
        /// The name in errors, events, and snapshots.
        name: String => |builder, name, _| builder.name(interned(&name)),
    }
}

builds! { BulkheadSettings: Bulkhead, Bulkhead::builder(); }
