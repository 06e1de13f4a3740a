//! Every interleaving of spare permits with those who look for them.

use super::*;
use crate::bulkhead::permits::Permits;
use crate::striped::move_to;

/// A gate with two parts for spares, which keep what they would under `limit_of_spares`.
fn gate_with_spares(limit: u32, limit_of_spares: u32) -> Arc<Gate> {
    Arc::new(exact(limit).with(Permits::of_two(limit, limit_of_spares)))
}

/// A gate that keeps one spare in each part.
fn gate_with_few_spares(limit: u32) -> Arc<Gate> {
    gate_with_spares(limit, 4)
}

const fn many(cost: u32) -> Entrant {
    Entrant { cost, ..ONE }
}

/// As [`loom::model`], for models of which all interleavings would take hours.
fn most_of(check: impl Fn() + Sync + Send + 'static) {
    with_switches(4, check);
}

/// The interleavings in which threads are interrupted so many times at most.
fn with_switches(most: usize, check: impl Fn() + Sync + Send + 'static) {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(most);
    model.check(check);
}

/// Runs `act` on a thread of the model, as one that uses the part `home`.
fn other<T: 'static>(
    gate: &Arc<Gate>,
    home: usize,
    act: impl FnOnce(&Gate) -> T + 'static,
) -> thread::JoinHandle<T> {
    let gate = gate.clone();
    thread::spawn(move || {
        move_to(home);
        act(&gate)
    })
}

/// Takes a permit and leaves it for the next on this thread.
fn leave_a_spare(gate: &Gate) {
    let out = gate.in_flight();
    gate.try_admit(ONE).unwrap();
    gate.give_back(1, 0);
    assert_eq!((gate.read().in_flight(), gate.in_flight()), (out + 1, out));
}

/// From here on no spares are kept, as somebody has wanted too many permits.
fn recall_spares(gate: &Gate) {
    let too_many = gate.read().limit() + 1;
    gate.try_admit(many(too_many)).unwrap_err();
}

#[test]
fn loom_with_spares_everybody_is_served_and_the_bound_holds() {
    loom::model(|| {
        let gate = gate_with_few_spares(1);
        let inside = std::sync::Arc::new(AtomicU32::new(0));
        let visit = |gate: &Gate, inside: &AtomicU32| {
            acquire(gate);
            assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0);
            inside.fetch_sub(1, Ordering::SeqCst);
            gate.give_back(1, 0);
        };
        let other = {
            let inside = inside.clone();
            other(&gate, 1, move |gate| visit(gate, &inside))
        };
        visit(&gate, &inside);
        other.join().unwrap();
        assert_eq!((gate.in_flight(), gate.queued()), (0, 0));
        assert!(!gate.read().waiting());
    });
}

#[test]
fn loom_of_those_who_race_for_a_spare_one_gets_it() {
    for home in [0, 1] {
        loom::model(move || {
            let gate = gate_with_few_spares(1);
            leave_a_spare(&gate);
            let other = other(&gate, home, |gate| u32::from(gate.try_admit(ONE).is_ok()));
            let admitted = u32::from(gate.try_admit(ONE).is_ok()) + other.join().unwrap();
            assert_eq!((admitted, gate.in_flight()), (1, 1));
        });
    }
}

#[test]
fn loom_who_has_given_a_permit_back_is_not_refused_for_it() {
    loom::model(|| {
        // Two permits: the thread's part is full when the second comes back, or closed by then.
        let gate = gate_with_few_spares(2);
        leave_a_spare(&gate);
        let other = other(&gate, 0, |gate| {
            if gate.try_admit(ONE).is_ok() {
                gate.give_back(1, 0);
            }
        });
        for _ in 0..2 {
            gate.try_admit(ONE).unwrap();
            gate.give_back(1, 0);
        }
        other.join().unwrap();
        assert_eq!(gate.in_flight(), 0);
    });
}

#[test]
fn loom_no_spare_is_taken_above_a_limit_that_has_shrunk() {
    loom::model(|| {
        let gate = gate_with_few_spares(2);
        move_to(1);
        gate.try_admit(ONE).unwrap();
        move_to(0);
        leave_a_spare(&gate);
        let shrink = other(&gate, 1, |gate| {
            gate.set_limit(1);
            // From here on a second one gets in only if it was in before.
            gate.read().in_flight()
        });
        let admitted = gate.try_admit(ONE).is_ok();
        let seen = shrink.join().unwrap();
        if seen == 1 {
            assert!(!admitted);
        }
        assert_eq!(gate.in_flight(), 1 + u32::from(admitted));
        assert_eq!(gate.read().limit(), 1);
    });
}

#[test]
fn loom_who_waits_is_not_forgotten_while_spares_are_kept_again() {
    most_of(|| {
        let gate = gate_with_few_spares(4);
        recall_spares(&gate);
        let other = other(&gate, 1, |gate| {
            // There is much room the first time or the second, and from then on spares are kept.
            for _ in 0..2 {
                if gate.try_admit(ONE).is_ok() {
                    gate.give_back(1, 0);
                }
            }
        });
        acquire_as(&gate, many(4));
        gate.give_back(4, 0);
        other.join().unwrap();
        assert_eq!((gate.in_flight(), gate.queued()), (0, 0));
    });
}

#[test]
fn loom_nobody_is_refused_while_spares_are_recalled() {
    loom::model(|| {
        let gate = gate_with_few_spares(1);
        leave_a_spare(&gate);
        let other = other(&gate, 0, recall_spares);
        move_to(1);
        gate.try_admit(ONE).unwrap();
        other.join().unwrap();
        assert_eq!(gate.in_flight(), 1);
    });
}

#[test]
fn loom_nobody_is_refused_for_spares_that_are_kept_meanwhile() {
    most_of(|| {
        let gate = gate_with_spares(8, 8);
        recall_spares(&gate);
        let other = other(&gate, 0, |gate| {
            for home in [0, 1] {
                move_to(home);
                gate.try_admit(ONE).unwrap();
                gate.try_admit(ONE).unwrap();
                gate.give_back(1, 0);
                gate.give_back(1, 0);
            }
            gate.try_admit(many(4)).unwrap();
        });
        // No more than four others are out at any time.
        gate.try_admit(many(2)).unwrap();
        other.join().unwrap();
        assert_eq!(gate.in_flight(), 6);
    });
}

#[test]
fn loom_parts_are_opened_and_closed_together() {
    most_of(|| {
        let gate = gate_with_few_spares(4);
        recall_spares(&gate);
        let opens = other(&gate, 0, |gate| {
            gate.try_admit(ONE).unwrap();
            gate.give_back(1, 0);
        });
        recall_spares(&gate);
        opens.join().unwrap();
        // There is much room, so they are open or opened.
        leave_a_spare(&gate);
        // Where a part is still open, its spares are known of.
        for home in [0, 1] {
            move_to(home);
            gate.try_admit(ONE).unwrap();
            gate.give_back(1, 0);
        }
        move_to(0);
        gate.try_admit(many(4)).unwrap();
    });
}

#[test]
fn loom_no_spares_are_kept_again_under_a_limit_that_has_shrunk() {
    most_of(|| {
        let gate = gate_with_spares(24, 4);
        gate.try_admit(many(5)).unwrap();
        recall_spares(&gate);
        let shrunk = std::sync::Arc::new(AtomicU32::new(0));
        let shrink = {
            let shrunk = shrunk.clone();
            other(&gate, 1, move |gate| {
                gate.set_limit(4);
                shrunk.store(1, Ordering::SeqCst);
            })
        };
        // There may be much room, so spares may be kept.
        if gate.try_admit(ONE).is_ok() {
            gate.give_back(1, 0);
        }
        let late = shrunk.load(Ordering::SeqCst) == 1;
        assert!(
            !(gate.try_admit(ONE).is_ok() && late),
            "six of four are out"
        );
        shrink.join().unwrap();
    });
}

#[test]
fn loom_a_permit_left_in_a_closed_part_is_nobodys() {
    most_of(|| {
        let gate = gate_with_few_spares(8);
        gate.try_admit(ONE).unwrap();
        gate.try_admit(ONE).unwrap();
        let gives_back = other(&gate, 0, |gate| gate.give_back(1, 0));
        gate.set_limit(1);
        assert!(gate.try_admit(ONE).is_err(), "one is out at least");
        gives_back.join().unwrap();
        assert_eq!(gate.in_flight(), 1);
    });
}

#[test]
fn loom_a_permit_left_in_a_part_that_opens_is_not_lost() {
    most_of(|| {
        let gate = gate_with_few_spares(8);
        gate.try_admit(ONE).unwrap();
        let gives_back = other(&gate, 0, |gate| gate.give_back(1, 0));
        recall_spares(&gate);
        gate.try_admit(ONE).unwrap();
        gives_back.join().unwrap();
        assert_eq!(gate.in_flight(), 1);
        gate.try_admit(many(7)).unwrap();
    });
}

#[test]
fn loom_who_waits_is_not_forgotten_while_others_recall_spares() {
    // Three threads, of which each is interrupted once.
    with_switches(3, || {
        let gate = gate_with_few_spares(4);
        gate.try_admit(ONE).unwrap();
        let gives_back = other(&gate, 0, |gate| gate.give_back(1, 0));
        let passes_by = other(&gate, 1, |gate| {
            if gate.try_admit(many(4)).is_ok() {
                gate.give_back(4, 0);
            }
        });
        // Loom fails when it waits for ever.
        acquire_as(&gate, many(4));
        gate.give_back(4, 0);
        gives_back.join().unwrap();
        passes_by.join().unwrap();
        assert_eq!((gate.in_flight(), gate.queued()), (0, 0));
    });
}
