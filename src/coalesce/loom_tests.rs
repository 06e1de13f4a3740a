//! Model checks of flights: a call that joins while the leader lands or leaves gets the result, or executes the
//! operation itself.

use std::sync::atomic::{AtomicU32 as Plain, Ordering::Relaxed};
use std::task::{Context, Wake, Waker};

use loom::sync::Arc;
use loom::thread;

use super::inner::{Entered, Inner, Seen};
use super::state::Terms;
use crate::clock::ManualClock;
use crate::policy::Outcome;
use crate::priority::Priority;

const TERMS: Terms = Terms {
    priority: Priority::NORMAL,
    cost: 1,
};

#[derive(Default)]
struct Woken(Plain);

impl Wake for Woken {
    fn wake(self: std::sync::Arc<Self>) {
        self.0.fetch_add(1, Relaxed);
    }
}

/// Runs a leader that lands or leaves while another call enters.
fn meet(lands: bool) {
    let inner = Arc::new(Inner::<u32, u32, ()>::new("x", ManualClock::new().into()));
    let Entered::Leads(leading) = inner.enter(&1, TERMS) else {
        panic!("it is the first");
    };
    let other = {
        let inner = inner.clone();
        thread::spawn(move || {
            let woken = std::sync::Arc::new(Woken::default());
            let waker = Waker::from(woken.clone());
            let task = Context::from_waker(&waker);
            match inner.enter(&1, TERMS) {
                // The other flight had ended.
                Entered::Leads(leading) => leading.land(&Outcome::of(Ok(2))),
                Entered::Waits(mut waiting) => loop {
                    match waiting.poll(&task) {
                        Seen::Landed => {
                            let outcome = waiting.outcome().expect("it has landed");
                            assert_eq!(outcome.result, Ok(1));
                            break;
                        }
                        Seen::Leads(leading) => {
                            leading.land(&Outcome::of(Ok(2)));
                            break;
                        }
                        // Waits for the wake-up that announces the next state.
                        Seen::Pending => {
                            while woken.0.swap(0, Relaxed) == 0 {
                                thread::yield_now();
                            }
                        }
                    }
                },
            }
        })
    };
    if lands {
        leading.land(&Outcome::of(Ok(1)));
    } else {
        drop(leading);
    }
    other.join().unwrap();
    let seen = inner.snapshot();
    assert_eq!((seen.flights, seen.waiting), (0, 0));
}

#[test]
fn loom_a_call_that_enters_while_the_leader_lands_gets_a_result() {
    loom::model(|| meet(true));
}

#[test]
fn loom_a_call_that_enters_while_the_leader_leaves_executes_the_operation() {
    loom::model(|| meet(false));
}
