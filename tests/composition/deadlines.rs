//! Deadlines that are inherited: by scopes, through clocks, into tasks.

use std::sync::Arc;

use backstop::{Clock, ManualClock, Policy, Retry, deadline};

use super::{Fault, ms, timeout};

/// The time that a call through a policy has, made when this is polled.
macro_rules! left {
    ($policy:expr) => {
        async {
            let policy = $policy;
            let call =
                policy.call_with(|attempt| async move { Ok::<_, Fault>(attempt.remaining()) });
            call.await.unwrap()
        }
    };
}

#[test]
fn a_scope_is_no_longer_than_the_timeout_it_is_polled_in() {
    let clock = ManualClock::new();
    let (short, long) = (timeout(&clock, 20), timeout(&clock, 1000));
    // Made by the closure itself, which does not run under the timeout, and before it.
    let made_inside = short.call(|| async {
        let scope = deadline::scope_on(clock.clone(), ms(500), left!(&long));
        Ok::<_, Fault>(scope.await)
    });
    assert_eq!(clock.block_on(made_inside), Ok(Some(ms(20))));
    let made_by_the_closure = short.call(|| {
        let call = async { Ok::<_, Fault>(left!(&long).await) };
        deadline::scope_on(clock.clone(), ms(500), call)
    });
    assert_eq!(clock.block_on(made_by_the_closure), Ok(Some(ms(20))));
    // And a shorter one is kept.
    let shorter = short.call(|| {
        let call = async { Ok::<_, Fault>(left!(&long).await) };
        deadline::scope_on(clock.clone(), ms(5), call)
    });
    assert_eq!(clock.block_on(shorter), Ok(Some(ms(5))));
}

#[test]
fn a_layer_on_the_deadlines_clock_sees_it_behind_one_on_another_clock() {
    let (theirs, ours) = (ManualClock::new(), ManualClock::new());
    theirs.advance(ms(77_000));
    // Reads its own clock first, which knows nothing of the deadline.
    let retry = Retry::builder().clock(theirs.clone()).max_elapsed(ms(1));
    let stack = (retry.build().unwrap(), timeout(&ours, 1000));
    let call = deadline::scope_on(ours.clone(), ms(30), left!(&stack));
    assert_eq!(ours.block_on(call), Some(ms(30)));
    assert_eq!(ours.block_on(left!(&stack)), Some(ms(1000)));
}

#[test]
fn the_time_left_can_be_asked_for_on_any_clock() {
    let (clock, other) = (ManualClock::new(), ManualClock::new());
    let seen = clock.block_on(deadline::scope_on(clock.clone(), ms(30), async {
        clock.sleep(ms(10)).await;
        [
            deadline::current_on(clock.clone()),
            deadline::current_on(other.clone()),
            deadline::current(),
        ]
    }));
    assert_eq!(seen, [Some(ms(20)), None, None]);
    assert_eq!(deadline::current_on(clock), None);
}

#[test]
fn a_scope_polled_in_one_on_another_manual_clock_keeps_its_own_deadline() {
    let (ours, theirs) = (ManualClock::new(), ManualClock::new());
    theirs.advance(ms(1_000_000));
    let scope = deadline::scope_on(theirs.clone(), ms(500), async {
        deadline::current_on(theirs.clone())
    });
    let seen = ours.block_on(deadline::scope_on(ours.clone(), ms(30), scope));
    assert_eq!(seen, Some(ms(500)));
}

#[test]
fn a_scope_keeps_its_clock_from_being_taken_for_another_one() {
    #[derive(Debug)]
    struct Mine(ManualClock);
    impl Clock for Mine {
        fn now(&self) -> backstop::Instant {
            self.0.now()
        }
        fn sleep_until(&self, deadline: backstop::Instant) -> backstop::Sleep {
            self.0.sleep_until(deadline)
        }
    }
    let time = ManualClock::new();
    let first = Arc::new(Mine(time.clone()));
    let alive = Arc::downgrade(&first);
    let scope = deadline::scope_on(first, ms(5), async {});
    // Else the next clock might get its address, and with it its deadline.
    assert!(alive.upgrade().is_some());
    time.block_on(scope);
    assert!(alive.upgrade().is_none());
}

#[cfg(feature = "tokio")]
#[tokio::test(start_paused = true)]
async fn a_task_inherits_nothing_unless_a_scope_takes_it_along() {
    let stack = backstop::Timeout::after(ms(1000));
    let spawned = |scoped: bool| {
        let stack = stack.clone();
        let task = async move {
            tokio::time::sleep(ms(10)).await;
            left!(&stack).await
        };
        match scoped {
            true => tokio::spawn(deadline::scope(std::time::Duration::MAX, task)),
            false => tokio::spawn(task),
        }
    };
    let both = deadline::scope(ms(100), async {
        (
            spawned(true).await.unwrap(),
            spawned(false).await.unwrap(),
            deadline::current(),
        )
    });
    assert_eq!(both.await, (Some(ms(90)), Some(ms(1000)), Some(ms(80))));
    // Where there is none, there is none to take along.
    assert_eq!(spawned(true).await.unwrap(), Some(ms(1000)));
}

#[cfg(feature = "tokio")]
#[tokio::test(start_paused = true)]
async fn a_deadline_on_a_real_clock_is_carried_over_to_any_other() {
    let manual = ManualClock::new();
    let seen = deadline::scope(ms(100), async {
        // The stack's clock stands still, so nothing passes between the two readings.
        (
            left!(&timeout(&manual, 1000)).await,
            deadline::current_on(manual.clone()),
        )
    });
    assert_eq!(seen.await, (Some(ms(100)), Some(ms(100))));
    let result: Result<(), _> = backstop::Timeout::after(ms(50))
        .call(|| async {
            // No timer of a clock that stands still would fire.
            let own = timeout(&manual, 10_000);
            own.call(std::future::pending::<Result<(), Fault>>)
                .await
                .map_err(|_| Fault::Down)
        })
        .await;
    assert!(result.unwrap_err().is_timeout());
}

#[cfg(feature = "tokio")]
#[tokio::test(start_paused = true)]
async fn a_layer_on_the_runtimes_clock_sees_the_deadline_behind_one_on_a_manual_clock() {
    let theirs = ManualClock::new();
    let stack = (timeout(&theirs, 5000), backstop::Timeout::after(ms(1000)));
    let seen = deadline::scope(ms(30), left!(&stack)).await;
    assert_eq!(seen, Some(ms(30)));
}
