//! State shared by the clones of a stack: its configurations, of which one is in force.

use std::sync::Arc;
use std::time::Duration;

use super::config::Config;
use super::stack::{Site, Stack};
use crate::clock::ClockHandle;
use crate::error::ConfigError;
use crate::event::Observer;
use crate::keyed::Evictable;
use crate::versions::{Next, Versions};

pub(super) struct Inner {
    pub(super) name: &'static str,
    pub(super) clock: ClockHandle,
    observer: Option<Arc<dyn Observer>>,
    versions: Versions<Stack>,
}

impl Inner {
    pub(super) fn new(
        name: &'static str,
        clock: ClockHandle,
        observer: Option<Arc<dyn Observer>>,
        config: Config,
    ) -> Result<Self, ConfigError> {
        let site = Site {
            name,
            clock: &clock,
            observer: observer.as_ref(),
        };
        let stack = Stack::build(&site, &config, None)?;
        Ok(Self {
            name,
            clock,
            observer,
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
            let site = Site {
                name: self.name,
                clock: &self.clock,
                observer: self.observer.as_ref(),
            };
            let stack = Stack::build(&site, config, Some(before))?;
            let next = match self.versions.find(|old| old.is_same(&stack)) {
                Some(index) => Next::Again(index),
                None => Next::New(Box::new(stack)),
            };
            if self.versions.replace(base, next).is_ok() {
                return self.apply();
            }
        }
    }

    /// Applies the current configuration to the limiter and the budget. Repeats until no concurrent change has
    /// replaced the configuration meanwhile, so the last change wins.
    fn apply(&self) -> Result<(), ConfigError> {
        loop {
            let index = self.versions.index();
            self.versions.get(index).apply()?;
            if self.versions.index() == index {
                return Ok(());
            }
        }
    }

    pub(super) fn evictable_in(&self) -> Option<Duration> {
        if self.versions.index() != 0 {
            return None;
        }
        self.current().pipeline.evictable_in()
    }
}
