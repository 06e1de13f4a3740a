//! Active health checks.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::future::Future;
use std::pin::pin;
use std::task::{Context, Waker};

use backstop::endpoints::NodeState;
use backstop::{Endpoints, ManualClock};
use futures::future::{Either, select};

use crate::{Heard, SECOND, builder, fail, ms, picks, rotating, state};

/// Runs checks for a while, then `then`, while they still run.
fn during_checks<F, Fut>(
    clock: &ManualClock,
    endpoints: &Endpoints<usize>,
    check: F,
    then: impl Future,
) where
    F: Fn(usize) -> Fut,
    Fut: Future<Output = Result<(), ()>>,
{
    let checks = pin!(endpoints.check_with(SECOND, |node| check(*node)));
    let then = pin!(then);
    clock.block_on(async {
        match select(checks, then).await {
            Either::Left(_) => panic!("checks end only when they are dropped"),
            Either::Right(_) => {}
        }
    });
}

#[test]
fn a_node_whose_checks_fail_gets_no_calls_until_they_succeed() {
    let clock = ManualClock::new();
    let heard = Heard::default();
    let endpoints = builder(&clock, 3)
        .healthy_after(2)
        .observer(heard.observer())
        .build()
        .unwrap();
    let is_down = Cell::new(true);
    let down = &is_down;
    let check = |node| async move {
        if node == 1 && down.get() {
            Err(())
        } else {
            Ok(())
        }
    };
    during_checks(&clock, &endpoints, check, async {
        clock.sleep(ms(1500)).await;
        assert_eq!(
            state(&endpoints, 1),
            NodeState::Available,
            "two checks have failed"
        );
        clock.sleep(SECOND).await;
        assert_eq!(state(&endpoints, 1), NodeState::Unhealthy);
        assert_eq!(heard.take(), ["endpoints: health checks of node-1 failed"]);
        assert!(!picks(&endpoints, 100).contains_key(&1));
        is_down.set(false);
        clock.sleep(SECOND).await;
        assert_eq!(
            state(&endpoints, 1),
            NodeState::Unhealthy,
            "one has succeeded"
        );
        clock.sleep(SECOND).await;
        assert_eq!(state(&endpoints, 1), NodeState::Starting);
        assert_eq!(heard.take(), ["endpoints: node-1 counts as healthy again"]);
    });
}

#[test]
fn a_good_check_ends_an_ejection() {
    let clock = ManualClock::new();
    let endpoints = rotating(&clock, 3).build().unwrap();
    fail(&endpoints, 1, 5);
    assert_eq!(state(&endpoints, 1), NodeState::Ejected);
    during_checks(&clock, &endpoints, |_| async { Ok(()) }, async {
        clock.sleep(ms(1)).await;
        assert_eq!(state(&endpoints, 1), NodeState::Starting);
    });
}

#[test]
fn one_available_node_of_hundreds_gets_the_calls_without_a_panic_threshold() {
    let clock = ManualClock::new();
    let endpoints = builder(&clock, 200)
        .panic_threshold(0.0)
        .unhealthy_after(1)
        .build()
        .unwrap();
    let check = |node| async move { if node == 7 { Ok(()) } else { Err(()) } };
    during_checks(&clock, &endpoints, check, async {
        clock.sleep(ms(1)).await;
        assert_eq!(picks(&endpoints, 10).get(&7), Some(&10));
    });
}

#[test]
fn a_check_that_hangs_failed_and_delays_no_other() {
    let clock = ManualClock::new();
    let endpoints = builder(&clock, 40).unhealthy_after(1).build().unwrap();
    let checked = RefCell::new(HashMap::<usize, u32>::new());
    let (seen, handle) = (&checked, &clock);
    let check = |node| async move {
        *seen.borrow_mut().entry(node).or_default() += 1;
        if node == 7 {
            std::future::pending::<()>().await;
        }
        handle.sleep(ms(100)).await;
        Ok(())
    };
    during_checks(&clock, &endpoints, check, async {
        clock.sleep(ms(250)).await;
        assert_eq!(seen.borrow().len(), 40, "in two rounds, 32 at a time");
        assert_eq!(state(&endpoints, 7), NodeState::Available);
        clock.sleep(SECOND).await;
        assert_eq!(state(&endpoints, 7), NodeState::Unhealthy);
        assert_eq!(state(&endpoints, 8), NodeState::Available);
        assert!(
            seen.borrow().values().all(|checks| *checks == 2),
            "once in each interval"
        );
    });
    assert_eq!(clock.sleepers(), 0);
}

#[test]
fn when_the_last_checker_ends_the_results_of_checks_are_discarded() {
    let clock = ManualClock::new();
    let endpoints = builder(&clock, 3).unhealthy_after(1).build().unwrap();
    let check = |node| async move { if node == 1 { Err(()) } else { Ok(()) } };
    during_checks(&clock, &endpoints, check, async {
        clock.sleep(ms(1)).await;
        // A second one, which ends first.
        let hangs = |_| std::future::pending::<Result<(), ()>>();
        let mut second = Box::pin(endpoints.check_with(SECOND, hangs));
        let _ = second
            .as_mut()
            .poll(&mut Context::from_waker(Waker::noop()));
        drop(second);
        clock.sleep(SECOND).await;
        assert_eq!(state(&endpoints, 1), NodeState::Unhealthy);
    });
    assert_eq!(state(&endpoints, 1), NodeState::Starting);
}

#[test]
fn a_check_that_panics_ends_the_checker_and_discards_its_results() {
    let clock = ManualClock::new();
    let endpoints = builder(&clock, 3).unhealthy_after(1).build().unwrap();
    let rounds = Cell::new(0);
    let (rounds, handle) = (&rounds, &clock);
    let check = |node: backstop::endpoints::Node<usize>| async move {
        if *node == 2 {
            rounds.set(rounds.get() + 1);
            handle.sleep(ms(1)).await;
            assert_eq!(rounds.get(), 1, "on purpose");
        }
        if *node == 1 { Err(()) } else { Ok(()) }
    };
    let checker =
        std::panic::AssertUnwindSafe(|| clock.block_on(endpoints.check_with(SECOND, check)));
    assert!(std::panic::catch_unwind(checker).is_err());
    assert_eq!(rounds.get(), 2);
    assert_eq!(state(&endpoints, 1), NodeState::Starting);
    assert_eq!(clock.sleepers(), 0);
}

/// Ejects node 1, and reports its state after each of these checks of it, one a second.
fn states_after(checks: &[bool], healthy_after: u32, ejects: bool) -> Vec<NodeState> {
    let clock = ManualClock::new();
    let builder = rotating(&clock, 3)
        .base_ejection(60 * SECOND)
        .unhealthy_after(2);
    let endpoints = builder.healthy_after(healthy_after).build().unwrap();
    if ejects {
        fail(&endpoints, 1, 5);
    }
    let (done, states) = (Cell::new(0), RefCell::new(Vec::new()));
    let next = &done;
    let check = |node| async move {
        let at = if node == 1 {
            next.replace(next.get() + 1)
        } else {
            0
        };
        if node != 1 || checks[at.min(checks.len() - 1)] {
            Ok(())
        } else {
            Err(())
        }
    };
    during_checks(&clock, &endpoints, check, async {
        clock.sleep(ms(500)).await;
        for _ in checks {
            states.borrow_mut().push(state(&endpoints, 1));
            clock.sleep(SECOND).await;
        }
    });
    states.into_inner()
}

#[test]
fn only_consecutive_good_checks_end_an_ejection() {
    use NodeState::{Ejected, Starting};
    let states = states_after(&[false, true, true], 2, true);
    assert_eq!(states, [Ejected, Ejected, Starting]);
    let states = states_after(&[true, false, true, true], 2, true);
    assert_eq!(states, [Ejected, Ejected, Ejected, Starting]);
}

#[test]
fn good_checks_of_an_ejected_node_do_not_count_as_failed_ones() {
    use NodeState::{Ejected, Unhealthy};
    let states = states_after(&[true, true, false, false], 3, true);
    assert_eq!(states, [Ejected, Ejected, Ejected, Unhealthy]);
}

#[test]
fn nodes_that_were_unhealthy_start_slowly_when_the_last_checker_ends() {
    let clock = ManualClock::new();
    let heard = Heard::default();
    let endpoints = builder(&clock, 3)
        .unhealthy_after(1)
        .observer(heard.observer())
        .build()
        .unwrap();
    let check = |node| async move { if node == 1 { Err(()) } else { Ok(()) } };
    during_checks(&clock, &endpoints, check, clock.sleep(ms(1)));
    assert_eq!(
        heard.take(),
        [
            "endpoints: health checks of node-1 failed",
            "endpoints: node-1 counts as healthy again"
        ]
    );
    assert_eq!(state(&endpoints, 1), NodeState::Starting);
}
