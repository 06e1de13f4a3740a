//! State shared by the clones of a breaker: atomics for the fast path, and the state machine behind a lock.

use std::sync::{Arc, OnceLock, Weak};
use std::task::Waker;
use std::time::Duration;

use super::hold::Holds;
use super::settings::{Break, Settings, Terms};
use super::snapshot::Snapshot;
use super::state::{BreakLength, Machine, PackedState, PendingOpening, WindowSet};
use super::transitions::Subscriptions;
use crate::backoff::Progress;
use crate::base::Base;
use crate::event::{Event, Observer, Panics, State, Transition};
use crate::instant::Instant;
use crate::rng::SharedRng;
use crate::striped::StripedCounter;
use crate::sync::{AtomicU64, Mutex, Ordering, lock_checked};
use crate::versions::{Next, Versions};
use crate::window::Counts;

pub(super) struct Inner {
    /// A [`PackedState`].
    state: AtomicU64,
    /// When the break or the ramp-up ends, in nanoseconds.
    pub(super) until: AtomicU64,
    pub(super) base: Base,
    /// The terms that the breaker was built with.
    first: Terms,
    /// All terms so far, the first ones included. Allocated when they change.
    changed: OnceLock<Box<Versions<Terms>>>,
    /// The first of two window sets, which alternate: a thread that is about to record a result of an older
    /// generation does not record it into the new windows.
    pub(super) windows: WindowSet,
    /// Allocated when the circuit closes for the first time.
    second_windows: OnceLock<Box<WindowSet>>,
    /// Allocated by the first change or subscription. Until then the machine is equal to a new one.
    locked: Mutex<Option<Box<Locked>>>,
    built_at: Instant,
    pub(super) rng: SharedRng,
    /// Rejections since the last change of state. Allocated when the circuit first opens.
    pub(super) rejections: OnceLock<StripedCounter>,
}

/// State behind the lock.
pub(super) struct Locked {
    pub(super) machine: Machine,
    pub(super) subscriptions: Subscriptions,
    pub(super) isolations: Holds,
    /// Health checks that run.
    pub(super) suspensions: Holds,
    /// The breaker that has replaced this one.
    pub(super) successor: Option<Weak<Inner>>,
    /// The breaker that this one replaces.
    pub(super) predecessor: Weak<Inner>,
}

impl Locked {
    /// Returns the breaker that has replaced this one.
    pub(super) fn successor(&self) -> Option<Arc<Inner>> {
        self.successor.as_ref()?.upgrade()
    }
}

/// Notifications to send after a change, once the lock is released.
#[derive(Default)]
pub(super) struct Notifications {
    wakers: Vec<Waker>,
    /// Transitions and the sequence numbers of their events.
    transitions: Vec<(Transition, u64)>,
}

impl Inner {
    pub(super) fn new(
        base: Base,
        terms: Terms,
        seed: Option<u64>,
        restore: Option<&Snapshot>,
    ) -> Self {
        let now = base.now();
        let inner = Self {
            state: AtomicU64::new(0),
            until: AtomicU64::new(0),
            base,
            windows: WindowSet::new(&terms.rules, now),
            first: terms,
            changed: OnceLock::new(),
            second_windows: OnceLock::new(),
            locked: Mutex::new(None),
            built_at: now,
            rng: SharedRng::new(seed),
            rejections: OnceLock::new(),
        };
        match restore {
            Some(snapshot) => inner.restore(snapshot, now),
            None => inner.publish(&mut inner.new_machine(), now),
        }
        inner
    }

    fn restore(&self, snapshot: &Snapshot, now: Instant) {
        self.with_lock(|Locked { machine, .. }| {
            let rest = snapshot.retry_after.unwrap_or(Duration::MAX);
            machine.restore(snapshot.underlying, snapshot.consecutive_trips, rest, now);
            self.restore_progress(machine, snapshot.consecutive_trips);
            if matches!(snapshot.underlying, State::Closed | State::MetricsOnly) {
                let consecutive = u64::from(snapshot.consecutive_failures);
                self.windows
                    .restore(&self.first.rules, snapshot.counts(), consecutive, now);
            }
            self.publish(machine, now);
        });
    }

    /// Continues the backoff after this many consecutive openings.
    pub(super) fn restore_progress(&self, machine: &mut Machine, trips: u32) {
        if let Break::Backoff(backoff) = self.first.break_for() {
            machine.set_progress(Progress::after(backoff, trips, || self.rng.unit()));
        }
    }

    fn new_machine(&self) -> Machine {
        let settings = self.settings();
        Machine::new(settings.half_open, settings.ramp_up, self.built_at)
    }

    /// Runs `act` under the lock, where no user code may run.
    pub(super) fn with_lock<R>(&self, act: impl FnOnce(&mut Locked) -> R) -> R {
        let mut guard = lock_checked(&self.locked);
        let locked = guard.get_or_insert_with(|| {
            Box::new(Locked {
                machine: self.new_machine(),
                subscriptions: Subscriptions::default(),
                isolations: Holds::default(),
                suspensions: Holds::default(),
                successor: None,
                predecessor: Weak::new(),
            })
        });
        act(locked)
    }

    /// Returns the terms in force.
    #[inline]
    pub(super) fn terms(&self) -> &Terms {
        match self.changed.get() {
            None => &self.first,
            Some(versions) => versions.current(),
        }
    }

    pub(super) fn settings(&self) -> &Settings {
        self.terms().settings()
    }

    /// Returns whether calls must be timed, which never changes.
    #[inline]
    pub(super) const fn needs_clock(&self) -> bool {
        self.first.rules.needs_clock()
    }

    /// Puts other terms in force, which must fit the windows. Windows, breaks, and probes in flight continue.
    ///
    /// Keeps each version of the terms until the breaker is dropped.
    pub(super) fn set_terms(&self, terms: Terms) {
        debug_assert!(terms.rules.fit_windows_of(&self.first.rules));
        if *self.terms() == terms {
            return;
        }
        let versions = self
            .changed
            .get_or_init(|| Box::new(Versions::new(self.first.clone())));
        let mut next = Next::New(Box::new(terms));
        loop {
            let base = versions.index();
            if let Next::New(terms) = &next {
                if let Some(index) = versions.find(|old| old == &**terms) {
                    next = Next::Again(index);
                }
            }
            match versions.replace(base, next) {
                Ok(()) => break,
                Err(again) => next = again,
            }
        }
        // Of several concurrent changes, the last one to take the lock reads the terms in force.
        if let Some(locked) = &mut *lock_checked(&self.locked) {
            let settings = self.settings();
            locked
                .machine
                .set_rules(settings.half_open, settings.ramp_up);
        }
        self.windows.forget_reported();
        self.second_windows().forget_reported();
    }

    #[inline]
    pub(super) fn packed_state(&self, order: Ordering) -> PackedState {
        PackedState::from_bits(self.state.load(order))
    }

    /// Returns the state as last decided.
    pub(super) fn state(&self) -> State {
        // Acquire: a thread that observes a state also observes what led to it.
        self.packed_state(Ordering::Acquire).state()
    }

    #[inline]
    pub(super) fn windows_of(&self, state: PackedState) -> &WindowSet {
        if state.uses_first_windows() {
            &self.windows
        } else {
            self.second_windows()
        }
    }

    #[cold]
    fn second_windows(&self) -> &WindowSet {
        let second = self.second_windows.get();
        second.map_or(&self.windows, |second| second)
    }

    /// Reads the clock. Cold, because only timed calls need it.
    #[cold]
    #[inline(never)]
    pub(super) fn now(&self) -> Instant {
        self.base.clock.now()
    }

    /// Opens the circuit. Returns `false` if it has changed since the opening was decided.
    ///
    /// If computing the length of the break panics, the opening stays pending until the next call.
    pub(super) fn open(
        &self,
        opening: PendingOpening,
        hint: Option<Duration>,
        observer: Option<&dyn Observer>,
        now: Instant,
    ) -> bool {
        let length = self.break_length(&opening, hint);
        self.with_machine(observer, now, |machine| machine.open(opening, length))
    }

    /// Computes the length of a break. Runs user code.
    pub(super) fn break_length(
        &self,
        opening: &PendingOpening,
        hint: Option<Duration>,
    ) -> BreakLength {
        let mut progress = opening.progress;
        let terms = self.terms();
        let length = match terms.break_for() {
            Break::Backoff(backoff) => progress.next(backoff, || self.rng.unit()),
            Break::Custom(length) => length(opening.trips, opening.rate),
        };
        let hint = hint.unwrap_or_default().min(terms.settings().max_hint);
        BreakLength {
            length: length.max(hint),
            without_checks: hint,
            progress,
        }
    }

    /// Changes the machine and reports the transitions.
    pub(super) fn with_machine<R>(
        &self,
        observer: Option<&dyn Observer>,
        now: Instant,
        change: impl FnOnce(&mut Machine) -> R,
    ) -> R {
        let (result, notifications) = self.change(observer, now, change);
        self.notify(notifications, observer).resume();
        result
    }

    /// Like [`with_machine`](Self::with_machine), but returns the breaker that has replaced this one if there is one. Then
    /// nothing has changed.
    pub(super) fn with_machine_in_force<R>(
        &self,
        now: Instant,
        change: impl FnOnce(&mut Machine) -> R,
    ) -> Result<R, Arc<Self>> {
        // Checked under the lock, because a replacement reads what was changed before.
        let change = |locked: &mut Locked| match locked.successor() {
            None => Ok(change(&mut locked.machine)),
            Some(next) => Err(next),
        };
        let (result, notifications) = self.change_locked(None, now, change);
        self.notify(notifications, None).resume();
        result
    }

    /// Changes the machine. The caller must report the returned notifications.
    pub(super) fn change<R>(
        &self,
        observer: Option<&dyn Observer>,
        now: Instant,
        change: impl FnOnce(&mut Machine) -> R,
    ) -> (R, Notifications) {
        self.change_locked(observer, now, |locked| change(&mut locked.machine))
    }

    fn change_locked<R>(
        &self,
        observer: Option<&dyn Observer>,
        now: Instant,
        change: impl FnOnce(&mut Locked) -> R,
    ) -> (R, Notifications) {
        let mut notifications = Notifications::default();
        let is_observed = self.base.has_observer(observer);
        let result = self.with_lock(|locked| {
            let result = change(locked);
            let machine = &mut locked.machine;
            self.publish(machine, now);
            for transition in machine.take_transitions() {
                locked
                    .subscriptions
                    .push(transition, &mut notifications.wakers);
                if is_observed {
                    let sequence = self.base.number();
                    notifications.transitions.push((transition, sequence));
                }
            }
            result
        });
        (result, notifications)
    }

    /// Wakes subscribers and calls observers. Collects their panics, so every one of them is notified.
    pub(super) fn notify(
        &self,
        notifications: Notifications,
        observer: Option<&dyn Observer>,
    ) -> Panics {
        let mut panics = Panics::default();
        panics.wake(notifications.wakers);
        for (change, sequence) in notifications.transitions {
            let event = Event::CircuitChanged {
                policy: self.base.name,
                pipeline: None,
                change,
                sequence,
            };
            self.base.report_in(&mut panics, event, observer);
        }
        panics
    }

    /// Updates the atomics from the machine. The lock must be held.
    pub(super) fn publish(&self, machine: &mut Machine, now: Instant) {
        let state = machine.packed_state();
        if machine.take_switched_windows() {
            let second = || Box::new(WindowSet::new(&self.first.rules, now));
            self.second_windows.get_or_init(second);
            self.windows_of(state).clear(now);
        }
        if machine.take_entered_phase() {
            if let Some(rejections) = self.rejections.get() {
                rejections.clear();
            }
        }
        if !state.admits_all() {
            // Allocated here, so that rejections do not allocate.
            self.rejections.get_or_init(StripedCounter::new);
        }
        // Release, both: pairs with the loads of the fast path. `until` is stored first, so a thread that
        // observes an open circuit also observes when its break ends.
        self.until
            .store(machine.until().as_nanos(), Ordering::Release);
        let replaced = self.packed_state(Ordering::Relaxed).is_replaced();
        let state = state.timed(self.needs_clock()).replaced(replaced);
        self.state.store(state.bits(), Ordering::Release);
    }

    /// Names the breaker that has replaced this one.
    pub(super) fn set_successor(&self, successor: Weak<Self>) {
        self.with_lock(|locked| {
            locked.successor = Some(successor);
            // Under the lock, as in `publish`.
            let state = self.packed_state(Ordering::Relaxed).replaced(true);
            self.state.store(state.bits(), Ordering::Release);
        });
    }

    /// Continues the number of rejections since the state changed, before the first call.
    pub(super) fn continue_rejections_of(&self, old: &Self) {
        let rejections = old.rejections.get().map_or(0, StripedCounter::sum);
        if rejections > 0 {
            self.rejections
                .get_or_init(StripedCounter::new)
                .add(rejections);
        }
    }

    /// Reads the machine under the lock, where no user code may run.
    pub(super) fn read<R>(&self, read: impl FnOnce(&Machine) -> R) -> R {
        match &*lock_checked(&self.locked) {
            Some(locked) => read(&locked.machine),
            None => read(&self.new_machine()),
        }
    }

    /// Reads what is behind the lock; `None` if nothing has changed yet.
    pub(super) fn read_locked<R>(&self, read: impl FnOnce(&Locked) -> R) -> Option<R> {
        lock_checked(&self.locked).as_deref().map(read)
    }

    /// Returns the time from which the breaker may be evicted if no call comes: its windows contain no failure that a
    /// rule can still see, and its break is over. `None` while a subscription, a probe, or a manual change lasts.
    pub(super) fn evictable_at(&self, now: Instant) -> Option<Instant> {
        if self.read_locked(|locked| locked.subscriptions.is_empty()) == Some(false) {
            return None;
        }
        let horizon = self.terms().rules.horizon();
        self.read(|machine| {
            let windows = self.windows_of(machine.packed_state());
            let machine_at = machine.forgettable_at(horizon, now)?;
            Some(machine_at.max(windows.forgettable_at(horizon, now)))
        })
    }

    /// Returns the counts of the window, or of the probes that led to the current state, and the number of
    /// calls that a rate of them needs.
    pub(super) fn counts(&self, machine: &Machine, now: Instant) -> (Counts, u64) {
        match machine.probe_results() {
            Some(results) => (results, u64::from(machine.max_probe_results())),
            None => {
                let windows = self.windows_of(machine.packed_state());
                (windows.counts(now), self.terms().rules.min_calls())
            }
        }
    }

    pub(super) fn consecutive_failures(&self, machine: &Machine) -> u64 {
        self.windows_of(machine.packed_state()).consecutive()
    }

    #[cfg(all(test, not(backstop_loom)))]
    pub(super) fn is_unlocked(&self) -> bool {
        self.locked.try_lock().is_ok()
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        let Some(mut locked) = lock_checked(&self.locked).take() else {
            return;
        };
        let mut panics = Panics::default();
        panics.wake(locked.subscriptions.close());
        panics.resume();
    }
}
