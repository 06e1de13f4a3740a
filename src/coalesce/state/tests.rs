//! Flights against a small model: one leader for each flight, and no waiter is forgotten.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;

const HASHES: u64 = 3;

const TERMS: Terms = Terms {
    priority: Priority::NORMAL,
    cost: 1,
};

#[derive(Clone, Copy, Debug)]
enum Step {
    /// A call with this hash arrives.
    Enter(u64),
    /// A waiter is polled.
    Poll(usize),
    /// A waiter is dropped.
    Leave(usize),
    /// A leader has a result.
    Land(usize),
    /// A leader is dropped.
    Abandon(usize),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => (0..HASHES).prop_map(Step::Enter),
        4 => any::<usize>().prop_map(Step::Poll),
        1 => any::<usize>().prop_map(Step::Leave),
        1 => any::<usize>().prop_map(Step::Land),
        2 => any::<usize>().prop_map(Step::Abandon),
    ]
}

/// The expected state, kept alongside the machine.
#[derive(Default)]
struct Model {
    leaders: BTreeSet<Place>,
    /// Waiters, oldest first, and whether each was woken since it was polled, or never polled.
    waiters: BTreeMap<Place, BTreeMap<u64, bool>>,
    landed: BTreeSet<Place>,
}

impl Model {
    fn nth_waiter(&self, n: usize) -> Option<(Place, u64)> {
        let all = self.waiters.iter();
        let all = all.flat_map(|(place, waiters)| waiters.keys().map(|ticket| (*place, *ticket)));
        let all: Vec<_> = all.collect();
        (!all.is_empty()).then(|| all[n % all.len()])
    }

    fn nth_leader(&self, n: usize) -> Option<Place> {
        let len = self.leaders.len();
        (len > 0).then(|| *self.leaders.iter().nth(n % len).unwrap())
    }

    /// The oldest waiter is promoted; without one, the flight is over.
    fn promote(&mut self, place: Place, left: &Left<u64, (Place, u64)>) {
        let waiters = self.waiters.entry(place).or_default();
        match waiters.iter_mut().next() {
            None => {
                assert!(left.dropped.1.is_some() && !left.promoted);
                self.landed.insert(place);
            }
            Some((ticket, is_awake)) => {
                assert!(left.promoted);
                // The waiter was woken, or was woken before and has not been polled since.
                assert!(left.wake == Some((place, *ticket)) || *is_awake);
                *is_awake = true;
            }
        }
    }
}

proptest! {
    #[test]
    fn there_is_one_leader_for_a_flight_and_no_waiter_is_forgotten(
        steps in prop::collection::vec(step(), 1..200),
    ) {
        let mut flights = Flights::<u64, (Place, u64)>::new();
        let mut model = Model::default();
        for step in steps {
            match step {
                Step::Enter(hash) => {
                    let mut after = 0;
                    match flights.find(hash, &mut after) {
                        Some((place, shared)) => {
                            prop_assert_eq!(*shared, hash);
                            let ticket = flights.join(place, TERMS).unwrap();
                            model.waiters.entry(place).or_default().insert(ticket, true);
                        }
                        None => {
                            let place = flights.begin(hash, after, &Arc::new(hash)).unwrap();
                            prop_assert!(flights.begin(hash, after, &Arc::new(hash)).is_none());
                            prop_assert!(model.leaders.insert(place));
                        }
                    }
                }
                Step::Poll(n) => {
                    let Some((place, ticket)) = model.nth_waiter(n) else { continue };
                    let is_first = model.waiters[&place].keys().next() == Some(&ticket);
                    match flights.wait(place, ticket, (place, ticket)) {
                        Standing::Leads(..) => {
                            prop_assert!(is_first && model.leaders.insert(place), "two leaders");
                            model.waiters.get_mut(&place).unwrap().remove(&ticket);
                        }
                        Standing::Waits(_) => {
                            prop_assert!(model.leaders.contains(&place) || !is_first);
                            *model.waiters.get_mut(&place).unwrap().get_mut(&ticket).unwrap() = false;
                        }
                        Standing::Landed(_) => prop_assert!(false, "landed without its waiters"),
                    }
                }
                Step::Leave(n) => {
                    let Some((place, ticket)) = model.nth_waiter(n) else { continue };
                    let was_first = model.waiters[&place].keys().next() == Some(&ticket);
                    let left = flights.leave(place, ticket);
                    model.waiters.get_mut(&place).unwrap().remove(&ticket);
                    if was_first && !model.leaders.contains(&place) {
                        model.promote(place, &left);
                    } else {
                        prop_assert!(left.wake.is_none() && left.dropped.1.is_none());
                    }
                }
                Step::Land(n) => {
                    let Some(place) = model.nth_leader(n) else { continue };
                    let waiters = model.waiters.remove(&place).unwrap_or_default();
                    let alone = flights.land_alone(place).is_some();
                    prop_assert_eq!(alone, waiters.is_empty());
                    let (woken, _) = flights.land(place);
                    for (ticket, is_awake) in waiters {
                        prop_assert!(is_awake || woken.contains(&(place, ticket)), "not woken");
                    }
                    model.leaders.remove(&place);
                    model.landed.insert(place);
                }
                Step::Abandon(n) => {
                    let Some(place) = model.nth_leader(n) else { continue };
                    model.leaders.remove(&place);
                    let left = flights.abandon(place);
                    model.promote(place, &left);
                }
            }
            let waiting = model.waiters.values().map(BTreeMap::len).sum();
            let open = model.leaders.len()
                + model.waiters.iter().filter(|(place, w)| !w.is_empty() && !model.leaders.contains(place)).count();
            // Keys without a flight take no memory.
            prop_assert_eq!(flights.counts(), (open, waiting));
            for place in &model.landed {
                prop_assert!(matches!(flights.wait(*place, 0, (*place, 0)), Standing::Landed(_)));
                prop_assert!(flights.join(*place, TERMS).is_none());
            }
        }
    }
}
