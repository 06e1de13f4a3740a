//! The series of one policy, each registered when it is first used.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use ::metrics::{Counter, Gauge, Histogram, Key, Label, Level, Metadata, Recorder};

use super::table::{
    ATTEMPT_SECONDS, ATTEMPTS, CALL_SECONDS, CALLS, CIRCUIT_TRANSITIONS, EJECTIONS, EVENTS, HEDGES,
    Kind, QUEUE_SECONDS, REJECTIONS, RETRY_STOPS, TABLE,
};
use crate::error::Reason;
use crate::event::{Ending, EndpointEvent, Event, HedgeEvent, StopReason};
use crate::names::{Name, Names};

const METADATA: Metadata<'static> =
    Metadata::new("backstop", Level::INFO, Some("backstop::metrics"));

/// The recorder that registers the series.
#[derive(Clone)]
pub(super) enum Sink {
    /// The global recorder.
    Global,
    Own(Arc<dyn Recorder + Send + Sync>),
}

impl Sink {
    fn with<R>(&self, then: impl FnOnce(&dyn Recorder) -> R) -> R {
        match self {
            Self::Global => ::metrics::with_recorder(then),
            Self::Own(recorder) => then(&**recorder),
        }
    }

    /// Describes all metrics.
    pub(super) fn describe(&self) {
        self.with(|recorder| {
            for metric in TABLE {
                let (name, help) = (metric.name.into(), metric.help.into());
                match metric.kind {
                    Kind::Counter => recorder.describe_counter(name, None, help),
                    Kind::Gauge => recorder.describe_gauge(name, None, help),
                    Kind::Histogram => {
                        let unit = Some(::metrics::Unit::Seconds);
                        recorder.describe_histogram(name, unit, help);
                    }
                }
            }
        });
    }

    pub(super) fn counter(&self, key: &Key) -> Counter {
        self.with(|recorder| recorder.register_counter(key, &METADATA))
    }

    fn histogram(&self, key: &Key) -> Histogram {
        self.with(|recorder| recorder.register_histogram(key, &METADATA))
    }

    pub(super) fn gauge(&self, key: &Key) -> Gauge {
        self.with(|recorder| recorder.register_gauge(key, &METADATA))
    }
}

/// Returns the key of a series.
pub(super) fn key(
    metric: &'static str,
    (policy, pipeline): Name,
    labels: &[(&'static str, &'static str)],
) -> Key {
    let own = labels.iter().copied();
    let all = std::iter::once(("policy", policy))
        .chain(pipeline.map(|pipeline| ("pipeline", pipeline)))
        .chain(own);
    let labels: Vec<Label> = all
        .map(|(key, value)| Label::from_static_parts(key, value))
        .collect();
    Key::from_parts(metric, labels)
}

/// A handle that is registered on its first use.
struct Lazy<T>(OnceLock<T>);

impl<T> Lazy<T> {
    const fn new() -> Self {
        Self(OnceLock::new())
    }

    fn array<const N: usize>() -> [Self; N] {
        std::array::from_fn(|_| Self::new())
    }

    /// Returns the handle. `register` calls the recorder, which is user code, outside locks. Two handles registered
    /// concurrently for one series share its value.
    #[inline]
    fn get(&self, register: impl FnOnce() -> T) -> &T {
        if let Some(handle) = self.0.get() {
            return handle;
        }
        let mut new = Some(register());
        self.0.get_or_init(|| new.take().expect("initialized once"))
    }
}

/// The kind of an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AttemptKind {
    First,
    Retry,
    Hedge,
}

/// The verdict on an attempt, as a label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum VerdictLabel {
    Success,
    Transient,
    Throttled,
    Timeout,
    Failure,
    Permanent,
    Ignored,
    Cancelled,
}

impl VerdictLabel {
    const ALL: [&'static str; 8] = [
        "success",
        "transient",
        "throttled",
        "timeout",
        "failure",
        "permanent",
        "ignored",
        "cancelled",
    ];
}

const REASONS: usize = Reason::Custom as usize + 1;
const ENDINGS: usize = 6;
/// Number of reasons to stop other than rejections.
const STOPS: usize = 8;

/// The series of one policy.
pub(super) struct Series {
    name: Name,
    sink: Sink,
    calls: [Lazy<Counter>; ENDINGS],
    call_seconds: Lazy<Histogram>,
    attempts: [Lazy<Counter>; 3 * VerdictLabel::ALL.len()],
    attempt_seconds: Lazy<Histogram>,
    retry_stops: [Lazy<Counter>; STOPS + REASONS],
    rejections: [Lazy<Counter>; 2 * REASONS],
    queue_seconds: Lazy<Histogram>,
    hedges: [Lazy<Counter>; 3],
    /// Counters by kind of event. The kinds are few, so the first bucket of names suffices.
    events: OnceLock<Box<Names<Counter>>>,
}

impl Series {
    pub(super) fn new(name: Name, sink: Sink) -> Self {
        Self {
            name,
            sink,
            calls: Lazy::array(),
            call_seconds: Lazy::new(),
            attempts: Lazy::array(),
            attempt_seconds: Lazy::new(),
            retry_stops: Lazy::array(),
            rejections: Lazy::array(),
            queue_seconds: Lazy::new(),
            hedges: Lazy::array(),
            events: OnceLock::new(),
        }
    }

    fn counter(&self, metric: &'static str, labels: &[(&'static str, &'static str)]) -> Counter {
        self.sink.counter(&key(metric, self.name, labels))
    }

    fn observe(&self, slot: &Lazy<Histogram>, metric: &'static str, length: Duration) {
        slot.get(|| self.sink.histogram(&key(metric, self.name, &[])))
            .record(length.as_secs_f64());
    }

    /// Counts an attempt that has ended.
    pub(super) fn attempt(&self, kind: AttemptKind, verdict: VerdictLabel, length: Duration) {
        let index = kind as usize * VerdictLabel::ALL.len() + verdict as usize;
        let kind = ["first", "retry", "hedge"][kind as usize];
        let verdict = VerdictLabel::ALL[verdict as usize];
        self.attempts[index]
            .get(|| self.counter(ATTEMPTS, &[("kind", kind), ("verdict", verdict)]))
            .increment(1);
        self.observe(&self.attempt_seconds, ATTEMPT_SECONDS, length);
    }

    /// Counts an event.
    #[inline]
    pub(super) fn event(&self, event: &Event) {
        match *event {
            Event::CallFinished {
                ending, elapsed, ..
            } => {
                let (index, outcome) = outcome(ending);
                self.calls[index]
                    .get(|| self.counter(CALLS, &[("outcome", outcome)]))
                    .increment(1);
                self.observe(&self.call_seconds, CALL_SECONDS, elapsed);
            }
            Event::Rejected { reason, .. } => self.rejected(reason, false),
            Event::WouldReject { reason, .. } => self.rejected(reason, true),
            Event::Waited { waited, .. } => {
                self.observe(&self.queue_seconds, QUEUE_SECONDS, waited);
            }
            Event::RetryStopped { stop, .. } => {
                self.retry_stops[stop_index(stop)]
                    .get(|| self.counter(RETRY_STOPS, &[("stop", stop.as_str())]))
                    .increment(1);
            }
            // The layer `Attempts` counts the attempt.
            Event::RetryScheduled { .. } => {}
            Event::CircuitChanged { change, .. } => {
                let labels = [
                    ("from", change.from.as_str()),
                    ("to", change.to.as_str()),
                    ("cause", change.cause.as_str()),
                ];
                self.counter(CIRCUIT_TRANSITIONS, &labels).increment(1);
            }
            Event::Hedge {
                event: HedgeEvent::Won { .. },
                ..
            } => self.hedged(0, "won"),
            Event::Hedge {
                event: HedgeEvent::Lost { .. },
                ..
            } => self.hedged(1, "lost"),
            Event::Hedge {
                event: HedgeEvent::Saved { .. },
                ..
            } => self.hedged(2, "saved"),
            Event::Endpoint {
                event: EndpointEvent::Ejected { cause, .. },
                ..
            } => self.ejected(cause.as_str(), "true"),
            Event::Endpoint {
                event: EndpointEvent::NotEjected { cause, .. },
                ..
            } => self.ejected(cause.as_str(), "false"),
            _ => {
                let kind = event.kind();
                self.events
                    .get_or_init(|| Box::new(Names::new()))
                    .get((kind, None), |_| self.counter(EVENTS, &[("kind", kind)]))
                    .increment(1);
            }
        }
    }

    fn rejected(&self, reason: Reason, shadow: bool) {
        let label = if shadow { "true" } else { "false" };
        self.rejections[reason as usize * 2 + usize::from(shadow)]
            .get(|| {
                let labels = [("reason", reason.as_str()), ("shadow", label)];
                self.counter(REJECTIONS, &labels)
            })
            .increment(1);
    }

    fn hedged(&self, index: usize, result: &'static str) {
        self.hedges[index]
            .get(|| self.counter(HEDGES, &[("result", result)]))
            .increment(1);
    }

    fn ejected(&self, method: &'static str, enforced: &'static str) {
        self.counter(EJECTIONS, &[("method", method), ("enforced", enforced)])
            .increment(1);
    }
}

const fn outcome(ending: Ending) -> (usize, &'static str) {
    match ending {
        Ending::Succeeded => (0, "ok"),
        Ending::Failed => (1, "error"),
        Ending::TimedOut => (2, "timed_out"),
        Ending::Rejected(_) => (3, "rejected"),
        Ending::Cancelled => (4, "cancelled"),
        Ending::Panicked => (5, "panicked"),
    }
}

const fn stop_index(stop: StopReason) -> usize {
    match stop {
        StopReason::NotRetryable => 0,
        StopReason::NotIdempotent => 1,
        StopReason::NotRepeatable => 2,
        StopReason::MaxAttempts => 3,
        StopReason::MaxElapsed => 4,
        StopReason::Deadline => 5,
        StopReason::HintTooLong => 6,
        StopReason::BudgetEmpty => 7,
        StopReason::Rejected(reason) => STOPS + reason as usize,
    }
}
