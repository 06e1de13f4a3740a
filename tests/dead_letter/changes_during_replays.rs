//! Letters that are discarded or parked while a run replays them.

use std::cell::RefCell;

use backstop::dead_letter::ReplayEnd;
use backstop::{Error, ManualClock, Reason, Rejected};

use crate::replays::full;
use crate::{builder, id, push};

#[test]
fn a_letter_that_is_discarded_before_its_turn_is_not_sent() {
    let clock = ManualClock::new();
    let queue = full(&clock, 3);
    let mut sent = Vec::new();
    let report = clock.block_on(queue.replay().run(|letter| {
        sent.push(letter.id().get());
        let queue = queue.clone();
        async move { queue.discard(id(2)).await.map(drop) }
    }));
    assert_eq!(report.unwrap().progress.delivered, 2);
    assert_eq!(sent, [1, 3]);
}

#[test]
fn a_letter_that_is_discarded_before_its_turn_does_not_count_towards_the_limit() {
    let clock = ManualClock::new();
    let queue = full(&clock, 5);
    clock.block_on(async {
        let run = queue.replay().rate(f64::INFINITY).limit(3);
        let run = run.run(|letter| {
            let queue = &queue;
            async move {
                if letter.id() == id(1) {
                    queue.discard(id(2)).await.unwrap();
                    queue.discard(id(3)).await.unwrap();
                }
                Ok::<_, &str>(())
            }
        });
        let report = run.await.unwrap();
        assert_eq!(
            (report.progress.delivered, report.end),
            (3, ReplayEnd::Limit)
        );
    });
}

#[test]
fn a_letter_that_is_discarded_while_it_is_in_flight_is_not_parked() {
    let clock = ManualClock::new();
    let queue = builder(&clock).max_replays(1).build().unwrap();
    clock.block_on(async {
        push(&queue, 2).await.unwrap();
        let run = queue.replay().rate(f64::INFINITY).run(|letter| {
            let queue = &queue;
            async move {
                if letter.id() == id(1) {
                    queue.discard(id(1)).await.unwrap();
                }
                Err::<(), _>("down")
            }
        });
        let progress = run.await.unwrap().progress;
        assert_eq!((progress.failed, progress.parked), (2, 1));
        assert_eq!(queue.snapshot().parked, 1);
    });
}

#[test]
fn a_letter_that_is_parked_before_its_turn_is_not_sent() {
    let clock = ManualClock::new();
    let queue = full(&clock, 5);
    let sent = RefCell::new(Vec::new());
    clock.block_on(async {
        let run = queue.replay().rate(f64::INFINITY).limit(3);
        let run = run.run(|letter| {
            let queue = &queue;
            sent.borrow_mut().push(letter.id().get());
            async move { queue.park(id(2)).await.map(drop) }
        });
        let report = run.await.unwrap();
        // It does not count towards the limit, as a discarded one does not.
        assert_eq!(*sent.borrow(), [1, 3, 4]);
        assert_eq!(report.progress.delivered, 3);
        let parked = queue.get(id(2)).await.unwrap().unwrap();
        assert_eq!((parked.is_parked(), parked.replays()), (true, 0));
    });
}

#[test]
fn a_letter_that_is_parked_after_a_rejection_is_not_sent() {
    let clock = ManualClock::new();
    let queue = full(&clock, 2);
    let sent = RefCell::new(Vec::new());
    clock.block_on(async {
        let run = queue.replay().rate(f64::INFINITY).run_calls(|letter| {
            let queue = &queue;
            sent.borrow_mut().push(letter.id().get());
            async move {
                if letter.id() == id(1) {
                    queue.park(id(1)).await.unwrap();
                    return Err(Error::Rejected(Rejected::new("limit", Reason::RateLimited)));
                }
                Ok::<_, Error<&str>>(())
            }
        });
        let report = run.await.unwrap();
        assert_eq!((sent.take(), report.end), (vec![1, 2], ReplayEnd::Finished));
        let parked = queue.get(id(1)).await.unwrap().unwrap();
        assert_eq!((parked.is_parked(), parked.replays()), (true, 0));
    });
}
