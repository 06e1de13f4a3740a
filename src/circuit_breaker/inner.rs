//! What the clones of a breaker share: the fast path in atomics, the rest behind a lock.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use super::state::HalfOpenRules;
use super::state::{Break as BreakLength, Due, Machine, Plan, Tally, word};
use super::watch::{Watcher, Watchers};
use super::{Break, Settings, Snapshot};
use crate::backoff::Progress;
use crate::event::Transition;
use crate::event::{Cause, State};
use crate::event::{Event, Observer};
use crate::instant::{Instant, nanos};
use crate::rng::SharedRng;
use crate::striped::Striped;
use crate::sync::{AtomicU64, Mutex, Ordering, lock_checked};
use crate::verdict::{Health, Verdict};
use crate::window::{Counts, Pushed, Sample};

/// A call that was let through: where it belongs when it ends.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ticket {
    /// The word it was admitted under, with [`NOT_PLAIN`](word::NOT_PLAIN) if it is not plain.
    pub(super) word: u64,
    /// Its place among the trial calls; zero when it is none.
    pub(super) probe: u64,
}

/// Who listens to the call that causes a change, beside the breaker's own observer.
pub(super) type Listener<'a> = Option<&'a dyn Observer>;

pub(super) struct Inner {
    /// The state and its generation. See [`word`].
    pub(super) word: AtomicU64,
    /// When the break or the ramp-up ends, in nanoseconds.
    pub(super) until: AtomicU64,
    pub(super) settings: Settings,
    pub(super) plan: Plan,
    /// One counts, the other is that of the last time: a thread that is about to record a result of
    /// the last time does not meet the new one.
    tallies: [Tally; 2],
    machine: Mutex<(Machine, Watchers)>,
    pub(super) rng: SharedRng,
    /// Calls refused since the state changed. Made when the circuit first lets not all through: many
    /// breakers never do.
    pub(super) rejected: OnceLock<Striped>,
}

impl Inner {
    pub(super) fn new(
        settings: Settings,
        plan: Plan,
        rules: HalfOpenRules,
        seed: Option<u64>,
        restore: Option<&Snapshot>,
    ) -> Self {
        let mut flags = plan.flags();
        if settings.shadow || settings.observer.is_some() {
            flags |= word::TELLS;
        }
        let mut machine = Machine::new(rules, settings.ramp_up, flags);
        let tallies = [Tally::new(&plan), Tally::new(&plan)];
        let rng = SharedRng::new(seed);
        let now = settings.clock.now();
        tallies[0].clear(now);
        machine.begin(now);
        if let Some(snapshot) = restore {
            let rest = snapshot.retry_after.unwrap_or(Duration::MAX);
            machine.restore(snapshot.underlying, snapshot.trips, rest, now);
            if let Break::Backoff(backoff) = &settings.break_for {
                machine.set_progress(Progress::after(backoff, snapshot.trips, || rng.unit()));
            }
            if matches!(snapshot.underlying, State::Closed | State::MetricsOnly) {
                let consecutive = u64::from(snapshot.consecutive_failures);
                tallies[0].restore(snapshot.counts(), consecutive, now);
            }
        }
        Self {
            word: AtomicU64::new(machine.word()),
            until: AtomicU64::new(machine.until().as_nanos()),
            settings,
            plan,
            tallies,
            machine: Mutex::new((machine, Watchers::default())),
            rng,
            rejected: OnceLock::new(),
        }
    }

    /// The state as last decided.
    pub(super) fn state(&self) -> State {
        // Acquire: whoever sees a state sees what led to it.
        match word::kind(self.word.load(Ordering::Acquire)) {
            word::CLOSED | word::RAMPING => State::Closed,
            word::OPEN => State::Open,
            word::HALF_OPEN => State::HalfOpen,
            word::ISOLATED => State::Isolated,
            word::DISABLED => State::Disabled,
            _ => State::MetricsOnly,
        }
    }

    /// Whether a good call would change nothing. Costs a few loads; what most calls end with.
    #[inline]
    pub(super) fn is_settled(&self, ticket: Ticket) -> bool {
        // Not whether the state is still the same: a result of an older one changes nothing either.
        ticket.word & word::NOT_PLAIN == 0 && self.tallies[word::tally(ticket.word)].is_settled()
    }

    /// Counts the end of a call that went well, which began at `started`.
    ///
    /// Cold, so that nothing of it lies in the way of calls that need not be counted. All calls in it
    /// are the last thing it does, so that it has nothing to save.
    #[cold]
    #[inline(never)]
    pub(super) fn succeeded(&self, ticket: Ticket, started: Instant) {
        if ticket.word & word::NOT_PLAIN != 0 {
            return self.succeeded_otherwise(ticket, started);
        }
        // Acquire: as in `admit`. What was let through by a plain word is counted by any of its
        // generation.
        let word = self.word.load(Ordering::Acquire);
        if word::generation(word ^ ticket.word) == 0 {
            match self.tallies[word::tally(word)].record_good() {
                Pushed::All => {}
                pushed => self.after_good(word, pushed),
            }
        }
    }

    #[cold]
    fn after_good(&self, word: u64, pushed: Pushed) {
        let held = self.tallies[word::tally(word)].after_good(&self.plan, pushed);
        if held != 0 {
            self.rules_hold(word, held, None, Verdict::success(), None);
        }
    }

    /// As [`succeeded`](Self::succeeded), where the word that let the call through was not plain.
    #[inline(never)]
    fn succeeded_otherwise(&self, ticket: Ticket, started: Instant) {
        if ticket.probe != 0 || !self.plan.is_of_one_time() {
            return self.succeeded_somehow(ticket, started);
        }
        let now = self.settings.clock.now();
        let took = now.as_nanos().saturating_sub(started.as_nanos());
        if self.plan.sample(false, took).slow {
            return self.was_slow(ticket, took, now);
        }
        // Acquire: as in `admit`.
        let word = self.word.load(Ordering::Acquire);
        if is_counted(ticket, word) {
            let held = self.tallies[word::tally(word)].record_good_in_time(&self.plan, now);
            if held != 0 {
                self.rules_hold(word, held, Some(now), Verdict::success(), None);
            }
        }
    }

    #[cold]
    fn succeeded_somehow(&self, ticket: Ticket, started: Instant) {
        self.conclude(ticket, started, None, Verdict::success(), None, None);
    }

    #[cold]
    fn was_slow(&self, ticket: Ticket, took: u64, now: Instant) {
        let took = Some(Duration::from_nanos(took));
        self.conclude(ticket, now, took, Verdict::success(), Some(now), None);
    }

    /// As [`succeeded`](Self::succeeded), for one that failed.
    #[inline(never)]
    pub(super) fn failed(&self, ticket: Ticket, started: Instant) {
        self.conclude(ticket, started, None, Verdict::failure(), None, None);
    }

    /// Counts the end of a call, which began at `started` unless `took` says how long it was. `now`
    /// is the present where it has been read already.
    #[inline(never)]
    pub(super) fn conclude(
        &self,
        ticket: Ticket,
        started: Instant,
        took: Option<Duration>,
        verdict: Verdict,
        mut now: Option<Instant>,
        listener: Listener<'_>,
    ) {
        let failed = match verdict.health() {
            Health::Healthy => false,
            Health::Unhealthy => true,
            Health::Neutral if ticket.probe == 0 => return,
            Health::Neutral => return self.end_probe(ticket, None, now, verdict, listener),
        };
        let mut sample = Sample {
            failed,
            ..Sample::default()
        };
        if self.plan.needs_clock() {
            let at = self.at(now);
            let took = match took {
                Some(took) => nanos(took),
                None => at.as_nanos().saturating_sub(started.as_nanos()),
            };
            sample = self.plan.sample(failed, took);
            now = Some(at);
        }
        if ticket.probe != 0 {
            return self.end_probe(ticket, Some(sample), now, verdict, listener);
        }
        let at = now.unwrap_or(Instant::ORIGIN);
        self.count(ticket, sample, at, now.is_some(), verdict, listener);
    }

    /// Counts a call that was no trial and ended at `now`, if that is known.
    #[inline(always)]
    fn count(
        &self,
        ticket: Ticket,
        sample: Sample,
        now: Instant,
        is_known: bool,
        verdict: Verdict,
        listener: Listener<'_>,
    ) {
        // Acquire: as in `admit`.
        let word = self.word.load(Ordering::Acquire);
        if is_counted(ticket, word) {
            let held = self.tallies[word::tally(word)].record(&self.plan, sample, now);
            if held != 0 {
                self.rules_hold(word, held, is_known.then_some(now), verdict, listener);
            }
        }
    }

    /// The present, which may have been read already.
    #[inline]
    fn at(&self, now: Option<Instant>) -> Instant {
        now.unwrap_or_else(|| self.settings.clock.now())
    }

    #[cold]
    fn rules_hold(
        &self,
        word: u64,
        held: u64,
        now: Option<Instant>,
        verdict: Verdict,
        listener: Listener<'_>,
    ) {
        let now = self.at(now);
        let tally = &self.tallies[word::tally(word)];
        if word::kind(word) == word::METRICS_ONLY {
            let mut fresh = tally.note(held);
            while fresh != 0 {
                let cause = self.plan.cause(fresh);
                let policy = self.settings.name;
                self.emit(listener, || Event::CircuitWouldOpen { policy, cause });
                fresh &= fresh - 1;
            }
            return;
        }
        let (cause, rate) = (self.plan.cause(held), tally.rate(&self.plan, held, now));
        let due = self.with_machine(listener, now, |machine| {
            machine.trip(word::generation(word), cause, rate, now)
        });
        if let Some(due) = due {
            self.open(due, verdict.hint(), listener, now);
        }
    }

    /// A trial call has ended.
    #[cold]
    fn end_probe(
        &self,
        ticket: Ticket,
        sample: Option<Sample>,
        now: Option<Instant>,
        verdict: Verdict,
        listener: Listener<'_>,
    ) {
        let now = self.at(now);
        let generation = word::generation(ticket.word);
        let due = self.with_machine(listener, now, |machine| {
            machine.end_probe(generation, ticket.probe, sample, now)
        });
        if let Some(due) = due {
            self.open(due, verdict.hint(), listener, now);
        }
    }

    /// Opens the circuit, unless it has changed since then. The length of the break comes from the
    /// user's code, so it is computed outside the lock; should that panic, the next call finds the
    /// opening still due.
    pub(super) fn open(
        &self,
        due: Due,
        hint: Option<Duration>,
        listener: Listener<'_>,
        now: Instant,
    ) -> bool {
        let mut progress = due.progress;
        let length = match &self.settings.break_for {
            Break::Backoff(backoff) => progress.next(backoff, || self.rng.unit()),
            Break::Custom(length) => length(due.trips, due.rate),
        };
        let hint = hint.unwrap_or_default().min(self.settings.max_hint);
        let length = BreakLength {
            length: length.max(hint),
            progress,
        };
        self.with_machine(listener, now, |machine| machine.open(due, length))
    }

    /// Changes the machine, and shows and tells what came of it.
    pub(super) fn with_machine<R>(
        &self,
        listener: Listener<'_>,
        now: Instant,
        change: impl FnOnce(&mut Machine) -> R,
    ) -> R {
        let mut wakers = Vec::new();
        let (result, changes) = {
            let mut guard = lock_checked(&self.machine);
            let (machine, watchers) = &mut *guard;
            let result = change(machine);
            self.publish(machine, now);
            let changes = machine.take_changes();
            for change in &changes {
                watchers.push(*change, &mut wakers);
            }
            (result, changes)
        };
        for waker in wakers {
            waker.wake();
        }
        for change in changes {
            self.emit(listener, || {
                Event::circuit_changed(self.settings.name, &change)
            });
        }
        result
    }

    /// Brings the atomics up to the machine, whose lock is held.
    fn publish(&self, machine: &mut Machine, now: Instant) {
        let word = machine.word();
        if machine.take_new_tally() {
            self.tallies[word::tally(word)].clear(now);
        }
        if machine.take_new_phase() {
            if let Some(rejected) = self.rejected.get() {
                rejected.clear();
            }
        }
        if word::kind(word) > word::DISABLED {
            // Here, so that refusals do not allocate.
            self.rejected.get_or_init(Striped::new);
        }
        // Release, both: pairs with the loads of the fast path. First the break's end, so that who
        // sees the circuit open sees until when.
        self.until
            .store(machine.until().as_nanos(), Ordering::Release);
        self.word.store(word, Ordering::Release);
    }

    /// Looks at the machine.
    pub(super) fn look<R>(&self, look: impl FnOnce(&Machine) -> R) -> R {
        look(&lock_checked(&self.machine).0)
    }

    pub(super) fn add_watcher(&self, watcher: &Arc<Watcher>) {
        lock_checked(&self.machine).1.add(watcher);
    }

    /// Nobody waits for transitions.
    pub(super) fn is_unwatched(&self) -> bool {
        lock_checked(&self.machine).1.is_empty()
    }

    pub(super) fn emit(&self, listener: Listener<'_>, event: impl Fn() -> Event) {
        if let Some(observer) = listener {
            observer.on_event(&event());
        }
        if let Some(observer) = &self.settings.observer {
            observer.on_event(&event());
        }
    }

    /// What is counted now, or what led to the present state.
    pub(super) fn counts(&self, machine: &Machine, now: Instant) -> (Counts, u64) {
        match machine.trial_results() {
            Some(results) => (results, u64::from(machine.trial_size())),
            None => {
                let tally = &self.tallies[word::tally(machine.word())];
                (tally.counts(now), self.plan.min_calls())
            }
        }
    }

    pub(super) fn tally(&self, machine: &Machine) -> &Tally {
        &self.tallies[word::tally(machine.word())]
    }

    pub(super) fn rejected(&self) -> u64 {
        self.rejected.get().map_or(0, Striped::sum)
    }

    #[cfg(all(test, not(backstop_loom)))]
    pub(super) fn is_unlocked(&self) -> bool {
        self.machine.try_lock().is_ok()
    }

    /// The cause of transitions made by hand.
    pub(super) const MANUAL: Cause = Cause::Manual;
}

impl Drop for Inner {
    fn drop(&mut self) {
        lock_checked(&self.machine).1.close();
    }
}

/// Whether the result of a call changes anything when the word is this one. One of an older
/// generation does not.
#[inline]
const fn is_counted(ticket: Ticket, word: u64) -> bool {
    word::generation(word ^ ticket.word) == 0 && word::kind(word) != word::DISABLED
}

/// A transition as an event.
impl Event {
    pub(super) const fn circuit_changed(policy: &'static str, change: &Transition) -> Self {
        Self::CircuitChanged {
            policy,
            change: *change,
        }
    }
}
