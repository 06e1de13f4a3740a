//! Every public future, and calls through every kind of policy and stack.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use backstop::{
    CallOptions, Classified, Classify, Event, Fallback, Hedge, MaybeStale, Pipeline, Policy, Stale,
    Timeout, Verdict, deadline,
};
use futures::future::{join, select};

use super::world::{STEP, World, yield_once};

pub(crate) type Boxed<'a> = Pin<Box<dyn Future<Output = ()> + 'a>>;

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

/// A future of the crate, made from a world.
pub(crate) type Make = for<'a> fn(&'a World) -> Boxed<'a>;

/// Every public future, and calls through every kind of policy and stack.
pub(crate) const FUTURES: &[(&str, Make)] = &[
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
    ("a probe", |w| {
        w.breaker.half_open();
        call!(w, w.breaker.clone())
    }),
    ("retry, a probe that waits", |w| {
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
