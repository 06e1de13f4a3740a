//! Every interleaving of the permits and the queue in front of them.

use std::sync::atomic::{AtomicU32, Ordering};
use std::task::{Context as TaskContext, Poll, Wake, Waker};

use loom::sync::Arc;
use loom::sync::Notify;
use loom::thread;

use super::queue::{Entrant, Gate, Rules, Ticket};
use crate::clock::ManualClock;
use crate::instant::Instant;
use crate::priority::Priority;

mod spares;

const ONE: Entrant = Entrant {
    cost: 1,
    lane: 0,
    priority: Priority::NORMAL,
};

fn gate(limit: u32) -> Arc<Gate> {
    Arc::new(exact(limit))
}

fn exact(limit: u32) -> Gate {
    let rules = Rules {
        capacity: 8,
        ..Rules::default()
    };
    let clock = ManualClock::new().into();
    Gate::new(limit, rules, Box::default(), None, clock, true)
}

/// Wakes a thread of the model.
struct Bell(Notify);

impl Wake for Bell {
    fn wake(self: std::sync::Arc<Self>) {
        self.0.notify();
    }
}

/// Takes a permit, in turn if need be. Loom fails when it waits for ever.
fn acquire(gate: &Gate) {
    acquire_as(gate, ONE);
}

fn acquire_as(gate: &Gate, entrant: Entrant) {
    let bell = std::sync::Arc::new(Bell(Notify::new()));
    let waker = Waker::from(bell.clone());
    let mut ticket = match gate.try_admit(entrant) {
        Ok(_) => return,
        Err(_) => line_up(gate, entrant, &waker),
    };
    while ticket
        .poll(&mut TaskContext::from_waker(&waker))
        .is_pending()
    {
        bell.0.wait();
    }
}

fn line_up<'a>(gate: &'a Gate, entrant: Entrant, waker: &Waker) -> Ticket<'a> {
    let (ticket, _) = gate
        .line_up(entrant, Instant::ORIGIN, waker)
        .expect("a place in line");
    ticket
}

#[test]
fn loom_everybody_is_served_and_the_bound_holds() {
    loom::model(|| {
        let gate = gate(1);
        let inside = std::sync::Arc::new(AtomicU32::new(0));
        let visit = |gate: &Gate, inside: &AtomicU32| {
            acquire(gate);
            assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0);
            inside.fetch_sub(1, Ordering::SeqCst);
            gate.give_back(1, 0);
        };
        let other = {
            let (gate, inside) = (gate.clone(), inside.clone());
            thread::spawn(move || visit(&gate, &inside))
        };
        visit(&gate, &inside);
        other.join().unwrap();
        assert_eq!((gate.read().in_flight(), gate.queued()), (0, 0));
        assert!(!gate.read().waiting());
    });
}

#[test]
fn loom_a_waiter_that_leaves_passes_the_permit_on() {
    loom::model(|| {
        let gate = gate(1);
        gate.try_admit(ONE).unwrap();
        let mut leaves = line_up(&gate, ONE, Waker::noop());
        let release = {
            let gate = gate.clone();
            thread::spawn(move || {
                gate.give_back(1, 0);
            })
        };
        let polled = leaves.poll(&mut TaskContext::from_waker(Waker::noop()));
        let served = matches!(polled, Poll::Ready(Ok(_)));
        drop(leaves);
        if served {
            gate.give_back(1, 0);
        }
        release.join().unwrap();
        assert_eq!((gate.read().in_flight(), gate.queued()), (0, 0));
        assert!(!gate.read().waiting());
        assert!(gate.try_admit(ONE).is_ok());
    });
}

#[test]
fn loom_a_larger_limit_reaches_who_waits() {
    loom::model(|| {
        let gate = gate(1);
        gate.try_admit(ONE).unwrap();
        let grow = {
            let gate = gate.clone();
            thread::spawn(move || {
                gate.set_limit(2);
            })
        };
        acquire(&gate);
        grow.join().unwrap();
        assert_eq!(gate.read().in_flight(), 2);
    });
}

#[test]
fn loom_nobody_is_admitted_above_a_limit_that_has_shrunk() {
    loom::model(|| {
        let gate = gate(2);
        gate.try_admit(ONE).unwrap();
        let shrink = {
            let gate = gate.clone();
            thread::spawn(move || {
                gate.set_limit(1);
                // From here on a second one gets in only if it was in before.
                gate.read().in_flight()
            })
        };
        let admitted = gate.try_admit(ONE).is_ok();
        let seen = shrink.join().unwrap();
        if seen == 1 {
            assert!(!admitted);
        }
        assert_eq!(gate.read().in_flight(), 1 + u32::from(admitted));
    });
}

#[test]
fn loom_of_those_who_race_for_the_last_permits_as_many_get_one_as_there_are() {
    loom::model(|| {
        let gate = gate(2);
        gate.try_admit(ONE).unwrap();
        let racer = || {
            let gate = gate.clone();
            thread::spawn(move || u32::from(gate.try_admit(ONE).is_ok()))
        };
        let racers = [racer(), racer()];
        let admitted: u32 = racers.map(|racer| racer.join().unwrap()).iter().sum();
        assert_eq!((admitted, gate.read().in_flight()), (1, 2));
    });
}

#[test]
fn loom_a_refusal_while_a_permit_comes_back_leaves_nothing_behind() {
    loom::model(|| {
        let gate = gate(1);
        gate.try_admit(ONE).unwrap();
        let tries = {
            let gate = gate.clone();
            thread::spawn(move || u32::from(gate.try_admit(ONE).is_ok()))
        };
        gate.give_back(1, 0);
        let again = u32::from(gate.try_admit(ONE).is_ok());
        let admitted = again + tries.join().unwrap();
        assert_eq!((admitted, gate.read().in_flight()), (1, 1));
    });
}

#[test]
fn loom_who_adds_one_for_a_moment_does_not_keep_out_who_waits() {
    // Three threads are too many for all interleavings.
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(3);
    model.check(|| {
        let gate = gate(1);
        gate.try_admit(ONE).unwrap();
        let passes_by = {
            let gate = gate.clone();
            thread::spawn(move || {
                if gate.try_admit(ONE).is_ok() {
                    gate.give_back(1, 0);
                }
            })
        };
        let release = {
            let gate = gate.clone();
            thread::spawn(move || {
                gate.give_back(1, 0);
            })
        };
        // Loom fails when it waits for ever.
        acquire(&gate);
        gate.give_back(1, 0);
        passes_by.join().unwrap();
        release.join().unwrap();
        assert_eq!((gate.read().in_flight(), gate.queued()), (0, 0));
        assert!(!gate.read().waiting());
    });
}
