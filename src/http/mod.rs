#![cfg_attr(feature = "tokio", doc = include_str!("../../docs/http.md"))]
#![cfg_attr(
    not(feature = "tokio"),
    doc = "Verdicts, headers, and replayable bodies of HTTP."
)]

pub mod attempt;
mod classify;
mod date;
pub mod deadline;
mod dialects;
pub mod grpc;
pub mod idempotency;
pub mod rate_limit;
mod replay;
pub mod retry_after;
mod structured;
mod value;
mod verdict;

pub use self::classify::{
    ByHead, ClassifyResponses, ClassifyingResponses, HeadOf, Heads, OfResponse,
};
pub use self::replay::{Replay, ReplayBody};
pub use self::verdict::{Idempotence, call_options, hint, transport_error, verdict};
