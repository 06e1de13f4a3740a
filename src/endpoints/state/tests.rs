//! The pure machines against small models, and against the tables of their sources.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;

use super::health::{Change, Machine, Record, Standing};
use super::latency::{Decay, Latency};
use super::priority::{Level, spread};
use super::rendezvous::{hash_of, score};
use super::routes::{Ask, Entry, Routes};
use super::rules::{FailureShare, Rules, Strategy, SuccessRate};
use super::slow_start::SlowStart;
use super::vitals::Vitals;
use crate::event::{EjectionCause, Unenforced};
use crate::instant::Instant;
use crate::rng::Stream;

const SECOND: Duration = Duration::from_secs(1);

fn at(seconds: u64) -> Instant {
    Instant::ORIGIN + Duration::from_secs(seconds)
}

fn rules() -> Rules {
    Rules {
        consecutive: Some(5),
        success_rate: Some(SuccessRate {
            deviations: 1.9,
            min_calls: 100,
            min_nodes: 5,
        }),
        failure_share: Some(FailureShare {
            share: 0.85,
            min_calls: 50,
        }),
        interval: 10 * SECOND,
        base_ejection: 30 * SECOND,
        max_ejection: 300 * SECOND,
        jitter: 0.0,
        max_ejected: 0.1,
        shadow: false,
        overprovisioning: 1.4,
        panic_threshold: 0.5,
        slow_start: SlowStart::new(Duration::ZERO, 0.1, 1.0),
        unhealthy_after: 3,
        healthy_after: 2,
    }
}

fn machine(nodes: usize, rules: Rules) -> Machine {
    let mut machine = Machine::new(rules, Instant::ORIGIN);
    for _ in 0..nodes {
        machine.insert(Record::new(1.0, 0, 0, None));
    }
    machine
}

fn vitals(machine: &Machine, slot: u32) -> Arc<Vitals> {
    machine.get(slot).unwrap().vitals.clone()
}

/// Counts ended calls of a node.
fn count(machine: &Machine, slot: u32, good: u32, failed: u32) {
    let vitals = vitals(machine, slot);
    for _ in 0..failed {
        vitals.fail();
    }
    (0..good).for_each(|_| vitals.succeed());
}

fn strike(machine: &mut Machine, slot: u32, now: Instant) -> Option<Change> {
    let vitals = vitals(machine, slot);
    machine.strike(slot, &vitals, vitals.epoch(), now, 0.0)
}

fn end_probe(machine: &mut Machine, slot: u32, is_good: bool, now: Instant) -> Option<Change> {
    let vitals = vitals(machine, slot);
    machine.end_probe(slot, &vitals, vitals.epoch(), is_good, now, 0.0)
}

fn advance(machine: &mut Machine, now: Instant) -> Vec<Change> {
    machine.advance(now, &mut Stream::from_bits(1))
}

fn standing(machine: &Machine, slot: u32) -> Standing {
    machine.get(slot).unwrap().standing
}

/// The percentages of healthy nodes, and the percentages of the calls that the levels get.
type Row = (&'static [usize], &'static [u32]);

#[test]
fn calls_spill_over_as_in_the_tables_of_envoy() {
    // The three tables of the page "Priority levels" of its documentation, row by row.
    let table: [Row; 19] = [
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
        // The last row of the table on the panic threshold.
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
fn levels_panic_as_in_the_table_of_envoy() {
    let table: [(&[usize], &[bool]); 8] = [
        (&[72, 100], &[false, false]),
        (&[25, 100], &[false, false]),
        (&[0, 100], &[false, false]),
        (&[71, 71], &[false, false]),
        (&[50, 60], &[false, false]),
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
        levels in prop::collection::vec((0_usize..20, 0_usize..20), 1..6),
        factor in 1.0..3.0_f64,
        threshold in 0.0..=1.0_f64,
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
        // A level with so few of its nodes available that its health is zero percent counts as empty.
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

    /// Whatever happens, a priority keeps a node, and no more nodes are ejected than may be.
    #[test]
    fn ejections_leave_enough_nodes(
        priorities in prop::collection::vec(0_u32..3, 1..25),
        max_ejected in 0.0..=1.0_f64,
        steps in prop::collection::vec((0_usize..25, 0_u64..60, any::<bool>()), 1..80),
    ) {
        let mut machine = Machine::new(Rules { max_ejected, ..rules() }, Instant::ORIGIN);
        for priority in &priorities {
            machine.insert(Record::new(1.0, *priority, 0, None));
        }
        let allowed = ((max_ejected * priorities.len() as f64) as usize).max(1);
        let mut now = Instant::ORIGIN;
        for (node, pause, is_good) in steps {
            now += pause as u32 * SECOND;
            let slot = (node % priorities.len()) as u32;
            match standing(&machine, slot) {
                Standing::Returning => drop(end_probe(&mut machine, slot, is_good, now)),
                _ => drop(strike(&mut machine, slot, now)),
            }
            advance(&mut machine, now);
            let ejected = machine.iter().filter(|(_, record)| record.standing != Standing::Admitted);
            prop_assert!(ejected.count() <= allowed);
            for priority in &priorities {
                let mut left = machine.iter().filter(|(_, record)| {
                    record.priority == *priority && record.is_available(now)
                });
                prop_assert!(left.next().is_some());
            }
        }
    }

    /// A pick takes a node that was not tried as long as there is one, with every strategy.
    #[test]
    fn picks_avoid_nodes_that_were_tried(
        nodes in 1_usize..64,
        strategy in prop_oneof![
            proptest::strategy::Strategy::prop_map(1_usize..=16, Strategy::LeastLoaded),
            Just(Strategy::RoundRobin),
        ],
        key in prop::option::of(any::<u64>()),
        seed in any::<u64>(),
        new in prop::collection::vec(any::<bool>(), 64),
    ) {
        let rules = Rules { slow_start: SlowStart::new(30 * SECOND, 0.1, 1.0), ..rules() };
        let mut machine = Machine::new(rules, Instant::ORIGIN);
        for (node, is_new) in new.into_iter().enumerate().take(nodes) {
            let new_since = is_new.then_some(Instant::ORIGIN);
            let record = Record::new(1.0 + node as f64, (node % 3) as u32, node as u64, new_since);
            machine.insert(record);
        }
        let routes = Routes::new(&machine, at(1));
        let mut tried = 0;
        let mut ask = ask(strategy, seed);
        ask.key = key;
        for _ in 0..nodes {
            ask.tried = tried;
            let slot = routes.pick(&mut ask).unwrap().entry.slot;
            prop_assert_eq!(tried & Entry::bit(slot), 0, "{} was tried", slot);
            tried |= Entry::bit(slot);
        }
        ask.tried = tried;
        prop_assert!(routes.pick(&mut ask).is_some(), "all were tried: one again");
    }
}

fn ask(strategy: Strategy, seed: u64) -> Ask {
    Ask {
        now: at(1),
        decay: Decay::new(10 * SECOND),
        strategy,
        key: None,
        tried: 0,
        turn: 0,
        chance: Stream::from_bits(seed),
    }
}

#[test]
fn samples_of_one_instant_count() {
    // An average that weighs by time alone ignores all but the first of them.
    let (latency, decay) = (Latency::new(), Decay::new(10 * SECOND));
    latency.record(10_000_000, at(1), decay);
    for _ in 0..1000 {
        latency.record(5_000_000_000, at(1), decay);
    }
    assert!(latency.at(at(1), decay).unwrap() > 2e9);
}

#[test]
fn a_cancelled_call_says_how_long_a_node_takes_at_least() {
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
    assert!((left - (-1.0_f64).exp()).abs() < 1e-9, "{left}");
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

#[test]
fn ejections_grow_and_shrink_by_one_interval_at_a_time() {
    // gRFC A50: the multiplier grows with each ejection, and loses one for each interval without.
    let mut machine = machine(10, rules());
    let mut lengths = Vec::new();
    let mut now = at(0);
    for _ in 0..12 {
        let Some(Change::Ejected { length, .. }) = strike(&mut machine, 0, now) else {
            panic!("not ejected");
        };
        lengths.push(length.as_secs());
        now += length;
        advance(&mut machine, now);
        assert_eq!(
            standing(&machine, 0),
            Standing::Returning,
            "at the nanosecond"
        );
        assert_eq!(
            end_probe(&mut machine, 0, true, now),
            Some(Change::Returned { slot: 0 })
        );
    }
    assert_eq!(
        lengths,
        [30, 60, 90, 120, 150, 180, 210, 240, 270, 300, 300, 300]
    );

    // The interval of the last ejection takes nothing off, each one after it takes one.
    let times = |machine: &Machine| machine.get(0).unwrap().times;
    assert_eq!(times(&machine), 12);
    let mut seen = Vec::new();
    for _ in 0..14 {
        now += 10 * SECOND;
        advance(&mut machine, now);
        seen.push(times(&machine));
    }
    assert_eq!(seen, [11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0, 0, 0]);
}

#[test]
fn an_ejection_ends_with_its_time_and_a_failed_probe_renews_it() {
    let mut machine = machine(10, rules());
    strike(&mut machine, 3, at(1));
    assert_eq!(standing(&machine, 3), Standing::Ejected { until: at(31) });
    advance(&mut machine, Instant::from_nanos(at(31).as_nanos() - 1));
    assert_eq!(standing(&machine, 3), Standing::Ejected { until: at(31) });
    advance(&mut machine, at(31));
    assert_eq!(standing(&machine, 3), Standing::Returning);
    let change = end_probe(&mut machine, 3, false, at(32));
    let expected = Change::Ejected {
        slot: 3,
        cause: EjectionCause::ProbeFailed,
        length: 60 * SECOND,
        times: 2,
    };
    assert_eq!(change, Some(expected));
}

#[test]
fn jitter_lengthens_ejections() {
    let mut machine = machine(
        10,
        Rules {
            jitter: 0.5,
            ..rules()
        },
    );
    let vitals = vitals(&machine, 0);
    let change = machine.strike(0, &vitals, vitals.epoch(), at(0), 0.5);
    assert!(matches!(change, Some(Change::Ejected { length, .. }) if length == SECOND * 75 / 2));
}

#[test]
fn results_of_an_earlier_epoch_or_another_node_change_nothing() {
    let mut machine = machine(10, rules());
    let vitals = vitals(&machine, 0);
    let epoch = vitals.epoch();
    strike(&mut machine, 0, at(0));
    advance(&mut machine, at(30));
    assert_eq!(
        machine.end_probe(0, &vitals, epoch, true, at(30), 0.0),
        None
    );
    end_probe(&mut machine, 0, true, at(30));
    assert_eq!(
        machine.strike(0, &vitals, epoch, at(31), 0.0),
        None,
        "a late failure"
    );
    // The slot has got another node meanwhile.
    machine.records[0] = Some(Record::new(1.0, 0, 0, None));
    assert_eq!(machine.strike(0, &vitals, 0, at(31), 0.0), None);
    assert_eq!(machine.park(0, &vitals, SECOND, at(31)), None);
}

#[test]
fn a_success_rate_far_below_the_mean_ejects() {
    // Nine at 99 %, one at 90 %: mean 98.1, deviation 2.7, so the line is at 92.97 %.
    let eject = |good, failed, nodes| {
        let mut machine = machine(nodes, rules());
        (1..nodes as u32).for_each(|slot| count(&machine, slot, 99, 1));
        count(&machine, 0, good, failed);
        advance(&mut machine, at(10))
    };
    let causes = |changes: Vec<Change>| -> Vec<(u32, EjectionCause)> {
        let cause = |change| match change {
            Change::Ejected { slot, cause, .. } => (slot, cause),
            other => panic!("{other:?}"),
        };
        changes.into_iter().map(cause).collect()
    };
    assert_eq!(causes(eject(90, 10, 10)), [(0, EjectionCause::SuccessRate)]);
    assert_eq!(causes(eject(99, 1, 10)), [], "all are equal");
    assert_eq!(causes(eject(89, 10, 10)), [], "99 calls are too few");
    assert_eq!(causes(eject(90, 10, 4)), [], "four nodes are too few");
    assert_eq!(
        causes(eject(7, 43, 10)),
        [(0, EjectionCause::FailureShare)],
        "86 %"
    );
    assert_eq!(causes(eject(8, 42, 10)), [], "84 %");
    assert_eq!(causes(eject(6, 43, 10)), [], "49 calls are too few");
}

#[test]
fn what_is_not_ejected_says_why() {
    let reason = |change| match change {
        Some(Change::NotEjected { reason, .. }) => reason,
        other => panic!("{other:?}"),
    };
    assert_eq!(
        reason(strike(&mut machine(1, rules()), 0, at(0))),
        Unenforced::LastAvailable
    );
    let mut two = machine(
        2,
        Rules {
            max_ejected: 1.0,
            ..rules()
        },
    );
    assert!(matches!(
        strike(&mut two, 0, at(0)),
        Some(Change::Ejected { .. })
    ));
    assert_eq!(
        reason(strike(&mut two, 1, at(0))),
        Unenforced::LastAvailable
    );
    let mut ten = machine(10, rules());
    strike(&mut ten, 0, at(0));
    assert_eq!(reason(strike(&mut ten, 1, at(0))), Unenforced::MaxEjected);
    let mut shadow = machine(
        10,
        Rules {
            shadow: true,
            ..rules()
        },
    );
    assert_eq!(reason(strike(&mut shadow, 0, at(0))), Unenforced::Shadow);
    assert_eq!(standing(&shadow, 0), Standing::Admitted);
}

#[test]
fn checks_need_their_number_in_a_row() {
    let mut machine = machine(3, rules());
    let mut check = |is_good| !machine.checked(0, is_good, at(1)).is_empty();
    let results = [
        false, false, true, false, false, false, true, false, true, true,
    ];
    let changed = results.map(&mut check);
    let expected = [
        false, false, false, false, false, true, false, false, false, true,
    ];
    assert_eq!(changed, expected);
}

#[test]
fn good_checks_end_an_ejection() {
    let mut machine = machine(3, rules());
    strike(&mut machine, 0, at(0));
    assert_eq!(machine.checked(0, true, at(1)), []);
    assert_eq!(
        machine.checked(0, true, at(2)),
        [Change::Returned { slot: 0 }]
    );
    assert_eq!(standing(&machine, 0), Standing::Admitted);
}

#[test]
fn least_loaded_follows_latency_load_and_weight() {
    let mut machine = machine(3, rules());
    let decay = Decay::new(10 * SECOND);
    for (slot, millis) in [(0, 10), (1, 20), (2, 40)] {
        vitals(&machine, slot)
            .latency
            .record(millis * 1_000_000, at(1), decay);
    }
    let pick = |machine: &Machine| {
        let routes = Routes::new(machine, at(1));
        let slots: HashSet<u32> = (0..50)
            .map(|seed| {
                routes
                    .pick(&mut ask(Strategy::LeastLoaded(3), seed))
                    .unwrap()
                    .entry
                    .slot
            })
            .collect();
        Vec::from_iter(slots)
    };
    assert_eq!(pick(&machine), [0]);
    vitals(&machine, 0).enter();
    vitals(&machine, 0).enter();
    assert_eq!(pick(&machine), [1], "10 × 3 against 20 × 1");
    machine.get_mut(2).unwrap().weight = 3.0;
    assert_eq!(pick(&machine), [2], "40 / 3");
}

#[test]
fn equal_nodes_are_picked_equally_often() {
    let machine = machine(10, rules());
    let routes = Routes::new(&machine, at(1));
    for choices in [1, 2, 3, 10, 16] {
        let mut counts = [0_u32; 10];
        for seed in 0..20_000 {
            let mut ask = ask(Strategy::LeastLoaded(choices), seed * 7);
            counts[routes.pick(&mut ask).unwrap().entry.slot as usize] += 1;
        }
        assert!(
            counts.iter().all(|count| (1_800..2_200).contains(count)),
            "{choices}: {counts:?}"
        );
    }
}

#[test]
fn turns_follow_the_weights_evenly() {
    let mut machine = machine(3, rules());
    let turns = |machine: &Machine, count: u64| -> Vec<u32> {
        let routes = Routes::new(machine, at(1));
        let pick = |turn| {
            let mut ask = ask(Strategy::RoundRobin, 0);
            ask.turn = turn;
            routes.pick(&mut ask).unwrap().entry.slot
        };
        (0..count).map(pick).collect()
    };
    assert_eq!(turns(&machine, 7), [0, 1, 2, 0, 1, 2, 0]);
    machine.get_mut(1).unwrap().weight = 2.0;
    for window in turns(&machine, 4_000).windows(40) {
        let counts = [0, 1, 2].map(|slot| window.iter().filter(|other| **other == slot).count());
        let is_even = counts
            .iter()
            .zip([10, 20, 10])
            .all(|(count, fair)| count.abs_diff(fair) <= 2);
        assert!(is_even, "{counts:?}");
    }
}

#[test]
fn keys_follow_the_weights_and_stay_when_another_node_goes() {
    let nodes: Vec<(u64, f64)> = (0..5_u32)
        .map(|node| {
            (
                hash_of(&format!("node {node}")),
                if node == 0 { 4.0 } else { 1.0 },
            )
        })
        .collect();
    let best = |key: u64, nodes: &[(u64, f64)]| {
        let scores = nodes
            .iter()
            .map(|(node, weight)| score(key, *node, *weight));
        let best = scores.enumerate().max_by(|a, b| a.1.total_cmp(&b.1));
        nodes[best.unwrap().0].0
    };
    let mut of_heavy = 0;
    for key in 0..8_000_u32 {
        let key = hash_of(&key);
        let before = best(key, &nodes);
        of_heavy += u32::from(before == nodes[0].0);
        let after = best(key, &nodes[..4]);
        assert!(
            before == after || before == nodes[4].0,
            "a key of a node that stays has moved"
        );
    }
    assert!((3_850..4_150).contains(&of_heavy), "{of_heavy}");
}

#[test]
fn a_hash_is_the_same_in_every_version() {
    // Keys would move to other nodes with a new version, or differ between two running ones.
    assert_eq!(hash_of("user-7"), hash_of(&String::from("user-7")));
    assert_eq!(hash_of("user-7"), PINNED);
}

const PINNED: u64 = 17_466_125_389_874_312_169;
