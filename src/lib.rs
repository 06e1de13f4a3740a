//! Resilience for async Rust.
#![cfg_attr(docsrs, feature(doc_cfg))]

pub mod backoff;
pub mod budget;
mod clock;
pub mod deadline;
mod error;
pub mod observe;
pub mod policy;
pub mod retry;
mod rng;
mod sync;
pub mod timeout;

pub use self::backoff::{Backoff, Jitter};
pub use self::budget::RetryBudget;
#[cfg(feature = "fast-clock")]
pub use self::clock::FastClock;
#[cfg(feature = "tokio")]
pub use self::clock::TokioClock;
pub use self::clock::{BlockingClock, Clock, ClockHandle, Instant, ManualClock, Sleep};
pub use self::error::{ConfigError, Error, Reason, Rejected, TimedOut};
pub use self::observe::{Event, Observer};
pub use self::policy::{
    Attempt, CallOptions, Classify, ClassifyErrors, Context, Operation, Outcome, Pipeline, Policy,
    Priority, Report, Verdict,
};
pub use self::retry::{HintRule, Retry};
pub use self::timeout::Timeout;
