//! Load shedding: under overload, the least important calls go first.
//!
//! # What it protects
//!
//! A server, and its most important callers. Above its capacity a server that tries to serve
//! everybody serves nobody in time. A shedder refuses early and cheaply, the lowest priorities first,
//! and just as many as it takes.
//!
//! ```text
//!             priority            share to shed ◄─┬─ as the queue delay grows or shrinks
//!                │                      │          └─ +5 % / −1 %, as your signal says
//!   call ──► below the cut? ◄── cut ◄───┴── priorities of the last 1000 calls
//!             │         │
//!             no        └─ yes ──► Shed
//!             ▼
//!          operation
//! ```
//!
//! # When not to use it
//!
//! * On the client's side. There a [bulkhead](crate::bulkhead) or a breaker protects the dependency.
//! * Instead of capacity. It makes overload bearable, not cheap.
//!
//! # Example
//!
//! ```
//! use std::sync::Arc;
//! use std::sync::atomic::{AtomicU32, Ordering};
//! use std::time::Duration;
//! use backstop::{CallOptions, LoadShedder, ManualClock, Pipeline, Policy, Priority};
//!
//! let clock = ManualClock::new();
//! let cpu = Arc::new(AtomicU32::new(95));
//! let shedder = LoadShedder::builder()
//!     .signal(0.8, { let cpu = cpu.clone(); move || f64::from(cpu.load(Ordering::Relaxed)) / 100.0 })
//!     .clock(clock.clone())
//!     .build()?;
//!
//! // Two seconds of a CPU at 95 %, half of the calls for prefetching:
//! let mut served = [0, 0];
//! for call in 0..2000 {
//!     clock.advance(Duration::from_millis(1));
//!     let priority = [Priority::LOWEST, Priority::HIGH][call % 2];
//!     served[call % 2] += u32::from(shedder.admit(priority).is_ok());
//! }
//! assert!(served[0] < served[1] / 2);
//! # Ok::<(), backstop::ConfigError>(())
//! ```
//!
//! # Defaults
//!
//! | setting | default |
//! |---|---|
//! | `queue_delay` | CoDel: target 5 ms, interval 100 ms |
//! | `signal` | none; given, it replaces the queue delay |
//! | `max_shed` | 0.9 of the calls |
//! | `cool_off` | 1 s; with a queue delay at least 8 update intervals |
//! | `update_interval` | 100 ms |
//! | `cut` | its own |
//! | `shadow` | off |
//!
//! # With its neighbours
//!
//! * **Inside a [bulkhead](crate::bulkhead) with a queue** it sees how long the call waited there: as a
//!   policy it takes the time since the call began for the queue delay.
//! * Priorities travel in the [`Context`](crate::Context): set them with
//!   [`CallOptions::priority`](crate::CallOptions::priority).
//! * A **retry outside** should not repeat what was shed at once; it makes the overload worse.
//!
//! # How it works
//!
//! Every update interval the share to shed moves. With a queue delay it begins when the queue stands, as
//! CoDel finds it, and follows the shortest delay from then on: a delay that grows by a tenth of a second
//! each second means that a tenth of the admitted calls are too many; one above the target has to be
//! worked off, and while the queue runs dry more are let in. So the share settles where the rest just
//! fits, with the queue neither long nor often empty. A cool-off after the delay was last above half of
//! the target the overload is over, and within two more ten times as many are let in. With a signal the
//! share goes 5 points up while overloaded, and one down while not, after the cool-off; intervals in which
//! nobody came count as calm ones.
//!
//! The cut is the level below which that share of the last 1000 calls lay; of those on the level itself a
//! share is shed. Shedders that share a [`SharedCut`] share this distribution and the cut: a call that one
//! of them would shed for the sake of another is not let through by the first.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use self::config::{Source, Watch};
use self::cut::Member;
use self::state::{Pressure, QueueReport};
use crate::clock::ClockHandle;
use crate::error::{ConfigError, Reason, Rejected};
use crate::event::{Event, Observer};
use crate::instant::{Instant, nanos};
use crate::priority::Priority;
use crate::rng::SharedRng;
use crate::sync::{AtomicU64, Ordering, lock};

mod config;
mod cut;
mod fairness;
mod policy;
mod state;

pub use self::config::LoadShedderBuilder;
pub use self::cut::SharedCut;
pub use self::fairness::UserFairness;

/// Refuses the least important calls while the server is overloaded. See the [module page](self).
///
/// Cheap to clone: clones share everything.
#[derive(Clone)]
pub struct LoadShedder {
    inner: Arc<Inner>,
}

struct Inner {
    name: &'static str,
    clock: ClockHandle,
    source: Source,
    update_interval: Duration,
    /// When the next update is due, in the clock's nanoseconds.
    next_update: AtomicU64,
    pressure: std::sync::Mutex<Pressure>,
    member: Member,
    shadow: bool,
    observer: Option<Arc<dyn Observer>>,
    rng: SharedRng,
    shed: AtomicU64,
    would_shed: AtomicU64,
}

impl LoadShedder {
    /// Sets everything.
    pub fn builder() -> LoadShedderBuilder {
        LoadShedderBuilder::new()
    }

    /// The name in errors and events.
    pub fn name(&self) -> &'static str {
        self.inner.name
    }

    /// Tells how long a call waited before it could be looked at. A shedder with a
    /// [`signal`](LoadShedderBuilder::signal) does not care.
    pub fn observe_delay(&self, delay: Duration) {
        self.inner.observe_delay(delay, self.inner.clock.now());
    }

    /// Lets a call of this priority in, or refuses it.
    ///
    /// # Errors
    ///
    /// [`Reason::Shed`].
    pub fn admit(&self, priority: Priority) -> Result<(), Rejected> {
        self.inner.admit(priority, self.inner.clock.now(), None)
    }

    /// Counts and gauges. Reading changes nothing.
    pub fn snapshot(&self) -> ShedSnapshot {
        let inner = &*self.inner;
        // Relaxed: counters for people.
        ShedSnapshot {
            name: inner.name,
            shed_rate: lock(&inner.pressure).rate(),
            cut: inner.member.cut().level,
            load: inner.source.load(),
            shed: inner.shed.load(Ordering::Relaxed),
            would_shed: inner.would_shed.load(Ordering::Relaxed),
        }
    }
}

impl Inner {
    fn observe_delay(&self, delay: Duration, now: Instant) {
        if let Source::QueueDelay(watch) = &self.source {
            let mut watch = lock(watch);
            watch.codel.should_drop(delay, now);
            watch.min_delay = Some(watch.min_delay.map_or(delay, |min| min.min(delay)));
        }
    }

    fn admit(
        &self,
        priority: Priority,
        now: Instant,
        observer: Option<&dyn Observer>,
    ) -> Result<(), Rejected> {
        self.member.count(priority);
        self.update(now);
        let cut = self.member.cut();
        // Nobody draws a number while nobody is shed.
        if cut.to_bits() == 0 || !cut.sheds(priority, self.rng.unit()) {
            return Ok(());
        }
        let rejected = Rejected::new(self.name, Reason::Shed);
        if self.shadow {
            self.would_shed.fetch_add(1, Ordering::Relaxed);
            self.emit(observer, &Event::would_reject(&rejected));
            return Ok(());
        }
        self.shed.fetch_add(1, Ordering::Relaxed);
        self.emit(observer, &Event::rejected(&rejected));
        Err(rejected)
    }

    /// Moves the share to shed, if it is time.
    fn update(&self, now: Instant) {
        // Relaxed: only one of those who see that it is due wins, and needs no more than that.
        let due = self.next_update.load(Ordering::Relaxed);
        if now.as_nanos() < due {
            return;
        }
        let next = (now + self.update_interval).as_nanos();
        if self
            .next_update
            .compare_exchange(due, next, Ordering::Relaxed, Ordering::Relaxed)
            .is_err()
        {
            return;
        }
        let window = self.update_interval;
        let last = Instant::from_nanos(due.saturating_sub(nanos(window)));
        let elapsed = now.saturating_duration_since(last).max(window);
        let (rate, good_for) = match &self.source {
            Source::QueueDelay(watch) => {
                let report = lock(watch).report(now);
                let mut pressure = lock(&self.pressure);
                pressure.follow(report, window, elapsed, now);
                (pressure.rate(), pressure.calm_after(window))
            }
            Source::Signal { threshold, signal } => {
                // The user's code, so not under the lock. What is no number is no sign of overload.
                let overloaded = signal() >= *threshold;
                let mut pressure = lock(&self.pressure);
                pressure.update(overloaded, window, elapsed, now);
                (pressure.rate(), pressure.calm_after(window))
            }
        };
        self.member.report(rate, elapsed, good_for, now);
    }

    fn emit(&self, observer: Option<&dyn Observer>, event: &Event) {
        for observer in [observer, self.observer.as_deref()].into_iter().flatten() {
            observer.on_event(event);
        }
    }
}

/// The state of a [`LoadShedder`] at one moment.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct ShedSnapshot {
    /// The name.
    pub name: &'static str,
    /// The share of calls this shedder wants shed.
    pub shed_rate: f64,
    /// Calls below this level (see [`Priority::as_u16`]) are shed; some of those on it may be.
    pub cut: u16,
    /// The queue delay against what is tolerated, 0 to 1; 0 with a signal of your own.
    pub load: f64,
    /// How many calls were shed.
    pub shed: u64,
    /// How many calls the shadow mode let pass.
    pub would_shed: u64,
}

impl Source {
    fn load(&self) -> f64 {
        match self {
            Self::QueueDelay(watch) => lock(watch).codel.load(),
            Self::Signal { .. } => 0.0,
        }
    }
}

impl Watch {
    /// What has been seen since the last report.
    fn report(&mut self, now: Instant) -> QueueReport {
        QueueReport {
            delay: self.min_delay.take().unwrap_or_default(),
            target: self.codel.target(),
            overloaded: self.codel.is_overloaded_at(now),
        }
    }
}

impl LoadShedder {
    /// Changes the target and the interval of the queue delay.
    ///
    /// # Errors
    ///
    /// When the shedder has a signal instead, or the values make no sense. Then nothing changes.
    pub fn set_queue_delay(&self, target: Duration, interval: Duration) -> Result<(), ConfigError> {
        match &self.inner.source {
            Source::QueueDelay(watch) => lock(watch).codel.retune(target, interval),
            Source::Signal { .. } => Err(ConfigError::new(
                self.inner.name,
                "queue_delay",
                "is not used: there is a signal",
            )),
        }
    }
}

impl fmt::Debug for LoadShedder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.snapshot().fmt(f)
    }
}
