//! Longer pages: recipes, patterns, pitfalls, and design decisions. Their examples are tests.

#[doc = include_str!("../docs/recipes.md")]
#[cfg(feature = "tokio")]
pub mod recipes {}

#[doc = include_str!("../docs/design.md")]
pub mod design {}

#[doc = include_str!("../docs/pitfalls.md")]
pub mod pitfalls {}

#[doc = include_str!("../docs/ordering.md")]
#[cfg(feature = "tokio")]
pub mod ordering {}

#[doc = include_str!("../docs/choosing.md")]
pub mod choosing {}

#[doc = include_str!("../docs/testing.md")]
#[cfg(feature = "tokio")]
pub mod testing {}

#[doc = include_str!("../docs/observability.md")]
#[cfg(all(feature = "metrics", feature = "tracing"))]
pub mod observability {}
