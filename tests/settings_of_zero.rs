//! Zero in every numeric setting of every builder: an error that names the setting, or one documented meaning.
//!
//! `scripts/vocabulary --check` checks that the table has a row for each number and each duration.

use std::time::Duration;

use backstop::bulkhead::limit::{Aimd, Correlated, Gradient, Gradient2, Vegas, Windowed};
use backstop::codel::Codel;
use backstop::load_shedder::UserFairness;
use backstop::policy::ErrorClass;
use backstop::{
    Bulkhead, CircuitBreaker, CircuitVotes, ConfigError, Endpoints, Hedge, Keyed, KeyedRateLimiter,
    LoadShedder, ManualClock, Quota, RateLimiter, Retry, RetryBudget, SharedBulkhead,
    SharedKeyedRateLimiter, SharedRateLimiter, Stale, Standard, Throttle, Timeout,
};

const ZERO: Duration = Duration::ZERO;

/// The effect of zero.
#[derive(Debug, PartialEq)]
enum Effect {
    /// `build` names the setting.
    Error,
    /// `build` names another setting, which zero contradicts.
    Contradicts(&'static str),
    /// Zero has this meaning.
    Means(&'static str),
}
use Effect::{Contradicts, Error, Means};

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
        let expected = match effect {
            Error => Some(setting),
            Contradicts(other) => Some(other),
            Means(_) => None,
        };
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

/// Makes the rows of a builder, and checks them.
macro_rules! zeros {
    ($($builder:ident($make:expr) $build:ident $with:tt { $($setting:ident($($value:expr),*) => $effect:expr;)+ })+) => {
        check([$($(
            row(stringify!($builder), stringify!($setting), $make.$setting($($value),*).$build $with, $effect),
        )+)+])
    };
}

#[test]
fn bulkheads_and_their_limits() {
    let bulkhead = || Bulkhead::builder().clock(clock());
    let correlated = Correlated::builder;
    zeros! {
        BulkheadBuilder(bulkhead()) build() {
            max_concurrent(0) => Error;
            max_waiting(0) => Means("no call waits");
        }
        BulkheadBuilder(bulkhead().max_waiting(1)) build() {
            max_wait(ZERO) => Error;
            codel(ZERO, ZERO) => Error;
            partition("a", 0.0) => Error;
        }
        AimdBuilder(Aimd::builder()) build() {
            initial(0) => Error;
            min(0) => Error;
            max(0) => Error;
            increase_by(0) => Error;
            decrease_factor(0.0) => Means("drops to the minimum");
            timeout(ZERO) => Means("every call counts as overload");
            utilization(0.0) => Means("grows at any use");
        }
        Gradient2Builder(Gradient2::builder()) build() {
            initial(0) => Error;
            min(0) => Error;
            max(0) => Error;
            smoothing(0.0) => Error;
            queue_size(0) => Means("no growth");
            tolerance(0.0) => Error;
            long_window(0) => Error;
            recovery(0.0) => Error;
            decrease_factor(0.0) => Means("drops to the minimum");
            utilization(0.0) => Means("grows at any use");
        }
        GradientBuilder(Gradient::builder()) build() {
            min(0) => Error;
            max(0) => Error;
            update_interval(ZERO) => Error;
            quantile(0.0) => Means("the smallest latency");
            buffer(0.0) => Means("no increase is tolerated");
            overload_share(0.0) => Means("one overload suffices");
            utilization(0.0) => Means("grows at any use");
        }
        VegasBuilder(Vegas::builder()) build() {
            initial(0) => Error;
            min(0) => Error;
            max(0) => Error;
            smoothing(0.0) => Error;
            max_baseline_age(ZERO) => Error;
            utilization(0.0) => Means("grows at any use");
        }
        CorrelatedBuilder(correlated()) build() {
            initial(0) => Error;
            min(0) => Error;
            max(0) => Error;
            long_window(0) => Error;
            baseline(ZERO) => Error;
            correlation_window(0) => Means("turns the guard off");
            max_limit_factor(0.0, 0.0, 0.0) => Error;
            max_limit_stabilization(ZERO) => Means("the current number counts");
        }
        WindowedBuilder(Windowed::builder()) around(fixed()) {
            window_between(ZERO, ZERO) => Means("a window ends when it has its calls");
            min_calls(0) => Error;
            quantile(0.0) => Means("the smallest latency");
            min_latency(ZERO) => Means("no call is ignored");
            overload_share(0.0) => Means("one overload suffices");
        }
    }
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
    zeros! {
        CircuitBreakerBuilder(breaker()) build() {
            slow_call(ZERO) => Error;
            permitted_calls(0) => Error;
            probe_lease(ZERO) => Error;
            max_half_open(ZERO) => Error;
            ramp_up(ZERO) => Means("no ramp");
            max_hint(ZERO) => Means("hints are ignored");
            break_with(|_, _| ZERO) => Means("the next call is a probe");
        }
        ThrottleBuilder(throttle()) build() {
            success_threshold(0.0) => Error;
            window(ZERO) => Error;
            slices(0) => Error;
            min_calls(0) => Error;
            min_calls_per_second(0.0) => Means("no such bound");
            max_rejection(0.0) => Means("no call is rejected");
            aggression(0.0) => Error;
            probe_every(ZERO) => Error;
            grace(ZERO) => Means("calls count from their start");
        }
        LoadShedderBuilder(shedder()) build() {
            codel(ZERO, ZERO) => Error;
            signal(0.0, || 0.0) => Error;
            max_shed(0.0) => Error;
            cool_off(ZERO) => Means("shedding ends with the overload");
            update_interval(ZERO) => Error;
        }
        UserFairnessBuilder(users()) build() {
            max_users(0) => Error;
            half_life(ZERO) => Error;
        }
        CodelBuilder(Codel::builder()) build(backstop::Instant::default()) {
            target(ZERO) => Error;
            interval(ZERO) => Contradicts("target");
            stale_after(0) => Error;
        }
    }
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
    let policies = || {
        Keyed::<u64, Timeout>::builder(|_: &u64| {
            Timeout::builder()
                .after(Duration::from_secs(1))
                .clock(clock())
                .build()
                .unwrap()
        })
    };
    let cubic = backstop::adaptive_rate::CubicRate::builder;
    let now = || backstop::Instant::default();
    zeros! {
        RateLimiterBuilder(limiter()) build() {
            max_waiting(0) => Means("no call waits");
            max_wait(ZERO) => Means("no call waits");
            max_debt(0) => Means("no debt");
            pause_on_hint(ZERO) => Error;
            stripes(0) => Error;
        }
        KeyedRateLimiterBuilder(keyed()) build() {
            max_waiting(0) => Means("no call waits");
            max_wait(ZERO) => Means("no call waits");
            max_debt(0) => Means("no debt");
            pause_on_hint(ZERO) => Error;
            max_keys(0) => Error;
        }
        KeyedBuilder(policies()) build() {
            max_keys(0) => Error;
        }
        CubicRateBuilder(cubic()) build(now()) {
            decrease_factor(0.0) => Means("drops to `min_rate`");
            scale(0.0) => Error;
            smoothing(0.0) => Error;
            window(ZERO) => Error;
            min_rate(0.0) => Error;
        }
    }
}

#[test]
fn retries_hedges_and_budgets() {
    let retry = || Retry::builder().clock(clock());
    let hedge = || Hedge::builder().clock(clock());
    let percentage = || RetryBudget::percentage().clock(clock());
    let tokens = || RetryBudget::tokens().clock(clock());
    zeros! {
        RetryBuilder(retry()) build() {
            max_attempts(0) => Error;
            max_hint(ZERO) => Means("any hint ends the call");
            max_elapsed(ZERO) => Means("retries only where no time has passed");
            delay_with(|_| ZERO) => Means("retries at once");
        }
        HedgeBuilder(hedge()) build() {
            after(ZERO) => Means("copies start together");
            after_with(|_| ZERO) => Means("copies start together");
            quantile(0.0) => Error;
        }
        HedgeBuilder(hedge().quantile(0.9)) build() {
            min_calls(0) => Error;
            min_delay(ZERO) => Means("no least delay");
            window(ZERO) => Error;
        }
        HedgeBuilder(hedge().after(ZERO)) build() {
            max_extra_load(0.0) => Error;
            max_hedges(0) => Error;
            throttled_pause(ZERO) => Means("no pause");
        }
        PercentageBudgetBuilder(percentage()) build() {
            ratio(0.0) => Means("the floor alone");
            floor(0) => Means("no floor");
            window(ZERO) => Error;
        }
        InFlightBudgetBuilder(RetryBudget::in_flight()) build() {
            ratio(0.0) => Means("the floor alone");
            floor(0) => Means("no floor");
        }
        TokenBudgetBuilder(tokens()) build() {
            capacity(0) => Means("no retry that costs anything");
            initial(0) => Means("empty at the start");
            cost(ErrorClass::Transient, 0) => Means("such retries are free");
            reward(0.0) => Means("successes add nothing");
            refill_per_second(0.0) => Means("only successes refill");
        }
    }
}

#[test]
fn the_other_patterns() {
    let endpoints = || Endpoints::<u8>::builder().node("a", 1).clock(clock());
    let letters = || backstop::DeadLetterQueue::<u8>::builder().clock(clock());
    let standard = || Standard::builder().clock(clock());
    zeros! {
        EndpointsBuilder(endpoints()) build() {
            choices(0) => Error;
            decay(ZERO) => Error;
            failure_penalty(ZERO) => Means("failures count as fast as they are");
            eject_after(0) => Means("rule off");
            eject_below_mean(0.0, 0, 0) => Means("rule off");
            eject_failure_share(0.0, 0) => Means("rule off");
            interval(ZERO) => Error;
            base_ejection(ZERO) => Error;
            max_ejection(ZERO) => Error;
            ejection_jitter(0.0) => Means("no jitter");
            max_ejected(0.0) => Means("no node is ejected");
            max_hint(ZERO) => Means("hints are ignored");
            panic_threshold(0.0) => Means("no panic mode");
            overprovisioning(0.0) => Error;
            slow_start(ZERO) => Means("no slow start");
            slow_start_shape(0.0, 0.0) => Error;
            unhealthy_after(0) => Error;
            healthy_after(0) => Error;
        }
        StaleBuilder(Stale::<u8>::builder().clock(clock())) build() {
            max_age(ZERO) => Means("only values of the same instant");
        }
        TimeoutBuilder(Timeout::builder().clock(clock())) build() {
            after(ZERO) => Means("only ready operations");
            after_with(|_| ZERO) => Means("only ready operations");
        }
        DeadLetterQueueBuilder(letters()) build() {
            max_replays(0) => Error;
            max_error_bytes(0) => Means("no text is kept");
        }
        StandardBuilder(standard()) build() {
            max_attempts(0) => Error;
            total_timeout(ZERO) => Error;
            attempt_timeout(ZERO) => Error;
            budget_share(0.0, 0) => Means("no retries");
        }
    }
}

#[test]
fn shared_limits_and_votes() {
    let store = || backstop::store::MemoryStore::new(clock());
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
    zeros! {
        SharedRateLimiterBuilder(limiter()) build() {
            max_waiting(0) => Means("no call waits");
            max_wait(ZERO) => Means("no call waits");
            store_timeout(ZERO) => Error;
            sync_every(ZERO) => Error;
        }
        SharedKeyedRateLimiterBuilder(keyed()) build() {
            max_waiting(0) => Means("no call waits");
            max_wait(ZERO) => Means("no call waits");
            store_timeout(ZERO) => Error;
            sync_every(ZERO) => Error;
            max_keys(0) => Error;
        }
        SharedBulkheadBuilder(bulkhead()) build() {
            max_concurrent(0) => Error;
            max_waiting(0) => Means("no call waits");
            max_wait(ZERO) => Means("no call waits");
            ttl(ZERO) => Error;
            store_timeout(ZERO) => Error;
        }
        CircuitVotesBuilder(votes()) build() {
            every(ZERO) => Error;
            quorum(0.0) => Means("any open circuit");
            min_votes(0) => Error;
            failure_rate(0.0) => Error;
        }
    }
}

#[cfg(feature = "chaos")]
#[test]
fn faults() {
    let chaos = || backstop::Chaos::builder().clock(clock());
    zeros! {
        ChaosBuilder(chaos()) build() {
            latency(0.0, ZERO) => Means("no such fault");
            behavior(0.0, || std::future::ready(())) => Means("no such fault");
            error(0.0, || 1_u8) => Means("no such fault");
            result(0.0, || Ok::<u8, u8>(1)) => Means("no such fault");
            max_share(0.0) => Means("no faults");
        }
    }
}
