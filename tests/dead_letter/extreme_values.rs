//! Settings without a meaning, and the largest ones.

use std::time::Duration;

use backstop::ManualClock;
use backstop::dead_letter::{DeadLetterErrorKind, Filter, MemorySink, NewLetter, Replay, WhenFull};

use crate::{builder, id, push};

#[test]
fn settings_without_a_meaning_are_rejected() {
    let clock = ManualClock::new();
    let settings = [
        (builder(&clock).max_replays(0).build().err(), "max_replays"),
        (
            builder(&clock)
                .memory(MemorySink::new().max_letters(0))
                .build()
                .err(),
            "max_letters",
        ),
        (
            builder(&clock)
                .memory(MemorySink::new().max_age(Duration::ZERO))
                .build()
                .err(),
            "max_age",
        ),
    ];
    for (error, setting) in settings {
        assert_eq!(error.unwrap().setting(), setting);
    }
    let queue = builder(&clock).build().unwrap();
    let replay = || queue.replay();
    let replays: [(Replay<String>, &str); 8] = [
        (replay().rate(0.0), "rate"),
        (replay().rate(-1.0), "rate"),
        (replay().rate(f64::NAN), "rate"),
        (replay().rate(f64::NEG_INFINITY), "rate"),
        (replay().max_concurrent(0), "max_concurrent"),
        (replay().max_concurrent(1025), "max_concurrent"),
        (replay().stop_after(0), "stop_after"),
        (replay().filter(Filter::new().parked(true)), "filter"),
    ];
    for (replay, setting) in replays {
        let run = replay.run(|_| async { Ok::<_, &str>(()) });
        let error = clock.block_on(run).unwrap_err();
        assert_eq!(error.kind(), DeadLetterErrorKind::Config);
        assert!(error.context().contains(setting), "{error}");
    }
}

#[test]
fn the_largest_settings_neither_overflow_nor_hang() {
    let clock = ManualClock::new();
    let memory = MemorySink::new()
        .max_letters(u64::MAX)
        .max_age(Duration::MAX)
        .when_full(WhenFull::EvictOldest);
    let queue = builder(&clock)
        .memory(memory)
        .max_replays(u32::MAX)
        .max_error_bytes(usize::MAX)
        .timestamps(|| backstop::dead_letter::Timestamp::MAX)
        .build()
        .unwrap();
    clock.block_on(async {
        push(&queue, 3).await.unwrap();
        queue
            .push(NewLetter::new(String::new()).attempts(u32::MAX))
            .await
            .unwrap();
        let everything = Filter::new()
            .older_than(Duration::ZERO)
            .newer_than(Duration::MAX)
            .ids(id(0), id(u64::MAX))
            .max_replays(u32::MAX);
        assert_eq!(queue.count(&everything).await.unwrap(), 4);
        assert_eq!(
            queue.count(&Filter::new().ids(id(5), id(2))).await.unwrap(),
            0
        );
        let slow = queue
            .replay()
            .rate(f64::MIN_POSITIVE)
            .dry_run()
            .await
            .unwrap();
        assert_eq!(slow.takes, Duration::MAX);
        let fast = queue
            .replay()
            .rate(f64::MAX)
            .max_concurrent(1024)
            .limit(u64::MAX)
            .stop_after(u32::MAX);
        assert_eq!(
            fast.run(|_| async { Ok::<_, &str>(()) })
                .await
                .unwrap()
                .progress
                .delivered,
            4
        );
        let none = queue
            .replay()
            .limit(0)
            .run(|_| async { Ok::<_, &str>(()) })
            .await
            .unwrap();
        assert_eq!(none.progress.delivered, 0);
    });
}

#[test]
fn a_rate_too_low_for_the_clock_sends_one_letter_and_waits() {
    let clock = ManualClock::new();
    let queue = builder(&clock).build().unwrap();
    clock.block_on(async {
        push(&queue, 2).await.unwrap();
        let run = queue
            .replay()
            .rate(f64::MIN_POSITIVE)
            .run(|_| async { Ok::<_, &str>(()) });
        let hundred_years = Box::pin(clock.sleep(Duration::from_secs(3_153_600_000)));
        drop(futures::future::select(Box::pin(run), hundred_years).await);
    });
    assert_eq!(queue.snapshot().letters, 1);
}
