//! Every public future is dropped at every await, and every operation panics at every poll: nothing
//! stays behind.

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use backstop::bulkhead::limit::Aimd;
use backstop::circuit_breaker::HalfOpen;
use backstop::{
    Backoff, Bulkhead, CallOptions, CircuitBreaker, Classified, Classify, Coalesce, Endpoints,
    Event, Fallback, Hedge, Jitter, KeyedRateLimiter, LoadShedder, ManualClock, MaybeStale,
    Pipeline, Policy, Priority, Quota, RateLimiter, Retry, RetryBudget, Stale, Standard, Throttle,
    Timeout, Verdict, deadline,
};
use futures::future::{join, select};

const STEP: Duration = Duration::from_millis(10);

type Boxed<'a> = Pin<Box<dyn Future<Output = ()> + 'a>>;

/// All ways to call.
macro_rules! call {
    ($world:expr, $policy:expr) => {{
        let (world, policy): (&World, _) = ($world, $policy);
        Box::pin(async move {
            let _ = policy.call(|| world.operation()).await;
            let _ = policy.call_with(|_| world.operation()).await;
            let _ = policy.call_reported(|| world.operation()).await;
            let classified = || async { world.operation().await.map_err(Classified::transient) };
            let _ = policy.call_classified(classified).await;
        }) as Boxed<'_>
    }};
}

/// Everything a call could leave something behind in.
struct World {
    clock: ManualClock,
    budget: RetryBudget,
    /// One permit, and room for one call that waits for it.
    bulkhead: Bulkhead,
    /// Takes one probe at a time, and needs two that end well.
    breaker: CircuitBreaker,
    /// A token for each step, and room for waiters.
    limiter: RateLimiter,
    limiters: KeyedRateLimiter<u32>,
    throttle: Throttle,
    /// Sheds about half of the calls once it has been updated a few times.
    shedder: LoadShedder,
    /// Two nodes, of which the first is ejected after one failure.
    endpoints: Endpoints<u32>,
    /// Launches a copy after half a step, and after a failure, while the budget of retries has some left.
    hedge: Hedge,
    coalesce: Coalesce<u32, (), ()>,
    /// Operations in flight.
    running: Rc<Cell<u32>>,
    /// Polls of operations left before one panics.
    fuse: Cell<u32>,
}

impl World {
    fn new() -> Self {
        let clock = ManualClock::new();
        let limit = Aimd::builder().initial(1).max(1).build().unwrap();
        let bulkhead = Bulkhead::builder().adaptive(limit).max_waiting(1);
        // Rejects about half of the calls after a failure.
        let throttle = Throttle::builder().seed(1).clock(clock.clone());
        let throttle = throttle
            .min_calls(1)
            .max_rejection(0.5)
            .grace(Duration::ZERO);
        let breaker = CircuitBreaker::builder()
            .break_for(Backoff::fixed(STEP).jitter(Jitter::None))
            .half_open(HalfOpen::successes(2))
            .permitted_calls(1)
            .clock(clock.clone());
        let quota = Quota::new(1, STEP).burst(1);
        let limiter = RateLimiter::builder().quota(quota).max_wait(STEP * 4);
        let limiters = KeyedRateLimiter::builder().quota(quota);
        let endpoints = Endpoints::builder()
            .node("a", 1)
            .node("b", 2)
            .eject_after(1);
        let endpoints = endpoints
            .base_ejection(STEP * 2)
            .seed(1)
            .clock(clock.clone());
        let shedder = LoadShedder::builder().seed(1).clock(clock.clone());
        let shedder = shedder.signal(1.0, || 1.0).max_shed(0.5);
        let budget = RetryBudget::in_flight().build().unwrap();
        let hedge = Hedge::builder()
            .after(STEP / 2)
            .max_hedges(2)
            .budget(budget.clone());
        let coalesce = Coalesce::builder().clock(clock.clone());
        Self {
            clock: clock.clone(),
            budget,
            hedge: hedge.clock(clock.clone()).build().unwrap(),
            coalesce: coalesce.build().unwrap(),
            breaker: breaker.build().unwrap(),
            limiter: limiter.clock(clock.clone()).build().unwrap(),
            limiters: limiters.clock(clock.clone()).build().unwrap(),
            bulkhead: bulkhead.max_wait(STEP * 2).clock(clock).build().unwrap(),
            throttle: throttle.build().unwrap(),
            endpoints: endpoints.build().unwrap(),
            shedder: shedder.update_interval(STEP).build().unwrap(),
            running: Rc::default(),
            fuse: Cell::new(u32::MAX),
        }
    }

    fn timeout(&self, steps: u32) -> Timeout {
        let timeout = Timeout::builder().after(STEP * steps);
        timeout.clock(self.clock.clone()).build().unwrap()
    }

    /// Three attempts, one step apart.
    fn retry(&self) -> Retry {
        let retry = Retry::builder()
            .backoff(Backoff::fixed(STEP).jitter(Jitter::None))
            .budget(self.budget.clone());
        retry.clock(self.clock.clone()).build().unwrap()
    }

    /// The layers of the world that it has, and timeouts around them.
    fn standard(&self) -> Standard {
        let standard = Standard::builder()
            .limiter(
                RateLimiter::builder()
                    .quota(Quota::new(1, STEP).burst(1))
                    .max_wait(STEP * 4),
            )
            .backoff(Backoff::fixed(STEP).jitter(Jitter::None))
            .budget(self.budget.clone())
            .total_timeout(STEP * 4)
            .attempt_timeout(STEP);
        standard.clock(self.clock.clone()).build().unwrap()
    }

    /// A retry that waits although its budget is empty.
    fn poor_retry(&self) -> Retry {
        let retry = Retry::builder()
            .backoff(Backoff::fixed(STEP).jitter(Jitter::None))
            .budget(RetryBudget::tokens().capacity(0).build().unwrap())
            .wait_when_budget_empty(true);
        retry.clock(self.clock.clone()).build().unwrap()
    }

    /// An operation that yields, sleeps for a step, yields again and fails.
    fn operation(&self) -> impl Future<Output = Result<(), ()>> + '_ {
        let running = Running::new(&self.running);
        let mut work = Box::pin(async move {
            let _running = running;
            yield_once().await;
            self.clock.sleep(STEP).await;
            yield_once().await;
            Err(())
        });
        poll_fn(move |cx| {
            match self.fuse.get() {
                0 => resume_unwind(Box::new("boom")),
                left => self.fuse.set(left - 1),
            }
            work.as_mut().poll(cx)
        })
    }

    #[track_caller]
    fn assert_nothing_is_left(&self, when: &str) {
        assert_eq!(self.clock.sleepers(), 0, "sleepers, {when}");
        assert_eq!(self.running.get(), 0, "operations, {when}");
        let budget = self.budget.snapshot();
        assert_eq!(budget.calls_in_flight, 0, "calls in the budget, {when}");
        assert_eq!(budget.extras_in_flight, 0, "retries in the budget, {when}");
        let bulkhead = self.bulkhead.snapshot();
        assert_eq!(bulkhead.in_flight, 0, "permits, {when}");
        assert_eq!(bulkhead.waiting, 0, "places in line, {when}");
        let limiter = self.limiter.snapshot();
        assert_eq!(limiter.waiting, 0, "callers that wait for a token, {when}");
        assert!(limiter.available[0] >= 0, "tokens, {when}");
        let breaker = self.breaker.snapshot();
        assert_eq!(breaker.probes_in_flight, 0, "probes, {when}");
        // Nor a health check, which would keep probes out.
        self.breaker.trip_for(Duration::ZERO);
        assert!(self.breaker.try_acquire().is_ok(), "health checks, {when}");
        assert_eq!(self.hedge.snapshot().in_flight, 0, "copies, {when}");
        let flights = self.coalesce.snapshot();
        let left = (flights.flights, flights.waiting);
        assert_eq!(left, (0, 0), "shared executions, {when}");
        let throttle = self.throttle.snapshot();
        assert_eq!(throttle.in_flight, 0, "calls in the throttle, {when}");
        let nodes = self.endpoints.snapshot().nodes;
        let in_flight: u32 = nodes.iter().map(|node| node.in_flight).sum();
        assert_eq!(in_flight, 0, "calls of endpoints, {when}");
        // It holds nothing for a call, and goes on as before.
        let shed = self.shedder.snapshot().rejected;
        let rejected = (0..100).filter(|_| self.shedder.try_acquire(Priority::LOWEST).is_err());
        let rejected = rejected.count() as u64;
        assert_eq!(
            self.shedder.snapshot().rejected,
            shed + rejected,
            "shed, {when}"
        );
        // Nor a deadline that the next call on this thread would inherit.
        let long = self.timeout(1000);
        let left = long.call_with(|attempt| async move { Ok::<_, ()>(attempt.remaining()) });
        let left = self.clock.block_on(left).unwrap();
        assert_eq!(left, Some(STEP * 1000), "the deadline, {when}");
    }
}

/// Counts an operation for as long as it lives.
struct Running(Rc<Cell<u32>>);

impl Running {
    fn new(count: &Rc<Cell<u32>>) -> Self {
        count.set(count.get() + 1);
        Self(count.clone())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

async fn yield_once() {
    let mut yielded = false;
    poll_fn(|cx| {
        if std::mem::replace(&mut yielded, true) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

/// A future of the crate, made from a world.
type Make = for<'a> fn(&'a World) -> Boxed<'a>;

/// Every public future, and calls through every kind of policy and stack.
const FUTURES: &[(&str, Make)] = &[
    ("sleep", |w| Box::pin(w.clock.sleep(STEP))),
    ("a scope", |w| {
        let scope = deadline::scope_on(w.clock.clone(), STEP * 3, w.operation());
        Box::pin(async {
            let _ = scope.await;
        })
    }),
    ("a scope around a call", |w| {
        Box::pin(async {
            let retry = w.retry();
            let call = retry.call(|| w.operation());
            let _ = deadline::scope_on(w.clock.clone(), STEP * 3, call).await;
        })
    }),
    ("timeout", |w| call!(w, w.timeout(3))),
    ("timeout that fires", |w| call!(w, w.timeout(1))),
    ("retry", |w| call!(w, w.retry())),
    ("retry that waits for nothing", |w| call!(w, w.poor_retry())),
    ("throttle", |w| call!(w, w.throttle.clone())),
    ("retry, throttle, timeout that fires", |w| {
        call!(w, (w.retry(), w.throttle.clone(), w.timeout(1)))
    }),
    ("endpoints", |w| call!(w, (w.endpoints.clone(),))),
    ("retry, endpoints, timeout that fires", |w| {
        call!(w, (w.retry(), w.endpoints.clone(), w.timeout(1)))
    }),
    ("timeout, the endpoint of a key", |w| {
        call!(w, (w.timeout(3), w.endpoints.sticky(&7)))
    }),
    ("a drain", |w| {
        Box::pin(async {
            let call = w.endpoints.call(|_| w.operation());
            let drain = async {
                yield_once().await;
                for node in ["a", "b"] {
                    w.endpoints.drain(node).unwrap().await;
                    w.endpoints.resume(node);
                }
            };
            let _ = join(call, drain).await;
        })
    }),
    ("checks of endpoints", |w| {
        Box::pin(async {
            let checks = Box::pin(w.endpoints.check_with(STEP, |_| w.operation()));
            select(checks, Box::pin(w.clock.sleep(STEP * 8))).await;
        })
    }),
    #[cfg(feature = "chaos")]
    ("retry, injected faults, timeout that fires", |w| {
        let chaos = backstop::Chaos::builder()
            .latency(0.4, STEP)
            .behavior(0.3, || {
                backstop::Clock::sleep_until(&backstop::BlockingClock, backstop::Instant::ORIGIN)
            })
            .error(0.3, || ());
        let chaos = chaos
            .max_share(1.0)
            .seed(2)
            .clock(w.clock.clone())
            .build()
            .unwrap();
        call!(w, (w.retry(), chaos, w.timeout(1)))
    }),
    ("load shedder", |w| call!(w, w.shedder.clone())),
    ("retry, bulkhead, load shedder, timeout that fires", |w| {
        let stack = (w.bulkhead.clone(), w.shedder.clone(), w.timeout(1));
        call!(w, (w.retry(), stack))
    }),
    ("classify", |w| {
        call!(w, Classify::errors(|()| Verdict::permanent()))
    }),
    ("classify by", |w| {
        let ignore = |_: Result<&(), &backstop::Error<()>>| Verdict::ignore();
        call!(w, (w.retry(), Classify::by(ignore)))
    }),
    ("timeout, retry", |w| call!(w, (w.timeout(4), w.retry()))),
    ("retry, timeout", |w| call!(w, (w.retry(), w.timeout(3)))),
    ("retry, timeout that fires", |w| {
        call!(w, (w.retry(), w.timeout(1)))
    }),
    ("hedge", |w| call!(w, w.hedge.clone())),
    ("hedge by latencies", |w| {
        let hedge = Hedge::builder().max_extra_load(1.0).min_calls(1);
        let hedge = hedge.clock(w.clock.clone()).build().unwrap();
        call!(w, hedge)
    }),
    ("retry, hedge, timeout that fires", |w| {
        call!(w, (w.retry(), w.hedge.clone(), w.timeout(1)))
    }),
    ("standard, whose attempts time out", |w| {
        call!(w, w.standard())
    }),
    ("standard, reconfigured meanwhile", |w| {
        Box::pin(async {
            let standard = w.standard();
            let change = async {
                yield_once().await;
                let config = standard.config().max_attempts(1).total_timeout(STEP * 5);
                standard.reconfigure(config).unwrap();
            };
            let _ = join(standard.call(|| w.operation()), change).await;
        })
    }),
    ("fallback", |w| call!(w, Fallback::value(()))),
    ("fallback to another operation", |w| {
        let other = Fallback::to(|_: &backstop::Error<()>| w.operation());
        call!(w, (w.timeout(5), other, w.retry()))
    }),
    ("stale", |w| {
        Box::pin(async {
            let stale = Stale::<()>::builder()
                .max_age(STEP * 100)
                .clock(w.clock.clone());
            let stale = stale.build().unwrap();
            let call = || async { w.operation().await.map(MaybeStale::from) };
            let _ = (&stale, w.retry()).call(call).await;
            stale.set(());
            assert!(stale.call(call).await.is_ok());
        })
    }),
    ("coalesce", |w| {
        Box::pin(async {
            let stack = (w.timeout(4), w.coalesce.get(&7), w.retry());
            let call = || stack.call(|| w.operation());
            let _ = futures::future::join3(call(), call(), call()).await;
        })
    }),
    ("retry, retry", |w| call!(w, (w.retry(), w.retry()))),
    ("the usual stack", |w| {
        let classify = Classify::errors(|()| Verdict::throttled(STEP * 2));
        call!(w, (w.timeout(9), w.retry(), w.timeout(3), classify))
    }),
    ("bulkhead", |w| call!(w, w.bulkhead.clone())),
    ("retry, bulkhead, timeout", |w| {
        call!(w, (w.retry(), w.bulkhead.clone(), w.timeout(1)))
    }),
    ("bulkhead that is full", |w| {
        Box::pin(async {
            let held = w.bulkhead.acquire().await;
            // Too short, too long, and in turn.
            call!(w, (w.timeout(1), w.bulkhead.clone())).await;
            call!(w, w.bulkhead.clone()).await;
            let (acquire, free) = (w.bulkhead.acquire(), async { drop(held) });
            let _ = join(acquire, free).await;
        })
    }),
    ("owned permits", |w| {
        Box::pin(async {
            let acquire = || w.bulkhead.clone().acquire_owned(Default::default());
            let held = acquire().await;
            assert!(acquire().await.is_err());
            drop(held);
            let _ = acquire().await;
        })
    }),
    ("circuit breaker", |w| call!(w, w.breaker.clone())),
    ("a trial call", |w| {
        w.breaker.half_open();
        call!(w, w.breaker.clone())
    }),
    ("retry, a trial call that waits in line", |w| {
        w.breaker.half_open();
        let stack = (w.breaker.clone(), w.limiter.clone(), w.bulkhead.clone());
        call!(w, (w.retry(), stack))
    }),
    ("transitions", |w| {
        let mut transitions = w.breaker.subscribe();
        Box::pin(async move {
            let trip = async {
                yield_once().await;
                w.breaker.trip();
            };
            let (change, ()) = join(transitions.next(), trip).await;
            assert!(change.is_some());
        })
    }),
    ("a health check", |w| {
        w.breaker.trip();
        Box::pin(async {
            let checks = Box::pin(w.breaker.check_with(STEP, || w.operation()));
            select(checks, Box::pin(w.clock.sleep(STEP * 8))).await;
        })
    }),
    ("rate limiter", |w| call!(w, w.limiter.clone())),
    ("retry, rate limiter, timeout that fires", |w| {
        call!(w, (w.retry(), w.limiter.clone(), w.timeout(1)))
    }),
    ("tokens", |w| {
        Box::pin(async {
            let _ = w.limiter.acquire().await;
            let both = join(w.limiter.acquire(), w.limiter.acquire_n(1));
            let _ = both.await;
            let _ = w.limiter.acquire_within(1, STEP * 2).await;
        })
    }),
    ("tokens of a key", |w| {
        Box::pin(async {
            for _ in 0..3 {
                let _ = w.limiters.acquire_within(&7, 1, STEP * 2).await;
            }
        })
    }),
    ("option", |w| call!(w, (Some(w.retry()), None::<Timeout>))),
    ("arc", |w| call!(w, Arc::new((w.retry(), w.timeout(3))))),
    ("a pipeline", |w| {
        call!(w, Pipeline::new((w.timeout(9), w.retry())))
    }),
    ("an observed pipeline", |w| {
        let pipeline = Pipeline::new((w.timeout(9), w.retry()));
        call!(w, pipeline.observer(|_: &Event| {}))
    }),
    ("a call with options", |w| {
        Box::pin(async {
            let pipeline = Pipeline::new((w.timeout(9), w.retry()));
            let options = CallOptions::new().deadline(STEP * 3);
            let _ = pipeline.with(options).call(|| w.operation()).await;
        })
    }),
    ("nested calls", |w| {
        Box::pin(async {
            let (outer, inner) = ((w.retry(), w.timeout(4)), (w.timeout(3), w.retry()));
            let call = outer.call(|| async {
                let result = inner.call(|| w.operation()).await;
                result.map_err(|_| ())
            });
            let _ = call.await;
        })
    }),
];

/// Polls up to `times` times, and lets a step of time pass after each.
fn poll(world: &World, mut future: Pin<&mut dyn Future<Output = ()>>, times: u32) -> Poll<()> {
    for _ in 0..times {
        let mut cx = Context::from_waker(Waker::noop());
        if future.as_mut().poll(&mut cx).is_ready() {
            return Poll::Ready(());
        }
        world.clock.advance(STEP);
    }
    Poll::Pending
}

/// More polls than any of the futures takes.
const ENOUGH: u32 = 1000;

#[test]
fn a_future_dropped_at_any_await_leaves_nothing_behind() {
    for (name, make) in FUTURES {
        let mut awaits = 0;
        for polls in 0..ENOUGH {
            let world = World::new();
            let mut future = make(&world);
            let ended = poll(&world, future.as_mut(), polls).is_ready();
            drop(future);
            world.assert_nothing_is_left(&format!("{name} dropped after {polls} polls"));
            if ended {
                break;
            }
            awaits += 1;
        }
        assert!((1..ENOUGH).contains(&awaits), "{name}: {awaits}");
    }
}

#[test]
fn an_operation_that_panics_at_any_poll_leaves_nothing_behind() {
    for (name, make) in FUTURES {
        for polls in 0..ENOUGH {
            let world = World::new();
            world.fuse.set(polls);
            let ended = {
                let mut future = make(&world);
                catch_unwind(AssertUnwindSafe(|| {
                    poll(&world, future.as_mut(), ENOUGH).is_ready()
                }))
            };
            world.assert_nothing_is_left(&format!("{name} with a panic at poll {polls}"));
            match ended {
                Ok(ended) => {
                    assert!(ended, "{name} does not end");
                    break;
                }
                Err(panic) => assert_eq!(panic.downcast_ref(), Some(&"boom"), "{name}"),
            }
        }
    }
}

#[test]
fn a_handle_works_as_before_after_a_panic() {
    let world = World::new();
    let stack = (
        world.timeout(9),
        world.retry(),
        world.bulkhead.clone(),
        world.timeout(3),
    );
    world.fuse.set(2);
    let call = || stack.call_reported(|| world.operation());
    let panic = catch_unwind(AssertUnwindSafe(|| world.clock.block_on(call())));
    assert!(panic.is_err());
    world.fuse.set(u32::MAX);
    let report = world.clock.block_on(call());
    assert_eq!((report.attempts, report.elapsed), (3, STEP * 5));
}

#[test]
fn many_calls_dropped_half_way_share_a_budget_that_ends_empty() {
    let world = World::new();
    let retry = world.retry();
    let mut calls: Vec<_> = (0..100)
        .map(|_| {
            Box::pin(async {
                let _ = retry.call(|| world.operation()).await;
            })
        })
        .collect();
    for (index, call) in calls.iter_mut().enumerate() {
        let _ = poll(&world, call.as_mut(), index as u32 % 12);
    }
    assert!(world.budget.snapshot().calls_in_flight > 0);
    drop(calls);
    world.assert_nothing_is_left("after all were dropped");
}
