//! Replacing a breaker by one that continues its numbers, isolations, health checks, and subscriptions.

use std::sync::Arc;

use super::CircuitBreaker;
use super::hold::{Hold, Holds};
use super::inner::{Inner, Locked};
use super::state::Machine;
use super::transitions::Subscription;
use crate::event::Panics;
use crate::instant::Instant;

impl CircuitBreaker {
    /// Returns the breaker that has replaced this one; this one if none has.
    pub(crate) fn in_force(&self) -> Self {
        let mut breaker = self.clone();
        while let Some(next) = breaker.successor() {
            breaker = next;
        }
        breaker
    }

    pub(super) fn successor(&self) -> Option<Self> {
        let inner = self.inner.read_locked(Locked::successor).flatten()?;
        Some(Self { inner })
    }

    pub(super) fn is_replaced(&self) -> bool {
        self.successor().is_some()
    }

    /// Adds a subscription to this breaker, or to the one that has replaced it.
    pub(super) fn add_subscription(&self, subscription: &Arc<Subscription>) {
        let mut breaker = self.clone();
        loop {
            let added = breaker.inner.with_lock(|locked| {
                // Checked under the lock, where a replacement takes the subscriptions over.
                let next = locked.successor();
                if next.is_none() {
                    locked.subscriptions.add(subscription);
                }
                next
            });
            match added {
                None => return,
                Some(inner) => breaker = Self { inner },
            }
        }
    }

    /// Prepares this breaker to replace `old`: continues its state, numbers, isolations, health checks, and subscriptions.
    pub(crate) fn continue_from(&self, old: &Self) {
        self.inner.base.continue_numbers_of(&old.inner.base);
        // More than a snapshot has: the content of each window, how long health checks must wait, a ramp-up, and when a
        // half-open phase began.
        let former = old.inner.read(Machine::clone);
        let now = self.inner.base.now();
        let windows = old.inner.windows_of(former.packed_state());
        let (rules, of) = (&self.inner.terms().rules, &old.inner.terms().rules);
        self.inner.windows.continue_from(rules, windows, of, now);
        if self.inner.base.shadow == old.inner.base.shadow {
            self.inner.continue_rejections_of(&old.inner);
        }
        self.inner.with_lock(|locked| {
            locked.predecessor = Arc::downgrade(&old.inner);
            locked.machine.continue_from(former);
            self.inner.publish(&mut locked.machine, now);
        });
        self.continue_holds_of(old);
        // Last, because subscribers know that the circuit is isolated.
        self.share_subscriptions_of(old);
    }

    /// Leaves the subscriptions to the breaker that this one was to replace.
    pub(crate) fn abandon(&self) {
        self.detach_subscriptions();
    }

    /// Takes over from `old`, now that no new call finds it: its subscriptions see the transitions of this breaker alone.
    pub(crate) fn take_over_from(&self, old: &Self) {
        old.inner.set_successor(Arc::downgrade(&self.inner));
        let mut panics = Panics::default();
        panics.run(|| self.catch_up_with(old));
        panics.run(|| self.continue_holds_of(old));
        // After the link, so that no subscription is added to the old breaker meanwhile.
        self.share_subscriptions_of(old);
        panics.run(|| old.detach_subscriptions());
        panics.resume();
    }

    /// Continues what has changed in `old` since this breaker was built, such as a manual trip. From now on changes through
    /// a handle of `old` are changes of this breaker.
    fn catch_up_with(&self, old: &Self) {
        let (now, former) = (self.inner.base.now(), old.inner.read(Machine::clone));
        self.inner.base.continue_numbers_of(&old.inner.base);
        self.inner.with_lock(
            |Locked {
                 machine,
                 predecessor,
                 ..
             }| {
                // A breaker that continues a later one knows more.
                let is_predecessor = std::ptr::eq(predecessor.as_ptr(), Arc::as_ptr(&old.inner));
                let trips = former.trips();
                if is_predecessor && machine.catch_up_with(former) {
                    self.inner.restore_progress(machine, trips);
                    self.inner.publish(machine, now);
                }
            },
        );
    }

    /// Removes the subscriptions, which another breaker has too. Wakes their tasks, for health checks to find that one.
    fn detach_subscriptions(&self) {
        let wakers = self.inner.with_lock(|locked| locked.subscriptions.close());
        let mut panics = Panics::default();
        panics.wake(wakers);
        panics.resume();
    }

    /// Adds the isolations and suspensions of `old` to this breaker, where they last as long as there.
    fn continue_holds_of(&self, old: &Self) {
        // An observer that panics ends no other isolation.
        let mut panics = Panics::default();
        for hold in holds(&old.inner, |locked| &locked.suspensions) {
            panics.run(|| self.suspend_with(&hold));
        }
        for hold in holds(&old.inner, |locked| &locked.isolations) {
            panics.run(|| self.isolate_with(&hold));
        }
        panics.resume();
    }

    fn share_subscriptions_of(&self, old: &Self) {
        let active = old.inner.read_locked(|old| old.subscriptions.active());
        for subscription in active.into_iter().flatten() {
            // A concurrent change may have replaced this breaker already.
            self.add_subscription(&subscription);
        }
    }

    /// Isolates the circuit until the hold ends.
    pub(super) fn isolate_with(&self, hold: &Arc<Hold>) {
        let add = |locked: &mut Locked| locked.isolations.add(hold);
        self.hold(hold, add, Machine::isolate, Machine::end_isolation);
    }

    /// Suspends probes until the hold ends.
    pub(super) fn suspend_with(&self, hold: &Arc<Hold>) {
        let add = |locked: &mut Locked| locked.suspensions.add(hold);
        self.hold(
            hold,
            add,
            |machine, _| machine.suspend_probes(),
            |machine, _| machine.resume_probes(),
        );
    }

    /// Begins a hold, unless `add` finds that it has begun before.
    fn hold(
        &self,
        hold: &Hold,
        add: impl FnOnce(&mut Locked) -> bool,
        begin: fn(&mut Machine, Instant),
        end: fn(&mut Machine, Instant),
    ) {
        let now = self.inner.base.now();
        if !self.inner.with_lock(add) {
            return;
        }
        let breaker = self.clone();
        hold.on_end(move || breaker.change_in_drop(end));
        self.inner
            .with_machine(None, now, |machine| begin(machine, now));
    }
}

/// Returns the holds of one kind that have not ended. Dropping the last handle of one runs user code.
fn holds(inner: &Inner, of: impl FnOnce(&Locked) -> &Holds) -> Vec<Arc<Hold>> {
    let active = inner.read_locked(|locked| of(locked).active());
    active.unwrap_or_default()
}
