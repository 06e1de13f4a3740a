//! Every future is dropped at every await.

use std::future::Future;
use std::pin::pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use backstop::ManualClock;
use backstop::dead_letter::{
    Changed, ChannelSink, LetterChange, LetterId, MemorySink, Page, Timestamp, Totals,
};
use backstop::dead_letter::{Filter, GroupBy, Letter, NewLetter, Sink, SinkFuture, Store};

use crate::{Heard, Queue, all, builder, id, push};

/// A memory sink each of whose answers comes one poll later.
struct Slow(MemorySink<String>);

fn later<'a, T: Send + 'a>(
    answer: impl FnOnce() -> SinkFuture<'a, T> + Send + 'a,
) -> SinkFuture<'a, T> {
    Box::pin(async {
        let mut asked = false;
        std::future::poll_fn(|cx| {
            if std::mem::replace(&mut asked, true) {
                return Poll::Ready(());
            }
            cx.waker().wake_by_ref();
            Poll::Pending
        })
        .await;
        answer().await
    })
}

impl Sink<String> for Slow {
    fn store(&self, letter: Letter<String>) -> SinkFuture<'_, ()> {
        later(|| self.0.store(letter))
    }

    fn kept(&self) -> Option<&dyn Store<String>> {
        Some(self)
    }
}

impl Store<String> for Slow {
    fn next_id(&self) -> LetterId {
        self.0.next_id()
    }

    fn page(
        &self,
        after: Option<LetterId>,
        max: usize,
        now: Timestamp,
    ) -> SinkFuture<'_, Page<String>> {
        later(move || self.0.page(after, max, now))
    }

    fn change(&self, id: LetterId, change: LetterChange) -> SinkFuture<'_, Option<Changed>> {
        later(move || self.0.change(id, change))
    }

    fn totals(&self) -> Totals {
        self.0.totals()
    }
}

/// Polls a future so many times and drops it. Returns whether it was ready.
fn polled<F: Future>(future: F, times: usize) -> bool {
    let mut future = pin!(future);
    let mut cx = Context::from_waker(Waker::noop());
    (0..times).any(|_| future.as_mut().poll(&mut cx).is_ready())
}

fn slow(clock: &ManualClock) -> Queue {
    let queue = builder(clock)
        .sink(Slow(MemorySink::new()))
        .build()
        .unwrap();
    clock.block_on(push(&queue, 3)).unwrap();
    queue
}

#[test]
fn readers_and_changes_can_be_dropped_at_every_await() {
    let clock = ManualClock::new();
    for times in 0..6 {
        let queue = slow(&clock);
        polled(queue.push(NewLetter::new(String::new())), times);
        polled(queue.peek(&Filter::new(), 10), times);
        polled(queue.get(id(1)), times);
        polled(queue.count(&Filter::new()), times);
        polled(queue.groups(GroupBy::Key, &Filter::new()), times);
        polled(queue.replay().dry_run(), times);
        polled(queue.close(), times);
        polled(queue.park(id(1)), times);
        polled(queue.unpark(id(1)), times);
        polled(queue.discard(id(3)), times);
        polled(queue.discard_all(&Filter::new().ids(id(2), id(2))), times);
        let left = clock.block_on(all(&queue)).len();
        assert!((1..=4).contains(&left), "{left}");
        assert_eq!(queue.snapshot().letters as usize, left);
    }
}

#[test]
fn a_run_can_be_dropped_at_every_await_and_another_continues() {
    let clock = ManualClock::new();
    for times in 0..40 {
        let queue = slow(&clock);
        let mut begun = Vec::new();
        let run = queue
            .replay()
            .rate(f64::INFINITY)
            .max_concurrent(2)
            .run(|letter| {
                begun.push(letter.id());
                let sleep = clock.sleep(Duration::ZERO);
                async {
                    sleep.await;
                    Ok::<_, &str>(())
                }
            });
        let finished = polled(run, times);
        assert!(!queue.snapshot().replaying);
        let left = clock.block_on(all(&queue));
        // What was not begun is untouched; what was begun and is there has one replay.
        for letter in &left {
            let sent = begun.contains(&letter.id());
            assert!(letter.replays() <= 1 && (letter.replays() == 1 || !sent));
        }
        let run = queue
            .replay()
            .rate(f64::INFINITY)
            .run(|_| async { Ok::<_, &str>(()) });
        assert_eq!(
            clock.block_on(run).unwrap().progress.delivered,
            left.len() as u64
        );
        assert!(!finished || left.is_empty());
    }
    assert_eq!(clock.sleepers(), 0);
}

#[test]
fn a_push_that_is_dropped_is_reported() {
    let (clock, heard) = (ManualClock::new(), Heard::default());
    let (sender, mut letters) = tokio::sync::mpsc::channel(1);
    let queue = builder(&clock)
        .sink(ChannelSink::waiting(sender))
        .observer(heard.observer())
        .build()
        .unwrap();
    let letter = || NewLetter::new(String::new());
    assert!(polled(queue.push(letter()), 1));
    assert!(!polled(queue.push(letter()), 0));
    assert!(!polled(queue.push(letter()), 2));
    let snapshot = queue.snapshot();
    assert_eq!((snapshot.stored, snapshot.rejected), (1, 1));
    assert_eq!(
        heard.take(),
        [
            "dead_letters: stored letter 1",
            "dead_letters: could not store a letter: unconfirmed"
        ]
    );
    assert!(letters.try_recv().is_ok() && letters.try_recv().is_err());
}
