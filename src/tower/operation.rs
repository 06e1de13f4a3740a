//! A call of a service as an operation.

use std::fmt;
use std::future::Future;
use std::mem;
use std::pin::Pin;
use std::sync::Mutex;
use std::task::{Context as TaskContext, Poll, ready};

use pin_project_lite::pin_project;
use tower_service::Service;

use super::requests::Requests;
use crate::error::{Error, Reason, Rejected};
use crate::policy::operation::{Attempts, forward_attempts};
use crate::policy::{Attempt, Context, Operation, Outcome, Run};
use crate::sync::lock;
use crate::verdict::Verdict;

/// A call of a service, owned by the caller's future and shared by its attempts.
pub(super) struct Calls<'c, S, R, C: Requests<R>> {
    requests: &'c C,
    slot: Mutex<Slot<S, C::Kept>>,
    attempts: Attempts,
}

struct Slot<S, K> {
    /// The service; `None` while an attempt starts, and if no further attempt is possible.
    service: Option<S>,
    kept: Option<K>,
    /// Whether the service is ready: `poll_ready` was called before the first attempt.
    is_ready: bool,
}

impl<'c, S, R, C: Requests<R>> Calls<'c, S, R, C> {
    /// Returns a call of a ready `service`.
    pub(super) fn new(service: S, requests: &'c C, kept: C::Kept) -> Self {
        Self {
            requests,
            slot: Mutex::new(Slot {
                service: Some(service),
                kept: Some(kept),
                is_ready: true,
            }),
            attempts: Attempts::new(),
        }
    }

    /// Polls a run of this call. If it waits before its first attempt, the ready service is exchanged for a clone, which
    /// is made ready after the wait.
    ///
    /// A ready service may hold a permit, such as one of tower's `ConcurrencyLimit`. A call that waits for a policy would
    /// keep it from other calls, even from further attempts of the one that it waits for.
    pub(super) fn poll_with<F: Future>(&self, run: F) -> PollWith<'_, Self, F>
    where
        S: Clone,
    {
        PollWith {
            calls: self,
            is_first: true,
            run,
        }
    }
}

/// A call whose service was made ready.
pub(super) trait HoldReady {
    /// Exchanges the ready service for a clone, unless the first attempt has taken it.
    fn release(&self);
}

impl<S: Clone, R, C: Requests<R>> HoldReady for Calls<'_, S, R, C> {
    #[cold]
    fn release(&self) {
        let ready = {
            let mut slot = lock(&self.slot);
            if !mem::replace(&mut slot.is_ready, false) {
                return;
            }
            slot.service.take()
        };
        // Cloned and dropped outside the lock, because both are user code.
        let clone = ready.clone();
        lock(&self.slot).service = clone;
        drop(ready);
    }
}

pin_project! {
    /// A run that releases a ready service while it waits.
    #[must_use = "futures do nothing unless you `.await` or poll them"]
    pub(super) struct PollWith<'c, H, F> {
        calls: &'c H,
        is_first: bool,
        #[pin]
        run: F,
    }
}

impl<H: HoldReady, F: Future> Future for PollWith<'_, H, F> {
    type Output = F::Output;

    #[inline]
    fn poll(self: Pin<&mut Self>, task: &mut TaskContext<'_>) -> Poll<F::Output> {
        let this = self.project();
        let polled = this.run.poll(task);
        if mem::take(this.is_first) && polled.is_pending() {
            this.calls.release();
        }
        polled
    }
}

/// A policy that runs the calls of a service. Implemented for every policy that can.
///
/// Layers have it as a bound. What a service or a policy lacks is an error where the layer is put around the service:
///
/// ```compile_fail,E0277
/// use axum::{Router, routing::get};
/// use backstop::tower::PolicyLayer;
/// use backstop::Retry;
///
/// let layer = PolicyLayer::new(Retry::default()).cloned().respond();
/// // error[E0277]: the trait bound `axum::body::Body: Clone` is not satisfied
/// let app: Router = Router::new().route("/", get(|| async { "hello" })).layer(layer);
/// ```
// Layers have no bound on `&P`: with one, rustc 1.95 reports any other unmet bound as an overflow (E0275) that names no
// place, because it tries `&_` for every policy that contains others. `_: ServicePolicy` is ambiguous at once.
pub trait ServicePolicy<S, R, C>
where
    C: Requests<R>,
    S: Service<C::Request> + Clone,
{
    /// Runs a call.
    fn run_call<'a>(
        &'a self,
        call: ServiceCall<'a, S, R, C>,
        cx: Context,
    ) -> impl Future<Output = Outcome<S::Response, S::Error>> + Send;
}

impl<P, S, R, C> ServicePolicy<S, R, C> for P
where
    C: Requests<R>,
    S: Service<C::Request> + Clone,
    for<'a, 'b> &'a P: Run<ServiceCall<'b, S, R, C>, Future: Send>,
{
    fn run_call<'a>(
        &'a self,
        call: ServiceCall<'a, S, R, C>,
        cx: Context,
    ) -> impl Future<Output = Outcome<S::Response, S::Error>> + Send {
        self.run(call, cx)
    }
}

/// A call of a tower service, as an operation of policies.
pub struct ServiceCall<'c, S, R, C: Requests<R>>(pub(super) &'c Calls<'c, S, R, C>);

// Derived implementations would require `S: Copy`.
impl<S, R, C: Requests<R>> Clone for ServiceCall<'_, S, R, C> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<S, R, C: Requests<R>> Copy for ServiceCall<'_, S, R, C> {}

impl<S, R, C: Requests<R>> fmt::Debug for ServiceCall<'_, S, R, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServiceCall").finish_non_exhaustive()
    }
}

impl<S, R, C> Operation for ServiceCall<'_, S, R, C>
where
    C: Requests<R>,
    S: Service<C::Request> + Clone,
{
    type Value = S::Response;
    type Error = S::Error;
    type Attempt = ServiceAttempt<S, C::Request>;
    type Listener = ();

    fn attempt(self, cx: Context) -> Self::Attempt {
        ServiceAttempt {
            stage: start(self.0, cx).unwrap_or(Stage::NotRepeatable),
        }
    }

    fn listener(self) {}

    forward_attempts!(0.attempts);

    fn is_repeatable(self) -> bool {
        let Some(kept) = lock(&self.0.slot).kept.take() else {
            return false;
        };
        // Called outside the lock, because it is user code.
        let is_repeatable = self.0.requests.is_repeatable(&kept);
        lock(&self.0.slot).kept = Some(kept);
        is_repeatable
    }
}

/// Starts an attempt. `None` if the request cannot be sent again.
fn start<S, R, C>(
    calls: &Calls<'_, S, R, C>,
    cx: Context,
) -> Option<Stage<S, C::Request, S::Future>>
where
    C: Requests<R>,
    S: Service<C::Request> + Clone,
{
    let (service, kept, is_ready) = {
        let mut slot = lock(&calls.slot);
        let is_ready = mem::replace(&mut slot.is_ready, false);
        (slot.service.take(), slot.kept.take(), is_ready)
    };
    // User code from here on, outside the lock. One future polls all attempts, so no other attempt starts meanwhile.
    let mut service = service?;
    let (request, kept) = calls.requests.take(kept?);
    let mut request = request?;
    calls
        .requests
        .before_attempt(&mut request, Attempt::new(cx));
    calls.attempts.start();
    let stage = match is_ready {
        // tower demands that the service made ready is the one called. A clone may not be ready.
        true => Stage::Calling {
            future: service.call(request),
        },
        false => Stage::Readying {
            service: service.clone(),
            request: Some(request),
        },
    };
    if kept.is_some() {
        let mut slot = lock(&calls.slot);
        slot.kept = kept;
        slot.service = Some(service);
    }
    Some(stage)
}

pin_project! {
    /// An attempt of a [`ServiceCall`].
    #[must_use = "futures do nothing unless you `.await` or poll them"]
    pub struct ServiceAttempt<S: Service<Q>, Q> {
        #[pin]
        stage: Stage<S, Q, S::Future>,
    }
}

pin_project! {
    #[project = StageProj]
    enum Stage<S, Q, F> {
        Readying { service: S, request: Option<Q> },
        Calling { #[pin] future: F },
        NotRepeatable,
    }
}

impl<S: Service<Q>, Q> Future for ServiceAttempt<S, Q> {
    type Output = Outcome<S::Response, S::Error>;

    fn poll(self: Pin<&mut Self>, task: &mut TaskContext<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        loop {
            let future = match this.stage.as_mut().project() {
                StageProj::Calling { future } => return future.poll(task).map(Outcome::of),
                StageProj::Readying { service, request } => {
                    if let Err(error) = ready!(service.poll_ready(task)) {
                        let verdict = Verdict::transient().not_executed();
                        return Poll::Ready(Outcome::new(Err(Error::Operation(error)), verdict));
                    }
                    match request.take() {
                        Some(request) => service.call(request),
                        None => return Poll::Pending,
                    }
                }
                StageProj::NotRepeatable => {
                    let rejected = Rejected::new("tower", Reason::NotRepeatable);
                    return Poll::Ready(Outcome::rejected(rejected));
                }
            };
            this.stage.set(Stage::Calling { future });
        }
    }
}

impl<S: Service<Q>, Q> fmt::Debug for ServiceAttempt<S, Q> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServiceAttempt").finish_non_exhaustive()
    }
}
