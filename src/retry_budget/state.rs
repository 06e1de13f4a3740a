//! The arithmetic of budgets. Time is an argument, as the number of a slice.

use std::time::Duration;

use crate::instant::{Instant, nanos};
use crate::sync::{AtomicU64, Ordering};
use crate::verdict::ErrorClass;

/// Slices of the sliding window.
const SLICES: usize = 10;

/// The slices of the window of a percentage budget.
#[derive(Debug)]
pub(super) struct Slices {
    nanos: u64,
}

impl Slices {
    pub(super) fn new(window: Duration) -> Self {
        Self {
            nanos: nanos(window) / SLICES as u64,
        }
    }

    /// Returns the number of the slice that `now` is in.
    #[inline]
    pub(super) fn of(&self, now: Instant) -> u32 {
        // Slices need to differ only within a window, so it does not matter that the number wraps after years.
        (now.as_nanos() / self.nanos) as u32
    }

    fn window(&self) -> Duration {
        Duration::from_nanos(self.nanos * SLICES as u64)
    }
}

/// The rule of a percentage budget: how deposits and withdrawals add up.
#[derive(Debug)]
pub(super) struct Share {
    deposit: i128,
    price: i128,
    reserve: i128,
}

impl Share {
    /// The larger of deposit and price is this many units, so that the other is exact to 1e-9.
    const UNIT: f64 = 1e9;

    pub(super) fn new(ratio: f64, floor_per_second: u32, slices: &Slices) -> Self {
        let (deposit, price) = if ratio <= 1.0 {
            (ratio * Self::UNIT, Self::UNIT)
        } else {
            (Self::UNIT, Self::UNIT / ratio)
        };
        let price = price.round() as i128;
        let floor = slices.window().as_secs_f64() * f64::from(floor_per_second);
        Self {
            deposit: deposit.round() as i128,
            price,
            reserve: price * floor as i128,
        }
    }

    /// Changes the ratio. Both ratios must be at most 1. Calls that were counted count at the new ratio.
    pub(super) fn set_ratio(&mut self, ratio: f64) {
        self.deposit = (ratio * Self::UNIT).round() as i128;
    }

    /// Returns the number of retries that the window allows as of `slice`.
    pub(super) fn available(
        &self,
        deposits: &Deposits,
        withdrawals: &Withdrawals,
        slice: u32,
    ) -> u64 {
        let deposited = i128::from(sum(deposits.words(), slice)) * self.deposit;
        let withdrawn = i128::from(withdrawals.count(slice)) * self.price;
        let balance = self.reserve + deposited - withdrawn;
        u64::try_from(balance / self.price).unwrap_or(0)
    }
}

// Packs a slice into a word: its number in the upper half, the count in the lower.

const fn word(slice: u32, count: u32) -> u64 {
    (slice as u64) << 32 | count as u64
}

const fn slice_of(word: u64) -> u32 {
    (word >> 32) as u32
}

/// Returns whether a word belongs to the window that ends with `slice`. So does a slice shortly ahead, because a late
/// reading of the clock must not lose its count.
const fn is_inside(slice: u32, word: u64) -> bool {
    let age = slice.wrapping_sub(slice_of(word)) as i32;
    age < SLICES as i32 && age > -(SLICES as i32)
}

/// Returns the sum of the counts in the window that ends with `slice`.
fn sum(words: [u64; SLICES], slice: u32) -> u64 {
    let inside = words.into_iter().filter(|&word| is_inside(slice, word));
    inside.map(|word| u64::from(word as u32)).sum()
}

/// Calls per slice. Lock-free.
#[derive(Debug)]
pub(super) struct Deposits([AtomicU64; SLICES]);

impl Deposits {
    pub(super) fn new() -> Self {
        Self(std::array::from_fn(|_| AtomicU64::new(0)))
    }

    /// Counts a call.
    #[inline]
    pub(super) fn add(&self, slice: u32) {
        let slot = &self.0[slice as usize % SLICES];
        // Relaxed throughout: a slice is one word and publishes nothing beside itself.
        let mut current = slot.load(Ordering::Relaxed);
        loop {
            if slice_of(current) == slice {
                // A newer slice may have replaced it: then the call counts there. Half of the range is reserved for
                // concurrent additions.
                if (current as u32) < u32::MAX / 2 {
                    slot.fetch_add(1, Ordering::Relaxed);
                }
                return;
            }
            match slot.compare_exchange_weak(
                current,
                word(slice, 1),
                Ordering::Relaxed,
                Ordering::Relaxed,
            ) {
                Ok(_) => return,
                Err(now) => current = now,
            }
        }
    }

    fn words(&self) -> [u64; SLICES] {
        std::array::from_fn(|i| self.0[i].load(Ordering::Relaxed))
    }
}

/// Retries per slice.
#[derive(Debug)]
pub(super) struct Withdrawals([u64; SLICES]);

impl Withdrawals {
    pub(super) const fn new() -> Self {
        Self([0; SLICES])
    }

    /// Returns the number of retries in the window that ends with `slice`.
    pub(super) fn count(&self, slice: u32) -> u64 {
        sum(self.0, slice)
    }

    /// Counts a retry.
    pub(super) fn add(&mut self, slice: u32) {
        let slot = &mut self.0[slice as usize % SLICES];
        let count = if slice_of(*slot) == slice {
            *slot as u32
        } else {
            0
        };
        *slot = word(slice, count.saturating_add(1));
    }

    /// Takes back a retry that was counted in this slice.
    pub(super) fn remove(&mut self, slice: u32) {
        let slot = &mut self.0[slice as usize % SLICES];
        if slice_of(*slot) == slice {
            *slot = word(slice, (*slot as u32).saturating_sub(1));
        }
    }
}

/// Prices of retries and the reward of a success at the first attempt, in the bucket's unit.
#[derive(Clone, Copy, Debug)]
pub(super) struct Prices {
    pub(super) transient: u64,
    pub(super) throttled: u64,
    pub(super) timeout: u64,
    pub(super) reward: u64,
}

impl Prices {
    pub(super) const fn of(&self, class: ErrorClass) -> u64 {
        match class {
            ErrorClass::Transient => self.transient,
            ErrorClass::Throttled => self.throttled,
            ErrorClass::Timeout => self.timeout,
        }
    }
}

/// A bucket of thousandths of tokens. Lock-free.
#[derive(Debug)]
pub(super) struct Tokens {
    capacity: u64,
    left: AtomicU64,
    /// Thousandths of tokens added per second.
    refill: u64,
    /// The time up to which `left` includes the refill, in nanoseconds.
    refilled_at: AtomicU64,
}

impl Tokens {
    /// One token, in thousandths.
    pub(super) const ONE: u64 = 1000;

    /// Returns the tokens of the full bucket.
    pub(super) fn capacity(&self) -> f64 {
        self.capacity as f64 / Self::ONE as f64
    }

    /// Converts tokens to thousandths, rounded down. A small addition keeps 0.546 from becoming 0.545.
    pub(super) fn from_f64(tokens: f64) -> u64 {
        (tokens * Self::ONE as f64 + 1e-9) as u64
    }

    pub(super) fn new(capacity: u64, initial: u64) -> Self {
        Self {
            capacity,
            left: AtomicU64::new(initial.min(capacity)),
            refill: 0,
            refilled_at: AtomicU64::new(0),
        }
    }

    /// Returns the same bucket with a refill of this many thousandths per second from `now` on.
    pub(super) fn refilled(mut self, per_second: u64, now: Instant) -> Self {
        self.refill = per_second;
        self.refilled_at = AtomicU64::new(now.as_nanos());
        self
    }

    /// Adds the tokens earned since the last refill.
    pub(super) fn refill(&self, now: Instant) {
        let at = self.refilled_at.load(Ordering::Relaxed);
        let (earned, until) = self.earned(at, now);
        // Relaxed: the thread that advances the time adds what that time earned, once. A thread preempted between the
        // two steps delays tokens but loses none.
        let moved = earned > 0
            && self
                .refilled_at
                .compare_exchange(at, until, Ordering::Relaxed, Ordering::Relaxed)
                .is_ok();
        if moved {
            self.add(earned);
        }
    }

    /// Returns the refill from `at` to `now`, and the time of its last whole thousandth: the remaining time counts
    /// towards the next.
    fn earned(&self, at: u64, now: Instant) -> (u64, u64) {
        const SECOND: u128 = 1_000_000_000;
        if self.refill == 0 {
            return (0, at);
        }
        let refill = u128::from(self.refill);
        let elapsed = u128::from(now.as_nanos().saturating_sub(at));
        let earned = elapsed * refill / SECOND;
        let took = (earned * SECOND).div_ceil(refill);
        let earned = u64::try_from(earned).unwrap_or(u64::MAX);
        (
            earned,
            at.saturating_add(u64::try_from(took).unwrap_or(u64::MAX)),
        )
    }

    /// Takes `price` if there is that much.
    pub(super) fn take(&self, price: u64) -> bool {
        // Relaxed: the tokens publish no other memory.
        self.left
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| {
                left.checked_sub(price)
            })
            .is_ok()
    }

    /// Takes `price`, or what is left. Returns what it took.
    pub(super) fn lose(&self, price: u64) -> u64 {
        self.update(|left| left.saturating_sub(price)).min(price)
    }

    /// Adds tokens up to the capacity.
    pub(super) fn add(&self, tokens: u64) {
        self.update(|left| left.saturating_add(tokens).min(self.capacity));
    }

    /// Changes the tokens left. Returns those before.
    fn update(&self, f: impl Fn(u64) -> u64) -> u64 {
        let mut left = self.left.load(Ordering::Relaxed);
        loop {
            let new = f(left);
            // A full bucket is not written, so that successes do not contend.
            if new == left {
                return left;
            }
            match self
                .left
                .compare_exchange_weak(left, new, Ordering::Relaxed, Ordering::Relaxed)
            {
                Ok(_) => return left,
                Err(now) => left = now,
            }
        }
    }

    pub(super) fn is_more_than_half_full(&self) -> bool {
        self.left.load(Ordering::Relaxed) > self.capacity / 2
    }

    /// Returns the tokens as of `now`. Changes nothing.
    pub(super) fn tokens(&self, now: Instant) -> f64 {
        let (earned, _) = self.earned(self.refilled_at.load(Ordering::Relaxed), now);
        let left = self.left.load(Ordering::Relaxed).saturating_add(earned);
        left.min(self.capacity) as f64 / Self::ONE as f64
    }
}

/// Calls and further attempts in flight, in one word so that they are read together.
#[derive(Debug)]
pub(super) struct InFlight {
    ratio: f64,
    floor: u32,
    /// Calls in the upper half, further attempts in the lower.
    counts: AtomicU64,
}

impl InFlight {
    const CALL: u64 = 1 << 32;

    pub(super) fn new(ratio: f64, floor: u32) -> Self {
        Self {
            ratio,
            floor,
            counts: AtomicU64::new(0),
        }
    }

    // Relaxed throughout: the counts publish no other memory.

    pub(super) fn begin(&self) {
        self.counts.fetch_add(Self::CALL, Ordering::Relaxed);
    }

    pub(super) fn end(&self) {
        self.counts.fetch_sub(Self::CALL, Ordering::Relaxed);
    }

    pub(super) fn begin_extra(&self) -> bool {
        self.counts
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |counts| {
                (self.room(counts) > 0).then_some(counts + 1)
            })
            .is_ok()
    }

    pub(super) fn end_extra(&self) {
        self.counts.fetch_sub(1, Ordering::Relaxed);
    }

    /// Returns the number of further attempts that may begin.
    pub(super) fn available(&self) -> u32 {
        self.room(self.counts.load(Ordering::Relaxed))
    }

    fn room(&self, counts: u64) -> u32 {
        let (calls, extras) = ((counts >> 32) as u32, counts as u32);
        let share = (f64::from(calls) * self.ratio) as u32;
        share.max(self.floor).saturating_sub(extras)
    }

    /// Returns the calls and the further attempts in flight.
    pub(super) fn counts(&self) -> (u32, u32) {
        let counts = self.counts.load(Ordering::Relaxed);
        ((counts >> 32) as u32, counts as u32)
    }
}
