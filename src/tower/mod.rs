#![cfg_attr(
    all(feature = "tokio", feature = "http"),
    doc = include_str!("../../docs/tower.md")
)]
#![cfg_attr(
    not(all(feature = "tokio", feature = "http")),
    doc = "Layers for tower services. The page is complete with the features `http` and `tokio`."
)]

#[cfg(feature = "http")]
mod answer;
#[cfg(feature = "http")]
mod bulkhead;
pub mod key;
mod keyed;
mod layer;
mod no_key;
mod operation;
#[cfg(feature = "http")]
mod rate_limit;
#[cfg(feature = "http")]
mod replay;
mod request_methods;
mod requests;
#[cfg(feature = "http")]
mod respond;

#[cfg(feature = "http")]
pub use self::answer::{Answer, AnswerWith, Answers};
#[cfg(feature = "http")]
pub use self::bulkhead::{BulkheadLayer, BulkheadService, HeldBody, Hold};
pub use self::key::ExtractKey;
pub use self::keyed::{KeyedLayer, KeyedService};
pub use self::layer::{PolicyLayer, PolicyService, ServiceFuture};
pub use self::no_key::NoKey;
pub use self::operation::{ServiceAttempt, ServiceCall, ServicePolicy};
#[cfg(feature = "http")]
pub use self::rate_limit::{RateLimitLayer, RateLimitService};
#[cfg(feature = "http")]
pub use self::replay::Replayable;
pub use self::requests::{By, Cloned, OnAttempt, OnCall, Once, Requests, WithOptions};
#[cfg(feature = "http")]
pub use self::respond::{RespondFuture, RespondLayer, RespondService};
