//! Calls compile wherever a plain `async fn` does: in spawned tasks, as boxed futures that are `Send`, in
//! axum handlers, and in services that are generic over their policy, also with errors and values that
//! have lifetimes.
//!
//! Most of these tests check by compiling.
#![cfg(feature = "tokio")]

use std::error::Error as StdError;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use backstop::policy::{AtMostOnce, Describe, Guard, Run};
use backstop::{
    Backoff, Bulkhead, CircuitBreaker, Context, Endpoints, Hedge, KeyedRateLimiter, LoadShedder,
    Operation, Outcome, Policy, Quota, RateLimiter, Rejected, Retry, RetryBudget, Standard,
    Throttle, Timeout,
};

type BoxError = Box<dyn StdError + Send + Sync>;

const MINUTE: Duration = Duration::from_secs(60);

fn timeout() -> Timeout {
    Timeout::after(MINUTE)
}

fn retry() -> Retry {
    let budget = RetryBudget::in_flight().build().unwrap();
    let retry = Retry::builder().backoff(Backoff::NONE).budget(budget);
    retry.build().unwrap()
}

fn endpoints() -> Endpoints<String> {
    let nodes = Endpoints::builder()
        .node("a", "a".to_owned())
        .node("b", "b".to_owned());
    nodes.build().unwrap()
}

fn throttle() -> Throttle {
    Throttle::builder().shadow(true).build().unwrap()
}

fn breaker() -> CircuitBreaker {
    let breaker = CircuitBreaker::builder().build().unwrap();
    // A third of the calls fails.
    breaker.metrics_only();
    breaker
}

fn limiter() -> RateLimiter {
    let quota = Quota::per_second(1_000_000);
    let limiter = RateLimiter::builder().quota(quota.burst(1_000_000));
    limiter.max_wait(MINUTE).build().unwrap()
}

fn bulkhead() -> Bulkhead {
    Bulkhead::builder().max_waiting(9).build().unwrap()
}

fn standard() -> Standard {
    let standard = Standard::builder().name("github").backoff(Backoff::NONE);
    let standard = standard.breaker(CircuitBreaker::builder().shadow(true));
    standard.without_budget().build().unwrap()
}

fn hedge() -> Hedge {
    Hedge::builder().build().unwrap()
}

fn shedder() -> LoadShedder {
    LoadShedder::builder().build().unwrap()
}

static KEYS: LazyLock<KeyedRateLimiter<u64>> = LazyLock::new(|| {
    let quota = Quota::per_second(1_000_000).burst(1_000_000);
    KeyedRateLimiter::builder().quota(quota).build().unwrap()
});

/// A guard of one's own.
#[derive(Clone)]
struct Admit;

impl Guard for Admit {
    type Permit = Arc<()>;

    fn enter(&self, _: &mut Context) -> Result<Arc<()>, Rejected> {
        Ok(Arc::default())
    }

    fn exit<T, E>(&self, _: Arc<()>, _: &mut Outcome<T, E>) {}
}

/// A policy of one's own with a future of its own.
#[derive(Clone)]
struct Plain;

impl Policy for Plain {}
impl AtMostOnce for Plain {}
impl Describe for Plain {}

impl<Op: Operation> Run<Op> for &Plain {
    type Future = Op::Attempt;

    fn run(self, op: Op, cx: Context) -> Op::Attempt {
        op.attempt(cx)
    }
}

/// Runs a future as one that is boxed and `Send`, in a task of its own.
async fn spawn<T: Send + 'static>(future: impl Future<Output = T> + Send + 'static) -> T {
    let boxed: Pin<Box<dyn Future<Output = T> + Send>> = Box::pin(future);
    tokio::spawn(boxed).await.unwrap()
}

async fn fetch(text: &str, good: bool) -> Result<String, BoxError> {
    tokio::task::yield_now().await;
    match good {
        true => Ok(text.to_owned()),
        false => Err(text.into()),
    }
}

/// Makes calls through each policy with every kind of value and error: the operations borrow from the task
/// and wait.
macro_rules! spawned {
    ($($policy:expr),* $(,)?) => {$(
        spawned!(@boxed_errors $policy);
        spawned!(@static_errors $policy);
        spawned!(@borrowed_values $policy);
        spawned!(@blocking $policy);
    )*};
    (@boxed_errors $policy:expr) => {
        let policy = $policy;
        $crate::spawn(async move {
            let text = String::from("borrowed");
            let url = text.as_str();
            assert_eq!(policy.call(|| $crate::fetch(url, true)).await.unwrap(), "borrowed");
            let with = |attempt: backstop::Attempt| async move { $crate::fetch(url, attempt.number() > 9).await };
            assert!(policy.call_with(with).await.is_err());
            let classified = || async {
                let result = $crate::fetch(&text, false).await;
                result.map_err(backstop::Classified::permanent)
            };
            let error = policy.call_classified(classified).await.unwrap_err();
            assert_eq!(error.into_operation().unwrap().to_string(), "borrowed");
            let report = policy.call_reported(|| $crate::fetch(&text, false)).await;
            assert_eq!(report.operation_error().unwrap().to_string(), "borrowed");
            let nested = policy.call(|| async { policy.call(|| $crate::fetch(url, true)).await.map_err(backstop::Error::into_boxed) });
            assert_eq!(nested.await.unwrap(), "borrowed");
        })
        .await;
    };
    (@static_errors $policy:expr) => {
        let policy = $policy;
        $crate::spawn(async move {
            let count = std::sync::atomic::AtomicU32::new(0);
            let op = || async {
                count.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                tokio::task::yield_now().await;
                Ok::<std::borrow::Cow<'static, str>, &'static str>(std::borrow::Cow::Borrowed("static"))
            };
            assert_eq!(policy.call(op).await, Ok(std::borrow::Cow::Borrowed("static")));
            assert_eq!(policy.call_with(|_| op()).await, Ok(std::borrow::Cow::Borrowed("static")));
            assert_eq!(policy.call_reported(op).await.result, Ok(std::borrow::Cow::Borrowed("static")));
            let classified = || async { Err::<std::borrow::Cow<'static, str>, _>(backstop::Classified::failure("no")) };
            assert_eq!(policy.call_classified(classified).await, Err(backstop::Error::Operation("no")));
        })
        .await;
    };
    (@borrowed_values $policy:expr) => {
        let policy = $policy;
        $crate::spawn(async move {
            let text = String::from("borrowed");
            let op = || async {
                tokio::task::yield_now().await;
                Ok::<&str, $crate::BoxError>(text.as_str())
            };
            assert_eq!(policy.call(op).await.unwrap(), "borrowed");
            assert_eq!(policy.call_with(|_| op()).await.unwrap(), "borrowed");
            assert_eq!(policy.call_reported(op).await.result.unwrap(), "borrowed");
            let classified = || async { op().await.map_err(backstop::Classified::transient) };
            assert_eq!(policy.call_classified(classified).await.unwrap(), "borrowed");
        })
        .await;
    };
    (@blocking $policy:expr) => {
        let policy = $policy;
        let task = tokio::task::spawn_blocking(move || {
            let text = String::from("borrowed");
            assert_eq!(policy.call_blocking(|| Ok::<_, $crate::BoxError>(text.as_str())).unwrap(), "borrowed");
        });
        task.await.unwrap();
    };
}

/// As [`spawned!`], for policies that attempt at most once.
macro_rules! spawned_once {
    ($($policy:expr),* $(,)?) => {$(
        spawned!($policy);
        let policy = $policy;
        $crate::spawn(async move {
            let body = vec![1, 2, 3];
            let sent = policy.call_once(|| async move {
                tokio::task::yield_now().await;
                Ok::<_, $crate::BoxError>(body)
            });
            assert_eq!(sent.await.unwrap(), [1, 2, 3]);
            let body = String::from("gone");
            let failed = policy.call_once(move || async move { Err::<(), $crate::BoxError>(body.into()) });
            assert_eq!(failed.await.unwrap_err().into_operation().unwrap().to_string(), "gone");
            let fixed = policy.call_once(|| async { Ok::<std::borrow::Cow<'static, str>, &'static str>("static".into()) });
            assert_eq!(fixed.await, Ok("static".into()));
        })
        .await;
    )*};
}

// After the macros that they use.
mod boxed;
#[cfg(feature = "chaos")]
mod chaos;
mod endpoints;
mod helpers;
mod keyed;
mod policies;
mod services;
mod typed_layers;
