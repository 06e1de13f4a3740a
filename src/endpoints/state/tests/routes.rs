//! Tests of picks.

use std::collections::HashSet;

use proptest::prelude::*;

use super::super::latency::Decay;
use super::super::rendezvous::{hash_of, score};
use super::super::routes::Routes;
use super::super::rules::Strategy;
use super::super::tier::PickRequest;
use super::super::tried::TriedNodes;
use super::*;

fn request(strategy: Strategy, seed: u64) -> PickRequest {
    PickRequest {
        now: at(1),
        decay: Decay::new(10 * SECOND),
        strategy,
        key: None,
        tried: TriedNodes::NONE,
        turn: 0,
        random: Stream::from_bits(seed),
    }
}

proptest! {
    /// Any strategy picks a node that was not tried, if there is one.
    #[test]
    fn picks_avoid_nodes_that_were_tried(
        nodes in 1_usize..=63,
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
        let mut tried = TriedNodes::NONE;
        let mut request = request(strategy, seed);
        request.key = key;
        for _ in 0..nodes {
            request.tried = tried;
            let index = routes.pick(&mut request).unwrap().entry.index;
            prop_assert!(!tried.contains(index), "{} was tried", index);
            tried = tried.with(index);
        }
        request.tried = tried;
        prop_assert!(routes.pick(&mut request).is_some(), "all were tried: one again");
    }
}

#[test]
fn least_loaded_follows_latency_load_and_weight() {
    let mut machine = machine(3, rules());
    let decay = Decay::new(10 * SECOND);
    for (index, millis) in [(0, 10), (1, 20), (2, 40)] {
        stats(&machine, index)
            .latency
            .record(millis * 1_000_000, at(1), decay);
    }
    let pick = |machine: &Machine| {
        let routes = Routes::new(machine, at(1));
        let indices: HashSet<u32> = (0..50)
            .map(|seed| {
                routes
                    .pick(&mut request(Strategy::LeastLoaded(3), seed))
                    .unwrap()
                    .entry
                    .index
            })
            .collect();
        Vec::from_iter(indices)
    };
    assert_eq!(pick(&machine), [0]);
    stats(&machine, 0).enter();
    stats(&machine, 0).enter();
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
            let mut request = request(Strategy::LeastLoaded(choices), seed * 7);
            counts[routes.pick(&mut request).unwrap().entry.index as usize] += 1;
        }
        assert!(
            counts.iter().all(|count| (1_800..2_200).contains(count)),
            "{choices}: {counts:?}"
        );
    }
}

#[test]
fn nodes_that_are_equally_idle_are_picked_equally_often() {
    let machine = machine(10, rules());
    for node in [0, 3, 4, 7, 8] {
        stats(&machine, node).enter();
    }
    let routes = Routes::new(&machine, at(1));
    for choices in [2, 3, 4] {
        let mut counts = [0_u32; 10];
        for seed in 0..20_000 {
            let mut request = request(Strategy::LeastLoaded(choices), seed * 7);
            counts[routes.pick(&mut request).unwrap().entry.index as usize] += 1;
        }
        let idle = [1, 2, 5, 6, 9].map(|node| counts[node]);
        let mean = idle.iter().sum::<u32>() / 5;
        assert!(
            idle.iter().all(|count| count.abs_diff(mean) < mean / 15),
            "{choices}: {counts:?}"
        );
    }
}

#[test]
fn nodes_that_were_not_tried_are_picked_equally_often() {
    let machine = machine(10, rules());
    let routes = Routes::new(&machine, at(1));
    for choices in [1, 2, 3] {
        let mut counts = [0_u32; 10];
        for seed in 0..20_000 {
            let mut request = request(Strategy::LeastLoaded(choices), seed * 7);
            request.tried = (0..6).fold(TriedNodes::NONE, TriedNodes::with);
            counts[routes.pick(&mut request).unwrap().entry.index as usize] += 1;
        }
        assert!(
            counts[6..]
                .iter()
                .all(|count| (4_600..5_400).contains(count)),
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
            let mut request = request(Strategy::RoundRobin, 0);
            request.turn = turn;
            routes.pick(&mut request).unwrap().entry.index
        };
        (0..count).map(pick).collect()
    };
    assert_eq!(turns(&machine, 7), [0, 1, 2, 0, 1, 2, 0]);
    machine.get_mut(1).unwrap().weight = 2.0;
    for window in turns(&machine, 4_000).windows(40) {
        let counts = [0, 1, 2].map(|index| window.iter().filter(|other| **other == index).count());
        let is_even = counts
            .iter()
            .zip([10, 20, 10])
            .all(|(count, fair)| count.abs_diff(fair) <= 2);
        assert!(is_even, "{counts:?}");
    }
}

#[test]
fn keys_follow_the_weights_and_stay_when_another_node_is_removed() {
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
    // If a new version hashed differently, keys would move to other nodes, and differ between old and new processes.
    assert_eq!(hash_of("user-7"), hash_of(&String::from("user-7")));
    assert_eq!(hash_of("user-7"), PINNED);
}

const PINNED: u64 = 17_466_125_389_874_312_169;
