//! Contexts of calls, which layers pass inwards.

use std::fmt;
use std::time::Duration;

use crate::clock::{ClockHandle, ClockId};
use crate::deadline;
use crate::instant::Instant;
use crate::priority::Priority;

/// The context of a call, which each layer of a stack receives. `Copy`, and passed inwards by value.
///
/// # Reading the time
///
/// Layers share clock readings through it: [`now`](Self::now) reads the clock only if no earlier layer has. A layer
/// that has waited passes on a new reading ([`refresh`](Self::refresh)), so the reading that a layer receives is
/// current.
///
/// Layers may be on different clocks. Times are converted to the clock of the layer that asks, which preserves how
/// much time is left.
#[derive(Clone, Copy)]
pub struct Context {
    /// The clock that `start`, `now` and `deadline` are on.
    clock: ClockId,
    start: Instant,
    now: Instant,
    deadline: Instant,
    // Fields are whole words: narrow fields are stored one by one and loaded together, which stalls.
    /// The attempt, and the cost in the upper half.
    numbers: u64,
    /// The priority, the flags below, and from bit [`BUDGETS`](Self::BUDGETS) on the budgets that have counted the
    /// call.
    flags: u64,
    /// The endpoint that the attempt goes to; zero if none was picked.
    endpoint: u64,
}

impl Context {
    /// Set on a further copy of an attempt that still runs.
    const HEDGE: u64 = 1 << 16;
    const NOT_IDEMPOTENT: u64 = 1 << 17;
    const NOT_REPEATABLE: u64 = 1 << 18;
    /// Set on a probe of a half-open circuit.
    const PROBE: u64 = 1 << 19;
    /// Shift of the numbers of the last three budgets that have counted the call.
    const BUDGETS: u32 = 64 - 3 * BudgetNumber::BITS;

    /// Returns the context of a new call: first attempt, no deadline, idempotent, cost 1.
    pub const fn new() -> Self {
        Self {
            clock: ClockId::NONE,
            start: Instant::ORIGIN,
            now: Instant::ORIGIN,
            deadline: Instant::FAR_FUTURE,
            numbers: 1 << 32 | 1,
            flags: Priority::NORMAL.0 as u64,
            endpoint: 0,
        }
    }

    /// Returns the current time on `clock`: the last reading if an outer layer has read the same clock, otherwise a
    /// new one.
    #[inline(always)]
    pub fn now(&mut self, clock: &ClockHandle) -> Instant {
        if self.clock != clock.id() {
            self.move_to(clock, clock.now());
        }
        self.now
    }

    /// Reads `clock` again and returns the current time. Called by layers that have waited.
    #[inline]
    pub fn refresh(&mut self, clock: &ClockHandle) -> Instant {
        let now = clock.now();
        self.set_now(clock, now);
        now
    }

    /// Sets the current time to `now`, a reading of `clock`.
    #[inline]
    pub(crate) fn set_now(&mut self, clock: &ClockHandle, now: Instant) {
        if self.clock == clock.id() {
            self.now = now;
        } else {
            self.move_to(clock, now);
        }
    }

    /// Moves all times to `clock`, keeping their distances from the current time. `now` is a reading of `clock`.
    ///
    /// Always inlined, and the cold part takes single words: a context whose address is never taken stays in
    /// registers on its way inwards. In memory its copies cost a layer 6 ns, half of its total cost.
    #[inline(always)]
    fn move_to(&mut self, clock: &ClockHandle, now: Instant) {
        if self.clock == ClockId::NONE && self.deadline == Instant::FAR_FUTURE {
            self.start = now;
            self.deadline = deadline::inherited(clock, now);
        } else {
            let elapsed = self.now.as_nanos().saturating_sub(self.start.as_nanos());
            self.start = Instant::from_nanos(now.as_nanos().saturating_sub(elapsed));
            self.deadline = carry_over(self.clock, self.now, self.deadline, clock, now);
        }
        self.now = now;
        self.clock = clock.id();
    }

    /// Returns when the call began, on `clock`. The current time if no layer has read a clock yet.
    pub fn start(&mut self, clock: &ClockHandle) -> Instant {
        self.now(clock);
        self.start
    }

    /// Returns the deadline of the call, on `clock`. [`Instant::FAR_FUTURE`] if it has none.
    #[inline]
    pub fn deadline(&mut self, clock: &ClockHandle) -> Instant {
        self.now(clock);
        self.deadline
    }

    /// Returns the time left until the deadline, as of the last reading; `None` without a deadline.
    pub fn remaining(&self) -> Option<Duration> {
        (self.deadline != Instant::FAR_FUTURE)
            .then(|| self.deadline.saturating_duration_since(self.now))
    }

    /// Moves the deadline to `at` on `clock` if that is earlier. A deadline never becomes later.
    #[inline]
    pub fn tighten(&mut self, clock: &ClockHandle, at: Instant) {
        self.now(clock);
        self.deadline = self.deadline.min(at);
    }

    /// Like [`tighten`](Self::tighten), on the clock that was read last. Returns the deadline before and after.
    #[inline]
    pub(crate) fn tighten_here(&mut self, at: Instant) -> (Instant, Instant) {
        let before = self.deadline;
        self.deadline = before.min(at);
        (before, self.deadline)
    }

    /// Returns the number of the attempt, from 1.
    pub const fn attempt(&self) -> u32 {
        self.numbers as u32
    }

    /// Returns the context of attempt number `attempt`.
    #[must_use]
    pub const fn with_attempt(mut self, attempt: u32) -> Self {
        self.numbers = self.numbers & !(u32::MAX as u64) | attempt as u64;
        self
    }

    /// Returns whether this is a further copy of an attempt that still runs.
    pub const fn is_hedge(&self) -> bool {
        self.flags & Self::HEDGE != 0
    }

    /// Returns the context with the hedge flag set or cleared.
    #[must_use]
    pub const fn with_hedge(self, hedge: bool) -> Self {
        self.with_flag(Self::HEDGE, hedge)
    }

    /// Returns whether the operation may be repeated although it may have been executed. The default is
    /// `true`.
    pub const fn is_idempotent(&self) -> bool {
        self.flags & Self::NOT_IDEMPOTENT == 0
    }

    /// Returns the context with the idempotent flag set or cleared.
    #[must_use]
    pub const fn with_idempotent(self, idempotent: bool) -> Self {
        self.with_flag(Self::NOT_IDEMPOTENT, !idempotent)
    }

    /// Returns whether the operation can be run again at all. `false` for one that consumes what it sends, such as a
    /// streamed request body. Then no policy makes a second attempt.
    pub const fn is_repeatable(&self) -> bool {
        self.flags & Self::NOT_REPEATABLE == 0
    }

    /// Returns the context with the repeatable flag set or cleared.
    #[must_use]
    pub const fn with_repeatable(self, repeatable: bool) -> Self {
        self.with_flag(Self::NOT_REPEATABLE, !repeatable)
    }

    /// Returns whether the call is a probe of an outer half-open circuit, whose result shows whether the dependency
    /// has recovered. A probe is not hedged.
    pub const fn is_probe(&self) -> bool {
        self.flags & Self::PROBE != 0
    }

    /// Returns the context with the probe flag set or cleared.
    #[must_use]
    #[inline]
    pub const fn with_probe(self, probe: bool) -> Self {
        self.with_flag(Self::PROBE, probe)
    }

    /// Returns whether the retry budget of this number has counted the call, among the last three that have.
    pub(crate) const fn is_counted_by(&self, budget: BudgetNumber) -> bool {
        let mut counted = self.flags >> Self::BUDGETS;
        while counted != 0 {
            if counted & BudgetNumber::MAX == budget.get() {
                return true;
            }
            counted >>= BudgetNumber::BITS;
        }
        false
    }

    /// Returns the context of a call that the budget of this number has counted too.
    #[must_use]
    pub(crate) const fn counted_by(mut self, budget: BudgetNumber) -> Self {
        let others = self.flags & ((1 << Self::BUDGETS) - 1);
        let counted = self.flags >> Self::BUDGETS << BudgetNumber::BITS | budget.get();
        self.flags = others | counted << Self::BUDGETS;
        self
    }

    /// Returns the priority of the call for load shedders and priority queues.
    pub const fn priority(&self) -> Priority {
        Priority(self.flags as u16)
    }

    /// Returns the context with another priority.
    #[must_use]
    pub const fn with_priority(mut self, priority: Priority) -> Self {
        self.flags = self.flags & !(u16::MAX as u64) | priority.0 as u64;
        self
    }

    /// Returns the cost of the call in units of a rate limit or a weighted bulkhead. The default is 1.
    pub const fn cost(&self) -> u32 {
        (self.numbers >> 32) as u32
    }

    /// Returns the context with another cost.
    #[must_use]
    pub const fn with_cost(mut self, cost: u32) -> Self {
        self.numbers = (cost as u64) << 32 | self.numbers & u32::MAX as u64;
        self
    }

    /// Returns the address of the endpoint that the attempt goes to; zero for none.
    #[inline]
    pub(crate) const fn endpoint(&self) -> u64 {
        self.endpoint
    }

    /// Sets the endpoint that the attempt goes to.
    #[inline]
    pub(crate) const fn set_endpoint(&mut self, endpoint: u64) {
        self.endpoint = endpoint;
    }

    /// Saves the context while an attempt runs. Called by a layer on `clock`.
    #[inline(always)]
    pub(crate) fn save(mut self, clock: &ClockHandle) -> SavedContext {
        if self.clock == ClockId::NONE {
            self.flags |= SavedContext::UNREAD;
        } else {
            self.now(clock);
        }
        SavedContext {
            start: self.start,
            deadline: self.deadline,
            numbers: self.numbers,
            flags: self.flags,
            endpoint: self.endpoint,
        }
    }

    const fn with_flag(mut self, flag: u64, on: bool) -> Self {
        self.flags = if on {
            self.flags | flag
        } else {
            self.flags & !flag
        };
        self
    }
}

impl fmt::Debug for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Context")
            .field("attempt", &self.attempt())
            .field("elapsed", &self.now.saturating_duration_since(self.start))
            .field("remaining", &self.remaining())
            .field("is_hedge", &self.is_hedge())
            .field("is_idempotent", &self.is_idempotent())
            .field("is_repeatable", &self.is_repeatable())
            .field("is_probe", &self.is_probe())
            .field("priority", &self.priority())
            .field("cost", &self.cost())
            .finish()
    }
}

/// A context without its clock and the last reading, which is stale by the time the context is restored.
#[derive(Clone, Copy)]
pub struct SavedContext {
    start: Instant,
    deadline: Instant,
    numbers: u64,
    flags: u64,
    endpoint: u64,
}

impl SavedContext {
    /// Set if no layer had read a clock.
    const UNREAD: u64 = 1 << 20;

    pub(crate) const fn attempt(&self) -> u32 {
        self.numbers as u32
    }

    /// Restores the context. `now` is a reading of `clock`, on which the context was saved.
    pub(crate) fn restore(self, clock: &ClockHandle, now: Instant) -> Context {
        let is_unread = self.flags & Self::UNREAD != 0;
        let mut cx = Context {
            clock: if is_unread { ClockId::NONE } else { clock.id() },
            start: self.start,
            now,
            deadline: self.deadline,
            numbers: self.numbers,
            flags: self.flags & !Self::UNREAD,
            endpoint: self.endpoint,
        };
        cx.set_now(clock, now);
        cx
    }
}

impl fmt::Debug for SavedContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SavedContext").finish_non_exhaustive()
    }
}

/// The number of a retry budget, in a [`Context`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BudgetNumber(u64);

impl BudgetNumber {
    const BITS: u32 = 14;

    /// The largest number.
    pub(crate) const MAX: u64 = (1 << Self::BITS) - 1;

    /// Returns a number, if it is from 1 to [`MAX`](Self::MAX).
    pub(crate) const fn new(number: u64) -> Option<Self> {
        match number {
            1..=Self::MAX => Some(Self(number)),
            _ => None,
        }
    }

    pub(crate) const fn get(self) -> u64 {
        self.0
    }
}

/// Returns the deadline on `clock`, with the time left that it had `then`. `now` is a reading of `clock`.
#[cold]
#[inline(never)]
fn carry_over(
    from: ClockId,
    then: Instant,
    deadline: Instant,
    clock: &ClockHandle,
    now: Instant,
) -> Instant {
    let moved = match deadline {
        Instant::FAR_FUTURE => deadline,
        deadline => now + deadline.saturating_duration_since(then),
    };
    // If a clock was read before, it has seen the inherited deadline, unless one of the two is a user's clock.
    if from.handle().is_some() && clock.id().handle().is_some() {
        moved
    } else {
        moved.min(deadline::inherited(clock, now))
    }
}

impl Default for Context {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::ManualClock;

    const SECOND: Duration = Duration::from_secs(1);

    fn two_clocks() -> (ManualClock, ClockHandle, ClockHandle) {
        let (ahead, behind) = (ManualClock::new(), ManualClock::new());
        ahead.advance(100 * SECOND);
        let handles = (ahead.clone().into(), behind.into());
        (ahead, handles.0, handles.1)
    }

    #[test]
    fn a_reading_is_shared_until_a_layer_waits() {
        let (clock, handle, _) = two_clocks();
        let mut cx = Context::new();
        let first = cx.now(&handle);
        clock.advance(SECOND);
        assert_eq!(cx.now(&handle), first);
        assert_eq!(cx.refresh(&handle), first + SECOND);
        assert_eq!(cx.start(&handle), first);
    }

    #[test]
    fn a_deadline_keeps_its_distance_on_another_clock() {
        let (_, ahead, behind) = two_clocks();
        let mut cx = Context::new();
        let at = cx.now(&ahead) + 3 * SECOND;
        cx.tighten(&ahead, at);
        assert_eq!(cx.deadline(&behind), Instant::ORIGIN + 3 * SECOND);
        assert_eq!(cx.deadline(&ahead), at);
        assert_eq!(cx.remaining(), Some(3 * SECOND));
    }

    #[test]
    fn a_deadline_only_moves_forward() {
        let (_, clock, _) = two_clocks();
        let mut cx = Context::new();
        assert_eq!(cx.deadline(&clock), Instant::FAR_FUTURE);
        assert_eq!(cx.remaining(), None);
        let now = cx.now(&clock);
        cx.tighten(&clock, now + SECOND);
        cx.tighten(&clock, now + 2 * SECOND);
        assert_eq!(cx.remaining(), Some(SECOND));
    }
}
