//! Name, clock, observer, shadow mode, and event numbers, shared by all handles that admit calls.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::clock::ClockHandle;
use crate::error::{ConfigError, Rejected};
use crate::event::{Event, Observer, Panics};
use crate::instant::Instant;
use crate::rng::identifier;

/// The settings of a [`Base`], in a builder.
#[derive(Clone)]
pub(crate) struct Setup {
    pub(crate) name: &'static str,
    pub(crate) clock: Option<ClockHandle>,
    pub(crate) observer: Option<Arc<dyn Observer>>,
    pub(crate) shadow: bool,
}

impl Setup {
    pub(crate) const fn new(name: &'static str) -> Self {
        Self {
            name,
            clock: ClockHandle::preset(),
            observer: None,
            shadow: false,
        }
    }

    /// Adopts the clock of a stack, and its name unless this one differs from `preset`.
    pub(crate) fn adopt(&mut self, preset: &'static str, name: &'static str, clock: &ClockHandle) {
        if self.name == preset {
            self.name = name;
        }
        self.clock = Some(clock.clone());
    }

    /// Returns whether handles with these settings are equal, apart from their clocks.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        (self.name, self.shadow) == (other.name, other.shadow)
            && is_same_arc(self.observer.as_ref(), other.observer.as_ref())
    }

    /// Builds the base of a handle. Fails if there is no clock; the error names `pattern`.
    pub(crate) fn build(self, pattern: &'static str) -> Result<Base, ConfigError> {
        let missing = ConfigError::new(pattern, "clock", "must be given");
        let clock = self.clock.clone().ok_or(missing)?;
        Ok(self.on(clock))
    }

    /// Builds the base of a handle with this clock.
    pub(crate) fn on(self, clock: ClockHandle) -> Base {
        Base {
            clock,
            name: self.name,
            reports: self.shadow || self.observer.is_some(),
            observer: self.observer,
            shadow: self.shadow,
            events: AtomicU64::new(0),
        }
    }
}

impl fmt::Debug for Setup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Setup")
            .field("name", &self.name)
            .field("clock", &self.clock)
            .field("observed", &self.observer.is_some())
            .field("shadow", &self.shadow)
            .finish()
    }
}

/// The common part of the shared states of handles.
pub(crate) struct Base {
    pub(crate) clock: ClockHandle,
    pub(crate) name: &'static str,
    pub(crate) shadow: bool,
    /// Whether there is an observer, or shadow mode is on.
    reports: bool,
    observer: Option<Arc<dyn Observer>>,
    /// Number of events so far. Not loom's atomic, because no other memory access depends on it.
    events: AtomicU64,
}

impl Base {
    #[inline]
    pub(crate) fn now(&self) -> Instant {
        self.clock.now()
    }

    /// Runs `settle` with the current time, or with `known` if the clock panics. That panic propagates afterwards.
    /// While the thread panics already, neither a panic of the clock nor one of `settle` propagates: it would abort
    /// the process.
    ///
    /// Used for drops, refunds, and charges, whose work must not get lost.
    pub(crate) fn at_now_or(&self, known: Instant, settle: impl FnOnce(Instant)) {
        let (mut now, mut panics) = (known, Panics::default());
        panics.run(|| now = self.now());
        panics.run(|| settle(now));
        panics.resume();
    }

    /// Returns whether there is an observer: that of the call, or the handle's own.
    #[inline]
    pub(crate) fn has_observer(&self, listener: Option<&dyn Observer>) -> bool {
        listener.is_some() || self.observer.is_some()
    }

    /// Returns whether rejections must be reported, or are admitted in shadow mode.
    #[inline]
    pub(crate) fn reports_rejections(&self, listener: Option<&dyn Observer>) -> bool {
        listener.is_some() || self.reports
    }

    /// Returns the number of the next event. Events about a change of state are numbered under the lock of the
    /// change, so that numbers follow the order of the states.
    pub(crate) fn number(&self) -> u64 {
        self.events.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Continues the numbers of another handle, which this one replaces.
    pub(crate) fn continue_numbers_of(&self, old: &Self) {
        let events = old.events.load(Ordering::Relaxed);
        self.events.fetch_max(events, Ordering::Relaxed);
    }

    /// Reports an event to the observer of the call and to the handle's own, which may share parts. Each receives it
    /// once, even if another one panics.
    pub(crate) fn report(&self, event: Event, listener: Option<&dyn Observer>) {
        let mut panics = Panics::default();
        self.report_in(&mut panics, event, listener);
        panics.resume();
    }

    /// Reports an event like [`report`](Self::report), but collects panics, for callers that run other user code
    /// too.
    pub(crate) fn report_in(
        &self,
        panics: &mut Panics,
        event: Event,
        listener: Option<&dyn Observer>,
    ) {
        // Events without an observer are not numbered.
        if !self.has_observer(listener) {
            return;
        }
        let event = match event.sequence() {
            None => event.numbered(self.number()),
            Some(_) => event,
        };
        let own = self.observer.as_deref();
        let Some(listener) = listener else {
            return own.map_or((), |own| panics.run(|| own.on_event(&event)));
        };
        let event = event.through(listener.pipeline());
        panics.run(|| listener.on_event(&event));
        if let Some(own) = own {
            panics.run(|| own.on_event_after(listener, &event));
        }
    }

    /// Reports a rejection. In shadow mode, reports that the call would have been rejected, and returns `Ok`.
    #[inline]
    pub(crate) fn reject(
        &self,
        rejected: Rejected,
        listener: Option<&dyn Observer>,
    ) -> Result<(), Rejected> {
        if !self.reports_rejections(listener) {
            return Err(rejected);
        }
        self.report_rejection(rejected, listener)
    }

    #[cold]
    fn report_rejection(
        &self,
        rejected: Rejected,
        listener: Option<&dyn Observer>,
    ) -> Result<(), Rejected> {
        if self.shadow {
            self.report(Event::would_reject(&rejected), listener);
            return Ok(());
        }
        self.report(Event::rejected(&rejected), listener);
        Err(rejected)
    }
}

/// Returns the longest wait of a call by the settings of a builder: zero by default, and no bound but the deadline if
/// only the number of waiters is given. Fails if the wait is above zero but no call may wait; the error names
/// `pattern`.
pub(crate) fn max_wait(
    pattern: &'static str,
    longest: Option<Duration>,
    max_waiting: Option<usize>,
) -> Result<Duration, ConfigError> {
    match (longest, max_waiting) {
        (Some(longest), Some(0)) if !longest.is_zero() => {
            let problem = "is above zero, but `max_waiting` is 0, so no call waits";
            Err(ConfigError::new(pattern, "max_wait", problem))
        }
        (Some(longest), _) => Ok(longest),
        (None, Some(1..)) => Ok(Duration::MAX),
        (None, _) => Ok(Duration::ZERO),
    }
}

/// Returns the identifier of a process in a store, if none was given.
pub(crate) fn random_instance() -> String {
    format!("{:016x}", identifier()[0])
}

/// Returns whether both are clones of one `Arc`, or both are `None`.
pub(crate) fn is_same_arc<T: ?Sized>(one: Option<&Arc<T>>, other: Option<&Arc<T>>) -> bool {
    match (one, other) {
        (None, None) => true,
        (Some(one), Some(other)) => Arc::ptr_eq(one, other),
        _ => false,
    }
}
