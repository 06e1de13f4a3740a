//! Storing, reading, grouping, discarding; retention.

use std::time::Duration;

use backstop::dead_letter::{
    ChannelSink, DeadLetterErrorKind, DeadLetterQueue, Filter, GroupBy, MemorySink, NewLetter,
    WhenFull,
};
use backstop::{Error, ManualClock, Reason, Rejected, TimedOut};

use crate::{Heard, Wall, all, builder, id, ids, push};

#[test]
fn a_letter_tells_why_the_call_failed() {
    let own = NewLetter::of_error((), &Error::Operation("reset"));
    assert_eq!((&*own.reason, &*own.error), ("failed", "reset"));
    let late: Error<&str> = TimedOut::new("attempt", Duration::from_secs(2)).into();
    let late = NewLetter::of_error((), &late);
    assert_eq!(
        (&*late.reason, &*late.error),
        ("timed_out", "timed out by attempt after 2s")
    );
    let rejected: Error<&str> = Rejected::new("github", Reason::CircuitOpen).into();
    let rejected = NewLetter::of_error((), &rejected);
    assert_eq!(
        (&*rejected.reason, &*rejected.error),
        ("circuit_open", "rejected by github: circuit open")
    );
}

#[test]
fn a_letter_is_read_as_it_was_stored() {
    let (clock, wall) = (ManualClock::new(), Wall::default());
    let times = wall.clone();
    let queue = builder(&clock)
        .timestamps(move || times.now())
        .build()
        .unwrap();
    wall.set(5);
    clock.block_on(async {
        let letter = NewLetter::new("pay".to_owned())
            .reason("timed_out")
            .error("late")
            .attempts(3)
            .first_failed_at(backstop::dead_letter::Timestamp::from_micros(2))
            .last_failed_at(backstop::dead_letter::Timestamp::from_micros(4))
            .key("customer-7")
            .tag("route", "/pay")
            .idempotency_key("k-1");
        let number = queue.push(letter).await.unwrap();
        let letter = queue.get(number).await.unwrap().unwrap();
        assert_eq!(letter.request(), "pay");
        assert_eq!(
            (letter.reason(), letter.error(), letter.attempts()),
            ("timed_out", "late", 3)
        );
        assert_eq!(letter.first_failed_at().as_micros(), 2);
        assert_eq!(
            (
                letter.last_failed_at().as_micros(),
                letter.stored_at().as_micros()
            ),
            (4, 5)
        );
        assert_eq!(
            (letter.key(), letter.tag("route"), letter.tag("x")),
            (Some("customer-7"), Some("/pay"), None)
        );
        assert_eq!(letter.idempotency_key(), "k-1");
        assert_eq!(
            (letter.replays(), letter.is_parked(), letter.last_replay()),
            (0, false, None)
        );
        assert!(queue.get(id(99)).await.unwrap().is_none());
        // Requests do not belong in logs.
        assert!(!format!("{letter:?}").contains("\"pay\""));
    });
}

#[test]
fn every_letter_gets_an_idempotency_key_of_its_own() {
    let clock = ManualClock::new();
    let queue = builder(&clock).build().unwrap();
    clock.block_on(async {
        push(&queue, 100).await.unwrap();
        let mut keys: Vec<_> = all(&queue)
            .await
            .iter()
            .map(|l| l.idempotency_key().to_owned())
            .collect();
        assert!(keys.iter().all(|key| key.len() == 32));
        keys.sort();
        keys.dedup();
        assert_eq!(keys.len(), 100);
    });
}

#[test]
fn filters_choose_by_each_condition() {
    let (clock, wall) = (ManualClock::new(), Wall::default());
    let times = wall.clone();
    let queue = builder(&clock)
        .timestamps(move || times.now())
        .build()
        .unwrap();
    clock.block_on(async {
        for (number, reason, key) in [
            (1, "failed", "a"),
            (2, "timed_out", "a"),
            (3, "failed", "b"),
        ] {
            wall.set(number * 1_000_000);
            let letter = NewLetter::new(format!("r{number}")).reason(reason).key(key);
            let letter = letter
                .tag("n", number.to_string())
                .error(format!("e{number}"));
            queue.push(letter).await.unwrap();
        }
        queue.park(id(3)).await.unwrap();
        let second = Duration::from_secs(1);
        type F = Filter<String>;
        let table: [(F, &[u64]); 11] = [
            (F::new(), &[1, 2, 3]),
            (F::new().reason("failed"), &[1, 3]),
            (F::new().reason("failed").key("b"), &[3]),
            (F::new().tag("n", "2"), &[2]),
            (F::new().error_contains("3"), &[3]),
            (F::new().older_than(second), &[1, 2]),
            (F::new().newer_than(second), &[3]),
            (F::new().ids(id(2), id(3)), &[2, 3]),
            (F::new().parked(true), &[3]),
            (F::new().parked(false), &[1, 2]),
            (
                F::new().matching(|letter| letter.request() != "r2"),
                &[1, 3],
            ),
        ];
        for (filter, expected) in table {
            let page = queue.peek(&filter, 10).await.unwrap();
            let found: Vec<_> = page.letters.iter().map(|l| l.id().get()).collect();
            assert_eq!(found, expected, "{filter:?}");
            assert_eq!(queue.count(&filter).await.unwrap(), expected.len() as u64);
        }
    });
}

#[test]
fn each_page_of_peek_begins_where_the_last_one_ended() {
    let clock = ManualClock::new();
    let queue = builder(&clock).build().unwrap();
    clock.block_on(async {
        push(&queue, 600).await.unwrap();
        let page = queue.peek(&Filter::new(), 599).await.unwrap();
        assert_eq!((page.letters.len(), page.next), (599, Some(id(599))));
        let page = queue.peek(&Filter::new(), 600).await.unwrap();
        assert_eq!((page.letters.len(), page.next), (600, None));
        assert!(
            queue
                .peek(&Filter::new(), 0)
                .await
                .unwrap()
                .letters
                .is_empty()
        );
    });
}

#[test]
fn groups_are_counted_the_largest_first() {
    let clock = ManualClock::new();
    let queue = builder(&clock).build().unwrap();
    clock.block_on(async {
        for reason in ["a", "b", "b", "c", "c", "c"] {
            queue
                .push(NewLetter::new(String::new()).reason(reason))
                .await
                .unwrap();
        }
        queue.park(id(2)).await.unwrap();
        let groups = queue.groups(GroupBy::Reason, &Filter::new()).await.unwrap();
        let found: Vec<_> = groups
            .iter()
            .map(|g| (g.name.as_str(), g.letters, g.parked))
            .collect();
        assert_eq!(found, [("c", 3, 0), ("b", 2, 1), ("a", 1, 0)]);
        let groups = queue.groups(GroupBy::Key, &Filter::new()).await.unwrap();
        assert_eq!((groups.len(), groups[0].letters), (1, 6));
    });
}

#[test]
fn letters_are_discarded_one_by_one_or_by_filter() {
    let clock = ManualClock::new();
    let queue = builder(&clock).build().unwrap();
    clock.block_on(async {
        push(&queue, 5).await.unwrap();
        assert!(queue.discard(id(2)).await.unwrap());
        assert!(!queue.discard(id(2)).await.unwrap());
        assert_eq!(
            queue
                .discard_all(&Filter::new().ids(id(3), id(4)))
                .await
                .unwrap(),
            2
        );
        assert_eq!(ids(&queue).await, [1, 5]);
        assert_eq!(queue.snapshot().discarded, 3);
    });
}

#[test]
fn a_full_queue_rejects_and_says_so() {
    let (clock, heard) = (ManualClock::new(), Heard::default());
    let queue = builder(&clock)
        .memory(MemorySink::new().max_letters(2))
        .observer(heard.observer())
        .name("mails")
        .build()
        .unwrap();
    clock.block_on(async {
        let error = push(&queue, 3).await.unwrap_err();
        assert_eq!(error.kind(), DeadLetterErrorKind::Full);
        assert_eq!(error.to_string(), "the queue is full: 2 letters");
        assert_eq!(ids(&queue).await, [1, 2]);
    });
    assert_eq!(
        heard.take(),
        [
            "mails: stored letter 1",
            "mails: stored letter 2",
            "mails: could not store a letter: full"
        ]
    );
    let snapshot = queue.snapshot();
    assert_eq!(
        (snapshot.stored, snapshot.rejected, snapshot.letters),
        (2, 1, 2)
    );
}

#[test]
fn a_group_spans_the_times_of_its_letters_in_whatever_order_they_come() {
    use backstop::dead_letter::Timestamp;

    let clock = ManualClock::new();
    let times = std::sync::Mutex::new([20, 10, 30].into_iter());
    let queue = builder(&clock)
        .timestamps(move || Timestamp::from_micros(times.lock().unwrap().next().unwrap_or(30)))
        .build()
        .unwrap();
    clock.block_on(async {
        push(&queue, 3).await.unwrap();
        let groups = queue.groups(GroupBy::Reason, &Filter::new()).await.unwrap();
        let span = [groups[0].oldest, groups[0].newest];
        assert_eq!(span, [10, 30].map(Timestamp::from_micros));
    });
}

#[test]
fn the_oldest_are_evicted_where_that_was_asked_for() {
    let (clock, heard) = (ManualClock::new(), Heard::default());
    let memory = MemorySink::new()
        .max_letters(2)
        .when_full(WhenFull::EvictOldest);
    let queue = builder(&clock)
        .memory(memory)
        .observer(heard.observer())
        .build()
        .unwrap();
    clock.block_on(async {
        push(&queue, 3).await.unwrap();
        assert_eq!(ids(&queue).await, [2, 3]);
    });
    assert_eq!(heard.take()[3], "dead_letters: evicted letter 1: count");
    assert_eq!(queue.snapshot().evicted, 1);
}

#[test]
fn old_letters_are_not_shown_and_leave_when_the_next_is_stored() {
    let (clock, wall) = (ManualClock::new(), Wall::default());
    let times = wall.clone();
    let queue = builder(&clock)
        .memory(MemorySink::new().max_age(Duration::from_micros(10)))
        .timestamps(move || times.now())
        .build()
        .unwrap();
    clock.block_on(async {
        push(&queue, 1).await.unwrap();
        wall.set(9);
        assert_eq!(ids(&queue).await, [1]);
        wall.set(10);
        assert!(ids(&queue).await.is_empty());
        assert_eq!(queue.snapshot().letters, 1);
        push(&queue, 1).await.unwrap();
        assert_eq!(ids(&queue).await, [2]);
        assert_eq!((queue.snapshot().letters, queue.snapshot().expired), (1, 1));
        // A time of day that jumps backward keeps them.
        wall.set(0);
        assert_eq!(ids(&queue).await, [2]);
    });
}

#[test]
fn a_channel_passes_letters_on_and_rejects_when_it_is_full_or_closed() {
    let clock = ManualClock::new();
    let (sender, mut receiver) = tokio::sync::mpsc::channel(1);
    let queue = builder(&clock)
        .sink(ChannelSink::new(sender))
        .build()
        .unwrap();
    clock.block_on(async {
        push(&queue, 1).await.unwrap();
        assert_eq!(
            push(&queue, 1).await.unwrap_err().kind(),
            DeadLetterErrorKind::Full
        );
        assert_eq!(receiver.recv().await.unwrap().request(), "request 1");
        drop(receiver);
        assert_eq!(
            push(&queue, 1).await.unwrap_err().kind(),
            DeadLetterErrorKind::Closed
        );
        // It keeps none.
        let write_only = queue.peek(&Filter::new(), 1).await.unwrap_err();
        assert_eq!(write_only.kind(), DeadLetterErrorKind::WriteOnly);
        assert_eq!(
            queue.replay().dry_run().await.unwrap_err().kind(),
            DeadLetterErrorKind::WriteOnly
        );
    });
}

#[test]
fn a_waiting_channel_waits_for_room_until_the_deadline() {
    let clock = ManualClock::new();
    let (sender, mut receiver) = tokio::sync::mpsc::channel(1);
    let queue = builder(&clock)
        .sink(ChannelSink::waiting(sender))
        .build()
        .unwrap();
    let second = Duration::from_secs(1);
    clock.block_on(async {
        push(&queue, 1).await.unwrap();
        let late = backstop::deadline::scope_on(clock.clone(), second, push(&queue, 1)).await;
        assert_eq!(late.unwrap_err().kind(), DeadLetterErrorKind::Unconfirmed);
        let (pushed, ()) = futures::future::join(push(&queue, 1), async {
            clock.sleep(second).await;
            receiver.recv().await.unwrap();
        })
        .await;
        pushed.unwrap();
    });
}

#[test]
fn without_a_runtime_a_push_blocks() {
    let queue = DeadLetterQueue::builder()
        .clock(backstop::BlockingClock)
        .build()
        .unwrap();
    assert_eq!(queue.push_blocking(NewLetter::new(1)).unwrap(), id(1));
}
