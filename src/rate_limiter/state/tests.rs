//! Tests of the state machines against slow and obvious models.

use std::collections::HashMap;
use std::time::Duration;

use proptest::prelude::*;

use super::fixed_window::FixedWindow;
use super::leaky_bucket::LeakyBucket;
use super::sliding_counter::SlidingCounter;
use super::sliding_log::SlidingLog;
use super::warm_up::WarmUp;
use super::*;
use crate::instant::Instant;

const SECOND: u64 = 1_000_000_000;
const YEAR: u64 = 365 * 86_400 * SECOND;

fn at(nanos: u64) -> Instant {
    Instant::from_nanos(nanos)
}

fn token(tokens: u64, period: u64, burst: u64) -> Machine {
    let rate = ExactRate::new(tokens, Duration::from_nanos(period), burst);
    let gcra = Gcra::new(rate, burst);
    Machine::Token(Bucket { gcra, tat: 0 })
}

fn window(kind: u8, limit: u64, window: u64) -> Machine {
    let period = Duration::from_nanos(window);
    match kind {
        0 => Machine::Fixed(FixedWindow::new(limit, period, limit, true)),
        1 => Machine::Fixed(FixedWindow::new(limit, period, limit, false)),
        2 => Machine::Log(SlidingLog::new(limit, period)),
        _ => Machine::Counter(SlidingCounter::new(limit, period)),
    }
}

fn take(machine: &mut Machine, now: u64, tokens: u64) -> Result<(), Unavailable> {
    machine.limit().ready(at(now), tokens, 0)?;
    machine.limit_mut().force_take(at(now), tokens);
    Ok(())
}

/// Checks that a rejection states the first instant at which the tokens are available.
fn check_unavailable(machine: &Machine, now: u64, tokens: u64, unavailable: Unavailable) {
    if let Unavailable::Until(until) = unavailable {
        assert!(until > at(now), "{machine:?}: {until:?} is not after {now}");
        assert_eq!(
            machine.limit().ready(until, tokens, 0),
            Ok(()),
            "{machine:?}"
        );
        let before = at(until.as_nanos() - 1);
        assert!(
            machine.limit().ready(before, tokens, 0).is_err(),
            "{machine:?}"
        );
    }
}

/// Generates calls: nanoseconds since the last one, and the cost relative to a limit.
fn calls(longest: u64) -> impl Strategy<Value = Vec<(u64, u64)>> {
    let pause = prop_oneof![Just(0), 0..longest / 10 + 1, 0..longest + 1];
    prop::collection::vec((pause, 1_u64..12), 1..120)
}

fn rate() -> impl Strategy<Value = (u64, u64)> {
    let period = prop_oneof![
        1_u64..2000,
        Just(SECOND),
        1_u64..10 * SECOND,
        Just(3600 * SECOND),
        Just(YEAR)
    ];
    let tokens = prop_oneof![1_u64..20, 1_u64..SECOND];
    (tokens, period).prop_map(|(tokens, period)| (tokens.min(period), period))
}

proptest! {
    #[test]
    fn a_token_bucket_agrees_with_exact_arithmetic(
        (tokens, period) in rate(),
        burst in 1_u64..40,
        calls in calls(1000),
        unit in prop_oneof![Just(1_u64), 1_u64..5_000_000_000],
    ) {
        let mut machine = token(tokens, period, burst);
        // The model counts in tokens divided by the period.
        let (rate, whole) = (i128::from(tokens), i128::from(period));
        let full = i128::from(burst) * whole;
        let (mut level, mut now) = (full, 0_u64);
        let mut admitted: Vec<(u64, u64)> = Vec::new();
        for (pause, cost) in calls {
            let passed = pause.saturating_mul(unit).min(YEAR);
            now += passed;
            level = full.min(level + i128::from(passed) * rate);
            let needed = i128::from(cost) * whole;
            match take(&mut machine, now, cost) {
                Ok(()) => {
                    // At most a nanosecond early.
                    prop_assert!(level + rate >= needed, "early by {}", needed - level);
                    level -= needed;
                    admitted.push((now, cost));
                }
                Err(Unavailable::Never) => prop_assert!(cost > burst),
                Err(unavailable) => {
                    prop_assert!(level - rate < needed, "late by {}", level - needed);
                    check_unavailable(&machine, now, cost, unavailable);
                }
            }
        }
        // No window admits more than the burst and what it earns.
        for (first, (start, _)) in admitted.iter().enumerate() {
            let mut sum = 0;
            for (end, cost) in &admitted[first..] {
                sum += i128::from(*cost) * whole;
                prop_assert!(sum <= full + (i128::from(end - start) + 1) * rate);
            }
        }
    }

    #[test]
    fn a_token_bucket_in_demand_gives_all_it_earns(
        (tokens, period) in rate(),
        burst in 1_u64..1000,
        cost in 1_u64..1000,
    ) {
        // Leaves room for what is earned between two readings of a clock in nanoseconds.
        let burst = burst.max(cost + 1);
        let mut machine = token(tokens, period, burst);
        let (mut now, mut given) = (0, 0_u128);
        for _ in 0..500 {
            if let Err(Unavailable::Until(until)) = machine.limit().ready(at(now), cost, 0) {
                now = until.as_nanos();
            }
            // Skips costs that take longer to earn than an `Instant` can represent.
            if at(now) == Instant::FAR_FUTURE {
                return Ok(());
            }
            take(&mut machine, now, cost).unwrap();
            given += u128::from(cost);
            if now > 50 * YEAR {
                break;
            }
        }
        // All tokens except the burst were earned, in exactly the time that the rate needs for them.
        let earned = given.saturating_sub(u128::from(burst));
        let due = earned * u128::from(period) / u128::from(tokens);
        prop_assert!(u128::from(now).abs_diff(due) <= 1, "{now} {due}");
    }

    #[test]
    fn a_fixed_window_counts_by_window(limit in 1_u64..40, size in 1_u64..1000, calls in calls(1000)) {
        let mut machine = window(0, limit, size);
        let mut model: HashMap<u64, u64> = HashMap::new();
        let mut now = 0;
        for (pause, cost) in calls {
            now += pause;
            let used = model.entry(now / size).or_default();
            let taken = take(&mut machine, now, cost);
            prop_assert_eq!(taken.is_ok(), *used + cost <= limit);
            match taken {
                Ok(()) => *used += cost,
                Err(unavailable) => check_unavailable(&machine, now, cost, unavailable),
            }
        }
    }

    #[test]
    fn a_window_from_the_first_call_starts_with_it(
        limit in 1_u64..40,
        size in 1_u64..1000,
        calls in calls(1000),
    ) {
        let mut machine = window(1, limit, size);
        let (mut started, mut used, mut now): (Option<u64>, u64, u64) = (None, 0, 0);
        for (pause, cost) in calls {
            now += pause;
            if started.is_some_and(|started| now >= started + size) {
                (started, used) = (None, 0);
            }
            let taken = take(&mut machine, now, cost);
            prop_assert_eq!(taken.is_ok(), used + cost <= limit);
            match taken {
                Ok(()) => {
                    started.get_or_insert(now);
                    used += cost;
                }
                Err(unavailable) => check_unavailable(&machine, now, cost, unavailable),
            }
        }
    }

    #[test]
    fn a_sliding_log_admits_its_limit_in_every_window(
        limit in 1_u64..40,
        size in 1_u64..1000,
        calls in calls(1000),
    ) {
        let mut machine = window(2, limit, size);
        let mut model: Vec<(u64, u64)> = Vec::new();
        let mut now = 0;
        for (pause, cost) in calls {
            now += pause;
            let recent = |(at, _): &&(u64, u64)| at + size > now;
            let used: u64 = model.iter().filter(recent).map(|(_, cost)| cost).sum();
            let taken = take(&mut machine, now, cost);
            prop_assert_eq!(taken.is_ok(), used + cost <= limit);
            match taken {
                Ok(()) => model.push((now, cost)),
                Err(unavailable) => check_unavailable(&machine, now, cost, unavailable),
            }
        }
    }

    #[test]
    fn a_sliding_counter_is_its_formula(
        limit in 1_u64..40,
        size in 1_u64..1000,
        calls in calls(1000),
    ) {
        let mut machine = window(3, limit, size);
        let mut model: HashMap<u64, u64> = HashMap::new();
        let (mut now, mut admitted) = (0, Vec::new());
        for (pause, cost) in calls {
            now += pause;
            let (index, elapsed) = (now / size, now % size);
            let count = |index: u64| model.get(&index).copied().unwrap_or(0);
            let before = index.checked_sub(1).map_or(0, count);
            let used = before * (size - elapsed) / size + count(index);
            let taken = take(&mut machine, now, cost);
            prop_assert_eq!(taken.is_ok(), used + cost <= limit);
            match taken {
                Ok(()) => {
                    *model.entry(index).or_default() += cost;
                    admitted.push((now, cost));
                }
                Err(unavailable) => check_unavailable(&machine, now, cost, unavailable),
            }
        }
        // The counter assumes an even past, so a window may hold more than the limit, but never twice that.
        for (first, (start, _)) in admitted.iter().enumerate() {
            let inside = admitted[first..].iter().take_while(|(at, _)| *at < start + size);
            prop_assert!(inside.map(|(_, cost)| cost).sum::<u64>() <= 2 * limit);
        }
    }

    #[test]
    fn a_leaky_bucket_admits_one_call_per_interval(
        (tokens, period) in rate(),
        calls in calls(1000),
        unit in prop_oneof![Just(1_u64), 1_u64..5_000_000_000],
    ) {
        let rate = ExactRate::new(tokens, Duration::from_nanos(period), 20);
        let mut machine = Machine::Leaky(LeakyBucket::new(rate, 20));
        let (mut now, mut last): (u64, Option<(u64, u64)>) = (0, None);
        for (pause, cost) in calls {
            now += pause.saturating_mul(unit).min(YEAR);
            // The last call that left occupies `cost` intervals.
            let free = last.map_or(0, |(at, cost)| {
                u128::from(at) + (u128::from(cost) * u128::from(period)).div_ceil(u128::from(tokens))
            });
            match take(&mut machine, now, cost) {
                Ok(()) => {
                    prop_assert!(u128::from(now) + 1 >= free);
                    last = Some((now, cost));
                }
                Err(unavailable) => {
                    prop_assert!(u128::from(now) < free + 1);
                    check_unavailable(&machine, now, cost, unavailable);
                }
            }
        }
    }

    /// Tokens taken and returned at once have no effect, and a backward jump earns nothing.
    #[test]
    fn returned_tokens_have_no_effect_and_backward_jumps_earn_nothing(
        kind in 0_u8..5,
        limit in 1_u64..40,
        size in 1_u64..1000,
        calls in calls(1000),
        back in 0_u64..500,
    ) {
        let mut machine = match kind {
            4 => token(limit.min(size), size, limit),
            kind => window(kind, limit, size),
        };
        let mut now = 1000;
        for (pause, cost) in calls {
            now += pause;
            let _ = take(&mut machine, now, cost);
            let before = machine.limit().availability(at(now));
            machine.limit_mut().force_take(at(now), cost);
            machine.limit_mut().give(at(now), Some(at(now)), cost);
            let after = machine.limit().availability(at(now));
            prop_assert_eq!(before.available, after.available, "{:?}", machine);
            let earlier = machine.limit().availability(at(now - back.min(now)));
            prop_assert!(earlier.available <= before.available.max(0) || kind == 3);
        }
    }

    #[test]
    fn a_change_of_the_quota_keeps_the_tokens_that_inherit_demands(
        kind in 0_u8..5,
        old in 1_u64..40,
        new in 1_u64..40,
        taken in 0_u64..40,
        inherit in prop_oneof![
            Just(Inherit::AsIs), Just(Inherit::Proportional), Just(Inherit::Additive), Just(Inherit::Reset)
        ],
    ) {
        let make = |limit: u64| match kind {
            4 => token(1, 1000, limit),
            kind => window(kind, limit, 1000),
        };
        let taken = taken.min(old);
        let mut machine = make(old);
        machine.limit_mut().force_take(at(5000), taken);
        prop_assert!(machine.replace(at(5000), make(new), inherit));
        let (left, old, new) = ((old - taken) as i64, old as i64, new as i64);
        let due = match inherit {
            Inherit::AsIs => left.min(new),
            // Compared with a tolerance of one token, for rounding.
            Inherit::Proportional => left * new / old,
            Inherit::Additive if new > old => left + new - old,
            Inherit::Additive => left.min(new),
            Inherit::Reset => new,
        };
        let available = machine.limit().availability(at(5000)).available;
        let slack = i64::from(inherit == Inherit::Proportional);
        prop_assert!((due..=due + slack).contains(&available), "{available} {due} {machine:?}");
    }
}

#[test]
fn window_limits_in_demand_give_all_they_earn() {
    for kind in 0..4 {
        let (limit, size) = (10, 1000);
        let mut machine = window(kind, limit, size);
        let (mut now, mut given) = (0, 0);
        while given < 100_000 {
            if let Err(Unavailable::Until(until)) = machine.limit().ready(at(now), 1, 0) {
                now = until.as_nanos();
            }
            take(&mut machine, now, 1).unwrap();
            given += 1;
        }
        let windows = now / size + 1;
        // The counter's assumption costs it a share at the start, which is not lost for good.
        let due = windows * limit;
        assert!(
            given <= due + limit && due - limit <= given + limit,
            "{kind}: {given} {due}"
        );
    }
}

#[test]
fn a_debt_is_paid_before_anything_else() {
    let mut fixed = window(0, 2, SECOND);
    fixed.limit_mut().force_take(at(0), 7);
    assert_eq!(
        fixed.limit().ready(at(0), 0, 0),
        Err(Unavailable::Until(at(3 * SECOND)))
    );
    assert_eq!(fixed.limit().ready(at(0), 1, 6), Ok(()));
    assert_eq!(fixed.limit().availability(at(0)).available, -5);
    assert_eq!(fixed.limit().availability(at(3 * SECOND)).available, 1);
}

#[test]
fn a_window_that_is_over_gets_nothing_back() {
    for kind in 0..4 {
        let mut machine = window(kind, 10, 100);
        machine.limit_mut().force_take(at(0), 10);
        machine.limit_mut().force_take(at(250), 10);
        let before = machine.limit().availability(at(250)).available;
        machine.limit_mut().give(at(250), Some(at(0)), 10);
        assert_eq!(
            machine.limit().availability(at(250)).available,
            before,
            "{kind}"
        );
    }
}

#[test]
fn warming_up_takes_the_configured_time() {
    // 10/s when warm, three times slower when cold, four seconds to warm up.
    let mut machine = Machine::WarmUp(WarmUp::new(
        10,
        Duration::from_nanos(SECOND),
        1,
        Duration::from_secs(4),
        3,
    ));
    let mut times = Vec::new();
    let mut now = SECOND;
    for _ in 0..100 {
        if let Err(Unavailable::Until(until)) = machine.limit().ready(at(now), 1, 0) {
            now = until.as_nanos();
        }
        take(&mut machine, now, 1).unwrap();
        times.push(now);
    }
    let interval = |n: usize| (times[n + 1] - times[n]) as f64 / 1e6;
    assert!((280.0..300.0).contains(&interval(0)), "{}", interval(0));
    assert!((0..90).all(|n| interval(n) + 1e-3 >= interval(n + 1)));
    assert!((interval(60) - 100.0).abs() < 1e-3, "{}", interval(60));
    // Twenty permits lie between cold and warm, and the threshold is reached after four seconds.
    assert!((times[20] - times[0]).abs_diff(4 * SECOND) < SECOND / 1000);
    // After a pause as long as the warm-up, it is cold again.
    now += 9 * SECOND;
    take(&mut machine, now, 1).unwrap();
    let Err(Unavailable::Until(next)) = machine.limit().ready(at(now), 1, 0) else {
        panic!("no interval");
    };
    assert!(next > at(now + SECOND / 4));
}

#[test]
fn several_limits_are_all_or_nothing() {
    let mut limits = Limits::new(vec![token(10, SECOND, 10), window(0, 15, 3600 * SECOND)]);
    assert_eq!(limits.take(at(0), 10, 0), Ok(()));
    assert_eq!(
        limits.take(at(SECOND), 6, 0),
        Err(Unavailable::Until(at(3600 * SECOND)))
    );
    // The bucket was full again, and the rejection took nothing.
    assert_eq!(limits.availabilities(at(SECOND))[0].available, 10);
    assert_eq!(limits.take(at(SECOND), 5, 0), Ok(()));
    assert_eq!(limits.availability(at(SECOND)).available, 0);
}

#[test]
fn extreme_numbers_saturate() {
    let extremes = [1, 2, SECOND, 1 << 40];
    let times = [0, 1, SECOND, u64::MAX / 2, u64::MAX - 1, u64::MAX];
    for tokens in extremes {
        for period in [tokens, SECOND.max(tokens), u64::MAX] {
            for burst in extremes {
                let mut machines = vec![token(tokens, period, burst)];
                machines.extend((0..4).map(|kind| window(kind, burst, period)));
                let rate = ExactRate::new(tokens, Duration::from_nanos(period), burst);
                machines.push(Machine::Leaky(LeakyBucket::new(rate, burst)));
                machines.push(Machine::WarmUp(WarmUp::new(
                    tokens,
                    Duration::from_nanos(period),
                    burst,
                    Duration::MAX,
                    u32::MAX,
                )));
                for machine in &mut machines {
                    for now in times.into_iter().chain(times) {
                        for cost in [0, 1, burst, u64::MAX] {
                            let _ = machine.limit().ready(at(now), cost, 0);
                            let _ = machine.limit().ready(at(now), cost, u64::MAX);
                            machine.limit_mut().force_take(at(now), cost);
                            let _ = machine.limit().availability(at(now));
                            machine.limit_mut().give(at(now), Some(at(now)), cost);
                            machine.limit_mut().give(at(now), None, 1);
                        }
                    }
                    let copy = machine.clone();
                    for inherit in [Inherit::AsIs, Inherit::Proportional, Inherit::Additive] {
                        machine.replace(at(SECOND), copy.clone(), inherit);
                    }
                }
            }
        }
    }
}
