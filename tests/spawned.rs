//! Calls compile wherever a plain `async fn` does: in spawned tasks, as boxed futures that are `Send`, in
//! axum handlers and in services that are generic over their policy, also with errors and values that
//! have lifetimes.
//!
//! Most of this file is checked by compiling it.
#![cfg(feature = "tokio")]

use std::borrow::Cow;
use std::collections::HashMap;
use std::error::Error as StdError;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::{Arc, LazyLock};
use std::task::{Context as TaskContext, Poll};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::http::Request;
use axum::response::Response;
use axum::routing::get;
use backstop::policy::{AtMostOnce, Describe, Guard, Guarded, Run};
use backstop::{
    Attempt, Backoff, BoxPolicy, Bulkhead, CallOptions, CircuitBreaker, Classified, Classify,
    Coalesce, Context, Endpoints, Error, Event, Fallback, Hedge, Inspect, Keyed, KeyedRateLimiter,
    LoadShedder, MaybeStale, Operation, Outcome, Pipeline, Policy, Quota, RateLimiter, Rejected,
    Retry, RetryBudget, Stale, Standard, Throttle, Timeout, Verdict,
};
use tower_service::Service;

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
        spawn(async move {
            let text = String::from("borrowed");
            let url = text.as_str();
            assert_eq!(policy.call(|| fetch(url, true)).await.unwrap(), "borrowed");
            let with = |attempt: Attempt| async move { fetch(url, attempt.number() > 9).await };
            assert!(policy.call_with(with).await.is_err());
            let classified = || async {
                let result = fetch(&text, false).await;
                result.map_err(Classified::permanent)
            };
            let error = policy.call_classified(classified).await.unwrap_err();
            assert_eq!(error.into_operation().unwrap().to_string(), "borrowed");
            let report = policy.call_reported(|| fetch(&text, false)).await;
            assert_eq!(report.operation_error().unwrap().to_string(), "borrowed");
            let nested = policy.call(|| async { policy.call(|| fetch(url, true)).await.map_err(Error::into_boxed) });
            assert_eq!(nested.await.unwrap(), "borrowed");
        })
        .await;
    };
    (@static_errors $policy:expr) => {
        let policy = $policy;
        spawn(async move {
            let count = std::sync::atomic::AtomicU32::new(0);
            let op = || async {
                count.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                tokio::task::yield_now().await;
                Ok::<Cow<'static, str>, &'static str>(Cow::Borrowed("static"))
            };
            assert_eq!(policy.call(op).await, Ok(Cow::Borrowed("static")));
            assert_eq!(policy.call_with(|_| op()).await, Ok(Cow::Borrowed("static")));
            assert_eq!(policy.call_reported(op).await.result, Ok(Cow::Borrowed("static")));
            let classified = || async { Err::<Cow<'static, str>, _>(Classified::failure("no")) };
            assert_eq!(policy.call_classified(classified).await, Err(Error::Operation("no")));
        })
        .await;
    };
    (@borrowed_values $policy:expr) => {
        let policy = $policy;
        spawn(async move {
            let text = String::from("borrowed");
            let op = || async {
                tokio::task::yield_now().await;
                Ok::<&str, BoxError>(text.as_str())
            };
            assert_eq!(policy.call(op).await.unwrap(), "borrowed");
            assert_eq!(policy.call_with(|_| op()).await.unwrap(), "borrowed");
            assert_eq!(policy.call_reported(op).await.result.unwrap(), "borrowed");
            let classified = || async { op().await.map_err(Classified::transient) };
            assert_eq!(policy.call_classified(classified).await.unwrap(), "borrowed");
        })
        .await;
    };
    (@blocking $policy:expr) => {
        let policy = $policy;
        let task = tokio::task::spawn_blocking(move || {
            let text = String::from("borrowed");
            assert_eq!(policy.call_blocking(|| Ok::<_, BoxError>(text.as_str())).unwrap(), "borrowed");
        });
        task.await.unwrap();
    };
}

/// As [`spawned!`], for policies that attempt at most once.
macro_rules! spawned_once {
    ($($policy:expr),* $(,)?) => {$(
        spawned!($policy);
        let policy = $policy;
        spawn(async move {
            let body = vec![1, 2, 3];
            let sent = policy.call_once(|| async move {
                tokio::task::yield_now().await;
                Ok::<_, BoxError>(body)
            });
            assert_eq!(sent.await.unwrap(), [1, 2, 3]);
            let body = String::from("gone");
            let refused = policy.call_once(move || async move { Err::<(), BoxError>(body.into()) });
            assert_eq!(refused.await.unwrap_err().into_operation().unwrap().to_string(), "gone");
            let fixed = policy.call_once(|| async { Ok::<Cow<'static, str>, &'static str>("static".into()) });
            assert_eq!(fixed.await, Ok("static".into()));
        })
        .await;
    )*};
}

#[tokio::test(start_paused = true)]
async fn every_policy_alone() {
    spawned_once![
        timeout(),
        Timeout::after_with(|cx| cx.attempt() * MINUTE),
        (endpoints(),),
        Some(endpoints()),
        throttle(),
        breaker(),
        limiter(),
        KEYS.get(&7),
        Keyed::new(|_: &u64| breaker()).get(&7),
        bulkhead(),
        Bulkhead::new(25),
        shedder(),
        Guarded(Admit),
        Plain,
        (),
    ];
    spawned![
        retry(),
        hedge(),
        Hedge::builder().after(Duration::ZERO).build().unwrap(),
        standard(),
        Arc::new(standard()),
        (standard(), timeout()),
        Keyed::new(|_: &u64| standard()).get(&7),
        Pipeline::new(standard()).observer(|_: &Event| {}),
    ];
}

#[tokio::test(start_paused = true)]
async fn tuples_of_2_5_8_and_12() {
    let (t, b, l) = (timeout(), breaker(), limiter());
    let (h, p, s) = (bulkhead(), throttle(), shedder());
    spawned_once![
        (t.clone(), b.clone()),
        (t.clone(), b.clone(), l.clone(), h.clone(), t.clone()),
    ];
    let r = retry();
    spawned![
        (r.clone(), t.clone()),
        (t.clone(), r.clone(), b.clone(), l.clone(), h.clone()),
        (
            t.clone(),
            r.clone(),
            p.clone(),
            b.clone(),
            l.clone(),
            h.clone(),
            s.clone(),
            t.clone()
        ),
        (
            s.clone(),
            t.clone(),
            r.clone(),
            p.clone(),
            b.clone(),
            l.clone(),
            h.clone(),
            t.clone(),
            r.clone(),
            Guarded(Admit),
            Plain,
            t.clone(),
        ),
    ];
}

#[tokio::test(start_paused = true)]
async fn wrappers() {
    static STACK: LazyLock<(Timeout, Retry, CircuitBreaker)> =
        LazyLock::new(|| (timeout(), retry(), breaker()));
    static PIPELINE: LazyLock<Pipeline<(Timeout, Retry)>> =
        LazyLock::new(|| Pipeline::new((timeout(), retry())).observer(|_: &Event| {}));
    spawned_once![
        Some(timeout()),
        None::<Timeout>,
        Arc::new(breaker()),
        Arc::new(Some((timeout(), bulkhead()))),
        Pipeline::new((timeout(), limiter())),
        Pipeline::new(bulkhead()).observer(|_: &Event| {}),
    ];
    spawned![
        Some(retry()),
        None::<Retry>,
        &*STACK,
        Arc::new((timeout(), retry())),
        (
            (timeout(), (retry(), breaker())),
            (timeout(), Some(limiter()))
        ),
        (&*STACK, Arc::new(retry()), Some(timeout()), None::<Retry>),
        Pipeline::new((timeout(), retry())),
        Arc::new(Pipeline::new(retry()).observer(|_: &Event| {})),
        &*PIPELINE,
        PIPELINE.with(CallOptions::new().idempotent(false).deadline(MINUTE)),
        PIPELINE.around((breaker(), KEYS.get(&7))),
        PIPELINE.with(CallOptions::new().cost(2)).around(timeout()),
        (&*PIPELINE, breaker()),
    ];
}

/// Layers whose type names the value or the error, with types without a lifetime.
#[tokio::test(start_paused = true)]
async fn typed_layers_with_an_own_error() {
    #[derive(Debug, PartialEq)]
    enum MyError {
        Busy,
    }
    impl Clone for MyError {
        fn clone(&self) -> Self {
            Self::Busy
        }
    }
    static COALESCE: LazyLock<Coalesce<u64, u64, MyError>> =
        LazyLock::new(|| Coalesce::builder().build().unwrap());
    macro_rules! typed {
        ($($policy:expr),* $(,)?) => {$(
            let policy = $policy;
            spawn(async move {
                let text = String::from("borrowed");
                let result = policy.call(|| async {
                    tokio::task::yield_now().await;
                    match text.len() {
                        0 => Ok(1_u64),
                        _ => Err(MyError::Busy),
                    }
                });
                assert_eq!(result.await, Err(Error::Operation(MyError::Busy)));
                let once = policy.call_reported(|| async { Err::<u64, _>(MyError::Busy) });
                assert_eq!(once.await.attempts, 1);
            })
            .await;
        )*};
    }
    let errors = || Classify::errors(|_: &MyError| Verdict::permanent());
    typed![
        errors(),
        Classify::by(|result: Result<&u64, &Error<MyError>>| Verdict::default_for(result)),
        Classify::retry_if(|_: &MyError| false),
        Inspect::errors(|_: &MyError, _| {}),
        (
            timeout(),
            retry(),
            breaker(),
            errors(),
            Inspect::errors(|_: &MyError, _| {})
        ),
        Pipeline::new((retry(), errors())).observer(|_: &Event| {}),
        Fallback::value(7_u64).on_errors(false),
        Fallback::with(|_: &Error<MyError>| 7_u64).on_errors(false),
        (
            Fallback::try_with(|_: &Error<MyError>| None::<u64>),
            timeout()
        ),
        (
            Fallback::to(|_: &Error<MyError>| async { Err::<u64, _>(MyError::Busy) }),
            hedge(),
            errors(),
        ),
        COALESCE.get(&7),
        (timeout(), COALESCE.get(&7), retry(), errors()),
        Arc::new((retry(), Some(errors()))),
    ];
}

/// The last good value, and the cure for errors that cannot be cloned.
#[tokio::test(start_paused = true)]
async fn stale_values_and_shared_errors() {
    let stale = Stale::<String>::builder().max_age(MINUTE).build().unwrap();
    let result = spawn(async move {
        let text = String::from("borrowed");
        let load = || async {
            tokio::task::yield_now().await;
            Ok::<_, std::io::Error>(MaybeStale::fresh(text.clone()))
        };
        (stale, timeout()).call(load).await.map(|value| value.len())
    });
    assert_eq!(result.await.unwrap(), 8);
    static FILES: LazyLock<Coalesce<String, Arc<str>, Arc<std::io::Error>>> =
        LazyLock::new(|| Coalesce::builder().build().unwrap());
    let result = spawn(async {
        let name = String::from("name");
        let stack = (timeout(), FILES.get(name.as_str()), retry());
        stack.call(|| async { Ok(Arc::from(name.as_str())) }).await
    });
    assert_eq!(&*result.await.unwrap(), "name");
}

/// The cure for boxed errors and errors with lifetimes: a classifier for any lifetime.
#[tokio::test(start_paused = true)]
async fn typed_layers_with_a_lifetime_take_a_function() {
    #[allow(clippy::borrowed_box, reason = "the type of the error is the box")]
    fn boxed(error: &Box<dyn StdError + Send + Sync + '_>) -> Verdict {
        match error.to_string().is_empty() {
            true => Verdict::transient(),
            false => Verdict::permanent(),
        }
    }
    fn text(error: &&str) -> Verdict {
        match error.is_empty() {
            true => Verdict::transient(),
            false => Verdict::permanent(),
        }
    }
    let attempts = spawn(async {
        let stack = (timeout(), retry(), Classify::errors(boxed));
        stack.call_reported(|| fetch("no", false)).await.attempts
    });
    assert_eq!(attempts.await, 1);
    let attempts = spawn(async {
        let stack = (timeout(), retry(), Classify::errors(text));
        stack
            .call_reported(|| async { Err::<(), _>("no") })
            .await
            .attempts
    });
    assert_eq!(attempts.await, 1);
}

/// Keyed layers inside a temporary stack need no type names.
#[tokio::test(start_paused = true)]
async fn a_client_with_keyed_layers() {
    struct Client {
        total: Timeout,
        retry: Retry,
        breakers: Keyed<String, CircuitBreaker>,
        limits: KeyedRateLimiter<u64>,
        attempt: Timeout,
        pipeline: Pipeline<()>,
    }

    impl Client {
        async fn get(&self, host: &str, tenant: u64) -> Result<String, Error<BoxError>> {
            (
                &self.total,
                &self.retry,
                &self.breakers.get(host),
                self.limits.get(&tenant),
                &self.attempt,
            )
                .call(|| fetch(host, true))
                .await
        }

        async fn get_observed(&self, host: &str) -> Result<String, Error<BoxError>> {
            let options = CallOptions::new().deadline(MINUTE);
            self.pipeline
                .with(options)
                .around((&self.total, &self.retry, &self.breakers.get(host)))
                .call(|| fetch(host, true))
                .await
        }
    }

    let client = Arc::new(Client {
        total: timeout(),
        retry: retry(),
        breakers: Keyed::new(|_: &String| breaker()),
        limits: KEYS.clone(),
        attempt: timeout(),
        pipeline: Pipeline::new(())
            .with_name("hosts")
            .observer(|_: &Event| {}),
    });
    let task = client.clone();
    assert_eq!(
        spawn(async move { task.get("host", 7).await.unwrap() }).await,
        "host"
    );
    assert_eq!(
        spawn(async move { client.get_observed("host").await.unwrap() }).await,
        "host"
    );
}

#[tokio::test(start_paused = true)]
async fn an_operation_that_cannot_be_sent_runs_on_a_local_executor() {
    let stack = Rc::new((timeout(), retry(), breaker(), bulkhead(), Guarded(Admit)));
    let local = tokio::task::LocalSet::new();
    let answer = local.run_until(async move {
        let count = Rc::new(std::cell::Cell::new(0));
        let task = tokio::task::spawn_local(async move {
            let call = stack.call(|| async {
                tokio::task::yield_now().await;
                count.set(count.get() + 1);
                match count.get() {
                    1..3 => Err(Rc::new("not yet")),
                    _ => Ok(Rc::clone(&count)),
                }
            });
            let calls = call.await.map(|count| count.get());
            let body = Rc::new(());
            let once = (timeout(), bulkhead());
            let sent = once
                .call_once(|| async move { Ok::<_, Rc<()>>(body) })
                .await;
            assert!(sent.is_ok());
            calls
        });
        task.await.unwrap()
    });
    assert_eq!(answer.await, Ok(3));
}

// ===== axum =====

async fn load() -> Result<String, BoxError> {
    Ok(String::from("loaded"))
}

async fn handler(State(stack): State<Arc<(Timeout, Retry)>>) -> String {
    stack.call(load).await.unwrap_or_default()
}

#[tokio::test(start_paused = true)]
async fn an_axum_handler() {
    let stack = Arc::new((timeout(), retry()));
    let mut router: Router = Router::new().route("/", get(handler)).with_state(stack);
    let request = Request::builder().uri("/").body(Body::empty()).unwrap();
    let response: Response = router.call(request).await.unwrap();
    let body = axum::body::to_bytes(response.into_body(), 99)
        .await
        .unwrap();
    assert_eq!(body, "loaded");
}

// ===== A service that is generic over its policy, as tower and axum want it =====

/// A request to a service, as an operation.
struct Request1<'a, S, R> {
    service: &'a S,
    request: &'a R,
}

impl<S, R> Clone for Request1<'_, S, R> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<S, R> Copy for Request1<'_, S, R> {}

impl<S: Service<R> + Clone, R: Clone> Operation for Request1<'_, S, R> {
    type Value = S::Response;
    type Error = S::Error;
    type Attempt = Attempting<S::Future>;
    type Listener = ();

    fn attempt(self, _: Context) -> Self::Attempt {
        Attempting(Box::pin(self.service.clone().call(self.request.clone())))
    }

    fn listener(self) {}
}

struct Attempting<F>(Pin<Box<F>>);

impl<T, E, F: Future<Output = Result<T, E>>> Future for Attempting<F> {
    type Output = Outcome<T, E>;

    fn poll(mut self: Pin<&mut Self>, task: &mut TaskContext<'_>) -> Poll<Self::Output> {
        self.0.as_mut().poll(task).map(Outcome::of)
    }
}

#[derive(Clone)]
struct Protected<P, S> {
    policy: Arc<P>,
    inner: S,
}

impl<P, S, R> Service<R> for Protected<P, S>
where
    P: Send + Sync + 'static,
    S: Service<R> + Clone + Send + Sync + 'static,
    R: Clone + Send + Sync + 'static,
    S::Response: Send,
    S::Error: Send,
    for<'a, 'b> &'a P: Run<Request1<'b, S, R>, Future: Send>,
{
    type Response = S::Response;
    type Error = Error<S::Error>;
    type Future = Pin<Box<dyn Future<Output = Result<S::Response, Error<S::Error>>> + Send>>;

    fn poll_ready(&mut self, _: &mut TaskContext<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: R) -> Self::Future {
        let (policy, service) = (self.policy.clone(), self.inner.clone());
        Box::pin(async move {
            let op = Request1 {
                service: &service,
                request: &request,
            };
            (&*policy).run(op, Context::new()).await.result
        })
    }
}

/// A service whose first answer is an error that is boxed.
#[derive(Clone, Default)]
struct Flaky(Arc<std::sync::atomic::AtomicU32>);

impl Service<String> for Flaky {
    type Response = Cow<'static, str>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Cow<'static, str>, BoxError>> + Send>>;

    fn poll_ready(&mut self, _: &mut TaskContext<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: String) -> Self::Future {
        let first = self.0.fetch_add(1, std::sync::atomic::Ordering::Relaxed) == 0;
        Box::pin(async move {
            tokio::task::yield_now().await;
            match first {
                true => Err("not yet".into()),
                false => Ok(request.into()),
            }
        })
    }
}

#[tokio::test(start_paused = true)]
async fn a_service_generic_over_its_policy() {
    let policy = (
        timeout(),
        retry(),
        Some(breaker()),
        Arc::new(limiter()),
        (bulkhead(), timeout()),
        Pipeline::new(timeout()).observer(|_: &Event| {}),
    );
    let mut service = Protected {
        policy: Arc::new(policy),
        inner: Flaky::default(),
    };
    let answer = spawn(async move { service.call("hello".to_owned()).await });
    assert_eq!(answer.await.unwrap(), "hello");
}

// ===== Registries =====

#[tokio::test(start_paused = true)]
async fn a_registry_of_boxed_policies() {
    let mut policies: HashMap<String, BoxPolicy<String, BoxError>> = HashMap::new();
    policies.insert("timeout".into(), BoxPolicy::new(timeout()));
    policies.insert("none".into(), BoxPolicy::new(()));
    policies.insert(
        "stack".into(),
        BoxPolicy::new((timeout(), retry(), breaker(), limiter(), bulkhead())),
    );
    policies.insert(
        "pipeline".into(),
        BoxPolicy::new(Pipeline::new((retry(), Some(throttle()))).observer(|_: &Event| {})),
    );
    let classify = |error: &BoxError| match error.to_string().is_empty() {
        true => Verdict::transient(),
        false => Verdict::permanent(),
    };
    policies.insert(
        "typed".into(),
        BoxPolicy::new((retry(), Classify::errors(classify))),
    );
    let policies = Arc::new(policies);
    for name in policies.keys() {
        let (policies, name) = (policies.clone(), name.clone());
        spawn(async move {
            let (policy, text) = (&policies[&name], String::from("borrowed"));
            assert_eq!(
                policy.call(|| fetch(&text, true)).await.unwrap(),
                "borrowed"
            );
            let with = policy.call_with(|attempt| fetch(&text, attempt.number() == 1));
            assert_eq!(with.await.unwrap(), "borrowed");
            let classified = policy.call_classified(|| async {
                let result = fetch(&text, false).await;
                result.map_err(Classified::permanent)
            });
            assert!(classified.await.unwrap_err().operation().is_some());
        })
        .await;
    }
    let fixed: BoxPolicy<Cow<'static, str>, &'static str> = BoxPolicy::new((timeout(), retry()));
    let task = spawn(async move { fixed.clone().call(|| async { Ok("static".into()) }).await });
    assert_eq!(task.await, Ok(Cow::Borrowed("static")));
}

/// Operations that need a node, in tasks and with every kind of value and error.
#[tokio::test(start_paused = true)]
async fn operations_for_nodes_can_be_spawned() {
    let endpoints = endpoints();
    let stack = (timeout(), retry(), endpoints.clone(), timeout());
    spawn(async move {
        let text = String::from("borrowed");
        let text = text.as_str();
        let one = endpoints.call(|node| async move {
            tokio::task::yield_now().await;
            match node.is_empty() {
                true => Err::<&str, BoxError>("empty".into()),
                false => Ok(text),
            }
        });
        assert_eq!(one.await.unwrap(), "borrowed");
        let each = endpoints.each(|node| async move { fetch(text, node.is_empty()).await });
        assert!(stack.call_with(each).await.is_err());
        let sticky = (&stack.1, endpoints.sticky("user-7"));
        let each = endpoints.each(|node| async move {
            tokio::task::yield_now().await;
            Err::<(), &'static str>(if node.is_empty() { "empty" } else { "static" })
        });
        assert!(sticky.call_with(each).await.is_err());
        let _permit = endpoints.try_acquire().unwrap();
        tokio::task::yield_now().await;
    })
    .await;
}

#[cfg(feature = "chaos")]
#[tokio::test(start_paused = true)]
async fn injected_faults_can_be_spawned() {
    let chaos = backstop::Chaos::builder()
        .latency(0.5, MINUTE)
        .behavior(0.5, tokio::task::yield_now)
        .max_share(1.0);
    let chaos = chaos.build().unwrap();
    spawn(async move {
        let text = String::from("borrowed");
        for _ in 0..20 {
            assert_eq!(
                (retry(), &chaos).call(|| fetch(&text, true)).await.unwrap(),
                "borrowed"
            );
        }
    })
    .await;
    let errors = backstop::Chaos::builder()
        .error(1.0, || 7_u32)
        .max_share(1.0)
        .build()
        .unwrap();
    spawn(async move {
        let text = String::from("borrowed");
        let text = text.as_str();
        let call = errors.call(|| async move { Ok::<_, u32>(text) });
        assert_eq!(call.await.unwrap_err().into_operation(), Some(7));
    })
    .await;
}
