//! axum handlers, and services that are generic over their policy, as tower and axum need them.

use std::borrow::Cow;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll};

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::http::Request;
use axum::response::Response;
use axum::routing::get;
use backstop::policy::Run;
use backstop::{Context, Error, Event, Operation, Outcome, Pipeline, Policy, Retry, Timeout};
use tower_service::Service;

use super::{BoxError, breaker, bulkhead, limiter, retry, spawn, timeout};

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
