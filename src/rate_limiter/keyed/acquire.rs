//! Waiting for a key's tokens.

use std::future::Future;
use std::hash::Hash;
use std::pin::Pin;
use std::task::{Context as TaskContext, Poll, ready};
use std::time::Duration;

use pin_project_lite::pin_project;

use super::super::RateLimiter;
use super::super::state::{Gcra, Refusal};
use super::inner::Time;
use super::limited::Limited;
use crate::clock::Sleep;
use crate::coop;
use crate::deadline;
use crate::error::{Reason, Rejected};
use crate::event::Observer;
use crate::instant::Instant;
use crate::policy::OnUnwind;

pin_project! {
    /// Waits for a key's tokens. Made by [`KeyedRateLimiter::acquire`](super::KeyedRateLimiter::acquire).
    ///
    /// Does nothing before it is first polled.
    ///
    /// It takes part in tokio's cooperative budget (feature `tokio`): a loop of acquires that are always
    /// ready yields to other tasks now and then.
    ///
    /// # Cancel safety
    ///
    /// Dropping it gives the tokens back. Waiters behind it keep their turns, or move up if the quota
    /// is no token bucket.
    #[must_use = "futures do nothing unless you `.await` or poll them"]
    pub struct KeyedAcquire<'a, Q>
    where
        Q: Hash,
        Q: Eq,
        Q: ToOwned,
        Q: ?Sized,
        Q::Owned: Hash,
        Q::Owned: Eq,
    {
        limited: Limited<'a, Q>,
        cost: u64,
        longest: Duration,
        // The end of `longest` or of the deadline, and what is to blame when it is too early.
        latest: Option<(Instant, Reason)>,
        // Tokens taken for a turn that has not come.
        held: u64,
        #[pin]
        stage: Stage,
    }

    impl<Q> PinnedDrop for KeyedAcquire<'_, Q>
    where
        Q: Hash,
        Q: Eq,
        Q: ToOwned,
        Q: ?Sized,
        Q::Owned: Hash,
        Q::Owned: Eq,
    {
        fn drop(this: Pin<&mut Self>) {
            let this = this.project();
            this.limited.give(std::mem::take(this.held));
        }
    }
}

pin_project! {
    #[project = StageProj]
    enum Stage {
        Start,
        // For a turn of a token bucket, or for the end of a pause.
        Sleeping { #[pin] sleep: Sleep },
        // In the wait queue of a key with a limiter of its own. Such keys allocate a good deal anyway.
        Queued { waiting: Pin<Box<dyn Future<Output = Result<RateLimiter, Rejected>> + Send>> },
    }
}

/// What a call that may wait has to do.
enum Booked {
    /// It has the tokens.
    Taken,
    /// It has the tokens, and its turn comes then.
    Turn(Instant),
    /// It is to try again then.
    Paused(Instant),
    Queue(RateLimiter),
    Rejected(Refusal),
}

impl<'a, Q> KeyedAcquire<'a, Q>
where
    Q: Hash + Eq + ToOwned + ?Sized,
    Q::Owned: Hash + Eq,
{
    pub(super) const fn new(limited: Limited<'a, Q>, cost: u64, longest: Duration) -> Self {
        Self {
            limited,
            cost,
            longest,
            latest: None,
            held: 0,
            stage: Stage::Start,
        }
    }

    /// Polls it for a call with this deadline. `now` is the current time on the limiter's clock.
    pub(super) fn poll_with(
        self: Pin<&mut Self>,
        task: &mut TaskContext<'_>,
        mut now: Instant,
        deadline: Instant,
        observer: Option<&dyn Observer>,
    ) -> Poll<Result<(), Rejected>> {
        let mut this = self.project();
        let cost = *this.cost;
        let (limited, inner) = (*this.limited, this.limited.inner);
        let base = &inner.base;
        let mut reason = Reason::QueueTimeout;
        if this.latest.is_none() {
            if inner.base.shadow {
                let taken = inner.take(limited.hash, limited.key, now, cost);
                return Poll::Ready(taken.or_else(|refusal| inner.refuse(now, refusal, observer)));
            }
            let (latest, deadline) = (now + *this.longest, deadline);
            reason = match deadline <= latest && deadline != Instant::FAR_FUTURE {
                true => Reason::DeadlineTooClose,
                false => Reason::RateLimited,
            };
            *this.latest = Some((latest.min(deadline), reason));
        }
        let (latest, late) = this.latest.unwrap_or((Instant::FAR_FUTURE, reason));
        loop {
            match this.stage.as_mut().project() {
                StageProj::Start => match limited.book(now, cost, latest) {
                    Booked::Taken => return Poll::Ready(Ok(())),
                    Booked::Turn(at) => {
                        *this.held = cost;
                        let sleep = base.clock.sleep_until(at);
                        this.stage.set(Stage::Sleeping { sleep });
                    }
                    Booked::Paused(until) => {
                        let sleep = base.clock.sleep_until(until);
                        this.stage.set(Stage::Sleeping { sleep });
                    }
                    Booked::Queue(limiter) => {
                        let longest = match latest {
                            Instant::FAR_FUTURE => Duration::MAX,
                            latest => latest.saturating_duration_since(now),
                        };
                        let waiting = Box::pin(async move {
                            limiter.acquire_within(cost, longest).await?;
                            Ok(limiter)
                        });
                        this.stage.set(Stage::Queued { waiting });
                    }
                    Booked::Rejected(refusal) => {
                        let rejected = base.rejection(now, refusal, reason);
                        return Poll::Ready(inner.report(rejected, observer));
                    }
                },
                StageProj::Sleeping { sleep } => {
                    ready!(sleep.poll(task));
                    now = base.now();
                    reason = Reason::QueueTimeout;
                    // A key may panic while it is compared: what is held is given back then.
                    let is_paused = limited.is_paused(now);
                    let had_turn = std::mem::take(this.held) > 0 || cost == 0;
                    if had_turn && !is_paused {
                        return Poll::Ready(Ok(()));
                    }
                    // A turn that fell into a pause has passed.
                    this.limited.is_new_call = false;
                    this.stage.set(Stage::Start);
                }
                StageProj::Queued { waiting } => {
                    let result = ready!(waiting.as_mut().poll(task));
                    now = base.now();
                    match result {
                        Ok(limiter) => {
                            // A key may panic while it is compared.
                            let guard = OnUnwind::new(|| limiter.add(cost));
                            let is_paused = limited.is_paused(now);
                            guard.disarm();
                            if !is_paused {
                                return Poll::Ready(Ok(()));
                            }
                            limiter.add(cost);
                            this.stage.set(Stage::Start);
                        }
                        Err(rejected) => {
                            let rejected = match rejected.reason() {
                                Reason::RateLimited => base.with_reason(rejected, late),
                                _ => rejected,
                            };
                            return Poll::Ready(inner.report(rejected, observer));
                        }
                    }
                }
            }
        }
    }
}

impl<Q> Limited<'_, Q>
where
    Q: Hash + Eq + ToOwned + ?Sized,
    Q::Owned: Hash + Eq,
{
    /// Takes `cost` tokens, now or for a turn at `latest` at the latest.
    fn book(&self, now: Instant, cost: u64, latest: Instant) -> Booked {
        let booked = self.inner.with(
            (self.hash, self.key),
            now,
            self.is_new_call,
            |tat, gcra, time| book(tat, gcra, time, cost, latest),
            |limiter, time| match time.open {
                _ if !time.is_paused() => Booked::Queue(limiter.clone()),
                open if open <= latest && open != Instant::FAR_FUTURE => Booked::Paused(open),
                open => Booked::Rejected(Refusal::Until(open)),
            },
        );
        booked.unwrap_or(Booked::Rejected(Refusal::Until(Instant::FAR_FUTURE)))
    }

    /// Whether the key is paused.
    fn is_paused(&self, now: Instant) -> bool {
        let (inner, is_paused) = (self.inner, |time: Time| time.is_paused());
        let of_key = inner.with_known(
            self.hash,
            self.key,
            now,
            |_, _, time| is_paused(time),
            |_, time| is_paused(time),
        );
        of_key.unwrap_or_else(|| is_paused(inner.time(now)))
    }
}

fn book(tat: &mut u64, gcra: &Gcra, time: Time, cost: u64, latest: Instant) -> Booked {
    let turn = match gcra.ready(*tat, time.open, cost, 0) {
        Ok(()) => time.open,
        Err(Refusal::Until(at)) => at,
        Err(Refusal::Never) => return Booked::Rejected(Refusal::Never),
    };
    if turn > latest || turn == Instant::FAR_FUTURE {
        return Booked::Rejected(Refusal::Until(turn));
    }
    *tat = gcra.put(*tat, time.open, cost);
    match turn > time.now {
        true => Booked::Turn(turn),
        false => Booked::Taken,
    }
}

impl<Q> Future for KeyedAcquire<'_, Q>
where
    Q: Hash + Eq + ToOwned + ?Sized,
    Q::Owned: Hash + Eq,
{
    type Output = Result<(), Rejected>;

    fn poll(self: Pin<&mut Self>, task: &mut TaskContext<'_>) -> Poll<Self::Output> {
        let budget = ready!(coop::poll_proceed(task));
        let clock = &self.limited.inner.base.clock;
        let now = clock.now();
        let deadline = match self.latest {
            None => deadline::inherited(clock, now),
            Some(_) => Instant::FAR_FUTURE,
        };
        let poll = self.poll_with(task, now, deadline, None);
        if poll.is_ready() {
            budget.made_progress();
        }
        poll
    }
}

impl<Q> std::fmt::Debug for KeyedAcquire<'_, Q>
where
    Q: Hash + Eq + ToOwned + ?Sized,
    Q::Owned: Hash + Eq,
{
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KeyedAcquire")
            .field("limiter", &self.limited.inner.base.name)
            .field("cost", &self.cost)
            .finish_non_exhaustive()
    }
}
