//! Tests of the pure state machines against small models, and against the tables of their sources.

mod health;
mod routes;

use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;

use super::health::Machine;
use super::latency::{Decay, Latency};
use super::priority::{Level, spread};
use super::record::{Change, Record, Standing};
use super::rules::{Rules, SuccessRate};
use super::slow_start::SlowStart;
use super::stats::NodeStats;
use crate::event::{EjectionCause, Unenforced};
use crate::instant::Instant;
use crate::rng::Stream;

const SECOND: Duration = Duration::from_secs(1);

fn at(seconds: u64) -> Instant {
    Instant::ORIGIN + Duration::from_secs(seconds)
}

/// The default rules without randomness and slow start.
fn rules() -> Rules {
    Rules {
        jitter: 0.0,
        slow_start: SlowStart::new(Duration::ZERO, 0.1, 1.0),
        healthy_after: 2,
        ..Rules::DEFAULT
    }
}

fn machine(nodes: usize, rules: Rules) -> Machine {
    let mut machine = Machine::new(rules, Instant::ORIGIN);
    for _ in 0..nodes {
        machine.insert(Record::new(1.0, 0, 0, None));
    }
    machine
}

fn stats(machine: &Machine, index: u32) -> Arc<NodeStats> {
    machine.get(index).unwrap().stats.clone()
}

/// Counts ended calls of a node.
fn count(machine: &Machine, index: u32, good: u32, failed: u32) {
    let stats = stats(machine, index);
    for _ in 0..failed {
        stats.fail(true);
    }
    (0..good).for_each(|_| stats.succeed(true));
}

fn eject_failing(machine: &mut Machine, index: u32, now: Instant) -> Option<Change> {
    let stats = stats(machine, index);
    machine.eject_failing(index, &stats, stats.epoch(), now, 0.0)
}

fn end_probe(machine: &mut Machine, index: u32, is_good: bool, now: Instant) -> Option<Change> {
    let stats = stats(machine, index);
    machine.end_probe(index, &stats, stats.epoch(), is_good, now, 0.0)
}

fn advance(machine: &mut Machine, now: Instant) -> Vec<Change> {
    machine.advance(now, &mut Stream::from_bits(1))
}

fn standing(machine: &Machine, index: u32) -> Standing {
    machine.get(index).unwrap().standing
}

/// The percentages of healthy nodes of the levels, and the percentages of the calls that they get.
type Row = (&'static [usize], &'static [u32]);

#[test]
fn calls_spill_over_as_in_the_tables_of_envoy() {
    // The three tables of the page "Priority levels" in Envoy's documentation, row by row.
    let table: [Row; 20] = [
        (&[100, 100], &[100, 0]),
        (&[72, 100], &[100, 0]),
        (&[71, 100], &[99, 1]),
        (&[50, 100], &[70, 30]),
        (&[25, 100], &[35, 65]),
        (&[0, 100], &[0, 100]),
        (&[72, 72], &[100, 0]),
        (&[71, 71], &[99, 1]),
        (&[50, 50], &[70, 30]),
        (&[25, 25], &[50, 50]),
        // Healths of 21 and 30, scaled up.
        (&[15, 22], &[41, 59]),
        (&[100, 100, 100], &[100, 0, 0]),
        (&[72, 72, 100], &[100, 0, 0]),
        (&[71, 71, 100], &[99, 1, 0]),
        (&[50, 50, 100], &[70, 30, 0]),
        (&[25, 100, 100], &[35, 65, 0]),
        (&[25, 25, 100], &[35, 35, 30]),
        (&[25, 25, 20], &[36, 36, 28]),
        // Differs from the page "Panic threshold", which gives 50 % here, against its own formula.
        (&[50, 60], &[70, 30]),
        (&[5, 65], &[7, 93]),
    ];
    for (healthy, expected) in table {
        let levels: Vec<Level> = healthy
            .iter()
            .map(|&available| Level {
                available,
                total: 100,
            })
            .collect();
        let shares: Vec<u32> = spread(&levels, 1.4, 0.5)
            .iter()
            .map(|share| share.percent)
            .collect();
        assert_eq!(shares, expected, "{healthy:?}");
    }
}

#[test]
fn the_first_priority_gets_all_calls_down_to_five_sevenths_of_its_nodes() {
    for (available, total, percent) in [
        (5, 7, 100),
        (143, 200, 100),
        (715, 1000, 100),
        (714, 1000, 99),
    ] {
        let next = Level {
            available: 1,
            total: 1,
        };
        let shares = spread(&[Level { available, total }, next], 1.4, 0.5);
        assert_eq!(shares[0].percent, percent, "{available} of {total}");
    }
}

#[test]
fn the_first_level_in_use_gets_what_rounding_leaves() {
    let levels = [1, 50, 22].map(|available| Level {
        available,
        total: 100,
    });
    let shares = spread(&levels, 1.0, 0.0);
    // In percent of 73: 1.4, 68.5, and 30.1, rounded to 1, 68, and 30.
    let percents: Vec<u32> = shares.iter().map(|share| share.percent).collect();
    assert_eq!(percents, [2, 68, 30]);
}

#[test]
fn levels_panic_as_in_the_table_of_envoy() {
    // Both tables of the page "Panic threshold" in Envoy's documentation.
    let table: [(&[usize], &[bool]); 12] = [
        (&[72, 100], &[false, false]),
        (&[71, 100], &[false, false]),
        (&[50, 100], &[false, false]),
        (&[25, 100], &[false, false]),
        (&[0, 100], &[false, false]),
        (&[72, 72], &[false, false]),
        (&[71, 71], &[false, false]),
        (&[50, 60], &[false, false]),
        (&[25, 100], &[false, false]),
        (&[25, 25], &[true, true]),
        (&[5, 65], &[true, false]),
        (&[0, 0], &[true, true]),
    ];
    for (healthy, expected) in table {
        let levels = healthy.iter().map(|&available| Level {
            available,
            total: 100,
        });
        let levels: Vec<Level> = levels.collect();
        let shares = spread(&levels, 1.4, 0.5);
        let panics: Vec<bool> = shares.iter().map(|share| share.panics).collect();
        assert_eq!(panics, expected, "{healthy:?}");
        let never = spread(&levels, 1.4, 0.0);
        assert!(never.iter().all(|share| !share.panics));
    }
    // If no node is available at all, the first level gets all calls; without a threshold, none does.
    let none = [0, 0].map(|available| Level {
        available,
        total: 100,
    });
    let percents = |threshold| -> Vec<u32> {
        let shares = spread(&none, 1.4, threshold);
        shares.iter().map(|share| share.percent).collect()
    };
    assert_eq!((percents(0.5), percents(0.0)), (vec![100, 0], vec![0, 0]));
}

proptest! {
    #[test]
    fn shares_are_whole_and_go_to_levels_with_nodes(
        // Some levels have so few available nodes that their health is zero percent.
        levels in prop::collection::vec((0_usize..20, prop_oneof![0_usize..20, 0_usize..4000]), 1..6),
        factor in 1.0..3.0_f64,
        threshold in prop_oneof![0.0..=1.0_f64, 0.0..=0.01_f64, Just(0.0)],
    ) {
        let levels: Vec<Level> = levels
            .into_iter()
            .map(|(available, more)| Level { available, total: available + more })
            .collect();
        let shares = spread(&levels, factor, threshold);
        let sum: u32 = shares.iter().map(|share| share.percent).sum();
        let takes = |(level, share): (&Level, &super::priority::Share)| {
            level.available > 0 || (share.panics && level.total > 0)
        };
        let any = levels.iter().any(|level| level.available > 0) || shares.iter().any(|share| share.panics);
        prop_assert!(sum == 100 || (sum == 0 && !any), "{shares:?}");
        for pair in levels.iter().zip(&shares) {
            prop_assert!(pair.1.percent == 0 || takes(pair), "{pair:?}");
        }
    }

    #[test]
    fn a_latency_stays_between_its_samples_and_reaches_a_steady_one(
        samples in prop::collection::vec((1_u64..1_000_000_000, 0_u64..100_000_000), 1..50),
    ) {
        let (latency, decay) = (Latency::new(), Decay::new(SECOND));
        let (mut now, mut least, mut most) = (Instant::ORIGIN, f64::INFINITY, 0.0_f64);
        prop_assert_eq!(latency.at(now, decay), None);
        for (sample, pause) in samples {
            now = now.after(pause);
            latency.record(sample, now, decay);
            (least, most) = (least.min(sample as f64), most.max(sample as f64));
            let average = latency.at(now, decay).unwrap();
            prop_assert!((least - 1.0..=most + 1.0).contains(&average));
        }
        for _ in 0..100 {
            now += SECOND / 5;
            latency.record(7_000, now, decay);
        }
        prop_assert!((latency.at(now, decay).unwrap() - 7_000.0).abs() < 10.0);
    }

}

#[test]
fn samples_of_one_instant_count() {
    // An average weighted only by time ignores all but the first of them.
    let (latency, decay) = (Latency::new(), Decay::new(10 * SECOND));
    latency.record(10_000_000, at(1), decay);
    for _ in 0..1000 {
        latency.record(5_000_000_000, at(1), decay);
    }
    assert!(latency.at(at(1), decay).unwrap() > 2e9);
}

#[test]
fn a_cancelled_call_is_a_lower_bound_of_the_latency() {
    let (latency, decay) = (Latency::new(), Decay::new(10 * SECOND));
    latency.record_at_least(1_000, at(1), decay);
    assert_eq!(latency.at(at(1), decay), Some(1_000.0));
    latency.record_at_least(500, at(1), decay);
    assert_eq!(
        latency.at(at(1), decay),
        Some(1_000.0),
        "shorter: nothing is known"
    );
    latency.record_at_least(2_000, at(9), decay);
    assert!(latency.at(at(9), decay).unwrap() > 1_000.0);
}

#[test]
fn a_latency_is_forgotten_while_a_node_is_idle() {
    let (latency, decay) = (Latency::new(), Decay::new(10 * SECOND));
    latency.record(1_000_000, at(0), decay);
    let left = latency.at(at(10), decay).unwrap() / 1e6;
    assert!((left - (-1.0_f64).exp()).abs() < 0.005, "{left}");
}

#[test]
fn slow_starts_follow_the_formula_of_envoy() {
    let linear = SlowStart::new(30 * SECOND, 0.1, 1.0);
    let shares = [0, 1, 3, 15, 30, 60].map(|seconds| linear.share(at(0), at(seconds)));
    assert_eq!(shares, [0.1, 0.1, 0.1, 0.5, 1.0, 1.0]);
    let steep = SlowStart::new(100 * SECOND, 0.1, 2.0);
    assert_eq!(steep.share(at(0), at(25)), 0.5);
    assert_eq!(
        SlowStart::new(Duration::ZERO, 0.1, 1.0).share(at(0), at(0)),
        1.0
    );
}
