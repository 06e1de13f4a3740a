//! State shared by the clones of a stack: its configurations, of which one is in force.

use std::sync::Arc;
use std::time::Duration;

use super::config::Config;
use super::stack::{Identity, Stack};
use crate::error::ConfigError;
use crate::event::Panics;
use crate::keyed::Evictable;
use crate::versions::{Next, Versions};

pub(super) struct Inner {
    pub(super) identity: Identity,
    /// The configuration that the stack was built with.
    first: Arc<Config>,
    versions: Versions<Stack>,
}

impl Inner {
    pub(super) fn new(identity: Identity, config: &Config) -> Result<Self, ConfigError> {
        let stack = Stack::build(&identity, config, None)?;
        Ok(Self {
            identity,
            first: stack.config(),
            versions: Versions::new(stack),
        })
    }

    /// Returns the configuration in force.
    #[inline(always)]
    pub(super) fn current(&self) -> &Stack {
        self.versions.current()
    }

    /// Puts `config` in force.
    pub(super) fn reconfigure(&self, config: &Config) -> Result<(), ConfigError> {
        // Layers are built without a lock, because clocks and observers may be user code. If another change finishes
        // first, this one starts over from its layers.
        loop {
            let base = self.versions.index();
            let before = self.versions.get(base);
            let stack = Stack::build(&self.identity, config, Some(before))?;
            let next = match self.versions.find(|old| old.has_layers_of(&stack)) {
                Some(index) => {
                    // If another change comes first, it may use these layers too, and apply this configuration until
                    // the next round of the loop.
                    self.versions.get(index).set_config(config);
                    Next::Again(index)
                }
                None => {
                    // Before any call can find the new breaker.
                    stack.continue_from(before);
                    Next::New(Box::new(stack))
                }
            };
            match self.versions.replace(base, next) {
                Ok(()) => {
                    // Observers are user code: a panic must not leave the change half done.
                    let mut panics = Panics::default();
                    panics.run(|| self.take_over_from(before));
                    let applied = self.apply();
                    panics.resume();
                    return applied;
                }
                Err(Next::New(stack)) => stack.abandon(before),
                Err(Next::Again(_)) => {}
            }
        }
    }

    /// Lets the current breaker take over from the one before, with the isolations that began while it was being replaced.
    /// Repeats until no concurrent change has replaced it meanwhile.
    fn take_over_from(&self, before: &Stack) {
        loop {
            let index = self.versions.index();
            self.versions.get(index).take_over_from(before);
            if self.versions.index() == index {
                return;
            }
        }
    }

    /// Applies the current configuration to the limiter, the breaker, and the budget. Repeats until no concurrent
    /// change has replaced the configuration meanwhile, so the last change wins.
    fn apply(&self) -> Result<(), ConfigError> {
        loop {
            let index = self.versions.index();
            let stack = self.versions.get(index);
            let config = stack.config();
            stack.apply(&config)?;
            if self.versions.index() == index && Arc::ptr_eq(&config, &stack.config()) {
                return Ok(());
            }
        }
    }

    pub(super) fn evictable_in(&self) -> Option<Duration> {
        let stack = self.current();
        if self.versions.index() != 0 || *stack.config() != *self.first {
            return None;
        }
        stack.pipeline.evictable_in()
    }
}

#[cfg(all(test, not(backstop_loom)))]
mod tests {
    use super::*;
    use crate::circuit_breaker::{CircuitBreaker, State, Trip};
    use crate::clock::ManualClock;
    use crate::rate_limiter::Quota;
    use crate::standard::Standard;

    /// A controller that changes a quota each second must not fill the memory.
    #[test]
    fn quotas_thresholds_and_shares_change_without_new_layers() {
        let first = |config: Config| {
            let breaker = CircuitBreaker::builder().trip_on(Trip::failure_rate(0.5).of_last(200));
            config.quota(Quota::per_hour(1)).breaker(breaker)
        };
        let clock = ManualClock::new();
        let standard = Standard::builder()
            .config(first(Config::new()))
            .clock(clock);
        let standard = standard.build().unwrap();
        for n in 1..100 {
            let trip = Trip::failure_rate(0.5).of_last(200).min_calls(n);
            let config = standard.config().quota(Quota::per_hour(u64::from(n)));
            let config = config.breaker(CircuitBreaker::builder().trip_on(trip));
            let config = config.budget_share(0.1, n);
            standard.reconfigure(config.clone()).unwrap();
            assert!(standard.config() == config);
            let snapshot = standard.snapshot();
            assert_eq!(
                snapshot.limiter.unwrap().quotas,
                [Quota::per_hour(u64::from(n))]
            );
            assert_eq!(snapshot.breaker.unwrap().min_calls, u64::from(n));
            assert_eq!(standard.inner.versions.index(), 0);
            assert_eq!(standard.inner.evictable_in(), None);
        }
        standard
            .reconfigure(first(Config::new()).max_attempts(7))
            .unwrap();
        assert_eq!(standard.inner.versions.index(), 1);
    }

    /// Two changes at once: the second one removes the breaker before it takes over from the one before.
    #[test]
    fn a_breaker_that_is_removed_at_once_takes_over_from_its_own() {
        let clock = ManualClock::new();
        let standard = Standard::builder().clock(clock).build().unwrap();
        let inner = &standard.inner;
        let with = |seed| Config::new().breaker(CircuitBreaker::builder().seed(seed));
        let kept = standard.breaker().unwrap();
        let before = inner.current();
        let stack = Stack::build(&inner.identity, &with(1), Some(before)).unwrap();
        stack.continue_from(before);
        let isolation = kept.isolate();
        let next = Next::New(Box::new(stack));
        assert!(inner.versions.replace(0, next).is_ok());
        inner.reconfigure(&Config::new().without_breaker()).unwrap();
        inner.take_over_from(before);
        inner.reconfigure(&with(1)).unwrap();
        let new = standard.breaker().unwrap();
        assert_eq!(new.state(), State::Isolated);
        drop(isolation);
        kept.trip();
        assert_eq!([new.state(), kept.state()], [State::Open; 2]);
    }
}
