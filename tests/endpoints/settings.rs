//! Every setting at its ends.

#[path = "../values/mod.rs"]
mod values;

use std::time::Duration;

use backstop::endpoints::{Endpoint, EndpointsBuilder};
use backstop::{ConfigError, Endpoints, ManualClock, Verdict};

use self::values::{COUNTS, NUMBERS, TIMES, check};

fn try_out(endpoints: Endpoints<usize>) {
    for round in 0..40 {
        let Ok(permit) = endpoints.try_acquire() else {
            continue;
        };
        match round % 4 {
            0 => permit.success(),
            1 => permit.record(Verdict::throttled(Duration::MAX)),
            2 => permit.failure(),
            _ => drop(permit),
        }
    }
    drop(endpoints.drain("a"));
    endpoints.resume("a");
    assert_eq!(endpoints.snapshot().nodes.len(), 3);
}

type Set<V> = fn(EndpointsBuilder<usize>, V) -> EndpointsBuilder<usize>;

/// The name of a setting, its setter, and which values it takes.
type Setting<'a, V> = (&'a str, Set<V>, &'a dyn Fn(V) -> bool);

#[test]
fn settings_take_what_they_document() {
    fn build<V>(set: Set<V>) -> impl Fn(V) -> Result<Endpoints<usize>, ConfigError> {
        move |value| {
            let clock = ManualClock::new();
            let nodes = ["a", "b", "c"].map(|name| Endpoint::new(name, 0));
            set(Endpoints::builder().nodes(nodes).clock(clock), value).build()
        }
    }
    let share = |value: f64| (0.0..=1.0).contains(&value);
    let numbers: [Setting<f64>; 7] = [
        ("ejection_jitter", EndpointsBuilder::ejection_jitter, &share),
        ("max_ejected", EndpointsBuilder::max_ejected, &share),
        ("panic_threshold", EndpointsBuilder::panic_threshold, &share),
        (
            "overprovisioning",
            EndpointsBuilder::overprovisioning,
            &|value| (1.0..=100.0).contains(&value),
        ),
        (
            "slow_start_shape",
            |builder, min| builder.slow_start_shape(min, 1.0),
            &share,
        ),
        (
            "eject_failure_share",
            |builder, share| builder.eject_failure_share(share, 1),
            &share,
        ),
        (
            "eject_below_mean",
            |builder, deviations| builder.eject_below_mean(deviations, 1, 0),
            &|value| value >= 0.0 && value.is_finite(),
        ),
    ];
    for (setting, set, good) in numbers {
        check(setting, &NUMBERS, good, build(set), try_out);
    }
    let shape: Set<f64> = |builder, aggression| builder.slow_start_shape(0.1, aggression);
    let good = |value: f64| (0.1..=10.0).contains(&value);
    check("slow_start_shape", &NUMBERS, good, build(shape), try_out);
    let counts: [Setting<u32>; 4] = [
        (
            "choices",
            |builder, count| builder.choices(count as usize),
            &|count| (1..=16).contains(&count),
        ),
        ("eject_after", EndpointsBuilder::eject_after, &|_| true),
        (
            "unhealthy_after",
            EndpointsBuilder::unhealthy_after,
            &|count| count > 0,
        ),
        ("healthy_after", EndpointsBuilder::healthy_after, &|count| {
            count > 0
        }),
    ];
    for (setting, set, good) in counts {
        check(setting, &COUNTS, good, build(set), try_out);
    }
    let hour = Duration::from_secs(3600);
    let times: [Setting<Duration>; 7] = [
        ("decay", EndpointsBuilder::decay, &|time| !time.is_zero()),
        (
            "failure_penalty",
            EndpointsBuilder::failure_penalty,
            &|_| true,
        ),
        ("max_hint", EndpointsBuilder::max_hint, &|_| true),
        ("interval", EndpointsBuilder::interval, &|time| {
            time >= Duration::from_millis(1) && time <= hour
        }),
        (
            "base_ejection",
            |builder, time| builder.base_ejection(time).max_ejection(Duration::MAX),
            &|time| !time.is_zero(),
        ),
        ("max_ejection", EndpointsBuilder::max_ejection, &|time| {
            time >= Duration::from_secs(30)
        }),
        ("slow_start", EndpointsBuilder::slow_start, &|_| true),
    ];
    for (setting, set, good) in times {
        check(setting, &TIMES, good, build(set), try_out);
    }
    let weights: Set<f64> = |builder, weight| builder.nodes([Endpoint::new("d", 0).weight(weight)]);
    let good = |weight: f64| weight > 0.0 && weight <= 1e6;
    check("nodes", &NUMBERS, good, build(weights), |endpoints| {
        drop(endpoints.try_acquire())
    });
}

#[test]
fn names_must_differ() {
    let error = Endpoints::builder()
        .node("a", 1)
        .node("a", 2)
        .clock(ManualClock::new())
        .build();
    assert_eq!(error.unwrap_err().setting(), "nodes");
}

#[test]
fn a_longest_ejection_below_the_first_one_is_an_error() {
    let builder = Endpoints::builder().node("a", 1).clock(ManualClock::new());
    let second = Duration::from_secs(1);
    let builder = builder.base_ejection(60 * second);
    let equal = builder.clone().max_ejection(60 * second);
    assert!(equal.build().is_ok());
    let error = builder.max_ejection(10 * second).build().unwrap_err();
    assert_eq!(error.setting(), "max_ejection");
}

#[test]
fn turns_and_a_number_of_choices_contradict_each_other() {
    let builder = Endpoints::builder().node("a", 1).clock(ManualClock::new());
    assert!(builder.clone().round_robin().build().is_ok());
    for both in [
        builder.clone().choices(3).round_robin(),
        builder.round_robin().choices(3),
    ] {
        let error = both.build().unwrap_err();
        let text = "endpoints: round_robin contradicts `choices`: it draws no nodes";
        assert_eq!(error.to_string(), text);
    }
}
