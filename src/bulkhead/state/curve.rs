//! Steps that grow more slowly than the limit, for the curves of [`Vegas`](super::limit::Vegas) and of user-defined
//! algorithms.
//!
//! From Netflix's concurrency-limits (`Log10RootFunction` and `SquareRootFunction`).

/// Returns `⌊log10(limit)⌋`, at least 1: the default step of Vegas.
#[must_use]
pub fn log10(limit: u32) -> f64 {
    f64::from(limit.max(1).ilog10().max(1))
}

/// Returns `⌊√limit⌋`, at least `floor`.
#[must_use]
pub fn sqrt(limit: u32, floor: u32) -> u32 {
    limit.isqrt().max(floor)
}
