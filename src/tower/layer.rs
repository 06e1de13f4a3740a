//! The layer that applies a policy to a service.

use std::fmt;
use std::future::Future;
use std::mem;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll};

use tower_layer::Layer;
use tower_service::Service;

use super::operation::{Calls, ServiceCall, ServicePolicy};
use super::request_methods::request_methods;
use super::requests::{Once, Requests};
use crate::clock::ClockHandle;
use crate::error::Error;
use crate::policy::{CallOptions, Context, Describe};

/// The future of a call through a layer. Costs one allocation.
pub type ServiceFuture<T, E> = Pin<Box<dyn Future<Output = Result<T, E>> + Send>>;

/// Applies a policy to a service.
///
/// The state is in the policy: clones of the layer and all its services share it. Each request is sent [`Once`] by
/// default, whatever its type, even through a stack with a retry; [`cloned`](Self::cloned), [`by`](Self::by), and
/// `replayable` allow further attempts.
///
/// The service's error becomes [`Error`]; a `RespondLayer` outside converts errors of policies into responses.
///
/// # Readiness
///
/// `poll_ready` is that of the inner service, and never waits for a policy. The first attempt uses the service that
/// was made ready, unless it waits for a policy; then it makes a clone ready, as each further attempt does. So a call
/// that waits takes no permit of the inner service.
///
/// # Example
///
/// ```
/// use std::time::Duration;
/// use backstop::tower::PolicyLayer;
/// use backstop::{ManualClock, Retry, Timeout};
/// use tower_layer::Layer;
/// use tower_service::Service;
/// # use std::task::{Context, Poll};
/// # #[derive(Clone)]
/// # struct Greet;
/// # impl Service<String> for Greet {
/// #     type Response = String;
/// #     type Error = std::io::Error;
/// #     type Future = std::future::Ready<std::io::Result<String>>;
/// #     fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<std::io::Result<()>> { Poll::Ready(Ok(())) }
/// #     fn call(&mut self, name: String) -> Self::Future { std::future::ready(Ok(format!("hello {name}"))) }
/// # }
///
/// let clock = ManualClock::new();
/// let stack = (
///     Timeout::builder().after(Duration::from_secs(10)).clock(clock.clone()).build()?,
///     Retry::builder().clock(clock.clone()).build()?,
/// );
/// let mut service = PolicyLayer::new(stack).cloned().layer(Greet);
/// assert_eq!(clock.block_on(service.call("world".into())).unwrap(), "hello world");
/// # Ok::<(), backstop::ConfigError>(())
/// ```
pub struct PolicyLayer<P, C = Once> {
    policy: Arc<P>,
    requests: C,
}

impl<P> PolicyLayer<P> {
    /// Returns a layer that sends each request [`Once`].
    pub fn new(policy: P) -> Self {
        Self {
            policy: Arc::new(policy),
            requests: Once,
        }
    }

    /// Sets how the requests of attempts are made. Default: [`Once`].
    pub fn requests<C>(self, requests: C) -> PolicyLayer<P, C> {
        PolicyLayer {
            policy: self.policy,
            requests,
        }
    }
}

request_methods!(PolicyLayer, [P]);

impl<P, C> PolicyLayer<P, C> {
    fn map<D>(self, change: impl FnOnce(C) -> D) -> PolicyLayer<P, D> {
        PolicyLayer {
            policy: self.policy,
            requests: change(self.requests),
        }
    }
}

impl<P, C: Clone> Clone for PolicyLayer<P, C> {
    fn clone(&self) -> Self {
        Self {
            policy: self.policy.clone(),
            requests: self.requests.clone(),
        }
    }
}

impl<P, C> fmt::Debug for PolicyLayer<P, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PolicyLayer").finish_non_exhaustive()
    }
}

impl<P, C: Clone, S> Layer<S> for PolicyLayer<P, C> {
    type Service = PolicyService<P, S, C>;

    fn layer(&self, inner: S) -> Self::Service {
        PolicyService {
            layer: self.clone(),
            inner,
        }
    }
}

/// A service under a policy. Returned by [`PolicyLayer`].
pub struct PolicyService<P, S, C = Once> {
    layer: PolicyLayer<P, C>,
    inner: S,
}

impl<P, S: Clone, C: Clone> Clone for PolicyService<P, S, C> {
    fn clone(&self) -> Self {
        Self {
            layer: self.layer.clone(),
            inner: self.inner.clone(),
        }
    }
}

impl<P, S: fmt::Debug, C> fmt::Debug for PolicyService<P, S, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PolicyService")
            .field("inner", &self.inner)
            .finish_non_exhaustive()
    }
}

impl<P, S, C, R> Service<R> for PolicyService<P, S, C>
where
    P: Describe + Send + Sync + 'static,
    C: Requests<R> + Clone + Send + Sync + 'static,
    C::Kept: Send,
    R: Send + 'static,
    S: Service<C::Request> + Clone + Send + 'static,
    P: ServicePolicy<S, R, C>,
{
    type Response = S::Response;
    type Error = Error<S::Error>;
    type Future = ServiceFuture<S::Response, Error<S::Error>>;

    fn poll_ready(&mut self, task: &mut TaskContext<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(task).map_err(Error::Operation)
    }

    fn call(&mut self, mut request: R) -> Self::Future {
        let service = take_ready(&mut self.inner);
        let PolicyLayer { policy, requests } = self.layer.clone();
        // Starts the call when the future is polled, so that a deadline in force then applies to all of it.
        Box::pin(async move {
            requests.prepare(&mut request);
            let options = requests.options(&request);
            let kept = requests.keep(request);
            let cx = context(options, requests.is_repeatable(&kept), || policy.clock());
            let calls = Calls::new(service, &requests, kept);
            let run = policy.run_call(ServiceCall(&calls), cx);
            calls.poll_with(run).await.result
        })
    }
}

/// Takes the ready service, and leaves a clone, which need not be ready.
pub(super) fn take_ready<S: Clone>(inner: &mut S) -> S {
    let clone = inner.clone();
    mem::replace(inner, clone)
}

/// Returns the context of a new call.
pub(super) fn context(
    options: CallOptions,
    is_repeatable: bool,
    clock: impl FnOnce() -> Option<ClockHandle>,
) -> Context {
    options
        .apply(Context::new().with_repeatable(is_repeatable), clock)
        .0
}
