//! Metrics for the crate [`metrics`](https://docs.rs/metrics): counters and histograms from events, gauges from
//! snapshots.
//!
//! [`Metrics`] is an [`Observer`]; [`Attempts`] is a layer that counts attempts with their verdicts. [`TABLE`] has the
//! names, and [Observability](crate::guide::observability) maps them to those of other libraries.
//!
//! ```
//! use backstop::metrics::Metrics;
//! use backstop::{CircuitBreaker, ManualClock, Pipeline, Policy, Retry};
//!
//! let clock = ManualClock::new();
//! let breaker = CircuitBreaker::builder().clock(clock.clone()).build()?;
//! let metrics = Metrics::new(); // after the recorder is installed
//! metrics.watch(breaker.clone());
//!
//! let stack = (
//!     Retry::builder().clock(clock.clone()).build()?,
//!     breaker,
//!     metrics.attempts("github").clock(clock.clone()), // next to the operation, outside its classifier
//! );
//! let pipeline = Pipeline::new(stack).with_name("github").observer(metrics.clone());
//!
//! let answer = clock.block_on(pipeline.call(|| async { Ok::<_, ()>(7) }));
//! assert_eq!(answer, Ok(7));
//! metrics.collect(); // before each scrape, or every second
//! # Ok::<(), backstop::ConfigError>(())
//! ```
//!
//! # Cost
//!
//! A call increments one counter and records one histogram, and its attempt the same, through handles that are
//! registered once. Gauges cost nothing until they are collected.
//!
//! # Cardinality
//!
//! Labels have names that are fixed when policies are built, and never a key: ten million keys of a
//! [`KeyedRateLimiter`](crate::KeyedRateLimiter) are one series. If a program makes up names at run time, the first
//! thousand have series of their own, and all further ones share those of the policy `other`.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::{Arc, Mutex};

use ::metrics::Recorder;

mod attempts;
mod gauges;
mod series;
mod table;

pub use self::attempts::{Attempting, Attempts};
pub use self::gauges::{Gauges, Reading};
use self::series::{Series, Sink, key};
use self::table::LEASE_TRIPS;
pub use self::table::{BUCKETS, Kind, Metric, TABLE};
use crate::event::{Event, Observer, Panics};
use crate::names::Names;
use crate::sync::lock;

/// Records events as metrics, and snapshots as gauges. See the [module page](self).
///
/// An observer for a [`Pipeline`](crate::Pipeline), or for the builder of any handle. Cheap to clone: clones share all
/// state, and an event that reaches two clones is counted once.
#[derive(Clone)]
pub struct Metrics {
    inner: Arc<Inner>,
}

struct Inner {
    sink: Sink,
    series: Names<Series>,
    watched: Mutex<Vec<Arc<dyn Gauges>>>,
    /// The gauges that may not be 0, each with the index of the handle that had it last.
    collected: Mutex<HashMap<GaugeName, usize>>,
}

/// A metric, a policy, and a further label.
type GaugeName = (
    &'static str,
    &'static str,
    Option<(&'static str, &'static str)>,
);

impl Metrics {
    /// Returns an observer that records with the global recorder.
    ///
    /// Install the recorder first: a series that was first used without one records nothing.
    pub fn new() -> Self {
        Self::of(Sink::Global)
    }

    /// Returns an observer that records with this recorder.
    pub fn with_recorder(recorder: impl Recorder + Send + Sync + 'static) -> Self {
        Self::of(Sink::Own(Arc::new(recorder)))
    }

    fn of(sink: Sink) -> Self {
        sink.describe();
        Self {
            inner: Arc::new(Inner {
                sink,
                series: Names::new(),
                watched: Mutex::default(),
                collected: Mutex::default(),
            }),
        }
    }

    /// Returns a layer that counts and times attempts, with `name` as the label `policy`.
    ///
    /// Place it directly outside the [`Classify`](crate::Classify) if there is one, otherwise innermost.
    pub fn attempts(&self, name: &'static str) -> Attempts {
        Attempts::new(Arc::new(Series::new((name, None), self.inner.sink.clone())))
    }

    /// Adds a handle whose snapshot [`collect`](Self::collect) records as gauges and totals. It is kept until the
    /// last clone of this observer is dropped.
    pub fn watch(&self, handle: impl Gauges + 'static) {
        lock(&self.inner.watched).push(Arc::new(handle));
    }

    /// Records the gauges and totals of all watched handles. Call it before each scrape, or every second.
    ///
    /// A gauge that no handle has any more, such as the state of a breaker that was turned off in the settings of its
    /// stack, becomes 0. If a handle or the recorder panics, those of the other handles are recorded first.
    pub fn collect(&self) {
        // Taken outside the lock, because a snapshot reads its clock, which may be user code.
        let watched = lock(&self.inner.watched).clone();
        let mut panics = Panics::default();
        let mut readings = vec![None; watched.len()];
        for (readings, handle) in readings.iter_mut().zip(&watched) {
            panics.run(|| *readings = Some(handle.readings()));
        }
        self.clear_all_but(&readings, &mut panics);
        for (handle, readings) in readings.iter().enumerate() {
            let Some(readings) = readings else { continue };
            panics.run(|| self.record(readings));
            // After it: a concurrent collection that clears the gauge before it is recorded here leaves it to the next.
            let names = gauges(readings).map(|name| (name, handle));
            lock(&self.inner.collected).extend(names);
        }
        panics.resume();
    }

    /// Sets the gauges to 0 that were recorded before and are not among these readings, which have `None` for a handle that
    /// panicked: its gauges stay.
    fn clear_all_but(&self, readings: &[Option<Vec<Reading>>], panics: &mut Panics) {
        let kept: HashSet<GaugeName> = readings.iter().flatten().flat_map(|r| gauges(r)).collect();
        let is_gone = |name: &GaugeName, handle: usize| {
            readings.get(handle).is_some_and(Option::is_some) && !kept.contains(name)
        };
        let mut gone = Vec::new();
        lock(&self.inner.collected).retain(|name, &mut handle| {
            let is_gone = is_gone(name, handle);
            if is_gone {
                gone.push((*name, handle));
            }
            !is_gone
        });
        for (name, handle) in gone {
            let mut is_cleared = false;
            panics.run(|| {
                let (metric, policy, label) = name;
                let key = key(metric, (policy, None), label.as_slice());
                self.inner.sink.gauge(&key).set(0.0);
                is_cleared = true;
            });
            if !is_cleared {
                lock(&self.inner.collected).entry(name).or_insert(handle);
            }
        }
    }

    fn record(&self, readings: &[Reading]) {
        for reading in readings {
            let label = reading.label.as_slice();
            let key = key(reading.metric, (reading.policy, None), label);
            // The only totals from snapshots are those that no event reports.
            if reading.metric == LEASE_TRIPS {
                self.inner.sink.counter(&key).absolute(reading.value as u64);
            } else {
                self.inner.sink.gauge(&key).set(reading.value);
            }
        }
    }
}

/// Returns the names of the gauges among these readings.
fn gauges(readings: &[Reading]) -> impl Iterator<Item = GaugeName> + '_ {
    let gauges = readings.iter().filter(|it| it.metric != LEASE_TRIPS);
    gauges.map(|it| (it.metric, it.policy, it.label))
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Observer for Metrics {
    #[inline]
    fn on_event(&self, event: &Event) {
        let make = |name| Series::new(name, self.inner.sink.clone());
        let name = (event.policy(), event.pipeline());
        self.inner.series.get(name, make).event(event);
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

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics")
            .field("watched", &lock(&self.inner.watched).len())
            .finish_non_exhaustive()
    }
}
