//! Layers of random settings, and how one runs what is inside it.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::time::Duration;

use backstop::bulkhead::limit::Aimd;
use backstop::circuit_breaker::{HalfOpen, Trip};
use backstop::policy::Run;
use backstop::{
    Backoff, Bulkhead, CircuitBreaker, Clock, Coalesce, Context, Endpoints, Fallback, Hedge,
    Instant, LoadShedder, ManualClock, MaybeStale, Quota, RateLimiter, Retry, RetryBudget, Stale,
    Standard, Throttle, Timeout,
};
use proptest::prelude::*;

use super::super::{Fault, ms};
use super::world::{Boxed, Rest};

/// The settings of a layer: what it is, and two numbers that mean something else for each kind.
#[derive(Clone, Copy, Debug)]
pub(super) struct LayerPlan {
    kind: Kind,
    a: u8,
    b: u8,
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    Timeout,
    Retry,
    Breaker,
    Limiter,
    Bulkhead,
    Adaptive,
    Throttle,
    Shedder,
    Hedge,
    Fallback,
    Stale,
    Coalesce,
    Endpoints,
    Standard,
    #[cfg(feature = "chaos")]
    Chaos,
}

pub(super) fn layer_plans(number: usize) -> impl Strategy<Value = Vec<LayerPlan>> {
    use Kind::*;
    let kinds = vec![
        Timeout,
        Retry,
        Breaker,
        Limiter,
        Bulkhead,
        Adaptive,
        Throttle,
        Shedder,
        Hedge,
        Fallback,
        Stale,
        Coalesce,
        Endpoints,
        Standard,
        #[cfg(feature = "chaos")]
        Chaos,
    ];
    let plan = (prop::sample::select(kinds), any::<u8>(), any::<u8>());
    let plan = plan.prop_map(|(kind, a, b)| LayerPlan { kind, a, b });
    prop::collection::vec(plan, number)
}

impl LayerPlan {
    pub(super) const fn bulkhead(limit: u8, queue: u8) -> Self {
        Self {
            kind: Kind::Bulkhead,
            a: limit - 1,
            b: queue,
        }
    }
}

/// A layer, and what is known of the operations that it runs.
pub(super) struct Layer {
    policy: Policy,
    pub(super) seen: Seen,
}

/// What is inside a layer.
#[derive(Default)]
pub(super) struct Seen {
    pub(super) in_flight: Cell<u32>,
    pub(super) most: Cell<u32>,
    pub(super) starts: RefCell<Vec<Instant>>,
    /// The most starts in one run of the layer.
    pub(super) most_in_a_run: Cell<u32>,
    /// The longest run of the layer.
    pub(super) longest: Cell<Duration>,
    /// The most probes of a half-open circuit.
    probes: Cell<u32>,
    /// A limit that is checked in place of the layer's own.
    pub(super) claimed: Cell<Option<u32>>,
}

enum Policy {
    Timeout(Timeout),
    Retry(Retry),
    Breaker(CircuitBreaker),
    Limiter(RateLimiter, Quota),
    Bulkhead(Bulkhead, u32),
    Throttle(Throttle),
    Shedder(LoadShedder),
    Hedge(Hedge),
    Fallback(Fallback<backstop::fallback::Value<MaybeStale<u32>>>),
    Stale(Stale<u32>),
    Coalesce(Coalesce<u32, MaybeStale<u32>, Fault>),
    Endpoints(Endpoints<u32>),
    Standard(Standard),
    #[cfg(feature = "chaos")]
    Chaos(backstop::Chaos<backstop::chaos::Makes<fn() -> Fault>>),
}

impl Layer {
    pub(super) fn new(
        plan: LayerPlan,
        seed: u64,
        clock: &ManualClock,
        budget: &RetryBudget,
    ) -> Self {
        let (a, b) = (u32::from(plan.a), u32::from(plan.b));
        let c = || clock.clone();
        // A quarter of all waits are none.
        let wait = |n: u32| ms(u64::from((n % 4) * (n / 4)));
        let policy = match plan.kind {
            Kind::Timeout => Policy::Timeout(
                Timeout::builder()
                    .after(ms(u64::from(a)))
                    .clock(c())
                    .build()
                    .unwrap(),
            ),
            Kind::Retry => {
                let retry = Retry::builder()
                    .max_attempts(1 + a % 3)
                    .backoff(Backoff::exponential(ms(1 + u64::from(b))))
                    .throttled_backoff(Backoff::fixed(ms(20)))
                    .retry_open_circuit(a & 4 != 0)
                    .return_rejection(a & 8 != 0);
                let retry = match a & 16 {
                    0 => retry,
                    _ => retry.budget(budget.clone()),
                };
                let retry = match a & 32 {
                    0 => retry,
                    _ => retry.max_elapsed(ms(50)),
                };
                Policy::Retry(retry.seed(seed).clock(c()).build().unwrap())
            }
            Kind::Breaker => {
                let trip = match a % 3 {
                    0 => Trip::consecutive(1 + a / 64),
                    1 => Trip::failure_rate(0.5).within(ms(100)).min_calls(2),
                    _ => Trip::failures(2).of_last(4),
                };
                let breaker = CircuitBreaker::builder()
                    .trip_on(trip)
                    .break_for(Backoff::fixed(ms(1 + u64::from(b))))
                    .half_open(HalfOpen::successes(1).of(2))
                    .permitted_calls(1)
                    .ramp_up(wait(a));
                Policy::Breaker(breaker.seed(seed).clock(c()).build().unwrap())
            }
            Kind::Limiter => {
                let burst = 1 + u64::from(a % 4);
                let quota = Quota::new(1, ms(1 + u64::from(b % 32))).burst(burst);
                let limiter = RateLimiter::builder()
                    .quota(quota)
                    .max_wait(wait(a))
                    .max_waiting(3);
                Policy::Limiter(limiter.clock(c()).build().unwrap(), quota)
            }
            Kind::Bulkhead => {
                let limit = 1 + a % 3;
                let bulkhead = Bulkhead::builder()
                    .max_concurrent(limit)
                    .max_waiting((b % 4) as usize);
                let bulkhead = match b % 4 {
                    0 => bulkhead,
                    _ => bulkhead.max_wait(ms(1 + u64::from(b))),
                };
                Policy::Bulkhead(bulkhead.clock(c()).build().unwrap(), limit)
            }
            Kind::Adaptive => {
                let limit = 1 + a % 3;
                let aimd = Aimd::builder()
                    .initial(limit)
                    .max(limit + 1)
                    .build()
                    .unwrap();
                let bulkhead = Bulkhead::builder()
                    .adaptive(aimd)
                    .max_waiting((b % 4) as usize);
                Policy::Bulkhead(bulkhead.clock(c()).build().unwrap(), limit + 1)
            }
            Kind::Throttle => {
                let throttle = Throttle::builder().min_calls(1 + a % 4).grace(wait(b));
                let throttle = throttle.seed(seed).clock(c());
                Policy::Throttle(throttle.build().unwrap())
            }
            Kind::Shedder => {
                let load = f64::from(plan.a) / 255.0;
                let shedder = LoadShedder::builder()
                    .signal(0.5, move || load)
                    .max_shed(0.8);
                let shedder = shedder.update_interval(ms(1)).seed(seed).clock(c());
                Policy::Shedder(shedder.build().unwrap())
            }
            Kind::Hedge => {
                let hedge = Hedge::builder().max_hedges(1 + a % 2);
                let hedge = match a % 3 {
                    0 => hedge.after(wait(b)),
                    1 => hedge.quantile(0.5).min_calls(2),
                    _ => hedge.after(wait(b)).budget(budget.clone()),
                };
                Policy::Hedge(hedge.clock(c()).build().unwrap())
            }
            Kind::Fallback => {
                let fallback = Fallback::value(MaybeStale::fresh(u32::MAX));
                Policy::Fallback(fallback.on_permanent(a & 1 == 0).on_rejections(a & 2 == 0))
            }
            Kind::Stale => {
                let stale = Stale::builder().max_age(ms(1 + u64::from(b)));
                Policy::Stale(stale.clock(c()).build().unwrap())
            }
            Kind::Coalesce => Policy::Coalesce(Coalesce::builder().clock(c()).build().unwrap()),
            Kind::Endpoints => {
                let nodes = (0..1 + a % 3).fold(Endpoints::builder(), |nodes, node| {
                    nodes.node(format!("node {node}"), node)
                });
                let nodes = nodes
                    .eject_after(1 + a / 64)
                    .base_ejection(ms(1 + u64::from(b)));
                Policy::Endpoints(nodes.seed(seed).clock(c()).build().unwrap())
            }
            Kind::Standard => {
                let retry = Retry::builder().max_attempts(1 + a % 3).seed(seed);
                let breaker = CircuitBreaker::builder().trip_on(Trip::consecutive(1 + a / 32));
                let standard = Standard::builder()
                    .total_timeout(ms(100 + u64::from(b)))
                    .retry(retry.backoff(Backoff::fixed(ms(1 + u64::from(b % 8)))))
                    .breaker(breaker.break_for(Backoff::fixed(ms(30))).seed(seed))
                    .attempt_timeout(ms(20 + u64::from(a % 64)));
                let standard = match b & 1 {
                    0 => standard,
                    _ => standard.quota(Quota::per_second(100).burst(3)),
                };
                Policy::Standard(standard.clock(c()).build().unwrap())
            }
            #[cfg(feature = "chaos")]
            Kind::Chaos => {
                let chaos = backstop::Chaos::builder()
                    .latency(0.2, ms(u64::from(b)))
                    .error(0.2, (|| Fault::Down) as fn() -> Fault)
                    .max_share(f64::from(plan.a) / 255.0);
                Policy::Chaos(chaos.seed(seed).clock(c()).build().unwrap())
            }
        };
        Self {
            policy,
            seen: Seen::default(),
        }
    }

    /// Runs `rest` under this layer.
    pub(super) fn run<'a>(
        &'a self,
        rest: Rest<'a>,
        cx: Context,
        clock: &'a ManualClock,
    ) -> Boxed<'a> {
        let start = clock.now();
        macro_rules! run {
            ($policy:expr) => {{
                let run = Run::run($policy, rest, cx);
                Box::pin(async move { self.seen.time(start, run, clock).await })
            }};
        }
        match &self.policy {
            Policy::Timeout(policy) => run!(policy),
            Policy::Retry(policy) => run!(policy),
            Policy::Breaker(policy) => run!(policy),
            Policy::Limiter(policy, _) => run!(policy),
            Policy::Bulkhead(policy, _) => run!(policy),
            Policy::Throttle(policy) => run!(policy),
            Policy::Shedder(policy) => run!(policy),
            Policy::Hedge(policy) => run!(policy),
            Policy::Fallback(policy) => run!(policy),
            Policy::Stale(policy) => run!(policy),
            Policy::Coalesce(policy) => Box::pin(async move {
                let key = rest.key();
                let of_key = policy.get(&key);
                Run::run(&of_key, rest, cx).await
            }),
            Policy::Endpoints(policy) => run!(policy),
            Policy::Standard(policy) => run!(policy),
            #[cfg(feature = "chaos")]
            Policy::Chaos(policy) => run!(policy),
        }
    }

    /// Looks at the layer when an operation inside it starts.
    pub(super) fn look(&self) {
        if let Policy::Breaker(breaker) = &self.policy {
            let probes = breaker.snapshot().probes_in_flight;
            self.seen.probes.set(self.seen.probes.get().max(probes));
        }
    }

    /// Limits that were exceeded, and what was left behind.
    pub(super) fn broken(&self) -> Vec<String> {
        let seen = &self.seen;
        let mut broken = Vec::new();
        let mut most = |what: &str, was: u128, limit: u128| {
            if was > limit {
                broken.push(format!("{what}: {was}, and the limit is {limit}"));
            }
        };
        most(
            "operations in flight at the end",
            seen.in_flight.get().into(),
            0,
        );
        let in_a_run = u128::from(seen.most_in_a_run.get());
        match &self.policy {
            Policy::Timeout(timeout) => {
                let limit = timeout.limit().unwrap().as_nanos();
                most("the time of a run", seen.longest.get().as_nanos(), limit);
            }
            Policy::Retry(retry) => most("attempts", in_a_run, retry.max_attempts().into()),
            Policy::Breaker(breaker) => {
                most("probes at once", seen.probes.get().into(), 1);
                let left = breaker.snapshot().probes_in_flight;
                most("probes at the end", left.into(), 0);
            }
            Policy::Limiter(limiter, quota) => {
                most(
                    "calls that wait at the end",
                    limiter.snapshot().waiting as u128,
                    0,
                );
                let starts = seen.starts.borrow();
                let (burst, interval) = (u128::from(quota.limit()), quota.period());
                for (i, first) in starts.iter().enumerate() {
                    for (j, last) in starts.iter().enumerate().skip(i) {
                        let time = last.saturating_duration_since(*first);
                        let earned = time.as_nanos() / interval.as_nanos();
                        most("calls admitted", (j - i + 1) as u128, burst + earned);
                    }
                }
            }
            Policy::Bulkhead(bulkhead, limit) => {
                let limit = seen.claimed.get().unwrap_or(*limit);
                most("calls at once", seen.most.get().into(), limit.into());
                let seen = bulkhead.snapshot();
                most("permits at the end", seen.in_flight.into(), 0);
                most("calls that wait at the end", seen.waiting as u128, 0);
            }
            Policy::Throttle(throttle) => {
                most(
                    "calls pending at the end",
                    throttle.snapshot().in_flight.into(),
                    0,
                );
            }
            Policy::Hedge(hedge) => {
                most("copies", in_a_run, u128::from(hedge.max_hedges()) + 1);
                most("copies at the end", hedge.snapshot().in_flight.into(), 0);
            }
            Policy::Coalesce(coalesce) => {
                let seen = coalesce.snapshot();
                most("flights at the end", seen.flights as u128, 0);
                most("followers at the end", seen.waiting as u128, 0);
            }
            Policy::Endpoints(endpoints) => {
                let nodes = endpoints.snapshot().nodes;
                let left: u32 = nodes.iter().map(|node| node.in_flight).sum();
                most("calls of nodes at the end", left.into(), 0);
                most("nodes for a run", in_a_run, 1);
            }
            Policy::Standard(standard) => {
                let seen = standard.snapshot();
                most("attempts", in_a_run, seen.max_attempts.into());
                most(
                    "probes at the end",
                    seen.breaker.unwrap().probes_in_flight.into(),
                    0,
                );
                let total = seen.total_timeout.unwrap().as_nanos();
                most(
                    "the time of a run",
                    self.seen.longest.get().as_nanos(),
                    total,
                );
            }
            #[cfg(feature = "chaos")]
            Policy::Chaos(chaos) => {
                let seen = chaos.snapshot();
                let limit = (seen.max_share * seen.calls as f64).ceil() as u128;
                most("faults", seen.injected().into(), limit);
            }
            Policy::Shedder(_) | Policy::Fallback(_) | Policy::Stale(_) => {}
        }
        broken
    }
}

impl Seen {
    async fn time<F: Future>(&self, start: Instant, run: F, clock: &ManualClock) -> F::Output {
        let output = run.await;
        let took = clock.now().saturating_duration_since(start);
        self.longest.set(self.longest.get().max(took));
        output
    }
}
