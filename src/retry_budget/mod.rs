//! Retry budgets: bounds on retries and hedges as a share of the traffic.
//!
//! # What it protects
//!
//! Protects a dependency that fails. A limit on attempts multiplies the traffic: with three attempts at each of five
//! layers, one call becomes 243. A budget bounds retries as a share of the traffic instead: while few calls fail, all
//! of them are retried; when most fail, hardly any is.
//!
//! ```text
//!   calls ──deposit──►┌────────┐
//!                     │ budget │──withdraw──► retries, hedges
//!                     └────────┘      └─ empty: the last error is returned at once
//! ```
//!
//! # The four kinds
//!
//! | kind | a retry is allowed | from |
//! |---|---|---|
//! | [`percentage`](RetryBudget::percentage) | for a share of recent calls, plus a floor per second | Finagle |
//! | [`tokens`](RetryBudget::tokens) | while the bucket can pay its price; successes, and time if asked to, refill it | AWS SDKs |
//! | [`grpc`](RetryBudget::grpc) | while the bucket is more than half full | gRPC A6 |
//! | [`in_flight`](RetryBudget::in_flight) | for a share of the calls in flight | Envoy |
//!
//! Share one handle between the retries and hedges of **one** dependency. If unrelated dependencies share
//! one, the outage of one of them uses up the retries of the others.
//!
//! # When not to use it
//!
//! For rare calls: a share of them rounds to nothing, and the floor alone decides.
//!
//! # Example
//!
//! ```
//! use backstop::{ManualClock, Retry, RetryBudget};
//!
//! let clock = ManualClock::new();
//! let budget = RetryBudget::percentage().ratio(0.2).clock(clock.clone()).build()?;
//! let retry = Retry::builder().budget(budget.clone()).clock(clock).build()?;
//! assert_eq!(budget.snapshot().available, 100.0); // the floor: 10 a second for 10 s
//! # Ok::<(), backstop::ConfigError>(())
//! ```
//!
//! # With other policies
//!
//! An empty budget rejects further attempts. It never cancels those in flight. Attempts that a layer
//! inside the retry rejected, such as an open breaker, cost nothing: they never reached the dependency. A retry
//! that is cancelled while it waits for its turn costs nothing either.

use std::fmt;
use std::sync::{Arc, Mutex};

use crate::clock::ClockHandle;
use crate::error::ConfigError;
use crate::instant::Instant;
use crate::policy::Context;
use crate::sync::lock;
use crate::verdict::ErrorClass;

mod config;
mod number;
mod state;

pub use self::config::{
    GrpcBudgetBuilder, InFlightBudgetBuilder, PercentageBudgetBuilder, TokenBudgetBuilder,
};

use self::number::Number;
use self::state::{Deposits, InFlight, Prices, Share, Slices, Tokens, Withdrawals};

/// A budget for further attempts, shared by retries and hedges. See the [module page](self).
///
/// Clones share one budget. Every operation is O(1), however long the budget was idle.
#[derive(Clone)]
pub struct RetryBudget {
    inner: Arc<Inner>,
}

struct Inner {
    name: &'static str,
    number: Number,
    kind: Kind,
    /// `None` for kinds that do not depend on time.
    clock: Option<ClockHandle>,
}

enum Kind {
    Percentage {
        slices: Slices,
        deposits: Deposits,
        /// Behind a lock, because a withdrawal checks a sum before it changes one of its terms. Retries are
        /// rare; deposits, one per call, are lock-free.
        withdrawals: Mutex<(Share, Withdrawals)>,
    },
    Tokens {
        bucket: Tokens,
        prices: Prices,
    },
    Grpc {
        bucket: Tokens,
        ratio: u64,
    },
    InFlight(InFlight),
}

/// The current state of a budget. Returned by [`RetryBudget::snapshot`].
#[cfg_attr(feature = "config", derive(serde::Serialize, serde::Deserialize))]
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct Snapshot {
    /// The name of the budget.
    #[cfg_attr(feature = "config", serde(deserialize_with = "crate::forms::name"))]
    pub name: &'static std::primitive::str,
    /// Number of retries that are allowed now, or of tokens for kinds that count tokens.
    pub available: f64,
    /// The part of the budget that is available, from 0 to 1.
    pub ratio: f64,
    /// Number of calls in flight; zero for the kinds that do not count them.
    pub calls_in_flight: u32,
    /// Number of retries and hedges in flight; zero for the kinds that do not count them.
    pub extras_in_flight: u32,
}

impl fmt::Debug for RetryBudget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("RetryBudget")
            .field(&self.snapshot())
            .finish()
    }
}

impl RetryBudget {
    /// Returns the name in snapshots.
    pub fn name(&self) -> &'static str {
        self.inner.name
    }

    /// Begins a call, whose first attempt is always allowed.
    ///
    /// [`Retry`](crate::Retry) does this. Use it for a retry loop of your own.
    pub fn begin(&self) -> BudgetedCall<'_> {
        self.begin_at(self.now())
    }

    /// Begins the call of `cx`, at its last reading of the clock if the budget depends on time.
    ///
    /// A call that an outer layer has begun in this budget is not counted twice, even if up to two other budgets have
    /// counted it in between.
    ///
    /// Always inlined: see `Context::move_to`.
    #[inline(always)]
    pub(crate) fn begin_in(&self, cx: &mut Context) -> BudgetedCall<'_> {
        let number = self.inner.number.get();
        if number.is_some_and(|number| cx.is_counted_by(number)) {
            return BudgetedCall {
                budget: self,
                last_price: BudgetedCall::NESTED | BudgetedCall::NOTHING,
            };
        }
        let call = self.begin_at(self.now_in(cx));
        if let Some(number) = number {
            *cx = cx.counted_by(number);
        }
        call
    }

    /// Like [`begin_in`](Self::begin_in), for a budget that no other layer uses, so the context does not record it.
    pub(crate) fn begin_private(&self, cx: &mut Context) -> BudgetedCall<'_> {
        self.begin_at(self.now_in(cx))
    }

    /// Changes the ratio of a percentage budget. Both the builder's ratio and the new one must be at most 1.
    pub(crate) fn set_ratio(&self, ratio: f64) {
        if let Kind::Percentage { withdrawals, .. } = &self.inner.kind {
            lock(withdrawals).0.set_ratio(ratio);
        }
    }

    fn begin_at(&self, now: Instant) -> BudgetedCall<'_> {
        match &self.inner.kind {
            Kind::Percentage {
                slices, deposits, ..
            } => deposits.add(slices.of(now)),
            Kind::InFlight(in_flight) => in_flight.begin(),
            Kind::Tokens { .. } | Kind::Grpc { .. } => {}
        }
        BudgetedCall {
            budget: self,
            last_price: BudgetedCall::NOTHING,
        }
    }

    fn now(&self) -> Instant {
        let clock = self.inner.clock.as_ref();
        clock.map_or(Instant::ORIGIN, ClockHandle::now)
    }

    #[inline(always)]
    fn now_in(&self, cx: &mut Context) -> Instant {
        match &self.inner.clock {
            Some(clock) => cx.now(clock),
            None => Instant::ORIGIN,
        }
    }

    /// Returns the current state. Changes nothing.
    pub fn snapshot(&self) -> Snapshot {
        let (calls_in_flight, extras_in_flight) = match &self.inner.kind {
            Kind::InFlight(in_flight) => in_flight.counts(),
            _ => (0, 0),
        };
        let (available, total) = match &self.inner.kind {
            Kind::Percentage {
                slices,
                deposits,
                withdrawals,
            } => {
                let slice = slices.of(self.now());
                let (share, withdrawals) = &*lock(withdrawals);
                let available = share.available(deposits, withdrawals, slice) as f64;
                (available, available + withdrawals.count(slice) as f64)
            }
            Kind::Tokens { bucket, .. } => (bucket.tokens(self.now()), bucket.capacity()),
            Kind::Grpc { bucket, .. } => (bucket.tokens(Instant::ORIGIN), bucket.capacity()),
            Kind::InFlight(in_flight) => {
                let available = f64::from(in_flight.available());
                (available, available + f64::from(extras_in_flight))
            }
        };
        Snapshot {
            name: self.inner.name,
            available,
            // The ratio of an empty capacity is zero, not NaN.
            ratio: if total > 0.0 { available / total } else { 0.0 },
            calls_in_flight,
            extras_in_flight,
        }
    }

    /// Changes ratio and floor of a [`percentage`](Self::percentage) budget. Calls and retries that the window has
    /// counted stay, and count at the new ratio.
    ///
    /// # Errors
    ///
    /// If the ratio is not a number from 0 to 1000, or the budget is of another kind.
    pub fn set_share(&self, ratio: f64, floor_per_second: u32) -> Result<(), ConfigError> {
        let error = |problem| Err(ConfigError::new("retry_budget", "ratio", problem));
        let Kind::Percentage {
            slices,
            withdrawals,
            ..
        } = &self.inner.kind
        else {
            return error("can be changed in a percentage budget only");
        };
        if !(0.0..=1000.0).contains(&ratio) {
            return error("must be from 0 to 1000");
        }
        lock(withdrawals).0 = Share::new(ratio, floor_per_second, slices);
        Ok(())
    }

    /// Returns whether this is a clone of `other`.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.inner, &other.inner)
    }

    fn withdraw(&self, class: ErrorClass, now: Instant) -> Option<Withdrawn> {
        let mut withdrawn = Withdrawn::default();
        let allowed = match &self.inner.kind {
            Kind::Percentage {
                slices,
                deposits,
                withdrawals,
            } => {
                let slice = slices.of(now);
                let (share, withdrawals) = &mut *lock(withdrawals);
                let allowed = share.available(deposits, withdrawals, slice) > 0;
                if allowed {
                    withdrawals.add(slice);
                    withdrawn.slice = slice;
                }
                allowed
            }
            Kind::Tokens { bucket, prices } => {
                withdrawn.price = prices.of(class);
                bucket.refill(now);
                bucket.take(withdrawn.price)
            }
            Kind::Grpc { bucket, .. } => bucket.is_more_than_half_full(),
            Kind::InFlight(in_flight) => in_flight.begin_extra(),
        };
        allowed.then_some(withdrawn)
    }

    /// Returns a withdrawal whose attempt did not begin.
    fn give_back(&self, withdrawn: Withdrawn) {
        match &self.inner.kind {
            Kind::Percentage { withdrawals, .. } => lock(withdrawals).1.remove(withdrawn.slice),
            Kind::Tokens { bucket, .. } => bucket.add(withdrawn.price),
            Kind::Grpc { .. } | Kind::InFlight(_) => {}
        }
    }
}

/// The withdrawal of one attempt.
#[derive(Clone, Copy, Debug, Default)]
struct Withdrawn {
    /// The tokens withdrawn; zero for other kinds of budget.
    price: u64,
    /// The slice that counts it, in a percentage budget.
    slice: u32,
}

/// A call under a budget. Returned by [`RetryBudget::begin`].
///
/// Dropping it ends the call. Unless [`success`](Self::success) was called, that counts neither as a success nor as a
/// failure.
#[derive(Debug)]
#[must_use = "dropping it ends the call"]
pub struct BudgetedCall<'a> {
    budget: &'a RetryBudget,
    /// The price of the last retry of this call, or [`NOTHING`](Self::NOTHING) before the first, and the flag
    /// [`NESTED`](Self::NESTED). One word: an enum would have a gap beside its tag, which is copied in pieces.
    last_price: u64,
}

impl<'a> BudgetedCall<'a> {
    const NOTHING: u64 = Self::NESTED - 1;
    /// Set if an outer layer has begun the call, counts it, and records its result.
    const NESTED: u64 = 1 << 63;

    /// Returns whether an outer layer has begun the call in the same budget. That layer records the result.
    pub(crate) const fn is_nested(&self) -> bool {
        self.last_price & Self::NESTED != 0
    }

    /// Sets the price of the last retry. Returns the price of the one before.
    const fn replace_last_price(&mut self, price: u64) -> u64 {
        let nested = self.last_price & Self::NESTED;
        std::mem::replace(&mut self.last_price, nested | price) & !Self::NESTED
    }

    /// Records that an attempt failed in a way that is worth a retry, or would be if the server did not forbid it.
    pub fn failure(&mut self) {
        self.record_failure();
    }

    /// Like [`failure`](Self::failure). Returns the tokens that it cost.
    pub(crate) fn record_failure(&mut self) -> u64 {
        match &self.budget.inner.kind {
            Kind::Grpc { bucket, .. } => bucket.lose(Tokens::ONE),
            _ => 0,
        }
    }

    /// Returns the tokens of a failure that was recorded, if an outer layer records the same failure: it is the result
    /// of the call.
    pub(crate) fn leave_to_outer(&mut self, cost: u64) {
        if let (true, Kind::Grpc { bucket, .. }) = (self.is_nested(), &self.budget.inner.kind) {
            bucket.add(cost);
        }
    }

    /// Withdraws one more attempt after a failure of this class. `None` if the budget is empty.
    ///
    /// The attempt is in flight until the returned value is dropped.
    pub fn withdraw(&mut self, class: ErrorClass) -> Option<Extra<'a>> {
        let mut extra = self.reserve_at(class, self.budget.now())?;
        extra.begin();
        Some(extra)
    }

    /// Like [`withdraw`](Self::withdraw), at the last reading of the clock in `cx`, for an attempt that
    /// [begins](Extra::begin) later or not at all.
    pub(crate) fn reserve_in(&mut self, class: ErrorClass, cx: &mut Context) -> Option<Extra<'a>> {
        self.reserve_at(class, self.budget.now_in(cx))
    }

    fn reserve_at(&mut self, class: ErrorClass, now: Instant) -> Option<Extra<'a>> {
        let withdrawn = self.budget.withdraw(class, now)?;
        let price_before = self.replace_last_price(withdrawn.price);
        Some(Extra {
            budget: self.budget,
            withdrawn,
            price_before,
            begun: false,
        })
    }

    /// Returns the withdrawal of an attempt that began, and that an inner layer rejected: it did not reach the
    /// dependency, which the budget protects.
    pub(crate) fn give_back(&mut self, mut extra: Extra<'a>) {
        self.replace_last_price(extra.price_before);
        extra.begun = false;
    }

    /// Like [`give_back`](Self::give_back), for one of several attempts at a time. `last` is the price of the last one
    /// that is not returned.
    pub(crate) fn give_back_one(&mut self, extra: Extra<'a>, last: Option<u64>) {
        self.give_back(extra);
        self.replace_last_price(last.unwrap_or(Self::NOTHING));
    }

    /// Records that the call succeeded. Refunds the price of its last retry.
    pub fn success(&mut self) {
        let paid = self.replace_last_price(Self::NOTHING);
        match &self.budget.inner.kind {
            Kind::Tokens { bucket, .. } if paid != Self::NOTHING => bucket.add(paid),
            // The outer layer records the success of the call.
            _ if self.is_nested() => {}
            Kind::Tokens { bucket, prices } => bucket.add(prices.reward),
            Kind::Grpc { bucket, ratio } => bucket.add(*ratio),
            Kind::Percentage { .. } | Kind::InFlight(_) => {}
        }
    }
}

impl Drop for BudgetedCall<'_> {
    fn drop(&mut self) {
        if self.is_nested() {
            return;
        }
        if let Kind::InFlight(in_flight) = &self.budget.inner.kind {
            in_flight.end();
        }
    }
}

/// A further attempt that a budget has allowed. Dropping it ends the attempt.
#[derive(Debug)]
#[must_use = "dropping it ends the attempt"]
pub struct Extra<'a> {
    budget: &'a RetryBudget,
    /// The withdrawal, which is returned unless the attempt has begun.
    withdrawn: Withdrawn,
    /// The price of the retry of the call before, or [`NOTHING`](BudgetedCall::NOTHING).
    price_before: u64,
    begun: bool,
}

impl Extra<'_> {
    /// Returns the tokens withdrawn.
    pub(crate) const fn price(&self) -> u64 {
        self.withdrawn.price
    }

    /// Marks the attempt as begun. Otherwise, dropping it returns the withdrawal.
    pub(crate) const fn begin(&mut self) {
        self.begun = true;
    }
}

impl Drop for Extra<'_> {
    fn drop(&mut self) {
        if !self.begun {
            self.budget.give_back(self.withdrawn);
        }
        if let Kind::InFlight(in_flight) = &self.budget.inner.kind {
            in_flight.end_extra();
        }
    }
}

#[cfg(test)]
mod tests;
