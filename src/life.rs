//! How a call counts when its permit ends.

use std::thread;

use crate::verdict::Health;

/// Whether a call still runs, and how it counts if its permit is dropped. Shared by the permits of breakers and
/// throttles.
///
/// A whole word, because a byte store would stall a later wide load of its surroundings.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Life(u64);

impl Life {
    /// The call panicked.
    const PANICKED: u64 = 1;
    /// A panic of the thread says nothing about the call.
    const IGNORES_PANICS: u64 = 2;
    /// The result has been recorded.
    const OVER: u64 = 4;

    /// Returns the life of a permit in user code: a panic of the thread counts as one of the call, unless the thread
    /// panicked already when the permit was given.
    #[inline(always)]
    pub(crate) fn of_handle() -> Self {
        Self::new(thread::panicking())
    }

    /// Returns the life of a permit in a policy, which observes panics of the call directly.
    #[inline(always)]
    pub(crate) const fn of_policy() -> Self {
        Self::new(true)
    }

    #[inline(always)]
    const fn new(ignores_panics: bool) -> Self {
        Self(if ignores_panics {
            Self::IGNORES_PANICS
        } else {
            0
        })
    }

    /// Marks that the call panicked.
    pub(crate) const fn panicked(&mut self) {
        self.0 |= Self::PANICKED;
    }

    /// Ends the call. Returns whether it had not ended yet.
    #[inline(always)]
    pub(crate) const fn end(&mut self) -> bool {
        let first = self.0 & Self::OVER == 0;
        self.0 |= Self::OVER;
        first
    }

    /// Moves the state to another permit; this one counts as ended.
    #[inline(always)]
    pub(crate) const fn take(&mut self) -> Self {
        let life = Self(self.0);
        self.0 = Self::OVER;
        life
    }

    /// Returns whether the call has ended.
    #[inline(always)]
    pub(crate) const fn is_over(&self) -> bool {
        self.0 & Self::OVER != 0
    }

    /// Returns the health to record for a call whose permit is dropped without a result.
    pub(crate) fn dropped_as(&self, cancelled: Health, panicked: Health) -> Health {
        let by_thread = self.0 & Self::IGNORES_PANICS == 0 && thread::panicking();
        if self.0 & Self::PANICKED != 0 || by_thread {
            panicked
        } else {
            cancelled
        }
    }
}
