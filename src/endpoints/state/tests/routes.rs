//! Picks.

use std::collections::HashSet;

use proptest::prelude::*;

use super::super::latency::Decay;
use super::super::rendezvous::{hash_of, score};
use super::super::routes::{Ask, Entry, Routes};
use super::super::rules::Strategy;
use super::*;

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

proptest! {
    /// A pick takes a node that was not tried as long as there is one, with every strategy.
    #[test]
    fn picks_avoid_nodes_that_were_tried(
        nodes in 1_usize..=32,
        strategy in prop_oneof![
            proptest::strategy::Strategy::prop_map(1_usize..=16, Strategy::LeastLoaded),
            Just(Strategy::RoundRobin),
        ],
        key in prop::option::of(any::<u64>()),
        seed in any::<u64>(),
        new in prop::collection::vec(any::<bool>(), 32),
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
