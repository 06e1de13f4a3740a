//! What can be sent, shared and moved, and that every stack can be spawned.
//!
//! Most of this file is checked by compiling it.
#![cfg(feature = "tokio")]

mod builders;

use std::panic::{RefUnwindSafe, UnwindSafe};
use std::rc::Rc;
use std::sync::{Arc, LazyLock};
use std::thread;
use std::time::Duration;

use backstop::policy::{Guard, Guarded};
use backstop::{
    Backoff, Bulkhead, CallOptions, CircuitBreaker, Classify, ClassifyErrors, Coalesce, Context,
    Endpoints, Error, Event, Fallback, Hedge, Keyed, KeyedRateLimiter, LoadShedder, Outcome,
    Pipeline, Policy, Quota, RateLimiter, Rejected, Retry, RetryBudget, Throttle, Timeout, Verdict,
};

/// Each type has all of the traits.
macro_rules! assert_traits {
    ($($type:ty),* $(,)?: $first:ident $(+ $more:ident)*) => {
        const _: () = {
            const fn has<T: ?Sized + $first $(+ $more)*>() {}
            $(has::<$type>();)*
        };
    };
}

type Op = fn(&()) -> Verdict;
type Stack = (Timeout, Retry, CircuitBreaker, RateLimiter, Timeout);

// Values and handles.
assert_traits!(
    backstop::Attempt,
    backstop::Backoff,
    backstop::BlockingClock,
    backstop::Bulkhead,
    backstop::CallOptions,
    backstop::CircuitBreaker,
    backstop::Classify<Op>,
    backstop::ClassifyErrors<Op>,
    backstop::policy::ClassifyAttempts<Op>,
    backstop::ClockHandle,
    backstop::ConfigError,
    backstop::Context,
    backstop::Error<()>,
    backstop::Event,
    backstop::Coalesce<String, (), ()>,
    backstop::Fallback<backstop::fallback::Value<u8>>,
    backstop::Hedge,
    backstop::MaybeStale<u8>,
    backstop::Stale<u8>,
    backstop::coalesce::CoalesceBuilder<String, (), ()>,
    backstop::coalesce::ForKey<'static, str, String, (), ()>,
    backstop::coalesce::Snapshot,
    backstop::fallback::Snapshot,
    backstop::fallback::StaleBuilder<u8>,
    backstop::fallback::StaleSnapshot,
    backstop::fallback::To<Op>,
    backstop::fallback::TryWith<Op>,
    backstop::fallback::With<Op>,
    backstop::hedge::HedgeBuilder,
    backstop::Standard,
    backstop::standard::Config,
    backstop::standard::Snapshot,
    backstop::standard::StandardBuilder,
    backstop::hedge::HedgeCause,
    backstop::hedge::HedgeEvent,
    backstop::hedge::NotSent,
    backstop::hedge::Snapshot,
    backstop::HintRule,
    backstop::Instant,
    backstop::Jitter,
    backstop::Keyed<String, CircuitBreaker>,
    backstop::KeyedRateLimiter<String>,
    backstop::LoadShedder,
    backstop::ManualClock,
    backstop::Outcome<(), ()>,
    backstop::Pipeline<Stack>,
    backstop::Priority,
    backstop::Quota,
    backstop::RateLimiter,
    backstop::Reason,
    backstop::Rejected,
    backstop::Report<(), ()>,
    backstop::Retry,
    backstop::RetryBudget,
    backstop::Throttle,
    backstop::TimedOut,
    backstop::Timeout,
    backstop::TokioClock,
    backstop::Verdict,
    backstop::adaptive_rate::CubicCurve,
    backstop::adaptive_rate::CubicRate,
    backstop::adaptive_rate::CubicRateBuilder,
    backstop::adaptive_rate::RateBucket,
    backstop::adaptive_rate::RateMeter,
    backstop::retry_budget::Snapshot,
    backstop::retry_budget::BudgetedCall<'static>,
    backstop::retry_budget::Extra<'static>,
    backstop::retry_budget::GrpcBudgetBuilder,
    backstop::retry_budget::InFlightBudgetBuilder,
    backstop::retry_budget::PercentageBudgetBuilder,
    backstop::retry_budget::TokenBudgetBuilder,
    backstop::bulkhead::Snapshot,
    backstop::bulkhead::OwnedPermit,
    backstop::bulkhead::PartitionSnapshot,
    backstop::bulkhead::Permit<'static>,
    backstop::bulkhead::QueueOrder,
    backstop::bulkhead::limit::Aimd,
    backstop::bulkhead::limit::AimdBuilder,
    backstop::bulkhead::limit::Correlated,
    backstop::bulkhead::limit::CorrelatedBuilder,
    backstop::bulkhead::limit::ExpAverage,
    backstop::bulkhead::limit::Fixed,
    backstop::bulkhead::limit::Gradient,
    backstop::bulkhead::limit::GradientBuilder,
    backstop::bulkhead::limit::Gradient2,
    backstop::bulkhead::limit::Gradient2Builder,
    backstop::bulkhead::limit::Calibration,
    backstop::bulkhead::limit::Sample,
    backstop::bulkhead::limit::Vegas,
    backstop::bulkhead::limit::VegasBuilder,
    backstop::bulkhead::limit::Windowed<backstop::bulkhead::limit::Aimd>,
    backstop::bulkhead::limit::WindowedBuilder,
    backstop::bulkhead::BulkheadBuilder,
    backstop::circuit_breaker::Cause,
    backstop::circuit_breaker::CircuitBreakerBuilder,
    backstop::circuit_breaker::HalfOpen,
    backstop::circuit_breaker::Isolation,
    backstop::circuit_breaker::Permit<'static>,
    backstop::circuit_breaker::Snapshot,
    backstop::circuit_breaker::State,
    backstop::circuit_breaker::Transition,
    backstop::circuit_breaker::Transitions,
    backstop::circuit_breaker::Trip,
    backstop::codel::Codel,
    backstop::codel::CodelBuilder,
    backstop::deadline::Scope<()>,
    backstop::Endpoints<String>,
    backstop::endpoints::Changes,
    backstop::endpoints::Drain<String>,
    backstop::endpoints::Endpoint<String>,
    backstop::endpoints::EndpointsBuilder<String>,
    backstop::endpoints::Node<String>,
    backstop::endpoints::NodeName,
    backstop::endpoints::NodeSnapshot,
    backstop::endpoints::Permit<'static, String>,
    backstop::endpoints::Snapshot,
    backstop::endpoints::Sticky<'static, String>,
    backstop::event::Ending,
    backstop::event::StopReason,
    backstop::policy::ErrorClass,
    backstop::policy::Health,
    backstop::policy::LayerKind,
    backstop::policy::OrderWarning,
    backstop::policy::RetryAdvice,
    backstop::policy::With<'static, Stack>,
    backstop::rate_limiter::Algorithm,
    backstop::rate_limiter::Decision,
    backstop::rate_limiter::Inherit,
    backstop::rate_limiter::KeyedRateLimiterBuilder<String>,
    backstop::rate_limiter::KeyedSnapshot,
    backstop::rate_limiter::Limited<'static, str>,
    backstop::rate_limiter::Overflow,
    backstop::rate_limiter::RateLimiterBuilder,
    backstop::rate_limiter::Reservation,
    backstop::rate_limiter::Snapshot,
    backstop::retry::RetryBuilder,
    backstop::retry::Retrying,
    backstop::load_shedder::LoadShedderBuilder,
    backstop::load_shedder::SharedThreshold,
    backstop::load_shedder::Snapshot,
    backstop::load_shedder::UserFairness,
    backstop::load_shedder::UserFairnessBuilder,
    backstop::throttle::Load,
    backstop::throttle::Permit<'static>,
    backstop::throttle::ThrottleBuilder,
    backstop::throttle::Snapshot,
    backstop::timeout::TimeoutBuilder,
    Arc<Stack>,
    Option<Stack>,
    Stack,
    &'static Stack: Send + Sync + Unpin
);
#[cfg(feature = "chaos")]
assert_traits!(
    backstop::Chaos,
    backstop::chaos::Chaos<backstop::chaos::Makes<fn() -> ()>>,
    backstop::chaos::ChaosBuilder,
    backstop::chaos::Fault,
    backstop::chaos::Latency,
    backstop::chaos::Snapshot,
    backstop::chaos::Switch: Send + Sync + Unpin
);
#[cfg(feature = "fast-clock")]
assert_traits!(backstop::FastClock: Send + Sync + Unpin);
// Handles in `catch_unwind`.
assert_traits!(
    Bulkhead,
    CircuitBreaker,
    Coalesce<String, (), ()>,
    Endpoints<String>,
    Hedge,
    Keyed<String, Stack>,
    KeyedRateLimiter<String>,
    LoadShedder,
    Pipeline<Stack>,
    RateLimiter,
    Retry,
    RetryBudget,
    Throttle,
    Timeout,
    Stack,
    backstop::BoxPolicy<String, std::io::Error>,
    backstop::CircuitVotes,
    backstop::DeadLetterQueue<String>,
    backstop::ManualClock,
    backstop::SharedBulkhead,
    backstop::SharedKeyedRateLimiter<String>,
    backstop::SharedRateLimiter,
    backstop::Stale<String>,
    backstop::Standard: UnwindSafe + RefUnwindSafe
);
// Futures go from thread to thread, but are used by one at a time and stay where they are pinned.
assert_traits!(backstop::Sleep, backstop::rate_limiter::Acquire<'static>: Send);
// Objects.
assert_traits!(dyn backstop::Clock, dyn backstop::Observer: Send + Sync);
// Errors go through `Box<dyn Error + Send + Sync>`, whatever the operation's own error can do.
assert_traits!(Error<Rc<()>>, Outcome<Rc<()>, ()>: Unpin);

/// A policy of one's own.
struct Plain;

impl Guard for Plain {
    type Permit = ();

    fn enter(&self, _: &mut Context) -> Result<(), Rejected> {
        Ok(())
    }

    fn exit<T, E>(&self, (): (), _: &mut Outcome<T, E>) {}
}

const MINUTE: Duration = Duration::from_secs(60);

fn timeout() -> Timeout {
    Timeout::after(MINUTE)
}

fn retry() -> Retry {
    let budget = RetryBudget::in_flight().build().unwrap();
    let retry = Retry::builder().backoff(Backoff::NONE).budget(budget);
    retry.build().unwrap()
}

fn throttle() -> Throttle {
    Throttle::builder().build().unwrap()
}

fn classify() -> ClassifyErrors<Op> {
    Classify::errors((|()| Verdict::transient()) as Op)
}

fn breaker() -> CircuitBreaker {
    CircuitBreaker::builder().build().unwrap()
}

// In a tuple: it has a `call` of its own.
fn endpoints() -> (Endpoints<String>,) {
    let nodes = Endpoints::builder()
        .node("a", String::new())
        .node("b", String::new());
    (nodes.build().unwrap(),)
}

#[cfg(feature = "chaos")]
fn chaos() -> backstop::Chaos {
    backstop::Chaos::builder()
        .latency(1.0, MINUTE)
        .behavior(0.0, || async {})
        .build()
        .unwrap()
}

fn limiter() -> RateLimiter {
    let quota = Quota::per_second(1000);
    RateLimiter::builder().quota(quota).build().unwrap()
}

static KEYS: LazyLock<KeyedRateLimiter<String>> = LazyLock::new(|| {
    let quota = Quota::per_second(1000);
    KeyedRateLimiter::builder().quota(quota).build().unwrap()
});

static COALESCE: LazyLock<Coalesce<String, usize, ()>> =
    LazyLock::new(|| Coalesce::builder().build().unwrap());

static STACK: LazyLock<Stack> =
    LazyLock::new(|| (timeout(), retry(), breaker(), limiter(), timeout()));

/// Spawns calls through a policy whose operations borrow from the task, wait and fail once.
///
/// A macro, because only of a known policy does the compiler know that its futures are `Send`.
macro_rules! spawn {
    ($($policy:expr),* $(,)?) => {$(
        let policy = $policy;
        let task = tokio::spawn(async move {
            let text = String::from("borrowed");
            let length = policy.call(|| async {
                tokio::task::yield_now().await;
                Ok::<_, ()>(text.len())
            });
            assert_eq!(length.await, Ok(8));

            let number = policy.call_with(|attempt| {
                let text = &text;
                async move {
                    tokio::task::yield_now().await;
                    Ok::<_, ()>(text.len() * attempt.number() as usize)
                }
            });
            assert_eq!(number.await, Ok(8));

            let report = policy.call_reported(|| async {
                tokio::task::yield_now().await;
                Err::<usize, _>(())
            });
            assert_eq!(report.await.result, Err(Error::Operation(())));
        });
        task.await.unwrap();
    )*};
}

#[tokio::test(start_paused = true)]
async fn every_policy_can_be_spawned() {
    spawn![
        Guarded(Plain),
        timeout(),
        Timeout::after_with(|cx| cx.attempt() * MINUTE),
        retry(),
        throttle(),
        breaker(),
        limiter(),
        KEYS.get("key"),
        Keyed::new(|_: &String| breaker()).get("key"),
        classify(),
        Classify::by(|result: Result<&_, &Error<()>>| Verdict::default_for(result)),
        Bulkhead::new(25),
        Bulkhead::builder().max_waiting(1).build().unwrap(),
        LoadShedder::builder().build().unwrap(),
        endpoints(),
        Hedge::builder().build().unwrap(),
        Hedge::builder().after(Duration::ZERO).build().unwrap(),
        COALESCE.get("key"),
        Fallback::value(7_usize).on_errors(false),
        Fallback::to(|_: &Error<()>| async { Err::<usize, _>(()) }),
        Pipeline::new(timeout()),
        Pipeline::new(retry()).observer(|_: &Event| {}),
    ];
    #[cfg(feature = "chaos")]
    spawn![chaos(), Some(chaos()), (retry(), chaos())];
}

#[tokio::test(start_paused = true)]
async fn every_wrapper_can_be_spawned() {
    spawn![
        Some(timeout()),
        None::<Timeout>,
        Some(retry()),
        Some(throttle()),
        Some(breaker()),
        Some(limiter()),
        Some(Bulkhead::new(25)),
        Some(LoadShedder::builder().build().unwrap()),
        Some(classify()),
        Arc::new(breaker()),
        Some((retry(), throttle(), timeout())),
        Some(endpoints()),
        Arc::new((retry(), endpoints(), timeout())),
        Arc::new(timeout()),
        Arc::new(Some((timeout(), retry()))),
        Some(Arc::new((timeout(), retry()))),
        &*STACK,
        (&*STACK, Arc::new(retry()), Some(timeout()), None::<Retry>),
        Arc::new(Pipeline::new((timeout(), retry()))),
    ];
}

#[tokio::test(start_paused = true)]
async fn every_tuple_can_be_spawned() {
    let (t, r, c) = (timeout(), retry(), classify());
    let (b, l, p) = (breaker(), limiter(), Bulkhead::new(25));
    // A third of the calls fails, and all tuples share it.
    b.metrics_only();
    // The shapes that a stack may have at any length.
    macro_rules! tuples {
        ($($policy:ident)*) => { tuples!(@ [] $($policy)*) };
        (@ [$($outer:ident)*]) => {};
        (@ [$($outer:ident)*] $next:ident $($rest:ident)*) => {
            spawn![
                ($($outer.clone(),)* $next.clone(),),
                Some(($($outer.clone(),)* $next.clone(),)),
                Arc::new(($($outer.clone(),)* $next.clone(),)),
            ];
            tuples!(@ [$($outer)* $next] $($rest)*);
        };
    }
    tuples!(t r b l p t c b t c t t);
}

#[tokio::test(start_paused = true)]
async fn options_for_one_call_can_be_spawned() {
    static PIPELINE: LazyLock<Pipeline<Stack>> = LazyLock::new(|| Pipeline::new(STACK.clone()));
    spawn![PIPELINE.with(CallOptions::new().idempotent(false).deadline(MINUTE))];
}

#[tokio::test(start_paused = true)]
async fn a_stack_is_a_field_without_generics() {
    #[derive(Clone)]
    struct Client {
        policies: Arc<(Timeout, Retry, Option<Timeout>)>,
        base: String,
    }

    impl Client {
        async fn get(&self, path: &str) -> Result<String, Error<()>> {
            self.policies
                .call(|| async { Ok(format!("{}{path}", self.base)) })
                .await
        }
    }

    let client = Client {
        policies: Arc::new((timeout(), retry(), None)),
        base: "http://host/".to_owned(),
    };
    let path = String::from("path");
    let task = tokio::spawn(async move { client.get(&path).await });
    assert_eq!(task.await.unwrap(), Ok("http://host/path".to_owned()));
}

#[tokio::test(start_paused = true)]
async fn an_operation_that_cannot_be_sent_runs_on_a_local_executor() {
    let stack = Rc::new((timeout(), retry(), classify()));
    let local = tokio::task::LocalSet::new();
    let answer = local.run_until(async move {
        let count = Rc::new(std::cell::Cell::new(0));
        let task = tokio::task::spawn_local(async move {
            let call = stack.call(|| async {
                tokio::task::yield_now().await;
                count.set(count.get() + 1);
                if count.get() < 3 {
                    Err(())
                } else {
                    Ok(Rc::clone(&count))
                }
            });
            call.await.map(|count| count.get())
        });
        task.await.unwrap()
    });
    assert_eq!(answer.await, Ok(3));
}

#[test]
fn threads_share_a_stack_by_reference() {
    let (stack, text) = ((timeout(), retry()), String::from("borrowed"));
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| assert_eq!(stack.call_blocking(|| Ok::<_, ()>(text.len())), Ok(8)));
        }
    });
}
