//! Replays through policies: attempts, circuits, endpoints.

use std::cell::RefCell;

use backstop::circuit_breaker::Trip;
use backstop::dead_letter::{Letter, ReplayEnd};
use backstop::{Backoff, CircuitBreaker, Endpoints, ManualClock, Retry, Timeout};

use super::replays::{SECOND, full};
use crate::{Queue, all, id, push};

#[test]
fn a_replay_goes_through_a_policy() {
    let clock = ManualClock::new();
    let queue = full(&clock, 10);
    let breaker = CircuitBreaker::builder()
        .trip_on(Trip::consecutive(3))
        .clock(clock.clone());
    let stack = (
        Retry::builder()
            .max_attempts(2)
            .backoff(Backoff::NONE)
            .clock(clock.clone())
            .build()
            .unwrap(),
        breaker.build().unwrap(),
    );
    let attempts = RefCell::new(Vec::new());
    let send = |letter: Letter<String>| {
        attempts
            .borrow_mut()
            .push((letter.id().get(), letter.idempotency_key().to_owned()));
        let is_down = letter.id() > id(4);
        async move { if is_down { Err("down") } else { Ok(()) } }
    };
    // 5 fails twice; 6 fails, which opens the circuit; 7 is rejected.
    let report = clock
        .block_on(queue.replay().through(&stack).run(send))
        .unwrap();
    assert_eq!(
        (report.end, report.progress.delivered),
        (ReplayEnd::CircuitOpen, 4)
    );
    assert_eq!((report.progress.failed, report.progress.rejected), (2, 1));
    assert!(report.retry_after.is_some());
    let attempts = attempts.into_inner();
    let sent: Vec<_> = attempts.iter().map(|(id, _)| *id).collect();
    assert_eq!(sent, [1, 2, 3, 4, 5, 5, 6]);
    // Both attempts of a letter have its key.
    assert_eq!(attempts[4].1, attempts[5].1);
    let replays: Vec<_> = clock
        .block_on(all(&queue))
        .iter()
        .map(Letter::replays)
        .collect();
    assert_eq!(replays, [1, 1, 0, 0, 0, 0]);
}

#[test]
fn the_attempts_to_send_a_letter_go_to_different_nodes() {
    let clock = ManualClock::new();
    let queue = full(&clock, 9);
    let endpoints = Endpoints::builder().node("a", ()).node("b", ());
    let endpoints = endpoints
        .eject_after(0)
        .clock(clock.clone())
        .build()
        .unwrap();
    let retry = Retry::builder().max_attempts(2).backoff(Backoff::NONE);
    let retry = retry.clock(clock.clone()).build().unwrap();
    let stack = (retry, &endpoints);
    let run = queue
        .replay()
        .through(&stack)
        .run(|_| async { Err::<(), _>("down") });
    assert_eq!(clock.block_on(run).unwrap().progress.failed, 9);
    for node in endpoints.snapshot().nodes {
        assert_eq!(node.calls, 9, "{}", node.name);
    }
}

#[tokio::test]
async fn a_replay_through_a_policy_goes_into_a_spawned_task() {
    let queue = Queue::builder().build().unwrap();
    push(&queue, 3).await.unwrap();
    let task = tokio::spawn(async move {
        let stack = (Timeout::after(SECOND), Retry::builder().build().unwrap());
        let replay = queue.replay().rate(f64::INFINITY);
        replay
            .through(&stack)
            .run(|letter| async move {
                letter
                    .request()
                    .parse::<u32>()
                    .map_or(Ok(()), |_| Err("a number"))
            })
            .await
    });
    assert_eq!(task.await.unwrap().unwrap().progress.delivered, 3);
}
