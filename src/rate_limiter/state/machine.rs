//! A limit of any algorithm, and several limits at once.

use std::time::Duration;

use super::fixed_window::FixedWindow;
use super::gcra::Gcra;
use super::leaky_bucket::LeakyBucket;
use super::limit::{Availability, Inherit, Limit, Unavailable};
use super::sliding_counter::SlidingCounter;
use super::sliding_log::SlidingLog;
use super::striped_copy::StripedCopy;
use super::warm_up::WarmUp;
use crate::instant::Instant;

/// The rules and the state of a token bucket.
#[derive(Clone, Debug)]
pub(crate) struct Bucket {
    pub(crate) gcra: Gcra,
    pub(crate) tat: u64,
}

impl Limit for Bucket {
    fn ready(&self, now: Instant, tokens: u64, debt: u64) -> Result<(), Unavailable> {
        self.gcra.ready(self.tat, now, tokens, debt)
    }

    fn force_take(&mut self, now: Instant, tokens: u64) {
        self.tat = self.gcra.force_take(self.tat, now, tokens);
    }

    fn force_take_all(&mut self, now: Instant, tokens: u64) -> bool {
        self.force_take(now, tokens);
        true
    }

    fn give(&mut self, _: Instant, _: Option<Instant>, tokens: u64) {
        self.tat = self.gcra.give(self.tat, tokens);
    }

    fn availability(&self, now: Instant) -> Availability {
        self.gcra.availability(self.tat, now)
    }
}

/// A limit of any algorithm.
#[derive(Clone, Debug)]
pub(crate) enum Machine {
    Token(Bucket),
    StripedCopy(StripedCopy),
    Leaky(LeakyBucket),
    Fixed(FixedWindow),
    Log(SlidingLog),
    Counter(SlidingCounter),
    WarmUp(WarmUp),
}

impl Machine {
    pub(crate) fn limit(&self) -> &dyn Limit {
        match self {
            Self::Token(limit) => limit,
            Self::StripedCopy(limit) => limit,
            Self::Leaky(limit) => limit,
            Self::Fixed(limit) => limit,
            Self::Log(limit) => limit,
            Self::Counter(limit) => limit,
            Self::WarmUp(limit) => limit,
        }
    }

    pub(crate) fn limit_mut(&mut self) -> &mut dyn Limit {
        match self {
            Self::Token(limit) => limit,
            Self::StripedCopy(limit) => limit,
            Self::Leaky(limit) => limit,
            Self::Fixed(limit) => limit,
            Self::Log(limit) => limit,
            Self::Counter(limit) => limit,
            Self::WarmUp(limit) => limit,
        }
    }

    /// Returns whether each turn follows from the previous turn, regardless of when calls arrive.
    const fn keeps_schedule(&self) -> bool {
        matches!(
            self,
            Self::Token(_) | Self::StripedCopy(_) | Self::Leaky(_) | Self::WarmUp(_)
        )
    }

    /// Replaces its settings with those of `new`, a machine of the same algorithm. Returns `false` and changes
    /// nothing if the algorithms differ.
    pub(crate) fn replace(&mut self, now: Instant, new: Self, inherit: Inherit) -> bool {
        match (self, new) {
            (Self::Token(old), Self::Token(new)) => {
                let fresh = (&new.gcra, new.tat);
                old.tat = old.gcra.inherit(old.tat, now, fresh, inherit);
                old.gcra = new.gcra;
            }
            (Self::Leaky(old), Self::Leaky(new)) => old.replace(now, new, inherit),
            (Self::Fixed(old), Self::Fixed(new)) => old.replace(now, new, inherit),
            (Self::Log(old), Self::Log(new)) => old.replace(now, new, inherit),
            (Self::Counter(old), Self::Counter(new)) => old.replace(now, new, inherit),
            (Self::WarmUp(old), Self::WarmUp(new)) => old.replace(now, new, inherit),
            _ => return false,
        }
        true
    }
}

/// One or several limits, all of which a call must fit.
#[derive(Clone, Debug)]
pub(crate) struct Limits(Vec<Machine>);

impl Limits {
    pub(crate) const fn new(machines: Vec<Machine>) -> Self {
        Self(machines)
    }

    /// Takes `tokens` from all limits or from none, leaving each no more than `debt` tokens of debt.
    pub(crate) fn take(&mut self, now: Instant, tokens: u64, debt: u64) -> Result<(), Unavailable> {
        let ready = self.ready(now, tokens, debt);
        match ready {
            Ok(()) => self.force_take(now, tokens),
            Err(_) => self.record_rejection(now),
        }
        ready
    }

    /// Takes `tokens` for a waiter whose turn comes at `from` or later, and by `now`. Limits with a schedule count
    /// them as taken at the turn, so that lateness does not delay the waiters behind; other limits count them as
    /// taken at `now`.
    pub(crate) fn serve(
        &mut self,
        from: Instant,
        now: Instant,
        tokens: u64,
    ) -> Result<Instant, Unavailable> {
        let turn = match self.ready(from, tokens, 0) {
            Ok(()) => from,
            Err(Unavailable::Until(turn)) if turn <= now => turn,
            Err(unavailable) => return Err(unavailable),
        };
        for machine in &mut self.0 {
            let at = if machine.keeps_schedule() { turn } else { now };
            machine.limit_mut().force_take(at, tokens);
        }
        Ok(now)
    }

    /// Takes tokens that have already been consumed: from each limit, as many of `tokens` as leave it at most `debt`
    /// tokens of debt.
    pub(crate) fn charge(&mut self, now: Instant, tokens: u64, debt: u64) {
        self.charge_each(now, std::iter::repeat(tokens), debt);
    }

    /// Takes from each limit its own number of `tokens`, or as many as leave it at most `debt` tokens of debt.
    pub(crate) fn charge_each(
        &mut self,
        now: Instant,
        tokens: impl IntoIterator<Item = u64>,
        debt: u64,
    ) {
        for (machine, tokens) in self.0.iter_mut().zip(tokens) {
            let room = machine.limit().availability(now).room(debt);
            machine.limit_mut().force_take(now, tokens.min(room));
        }
    }

    pub(crate) fn availabilities(&self, now: Instant) -> Vec<Availability> {
        let each = self.0.iter();
        each.map(|machine| machine.limit().availability(now))
            .collect()
    }

    /// Replaces the settings of each limit. Returns `false` and changes nothing if they do not match.
    pub(crate) fn replace(&mut self, now: Instant, new: Self, inherit: Inherit) -> bool {
        let mut replaced = self.0.clone();
        let matching = replaced.len() == new.0.len()
            && replaced
                .iter_mut()
                .zip(new.0)
                .all(|(old, new)| old.replace(now, new, inherit));
        if matching {
            self.0 = replaced;
        }
        matching
    }

    /// Returns whether all limits are `ready` at `now`, or the first instant at which they are.
    #[inline]
    fn all(
        &self,
        now: Instant,
        ready: impl Fn(&dyn Limit, Instant) -> Result<(), Unavailable>,
    ) -> Result<(), Unavailable> {
        let mut at = now;
        // Windows earn in steps, so another limit may not be ready at the latest time of all limits. The loop ends
        // because waiting never makes a limit worse.
        loop {
            let each = self.0.iter().map(Machine::limit);
            let each = each.filter_map(|limit| ready(limit, at).err());
            match each.reduce(Unavailable::max) {
                None if at == now => return Ok(()),
                None => return Err(Unavailable::Until(at)),
                Some(Unavailable::Until(later)) if later > at && later != Instant::FAR_FUTURE => {
                    at = later;
                }
                Some(unavailable) => return Err(unavailable),
            }
        }
    }
}

impl Limit for Limits {
    fn ready(&self, now: Instant, tokens: u64, debt: u64) -> Result<(), Unavailable> {
        self.all(now, |limit, at| limit.ready(at, tokens, debt))
    }

    fn force_take(&mut self, now: Instant, tokens: u64) {
        for machine in &mut self.0 {
            machine.limit_mut().force_take(now, tokens);
        }
    }

    fn force_take_all(&mut self, now: Instant, tokens: u64) -> bool {
        match &mut self.0[..] {
            [machine] => machine.limit_mut().force_take_all(now, tokens),
            _ => false,
        }
    }

    fn give(&mut self, now: Instant, taken: Option<Instant>, tokens: u64) {
        for machine in &mut self.0 {
            machine.limit_mut().give(now, taken, tokens);
        }
    }

    fn record_rejection(&mut self, now: Instant) {
        for machine in &mut self.0 {
            machine.limit_mut().record_rejection(now);
        }
    }

    /// Returns the availability of the limit with the fewest tokens. `full_at` is that of all of them.
    fn availability(&self, now: Instant) -> Availability {
        let availabilities = self
            .0
            .iter()
            .map(|machine| machine.limit().availability(now));
        let tightest = availabilities.reduce(|a, b| {
            let full_at = a.full_at.max(b.full_at);
            let tighter = if b.available < a.available { b } else { a };
            Availability { full_at, ..tighter }
        });
        tightest.unwrap_or(Availability::new(0, 0, now, Duration::ZERO))
    }

    fn has_more(&self, now: Instant, tokens: u64) -> Result<(), Unavailable> {
        self.all(now, |limit, at| limit.has_more(at, tokens))
    }
}
