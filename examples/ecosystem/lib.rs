//! Recipes for backstop with other crates: see the examples of this package.
//!
//! The pages of `docs/migrate` are tests here: our code, and the code of the peers, which the library's own tests
//! ignore.

/// The code of a page.
macro_rules! pages {
    ($($name:ident $page:literal,)*) => {$(
        #[cfg(doctest)]
        #[doc = include_str!(concat!("../../docs/migrate/", $page))]
        mod $name {}
    )*};
}

pages! {
    backon "backon.md",
    failsafe "failsafe.md",
    governor "governor.md",
    reqwest_retry "reqwest-retry.md",
    semaphore "semaphore.md",
    tokio_retry_and_backoff "tokio-retry-and-backoff.md",
    tower "tower.md",
    tower_governor "tower_governor.md",
    tower_resilience "tower-resilience.md",
}
