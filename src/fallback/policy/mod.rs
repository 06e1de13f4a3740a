//! Fallbacks around an operation.

mod fallback;
mod stale;
