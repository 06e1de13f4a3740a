//! Layers for tower services, in virtual time.
#![cfg(all(feature = "tokio", feature = "tower", feature = "http"))]

use std::convert::Infallible;
use std::future::{Future, Ready, ready};
use std::pin::Pin;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use http::{HeaderMap, Request, Response};
use tower_service::Service;

mod allocations;
mod axum_router;
mod bulkhead;
mod deadlines;
mod keys;
mod policy;
mod rate_limit;
mod replay;
mod respond;
mod waiting;

const fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// What a service does with the request of each number, from 1.
type Script<R, T, E> =
    Arc<dyn Fn(u32, R) -> Pin<Box<dyn Future<Output = Result<T, E>> + Send>> + Send + Sync>;

/// A service that a test scripts. Like many services, a clone is not ready until it was asked.
struct Scripted<R, T, E> {
    script: Script<R, T, E>,
    calls: Arc<AtomicU32>,
    is_ready: bool,
    readied: Arc<AtomicU32>,
}

impl<R, T, E> Clone for Scripted<R, T, E> {
    fn clone(&self) -> Self {
        Self {
            script: self.script.clone(),
            calls: self.calls.clone(),
            is_ready: false,
            readied: self.readied.clone(),
        }
    }
}

fn scripted<R, T, E, F, Fut>(script: F) -> Scripted<R, T, E>
where
    F: Fn(u32, R) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<T, E>> + Send + 'static,
{
    Scripted {
        script: Arc::new(move |number, request| Box::pin(script(number, request))),
        calls: Arc::default(),
        is_ready: false,
        readied: Arc::default(),
    }
}

impl<R, T, E> Service<R> for Scripted<R, T, E> {
    type Response = T;
    type Error = E;
    type Future = Pin<Box<dyn Future<Output = Result<T, E>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), E>> {
        if !self.is_ready {
            self.readied.fetch_add(1, Ordering::Relaxed);
        }
        self.is_ready = true;
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: R) -> Self::Future {
        assert!(
            std::mem::replace(&mut self.is_ready, false),
            "called without being ready"
        );
        let number = self.calls.fetch_add(1, Ordering::Relaxed) + 1;
        (self.script)(number, request)
    }
}

/// Makes a service ready and calls it.
async fn send<S: Service<R>, R>(service: &mut S, request: R) -> Result<S::Response, S::Error> {
    std::future::poll_fn(|task| service.poll_ready(task)).await?;
    service.call(request).await
}

/// Answers 200 with the number of the request.
#[derive(Clone, Default)]
struct Counting(Arc<AtomicU32>);

impl<B> Service<Request<B>> for Counting {
    type Response = Response<String>;
    type Error = Infallible;
    type Future = Ready<Result<Response<String>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Request<B>) -> Self::Future {
        let number = self.0.fetch_add(1, Ordering::Relaxed) + 1;
        ready(Ok(Response::new(number.to_string())))
    }
}

/// A request from this address.
fn from(address: &str) -> Request<()> {
    let mut request = Request::new(());
    let peer = std::net::SocketAddr::new(address.parse().unwrap(), 4711);
    request.extensions_mut().insert(peer);
    request
}

fn text<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h str> {
    headers.get(name).map(|value| value.to_str().unwrap())
}

/// A type that is neither `Clone` nor `Sync`, as a body may be.
struct NotClone(#[expect(dead_code, reason = "makes it neither")] Mutex<std::cell::Cell<u8>>);

fn not_clone() -> NotClone {
    NotClone(Mutex::default())
}
