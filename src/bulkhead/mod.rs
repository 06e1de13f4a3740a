//! Bulkheads: a slow dependency fills its own room, and no other.
//!
//! # What it protects
//!
//! Everything that calls share: memory, connections, the dependency itself. When a dependency slows
//! down, calls to it pile up; a bulkhead bounds how many there are, so the pile does not sink the
//! rest. An adaptive one finds the bound by itself.
//!
//! ```text
//!                 room?  ┌──────────────────────┐
//!   call ──────► yes ───►│ at most `limit` calls │──► its result
//!            │           └──────────▲───────────┘
//!            │ no                   │ a permit comes back: the next in line gets it
//!            ├──► line of at most `queue` calls
//!            │        └──► waited too long: QueueTimeout, or DeadlineTooClose
//!            └──► line full: BulkheadFull
//! ```
//!
//! # When not to use it
//!
//! * To bound calls *per second*: that is a [rate limiter](https://docs.rs/backstop).
//! * Around work that is bound already, such as queries through a connection pool of fixed size, if
//!   waiting for the pool is bounded too.
//!
//! # Example
//!
//! ```
//! use std::time::Duration;
//! use backstop::{Bulkhead, ManualClock, Policy};
//!
//! let clock = ManualClock::new();
//! let bulkhead = Bulkhead::builder()
//!     .max_concurrent(10)
//!     .queue(20)
//!     .max_wait(Duration::from_millis(500))
//!     .clock(clock.clone())
//!     .build()?;
//!
//! let result = clock.block_on(bulkhead.call(|| async { Ok::<_, ()>("rows") }));
//! assert_eq!(result, Ok("rows"));
//!
//! // The same places, without a policy.
//! let permit = bulkhead.try_acquire()?;
//! assert_eq!(bulkhead.snapshot().in_flight, 1);
//! drop(permit);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Defaults
//!
//! | setting | default |
//! |---|---|
//! | `max_concurrent` | 25 |
//! | `adaptive` | off: the limit stays |
//! | `queue` | 0: who finds no room is refused |
//! | `max_wait` | as long as the call's deadline allows |
//! | `order` | first in, first out |
//! | `codel` | off; with `codel_defaults()` target 5 ms, interval 100 ms |
//! | `partition` | none |
//! | `cancel_is_overload` | yes (adaptive only) |
//! | `shadow` | off |
//!
//! # With its neighbours
//!
//! * **Inside a retry** it holds a place for an attempt, **outside** for the whole call, waits between
//!   attempts included. Inside is nearly always right, and an adaptive limit must be inside: outside
//!   it would take the retry's waits for latency ([`Pipeline::check`](crate::Pipeline::check) says so).
//! * A **timeout outside** bounds the wait in line as well. A **timeout inside** bounds the work.
//! * A **breaker** ignores refusals: they say nothing about the dependency.
//!
//! # How it works
//!
//! Count, limit and "somebody waits" share one atomic word. Taking a permit is one addition, giving it
//! back one subtraction that also tells whether somebody waits. Who added one too many takes it back;
//! of those who race for the last permit one gets it. The queue's lock is touched only when there is
//! no room, and where there are partitions. A resize changes the same word: it never waits for a call,
//! admits nobody above the new limit, and takes nothing away from those who run.
//!
//! Threads that fight for one word are slow. So as long as there has been room for everybody, a permit
//! that comes back is left beside the word for the next call on the same thread, up to half of all
//! permits. Before anybody is refused, waits, or finds another limit, all of them are recalled: the
//! bound is exact, and nobody is turned away for a permit that lies there. They are left again once
//! three quarters of all permits are free. There is room for them from the start, at most 128 bytes
//! for each processor and 2 KiB in all; a bulkhead built with fewer than four permits has none. Nor
//! has one where numbers in flight are asked for with every call: adaptive limits, partitions, shadow
//! mode.
//!
//! # Adaptive limits
//!
//! See [`limit`]. The latency an algorithm sees is that of the work: the wait in line is not in it.

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use self::acquire::AcquirePermit;
use self::adaptive::Adaptive;
use self::held::{Ending, Held};
use self::queue::{Entrant, Full, Gate};
use self::state::{MAX_PERMITS, Sample, Taken, Word};
use crate::clock::ClockHandle;
use crate::codel::Codel;
use crate::error::{ConfigError, Reason, Rejected};
use crate::event::{Event, Observer};
use crate::instant::Instant;
use crate::keyed::{Evictable, is_unshared};
use crate::policy::{Context, OnUnwind};
use crate::rng::SharedRng;
use crate::sync::{AtomicU64, Ordering};

mod acquire;
mod adaptive;
mod config;
mod held;
#[cfg(all(test, backstop_loom))]
mod loom_tests;
mod permit;
mod permits;
mod policy;
mod queue;
mod snapshot;
mod state;

pub use self::config::BulkheadBuilder;
pub use self::permit::{OwnedPermit, Permit};
pub use self::queue::QueueOrder;
pub use self::snapshot::{BulkheadSnapshot, PartitionSnapshot};
pub use self::state::limit;

/// Bounds how many calls run at once. See the [module page](self).
///
/// Cheap to clone: clones share the permits.
#[derive(Clone)]
pub struct Bulkhead {
    inner: Arc<Inner>,
    /// Which partition's calls these are; 0 for none.
    lane: u32,
}

struct Inner {
    name: &'static str,
    clock: ClockHandle,
    gate: Gate,
    /// What it was built with.
    first_limit: u32,
    /// Whether there is a line at all.
    may_wait: bool,
    queue: usize,
    max_wait: Duration,
    adaptive: Option<Adaptive>,
    cancel_is_overload: bool,
    shadow: bool,
    observer: Option<Arc<dyn Observer>>,
    rng: SharedRng,
    refused: AtomicU64,
    timed_out: AtomicU64,
    would_refuse: AtomicU64,
}

impl Bulkhead {
    /// At most `limit` calls at once, no queue; 0 counts as 1. On tokio's clock.
    #[cfg(feature = "tokio")]
    pub fn new(limit: u32) -> Self {
        Self::builder().of_limit(limit, crate::clock::TokioClock.into())
    }

    /// Sets everything else too.
    pub fn builder() -> BulkheadBuilder {
        BulkheadBuilder::new()
    }

    /// The name in errors and events.
    pub fn name(&self) -> &'static str {
        self.inner.name
    }

    /// Takes a permit, or refuses at once.
    ///
    /// # Errors
    ///
    /// [`Reason::BulkheadFull`] when all permits are out or others wait for them.
    #[inline]
    pub fn try_acquire(&self) -> Result<Permit<'_>, Rejected> {
        self.try_acquire_with(Context::new())
    }

    /// As [`try_acquire`](Self::try_acquire) for a call of this cost.
    ///
    /// # Errors
    ///
    /// [`Reason::BulkheadFull`], or [`Reason::CostExceedsLimit`] when no fixed limit this small can
    /// hold the call.
    #[inline]
    pub fn try_acquire_with(&self, mut cx: Context) -> Result<Permit<'_>, Rejected> {
        let held = self.try_held(&mut cx)?;
        Ok(Permit {
            bulkhead: &self.inner,
            held,
        })
    }

    /// As [`try_acquire_with`](Self::try_acquire_with), with a permit that may be moved anywhere.
    ///
    /// # Errors
    ///
    /// As there.
    pub fn try_acquire_owned(&self, mut cx: Context) -> Result<OwnedPermit, Rejected> {
        let held = self.try_held(&mut cx)?;
        Ok(OwnedPermit {
            bulkhead: self.clone(),
            held,
        })
    }

    #[inline]
    fn try_held(&self, cx: &mut Context) -> Result<Held, Rejected> {
        self.inner
            .try_enter(self.entrant(cx), cx, None)
            .map_err(|full| self.inner.reject(full.reason(), None))
    }

    /// Takes a permit, in turn if need be. The wait ends at the deadline of the surrounding
    /// [`deadline`](crate::deadline) scope, if there is one.
    ///
    /// # Errors
    ///
    /// [`Reason::BulkheadFull`] when there is no room and the line is full, or there is none;
    /// [`Reason::QueueTimeout`] after the longest wait, or when CoDel drops the call;
    /// [`Reason::DeadlineTooClose`] when the deadline comes first.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future gives up the place in line, and the permit if it had been handed over
    /// already: the next in line gets it.
    #[inline]
    pub fn acquire(&self) -> impl Future<Output = Result<Permit<'_>, Rejected>> {
        self.acquire_with(Context::new())
    }

    /// As [`acquire`](Self::acquire) with the cost, the priority and the deadline of `cx`.
    ///
    /// # Errors
    ///
    /// As for [`acquire`](Self::acquire), and [`Reason::CostExceedsLimit`].
    ///
    /// # Cancel safety
    ///
    /// As for [`acquire`](Self::acquire).
    #[inline]
    pub fn acquire_with(&self, cx: Context) -> impl Future<Output = Result<Permit<'_>, Rejected>> {
        AcquirePermit::new(self, cx)
    }

    /// As [`acquire_with`](Self::acquire_with), with a permit that may be moved anywhere. The future
    /// borrows nothing.
    ///
    /// # Errors
    ///
    /// As for [`acquire_with`](Self::acquire_with).
    ///
    /// # Cancel safety
    ///
    /// As for [`acquire`](Self::acquire).
    pub async fn acquire_owned(self, cx: Context) -> Result<OwnedPermit, Rejected> {
        let held = AcquirePermit::new(&self, cx).await?.keep();
        Ok(OwnedPermit {
            bulkhead: self,
            held,
        })
    }

    /// The same bulkhead for the calls of one partition; `None` when the builder was given none of
    /// this name.
    pub fn partition(&self, name: &str) -> Option<Self> {
        let mut lanes = self.inner.gate.lanes().iter().skip(1);
        let lane = lanes.position(|lane| lane.name == name)?;
        Some(Self {
            inner: self.inner.clone(),
            lane: lane as u32 + 1,
        })
    }

    /// How many permits there are.
    pub fn limit(&self) -> u32 {
        self.inner.gate.read().limit()
    }

    /// Changes the number of permits; 0 counts as 1, more than 2^31 − 1 as that.
    ///
    /// It takes effect at once and waits for no call. Permits that are out stay out: after a shrink
    /// nobody is admitted until fewer are out than the new limit. Those in line for more permits than
    /// there now are, are refused. An adaptive algorithm replaces the limit at its next sample.
    pub fn set_limit(&self, limit: u32) {
        self.inner.apply(limit, None);
    }

    /// Changes the target and the interval of CoDel; what it knows of the line stays.
    ///
    /// # Errors
    ///
    /// When the bulkhead was built without [`codel`](BulkheadBuilder::codel), or the values make no
    /// sense. Then nothing changes.
    pub fn set_codel(&self, target: Duration, interval: Duration) -> Result<(), ConfigError> {
        let error = |problem| ConfigError::new(self.inner.name, "codel", problem);
        Codel::check(target, interval).map_err(error)?;
        if self.inner.gate.retune(target, interval) {
            Ok(())
        } else {
            Err(error("was not given to the builder"))
        }
    }
}

impl Full {
    const fn reason(self) -> Reason {
        match self {
            Self::Busy => Reason::BulkheadFull,
            Self::TooLarge => Reason::CostExceedsLimit,
        }
    }
}

impl Inner {
    /// Lets a call in if there is room, or if nobody is refused anyway.
    ///
    /// Always inlined: out of line, what it takes and gives goes through memory, which costs three
    /// times what the two atomics of a permit do.
    #[inline(always)]
    fn try_enter(
        &self,
        entrant: Entrant,
        cx: &mut Context,
        observer: Option<&dyn Observer>,
    ) -> Result<Held, Full> {
        let taken = match self.gate.try_admit(entrant) {
            Ok(taken) => taken,
            Err(full) if self.shadow => self.enter_anyway(entrant, full, observer),
            Err(full) => return Err(full),
        };
        // Only an algorithm wants to know how long the call takes.
        let started = if self.adaptive.is_some() {
            let guard = OnUnwind::new(|| self.gate.give_back(taken.cost(), entrant.lane));
            let now = cx.now(&self.clock);
            guard.disarm();
            now
        } else {
            Instant::ORIGIN
        };
        Ok(Held::new(taken, entrant.lane, started))
    }

    #[cold]
    fn enter_anyway(&self, entrant: Entrant, full: Full, observer: Option<&dyn Observer>) -> Taken {
        let word = self.gate.read();
        // Those who would wait in line are not refused, as far as one can tell.
        let in_line = word.in_flight().saturating_sub(word.limit()) as usize;
        if full == Full::TooLarge || in_line >= self.queue {
            self.would_refuse.fetch_add(1, Ordering::Relaxed);
            let rejected = Rejected::new(self.name, full.reason());
            self.emit(observer, || Event::would_reject(&rejected));
        }
        self.gate.force(entrant)
    }

    /// Ends a call: its permits go to the next, and the algorithm learns how it went.
    #[inline(always)]
    fn leave(
        &self,
        held: Held,
        ending: Ending,
        finished: impl FnOnce() -> Instant,
        observer: Option<&dyn Observer>,
    ) {
        // Asked first: a bulkhead of a fixed limit does not even work the ending out.
        match &self.adaptive {
            None => {
                self.gate.give_back(held.cost(), held.lane());
            }
            Some(adaptive) => {
                let before = self.gate.give_all_back(held.cost(), held.lane());
                if ending != Ending::Neutral {
                    self.learn(adaptive, held, before, ending, finished(), observer);
                }
            }
        }
    }

    #[inline(never)]
    fn learn(
        &self,
        adaptive: &Adaptive,
        held: Held,
        before: Word,
        ending: Ending,
        now: Instant,
        observer: Option<&dyn Observer>,
    ) {
        if now < held.started {
            // The clock was set back meanwhile. Nobody knows how long it took.
            return;
        }
        let took = now.saturating_duration_since(held.started);
        let mut sample = Sample::new(now, took, held.in_flight as u32);
        sample.started = held.started;
        sample.overloaded = ending == Ending::Overloaded;
        sample.full = before.in_flight() >= before.limit();
        sample.random = self.rng.unit();
        adaptive.sample(sample, |limit| self.apply(limit, observer));
    }

    fn apply(&self, limit: u32, observer: Option<&dyn Observer>) {
        let limit = limit.clamp(1, MAX_PERMITS);
        if limit == self.gate.read().limit() {
            return;
        }
        let from = self.gate.set_limit(limit);
        self.emit(observer, || Event::LimitChanged {
            policy: self.name,
            from,
            to: limit,
        });
    }

    #[cold]
    fn reject(&self, reason: Reason, observer: Option<&dyn Observer>) -> Rejected {
        let counter = match reason {
            Reason::QueueTimeout | Reason::DeadlineTooClose => &self.timed_out,
            _ => &self.refused,
        };
        // Relaxed: a counter for people.
        counter.fetch_add(1, Ordering::Relaxed);
        let rejected = Rejected::new(self.name, reason);
        self.emit(observer, || Event::rejected(&rejected));
        rejected
    }

    /// Tells the call's observer and the bulkhead's own.
    fn emit(&self, observer: Option<&dyn Observer>, event: impl Fn() -> Event) {
        for observer in [observer, self.observer.as_deref()].into_iter().flatten() {
            observer.on_event(&event());
        }
    }
}

/// Nobody is in, the limit is the one it was built with, and nobody has a handle. What an adaptive
/// limit has learnt is learnt again.
impl Evictable for Bulkhead {
    fn evictable_in(&self) -> Option<Duration> {
        let inner = &*self.inner;
        let is_as_new = is_unshared(&self.inner)
            && inner.gate.in_flight() == 0
            && (inner.adaptive.is_some() || self.limit() == inner.first_limit);
        is_as_new.then_some(Duration::ZERO)
    }
}

impl fmt::Debug for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bulkhead")
            .field("name", &self.name)
            .field("limit", &self.gate.read().limit())
            .field("in_flight", &self.gate.in_flight())
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Bulkhead {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}
