//! Zero in every numeric setting of every builder: an error that names the setting, or one documented meaning, which a
//! function tests.
//!
//! `scripts/vocabulary --check` checks that the table has a row for each number and each duration.

#[path = "settings_of_zero/calls.rs"]
mod calls;
#[path = "settings_of_zero/fleets.rs"]
mod fleets;
#[path = "settings_of_zero/limits.rs"]
mod limits;
#[path = "settings_of_zero/rejections.rs"]
mod rejections;

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
const SECOND: Duration = Duration::from_secs(1);

const fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// The effect of zero.
#[derive(Debug)]
enum Effect {
    /// `build` names the setting.
    Error,
    /// `build` names another setting, which zero contradicts.
    Contradicts(&'static str),
    /// Zero has this meaning, which the function tests.
    Means(&'static str, fn()),
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
        if let Means(meaning, test) = &effect {
            println!("{builder}::{setting}: {meaning}");
            test();
        }
        let expected = match effect {
            Error => Some(setting),
            Contradicts(other) => Some(other),
            Means(..) => None,
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
            max_waiting(0) => Means("no call waits", limits::no_call_waits);
        }
        BulkheadBuilder(bulkhead().max_waiting(1)) build() {
            max_wait(ZERO) => Means("no call waits", limits::no_call_waits);
            codel(ZERO, ZERO) => Error;
            partition("a", 0.0) => Error;
        }
        AimdBuilder(Aimd::builder()) build() {
            initial(0) => Error;
            min(0) => Error;
            max(0) => Error;
            increase_by(0) => Error;
            decrease_factor(0.0) => Means("drops to the minimum", limits::an_overload_drops_to_the_minimum);
            timeout(ZERO) => Means("every call counts as overload", limits::every_call_is_an_overload);
            utilization(0.0) => Means("grows at any use", limits::it_grows_at_any_use);
        }
        Gradient2Builder(Gradient2::builder()) build() {
            initial(0) => Error;
            min(0) => Error;
            max(0) => Error;
            smoothing(0.0) => Error;
            queue_size(0) => Means("no growth", limits::the_limit_does_not_grow);
            tolerance(0.0) => Error;
            long_window(0) => Error;
            recovery(0.0) => Error;
            decrease_factor(0.0) => Means("drops to the minimum", limits::an_overload_drops_to_the_minimum);
            utilization(0.0) => Means("grows at any use", limits::it_grows_at_any_use);
        }
        GradientBuilder(Gradient::builder()) build() {
            min(0) => Error;
            max(0) => Error;
            update_interval(ZERO) => Error;
            quantile(0.0) => Means("the smallest latency", limits::the_smallest_latency_counts);
            buffer(0.0) => Means("no increase is tolerated", limits::no_excess_is_tolerated);
            overload_share(0.0) => Means("one overload suffices", limits::one_overload_suffices_for_a_gradient);
            utilization(0.0) => Means("grows at any use", limits::it_grows_at_any_use);
        }
        VegasBuilder(Vegas::builder()) build() {
            initial(0) => Error;
            min(0) => Error;
            max(0) => Error;
            smoothing(0.0) => Error;
            max_baseline_age(ZERO) => Error;
            utilization(0.0) => Means("grows at any use", limits::it_grows_at_any_use);
        }
        CorrelatedBuilder(correlated()) build() {
            initial(0) => Error;
            min(0) => Error;
            max(0) => Error;
            long_window(0) => Error;
            baseline(ZERO) => Error;
            correlation_window(0) => Means("turns the guard off", limits::correlations_change_nothing);
            max_limit_factor(0.0, 0.0, 0.0) => Error;
            max_limit_stabilization(ZERO) => Means("the current number counts", limits::only_the_current_number_counts);
        }
        WindowedBuilder(Windowed::builder()) around(fixed()) {
            window_between(ZERO, ZERO) => Means("a window ends when it has its calls", limits::a_window_ends_when_it_has_its_calls);
            min_calls(0) => Error;
            quantile(0.0) => Means("the smallest latency", limits::an_aggregate_has_the_smallest_latency);
            min_latency(ZERO) => Means("no call is ignored", limits::no_call_is_too_fast);
            overload_share(0.0) => Means("one overload suffices", limits::one_overload_suffices_for_a_window);
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
            ramp_up(ZERO) => Means("no ramp", rejections::there_is_no_ramp);
            max_hint(ZERO) => Means("hints are ignored", rejections::breakers_ignore_hints);
            break_with(|_, _| ZERO) => Means("the next call is a probe", rejections::the_next_call_is_a_probe);
        }
        ThrottleBuilder(throttle()) build() {
            success_threshold(0.0) => Error;
            window(ZERO) => Error;
            slices(0) => Error;
            min_calls(0) => Error;
            min_calls_per_second(0.0) => Means("no such bound", rejections::any_rate_of_calls_is_throttled);
            max_rejection(0.0) => Means("no call is rejected", rejections::no_call_is_throttled);
            aggression(0.0) => Error;
            probe_every(ZERO) => Error;
            grace(ZERO) => Means("calls count from their start", rejections::calls_count_from_their_start);
        }
        LoadShedderBuilder(shedder()) build() {
            codel(ZERO, ZERO) => Error;
            signal(0.0, || 0.0) => Error;
            max_shed(0.0) => Error;
            cool_off(ZERO) => Means("shedding ends with the overload", rejections::shedding_ends_with_the_overload);
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
            max_waiting(0) => Means("no call waits", rejections::no_call_waits_for_a_rate);
            max_wait(ZERO) => Means("no call waits", rejections::no_call_waits_for_a_rate);
            max_debt(0) => Means("no debt", rejections::there_is_no_debt);
            pause_on_hint(ZERO) => Error;
            stripes(0) => Error;
        }
        KeyedRateLimiterBuilder(keyed()) build() {
            max_waiting(0) => Means("no call waits", rejections::no_call_waits_for_a_key);
            max_wait(ZERO) => Means("no call waits", rejections::no_call_waits_for_a_key);
            max_debt(0) => Means("no debt", rejections::there_is_no_debt);
            pause_on_hint(ZERO) => Error;
            max_keys(0) => Error;
        }
        KeyedBuilder(policies()) build() {
            max_keys(0) => Error;
        }
        CubicRateBuilder(cubic()) build(now()) {
            decrease_factor(0.0) => Means("drops to `min_rate`", rejections::the_rate_drops_to_the_lowest);
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
            max_hint(ZERO) => Means("any hint ends the call", calls::any_hint_ends_the_call);
            max_elapsed(ZERO) => Means("retries only where no time has passed", calls::retries_only_without_delay);
            delay_with(|_| ZERO) => Means("retries at once", calls::retries_are_immediate);
        }
        HedgeBuilder(hedge()) build() {
            after(ZERO) => Means("copies start together", calls::copies_start_together);
            after_with(|_| ZERO) => Means("copies start together", calls::copies_start_together);
            quantile(0.0) => Error;
        }
        HedgeBuilder(hedge().quantile(0.9)) build() {
            min_calls(0) => Error;
            min_delay(ZERO) => Means("no least delay", calls::there_is_no_least_delay);
            window(ZERO) => Error;
        }
        HedgeBuilder(hedge().after(ZERO)) build() {
            max_extra_load(0.0) => Error;
            max_hedges(0) => Error;
            throttled_pause(ZERO) => Means("no pause", calls::there_is_no_pause);
        }
        PercentageBudgetBuilder(percentage()) build() {
            ratio(0.0) => Means("the floor alone", calls::only_the_floor_is_left);
            floor(0) => Means("no floor", calls::there_is_no_floor);
            window(ZERO) => Error;
        }
        InFlightBudgetBuilder(RetryBudget::in_flight()) build() {
            ratio(0.0) => Means("the floor alone", calls::only_the_floor_is_left);
            floor(0) => Means("no floor", calls::there_is_no_floor);
        }
        TokenBudgetBuilder(tokens()) build() {
            capacity(0) => Means("no retry that costs anything", calls::no_retry_is_paid);
            initial(0) => Means("empty at the start", calls::no_retry_is_paid);
            cost(ErrorClass::Transient, 0) => Means("such retries are free", calls::retries_are_free);
            reward(0.0) => Means("successes add nothing", calls::successes_add_nothing);
            refill_per_second(0.0) => Means("only successes refill", calls::time_refills_nothing);
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
            failure_penalty(ZERO) => Means("failures count as fast as they are", fleets::failures_count_as_fast_as_they_are);
            eject_after(0) => Means("rule off", fleets::the_rules_are_off);
            eject_below_mean(0.0, 0, 0) => Means("rule off", fleets::the_rules_are_off);
            eject_failure_share(0.0, 0) => Means("rule off", fleets::the_rules_are_off);
            interval(ZERO) => Error;
            base_ejection(ZERO) => Error;
            max_ejection(ZERO) => Error;
            ejection_jitter(0.0) => Means("no jitter", fleets::ejections_have_no_jitter);
            max_ejected(0.0) => Means("no node is ejected", fleets::no_node_is_ejected);
            max_hint(ZERO) => Means("hints are ignored", fleets::nodes_are_not_parked);
            panic_threshold(0.0) => Means("no panic mode", fleets::there_is_no_panic);
            overprovisioning(0.0) => Error;
            slow_start(ZERO) => Means("no slow start", fleets::new_nodes_start_at_once);
            slow_start_shape(0.0, 0.0) => Error;
            unhealthy_after(0) => Error;
            healthy_after(0) => Error;
        }
        StaleBuilder(Stale::<u8>::builder().clock(clock())) build() {
            max_age(ZERO) => Means("only values of the same instant", calls::only_values_of_the_same_instant_are_returned);
        }
        TimeoutBuilder(Timeout::builder().clock(clock())) build() {
            after(ZERO) => Means("only ready operations", calls::only_ready_operations_succeed);
            after_with(|_| ZERO) => Means("only ready operations", calls::only_ready_operations_succeed);
        }
        DeadLetterQueueBuilder(letters()) build() {
            max_replays(0) => Error;
            max_error_bytes(0) => Means("no text is kept", calls::no_text_is_kept);
        }
        StandardBuilder(standard()) build() {
            max_attempts(0) => Error;
            total_timeout(ZERO) => Error;
            attempt_timeout(ZERO) => Error;
            budget_share(0.0, 0) => Means("no retries", calls::a_stack_makes_no_retry);
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
            max_waiting(0) => Means("no call waits", fleets::no_call_waits_for_the_fleet);
            max_wait(ZERO) => Means("no call waits", fleets::no_call_waits_for_the_fleet);
            store_timeout(ZERO) => Error;
            sync_every(ZERO) => Error;
        }
        SharedKeyedRateLimiterBuilder(keyed()) build() {
            max_waiting(0) => Means("no call waits", fleets::no_call_of_a_key_waits_for_the_fleet);
            max_wait(ZERO) => Means("no call waits", fleets::no_call_of_a_key_waits_for_the_fleet);
            store_timeout(ZERO) => Error;
            sync_every(ZERO) => Error;
            max_keys(0) => Error;
        }
        SharedBulkheadBuilder(bulkhead()) build() {
            max_concurrent(0) => Error;
            max_waiting(0) => Means("no call waits", fleets::no_call_waits_for_permits_of_the_fleet);
            max_wait(ZERO) => Means("no call waits", fleets::no_call_waits_for_permits_of_the_fleet);
            ttl(ZERO) => Error;
            store_timeout(ZERO) => Error;
        }
        CircuitVotesBuilder(votes()) build() {
            every(ZERO) => Error;
            quorum(0.0) => Means("any open circuit", fleets::any_open_circuit_is_a_quorum);
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
            latency(0.0, ZERO) => Means("no such fault", calls::there_are_no_faults);
            behavior(0.0, || std::future::ready(())) => Means("no such fault", calls::there_are_no_faults);
            error(0.0, || 1_u8) => Means("no such fault", calls::there_are_no_faults);
            result(0.0, || Ok::<u8, u8>(1)) => Means("no such fault", calls::there_are_no_faults);
            max_share(0.0) => Means("no faults", calls::there_are_no_faults);
        }
    }
}
