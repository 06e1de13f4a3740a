//! Longer pages: recipes, choices, pitfalls, and migration. Their examples are tests.

#[doc = include_str!("../docs/recipes.md")]
#[cfg(feature = "tokio")]
pub mod recipes {}

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

/// Migration from other libraries: code side by side, equivalents, and differences.
pub mod migrate {
    #[doc = include_str!("../docs/migrate/governor.md")]
    #[cfg(feature = "tokio")]
    pub mod governor {}

    #[doc = include_str!("../docs/migrate/backon.md")]
    #[cfg(feature = "tokio")]
    pub mod backon {}

    #[doc = include_str!("../docs/migrate/tokio-retry-and-backoff.md")]
    #[cfg(feature = "tokio")]
    pub mod tokio_retry_and_backoff {}

    #[doc = include_str!("../docs/migrate/failsafe.md")]
    #[cfg(feature = "tokio")]
    pub mod failsafe {}

    #[doc = include_str!("../docs/migrate/tower.md")]
    #[cfg(all(feature = "http", feature = "tokio", feature = "tower"))]
    pub mod tower {}

    #[doc = include_str!("../docs/migrate/tower-resilience.md")]
    #[cfg(feature = "tokio")]
    pub mod tower_resilience {}

    // The examples need reqwest, so they are tests of the package with the recipes.
    #[doc = include_str!("../docs/migrate/reqwest-retry.md")]
    #[cfg(all(feature = "http", feature = "tokio", not(doctest)))]
    pub mod reqwest_retry {}

    #[doc = include_str!("../docs/migrate/tower_governor.md")]
    #[cfg(all(feature = "http", feature = "tokio", feature = "tower"))]
    pub mod tower_governor {}

    #[doc = include_str!("../docs/migrate/semaphore.md")]
    #[cfg(feature = "tokio")]
    pub mod semaphore {}
}
