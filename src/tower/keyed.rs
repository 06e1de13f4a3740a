//! A policy for each key.

use std::fmt;
use std::hash::Hash;
use std::task::{Context as TaskContext, Poll};

use tower_layer::Layer;
use tower_service::Service;

use super::key::ExtractKey;
use super::layer::{ServiceFuture, context, take_ready};
use super::no_key::NoKey;
use super::operation::{Calls, ServiceCall, ServicePolicy};
use super::request_methods::request_methods;
use super::requests::{Once, Requests};
use crate::error::{Error, Reason, Rejected};
use crate::keyed::{Evictable, Keyed};
use crate::policy::Describe;

/// Applies the policy of a request's key, such as a breaker for each host. For rate limits of inbound requests, use
/// `RateLimitLayer`, which also writes headers.
///
/// The state is in the [`Keyed`]: clones of the layer and all its services share it.
pub struct KeyedLayer<K, P, X, C = Once> {
    policies: Keyed<K, P>,
    key: X,
    no_key: NoKey<K>,
    requests: C,
}

impl<K, P, X> KeyedLayer<K, P, X> {
    /// Returns a layer that extracts the key of a request with `key`, and rejects requests without one.
    pub const fn new(policies: Keyed<K, P>, key: X) -> Self {
        Self {
            policies,
            key,
            no_key: NoKey::Reject,
            requests: Once,
        }
    }

    /// Sets how the requests of attempts are made. Default: [`Once`].
    pub fn requests<C>(self, requests: C) -> KeyedLayer<K, P, X, C> {
        self.map(|_| requests)
    }
}

request_methods!(KeyedLayer, [K, P, X]);

impl<K, P, X, C> KeyedLayer<K, P, X, C> {
    fn map<D>(self, change: impl FnOnce(C) -> D) -> KeyedLayer<K, P, X, D> {
        KeyedLayer {
            policies: self.policies,
            key: self.key,
            no_key: self.no_key,
            requests: change(self.requests),
        }
    }

    /// Sets what happens to requests without a key.
    #[must_use]
    pub fn no_key(mut self, no_key: NoKey<K>) -> Self {
        self.no_key = no_key;
        self
    }
}

impl<K: Clone, P, X: Clone, C: Clone> Clone for KeyedLayer<K, P, X, C> {
    fn clone(&self) -> Self {
        Self {
            policies: self.policies.clone(),
            key: self.key.clone(),
            no_key: self.no_key.clone(),
            requests: self.requests.clone(),
        }
    }
}

impl<K, P, X, C> fmt::Debug for KeyedLayer<K, P, X, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyedLayer")
            .field("policies", &self.policies)
            .finish_non_exhaustive()
    }
}

impl<K: Clone, P, X: Clone, C: Clone, S> Layer<S> for KeyedLayer<K, P, X, C> {
    type Service = KeyedService<K, P, X, S, C>;

    fn layer(&self, inner: S) -> Self::Service {
        KeyedService {
            layer: self.clone(),
            inner,
        }
    }
}

/// A service with a policy for each key. Returned by [`KeyedLayer`].
pub struct KeyedService<K, P, X, S, C = Once> {
    layer: KeyedLayer<K, P, X, C>,
    inner: S,
}

impl<K: Clone, P, X: Clone, S: Clone, C: Clone> Clone for KeyedService<K, P, X, S, C> {
    fn clone(&self) -> Self {
        Self {
            layer: self.layer.clone(),
            inner: self.inner.clone(),
        }
    }
}

impl<K, P, X, S: fmt::Debug, C> fmt::Debug for KeyedService<K, P, X, S, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyedService")
            .field("inner", &self.inner)
            .finish_non_exhaustive()
    }
}

impl<K, P, X, S, C, R> Service<R> for KeyedService<K, P, X, S, C>
where
    K: Hash + Eq + Clone + Send + Sync + 'static,
    P: Describe + Evictable + Clone + Send + Sync + 'static,
    X: ExtractKey<R, Key = K>,
    C: Requests<R> + Clone + Send + Sync + 'static,
    C::Kept: Send,
    C::Request: Send,
    R: Send + 'static,
    S: Service<C::Request> + Clone + Send + 'static,
    S::Future: Send,
    S::Response: Send,
    S::Error: Send,
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
        let layer = &self.layer;
        let key = layer.no_key.resolve(layer.key.extract(&request));
        let policy = match key {
            Ok(key) => key.map(|key| layer.policies.try_get(&key)).transpose(),
            Err(rejected) => return Box::pin(async move { Err(rejected.into()) }),
        };
        let requests = layer.requests.clone();
        Box::pin(async move {
            let policy: Option<P> = policy.map_err(|_| Rejected::new("no room", Reason::Custom))?;
            requests.prepare(&mut request);
            let options = requests.options(&request);
            let kept = requests.keep(request);
            let is_repeatable = requests.is_repeatable(&kept);
            let cx = context(options, is_repeatable, || policy.as_ref()?.clock());
            let calls = Calls::new(service, &requests, kept);
            match &policy {
                Some(policy) => {
                    let run = policy.run_call(ServiceCall(&calls), cx);
                    calls.poll_with(run).await.result
                }
                None => ().run_call(ServiceCall(&calls), cx).await.result,
            }
        })
    }
}
