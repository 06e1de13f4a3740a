#![cfg_attr(feature = "tokio", doc = include_str!("../../docs/patterns/chaos.md"))]
#![cfg_attr(
    not(feature = "tokio"),
    doc = "Injects faults, to test how a stack handles them."
)]

use std::fmt;
use std::sync::Arc;

mod config;
mod inner;
mod make;
mod policy;
mod snapshot;
mod state;
mod switch;

pub use self::config::ChaosBuilder;
pub use self::make::{Makes, NoFault};
pub use self::snapshot::Snapshot;
pub use self::state::{Fault, Latency};
pub use self::switch::Switch;

use self::inner::Inner;

/// Injects faults into a share of the calls. See the [module page](self).
///
/// `E` makes errors and `R` makes results, if the builder got functions for that. Clones share switch, cap, and
/// counters.
#[derive(Clone)]
pub struct Chaos<E = NoFault, R = NoFault> {
    inner: Arc<Inner>,
    error: E,
    result: R,
}

impl<E, R> Chaos<E, R> {
    /// Returns the name in events.
    pub fn name(&self) -> &'static str {
        self.inner.base.name
    }

    /// Returns the handle that changes the injector while calls run.
    pub fn switch(&self) -> Switch {
        Switch::new(self.inner.clone())
    }

    /// Returns a snapshot of the injector. Changes nothing.
    pub fn snapshot(&self) -> Snapshot {
        self.inner.snapshot()
    }
}

impl<E, R> fmt::Debug for Chaos<E, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Chaos")
            .field("name", &self.name())
            .field("enabled", &self.inner.state.is_on())
            .finish_non_exhaustive()
    }
}
