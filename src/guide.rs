//! Longer pages: shapes to copy, and why things are as they are.
//!
//! Their examples are tests like those of any other page.

#[doc = include_str!("../docs/recipes.md")]
#[cfg(feature = "tokio")]
pub mod recipes {}

#[doc = include_str!("../docs/patterns/circuit-breaker.md")]
#[cfg(feature = "tokio")]
pub mod circuit_breaker {}

#[doc = include_str!("../docs/design.md")]
pub mod design {}

// The first line gives the page the picture, which rustdoc has no other place for.
#[doc = include_str!("../docs/patterns/rate-limiter.svg.md")]
#[doc = include_str!("../docs/patterns/rate-limiter.md")]
pub mod rate_limiter {}

#[doc = include_str!("../docs/patterns/retry.md")]
#[cfg(feature = "tokio")]
pub mod retry {}

#[doc = include_str!("../docs/patterns/throttle.md")]
pub mod throttle {}

#[doc = include_str!("../docs/patterns/timeout.md")]
#[cfg(feature = "tokio")]
pub mod timeout {}

#[doc = include_str!("../docs/ordering.md")]
#[cfg(feature = "tokio")]
pub mod ordering {}

#[doc = include_str!("../docs/choosing.md")]
pub mod choosing {}

#[doc = include_str!("../docs/testing.md")]
#[cfg(feature = "tokio")]
pub mod testing {}
