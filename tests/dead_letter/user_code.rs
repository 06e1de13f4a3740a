//! Hooks, sinks, observers and attempts that panic.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use backstop::dead_letter::{
    Changed, DeadLetterError, DeadLetterErrorKind, Letter, LetterChange, LetterId, MemorySink,
    Page, Sink, SinkFuture, Store, Timestamp, Totals,
};
use backstop::{Event, ManualClock};

use crate::watchdog::within_a_minute;
use crate::{Wall, all, builder, id, ids, push};

fn panics<T>(code: impl FnOnce() -> T) -> bool {
    catch_unwind(AssertUnwindSafe(code)).is_err()
}

#[test]
fn redaction_sees_letters_and_error_texts_before_they_are_stored() {
    let clock = ManualClock::new();
    let queue = builder(&clock)
        .redact(|letter| letter.request = letter.request.replace("4111", "****"))
        .redact_error(|text| text.replace("secret", "[...]"))
        .max_error_bytes(9)
        .build()
        .unwrap();
    clock.block_on(async {
        let letter = backstop::dead_letter::NewLetter::new("card 4111".to_owned());
        queue.push(letter.error("a secret ä")).await.unwrap();
        let run = queue
            .replay()
            .run(|_| async { Err::<(), _>("the secret again") });
        run.await.unwrap();
        let letter = all(&queue).await.remove(0);
        assert_eq!(letter.request(), "card ****");
        // Nine bytes, and no half of a letter.
        assert_eq!(letter.error(), "a [...] ");
        assert_eq!(letter.last_replay().unwrap().error, "the [...]");
    });
}

#[test]
fn error_texts_are_cut_at_4096_bytes_by_default() {
    let clock = ManualClock::new();
    let queue = builder(&clock).build().unwrap();
    clock.block_on(async {
        let letter = backstop::dead_letter::NewLetter::new("a request".to_owned());
        queue.push(letter.error("e".repeat(5000))).await.unwrap();
        assert_eq!(all(&queue).await.remove(0).error().len(), 4096);
    });
}

#[test]
fn a_redaction_that_panics_stores_nothing_and_leaves_the_queue_usable() {
    let clock = ManualClock::new();
    let broken = Arc::new(AtomicBool::new(true));
    let breaks = broken.clone();
    let queue = builder(&clock)
        .redact(move |_| assert!(!breaks.load(Ordering::Relaxed), "redaction"))
        .build()
        .unwrap();
    assert!(panics(|| clock.block_on(push(&queue, 1))));
    assert_eq!(queue.snapshot().letters, 0);
    broken.store(false, Ordering::Relaxed);
    clock.block_on(push(&queue, 1)).unwrap();
    assert_eq!(queue.snapshot().letters, 1);
}

#[test]
fn an_observer_that_panics_costs_no_letter() {
    let clock = ManualClock::new();
    let queue = builder(&clock)
        .observer(|_: &Event| panic!("observer"))
        .build()
        .unwrap();
    assert!(panics(|| clock.block_on(push(&queue, 1))));
    assert_eq!(clock.block_on(ids(&queue)).len(), 1);
}

#[test]
fn an_observer_may_use_the_queue() {
    within_a_minute(|| {
        use std::sync::OnceLock;
        let clock = ManualClock::new();
        let own = Arc::new(OnceLock::<crate::Queue>::new());
        let (seen, clock_of_observer) = (own.clone(), clock.clone());
        let queue = builder(&clock)
            .observer(move |_: &Event| {
                if let Some(queue) = seen.get() {
                    assert_eq!(
                        queue.snapshot().letters as usize,
                        clock_of_observer.block_on(ids(queue)).len()
                    );
                }
            })
            .build()
            .unwrap();
        own.set(queue.clone()).unwrap();
        clock.block_on(push(&queue, 2)).unwrap();
    });
}

#[test]
fn an_attempt_that_panics_is_counted_and_ends_the_run() {
    let clock = ManualClock::new();
    let queue = builder(&clock).build().unwrap();
    clock.block_on(push(&queue, 2)).unwrap();
    assert!(panics(|| clock.block_on(queue.replay().run(|_| async {
        if true {
            panic!("attempt");
        }
        Ok::<_, &str>(())
    }))));
    // Another run can be made; the letter is there, with one replay.
    let letters = clock.block_on(all(&queue));
    assert_eq!((letters.len(), letters[0].replays()), (2, 1));
    let run = queue.replay().run(|_| async { Ok::<_, &str>(()) });
    assert_eq!(clock.block_on(run).unwrap().progress.delivered, 2);
}

/// Fails, or panics.
struct Broken {
    panics: bool,
}

impl Sink<String> for Broken {
    fn store(&self, _: Letter<String>) -> SinkFuture<'_, ()> {
        Box::pin(async {
            assert!(!self.panics, "sink");
            Err(DeadLetterError::sink("no connection"))
        })
    }
}

#[test]
fn the_error_of_a_sink_is_the_source() {
    let clock = ManualClock::new();
    let queue = builder(&clock)
        .sink(Broken { panics: false })
        .build()
        .unwrap();
    let error = clock.block_on(push(&queue, 1)).unwrap_err();
    assert_eq!(error.kind(), DeadLetterErrorKind::Sink);
    let source = std::error::Error::source(&error).unwrap();
    assert_eq!(
        (error.to_string(), source.to_string()),
        ("the sink failed".into(), "no connection".into())
    );
    let queue = builder(&clock)
        .sink(Broken { panics: true })
        .build()
        .unwrap();
    assert!(panics(|| clock.block_on(push(&queue, 1))));
    assert!(panics(|| clock.block_on(push(&queue, 1))));
}

#[test]
fn an_observer_that_panics_misses_no_eviction_and_changes_no_count() {
    let (clock, wall) = (ManualClock::new(), Wall::default());
    let evicted = Arc::new(AtomicU64::new(0));
    let (now, seen) = (wall.clone(), evicted.clone());
    let queue = builder(&clock)
        .memory(MemorySink::new().max_age(Duration::from_secs(1)))
        .timestamps(move || now.now())
        .observer(move |event: &Event| {
            if event.to_string().contains("evicted") {
                seen.fetch_add(1, Ordering::Relaxed);
                panic!("the observer panics");
            }
        })
        .build()
        .unwrap();
    clock.block_on(push(&queue, 5)).unwrap();
    wall.set(5_000_000);
    assert!(panics(|| clock.block_on(push(&queue, 1))));
    let snapshot = queue.snapshot();
    assert_eq!(
        (snapshot.letters, snapshot.stored, snapshot.expired),
        (1, 6, 5)
    );
    assert_eq!(evicted.load(Ordering::Relaxed), 5);
}

/// A store that counts how often it is read, and whose letters are unreadable.
struct Unreadable {
    letters: MemorySink<String>,
    pages: Arc<AtomicU64>,
}

impl Sink<String> for Unreadable {
    fn store(&self, letter: Letter<String>) -> SinkFuture<'_, ()> {
        self.letters.store(letter)
    }

    fn kept(&self) -> Option<&dyn Store<String>> {
        Some(self)
    }
}

impl Store<String> for Unreadable {
    fn next_id(&self) -> LetterId {
        self.letters.next_id()
    }

    fn page(
        &self,
        after: Option<LetterId>,
        max: usize,
        now: Timestamp,
    ) -> SinkFuture<'_, Page<String>> {
        self.pages.fetch_add(1, Ordering::Relaxed);
        let page = self.letters.page(after, max, now);
        Box::pin(async {
            let mut page = page.await?;
            let letters = page.letters.drain(..);
            page.unreadable = letters.map(|letter| letter.id()).collect();
            Ok(page)
        })
    }

    fn change(&self, id: LetterId, change: LetterChange) -> SinkFuture<'_, Option<Changed>> {
        self.letters.change(id, change)
    }

    fn totals(&self) -> Totals {
        self.letters.totals()
    }
}

#[test]
fn a_reader_of_some_letters_does_not_read_those_that_follow() {
    let (clock, pages) = (ManualClock::new(), Arc::new(AtomicU64::new(0)));
    let sink = Unreadable {
        letters: MemorySink::new(),
        pages: pages.clone(),
    };
    let queue = builder(&clock).sink(sink).build().unwrap();
    clock.block_on(async {
        push(&queue, 1000).await.unwrap();
        let error = queue.get(id(5)).await.unwrap_err();
        assert_eq!(error.kind(), DeadLetterErrorKind::Unreadable);
        assert_eq!(pages.swap(0, Ordering::Relaxed), 1);

        let filter = backstop::dead_letter::Filter::new().ids(id(5), id(6));
        let replay = || queue.replay().filter(filter.clone());
        assert_eq!(replay().dry_run().await.unwrap().unreadable, 2);
        assert_eq!(pages.swap(0, Ordering::Relaxed), 1);
        let run = replay().run(|_| async { Ok::<_, &str>(()) });
        assert_eq!(run.await.unwrap().progress.unreadable, 2);
        assert_eq!(pages.swap(0, Ordering::Relaxed), 1);
    });
}
