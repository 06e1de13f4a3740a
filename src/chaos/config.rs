//! The builder of injectors.

use std::future::Future;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::Chaos;
use super::inner::{Behavior, CallFilter, Inner};
use super::make::{Makes, NoFault, Possible};
use super::state::{Fault, Latency, NAME, State, check_latency, check_rates, check_share};
use crate::base::Setup;
use crate::error::ConfigError;
use crate::policy::Context;
use crate::rng::SharedRng;

/// Builds a [`Chaos`].
///
/// The defaults are in the table of the [module page](super).
#[derive(Clone)]
#[must_use = "a builder does nothing until `build`"]
pub struct ChaosBuilder<E = NoFault, R = NoFault> {
    parts: Parts,
    error: E,
    result: R,
}

/// Settings that do not depend on the types of the faults.
#[derive(Clone)]
struct Parts {
    rates: [f64; 4],
    latency: Latency,
    behavior: Option<Arc<Behavior>>,
    only: Option<Arc<CallFilter>>,
    max_share: f64,
    enabled: bool,
    seed: Option<u64>,
    setup: Setup,
}

impl Chaos {
    /// Returns a builder with the default settings, which injects nothing.
    pub const fn builder() -> ChaosBuilder {
        ChaosBuilder {
            parts: Parts {
                rates: [0.0; 4],
                latency: Latency {
                    min: Duration::ZERO,
                    max: Duration::ZERO,
                },
                behavior: None,
                only: None,
                max_share: 0.1,
                enabled: true,
                seed: None,
                setup: Setup::new(NAME),
            },
            error: NoFault,
            result: NoFault,
        }
    }
}

impl<E, R> ChaosBuilder<E, R> {
    /// Delays this share of the calls, by a fixed time or by a random time in a range. Default none.
    pub fn latency(mut self, rate: f64, latency: impl Into<Latency>) -> Self {
        self.parts.rates[Fault::Latency as usize] = rate;
        self.parts.latency = latency.into();
        self
    }

    /// Runs a function before this share of the calls, for example to restart a server, fill a disk, or drop a
    /// connection. The call starts when its future is ready.
    pub fn behavior<F, Fut>(mut self, rate: f64, behavior: F) -> Self
    where
        F: Fn() -> Fut + Send + Sync + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        self.parts.rates[Fault::Behavior as usize] = rate;
        self.parts.behavior = Some(Arc::new(move || Box::pin(behavior())));
        self
    }

    /// Fails this share of the calls with an error that `make` returns, without running them.
    pub fn error<F, T>(mut self, rate: f64, make: F) -> ChaosBuilder<Makes<F>, R>
    where
        F: Fn() -> T,
    {
        self.parts.rates[Fault::Error as usize] = rate;
        ChaosBuilder {
            parts: self.parts,
            error: Makes(make),
            result: self.result,
        }
    }

    /// Replaces this share of the calls by a result that `make` returns, without running them.
    pub fn result<F, T, X>(mut self, rate: f64, make: F) -> ChaosBuilder<E, Makes<F>>
    where
        F: Fn() -> Result<T, X>,
    {
        self.parts.rates[Fault::Result as usize] = rate;
        ChaosBuilder {
            parts: self.parts,
            error: self.error,
            result: Makes(make),
        }
    }

    /// Restricts faults to calls for which `only` returns `true`, for example those of a low priority.
    pub fn only(mut self, only: impl Fn(&Context) -> bool + Send + Sync + 'static) -> Self {
        self.parts.only = Some(Arc::new(only));
        self
    }

    /// Sets the largest share of calls that get a fault, from 0 to 1, whatever the rates are. It holds from the first
    /// call on. Calls without a fault save up at most 10 faults, so of any `n` consecutive calls at most `n × share +
    /// 10` get one. Zero injects no faults.
    pub const fn max_share(mut self, share: f64) -> Self {
        self.parts.max_share = share;
        self
    }

    /// Sets whether faults are injected from the start. A [`Switch`](super::Switch) changes it later.
    pub const fn enabled(mut self, enabled: bool) -> Self {
        self.parts.enabled = enabled;
        self
    }

    /// Makes the faults reproducible: with one task, the same calls get the same faults.
    pub const fn seed(mut self, seed: u64) -> Self {
        self.parts.seed = Some(seed);
        self
    }

    setters! { in parts.setup;
        /// Sets an observer of the faults of all calls, including calls without an observer.
        observer;
        /// Sets the name in events.
        name;
        /// Sets the clock of the delays.
        clock;
    }

    /// Builds the injector.
    ///
    /// # Errors
    ///
    /// If the rates are not from 0 to 1, or exceed 1 together, the cap is not from 0 to 1, the range of delays ends
    /// before it begins, or there is no clock where the feature `tokio` is off.
    pub fn build(self) -> Result<Chaos<E, R>, ConfigError>
    where
        E: Possible,
        R: Possible,
    {
        let parts = self.parts;
        check_rates(parts.rates)?;
        check_share(parts.max_share)?;
        check_latency(parts.latency)?;
        let base = parts.setup.build(NAME)?;
        let possible = [true, parts.behavior.is_some(), E::POSSIBLE, R::POSSIBLE];
        let inner = Inner {
            base,
            state: State::new(parts.rates, parts.max_share, parts.enabled),
            latency: Mutex::new(parts.latency),
            behavior: parts.behavior,
            only: parts.only,
            possible,
            setting: Mutex::new(()),
            rng: SharedRng::new(parts.seed),
        };
        Ok(Chaos {
            inner: Arc::new(inner),
            error: self.error,
            result: self.result,
        })
    }
}

impl<E, R> std::fmt::Debug for ChaosBuilder<E, R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ChaosBuilder")
            .field("name", &self.parts.setup.name)
            .field("rates", &self.parts.rates)
            .field("max_share", &self.parts.max_share)
            .finish_non_exhaustive()
    }
}
