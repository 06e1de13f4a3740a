//! Letters that are discarded while a run replays them.

use backstop::ManualClock;
use backstop::dead_letter::ReplayEnd;

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
