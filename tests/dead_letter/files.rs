//! The file sink on a real folder.

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use backstop::dead_letter::{
    DeadLetterErrorKind, DeadLetterQueue, FileSink, FileSinkBuilder, Filter, NewLetter, Timestamp,
    WhenFull,
};
use backstop::{ManualClock, deadline};
use futures::FutureExt;

use crate::{Folder, Heard, Queue, all, builder, id, ids, push};

pub(super) fn sink(folder: &Folder) -> FileSinkBuilder {
    FileSink::builder(&folder.0)
}

pub(super) fn open(folder: &Folder, clock: &ManualClock) -> Queue {
    builder(clock)
        .sink(sink(folder).open().unwrap())
        .build()
        .unwrap()
}

#[test]
fn letters_and_their_standing_survive_the_process() {
    let (clock, folder) = (ManualClock::new(), Folder::new("survive"));
    let queue = open(&folder, &clock);
    clock.block_on(async {
        push(&queue, 4).await.unwrap();
        let letter = NewLetter::new("ä\n\"x\"".to_owned())
            .key("k")
            .tag("t", "v")
            .attempts(7);
        queue
            .push(letter.reason("timed_out").error("line\nbreak"))
            .await
            .unwrap();
        queue.park(id(2)).await.unwrap();
        queue.discard(id(3)).await.unwrap();
        let run = queue.replay().filter(Filter::new().ids(id(1), id(1)));
        run.run(|_| async { Err::<(), _>("still down") })
            .await
            .unwrap();
        let before = format!("{:?}", all(&queue).await);
        drop(queue);
        // The last handle is gone, so the folder is free.
        let queue = open(&folder, &clock);
        assert_eq!(format!("{:?}", all(&queue).await), before);
        assert_eq!(ids(&queue).await, [1, 2, 4, 5]);
        let last = queue.get(id(5)).await.unwrap().unwrap();
        assert_eq!(last.request(), "ä\n\"x\"");
        let first = queue.get(id(1)).await.unwrap().unwrap();
        assert_eq!(
            (first.replays(), &*first.last_replay().unwrap().error),
            (1, "still down")
        );
        // Numbers are not used again.
        assert!(queue.push(NewLetter::new(String::new())).await.unwrap() > id(5));
    });
}

#[test]
fn racing_writers_lose_nothing_and_share_their_commits() {
    let (clock, folder) = (ManualClock::new(), Folder::new("racing"));
    let sink = sink(&folder).segment_bytes(20_000).open().unwrap();
    let queue = builder(&clock).sink(sink.clone()).build().unwrap();
    std::thread::scope(|scope| {
        for writer in 0..8 {
            let queue = &queue;
            scope.spawn(move || {
                for number in 0..100 {
                    queue
                        .push_blocking(NewLetter::new(format!("{writer}/{number}")))
                        .unwrap();
                }
            });
        }
    });
    let snapshot = sink.snapshot();
    assert_eq!((snapshot.totals.letters, snapshot.waiting), (800, 0));
    assert!(snapshot.segments > 3, "{snapshot:?}");
    assert!(snapshot.commits < 800, "{snapshot:?}");
    drop((queue, sink));
    let queue = open(&folder, &clock);
    let letters = clock.block_on(all(&queue));
    let mut requests: Vec<_> = letters
        .iter()
        .map(|letter| letter.request().clone())
        .collect();
    requests.sort();
    requests.dedup();
    assert_eq!(requests.len(), 800);
    // The order of one writer is kept.
    for writer in 0..8 {
        let prefix = format!("{writer}/");
        let own = letters
            .iter()
            .filter_map(|letter| letter.request().strip_prefix(&prefix));
        let numbers: Vec<u32> = own.map(|number| number.parse().unwrap()).collect();
        assert!(numbers.is_sorted());
    }
}

#[test]
fn a_second_queue_does_not_get_the_folder() {
    let (clock, folder) = (ManualClock::new(), Folder::new("locked"));
    let queue = open(&folder, &clock);
    let error = sink(&folder).open().unwrap_err();
    assert_eq!(error.kind(), DeadLetterErrorKind::Locked);
    // Closed, it is free while handles are left, and those say so.
    clock.block_on(queue.close()).unwrap();
    let second = open(&folder, &clock);
    let error = clock.block_on(push(&queue, 1)).unwrap_err();
    assert_eq!(error.kind(), DeadLetterErrorKind::Closed);
    clock.block_on(queue.close()).unwrap();
    clock.block_on(push(&second, 1)).unwrap();
}

#[test]
fn a_push_that_was_polled_is_stored_though_its_future_is_dropped() {
    let (clock, folder) = (ManualClock::new(), Folder::new("dropped"));
    let queue = open(&folder, &clock);
    drop(queue.push(NewLetter::new("not polled".to_owned())));
    for number in 0..50 {
        let _ = queue
            .push(NewLetter::new(format!("{number}")))
            .now_or_never();
    }
    drop(queue);
    let queue = open(&folder, &clock);
    assert_eq!(clock.block_on(all(&queue)).len(), 50);
}

#[test]
fn under_a_deadline_that_has_passed_a_push_is_unconfirmed_and_stored() {
    let (clock, folder) = (ManualClock::new(), Folder::new("deadline"));
    let queue = open(&folder, &clock);
    let pushed = deadline::scope_on(clock.clone(), Duration::ZERO, push(&queue, 1));
    let pushed = clock.block_on(pushed);
    // The thread may be as fast as the deadline.
    if let Err(error) = pushed {
        assert_eq!(error.kind(), DeadLetterErrorKind::Unconfirmed);
    }
    clock.block_on(queue.close()).unwrap();
    assert_eq!(clock.block_on(ids(&open(&folder, &clock))), [1]);
}

#[test]
fn a_torn_end_is_cut_off_with_a_warning() {
    let (clock, folder, heard) = (ManualClock::new(), Folder::new("torn"), Heard::default());
    clock.block_on(push(&open(&folder, &clock), 2)).unwrap();
    let path = folder.0.join("letters-00000001.jsonl");
    let whole = fs::read(&path).unwrap();
    fs::write(&path, &whole[..whole.len() - 10]).unwrap();
    let sink = sink(&folder).open().unwrap();
    let queue = builder(&clock)
        .sink(sink)
        .observer(heard.observer())
        .build()
        .unwrap();
    let line = whole.len()
        - 1
        - whole[..whole.len() - 1]
            .iter()
            .rposition(|b| *b == b'\n')
            .unwrap();
    let warning = format!(
        "dead_letters: removed {} bytes of a write that was cut off",
        line - 10
    );
    assert_eq!(heard.take(), [warning]);
    assert_eq!(clock.block_on(ids(&queue)), [1]);
}

#[test]
fn requests_of_another_type_are_listed_and_kept() {
    let (clock, folder) = (ManualClock::new(), Folder::new("types"));
    clock.block_on(push(&open(&folder, &clock), 1)).unwrap();
    let numbers = || {
        let queue = DeadLetterQueue::<u32>::builder().sink(sink(&folder).open().unwrap());
        queue.clock(clock.clone()).build().unwrap()
    };
    clock.block_on(async {
        let queue = numbers();
        queue.push(NewLetter::new(7)).await.unwrap();
        let page = queue.peek(&Filter::new(), 10).await.unwrap();
        assert_eq!((page.letters.len(), page.unreadable), (1, vec![id(1)]));
        let error = queue.get(id(1)).await.unwrap_err();
        assert_eq!(error.kind(), DeadLetterErrorKind::Unreadable);
        let report = queue
            .replay()
            .run(|_| async { Ok::<_, &str>(()) })
            .await
            .unwrap();
        assert_eq!(
            (report.progress.delivered, report.progress.unreadable),
            (1, 1)
        );
        drop(queue);
        assert_eq!(all(&open(&folder, &clock)).await[0].request(), "request 1");
    });
}

#[test]
fn a_replay_counts_only_unreadable_letters_that_it_was_asked_for() {
    let (clock, folder) = (ManualClock::new(), Folder::new("selected"));
    // Letters 1, 2, and 4 cannot be read as numbers.
    clock.block_on(push(&open(&folder, &clock), 2)).unwrap();
    let queue = || {
        let queue = DeadLetterQueue::<u32>::builder().sink(sink(&folder).open().unwrap());
        queue.clock(clock.clone()).build().unwrap()
    };
    clock.block_on(queue().push(NewLetter::new(7))).unwrap();
    clock.block_on(push(&open(&folder, &clock), 1)).unwrap();
    clock.block_on(async {
        let queue = queue();
        let only = || queue.replay().filter(Filter::new().ids(id(2), id(3)));
        assert_eq!(only().dry_run().await.unwrap().unreadable, 1);
        let report = only().run(|_| async { Ok::<_, &str>(()) }).await.unwrap();
        let progress = report.progress;
        assert_eq!((progress.delivered, progress.unreadable), (1, 1));
    });
}

#[test]
fn what_json_cannot_hold_is_rejected() {
    let (clock, folder) = (ManualClock::new(), Folder::new("json"));
    let queue = DeadLetterQueue::<BTreeMap<Vec<u8>, u8>>::builder()
        .sink(sink(&folder).open().unwrap())
        .clock(clock.clone())
        .build()
        .unwrap();
    let letter = NewLetter::new(BTreeMap::from([(vec![1], 1)]));
    let error = clock.block_on(queue.push(letter)).unwrap_err();
    assert_eq!(error.kind(), DeadLetterErrorKind::Encode);
    assert_eq!(queue.snapshot().letters, 0);
}

#[test]
fn limits_hold_in_files_too() {
    let (clock, folder) = (ManualClock::new(), Folder::new("limits"));
    let queue = builder(&clock)
        .sink(sink(&folder).max_letters(2).open().unwrap())
        .build()
        .unwrap();
    let error = clock.block_on(push(&queue, 3)).unwrap_err();
    assert_eq!(error.kind(), DeadLetterErrorKind::Full);
    drop(queue);
    let small = sink(&folder)
        .max_bytes(600)
        .when_full(WhenFull::EvictOldest)
        .open()
        .unwrap();
    let queue = builder(&clock).sink(small).build().unwrap();
    clock.block_on(async {
        push(&queue, 5).await.unwrap();
        let snapshot = queue.snapshot();
        assert!(
            snapshot.bytes <= 600 && snapshot.letters == 2,
            "{snapshot:?}"
        );
        // One that alone is too large is rejected, and evicts nothing.
        let error = queue
            .push(NewLetter::new("x".repeat(600)))
            .await
            .unwrap_err();
        assert_eq!(error.kind(), DeadLetterErrorKind::Full);
        assert_eq!(queue.snapshot().letters, 2);
    });
}

#[test]
fn files_are_deleted_as_their_letters_are_delivered() {
    let (clock, folder) = (ManualClock::new(), Folder::new("deleted"));
    let small = sink(&folder).segment_bytes(2_000).open().unwrap();
    let queue = builder(&clock).sink(small.clone()).build().unwrap();
    clock.block_on(async {
        push(&queue, 100).await.unwrap();
        assert!(small.snapshot().segments > 9);
        let run = queue.replay().rate(f64::INFINITY).max_concurrent(16);
        assert_eq!(
            run.run(|_| async { Ok::<_, &str>(()) })
                .await
                .unwrap()
                .progress
                .delivered,
            100
        );
    });
    assert_eq!(small.snapshot().segments, 1);
    let mut files = folder.files();
    files.retain(|name| name != "reserve.tmp");
    assert!(files.len() <= 3, "{files:?}");
}

#[cfg(unix)]
#[test]
fn only_the_user_may_read_the_files() {
    use std::os::unix::fs::PermissionsExt;
    let (clock, folder) = (ManualClock::new(), Folder::new("permissions"));
    clock.block_on(push(&open(&folder, &clock), 1)).unwrap();
    let mode = |path: &std::path::Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&folder.0), 0o700);
    for name in folder.files() {
        assert_eq!(mode(&folder.0.join(name)), 0o600);
    }
}

#[test]
fn settings_without_a_meaning_are_rejected() {
    let folder = Folder::new("settings");
    let settings = [
        (sink(&folder).max_letters(0), "max_letters"),
        (sink(&folder).max_bytes(0), "max_bytes"),
        (sink(&folder).max_age(Duration::ZERO), "max_age"),
        (sink(&folder).segment_bytes(0), "segment_bytes"),
        (sink(&folder).max_waiting(0), "max_waiting"),
    ];
    for (sink, setting) in settings {
        let error = sink.open().unwrap_err();
        assert_eq!(error.kind(), DeadLetterErrorKind::Config);
        assert!(error.context().contains(setting), "{error}");
    }
    assert!(!folder.0.exists());
    let file = sink(&folder).open().map(drop);
    file.unwrap();
    let nested = FileSink::builder(folder.0.join("lock").join("x"))
        .open()
        .unwrap_err();
    assert_eq!(nested.kind(), DeadLetterErrorKind::Io);
    // A segment for each letter.
    let clock = ManualClock::new();
    let tiny = sink(&folder)
        .segment_bytes(1)
        .max_waiting(1)
        .open()
        .unwrap();
    let queue = builder(&clock).sink(tiny.clone()).build().unwrap();
    clock.block_on(push(&queue, 3)).unwrap();
    assert_eq!(tiny.snapshot().segments, 3);
}

/// The letters of the golden files, and what became of them.
async fn write_golden(queue: &Queue) {
    let letter = NewLetter::new("{\"amount\":42}".to_owned())
        .reason("timed_out")
        .attempts(3);
    let letter = letter
        .error("timed out by attempt after 2s")
        .key("customer-7")
        .tag("route", "/pay");
    let letter = letter.first_failed_at(Timestamp::from_micros(1_764_234_785_000_000));
    queue.push(letter.idempotency_key("key-1")).await.unwrap();
    for number in 2..=5 {
        let letter = NewLetter::new(format!("request {number} ä\n")).error("down");
        queue
            .push(letter.idempotency_key(format!("key-{number}")))
            .await
            .unwrap();
    }
    queue.park(id(2)).await.unwrap();
    queue.discard(id(3)).await.unwrap();
    let replay = queue
        .replay()
        .limit(2)
        .stop_after(1)
        .filter(Filter::new().ids(id(4), id(5)));
    replay
        .run(|_| async { Err::<(), _>("still down") })
        .await
        .unwrap();
    let replay = queue.replay().filter(Filter::new().ids(id(5), id(5)));
    replay.run(|_| async { Ok::<_, &str>(()) }).await.unwrap();
}

const NAMES: [&str; 2] = ["letters-00000001.jsonl", "changes-00000001.jsonl"];
const GOLDEN: [&str; 2] = [
    include_str!("golden/letters-00000001.jsonl"),
    include_str!("golden/changes-00000001.jsonl"),
];

#[test]
fn files_are_written_as_those_of_version_1() {
    let (clock, folder) = (ManualClock::new(), Folder::new("golden-written"));
    let queue = builder(&clock)
        .sink(sink(&folder).open().unwrap())
        .timestamps(|| Timestamp::from_micros(1_764_234_800_123_456))
        .build()
        .unwrap();
    clock.block_on(write_golden(&queue));
    // Cuts off the empty lines that later letters would be written over.
    drop(queue);
    for (name, golden) in NAMES.iter().zip(GOLDEN) {
        let written = fs::read_to_string(folder.0.join(name)).unwrap();
        assert_eq!(written, golden, "{name}");
    }
}

#[test]
fn files_of_version_1_are_read() {
    let (clock, folder) = (ManualClock::new(), Folder::new("golden-read"));
    fs::create_dir_all(&folder.0).unwrap();
    for (name, golden) in NAMES.iter().zip(GOLDEN) {
        fs::write(folder.0.join(name), golden).unwrap();
    }
    let letters = clock.block_on(all(&open(&folder, &clock)));
    let found: Vec<_> = letters
        .iter()
        .map(|letter| {
            (
                letter.id().get(),
                letter.replays(),
                letter.is_parked(),
                letter.idempotency_key(),
            )
        })
        .collect();
    assert_eq!(
        found,
        [
            (1, 0, false, "key-1"),
            (2, 0, true, "key-2"),
            (4, 1, false, "key-4")
        ]
    );
    let first = &letters[0];
    assert_eq!(first.request(), "{\"amount\":42}");
    assert_eq!(
        (first.reason(), first.attempts(), first.key()),
        ("timed_out", 3, Some("customer-7"))
    );
    assert_eq!(
        (first.error(), first.tag("route")),
        ("timed out by attempt after 2s", Some("/pay"))
    );
    assert_eq!(
        first.first_failed_at().to_string(),
        "2025-11-27T09:13:05.000000Z"
    );
    assert_eq!(first.stored_at().to_string(), "2025-11-27T09:13:20.123456Z");
    assert_eq!(letters[1].request(), "request 2 ä\n");
    assert_eq!(letters[2].last_replay().unwrap().error, "still down");
}

#[test]
fn floats_come_back_to_the_last_bit() {
    let (clock, folder) = (ManualClock::new(), Folder::new("floats"));
    let queue = DeadLetterQueue::<Vec<f64>>::builder()
        .sink(sink(&folder).open().unwrap())
        .clock(clock.clone())
        .build()
        .unwrap();
    // Bits of an LCG: floats of all sizes.
    let mut bits = 1_u64;
    let floats = std::iter::repeat_with(|| {
        bits = bits.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        f64::from_bits(bits)
    });
    let floats: Vec<f64> = floats
        .filter(|float| float.is_finite())
        .take(1000)
        .collect();
    clock.block_on(async {
        let id = queue.push(NewLetter::new(floats.clone())).await.unwrap();
        let letter = queue.get(id).await.unwrap().unwrap();
        assert_eq!(letter.request(), &floats);
    });
}

#[test]
fn every_close_waits_until_the_folder_is_free() {
    let (clock, folder) = (ManualClock::new(), Folder::new("closes"));
    let queue = open(&folder, &clock);
    clock.block_on(async {
        let letter = NewLetter::new("x".repeat(1 << 20));
        assert!(queue.push(letter).now_or_never().is_none());
        // The first one is dropped while the thread writes.
        assert!(queue.close().now_or_never().is_none());
        queue.close().await.unwrap();
        let queue = open(&folder, &clock);
        assert_eq!(ids(&queue).await, [1]);
        queue.close().await.unwrap();
        queue.close().await.unwrap();
    });
}
