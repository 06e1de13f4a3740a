//! Longer pages: recipes, patterns, pitfalls, and design decisions. Their examples are tests.

#[doc = include_str!("../docs/recipes.md")]
#[cfg(feature = "tokio")]
pub mod recipes {}

#[doc = include_str!("../docs/patterns/circuit-breaker.md")]
#[cfg(feature = "tokio")]
pub mod circuit_breaker {}

#[doc = include_str!("../docs/design.md")]
pub mod design {}

#[doc = include_str!("../docs/pitfalls.md")]
pub mod pitfalls {}

// The first page defines the picture as an inline image, because rustdoc copies no image files.
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
