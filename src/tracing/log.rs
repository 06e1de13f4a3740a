//! Events as log lines.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use ::tracing::Level;
use ::tracing::level_filters::LevelFilter;

use super::level::level;
use super::state::Tally;
use crate::clock::{BlockingClock, ClockHandle};
use crate::error::{Reason, Rejected};
use crate::event::{Event, Observer, Panics};
use crate::instant::nanos;
use crate::names::{Name, Names};

type LevelOf = Arc<dyn Fn(&Event) -> Option<Level> + Send + Sync>;

const REASONS: usize = Reason::Custom as usize + 1;

/// Writes events as log lines with the target `backstop`. The [module page](super) has the levels.
///
/// An observer for a [`Pipeline`](crate::Pipeline), or for the builder of any handle. Cheap to clone: clones share all
/// state, and an event that reaches two clones is logged once.
#[derive(Clone)]
pub struct EventLog {
    inner: Arc<Inner>,
}

/// Settings, and rejections that are not logged yet.
struct Inner {
    level: Option<LevelOf>,
    clock: ClockHandle,
    interval: u64,
    tallies: Names<Tallies>,
    /// When the next summary is due, in nanoseconds of the clock; zero if none is pending.
    pending: AtomicU64,
}

/// The rejections of a policy, by reason and shadow mode.
struct Tallies([Tally; 2 * REASONS]);

impl EventLog {
    /// Returns a log with the default levels and one summary a second.
    pub fn new() -> Self {
        Self::of(
            None,
            ClockHandle::preset().unwrap_or_else(|| BlockingClock.into()),
            Duration::from_secs(1),
        )
    }

    fn of(level: Option<LevelOf>, clock: ClockHandle, interval: Duration) -> Self {
        Self {
            inner: Arc::new(Inner {
                level,
                clock,
                interval: nanos(interval),
                tallies: Names::new(),
                pending: AtomicU64::new(0),
            }),
        }
    }

    fn interval_of(&self) -> Duration {
        Duration::from_nanos(self.inner.interval)
    }

    /// Returns a new log with other levels. `None` means that the event is not logged; [`level`](super::level()) has
    /// the defaults. For rejections, the level is determined when a line is due.
    ///
    /// ```
    /// use backstop::Event;
    /// use backstop::tracing::{EventLog, level};
    ///
    /// let log = EventLog::new().level(|event| match event {
    ///     Event::FallbackUsed { .. } => Some(tracing::Level::WARN),
    ///     Event::Waited { .. } => None,
    ///     event => level(event),
    /// });
    /// ```
    #[must_use]
    pub fn level(self, of: impl Fn(&Event) -> Option<Level> + Send + Sync + 'static) -> Self {
        Self::of(
            Some(Arc::new(of)),
            self.inner.clock.clone(),
            self.interval_of(),
        )
    }

    /// Returns a new log with another interval between summaries of rejections. Default one second.
    #[must_use]
    pub fn summary_interval(self, interval: Duration) -> Self {
        Self::of(self.inner.level.clone(), self.inner.clock.clone(), interval)
    }

    /// Returns a new log on another clock. Default: tokio's, or `BlockingClock` without the feature `tokio`.
    #[must_use]
    pub fn clock(self, clock: impl Into<ClockHandle>) -> Self {
        Self::of(self.inner.level.clone(), clock.into(), self.interval_of())
    }

    /// Writes the summaries of all rejections that are not logged yet, as dropping the last clone does.
    pub fn flush(&self) {
        self.inner.flush();
    }
}

impl Inner {
    fn level_of(&self, event: &Event) -> Option<Level> {
        match &self.level {
            Some(of) => of(event),
            None => level(event),
        }
    }

    fn on_event(&self, event: &Event) {
        if LevelFilter::current() == LevelFilter::OFF {
            return;
        }
        let (reason, shadow) = match *event {
            Event::Rejected { reason, .. } => (reason, false),
            Event::WouldReject { reason, .. } => (reason, true),
            _ => {
                if self.pending.load(Ordering::Relaxed) != 0 {
                    self.write_due();
                }
                if let Some(level) = self.level_of(event) {
                    write(level, event, 1);
                }
                return;
            }
        };
        let name = (event.policy(), event.pipeline());
        let tallies = self
            .tallies
            .get(name, |_| Tallies(std::array::from_fn(|_| Tally::default())));
        let now = self.now();
        match tallies.0[index(reason, shadow)].add(now, self.interval) {
            Ok(count) => self.summarize(event, count),
            Err(due) => self.wake_at(due),
        }
        if self.is_due(now) {
            self.write_due();
        }
    }

    fn now(&self) -> u64 {
        self.clock.now().as_nanos()
    }

    fn is_due(&self, now: u64) -> bool {
        let pending = self.pending.load(Ordering::Relaxed);
        pending != 0 && now >= pending
    }

    /// Makes the first event from `due` on write summaries.
    fn wake_at(&self, due: u64) {
        // Relaxed: a lost race delays a summary until a later event.
        let pending = self.pending.load(Ordering::Relaxed);
        if pending == 0 || due < pending {
            self.pending.store(due.max(1), Ordering::Relaxed);
        }
    }

    /// Writes the summaries that are due.
    #[cold]
    fn write_due(&self) {
        let now = self.now();
        if !self.is_due(now) {
            return;
        }
        self.pending.store(0, Ordering::Relaxed);
        self.for_each(|event, tally| {
            if let Some(count) = tally.take(now, self.interval) {
                self.summarize(event, count);
            }
            if let Some(due) = tally.next() {
                self.wake_at(due);
            }
        });
    }

    #[cold]
    fn flush(&self) {
        if LevelFilter::current() == LevelFilter::OFF {
            return;
        }
        self.for_each(|event, tally| {
            if let Some(count) = tally.rest() {
                self.summarize(event, count);
            }
        });
    }

    /// Visits the tallies, each with an event of its kind, even if an earlier visit panicked.
    fn for_each(&self, mut visit: impl FnMut(&Event, &Tally)) {
        let mut panics = Panics::default();
        self.tallies.for_each(|(policy, pipeline): Name, tallies| {
            for (at, tally) in tallies.0.iter().enumerate() {
                if tally.next().is_some() {
                    let rejected = Rejected::new(policy, Reason::of_number(at as u64 / 2));
                    let event = match at % 2 {
                        0 => Event::rejected(&rejected),
                        _ => Event::would_reject(&rejected),
                    };
                    panics.run(|| visit(&event.through(pipeline), tally));
                }
            }
        });
        panics.resume();
    }

    fn summarize(&self, event: &Event, count: u64) {
        if let Some(level) = self.level_of(event) {
            write(level, event, count);
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        let mut panics = Panics::default();
        panics.run(|| self.flush());
        panics.resume();
    }
}

fn index(reason: Reason, shadow: bool) -> usize {
    reason as usize * 2 + usize::from(shadow)
}

/// Writes a log entry about `count` events of this kind.
fn write(level: Level, event: &Event, count: u64) {
    let (policy, pipeline, kind) = (event.policy(), event.pipeline(), event.kind());
    let reason = match event {
        Event::Rejected { reason, .. } | Event::WouldReject { reason, .. } => Some(reason.as_str()),
        _ => None,
    };
    // The level is a constant of a callsite, so each level has its own callsite.
    macro_rules! at {
        ($($level:ident)+) => {
            match level {
                $(Level::$level => match count {
                    1 => ::tracing::event!(
                        target: "backstop", Level::$level, policy, pipeline, kind, reason, "{event}"
                    ),
                    _ => ::tracing::event!(
                        target: "backstop", Level::$level, policy, pipeline, kind, reason, count,
                        "{event} ({count} times)"
                    ),
                },)+
            }
        };
    }
    at!(ERROR WARN INFO DEBUG TRACE);
}

impl Default for EventLog {
    fn default() -> Self {
        Self::new()
    }
}

impl Observer for EventLog {
    fn on_event(&self, event: &Event) {
        self.inner.on_event(event);
    }

    fn includes(&self, address: *const ()) -> bool {
        Arc::as_ptr(&self.inner).cast() == address
    }

    fn on_event_after(&self, heard: &dyn Observer, event: &Event) {
        if !heard.includes(Arc::as_ptr(&self.inner).cast()) {
            self.on_event(event);
        }
    }
}

impl fmt::Debug for EventLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EventLog")
            .field("summary_interval", &self.interval_of())
            .finish_non_exhaustive()
    }
}
