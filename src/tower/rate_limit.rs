//! A rate limit for each client, with headers.

use std::fmt;
use std::hash::Hash;
use std::task::{Context as TaskContext, Poll};

use ::http::Response;
use tower_layer::Layer;
use tower_service::Service;

use super::answer::{Answer, AnswerWith, Answers, split};
use super::key::ExtractKey;
use super::layer::{ServiceFuture, context, take_ready};
use super::no_key::NoKey;
use super::operation::{Calls, ServiceCall};
use super::requests::{Once, Requests, WithOptions};
use crate::error::PolicyError;
use crate::http::rate_limit;
use crate::policy::{CallOptions, Describe, Run};
use crate::rate_limiter::KeyedRateLimiter;

/// Limits the requests of each key. All responses get `RateLimit` and `RateLimit-Policy`; rejected requests are
/// answered with 429 and `Retry-After`. The service's error type stays.
///
/// A request without a key is answered with 400, unless [`no_key`](Self::no_key) is set.
///
/// The state is in the limiter: clones of the layer and all its services share it. Its `max_wait` and shadow mode
/// apply.
///
/// # Example
///
/// ```
/// use backstop::tower::{RateLimitLayer, key};
/// use backstop::{KeyedRateLimiter, Quota};
/// use http::HeaderName;
///
/// let limits = KeyedRateLimiter::<String>::new(Quota::per_second(100))?;
/// let layer = RateLimitLayer::new(limits, key::header(HeaderName::from_static("x-tenant")));
/// # let _ = layer;
/// # Ok::<(), backstop::ConfigError>(())
/// ```
#[derive(Clone)]
pub struct RateLimitLayer<K, X, A = Answers, C = Once> {
    limits: KeyedRateLimiter<K>,
    key: X,
    no_key: NoKey<K>,
    answers: A,
    requests: C,
}

impl<K, X> RateLimitLayer<K, X> {
    /// Returns a layer that extracts the key of a request with `key`.
    pub const fn new(limits: KeyedRateLimiter<K>, key: X) -> Self {
        Self {
            limits,
            key,
            no_key: NoKey::Reject,
            answers: Answers::new(),
            requests: Once,
        }
    }
}

impl<K, X, C> RateLimitLayer<K, X, Answers, C> {
    /// Sends the bodies of rejections as `application/problem+json` (RFC 9457).
    #[must_use]
    pub fn problem_json(mut self) -> Self {
        self.answers = self.answers.problem_json();
        self
    }

    /// Answers rejections with a function, and adds the rate limit fields to its responses.
    pub fn respond_with<B, F>(self, answer: F) -> RateLimitLayer<K, X, AnswerWith<F>, C>
    where
        F: Fn(&PolicyError) -> Response<B>,
    {
        RateLimitLayer {
            limits: self.limits,
            key: self.key,
            no_key: self.no_key,
            answers: AnswerWith(answer),
            requests: self.requests,
        }
    }
}

impl<K, X, A> RateLimitLayer<K, X, A> {
    /// Sets call options by request: the tokens that it takes (`cost`), and the deadline of its wait.
    ///
    /// For HTTP: `.options(|r: &Request<_>| http::call_options(r.method(), r.headers()))`.
    pub fn options<R, F>(self, options: F) -> RateLimitLayer<K, X, A, WithOptions<Once, F>>
    where
        F: Fn(&R) -> CallOptions,
    {
        RateLimitLayer {
            limits: self.limits,
            key: self.key,
            no_key: self.no_key,
            answers: self.answers,
            requests: WithOptions {
                inner: Once,
                options,
            },
        }
    }
}

impl<K, X, A, C> RateLimitLayer<K, X, A, C> {
    /// Sets what happens to requests without a key.
    #[must_use]
    pub fn no_key(mut self, no_key: NoKey<K>) -> Self {
        self.no_key = no_key;
        self
    }
}

impl<K, X, A, C> fmt::Debug for RateLimitLayer<K, X, A, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RateLimitLayer").finish_non_exhaustive()
    }
}

impl<K: Clone, X: Clone, A: Clone, C: Clone, S> Layer<S> for RateLimitLayer<K, X, A, C> {
    type Service = RateLimitService<K, X, S, A, C>;

    fn layer(&self, inner: S) -> Self::Service {
        RateLimitService {
            layer: self.clone(),
            inner,
        }
    }
}

/// A service with a rate limit for each key. Returned by [`RateLimitLayer`].
#[derive(Clone)]
pub struct RateLimitService<K, X, S, A = Answers, C = Once> {
    layer: RateLimitLayer<K, X, A, C>,
    inner: S,
}

impl<K, X, S: fmt::Debug, A, C> fmt::Debug for RateLimitService<K, X, S, A, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RateLimitService")
            .field("inner", &self.inner)
            .finish_non_exhaustive()
    }
}

impl<K, X, S, A, C, R, B> Service<R> for RateLimitService<K, X, S, A, C>
where
    C: Requests<R>,
    K: Hash + Eq + Clone + Send + Sync + 'static,
    X: ExtractKey<R, Key = K>,
    A: Answer<B> + Clone + Send + 'static,
    R: Send + 'static,
    S: Service<R, Response = Response<B>> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Send,
    B: Send,
{
    type Response = Response<B>;
    type Error = S::Error;
    type Future = ServiceFuture<Response<B>, S::Error>;

    fn poll_ready(&mut self, task: &mut TaskContext<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(task)
    }

    fn call(&mut self, request: R) -> Self::Future {
        let service = take_ready(&mut self.inner);
        let layer = &self.layer;
        let key = layer.no_key.resolve(layer.key.extract(&request));
        let (limits, answers) = (layer.limits.clone(), layer.answers.clone());
        let options = layer.requests.options(&request);
        Box::pin(async move {
            let key = match key {
                Ok(key) => key,
                Err(rejected) => return Ok(answers.answer(&rejected.into())),
            };
            let calls = Calls::new(service, &Once, request);
            let op = ServiceCall(&calls);
            let result = match &key {
                Some(key) => {
                    let limit = limits.get(key);
                    let cx = context(options, false, || limit.clock());
                    calls.poll_with((&limit).run(op, cx)).await.result
                }
                None => {
                    let cx = context(options, false, || None);
                    (&()).run(op, cx).await.result
                }
            };
            let mut response = match result.map_err(split) {
                Ok(response) => response,
                Err(Ok(error)) => answers.answer(&error),
                Err(Err(error)) => return Err(error),
            };
            // Read after the call, so that the fields are as new as the response.
            if let Some(key) = &key {
                // The key is unknown if its limit is full again and it was evicted, or if it has no room.
                let decision = limits.peek_any(key);
                rate_limit::write(response.headers_mut(), limits.name(), &decision);
            }
            Ok(response)
        })
    }
}
