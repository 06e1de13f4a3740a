//! Requests that wait for a policy take no slot of the inner service.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};

use backstop::tower::{BulkheadLayer, KeyedLayer, PolicyLayer, RateLimitLayer, key};
use backstop::{Backoff, Bulkhead, Keyed, KeyedRateLimiter, Quota, Retry};
use http::{Request, Response};
use tower_layer::Layer;
use tower_service::Service;

use crate::{from, ms, send};

/// The slots of a service, and the calls that wait for one.
#[derive(Clone)]
struct Slots(Arc<Mutex<(u32, Vec<Waker>)>>);

/// Returns its slot when it is dropped.
struct Slot(Slots);

impl Drop for Slot {
    fn drop(&mut self) {
        let waiting = {
            let mut slots = self.0.0.lock().unwrap();
            slots.0 += 1;
            std::mem::take(&mut slots.1)
        };
        waiting.into_iter().for_each(Waker::wake);
    }
}

/// Takes a slot in `poll_ready`, as tower's `ConcurrencyLimit` does, and returns it when its call ends.
struct Limited {
    slots: Slots,
    slot: Option<Slot>,
}

impl Limited {
    fn new(slots: u32) -> Self {
        Self {
            slots: Slots(Arc::new(Mutex::new((slots, Vec::new())))),
            slot: None,
        }
    }

    fn free(&self) -> u32 {
        self.slots.0.lock().unwrap().0
    }
}

impl Clone for Limited {
    fn clone(&self) -> Self {
        Self {
            slots: self.slots.clone(),
            slot: None,
        }
    }
}

impl Service<Request<()>> for Limited {
    type Response = Response<String>;
    type Error = &'static str;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, task: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        if self.slot.is_some() {
            return Poll::Ready(Ok(()));
        }
        let mut slots = self.slots.0.lock().unwrap();
        if slots.0 == 0 {
            slots.1.push(task.waker().clone());
            return Poll::Pending;
        }
        slots.0 -= 1;
        self.slot = Some(Slot(self.slots.clone()));
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<()>) -> Self::Future {
        let slot = self.slot.take().expect("called without being ready");
        Box::pin(async move {
            tokio::time::sleep(ms(10)).await;
            drop(slot);
            match request.headers().contains_key("fails") {
                true => Err("down"),
                false => Ok(Response::new("a body".to_owned())),
            }
        })
    }
}

fn failing() -> Request<()> {
    Request::builder()
        .header("fails", "1")
        .header("x", "a")
        .body(())
        .unwrap()
}

/// Sends three requests at once, with a bulkhead of one permit and retries, to a service with one slot.
async fn send_three<S>(service: S)
where
    S: Service<Request<()>, Response = Response<String>> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Send,
{
    let calls = (0..3).map(|_| {
        let mut service = service.clone();
        tokio::spawn(async move { send(&mut service, failing()).await.is_err() })
    });
    let calls = futures::future::join_all(calls.collect::<Vec<_>>());
    let ends = tokio::time::timeout(ms(60_000), calls).await;
    let ends = ends.expect("the calls wait for each other");
    assert!(ends.into_iter().all(Result::unwrap));
}

#[tokio::test(start_paused = true)]
async fn calls_that_wait_do_not_hold_up_the_attempts_that_they_wait_for() {
    let stack = || {
        let bulkhead = Bulkhead::builder().max_concurrent(1).max_waiting(10);
        let retry = Retry::builder().backoff(Backoff::fixed(ms(10)));
        (bulkhead.build().unwrap(), retry.build().unwrap())
    };
    send_three(PolicyLayer::new(stack()).cloned().layer(Limited::new(1))).await;

    let shared = stack();
    let keyed = Keyed::<String, _>::new(move |_: &String| shared.clone());
    let layer = KeyedLayer::new(keyed, key::header(http::HeaderName::from_static("x")));
    send_three(layer.cloned().layer(Limited::new(1))).await;
}

#[tokio::test(start_paused = true)]
async fn a_request_that_waits_for_a_permit_or_a_token_takes_no_slot() {
    let limited = Limited::new(2);
    let bulkhead = Bulkhead::builder().max_concurrent(1).max_waiting(10);
    let bulkhead = bulkhead.build().unwrap();
    let permit = bulkhead.acquire().await.unwrap();
    let mut service = BulkheadLayer::new(bulkhead.clone()).layer(limited.clone());
    let waiting = tokio::spawn(async move { send(&mut service, Request::new(())).await.is_ok() });
    tokio::time::sleep(ms(1)).await;
    assert_eq!((bulkhead.snapshot().waiting, limited.free()), (1, 2));
    drop(permit);
    assert!(waiting.await.unwrap());

    let limits = KeyedRateLimiter::builder()
        .quota(Quota::per_second(1))
        .max_wait(ms(5000));
    let layer = RateLimitLayer::new(limits.build().unwrap(), key::peer_ip());
    let mut service = layer.layer(limited.clone());
    assert!(send(&mut service, from("192.0.2.1")).await.is_ok());
    let waiting = tokio::spawn(async move { send(&mut service, from("192.0.2.1")).await.is_ok() });
    tokio::time::sleep(ms(1)).await;
    assert!(!waiting.is_finished());
    assert_eq!(limited.free(), 2);
    assert!(waiting.await.unwrap());
    assert_eq!(limited.free(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_request_that_does_not_wait_uses_the_service_that_was_made_ready() {
    let limited = Limited::new(1);
    let mut service = PolicyLayer::new(Bulkhead::new(1)).layer(limited.clone());
    std::future::poll_fn(|task| service.poll_ready(task))
        .await
        .unwrap();
    let mut call = service.call(Request::new(()));
    let waker = Waker::noop();
    assert!(
        call.as_mut()
            .poll(&mut Context::from_waker(waker))
            .is_pending()
    );
    assert_eq!(limited.free(), 0);
    assert!(call.await.is_ok());
    assert_eq!(limited.free(), 1);
}
