//! Zero in every numeric setting of every builder: an error that names the setting, or one documented meaning.
//!
//! `scripts/vocabulary --check` checks that the table has a row for each number and each duration.

use std::time::Duration;

use backstop::bulkhead::limit::{Aimd, Correlated, Gradient, Gradient2, Vegas, Windowed};
use backstop::codel::Codel;
use backstop::load_shedder::UserFairness;
use backstop::policy::ErrorClass;
use backstop::{
    Bulkhead, Chaos, CircuitBreaker, CircuitVotes, ConfigError, Endpoints, Hedge, Keyed,
    KeyedRateLimiter, LoadShedder, ManualClock, Quota, RateLimiter, Retry, RetryBudget,
    SharedBulkhead, SharedKeyedRateLimiter, SharedRateLimiter, Stale, Standard, Throttle, Timeout,
};

const ZERO: Duration = Duration::ZERO;

/// The effect of zero.
#[derive(Debug, PartialEq)]
enum Effect {
    /// `build` names the setting.
    Error,
    /// Zero has this meaning.
    Means(&'static str),
}
use Effect::{Error, Means};

/// A builder, a setting, the setting that the error names if there is one, and the effect.
type Row = (&'static str, &'static str, Option<&'static str>, Effect);

fn row<T>(
    builder: &'static str,
    setting: &'static str,
    built: Result<T, ConfigError>,
    effect: Effect,
) -> Row {
    (
        builder,
        setting,
        built.err().map(|error| error.setting()),
        effect,
    )
}

fn check(rows: impl IntoIterator<Item = Row>) {
    let mut wrong = Vec::new();
    for (builder, setting, error, effect) in rows {
        let expected = (effect == Error).then_some(setting);
        if error != expected {
            wrong.push(format!(
                "{builder}::{setting}: {error:?}, expected {effect:?}"
            ));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

fn clock() -> ManualClock {
    ManualClock::new()
}

#[test]
fn bulkheads_and_their_limits() {
    let bulkhead = || Bulkhead::builder().clock(clock());
    let correlated = Correlated::builder;
    check([
        row(
            "BulkheadBuilder",
            "max_concurrent",
            bulkhead().max_concurrent(0).build(),
            Error,
        ),
        row(
            "BulkheadBuilder",
            "max_waiting",
            bulkhead().max_waiting(0).build(),
            Means("no call waits"),
        ),
        row(
            "BulkheadBuilder",
            "max_wait",
            bulkhead().max_waiting(1).max_wait(ZERO).build(),
            Error,
        ),
        row(
            "BulkheadBuilder",
            "codel",
            bulkhead().max_waiting(1).codel(ZERO, ZERO).build(),
            Error,
        ),
        row(
            "BulkheadBuilder",
            "partition",
            bulkhead().max_waiting(1).partition("a", 0.0).build(),
            Error,
        ),
        row(
            "AimdBuilder",
            "initial",
            Aimd::builder().initial(0).build(),
            Error,
        ),
        row("AimdBuilder", "min", Aimd::builder().min(0).build(), Error),
        row("AimdBuilder", "max", Aimd::builder().max(0).build(), Error),
        row(
            "AimdBuilder",
            "increase_by",
            Aimd::builder().increase_by(0).build(),
            Error,
        ),
        row(
            "AimdBuilder",
            "decrease_factor",
            Aimd::builder().decrease_factor(0.0).build(),
            Means("drops to the minimum"),
        ),
        row(
            "AimdBuilder",
            "timeout",
            Aimd::builder().timeout(ZERO).build(),
            Error,
        ),
        row(
            "AimdBuilder",
            "utilization",
            Aimd::builder().utilization(0.0).build(),
            Means("grows at any use"),
        ),
        row(
            "Gradient2Builder",
            "initial",
            Gradient2::builder().initial(0).build(),
            Error,
        ),
        row(
            "Gradient2Builder",
            "min",
            Gradient2::builder().min(0).build(),
            Error,
        ),
        row(
            "Gradient2Builder",
            "max",
            Gradient2::builder().max(0).build(),
            Error,
        ),
        row(
            "Gradient2Builder",
            "smoothing",
            Gradient2::builder().smoothing(0.0).build(),
            Error,
        ),
        row(
            "Gradient2Builder",
            "queue_size",
            Gradient2::builder().queue_size(0).build(),
            Error,
        ),
        row(
            "Gradient2Builder",
            "tolerance",
            Gradient2::builder().tolerance(0.0).build(),
            Error,
        ),
        row(
            "Gradient2Builder",
            "long_window",
            Gradient2::builder().long_window(0).build(),
            Error,
        ),
        row(
            "Gradient2Builder",
            "recovery",
            Gradient2::builder().recovery(0.0).build(),
            Error,
        ),
        row(
            "Gradient2Builder",
            "decrease_factor",
            Gradient2::builder().decrease_factor(0.0).build(),
            Means("drops to the minimum"),
        ),
        row(
            "Gradient2Builder",
            "utilization",
            Gradient2::builder().utilization(0.0).build(),
            Means("grows at any use"),
        ),
        row(
            "GradientBuilder",
            "min",
            Gradient::builder().min(0).build(),
            Error,
        ),
        row(
            "GradientBuilder",
            "max",
            Gradient::builder().max(0).build(),
            Error,
        ),
        row(
            "GradientBuilder",
            "update_interval",
            Gradient::builder().update_interval(ZERO).build(),
            Error,
        ),
        row(
            "GradientBuilder",
            "quantile",
            Gradient::builder().quantile(0.0).build(),
            Means("the smallest latency"),
        ),
        row(
            "GradientBuilder",
            "buffer",
            Gradient::builder().buffer(0.0).build(),
            Means("no increase is tolerated"),
        ),
        row(
            "GradientBuilder",
            "overload_share",
            Gradient::builder().overload_share(0.0).build(),
            Means("one overload suffices"),
        ),
        row(
            "GradientBuilder",
            "utilization",
            Gradient::builder().utilization(0.0).build(),
            Means("grows at any use"),
        ),
        row(
            "VegasBuilder",
            "initial",
            Vegas::builder().initial(0).build(),
            Error,
        ),
        row(
            "VegasBuilder",
            "min",
            Vegas::builder().min(0).build(),
            Error,
        ),
        row(
            "VegasBuilder",
            "max",
            Vegas::builder().max(0).build(),
            Error,
        ),
        row(
            "VegasBuilder",
            "smoothing",
            Vegas::builder().smoothing(0.0).build(),
            Error,
        ),
        row(
            "VegasBuilder",
            "max_baseline_age",
            Vegas::builder().max_baseline_age(ZERO).build(),
            Error,
        ),
        row(
            "VegasBuilder",
            "utilization",
            Vegas::builder().utilization(0.0).build(),
            Means("grows at any use"),
        ),
        row(
            "CorrelatedBuilder",
            "initial",
            correlated().initial(0).build(),
            Error,
        ),
        row(
            "CorrelatedBuilder",
            "min",
            correlated().min(0).build(),
            Error,
        ),
        row(
            "CorrelatedBuilder",
            "max",
            correlated().max(0).build(),
            Error,
        ),
        row(
            "CorrelatedBuilder",
            "long_window",
            correlated().long_window(0).build(),
            Error,
        ),
        row(
            "CorrelatedBuilder",
            "baseline",
            correlated().baseline(ZERO).build(),
            Error,
        ),
        row(
            "CorrelatedBuilder",
            "correlation_window",
            correlated().correlation_window(0).build(),
            Means("turns the guard off"),
        ),
        row(
            "CorrelatedBuilder",
            "max_limit_factor",
            correlated().max_limit_factor(0.0, 0.0, 0.0).build(),
            Error,
        ),
        row(
            "CorrelatedBuilder",
            "max_limit_stabilization",
            correlated().max_limit_stabilization(ZERO).build(),
            Means("the current number counts"),
        ),
        row(
            "WindowedBuilder",
            "window_between",
            Windowed::builder()
                .window_between(ZERO, ZERO)
                .around(fixed()),
            Means("a window ends when it has its calls"),
        ),
        row(
            "WindowedBuilder",
            "min_calls",
            Windowed::builder().min_calls(0).around(fixed()),
            Error,
        ),
        row(
            "WindowedBuilder",
            "quantile",
            Windowed::builder().quantile(0.0).around(fixed()),
            Means("the smallest latency"),
        ),
        row(
            "WindowedBuilder",
            "min_latency",
            Windowed::builder().min_latency(ZERO).around(fixed()),
            Means("no call is ignored"),
        ),
        row(
            "WindowedBuilder",
            "overload_share",
            Windowed::builder().overload_share(0.0).around(fixed()),
            Means("one overload suffices"),
        ),
    ]);
}

fn fixed() -> backstop::bulkhead::limit::Fixed {
    backstop::bulkhead::limit::Fixed::new(1)
}

#[test]
fn breakers_throttles_and_shedders() {
    let breaker = || CircuitBreaker::builder().clock(clock());
    let throttle = || Throttle::builder().clock(clock());
    let shedder = || LoadShedder::builder().clock(clock());
    let users = || UserFairness::builder().clock(clock());
    check([
        row(
            "CircuitBreakerBuilder",
            "slow_call",
            breaker().slow_call(ZERO).build(),
            Error,
        ),
        row(
            "CircuitBreakerBuilder",
            "permitted_calls",
            breaker().permitted_calls(0).build(),
            Error,
        ),
        row(
            "CircuitBreakerBuilder",
            "probe_lease",
            breaker().probe_lease(ZERO).build(),
            Error,
        ),
        row(
            "CircuitBreakerBuilder",
            "max_half_open",
            breaker().max_half_open(ZERO).build(),
            Error,
        ),
        row(
            "CircuitBreakerBuilder",
            "ramp_up",
            breaker().ramp_up(ZERO).build(),
            Means("no ramp"),
        ),
        row(
            "CircuitBreakerBuilder",
            "max_hint",
            breaker().max_hint(ZERO).build(),
            Means("hints are ignored"),
        ),
        row(
            "CircuitBreakerBuilder",
            "break_with",
            breaker().break_with(|_, _| ZERO).build(),
            Means("the next call is a probe"),
        ),
        row(
            "ThrottleBuilder",
            "success_threshold",
            throttle().success_threshold(0.0).build(),
            Error,
        ),
        row(
            "ThrottleBuilder",
            "window",
            throttle().window(ZERO).build(),
            Error,
        ),
        row(
            "ThrottleBuilder",
            "slices",
            throttle().slices(0).build(),
            Error,
        ),
        row(
            "ThrottleBuilder",
            "min_calls",
            throttle().min_calls(0).build(),
            Error,
        ),
        row(
            "ThrottleBuilder",
            "min_calls_per_second",
            throttle().min_calls_per_second(0.0).build(),
            Means("no such bound"),
        ),
        row(
            "ThrottleBuilder",
            "max_rejection",
            throttle().max_rejection(0.0).build(),
            Means("no call is rejected"),
        ),
        row(
            "ThrottleBuilder",
            "aggression",
            throttle().aggression(0.0).build(),
            Error,
        ),
        row(
            "ThrottleBuilder",
            "probe_every",
            throttle().probe_every(ZERO).build(),
            Error,
        ),
        row(
            "ThrottleBuilder",
            "grace",
            throttle().grace(ZERO).build(),
            Means("calls count from their start"),
        ),
        row(
            "LoadShedderBuilder",
            "codel",
            shedder().codel(ZERO, ZERO).build(),
            Error,
        ),
        row(
            "LoadShedderBuilder",
            "signal",
            shedder().signal(0.0, || 0.0).build(),
            Error,
        ),
        row(
            "LoadShedderBuilder",
            "max_shed",
            shedder().max_shed(0.0).build(),
            Error,
        ),
        row(
            "LoadShedderBuilder",
            "cool_off",
            shedder().cool_off(ZERO).build(),
            Means("shedding ends with the overload"),
        ),
        row(
            "LoadShedderBuilder",
            "update_interval",
            shedder().update_interval(ZERO).build(),
            Error,
        ),
        row(
            "UserFairnessBuilder",
            "max_users",
            users().max_users(0).build(),
            Error,
        ),
        row(
            "UserFairnessBuilder",
            "half_life",
            users().half_life(ZERO).build(),
            Error,
        ),
        row(
            "CodelBuilder",
            "target",
            Codel::builder().target(ZERO).build(),
            Error,
        ),
        row(
            "CodelBuilder",
            "interval",
            Codel::builder().interval(ZERO).build(),
            Error,
        ),
        row(
            "CodelBuilder",
            "stale_after",
            Codel::builder().stale_after(0).build(),
            Error,
        ),
    ]);
}

#[test]
fn rates_and_keys() {
    let limiter = || {
        RateLimiter::builder()
            .quota(Quota::per_second(10))
            .clock(clock())
    };
    let keyed = || {
        KeyedRateLimiter::<u64>::builder()
            .quota(Quota::per_second(10))
            .clock(clock())
    };
    let policies =
        || Keyed::<u64, Timeout>::builder(|_: &u64| Timeout::new(Duration::from_secs(1)));
    let cubic = backstop::adaptive_rate::CubicRate::builder;
    let now = || backstop::Instant::default();
    check([
        row(
            "RateLimiterBuilder",
            "max_waiting",
            limiter().max_waiting(0).build(),
            Means("no call waits"),
        ),
        row(
            "RateLimiterBuilder",
            "max_wait",
            limiter().max_wait(ZERO).build(),
            Means("no call waits"),
        ),
        row(
            "RateLimiterBuilder",
            "max_debt",
            limiter().max_debt(0).build(),
            Means("no debt"),
        ),
        row(
            "RateLimiterBuilder",
            "pause_on_hint",
            limiter().pause_on_hint(ZERO).build(),
            Error,
        ),
        row(
            "RateLimiterBuilder",
            "stripes",
            limiter().stripes(0).build(),
            Error,
        ),
        row(
            "KeyedRateLimiterBuilder",
            "max_waiting",
            keyed().max_waiting(0).build(),
            Means("no call waits"),
        ),
        row(
            "KeyedRateLimiterBuilder",
            "max_wait",
            keyed().max_wait(ZERO).build(),
            Means("no call waits"),
        ),
        row(
            "KeyedRateLimiterBuilder",
            "max_debt",
            keyed().max_debt(0).build(),
            Means("no debt"),
        ),
        row(
            "KeyedRateLimiterBuilder",
            "pause_on_hint",
            keyed().pause_on_hint(ZERO).build(),
            Error,
        ),
        row(
            "KeyedRateLimiterBuilder",
            "max_keys",
            keyed().max_keys(0).build(),
            Error,
        ),
        row(
            "KeyedBuilder",
            "max_keys",
            policies().max_keys(0).build(),
            Error,
        ),
        row(
            "CubicRateBuilder",
            "decrease_factor",
            cubic().decrease_factor(0.0).build(now()),
            Means("drops to `min_rate`"),
        ),
        row(
            "CubicRateBuilder",
            "scale",
            cubic().scale(0.0).build(now()),
            Error,
        ),
        row(
            "CubicRateBuilder",
            "smoothing",
            cubic().smoothing(0.0).build(now()),
            Error,
        ),
        row(
            "CubicRateBuilder",
            "window",
            cubic().window(ZERO).build(now()),
            Error,
        ),
        row(
            "CubicRateBuilder",
            "min_rate",
            cubic().min_rate(0.0).build(now()),
            Error,
        ),
    ]);
}

#[test]
fn retries_hedges_and_budgets() {
    let retry = || Retry::builder().clock(clock());
    let hedge = || Hedge::builder().clock(clock());
    let percentage = || RetryBudget::percentage().clock(clock());
    let tokens = || RetryBudget::tokens().clock(clock());
    check([
        row(
            "RetryBuilder",
            "max_attempts",
            retry().max_attempts(0).build(),
            Error,
        ),
        row(
            "RetryBuilder",
            "max_hint",
            retry().max_hint(ZERO).build(),
            Means("any hint ends the call"),
        ),
        row(
            "RetryBuilder",
            "max_elapsed",
            retry().max_elapsed(ZERO).build(),
            Means("retries only where no time has passed"),
        ),
        row(
            "RetryBuilder",
            "delay_with",
            retry().delay_with(|_| ZERO).build(),
            Means("retries at once"),
        ),
        row(
            "HedgeBuilder",
            "after",
            hedge().after(ZERO).build(),
            Means("copies start together"),
        ),
        row(
            "HedgeBuilder",
            "after_with",
            hedge().after_with(|_| ZERO).build(),
            Means("copies start together"),
        ),
        row(
            "HedgeBuilder",
            "quantile",
            hedge().quantile(0.0).build(),
            Error,
        ),
        row(
            "HedgeBuilder",
            "min_calls",
            hedge().quantile(0.9).min_calls(0).build(),
            Error,
        ),
        row(
            "HedgeBuilder",
            "min_delay",
            hedge().quantile(0.9).min_delay(ZERO).build(),
            Means("no least delay"),
        ),
        row(
            "HedgeBuilder",
            "window",
            hedge().quantile(0.9).window(ZERO).build(),
            Error,
        ),
        row(
            "HedgeBuilder",
            "max_extra_load",
            hedge().after(ZERO).max_extra_load(0.0).build(),
            Error,
        ),
        row(
            "HedgeBuilder",
            "max_hedges",
            hedge().after(ZERO).max_hedges(0).build(),
            Error,
        ),
        row(
            "HedgeBuilder",
            "throttled_pause",
            hedge().after(ZERO).throttled_pause(ZERO).build(),
            Means("no pause"),
        ),
        row(
            "PercentageBudgetBuilder",
            "ratio",
            percentage().ratio(0.0).build(),
            Means("the floor alone"),
        ),
        row(
            "PercentageBudgetBuilder",
            "floor",
            percentage().floor(0).build(),
            Means("no floor"),
        ),
        row(
            "PercentageBudgetBuilder",
            "window",
            percentage().window(ZERO).build(),
            Error,
        ),
        row(
            "InFlightBudgetBuilder",
            "ratio",
            RetryBudget::in_flight().ratio(0.0).build(),
            Means("the floor alone"),
        ),
        row(
            "InFlightBudgetBuilder",
            "floor",
            RetryBudget::in_flight().floor(0).build(),
            Means("no floor"),
        ),
        row(
            "TokenBudgetBuilder",
            "capacity",
            tokens().capacity(0).build(),
            Means("no retry that costs anything"),
        ),
        row(
            "TokenBudgetBuilder",
            "initial",
            tokens().initial(0).build(),
            Means("empty at the start"),
        ),
        row(
            "TokenBudgetBuilder",
            "cost",
            tokens().cost(ErrorClass::Transient, 0).build(),
            Means("such retries are free"),
        ),
        row(
            "TokenBudgetBuilder",
            "reward",
            tokens().reward(0.0).build(),
            Means("successes add nothing"),
        ),
        row(
            "TokenBudgetBuilder",
            "refill_per_second",
            tokens().refill_per_second(0.0).build(),
            Means("only successes refill"),
        ),
    ]);
}

#[test]
fn the_other_patterns() {
    let endpoints = || Endpoints::<u8>::builder().node("a", 1).clock(clock());
    let chaos = || Chaos::builder().clock(clock());
    let letters = backstop::DeadLetterQueue::<u8>::builder;
    let standard = || Standard::builder().clock(clock());
    check([
        row(
            "EndpointsBuilder",
            "choices",
            endpoints().choices(0).build(),
            Error,
        ),
        row(
            "EndpointsBuilder",
            "decay",
            endpoints().decay(ZERO).build(),
            Error,
        ),
        row(
            "EndpointsBuilder",
            "failure_penalty",
            endpoints().failure_penalty(ZERO).build(),
            Means("failures count as fast as they are"),
        ),
        row(
            "EndpointsBuilder",
            "eject_after",
            endpoints().eject_after(0).build(),
            Means("rule off"),
        ),
        row(
            "EndpointsBuilder",
            "eject_below_mean",
            endpoints().eject_below_mean(0.0, 0, 0).build(),
            Means("rule off"),
        ),
        row(
            "EndpointsBuilder",
            "eject_failure_share",
            endpoints().eject_failure_share(0.0, 0).build(),
            Means("rule off"),
        ),
        row(
            "EndpointsBuilder",
            "interval",
            endpoints().interval(ZERO).build(),
            Error,
        ),
        row(
            "EndpointsBuilder",
            "base_ejection",
            endpoints().base_ejection(ZERO).build(),
            Error,
        ),
        row(
            "EndpointsBuilder",
            "max_ejection",
            endpoints().max_ejection(ZERO).build(),
            Means("the base ejection"),
        ),
        row(
            "EndpointsBuilder",
            "ejection_jitter",
            endpoints().ejection_jitter(0.0).build(),
            Means("no jitter"),
        ),
        row(
            "EndpointsBuilder",
            "max_ejected",
            endpoints().max_ejected(0.0).build(),
            Means("one node may be ejected"),
        ),
        row(
            "EndpointsBuilder",
            "max_hint",
            endpoints().max_hint(ZERO).build(),
            Means("hints are ignored"),
        ),
        row(
            "EndpointsBuilder",
            "panic_threshold",
            endpoints().panic_threshold(0.0).build(),
            Means("no panic mode"),
        ),
        row(
            "EndpointsBuilder",
            "overprovisioning",
            endpoints().overprovisioning(0.0).build(),
            Error,
        ),
        row(
            "EndpointsBuilder",
            "slow_start",
            endpoints().slow_start(ZERO).build(),
            Means("no slow start"),
        ),
        row(
            "EndpointsBuilder",
            "slow_start_shape",
            endpoints().slow_start_shape(0.0, 0.0).build(),
            Error,
        ),
        row(
            "EndpointsBuilder",
            "unhealthy_after",
            endpoints().unhealthy_after(0).build(),
            Error,
        ),
        row(
            "EndpointsBuilder",
            "healthy_after",
            endpoints().healthy_after(0).build(),
            Error,
        ),
        row(
            "ChaosBuilder",
            "latency",
            chaos().latency(0.0, ZERO).build(),
            Means("no such fault"),
        ),
        row(
            "ChaosBuilder",
            "behavior",
            chaos().behavior(0.0, || std::future::ready(())).build(),
            Means("no such fault"),
        ),
        row(
            "ChaosBuilder",
            "error",
            chaos().error(0.0, || 1_u8).build(),
            Means("no such fault"),
        ),
        row(
            "ChaosBuilder",
            "result",
            chaos().result(0.0, || Ok::<u8, u8>(1)).build(),
            Means("no such fault"),
        ),
        row(
            "ChaosBuilder",
            "max_share",
            chaos().max_share(0.0).build(),
            Means("no faults"),
        ),
        row(
            "StaleBuilder",
            "max_age",
            Stale::<u8>::builder().max_age(ZERO).clock(clock()).build(),
            Error,
        ),
        row(
            "TimeoutBuilder",
            "after",
            Timeout::builder().after(ZERO).clock(clock()).build(),
            Means("only ready operations"),
        ),
        row(
            "TimeoutBuilder",
            "after_with",
            Timeout::builder()
                .after_with(|_| ZERO)
                .clock(clock())
                .build(),
            Means("only ready operations"),
        ),
        row(
            "DeadLetterQueueBuilder",
            "max_replays",
            letters().max_replays(0).build(),
            Error,
        ),
        row(
            "DeadLetterQueueBuilder",
            "max_error_bytes",
            letters().max_error_bytes(0).build(),
            Means("no text is kept"),
        ),
        row(
            "StandardBuilder",
            "max_attempts",
            standard().max_attempts(0).build(),
            Error,
        ),
        row(
            "StandardBuilder",
            "total_timeout",
            standard().total_timeout(ZERO).build(),
            Error,
        ),
        row(
            "StandardBuilder",
            "attempt_timeout",
            standard().attempt_timeout(ZERO).build(),
            Error,
        ),
        row(
            "StandardBuilder",
            "budget_share",
            standard().budget_share(0.0, 0).build(),
            Means("no retries"),
        ),
    ]);
}

#[test]
fn shared_limits_and_votes() {
    let store = backstop::store::MemoryStore::new;
    let limiter = || {
        SharedRateLimiter::builder()
            .store(store())
            .key("k")
            .quota(Quota::per_second(10))
            .clock(clock())
    };
    let keyed = || {
        let builder = SharedKeyedRateLimiter::<u8>::builder()
            .store(store())
            .key_by(|key| key.to_string());
        builder.quota(Quota::per_second(10)).clock(clock())
    };
    let bulkhead = || {
        let builder = SharedBulkhead::builder()
            .store(store())
            .key("k")
            .instance("i")
            .clock(clock());
        builder.max_concurrent(10)
    };
    let breaker = || CircuitBreaker::builder().clock(clock()).build().unwrap();
    let votes = || {
        CircuitVotes::builder()
            .store(store())
            .key("k")
            .breaker(breaker())
            .clock(clock())
    };
    check([
        row(
            "SharedRateLimiterBuilder",
            "max_waiting",
            limiter().max_waiting(0).build(),
            Means("no call waits"),
        ),
        row(
            "SharedRateLimiterBuilder",
            "max_wait",
            limiter().max_wait(ZERO).build(),
            Means("no call waits"),
        ),
        row(
            "SharedRateLimiterBuilder",
            "store_timeout",
            limiter().store_timeout(ZERO).build(),
            Error,
        ),
        row(
            "SharedRateLimiterBuilder",
            "sync_every",
            limiter().sync_every(ZERO).build(),
            Error,
        ),
        row(
            "SharedKeyedRateLimiterBuilder",
            "max_waiting",
            keyed().max_waiting(0).build(),
            Means("no call waits"),
        ),
        row(
            "SharedKeyedRateLimiterBuilder",
            "max_wait",
            keyed().max_wait(ZERO).build(),
            Means("no call waits"),
        ),
        row(
            "SharedKeyedRateLimiterBuilder",
            "store_timeout",
            keyed().store_timeout(ZERO).build(),
            Error,
        ),
        row(
            "SharedKeyedRateLimiterBuilder",
            "sync_every",
            keyed().sync_every(ZERO).build(),
            Error,
        ),
        row(
            "SharedKeyedRateLimiterBuilder",
            "max_keys",
            keyed().max_keys(0).build(),
            Error,
        ),
        row(
            "SharedBulkheadBuilder",
            "max_concurrent",
            bulkhead().max_concurrent(0).build(),
            Error,
        ),
        row(
            "SharedBulkheadBuilder",
            "max_waiting",
            bulkhead().max_waiting(0).build(),
            Means("no call waits"),
        ),
        row(
            "SharedBulkheadBuilder",
            "max_wait",
            bulkhead().max_wait(ZERO).build(),
            Means("no call waits"),
        ),
        row(
            "SharedBulkheadBuilder",
            "ttl",
            bulkhead().ttl(ZERO).build(),
            Error,
        ),
        row(
            "SharedBulkheadBuilder",
            "store_timeout",
            bulkhead().store_timeout(ZERO).build(),
            Error,
        ),
        row(
            "CircuitVotesBuilder",
            "every",
            votes().every(ZERO).build(),
            Error,
        ),
        row(
            "CircuitVotesBuilder",
            "quorum",
            votes().quorum(0.0).build(),
            Means("any open circuit"),
        ),
        row(
            "CircuitVotesBuilder",
            "min_votes",
            votes().min_votes(0).build(),
            Error,
        ),
        row(
            "CircuitVotesBuilder",
            "failure_rate",
            votes().failure_rate(0.0).build(),
            Error,
        ),
    ]);
}
