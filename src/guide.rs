//! Longer pages: shapes to copy, and why things are as they are.
//!
//! Their examples are tests like those of any other page.

#[doc = include_str!("../docs/recipes.md")]
#[cfg(feature = "tokio")]
pub mod recipes {}

#[doc = include_str!("../docs/design.md")]
pub mod design {}

#[doc = include_str!("../docs/patterns/retry.md")]
#[cfg(feature = "tokio")]
pub mod retry {}

#[doc = include_str!("../docs/patterns/timeout.md")]
#[cfg(feature = "tokio")]
pub mod timeout {}
