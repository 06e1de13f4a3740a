//! The run of a replay: a set of letters in flight, each driven from one stage to the next.

use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};

use super::super::error::{DeadLetterError, DeadLetterErrorKind};
use super::super::inner::Inner;
use super::super::sink::{Changed, PAGE, Page, SinkFuture, Store};
use super::super::state::filter::Filter;
use super::super::state::letter::{Change, Letter, LetterId};
use super::super::state::pacer::Pacer;
use super::super::state::progress::{Attempted, ReplayEnd, RunState};
use super::{OnProgress, Replay, ReplayReport};
use crate::clock::Sleep;
use crate::event::LetterEvent;
use crate::instant::Instant;

impl<R: Send + Sync + 'static> Replay<R> {
    /// Runs the replay. `convert` converts the result of an attempt.
    pub(in super::super) async fn drive<F, Fut, J>(
        mut self,
        mut attempt: F,
        convert: J,
    ) -> Result<ReplayReport, DeadLetterError>
    where
        F: FnMut(Letter<R>) -> Fut,
        Fut: Future,
        J: Fn(Fut::Output) -> Attempted,
    {
        self.check()?;
        let run_state = RunState::new(self.rules());
        let inner = self.inner;
        let store = inner.store()?;
        let _running = Running::begin(&inner.replaying)?;
        let start = inner.clock.now();
        let mut run = Run {
            inner: &inner,
            store,
            filter: &self.filter,
            run_state,
            pacer: Pacer::new(self.rate, start),
            held_until: start,
            retry_after: None,
            sleep: None,
            waiting: VecDeque::new(),
            loading: None,
            cursor: Some(self.filter.begins_after()),
            before: store.next_id(),
            flights: Vec::new(),
            max_concurrent: self.max_concurrent,
            error: None,
        };
        poll_fn(|cx| run.poll(cx, &mut attempt, &convert, &mut self.on_progress)).await;
        if let Some(error) = run.error {
            return Err(error);
        }
        let end = run.run_state.end.unwrap_or(ReplayEnd::Finished);
        let progress = run.run_state.progress;
        inner.emit(LetterEvent::ReplayFinished {
            end: end.as_str(),
            delivered: progress.delivered,
            failed: progress.failed,
        });
        Ok(ReplayReport {
            progress,
            end,
            elapsed: inner.clock.now().saturating_duration_since(start),
            retry_after: run.retry_after,
        })
    }
}

/// Marks the queue as being replayed, and clears the mark when dropped, even by a panic.
struct Running<'a>(&'a AtomicBool);

impl<'a> Running<'a> {
    fn begin(flag: &'a AtomicBool) -> Result<Self, DeadLetterError> {
        if flag.swap(true, Ordering::Acquire) {
            return Err(DeadLetterErrorKind::ReplayRunning.into());
        }
        Ok(Self(flag))
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

struct Run<'a, R, Fut> {
    inner: &'a Inner<R>,
    store: &'a dyn Store<R>,
    filter: &'a Filter<R>,
    run_state: RunState,
    pacer: Pacer,
    /// Earliest start of the next letter, set when a policy asked for a wait.
    held_until: Instant,
    retry_after: Option<std::time::Duration>,
    sleep: Option<(Instant, Pin<Box<Sleep>>)>,
    /// Letters that have been read and not begun.
    waiting: VecDeque<Letter<R>>,
    loading: Option<SinkFuture<'a, Page<R>>>,
    /// The letter after which the next page begins; `None` after the last page.
    cursor: Option<Option<LetterId>>,
    /// The first number of letters stored after the run began. They are not replayed.
    before: LetterId,
    flights: Vec<Flight<'a, R, Fut>>,
    max_concurrent: usize,
    /// The first error of the sink. It ends the run once the letters in flight have ended.
    error: Option<DeadLetterError>,
}

/// A letter in flight.
struct Flight<'a, R, Fut> {
    letter: Letter<R>,
    stage: Stage<'a, Fut>,
}

type ChangeFuture<'a> = SinkFuture<'a, Option<Changed>>;

enum Stage<'a, Fut> {
    /// Parks a letter that has no replay left.
    Parking(ChangeFuture<'a>),
    /// Counts the replay before it is attempted.
    Beginning(ChangeFuture<'a>),
    Attempting(Pin<Box<Fut>>),
    /// Records the result of the attempt.
    Settling(ChangeFuture<'a>, Attempted, bool),
}

/// The result of a replayed letter.
enum Landing {
    Parked,
    /// The letter was removed or parked before the replay began.
    Vanished,
    Settled(Attempted, bool),
    Failed(DeadLetterError),
}

impl<'a, R: Send + Sync + 'static, Fut: Future> Run<'a, R, Fut> {
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        attempt: &mut impl FnMut(Letter<R>) -> Fut,
        convert: &impl Fn(Fut::Output) -> Attempted,
        on_progress: &mut Option<Box<OnProgress>>,
    ) -> Poll<()> {
        // Yields after 64 rounds, so that other tasks run even if everything is ready at once.
        for _ in 0..64 {
            let landed = self.poll_flights(cx, attempt, convert, on_progress);
            self.load(cx);
            let begun = self.begin(cx);
            if self.flights.is_empty() && !self.has_more() {
                return Poll::Ready(());
            }
            if !landed && !begun {
                return Poll::Pending;
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    const fn is_stopping(&self) -> bool {
        self.run_state.end.is_some() || self.error.is_some()
    }

    fn has_more(&self) -> bool {
        let left = !self.waiting.is_empty() || self.loading.is_some() || self.cursor.is_some();
        left && !self.is_stopping()
    }

    /// Polls the replays in flight. Returns whether one ended.
    fn poll_flights(
        &mut self,
        cx: &mut Context<'_>,
        attempt: &mut impl FnMut(Letter<R>) -> Fut,
        convert: &impl Fn(Fut::Output) -> Attempted,
        on_progress: &mut Option<Box<OnProgress>>,
    ) -> bool {
        let mut landed = false;
        let mut at = 0;
        while at < self.flights.len() {
            let flight = &mut self.flights[at];
            match flight.poll(cx, self.inner, &self.run_state, attempt, convert) {
                Poll::Pending => at += 1,
                Poll::Ready(landing) => {
                    let flight = self.flights.swap_remove(at);
                    self.land(flight.letter, landing);
                    landed = true;
                    if let Some(hear) = on_progress {
                        hear(&self.run_state.progress);
                    }
                }
            }
        }
        landed
    }

    fn land(&mut self, letter: Letter<R>, landing: Landing) {
        match landing {
            Landing::Parked => self.run_state.park(),
            Landing::Vanished => self.run_state.vanish(),
            Landing::Failed(error) => {
                self.run_state.vanish();
                self.error.get_or_insert(error);
            }
            Landing::Settled(attempted, parked) => {
                let counts = &self.inner.counts;
                match &attempted {
                    Attempted::Delivered => counts.delivered.fetch_add(1, Ordering::Relaxed),
                    Attempted::Failed(_) => counts.failed.fetch_add(1, Ordering::Relaxed),
                    Attempted::NotExecuted(..) => 0,
                };
                let pause = self.run_state.finish(&attempted, parked);
                if let Attempted::NotExecuted(_, retry_after) = attempted {
                    self.retry_after = retry_after;
                    // Returns the letter to the front, ahead of all letters not yet begun.
                    self.waiting.push_front(letter);
                }
                if let Some(pause) = pause {
                    self.held_until = self.held_until.max(self.inner.clock.now() + pause);
                }
            }
        }
    }

    /// Reads the next page once the last one has been begun.
    fn load(&mut self, cx: &mut Context<'_>) {
        while self.waiting.is_empty() && self.has_more() {
            let now = self.inner.now();
            if self.loading.is_none() {
                let Some(after) = self.cursor.take() else {
                    return;
                };
                self.loading = Some(self.store.page(after, PAGE, now));
            }
            let Some(loading) = &mut self.loading else {
                return;
            };
            let Poll::Ready(page) = loading.as_mut().poll(cx) else {
                return;
            };
            self.loading = None;
            let page = match page {
                Ok(page) => page,
                Err(error) => {
                    self.error.get_or_insert(error);
                    return;
                }
            };
            let unreadable = page.unreadable.iter();
            let unreadable =
                unreadable.filter(|id| **id < self.before && **id <= self.filter.ends_with());
            self.run_state.progress.unreadable += unreadable.count() as u64;
            self.cursor = self.filter.continues_after(page.next).map(Some);
            for letter in page.letters {
                if letter.id() >= self.before || letter.id() > self.filter.ends_with() {
                    self.cursor = None;
                    break;
                }
                if !letter.is_parked() && self.filter.matches(&letter, now) {
                    self.waiting.push_back(letter);
                }
            }
        }
    }

    /// Begins letters that are due. Returns whether any was begun.
    fn begin(&mut self, cx: &mut Context<'_>) -> bool {
        let mut begun = false;
        while !self.is_stopping() && self.flights.len() < self.max_concurrent {
            let Some(letter) = self.waiting.pop_front() else {
                break;
            };
            let (id, inner) = (letter.id(), self.inner);
            let stage = if self.run_state.is_spent(letter.replays()) {
                // Not paced, because parking sends nothing.
                Stage::Parking(Box::pin(inner.change(id, Change::Park)))
            } else if self.is_due(cx) {
                Stage::Beginning(Box::pin(inner.change(id, Change::Begin)))
            } else {
                self.waiting.push_front(letter);
                break;
            };
            self.run_state.begin(id);
            self.flights.push(Flight { letter, stage });
            begun = true;
        }
        begun
    }

    /// Returns whether the rate allows a letter now, and if so counts it. Otherwise schedules a wake-up for when it
    /// does.
    fn is_due(&mut self, cx: &mut Context<'_>) -> bool {
        let due = self.pacer.due().max(self.held_until);
        let mut now = self.inner.clock.now();
        if now < due {
            if self.sleep.as_ref().is_none_or(|(until, _)| *until != due) {
                self.sleep = Some((due, Box::pin(self.inner.clock.sleep_until(due))));
            }
            let sleep = self.sleep.as_mut();
            if sleep.is_none_or(|(_, sleep)| sleep.as_mut().poll(cx).is_pending()) {
                return false;
            }
            // A timer may fire early by a rounding error.
            now = self.inner.clock.now().max(due);
        }
        self.sleep = None;
        self.pacer.start(now);
        true
    }
}

impl<'a, R: Send + Sync + 'static, Fut: Future> Flight<'a, R, Fut> {
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        inner: &'a Inner<R>,
        run_state: &RunState,
        attempt: &mut impl FnMut(Letter<R>) -> Fut,
        convert: &impl Fn(Fut::Output) -> Attempted,
    ) -> Poll<Landing> {
        loop {
            self.stage = match &mut self.stage {
                Stage::Parking(parking) => {
                    return Poll::Ready(match ready!(parking.as_mut().poll(cx)) {
                        Ok(Some(_)) => Landing::Parked,
                        Ok(None) => Landing::Vanished,
                        Err(error) => Landing::Failed(error),
                    });
                }
                Stage::Beginning(beginning) => match ready!(beginning.as_mut().poll(cx)) {
                    Ok(Some(changed)) if changed.parked => return Poll::Ready(Landing::Vanished),
                    Ok(Some(changed)) => {
                        self.letter.count(changed.replays);
                        Stage::Attempting(Box::pin(attempt(self.letter.clone())))
                    }
                    Ok(None) => return Poll::Ready(Landing::Vanished),
                    Err(error) => return Poll::Ready(Landing::Failed(error)),
                },
                Stage::Attempting(attempting) => {
                    let attempted = convert(ready!(attempting.as_mut().poll(cx)));
                    let parks = run_state.is_spent(self.letter.replays());
                    let change = match &attempted {
                        Attempted::Delivered => Change::Delivered,
                        Attempted::NotExecuted(..) => {
                            self.letter.count(self.letter.replays().saturating_sub(1));
                            Change::NotExecuted
                        }
                        Attempted::Failed(error) => {
                            Change::failed(inner.now(), inner.redacted(error), parks)
                        }
                    };
                    let settling = Box::pin(inner.change(self.letter.id(), change));
                    Stage::Settling(settling, attempted, parks)
                }
                Stage::Settling(settling, attempted, parked) => {
                    let is_left = match ready!(settling.as_mut().poll(cx)) {
                        Ok(changed) => changed.is_some(),
                        Err(error) => return Poll::Ready(Landing::Failed(error)),
                    };
                    let attempted = std::mem::replace(attempted, Attempted::Delivered);
                    // A letter that was discarded while it was in flight is not parked.
                    return Poll::Ready(Landing::Settled(attempted, *parked && is_left));
                }
            }
        }
    }
}
