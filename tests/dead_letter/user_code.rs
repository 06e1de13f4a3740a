//! Hooks, sinks, observers and attempts that panic.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use backstop::dead_letter::{DeadLetterError, DeadLetterErrorKind, Letter, Sink, SinkFuture};
use backstop::{Event, ManualClock};

use crate::watchdog::within_a_minute;
use crate::{all, builder, ids, push};

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
