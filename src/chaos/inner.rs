//! State shared by the clones of an injector and its switches.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex};

use super::snapshot::Snapshot;
use super::state::{Fault, Latency, State};
use crate::base::Base;
use crate::policy::Context;
use crate::rng::SharedRng;

/// A user's function that runs before a call.
pub(super) type Behavior = dyn Fn() -> BoxedBehavior + Send + Sync;
pub(super) type BoxedBehavior = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Selects the calls that may get faults.
pub(super) type CallFilter = dyn Fn(&Context) -> bool + Send + Sync;

pub(super) struct Inner {
    pub(super) base: Base,
    pub(super) state: State,
    /// The range of delays. Both ends change together.
    pub(super) latency: Mutex<Latency>,
    pub(super) behavior: Option<Arc<Behavior>>,
    pub(super) only: Option<Arc<CallFilter>>,
    /// Whether each fault can be injected: errors and results need a function that makes them.
    pub(super) possible: [bool; 4],
    /// Held while rates are checked and set.
    pub(super) setting: Mutex<()>,
    pub(super) rng: SharedRng,
}

impl Inner {
    pub(super) fn snapshot(&self) -> Snapshot {
        let counts = self.state.counts();
        let [latency, behavior, error, result] = counts.injected;
        Snapshot {
            name: self.base.name,
            enabled: self.state.is_on(),
            rates: Fault::ALL.map(|fault| (fault, self.state.rate(fault))),
            max_share: self.state.max_share(),
            calls: counts.calls,
            latency,
            behavior,
            error,
            result,
            capped: counts.capped,
        }
    }
}
