//! The layer that answers rejections and timeouts.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context as TaskContext, Poll, ready};

use ::http::{Response, StatusCode};
use pin_project_lite::pin_project;
use tower_layer::Layer;
use tower_service::Service;

use super::answer::{Answer, AnswerWith, Answers, split};
use super::bulkhead::BulkheadLayer;
use super::keyed::KeyedLayer;
use super::layer::PolicyLayer;
use crate::error::{Error, PolicyError};
use crate::http::rate_limit;
use crate::rate_limiter::RateLimiter;

/// Converts rejections and timeouts of inner policies into responses, so that the error type is the service's own
/// again: `Infallible` for axum. [`Answers`] has the table.
///
/// Put it outside a [`PolicyLayer`](super::PolicyLayer), or use
/// [`PolicyLayer::respond`](super::PolicyLayer::respond).
#[derive(Clone, Debug)]
pub struct RespondLayer<A = Answers> {
    answers: A,
    limiter: Option<RateLimiter>,
}

impl RespondLayer {
    /// Returns a layer with the default responses.
    pub const fn new() -> Self {
        Self {
            answers: Answers::new(),
            limiter: None,
        }
    }

    /// Sets the status of timeouts. Default 504, as for a gateway; 503 suits a server that is not one.
    #[must_use]
    pub fn timeout_status(mut self, status: StatusCode) -> Self {
        self.answers = self.answers.timeout_status(status);
        self
    }

    /// Sends bodies as `application/problem+json` (RFC 9457).
    #[must_use]
    pub fn problem_json(mut self) -> Self {
        self.answers = self.answers.problem_json();
        self
    }

    /// Answers with a function.
    pub fn respond_with<B, F>(self, answer: F) -> RespondLayer<AnswerWith<F>>
    where
        F: Fn(&PolicyError) -> Response<B>,
    {
        RespondLayer {
            answers: AnswerWith(answer),
            limiter: self.limiter,
        }
    }
}

impl Default for RespondLayer {
    fn default() -> Self {
        Self::new()
    }
}

impl<A> RespondLayer<A> {
    /// Adds the state of `limiter` to all responses, in the fields `RateLimit` and `RateLimit-Policy`. It must be the
    /// limiter of the inner policy. For limiters with keys, use [`RateLimitLayer`](super::RateLimitLayer).
    #[must_use]
    pub fn rate_limit(mut self, limiter: &RateLimiter) -> Self {
        self.limiter = Some(limiter.clone());
        self
    }
}

macro_rules! respond {
    ($($layer:ident<$($own:ident),*>)*) => {$(
        impl<$($own),*> $layer<$($own),*> {
            /// Returns this layer inside one that [answers](RespondLayer) rejections and timeouts, so that the error type
            /// is the service's own again.
            pub fn respond(self) -> (RespondLayer, Self) {
                (RespondLayer::new(), self)
            }
        }
    )*};
}

respond! { PolicyLayer<P, C> KeyedLayer<K, P, X, C> BulkheadLayer<C> }

impl<A: Clone, S> Layer<S> for RespondLayer<A> {
    type Service = RespondService<S, A>;

    fn layer(&self, inner: S) -> Self::Service {
        RespondService {
            layer: self.clone(),
            inner,
            failed: None,
        }
    }
}

/// A service that answers rejections and timeouts. Returned by [`RespondLayer`].
#[derive(Debug)]
pub struct RespondService<S, A = Answers> {
    layer: RespondLayer<A>,
    inner: S,
    /// The error of `poll_ready`, to be answered by the next call.
    failed: Option<PolicyError>,
}

impl<S: Clone, A: Clone> Clone for RespondService<S, A> {
    fn clone(&self) -> Self {
        Self {
            layer: self.layer.clone(),
            inner: self.inner.clone(),
            failed: None,
        }
    }
}

impl<S, A, R, B, E> Service<R> for RespondService<S, A>
where
    S: Service<R, Response = Response<B>, Error = Error<E>>,
    A: Answer<B> + Clone,
{
    type Response = Response<B>;
    type Error = E;
    type Future = RespondFuture<S::Future, A>;

    fn poll_ready(&mut self, task: &mut TaskContext<'_>) -> Poll<Result<(), E>> {
        match ready!(self.inner.poll_ready(task)) {
            Ok(()) => {
                // It may be polled again before the call. The service that is ready now may hold a permit for it.
                self.failed = None;
                Poll::Ready(Ok(()))
            }
            Err(error) => Poll::Ready(split(error).map(|failed| self.failed = Some(failed))),
        }
    }

    fn call(&mut self, request: R) -> RespondFuture<S::Future, A> {
        let inner = match self.failed.take() {
            Some(error) => Inner::Failed { error },
            None => Inner::Running {
                future: self.inner.call(request),
            },
        };
        RespondFuture {
            inner,
            layer: self.layer.clone(),
        }
    }
}

pin_project! {
    /// The future of a [`RespondService`].
    #[must_use = "futures do nothing unless you `.await` or poll them"]
    pub struct RespondFuture<F, A> {
        #[pin]
        inner: Inner<F>,
        layer: RespondLayer<A>,
    }
}

pin_project! {
    #[project = InnerProj]
    enum Inner<F> {
        Running { #[pin] future: F },
        Failed { error: PolicyError },
    }
}

impl<F, A, B, E> Future for RespondFuture<F, A>
where
    F: Future<Output = Result<Response<B>, Error<E>>>,
    A: Answer<B>,
{
    type Output = Result<Response<B>, E>;

    fn poll(self: Pin<&mut Self>, task: &mut TaskContext<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let result = match this.inner.project() {
            InnerProj::Running { future } => ready!(future.poll(task)),
            InnerProj::Failed { error } => Err(error.map(|never| match never {})),
        };
        let mut response = match result.map_err(split) {
            Ok(response) => response,
            Err(Ok(error)) => this.layer.answers.answer(&error),
            Err(Err(error)) => return Poll::Ready(Err(error)),
        };
        if let Some(limiter) = &this.layer.limiter {
            rate_limit::write(response.headers_mut(), limiter.name(), &limiter.peek());
        }
        Poll::Ready(Ok(response))
    }
}

impl<F, A> fmt::Debug for RespondFuture<F, A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RespondFuture").finish_non_exhaustive()
    }
}
