//! State shared by the clones of a hedge.

use std::sync::Arc;
use std::time::Duration;

use super::snapshot::Snapshot;
use super::state::delay::LatencyDelay;
use crate::clock::ClockHandle;
use crate::event::{Event, HedgeEvent, Observer};
use crate::instant::{Instant, nanos};
use crate::policy::{Context, Outcome};
use crate::retry_budget::{BudgetedCall, Extra, RetryBudget};
use crate::striped::StripedCounter;
use crate::sync::{AtomicU32, AtomicU64, Ordering};
use crate::verdict::{ErrorClass, Health};

pub(super) struct Inner {
    pub(super) name: &'static str,
    pub(super) delay: Delay,
    pub(super) max_hedges: AtomicU32,
    /// Bounds the extra load.
    pub(super) cap: Option<RetryBudget>,
    /// Shared with retries.
    pub(super) budget: Option<RetryBudget>,
    pub(super) throttled_pause: Duration,
    pub(super) clock: ClockHandle,
    /// End of the pause in hedging while the dependency throttles, in nanoseconds.
    paused_until: AtomicU64,
    calls: StripedCounter,
    pub(super) counts: Counts,
}

#[derive(Debug, Default)]
pub(super) struct Counts {
    pub(super) launched: AtomicU64,
    pub(super) won: AtomicU64,
    pub(super) saved: AtomicU64,
    pub(super) lost: AtomicU64,
    pub(super) not_sent: AtomicU64,
    pub(super) in_flight: AtomicU64,
}

/// The delay before a copy is launched.
pub(super) enum Delay {
    Fixed {
        nanos: AtomicU64,
    },
    /// Computes the delay from the number of the copy, which starts at 1.
    PerCopy(Arc<DelayFn>),
    Latency {
        latency: LatencyDelay,
        /// Smallest delay, in nanoseconds.
        min: u64,
        /// Whether `max_extra_load` determines the quantile.
        follows_load: bool,
    },
}

pub(super) type DelayFn = dyn Fn(u32) -> Duration + Send + Sync;

/// The budget shares that a call holds.
pub(super) struct Begun<'a> {
    cap: Option<BudgetedCall<'a>>,
    budget: Option<BudgetedCall<'a>>,
}

/// The budget shares that a copy holds.
pub(super) struct Extras<'a> {
    cap: Option<Extra<'a>>,
    budget: Option<Extra<'a>>,
}

/// Counts a copy while it is in flight.
pub(super) struct InFlight<'a>(&'a AtomicU64);

/// The longest pause that a hint of the dependency leads to.
const MAX_PAUSE: Duration = Duration::from_secs(60);

impl Inner {
    pub(super) fn new(
        name: &'static str,
        delay: Delay,
        max_hedges: u32,
        [cap, budget]: [Option<RetryBudget>; 2],
        throttled_pause: Duration,
        clock: ClockHandle,
    ) -> Self {
        Self {
            name,
            delay,
            max_hedges: AtomicU32::new(max_hedges),
            cap,
            budget,
            throttled_pause,
            clock,
            paused_until: AtomicU64::new(0),
            calls: StripedCounter::new(),
            counts: Counts::default(),
        }
    }

    /// Returns whether calls of this hedge need a budget for their copies.
    #[inline]
    pub(super) const fn has_budgets(&self) -> bool {
        self.cap.is_some() || self.budget.is_some()
    }

    /// Begins a call.
    ///
    /// Out of line: `cx` must stay in registers where there are no budgets.
    #[inline(never)]
    pub(super) fn begin<'a>(&'a self, cx: &mut Context) -> Begun<'a> {
        self.calls.increment();
        Begun {
            cap: self.cap.as_ref().map(|cap| cap.begin_private(cx)),
            budget: self.budget.as_ref().map(|budget| budget.begin_in(cx)),
        }
    }

    /// Begins a call of a hedge without budgets.
    #[inline]
    pub(super) fn begin_without_budgets(&self) -> Begun<'_> {
        self.calls.increment();
        Begun {
            cap: None,
            budget: None,
        }
    }

    /// Returns how many further copies a call has at most.
    pub(super) fn max_hedges(&self) -> u32 {
        // Relaxed: a setting that publishes nothing.
        self.max_hedges.load(Ordering::Relaxed)
    }

    /// Returns the delay before copy number `copy`, from the launch of the one before; `None` while too few latencies
    /// are known.
    pub(super) fn delay(&self, copy: u32, now: Instant) -> Option<u64> {
        match &self.delay {
            Delay::Fixed { nanos } => Some(nanos.load(Ordering::Relaxed)),
            Delay::PerCopy(delay) => Some(nanos(delay(copy))),
            Delay::Latency { latency, min, .. } => latency.get(now).map(|delay| delay.max(*min)),
        }
    }

    /// Returns whether the delay follows from latencies and too few of them are known.
    pub(super) fn delay_is_unknown(&self, now: Instant) -> bool {
        let latencies = self.latencies();
        latencies.is_some_and(|latencies| latencies.get(now).is_none())
    }

    /// Returns the delay computed from latencies, if this hedge has one.
    #[inline]
    pub(super) const fn latencies(&self) -> Option<&LatencyDelay> {
        match &self.delay {
            Delay::Latency { latency, .. } => Some(latency),
            Delay::Fixed { .. } | Delay::PerCopy(_) => None,
        }
    }

    /// Ends a call whose first copy has answered before any other was launched.
    pub(super) fn finish_plain<T, E>(
        &self,
        mut outcome: Outcome<T, E>,
        started: Instant,
        begun: &mut Begun<'_>,
    ) -> Outcome<T, E> {
        if let Some(latencies) = self.latencies() {
            if outcome.verdict.health() == Health::Healthy {
                let now = outcome.finished(&self.clock);
                let took = now.as_nanos().saturating_sub(started.as_nanos());
                latencies.record(now, took, false);
            }
        }
        begun.answered(true, outcome.verdict.health());
        outcome
    }

    /// Records a censored sample: a copy that was dropped or failed. An answer would have taken longer.
    pub(super) fn record_censored(&self, now: Instant, started: Instant) {
        if let Some(latencies) = self.latencies() {
            let took = now.as_nanos().saturating_sub(started.as_nanos());
            latencies.record(now, took, true);
        }
    }

    pub(super) fn paused_until(&self) -> Instant {
        // Relaxed, here and below: it publishes nothing else.
        Instant::from_nanos(self.paused_until.load(Ordering::Relaxed))
    }

    /// Pauses hedging for the time of a hint, or for `throttled_pause`.
    pub(super) fn pause(&self, now: Instant, hint: Option<Duration>) {
        let pause = hint.map_or(self.throttled_pause, |hint| hint.min(MAX_PAUSE));
        let until = (now + pause).as_nanos();
        self.paused_until.fetch_max(until, Ordering::Relaxed);
    }

    /// Counts and reports the further copies of a call to which none of them contributed.
    pub(super) fn lose(&self, copies: u32, observer: Option<&dyn Observer>) {
        // Relaxed: a counter, read for display.
        self.counts.lost.fetch_add(copies.into(), Ordering::Relaxed);
        if let Some(observer) = observer {
            observer.on_event(&self.event(HedgeEvent::Lost { copies }));
        }
    }

    pub(super) const fn event(&self, event: HedgeEvent) -> Event {
        Event::Hedge {
            policy: self.name,
            pipeline: None,
            event,
        }
    }

    pub(super) fn count_copy(&self) -> InFlight<'_> {
        self.counts.in_flight.fetch_add(1, Ordering::Relaxed);
        InFlight(&self.counts.in_flight)
    }

    pub(super) fn snapshot(&self) -> Snapshot {
        let [launched, won, saved, lost, not_sent, in_flight] = [
            &self.counts.launched,
            &self.counts.won,
            &self.counts.saved,
            &self.counts.lost,
            &self.counts.not_sent,
            &self.counts.in_flight,
        ]
        .map(|count| count.load(Ordering::Relaxed));
        let (delay, samples) = match &self.delay {
            Delay::Fixed { nanos } => (Some(nanos.load(Ordering::Relaxed)), 0),
            Delay::PerCopy(_) => (None, 0),
            Delay::Latency { latency, min, .. } => {
                let now = self.clock.now();
                let delay = latency.peek(now).map(|delay| delay.max(*min));
                (delay, latency.known(now))
            }
        };
        Snapshot {
            name: self.name,
            delay: delay.map(Duration::from_nanos),
            samples,
            calls: self.calls.sum(),
            launched,
            won,
            saved,
            lost,
            not_sent,
            in_flight,
        }
    }
}

impl<'a> Begun<'a> {
    /// Reserves one more copy in both budgets.
    pub(super) fn withdraw(&mut self, class: ErrorClass, cx: &mut Context) -> Option<Extras<'a>> {
        // The private budget first: if the shared one is empty, the private reservation is returned, and no other layer
        // was affected.
        let mut cap = match &mut self.cap {
            Some(cap) => Some(cap.reserve_in(class, cx)?),
            None => None,
        };
        let mut budget = match &mut self.budget {
            Some(budget) => Some(budget.reserve_in(class, cx)?),
            None => None,
        };
        cap.iter_mut().chain(&mut budget).for_each(Extra::begin);
        Some(Extras { cap, budget })
    }

    /// Returns what a copy has withdrawn that an inner layer rejected. `last` is the price of the last copy that was not.
    pub(super) fn give_back(&mut self, extras: Extras<'a>, last: Option<u64>) {
        if let (Some(call), Some(extra)) = (&mut self.cap, extras.cap) {
            call.give_back(extra);
        }
        if let (Some(call), Some(extra)) = (&mut self.budget, extras.budget) {
            call.give_back_one(extra, last);
        }
    }

    /// Records the failure of a copy while others are in flight. Returns the tokens that it cost.
    pub(super) fn copy_failed(&mut self) -> u64 {
        let budget = self.budget.as_mut();
        budget.map_or(0, BudgetedCall::record_failure)
    }

    /// Returns what the failure of a copy cost that is the result of the call, if a layer outside records it.
    pub(super) fn leave_to_outer(&mut self, cost: u64) {
        if let Some(budget) = &mut self.budget {
            budget.leave_to_outer(cost);
        }
    }

    /// Returns whether results are recorded in a budget that is shared with other layers.
    #[inline]
    pub(super) const fn has_budget(&self) -> bool {
        self.budget.is_some()
    }

    /// Records the answer of the call: a success if it is a value from a healthy dependency.
    #[inline]
    pub(super) fn answered(&mut self, is_value: bool, health: Health) {
        if let Some(budget) = &mut self.budget {
            if is_value && health == Health::Healthy {
                budget.success();
            }
        }
    }

    /// Records that all copies failed, unless a layer outside records it.
    pub(super) fn failed(&mut self) {
        let budget = self.budget.as_mut();
        if let Some(budget) = budget.filter(|budget| !budget.is_nested()) {
            budget.failure();
        }
    }
}

impl Extras<'_> {
    /// Returns the tokens withdrawn from the shared budget.
    pub(super) fn price(&self) -> u64 {
        self.budget.as_ref().map_or(0, Extra::price)
    }
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
