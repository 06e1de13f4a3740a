//! State shared by the clones of a throttle.

use super::state::State;
use crate::base::Base;
use crate::rng::SharedRng;
use crate::sync::AtomicU64;
use crate::verdict::Health;

pub(super) struct Inner {
    pub(super) base: Base,
    pub(super) settings: Settings,
    pub(super) state: State,
    pub(super) rng: SharedRng,
    /// Rejections, or in shadow mode calls that would have been rejected.
    pub(super) rejections: AtomicU64,
}

pub(super) struct Settings {
    pub(super) count_rejected: bool,
    pub(super) cancelled_as: Health,
    pub(super) panicked_as: Health,
}

impl Inner {
    pub(super) fn new(base: Base, settings: Settings, state: State, seed: Option<u64>) -> Self {
        Self {
            base,
            settings,
            state,
            rng: SharedRng::new(seed),
            rejections: AtomicU64::new(0),
        }
    }
}
