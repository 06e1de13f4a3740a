//! Manual isolation of a circuit.

use std::fmt;
use std::sync::{Arc, Mutex, Weak};

use super::{CircuitBreaker, state};
use crate::event::Panics;
use crate::sync::lock;

/// Isolates a circuit until it is dropped. Returned by [`CircuitBreaker::isolate`].
///
/// Breakers that replace this one in a [`Standard`](crate::Standard) stay isolated as well.
#[must_use = "dropping it ends the isolation"]
pub struct Isolation {
    hold: Arc<Hold>,
}

/// Keeps circuits isolated: the first one, and those that replaced it.
pub(super) struct Hold {
    breakers: Mutex<Vec<CircuitBreaker>>,
}

/// The isolations of a circuit that have not ended.
#[derive(Default)]
pub(super) struct Isolations(Vec<Weak<Hold>>);

impl Isolations {
    pub(super) fn add(&mut self, hold: &Arc<Hold>) {
        self.0.retain(|hold| hold.strong_count() > 0);
        self.0.push(Arc::downgrade(hold));
    }

    pub(super) fn active(&self) -> Vec<Arc<Hold>> {
        self.0.iter().filter_map(Weak::upgrade).collect()
    }
}

impl CircuitBreaker {
    /// Rejects all calls until the returned handle, and every other one, is dropped. Then the breaker continues
    /// in the state it was in; a half-open circuit starts its probes again.
    ///
    /// Results of calls that were in flight are ignored.
    ///
    /// # Examples
    ///
    /// ```
    /// use backstop::{CircuitBreaker, ManualClock, Reason};
    ///
    /// let breaker = CircuitBreaker::builder().clock(ManualClock::new()).build()?;
    /// let maintenance = breaker.isolate();
    /// assert_eq!(breaker.try_acquire().unwrap_err().reason(), Reason::Isolated);
    /// drop(maintenance);
    /// assert!(breaker.try_acquire().is_ok());
    /// # Ok::<(), backstop::ConfigError>(())
    /// ```
    pub fn isolate(&self) -> Isolation {
        // Created first, so the isolation ends if an observer panics.
        let hold = Arc::new(Hold {
            breakers: Mutex::new(Vec::new()),
        });
        self.isolate_until_end_of(&hold);
        Isolation { hold }
    }

    /// Isolates the circuit until the isolations of `old` end.
    pub(crate) fn continue_isolations_of(&self, old: &Self) {
        for hold in old.inner.isolations() {
            self.isolate_until_end_of(&hold);
        }
    }

    fn isolate_until_end_of(&self, hold: &Arc<Hold>) {
        let now = self.inner.base.now();
        let breaker = self.clone();
        lock(&hold.breakers).push(breaker);
        self.inner.add_isolation(hold);
        self.inner
            .with_machine(None, now, |machine| machine.isolate(now));
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        let mut panics = Panics::default();
        for breaker in std::mem::take(&mut *lock(&self.breakers)) {
            panics.run(|| breaker.change_in_drop(state::Machine::end_isolation));
        }
        panics.resume();
    }
}

impl fmt::Debug for Isolation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let breaker = lock(&self.hold.breakers).first().cloned();
        f.debug_struct("Isolation")
            .field("breaker", &breaker)
            .finish()
    }
}
