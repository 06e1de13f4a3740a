//! Sets against a model, in random orders of updates, drains, calls, and results.

use std::collections::BTreeMap;

use backstop::Verdict;
use backstop::endpoints::Permit;
use proptest::prelude::*;
use proptest::sample::Index;

use crate::*;

/// A step of a test.
#[derive(Clone, Debug)]
enum Step {
    /// Makes the set consist of these nodes, each with its priority.
    Update(BTreeMap<usize, u32>),
    Drain(usize),
    Resume(usize),
    Wait(u64),
    Acquire,
    /// Ends a call.
    End(Index, Ending),
}

#[derive(Clone, Copy, Debug)]
enum Ending {
    Dropped,
    Good,
    Failed,
    Hint(u64),
    Ignored,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let nodes = prop::collection::btree_map(0_usize..8, 0_u32..2, 0..7);
    let ending = prop_oneof![
        1 => Just(Ending::Dropped),
        1 => Just(Ending::Good),
        3 => Just(Ending::Failed),
        1 => (0_u64..10).prop_map(Ending::Hint),
        1 => Just(Ending::Ignored),
    ];
    let step = prop_oneof![
        1 => nodes.prop_map(Step::Update),
        1 => (0_usize..8).prop_map(Step::Drain),
        1 => (0_usize..8).prop_map(Step::Resume),
        1 => (0_u64..20_000).prop_map(Step::Wait),
        4 => Just(Step::Acquire),
        4 => (any::<Index>(), ending).prop_map(|(index, ending)| Step::End(index, ending)),
    ];
    prop::collection::vec(step, 1..200)
}

/// A node as the caller knows it.
#[derive(Clone, Copy, Debug, Default)]
struct Known {
    priority: u32,
    is_drained: bool,
    /// Removed, with calls in flight.
    is_leaving: bool,
    in_flight: u32,
    good: u64,
}

impl Known {
    const fn is_member(self) -> bool {
        !self.is_drained && !self.is_leaving
    }
}

/// Makes `model` consist of these nodes. Returns the numbers of nodes added, removed, and kept.
fn update(
    model: &mut BTreeMap<usize, Known>,
    nodes: &BTreeMap<usize, u32>,
) -> (usize, usize, usize) {
    let (mut added, mut removed, mut kept) = (0, 0, 0);
    for (node, known) in &mut *model {
        if !nodes.contains_key(node) && !known.is_leaving {
            removed += 1;
            known.is_leaving = true;
        }
    }
    for (&node, &priority) in nodes {
        let known = model.entry(node).or_insert(Known {
            is_leaving: true,
            ..Known::default()
        });
        if known.is_leaving {
            added += 1;
            (known.is_leaving, known.is_drained) = (false, false);
        } else {
            kept += 1;
        }
        known.priority = priority;
    }
    (added, removed, kept)
}

/// Checks what holds at any time.
fn check(set: &Endpoints<usize>, model: &BTreeMap<usize, Known>) -> Result<(), TestCaseError> {
    let snapshot = set.snapshot();
    let seen = snapshot.nodes.iter().map(|node| {
        let is_draining = node.state == NodeState::Draining;
        let good = node.calls - node.failures;
        (
            node.name.to_string(),
            (node.in_flight, node.priority, is_draining, good),
        )
    });
    let expected = model.iter().map(|(node, known)| {
        let is_draining = !known.is_member();
        (
            name(*node),
            (known.in_flight, known.priority, is_draining, known.good),
        )
    });
    prop_assert_eq!(seen.collect::<Vec<_>>(), expected.collect::<Vec<_>>());
    // The last node of a priority is not ejected.
    for priority in &snapshot.priorities {
        let of_priority = |node: &&backstop::endpoints::NodeSnapshot| {
            node.priority == priority.priority && node.state != NodeState::Draining
        };
        let is_out = |state| matches!(state, NodeState::Ejected | NodeState::Returning);
        let mut nodes = snapshot.nodes.iter().filter(of_priority);
        prop_assert!(nodes.any(|node| !is_out(node.state)), "{snapshot:?}");
    }
    let percents = snapshot.priorities.iter().map(|priority| priority.percent);
    prop_assert!([0, 100].contains(&percents.sum()), "{snapshot:?}");
    Ok(())
}

proptest! {
    #[test]
    fn nodes_are_what_the_caller_made_them_and_the_last_one_is_never_ejected(
        steps in steps(),
        seed in any::<u64>(),
        eject_after in 1_u32..5,
        max_ejected in prop_oneof![Just(0.0), Just(0.1), Just(0.5), Just(1.0)],
        panic_threshold in prop_oneof![Just(0.0), Just(0.5), Just(1.0)],
        rotates in any::<bool>(),
    ) {
        let clock = ManualClock::new();
        let builder = if rotates { rotating(&clock, 0) } else { builder(&clock, 0) };
        let set = builder
            .seed(seed)
            .eject_after(eject_after)
            .eject_failure_share(0.5, 3)
            .interval(SECOND)
            .max_ejected(max_ejected)
            .panic_threshold(panic_threshold)
            .build()
            .unwrap();
        let mut model = BTreeMap::<usize, Known>::new();
        let mut permits: Vec<Permit<'_, usize>> = Vec::new();
        for step in steps {
            match step {
                Step::Update(nodes) => {
                    let list = nodes.iter().map(|(&node, &priority)| {
                        Endpoint::new(name(node), node).priority(priority)
                    });
                    let changes = set.update(list).unwrap();
                    let expected = update(&mut model, &nodes);
                    prop_assert_eq!((changes.added, changes.removed, changes.kept), expected);
                }
                Step::Drain(node) => {
                    let known = model.get_mut(&node).filter(|known| !known.is_leaving);
                    prop_assert_eq!(set.drain(&name(node)).is_some(), known.is_some());
                    known.into_iter().for_each(|known| known.is_drained = true);
                }
                Step::Resume(node) => {
                    let known = model.get_mut(&node);
                    let known = known.filter(|known| !known.is_leaving && known.is_drained);
                    prop_assert_eq!(set.resume(&name(node)), known.is_some());
                    known.into_iter().for_each(|known| known.is_drained = false);
                }
                Step::Wait(millis) => clock.advance(ms(millis)),
                Step::Acquire => match set.try_acquire() {
                    Ok(permit) => {
                        let known = model.get_mut(permit.node().value()).unwrap();
                        prop_assert!(known.is_member());
                        known.in_flight += 1;
                        permits.push(permit);
                    }
                    Err(_) => {
                        let takes = [NodeState::Available, NodeState::Starting];
                        let nodes = set.snapshot().nodes;
                        prop_assert!(nodes.iter().all(|node| !takes.contains(&node.state)));
                    }
                },
                Step::End(index, ending) if !permits.is_empty() => {
                    let permit = permits.swap_remove(index.index(permits.len()));
                    let known = model.get_mut(permit.node().value()).unwrap();
                    known.in_flight -= 1;
                    known.good += u64::from(matches!(ending, Ending::Good));
                    match ending {
                        Ending::Dropped => drop(permit),
                        Ending::Good => permit.success(),
                        Ending::Failed => permit.failure(),
                        Ending::Hint(seconds) => permit.record(Verdict::throttled(SECOND * seconds as u32)),
                        Ending::Ignored => permit.record(Verdict::ignore()),
                    }
                }
                Step::End(..) => {}
            }
            model.retain(|_, known| !known.is_leaving || known.in_flight > 0);
            check(&set, &model)?;
        }
    }
}
