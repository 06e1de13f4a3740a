//! Replays: order, rate, counting, parking, stopping.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use backstop::dead_letter::{DeadLetterErrorKind, Filter, Letter, NewLetter, Progress, ReplayEnd};
use backstop::{Clock, Error, ManualClock, Reason, Rejected};
use futures::future::join;

use crate::{Heard, Queue, all, builder, id, ids, push};

pub(super) const SECOND: Duration = Duration::from_secs(1);

pub(super) fn full(clock: &ManualClock, letters: u64) -> Queue {
    let queue = builder(clock).build().unwrap();
    clock.block_on(push(&queue, letters)).unwrap();
    queue
}

#[test]
fn letters_are_replayed_in_order_and_removed() {
    let clock = ManualClock::new();
    let queue = full(&clock, 300);
    let mut sent = Vec::new();
    let report = clock.block_on(queue.replay().rate(f64::INFINITY).run(|letter| {
        sent.push(letter.id().get());
        async { Ok::<_, &str>(()) }
    }));
    let report = report.unwrap();
    assert_eq!(sent, (1..=300).collect::<Vec<_>>());
    assert_eq!(
        (report.progress.delivered, report.end),
        (300, ReplayEnd::Finished)
    );
    assert_eq!(report.progress.last, Some(id(300)));
    assert_eq!(
        (queue.snapshot().letters, queue.snapshot().delivered),
        (0, 300)
    );
}

#[test]
fn ten_thousand_letters_at_200_a_second_keep_the_rate() {
    let clock = ManualClock::new();
    let queue = full(&clock, 10_000);
    let starts = RefCell::new(Vec::new());
    let report = clock.block_on(queue.replay().rate(200.0).max_concurrent(8).run(|letter| {
        starts.borrow_mut().push(clock.now().as_nanos());
        // 3 to 30 ms.
        let sleep = clock.sleep(Duration::from_millis(3 + letter.id().get() % 28));
        async {
            sleep.await;
            Ok::<_, &str>(())
        }
    }));
    assert_eq!(report.unwrap().progress.delivered, 10_000);
    let starts = starts.into_inner();
    let took = (starts[9_999] - starts[0]) as f64 / 1e9;
    let rate = 9_999.0 / took;
    assert!((rate - 200.0).abs() < 0.02 * 200.0, "{rate}");
    // And at no time more than that: any second has 200 and what 20 ms of slack allow.
    for window in starts.windows(207) {
        assert!(window[206] - window[0] >= 1_000_000_000);
    }
}

#[test]
fn no_more_than_max_concurrent_are_in_flight() {
    let clock = ManualClock::new();
    let queue = full(&clock, 50);
    let (now, most) = (Rc::new(Cell::new(0_u32)), Rc::new(Cell::new(0)));
    let report = clock.block_on(
        queue
            .replay()
            .rate(f64::INFINITY)
            .max_concurrent(4)
            .run(|_| {
                now.set(now.get() + 1);
                most.set(most.get().max(now.get()));
                let (sleep, now) = (clock.sleep(SECOND), now.clone());
                async move {
                    sleep.await;
                    now.set(now.get() - 1);
                    Ok::<_, &str>(())
                }
            }),
    );
    assert_eq!((report.unwrap().progress.delivered, most.get()), (50, 4));
}

#[test]
fn a_poison_letter_is_parked_after_its_last_replay() {
    let (clock, heard) = (ManualClock::new(), Heard::default());
    let queue = builder(&clock)
        .max_replays(3)
        .observer(heard.observer())
        .build()
        .unwrap();
    clock.block_on(async {
        push(&queue, 2).await.unwrap();
        let mut keys = BTreeSet::new();
        for run in 1..=4 {
            let sent = Cell::new(0);
            let replay = queue
                .replay()
                .rate(f64::INFINITY)
                .filter(Filter::new().ids(id(1), id(1)));
            let report = replay
                .run(|letter: Letter<String>| {
                    sent.set(sent.get() + 1);
                    assert_eq!(letter.replays(), run);
                    keys.insert(letter.idempotency_key().to_owned());
                    async { Err::<(), _>("poison") }
                })
                .await
                .unwrap();
            let expected = (run.min(4) < 4, run == 3);
            assert_eq!(
                (sent.get() == 1, report.progress.parked == 1),
                expected,
                "run {run}"
            );
        }
        // The same key in every replay.
        assert_eq!(keys.len(), 1);
        let letters = all(&queue).await;
        assert_eq!((letters[0].replays(), letters[0].is_parked()), (3, true));
        assert_eq!(letters[0].last_replay().unwrap().error, "poison");
        assert!(!letters[1].is_parked());
        assert_eq!(queue.snapshot().parked, 1);
        assert!(
            heard
                .take()
                .contains(&"dead_letters: parked letter 1 after 3 replays".to_owned())
        );
        // Unparked it has all its replays again.
        assert!(queue.unpark(id(1)).await.unwrap());
        assert_eq!(queue.replay().dry_run().await.unwrap().letters, 2);
        let run = queue
            .replay()
            .rate(f64::INFINITY)
            .run(|_| async { Ok::<_, &str>(()) });
        assert_eq!(run.await.unwrap().progress.delivered, 2);
    });
}

#[test]
fn a_run_that_is_dropped_has_counted_what_was_in_flight() {
    let clock = ManualClock::new();
    let queue = builder(&clock).max_replays(2).build().unwrap();
    clock.block_on(async {
        push(&queue, 3).await.unwrap();
        for _ in 0..2 {
            let run = queue
                .replay()
                .run(|_| std::future::pending::<Result<(), &str>>());
            let stopped =
                futures::future::select(Box::pin(run), Box::pin(clock.sleep(SECOND))).await;
            drop(stopped);
        }
        let replays: Vec<_> = all(&queue).await.iter().map(Letter::replays).collect();
        assert_eq!(replays, [2, 0, 0]);
        // As if it had killed the process twice: parked, not sent a third time.
        let mut sent = Vec::new();
        let run = queue.replay().rate(f64::INFINITY).run(|letter| {
            sent.push(letter.id().get());
            async { Ok::<_, &str>(()) }
        });
        assert_eq!(run.await.unwrap().progress.parked, 1);
        assert_eq!(sent, [2, 3]);
        assert_eq!(ids(&queue).await, [1]);
    });
}

#[test]
fn failures_in_a_row_stop_the_run() {
    let clock = ManualClock::new();
    let queue = full(&clock, 20);
    let report = clock.block_on(queue.replay().stop_after(3).run(|letter| async move {
        // 1 and 2 fail, 3 is good, then all fail.
        if letter.id() == id(3) {
            Ok(())
        } else {
            Err("down")
        }
    }));
    let report = report.unwrap();
    assert_eq!(report.end, ReplayEnd::ConsecutiveFailures);
    assert_eq!((report.progress.failed, report.progress.delivered), (5, 1));
    assert_eq!(report.progress.last, Some(id(6)));
}

#[test]
fn the_end_of_a_run_is_an_event_with_what_became_of_the_letters() {
    let clock = ManualClock::new();
    let heard = Heard::default();
    let queue = builder(&clock).observer(heard.observer()).build().unwrap();
    clock.block_on(push(&queue, 3)).unwrap();
    heard.take();
    let report = clock.block_on(queue.replay().run(|letter| async move {
        match letter.id() == id(2) {
            true => Err("down"),
            false => Ok(()),
        }
    }));
    assert_eq!(report.unwrap().end, ReplayEnd::Finished);
    let last = heard.take().pop().unwrap();
    assert!(
        last.contains("replay ended") && last.contains("2 delivered") && last.contains("1 failed"),
        "{last}"
    );
}

#[test]
fn an_open_circuit_stops_the_run_and_does_not_count_as_a_replay() {
    let clock = ManualClock::new();
    let queue = full(&clock, 5);
    let open = Rejected::new("github", Reason::CircuitOpen).with_retry_after(SECOND);
    let report = clock.block_on(queue.replay().run_calls(|letter| async move {
        if letter.id() == id(3) {
            Err(Error::<&str>::from(open))
        } else {
            Ok(())
        }
    }));
    let report = report.unwrap();
    assert_eq!(
        (report.end, report.retry_after),
        (ReplayEnd::CircuitOpen, Some(SECOND))
    );
    assert_eq!(
        (report.progress.delivered, report.progress.rejected),
        (2, 1)
    );
    let letters = clock.block_on(all(&queue));
    assert_eq!((letters[0].id(), letters[0].replays()), (id(3), 0));
}

#[test]
fn a_rejected_letter_is_tried_again_after_the_time_that_the_policy_says() {
    let clock = ManualClock::new();
    let queue = full(&clock, 3);
    let open = Rejected::new("github", Reason::CircuitOpen).with_retry_after(30 * SECOND);
    let mut sent = Vec::new();
    let replay = queue.replay().rate(100.0).wait_for_circuit(true);
    let report = clock.block_on(replay.run_calls(|letter| {
        let (second, now) = (letter.id() == id(2), clock.now());
        sent.push((letter.id().get(), letter.replays()));
        async move {
            if second && now.as_nanos() < 30_000_000_000 {
                Err(Error::<&str>::from(open))
            } else {
                Ok(())
            }
        }
    }));
    let report = report.unwrap();
    assert_eq!(
        (report.progress.delivered, report.progress.rejected),
        (3, 1)
    );
    assert_eq!(sent, [(1, 1), (2, 1), (2, 1), (3, 1)]);
    assert!(report.elapsed >= 30 * SECOND);
}

#[test]
fn a_letter_that_was_rejected_counts_once_toward_the_limit() {
    let open = Rejected::new("github", Reason::CircuitOpen).with_retry_after(SECOND);
    for limit in 1..4 {
        let clock = ManualClock::new();
        let queue = full(&clock, 5);
        let replay = queue.replay().limit(limit).wait_for_circuit(true);
        let report = clock.block_on(replay.run_calls(|_| {
            let is_open = clock.now() < backstop::Instant::ORIGIN + SECOND;
            async move {
                match is_open {
                    true => Err(Error::<&str>::from(open)),
                    false => Ok(()),
                }
            }
        }));
        let report = report.unwrap();
        assert_eq!(
            (report.progress.delivered, report.end),
            (limit, ReplayEnd::Limit)
        );
        assert_eq!(report.progress.in_flight, 0);
    }
}

#[test]
fn a_circuit_that_rejects_many_replays_at_once_is_waited_out() {
    let clock = ManualClock::new();
    let queue = full(&clock, 20);
    let open = Rejected::new("github", Reason::CircuitOpen).with_retry_after(30 * SECOND);
    let replay = queue.replay().rate(100.0).max_concurrent(20);
    let report = clock.block_on(replay.wait_for_circuit(true).run_calls(|_| async {
        // All of them are in flight when the circuit opens.
        clock.sleep(SECOND).await;
        match clock.now().as_nanos() < 30_000_000_000 {
            true => Err(Error::<&str>::from(open)),
            false => Ok(()),
        }
    }));
    let report = report.unwrap();
    assert_eq!(
        (report.end, report.progress.delivered),
        (ReplayEnd::Finished, 20)
    );
}

#[test]
fn rejections_without_an_end_stop_the_run_too() {
    let clock = ManualClock::new();
    let queue = full(&clock, 3);
    let full = Rejected::new("limiter", Reason::RateLimited);
    let run = queue
        .replay()
        .stop_after(4)
        .run_calls(|_| async move { Err::<(), _>(Error::<&str>::from(full)) });
    let report = clock.block_on(run).unwrap();
    assert_eq!(
        (report.end, report.progress.rejected),
        (ReplayEnd::ConsecutiveFailures, 4)
    );
    // One second each, where the policy says nothing.
    assert_eq!(report.elapsed, 3 * SECOND);
}

#[test]
fn letters_that_are_stored_meanwhile_are_for_the_next_run() {
    let clock = ManualClock::new();
    let queue = full(&clock, 3);
    let report = clock.block_on(queue.replay().rate(f64::INFINITY).stop_after(u32::MAX).run(
        |letter| {
            let queue = queue.clone();
            async move {
                // The mistake of many: the failure is stored again.
                queue
                    .push(NewLetter::new(letter.request().clone()))
                    .await
                    .unwrap();
                Err::<(), _>("down")
            }
        },
    ));
    assert_eq!(report.unwrap().progress.failed, 3);
    assert_eq!(queue.snapshot().letters, 6);
}

#[test]
fn one_run_at_a_time() {
    let clock = ManualClock::new();
    let queue = full(&clock, 3);
    clock.block_on(async {
        let send = |_| {
            let sleep = clock.sleep(SECOND);
            async {
                sleep.await;
                Ok::<_, &str>(())
            }
        };
        let (first, second) = join(queue.replay().run(send), queue.replay().run(send)).await;
        assert_eq!(first.unwrap().progress.delivered, 3);
        assert_eq!(
            second.unwrap_err().kind(),
            DeadLetterErrorKind::ReplayRunning
        );
        assert!(!queue.snapshot().replaying);
        queue.replay().run(send).await.unwrap();
    });
}

#[test]
fn limits_filters_and_progress() {
    let clock = ManualClock::new();
    let queue = full(&clock, 10);
    let heard = Arc::new(Mutex::new(Vec::new()));
    let progress = heard.clone();
    let replay = queue
        .replay()
        .limit(3)
        .filter(Filter::new().matching(|letter| letter.id().get() % 2 == 0));
    let replay = replay.on_progress(move |p: &Progress| progress.lock().unwrap().push(p.delivered));
    let report = clock
        .block_on(replay.run(|_| async { Ok::<_, &str>(()) }))
        .unwrap();
    assert_eq!(
        (report.end, report.progress.delivered),
        (ReplayEnd::Limit, 3)
    );
    assert_eq!(*heard.lock().unwrap(), [1, 2, 3]);
    assert_eq!(clock.block_on(ids(&queue)), [1, 3, 5, 7, 8, 9, 10]);
}

#[test]
fn a_dry_run_changes_nothing() {
    let clock = ManualClock::new();
    let queue = full(&clock, 401);
    let plan = clock
        .block_on(queue.replay().rate(200.0).dry_run())
        .unwrap();
    assert_eq!(
        (plan.letters, plan.first, plan.last),
        (401, Some(id(1)), Some(id(401)))
    );
    assert_eq!(plan.takes, 2 * SECOND);
    assert_eq!(
        clock
            .block_on(queue.replay().limit(7).dry_run())
            .unwrap()
            .letters,
        7
    );
    assert!(
        clock
            .block_on(all(&queue))
            .iter()
            .all(|letter| letter.replays() == 0)
    );
}

#[tokio::test]
async fn a_run_goes_into_a_spawned_task() {
    let queue = Queue::builder().build().unwrap();
    push(&queue, 3).await.unwrap();
    let task = tokio::spawn(async move {
        let replay = queue.replay().rate(f64::INFINITY);
        replay
            .run(|letter| async move {
                if letter.request().is_empty() {
                    Err("empty")
                } else {
                    Ok(())
                }
            })
            .await
    });
    assert_eq!(task.await.unwrap().unwrap().progress.delivered, 3);
}

#[test]
fn a_last_letter_that_is_one_failure_too_many_ends_the_run_for_that() {
    let clock = ManualClock::new();
    let queue = full(&clock, 3);
    let replay = queue.replay().limit(2).stop_after(2);
    let report = clock.block_on(replay.run(|_| async { Err::<(), _>("still down") }));
    assert_eq!(report.unwrap().end, ReplayEnd::ConsecutiveFailures);
}
