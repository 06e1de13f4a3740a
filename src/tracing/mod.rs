//! Spans and log lines for the crate [`tracing`](https://docs.rs/tracing).
//!
//! [`EventLog`] is an [`Observer`](crate::Observer) that writes events as log lines; [`CallSpan`] and [`AttemptSpan`]
//! are layers that open a span for each call and for each attempt, so that the spans of an HTTP client are children of
//! their attempt.
//!
//! ```
//! use backstop::tracing::{AttemptSpan, CallSpan, EventLog};
//! use backstop::{ManualClock, Pipeline, Policy, Retry};
//!
//! let clock = ManualClock::new();
//! let stack = (
//!     CallSpan::new("github"), // the outermost layer
//!     Retry::builder().clock(clock.clone()).build()?,
//!     AttemptSpan::new("github"), // next to the operation
//! );
//! let pipeline = Pipeline::new(stack).with_name("github").observer(EventLog::new());
//!
//! let answer = clock.block_on(pipeline.call(|| async { Ok::<_, ()>(7) }));
//! assert_eq!(answer, Ok(7));
//! # Ok::<(), backstop::ConfigError>(())
//! ```
//!
//! # Levels
//!
//! | events | level |
//! |---|---|
//! | a letter that could not be stored | ERROR |
//! | changes of a circuit, ejected endpoints, lost letters and stores | WARN |
//! | rejections, also of shadow mode, as summaries | WARN |
//! | endpoints and stores that are back, replays of letters | INFO |
//! | retries, timeouts, hedges, fallbacks, limits | DEBUG |
//! | ends of calls, waits, shared calls | TRACE |
//!
//! [`EventLog::level`] changes them.
//!
//! # Rejections are summarized
//!
//! The first rejection of a policy for a reason is written at once. After that, one line a second has their number. Each
//! pair of policy and reason has lines of its own, apart for each pipeline and for shadow mode: one policy that rejects
//! without end hides no other.
//! The last summary is written by the next event after it is due, by [`EventLog::flush`], or when the last clone is
//! dropped.

mod level;
mod log;
mod span;
mod state;

pub use self::level::level;
pub use self::log::EventLog;
pub use self::span::{AttemptSpan, CallSpan};
