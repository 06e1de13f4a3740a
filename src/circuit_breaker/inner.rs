//! State shared by the clones of a breaker: the fast path in atomics, the rest behind a lock.

use std::fmt;
use std::sync::{Arc, OnceLock};
use std::task::Waker;
use std::time::Duration;

use super::settings::{Break, Settings};
use super::snapshot::Snapshot;
use super::state::{BreakLength, Due, Machine, Rules, Tally, word};
use super::ticket::{End, Listener, Ticket};
use super::watch::{Watcher, Watchers};
use crate::backoff::Progress;
use crate::base::Base;
use crate::event::{Event, Panics, State, Transition};
use crate::instant::{Instant, nanos};
use crate::rng::SharedRng;
use crate::striped::Striped;
use crate::sync::{AtomicU64, Mutex, Ordering, lock_checked};
use crate::verdict::Health;
use crate::window::{Counts, Sample};

pub(super) struct Inner {
    /// The state and its generation. See [`word`].
    pub(super) word: AtomicU64,
    /// When the break or the ramp-up ends, in nanoseconds.
    pub(super) until: AtomicU64,
    pub(super) base: Base,
    /// `None` for the default.
    settings: Option<Box<Settings>>,
    /// `None` for the default.
    break_for: Option<Box<Break>>,
    pub(super) rules: Rules,
    /// Two tallies take turns, so that a thread that is about to record the result of an older
    /// generation does not record it into the new windows. The second one is allocated when the
    /// circuit closes for the first time.
    first: Tally,
    second: OnceLock<Box<Tally>>,
    /// Allocated with the first change or subscription: until then the machine is as a new one.
    machine: Mutex<Option<Box<Mechanics>>>,
    /// When it was built.
    began: Instant,
    pub(super) rng: SharedRng,
    /// Calls rejected since the state changed. Allocated when the circuit first opens.
    pub(super) rejected: OnceLock<Striped>,
}

/// The state machine, and the subscriptions that follow it.
struct Mechanics {
    machine: Machine,
    watchers: Watchers,
}

/// Reports that are due after a change, once the lock is free.
#[derive(Default)]
pub(super) struct News {
    wakers: Vec<Waker>,
    /// With the numbers of their events.
    changes: Vec<(Transition, u64)>,
}

impl Inner {
    pub(super) fn new(
        base: Base,
        settings: Settings,
        break_for: Option<Break>,
        rules: Rules,
        seed: Option<u64>,
        restore: Option<&Snapshot>,
    ) -> Self {
        let now = base.now();
        let is_preset = settings == *Settings::PRESET;
        let inner = Self {
            word: AtomicU64::new(0),
            until: AtomicU64::new(0),
            base,
            settings: (!is_preset).then(|| Box::new(settings)),
            break_for: break_for.map(Box::new),
            first: Tally::new(&rules, now),
            rules,
            second: OnceLock::new(),
            machine: Mutex::new(None),
            began: now,
            rng: SharedRng::new(seed),
            rejected: OnceLock::new(),
        };
        match restore {
            Some(snapshot) => inner.restore(snapshot, now),
            None => inner.publish(&mut inner.new_machine(), now),
        }
        inner
    }

    fn restore(&self, snapshot: &Snapshot, now: Instant) {
        self.locked(|machine, _| {
            let rest = snapshot.retry_after.unwrap_or(Duration::MAX);
            machine.restore(snapshot.underlying, snapshot.trips, rest, now);
            if let Break::Backoff(backoff) = self.break_for() {
                let draw = || self.rng.unit();
                machine.set_progress(Progress::after(backoff, snapshot.trips, draw));
            }
            if matches!(snapshot.underlying, State::Closed | State::MetricsOnly) {
                let consecutive = u64::from(snapshot.consecutive_failures);
                self.first
                    .restore(&self.rules, snapshot.counts(), consecutive, now);
            }
            self.publish(machine, now);
        });
    }

    /// The machine before the first change.
    fn new_machine(&self) -> Machine {
        let settings = self.settings();
        let mut machine = Machine::new(settings.half_open, settings.ramp_up, self.rules.flags());
        machine.begin(self.began);
        machine
    }

    /// Locks the machine, which is allocated if need be.
    fn locked<R>(&self, act: impl FnOnce(&mut Machine, &mut Watchers) -> R) -> R {
        let mut guard = lock_checked(&self.machine);
        let mechanics = guard.get_or_insert_with(|| {
            Box::new(Mechanics {
                machine: self.new_machine(),
                watchers: Watchers::default(),
            })
        });
        act(&mut mechanics.machine, &mut mechanics.watchers)
    }

    pub(super) fn settings(&self) -> &Settings {
        self.settings.as_deref().unwrap_or(Settings::PRESET)
    }

    fn break_for(&self) -> &Break {
        self.break_for.as_deref().unwrap_or(Break::PRESET)
    }

    /// Returns the state as last decided.
    pub(super) fn state(&self) -> State {
        // Acquire: a thread that sees a state also sees what led to it.
        match word::kind(self.word.load(Ordering::Acquire)) {
            word::CLOSED | word::RAMPING => State::Closed,
            word::OPEN => State::Open,
            word::HALF_OPEN => State::HalfOpen,
            word::ISOLATED => State::Isolated,
            word::DISABLED => State::Disabled,
            _ => State::MetricsOnly,
        }
    }

    #[inline]
    fn tally(&self, word: u64) -> &Tally {
        if word::has_first_tally(word) {
            &self.first
        } else {
            self.second()
        }
    }

    #[cold]
    fn second(&self) -> &Tally {
        self.second.get().map_or(&self.first, |second| second)
    }

    /// Reads the clock. Cold, so that nothing of it lies in the way of calls that are not timed.
    #[cold]
    #[inline(never)]
    pub(super) fn now(&self) -> Instant {
        self.base.clock.now()
    }

    /// Returns whether a good call changes nothing, in two tests: the end of most calls. May say no
    /// too often, as [`record`](Self::record) finds out too.
    #[inline]
    pub(super) fn is_settled(&self, ticket: Ticket) -> bool {
        // Whether the state is still the same does not matter: an older result changes nothing.
        word::is_in_first_tally(ticket.0) && self.first.is_settled()
    }

    /// Records the end of a call of which nothing but its health is known.
    ///
    /// Cold, so that nothing of it lies in the way of calls that change nothing.
    #[cold]
    #[inline(never)]
    pub(super) fn record_health(&self, ticket: Ticket, started: Instant, health: Health) {
        self.record_here(ticket, started, health, &End::UNKNOWN);
    }

    /// Records the end of a call that began at `started`. Cold as [`record_health`](Self::record_health).
    #[cold]
    #[inline(never)]
    pub(super) fn record(&self, ticket: Ticket, started: Instant, health: Health, end: &End<'_>) {
        self.record_here(ticket, started, health, end);
    }

    #[inline(always)]
    fn record_here(&self, ticket: Ticket, started: Instant, health: Health, end: &End<'_>) {
        let is_plain = health == Health::Healthy && !ticket.is_probe();
        if is_plain && !self.rules.needs_clock() {
            // First, and compiled for a good sample: in a window of calls that contains a failure
            // every call comes here, and takes half as long.
            self.count(ticket, Sample::GOOD, Instant::ORIGIN, end);
        } else {
            self.record_other(ticket, started, health, end);
        }
    }

    #[inline(never)]
    fn record_other(&self, ticket: Ticket, started: Instant, health: Health, end: &End<'_>) {
        if health == Health::Neutral {
            // Only a probe holds anything.
            if ticket.is_probe() {
                self.end_probe(ticket, None, end);
            }
            return;
        }
        let failed = health == Health::Unhealthy;
        let mut sample = Sample::new(failed, false, 0);
        let mut now = Instant::ORIGIN;
        if self.rules.needs_clock() {
            now = self.at(end);
            let took = match end.took {
                Some(took) => nanos(took),
                None => now.as_nanos().saturating_sub(started.as_nanos()),
            };
            sample = self.rules.sample(failed, took);
        } else if failed {
            now = self.at(end);
        }
        if ticket.is_probe() {
            self.end_probe(ticket, Some(sample), end);
        } else {
            self.count(ticket, sample, now, end);
        }
    }

    /// Counts a call that was no probe.
    #[inline(always)]
    fn count(&self, ticket: Ticket, sample: Sample, now: Instant, end: &End<'_>) {
        // Acquire: as in `admit`.
        let word = self.word.load(Ordering::Acquire);
        // The result of an older generation changes nothing.
        if word::generation(word ^ ticket.0) == 0 && word::kind(word) != word::DISABLED {
            let held = self.tally(word).record(&self.rules, sample, now);
            if held != 0 {
                self.rules_hold(word, held, end);
            }
        }
    }

    /// The current time, which may have been read already.
    #[inline]
    fn at(&self, end: &End<'_>) -> Instant {
        match end.now {
            Some(now) => now,
            None => self.now(),
        }
    }

    #[cold]
    fn rules_hold(&self, word: u64, held: u64, end: &End<'_>) {
        let now = self.at(end);
        let tally = self.tally(word);
        if word::kind(word) == word::METRICS_ONLY {
            let mut fresh = tally.note(held);
            let mut panics = Panics::default();
            while fresh != 0 {
                let event = Event::CircuitWouldOpen {
                    policy: self.base.name,
                    pipeline: None,
                    cause: self.rules.cause(fresh),
                    sequence: 0,
                };
                self.base.tell_in(&mut panics, event, end.listener);
                fresh &= fresh - 1;
            }
            return panics.resume();
        }
        let cause = self.rules.cause(held);
        let rate = tally.rate(&self.rules, held, now);
        let due = self.with_machine(end.listener, now, |machine| {
            machine.trip(word::generation(word), cause, rate, now)
        });
        if let Some(due) = due {
            self.open(due, end.hint, end.listener, now);
        }
    }

    /// Ends a probe, without a sample when its result says nothing.
    #[cold]
    pub(super) fn end_probe(&self, ticket: Ticket, sample: Option<Sample>, end: &End<'_>) {
        let now = self.at(end);
        let probe = word::generation(ticket.0);
        let due = self.with_machine(end.listener, now, |machine| {
            machine.end_probe(probe, sample, now)
        });
        if let Some(due) = due {
            self.open(due, end.hint, end.listener, now);
        }
    }

    /// Opens the circuit, unless it has changed since the opening was due: then returns `false`.
    ///
    /// The length of the break may come from user code, so it is computed outside the lock. If that
    /// panics, the opening is still due at the next call.
    pub(super) fn open(
        &self,
        due: Due,
        hint: Option<Duration>,
        listener: Listener<'_>,
        now: Instant,
    ) -> bool {
        let mut progress = due.progress;
        let length = match self.break_for() {
            Break::Backoff(backoff) => progress.next(backoff, || self.rng.unit()),
            Break::Custom(length) => length(due.trips, due.rate),
        };
        let hint = hint.unwrap_or_default().min(self.settings().max_hint);
        let length = BreakLength {
            length: length.max(hint),
            progress,
        };
        self.with_machine(listener, now, |machine| machine.open(due, length))
    }

    /// Changes the machine, and reports what changed.
    pub(super) fn with_machine<R>(
        &self,
        listener: Listener<'_>,
        now: Instant,
        change: impl FnOnce(&mut Machine) -> R,
    ) -> R {
        let (result, news) = self.change(listener, now, change);
        self.report(news, listener).resume();
        result
    }

    /// Changes the machine, and returns what has to be reported.
    pub(super) fn change<R>(
        &self,
        listener: Listener<'_>,
        now: Instant,
        change: impl FnOnce(&mut Machine) -> R,
    ) -> (R, News) {
        let mut news = News::default();
        let is_heard = self.base.is_heard(listener);
        let result = self.locked(|machine, watchers| {
            let result = change(machine);
            self.publish(machine, now);
            for change in machine.take_changes() {
                watchers.push(change, &mut news.wakers);
                if is_heard {
                    news.changes.push((change, self.base.number()));
                }
            }
            result
        });
        (result, news)
    }

    /// Wakes subscribers and tells observers, all of them also if some panic.
    pub(super) fn report(&self, news: News, listener: Listener<'_>) -> Panics {
        let mut panics = Panics::default();
        for waker in news.wakers {
            panics.run(|| waker.wake());
        }
        for (change, sequence) in news.changes {
            let event = Event::CircuitChanged {
                policy: self.base.name,
                pipeline: None,
                change,
                sequence,
            };
            self.base.tell_in(&mut panics, event, listener);
        }
        panics
    }

    /// Brings the atomics up to the machine, whose lock is held.
    fn publish(&self, machine: &mut Machine, now: Instant) {
        let word = machine.word();
        if machine.take_new_tally() {
            let second = || Box::new(Tally::new(&self.rules, now));
            self.second.get_or_init(second);
            self.tally(word).clear(now);
        }
        if machine.take_new_phase() {
            if let Some(rejected) = self.rejected.get() {
                rejected.clear();
            }
        }
        if word::kind(word) > word::DISABLED {
            // Here, so that rejections do not allocate.
            self.rejected.get_or_init(Striped::new);
        }
        // Release, both: pairs with the loads of the fast path. The break's end first, so that a
        // thread that sees the circuit open sees until when.
        self.until
            .store(machine.until().as_nanos(), Ordering::Release);
        self.word.store(word, Ordering::Release);
    }

    /// Reads the machine. No user code may run in `look`.
    pub(super) fn look<R>(&self, look: impl FnOnce(&Machine) -> R) -> R {
        match &*lock_checked(&self.machine) {
            Some(mechanics) => look(&mechanics.machine),
            None => look(&self.new_machine()),
        }
    }

    pub(super) fn add_watcher(&self, watcher: &Arc<Watcher>) {
        self.locked(|_, watchers| watchers.add(watcher));
    }

    /// Returns when the breaker cannot be told from a new one, or its history is older than its rules can
    /// see: the windows have passed, and so has the break. `None` if that cannot be foreseen. Changes nothing.
    pub(super) fn forgettable_at(&self, now: Instant) -> Option<Instant> {
        let horizon = self.rules.horizon();
        let watched = match &*lock_checked(&self.machine) {
            Some(mechanics) => !mechanics.watchers.is_empty(),
            None => false,
        };
        if watched {
            return None;
        }
        self.look(|machine| {
            let of_machine = machine.forgettable_at(horizon, now)?;
            let of_tally = self.tally(machine.word()).forgettable_at(horizon, now);
            Some(of_machine.max(of_tally))
        })
    }

    /// Returns what is counted now, or what led to the current state.
    pub(super) fn counts(&self, machine: &Machine, now: Instant) -> (Counts, u64) {
        match machine.trial_results() {
            Some(results) => (results, u64::from(machine.trial_size())),
            None => {
                let tally = self.tally(machine.word());
                (tally.counts(now), self.rules.min_calls())
            }
        }
    }

    pub(super) fn consecutive(&self, machine: &Machine) -> u64 {
        self.tally(machine.word()).consecutive()
    }

    pub(super) fn rejected(&self) -> u64 {
        self.rejected.get().map_or(0, Striped::sum)
    }

    #[cfg(all(test, not(backstop_loom)))]
    pub(super) fn is_unlocked(&self) -> bool {
        self.machine.try_lock().is_ok()
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        let Some(mut mechanics) = lock_checked(&self.machine).take() else {
            return;
        };
        let mut panics = Panics::default();
        for waker in mechanics.watchers.close() {
            panics.run(|| waker.wake());
        }
        panics.resume();
    }
}

impl fmt::Debug for Break {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Backoff(backoff) => backoff.fmt(f),
            Self::Custom(_) => f.write_str("Custom"),
        }
    }
}
