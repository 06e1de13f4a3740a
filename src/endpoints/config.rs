//! The builder of sets of endpoints.

use std::sync::Arc;
use std::time::Duration;

use super::Endpoints;
use super::inner::{Inner, Settings};
use super::node::Endpoint;
use super::state::latency::Decay;
use super::state::rules::{FailureShare, MAX_CHOICES, Rules, Strategy, SuccessRate};
use crate::base::Setup;
use crate::error::ConfigError;
use crate::instant::nanos;

/// Builds a set of [`Endpoints`].
///
/// The defaults are in the table of the [module page](super).
#[derive(Clone)]
#[must_use = "a builder does nothing until `build`"]
pub struct EndpointsBuilder<N> {
    nodes: Vec<Endpoint<N>>,
    choices: Option<usize>,
    round_robin: bool,
    decay: Duration,
    failure_penalty: Duration,
    max_hint: Duration,
    rules: Rules,
    seed: Option<u64>,
    setup: Setup,
}

impl<N> Endpoints<N> {
    /// Returns a builder with the default settings and no nodes.
    pub const fn builder() -> EndpointsBuilder<N> {
        EndpointsBuilder {
            nodes: Vec::new(),
            choices: None,
            round_robin: false,
            decay: Duration::from_secs(10),
            failure_penalty: Duration::from_secs(5),
            max_hint: Duration::from_secs(300),
            rules: Rules::DEFAULT,
            seed: None,
            setup: Setup::new(NAME),
        }
    }
}

pub(super) const NAME: &str = "endpoints";

impl<N> EndpointsBuilder<N> {
    /// Adds a node of weight 1 and priority 0.
    pub fn node(mut self, name: impl Into<Arc<str>>, value: N) -> Self {
        self.nodes.push(Endpoint::new(name, value));
        self
    }

    /// Adds nodes. Names must differ.
    pub fn nodes(mut self, nodes: impl IntoIterator<Item = Endpoint<N>>) -> Self {
        self.nodes.extend(nodes);
        self
    }

    /// Sends a call to the best of this many random nodes, by latency × (calls in flight + 1) / weight, from 1 to 16.
    /// Default 2. With two choices, a call that draws two slow nodes goes to one of them: use more if many nodes may
    /// be slow at once. With one, nodes are drawn at random by weight. Contradicts [`round_robin`](Self::round_robin).
    pub const fn choices(mut self, choices: usize) -> Self {
        self.choices = Some(choices);
        self
    }

    /// Sends calls to the nodes in turn, in proportion to their weights, whatever their latency. Contradicts
    /// [`choices`](Self::choices).
    pub const fn round_robin(mut self) -> Self {
        self.round_robin = true;
        self
    }

    /// Sets the time constant of the average of latencies, above zero: after this long without samples, the average is
    /// down to 37 %. Default 10 s.
    pub const fn decay(mut self, decay: Duration) -> Self {
        self.decay = decay;
        self
    }

    /// Sets the least latency that a failed or throttled call counts as. Default 5 s. A longer hint of the server
    /// counts instead. Zero means no penalty: then a node that fails fast would look like the fastest one and attract
    /// all calls.
    pub const fn failure_penalty(mut self, penalty: Duration) -> Self {
        self.failure_penalty = penalty;
        self
    }

    /// Sets the longest time for which a node is parked because of a hint
    /// ([`Verdict::hint`](crate::Verdict::hint)). Default 300 s. Zero ignores hints.
    pub const fn max_hint(mut self, max: Duration) -> Self {
        self.max_hint = max;
        self
    }

    /// Ejects a node after this many consecutive failures. Default 5. Zero turns the rule off.
    pub const fn eject_after(mut self, failures: u32) -> Self {
        self.rules.consecutive = if failures == 0 { None } else { Some(failures) };
        self
    }

    /// Ejects a node whose success rate in an [`interval`](Self::interval) is more than this many standard deviations
    /// below the mean of all nodes. Only nodes with at least `min_calls` in the interval are compared, and only if
    /// there are at least `min_nodes` of them. Default: 1.9 deviations, 100 calls, 5 nodes. Zero deviations turn the
    /// rule off.
    pub const fn eject_below_mean(
        mut self,
        deviations: f64,
        min_calls: u64,
        min_nodes: usize,
    ) -> Self {
        self.rules.success_rate = if deviations == 0.0 {
            None
        } else {
            Some(SuccessRate {
                deviations,
                min_calls,
                min_nodes,
            })
        };
        self
    }

    /// Ejects a node if at least this share of its calls in an [`interval`](Self::interval) failed, and it had at least
    /// `min_calls`. From 0 to 1; default: 0.85 of 50 calls. Zero turns the rule off.
    pub const fn eject_failure_share(mut self, share: f64, min_calls: u64) -> Self {
        self.rules.failure_share = if share == 0.0 {
            None
        } else {
            Some(FailureShare { share, min_calls })
        };
        self
    }

    /// Sets how often nodes are compared, from 1 ms to an hour. Default 10 s. There is no background task: the first
    /// call after an interval does it.
    pub const fn interval(mut self, interval: Duration) -> Self {
        self.rules.interval = interval;
        self
    }

    /// Sets the length of a first ejection, above zero. Default 30 s. Ejection number `n` is `n` times as long; each
    /// interval without an ejection reduces `n` by one.
    pub const fn base_ejection(mut self, length: Duration) -> Self {
        self.rules.base_ejection = length;
        self
    }

    /// Sets the longest ejection, before jitter, at least [`base_ejection`](Self::base_ejection). Default 300 s.
    pub const fn max_ejection(mut self, length: Duration) -> Self {
        self.rules.max_ejection = length;
        self
    }

    /// Lengthens ejections by a random share of up to this much, from 0 to 1, so that nodes that were ejected together
    /// do not return together. Default 0.1.
    pub const fn ejection_jitter(mut self, share: f64) -> Self {
        self.rules.jitter = share;
        self
    }

    /// Sets the largest share of nodes that are ejected at once, from 0 to 1. Default 0.1. One node may always be
    /// ejected, unless it is the last available one of its priority, or the share is zero: then none is.
    pub const fn max_ejected(mut self, share: f64) -> Self {
        self.rules.max_ejected = share;
        self
    }

    /// Sets the panic threshold, from 0 to 1. Default 0.5. If less than this share of the nodes of a priority is
    /// available and other priorities cannot take over, calls go to all of its nodes, because the few available ones
    /// would be overloaded. With zero, calls are rejected once no node is available.
    pub const fn panic_threshold(mut self, share: f64) -> Self {
        self.rules.panic_threshold = share;
        self
    }

    /// Sets how much more than its usual load a priority can take, from 1 to 100. With 1.4, the default, it gets all
    /// calls until less than 71.4 % of its nodes are available.
    pub const fn overprovisioning(mut self, factor: f64) -> Self {
        self.rules.overprovisioning = factor;
        self
    }

    /// Sets how long a new or returning node gets fewer calls than the others. Default 30 s. Zero turns slow start off.
    /// Nodes given to the builder are not new, and calls with a key ignore it.
    pub const fn slow_start(mut self, window: Duration) -> Self {
        self.rules.slow_start.window = nanos(window);
        self
    }

    /// Sets the share of its calls that a new node gets at the start, from 0 to 1, and how fast the share grows:
    /// `max(min, (t / window) ^ (1 / aggression))`, with an aggression from 0.1 to 10. Default 0.1 and 1.
    pub const fn slow_start_shape(mut self, min: f64, aggression: f64) -> Self {
        self.rules.slow_start.min = min;
        self.rules.slow_start.aggression = aggression;
        self
    }

    /// Sets the number of consecutive failed checks after which a node takes no calls ([`Endpoints::check_with`]), at
    /// least 1. Default 3.
    pub const fn unhealthy_after(mut self, checks: u32) -> Self {
        self.rules.unhealthy_after = checks;
        self
    }

    /// Sets the number of consecutive good checks after which a node takes calls again, at least 1. Default 1.
    pub const fn healthy_after(mut self, checks: u32) -> Self {
        self.rules.healthy_after = checks;
        self
    }

    setters! {
        /// Makes picks, slow starts, and jitter reproducible. Threads then contend for the source of randomness.
        seed;
    }

    setters! { in setup;
        /// Reports ejections, and ejects no node.
        shadow;
        /// Sets an observer of the ejections, returns, panics, and rejections of all calls, including calls without an
        /// observer.
        observer;
        /// Sets the name in errors and events.
        name;
        /// Sets the clock of latencies and ejections.
        clock;
    }

    fn strategy(&self) -> Strategy {
        match self.round_robin {
            true => Strategy::RoundRobin,
            false => Strategy::LeastLoaded(self.choices.unwrap_or(2)),
        }
    }

    /// Builds the set.
    ///
    /// # Errors
    ///
    /// If two nodes have the same name, a setting is outside the range its setter documents, two settings contradict
    /// each other, or there is no clock where the feature `tokio` is off.
    pub fn build(self) -> Result<Endpoints<N>, ConfigError> {
        let fail = |setting, problem| Err(ConfigError::new(NAME, setting, problem));
        let is_share = |share: f64| (0.0..=1.0).contains(&share);
        if self.round_robin && self.choices.is_some() {
            return fail("round_robin", "contradicts `choices`: it draws no nodes");
        }
        let strategy = self.strategy();
        if let Strategy::LeastLoaded(choices) = strategy {
            if choices == 0 || choices > MAX_CHOICES {
                return fail("choices", "must be from 1 to 16");
            }
        }
        if self.decay.is_zero() {
            return fail("decay", "must be above zero");
        }
        let mut rules = self.rules;
        if rules
            .success_rate
            .is_some_and(|rule| !(rule.deviations > 0.0 && rule.deviations.is_finite()))
        {
            return fail(
                "eject_below_mean",
                "must be a number of deviations of at least 0",
            );
        }
        if rules
            .failure_share
            .is_some_and(|rule| !is_share(rule.share))
        {
            return fail("eject_failure_share", "must be from 0 to 1");
        }
        if rules.interval < Duration::from_millis(1) || rules.interval > Duration::from_secs(3600) {
            return fail("interval", "must be from 1 ms to an hour");
        }
        if rules.base_ejection.is_zero() {
            return fail("base_ejection", "must be above zero");
        }
        if rules.max_ejection < rules.base_ejection {
            return fail("max_ejection", "must be at least base_ejection");
        }
        if !is_share(rules.jitter) {
            return fail("ejection_jitter", "must be from 0 to 1");
        }
        if !is_share(rules.max_ejected) {
            return fail("max_ejected", "must be from 0 to 1");
        }
        if !is_share(rules.panic_threshold) {
            return fail("panic_threshold", "must be from 0 to 1");
        }
        if !(1.0..=100.0).contains(&rules.overprovisioning) {
            return fail("overprovisioning", "must be from 1 to 100");
        }
        let slow_start = rules.slow_start;
        if !is_share(slow_start.min) || !(0.1..=10.0).contains(&slow_start.aggression) {
            let problem = "must be a share from 0 to 1, and an aggression from 0.1 to 10";
            return fail("slow_start_shape", problem);
        }
        if rules.unhealthy_after == 0 {
            return fail("unhealthy_after", "must be at least 1");
        }
        if rules.healthy_after == 0 {
            return fail("healthy_after", "must be at least 1");
        }
        rules.shadow = self.setup.shadow;
        let base = self.setup.build(NAME)?;
        let settings = Settings {
            strategy,
            decay: Decay::new(self.decay),
            penalty: nanos(self.failure_penalty),
            max_hint: self.max_hint,
            consecutive: rules.consecutive,
            lease: nanos(rules.base_ejection),
        };
        let inner = Inner::new(base, settings, rules, self.seed);
        inner.set(self.nodes, None)?;
        Ok(Endpoints {
            inner: Arc::new(inner),
        })
    }
}

impl<N> std::fmt::Debug for EndpointsBuilder<N> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let names: Vec<&str> = self.nodes.iter().map(|node| &*node.name).collect();
        f.debug_struct("EndpointsBuilder")
            .field("name", &self.setup.name)
            .field("nodes", &names)
            .field("strategy", &self.strategy())
            .finish_non_exhaustive()
    }
}
