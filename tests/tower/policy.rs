use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::task::Poll;

use backstop::http::{self as rules, ClassifyResponses, attempt, idempotency};
use backstop::policy::{Describe, Run};
use backstop::tower::PolicyLayer;
use backstop::{
    Bulkhead, CallOptions, CircuitBreaker, Context, Error, Hedge, Operation, Outcome, Policy,
    Quota, RateLimiter, Reason, Retry, Standard, Timeout,
};
use http::{Method, Request, Response};
use tower_layer::Layer;
use tower_service::Service;

use crate::{ms, not_clone, scripted, send};

fn retry() -> Retry {
    Retry::builder().max_attempts(3).build().unwrap()
}

fn five() -> (Timeout, Retry, CircuitBreaker, RateLimiter, Timeout) {
    (
        Timeout::after(ms(10_000)),
        retry(),
        CircuitBreaker::builder().build().unwrap(),
        RateLimiter::builder()
            .quota(Quota::per_second(100))
            .build()
            .unwrap(),
        Timeout::after(ms(2000)),
    )
}

#[tokio::test(start_paused = true)]
async fn a_request_that_is_not_clone_gets_one_attempt_in_any_stack() {
    let service = scripted(|_, _: super::NotClone| async { Err::<(), _>("down") });
    let mut layered = PolicyLayer::new(five()).layer(service.clone());
    let result = send(&mut layered, not_clone()).await;
    assert_eq!(result, Err(Error::Operation("down")));
    assert_eq!(service.calls.load(Ordering::Relaxed), 1);
    // Nor a hedge.
    let hedge = Hedge::builder().after(ms(10)).build().unwrap();
    let service = scripted(|_, _: super::NotClone| async {
        tokio::time::sleep(ms(1000)).await;
        Ok::<_, ()>(())
    });
    let mut layered = PolicyLayer::new(hedge).layer(service.clone());
    assert_eq!(send(&mut layered, not_clone()).await, Ok(()));
    assert_eq!(service.calls.load(Ordering::Relaxed), 1);
}

#[tokio::test(start_paused = true)]
async fn a_cloned_request_is_repeated_by_clones_of_the_service_that_are_made_ready() {
    let service = scripted(|number, request: String| async move {
        match number {
            1 | 2 => Err("down"),
            _ => Ok(request),
        }
    });
    let mut layered = PolicyLayer::new(five()).cloned().layer(service.clone());
    let call = send(&mut layered, "hello".to_owned());
    // Spawned: the future is `Send`, and borrows nothing.
    assert_eq!(call.await, Ok("hello".into()));
    assert_eq!(service.calls.load(Ordering::Relaxed), 3);
    // By the caller, and for each further attempt. An assertion in the service checks that it is ready.
    assert_eq!(service.readied.load(Ordering::Relaxed), 3);
    let task = tokio::spawn({
        std::future::poll_fn(|task| layered.poll_ready(task))
            .await
            .unwrap();
        layered.call("spawned".to_owned())
    });
    assert_eq!(task.await.unwrap(), Ok("spawned".into()));
}

#[tokio::test(start_paused = true)]
async fn hedges_run_beside_the_first_attempt() {
    let service = scripted(|number, request: u32| async move {
        tokio::time::sleep(if number == 1 { ms(1000) } else { ms(1) }).await;
        Ok::<_, ()>((number, request))
    });
    let hedge = Hedge::builder().after(ms(10)).build().unwrap();
    let mut layered = PolicyLayer::new(hedge).cloned().layer(service);
    assert_eq!(send(&mut layered, 7).await, Ok((2, 7)));
}

#[tokio::test(start_paused = true)]
async fn by_copies_with_a_function_and_sends_once_what_it_cannot_copy() {
    let copies = Arc::new(AtomicU32::new(0));
    let counted = copies.clone();
    // Odd requests cannot be copied.
    let copy = move |request: &u32| {
        counted.fetch_add(1, Ordering::Relaxed);
        request.is_multiple_of(2).then_some(*request)
    };
    let service = scripted(|_, _: u32| async { Err::<(), _>("down") });
    let mut layered = PolicyLayer::new(retry()).by(copy).layer(service.clone());
    assert!(send(&mut layered, 2).await.is_err());
    assert_eq!(service.calls.swap(0, Ordering::Relaxed), 3);
    assert!(send(&mut layered, 1).await.is_err());
    assert_eq!(service.calls.load(Ordering::Relaxed), 1);
}

#[tokio::test(start_paused = true)]
async fn a_request_that_can_be_copied_once_is_sent_twice() {
    let copied = AtomicU32::new(0);
    let copy =
        move |request: &u32| (copied.fetch_add(1, Ordering::Relaxed) == 0).then_some(*request);
    let service = scripted(|_, _: u32| async { Err::<(), _>("down") });
    let mut layered = PolicyLayer::new(retry())
        .by(copy_arc(copy))
        .layer(service.clone());
    assert_eq!(send(&mut layered, 1).await, Err(Error::Operation("down")));
    assert_eq!(service.calls.load(Ordering::Relaxed), 2);
}

fn copy_arc<R>(copy: impl Fn(&R) -> Option<R>) -> impl Fn(&R) -> Option<R> + Clone {
    let copy = Arc::new(copy);
    move |request: &R| copy(request)
}

#[tokio::test(start_paused = true)]
async fn a_thousand_layers_share_one_bucket() {
    let limiter = RateLimiter::builder()
        .quota(Quota::per_second(100))
        .build()
        .unwrap();
    let layer = PolicyLayer::new(limiter);
    let mut admitted = 0;
    for _ in 0..1000 {
        let mut service = layer.layer(scripted(|_, (): ()| async { Ok::<_, ()>(()) }));
        admitted += u32::from(send(&mut service, ()).await.is_ok());
    }
    assert_eq!(admitted, 100);
}

#[tokio::test(start_paused = true)]
async fn readiness_is_the_inner_services_and_never_waits_for_a_policy() {
    let bulkhead = Bulkhead::builder()
        .max_concurrent(1)
        .max_waiting(5)
        .build()
        .unwrap();
    let permit = bulkhead.try_acquire().unwrap();
    let mut service =
        PolicyLayer::new(bulkhead.clone()).layer(scripted(|_, (): ()| async { Ok::<_, ()>(()) }));
    let mut task = std::task::Context::from_waker(std::task::Waker::noop());
    assert!(service.poll_ready(&mut task).is_ready());
    let call = tokio::spawn(service.call(()));
    tokio::task::yield_now().await;
    assert!(!call.is_finished());
    drop(permit);
    assert_eq!(call.await.unwrap(), Ok(()));
}

/// A service that is never ready.
#[derive(Clone)]
struct Dead;

impl Service<()> for Dead {
    type Response = ();
    type Error = &'static str;
    type Future = std::future::Ready<Result<(), &'static str>>;

    fn poll_ready(
        &mut self,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Result<(), &'static str>> {
        std::task::Poll::Ready(Err("closed"))
    }

    fn call(&mut self, (): ()) -> Self::Future {
        std::future::ready(Err("failed"))
    }
}

#[tokio::test(start_paused = true)]
async fn a_service_that_fails_to_become_ready_fails_the_attempt() {
    let mut service = PolicyLayer::new(retry()).cloned().layer(Dead);
    let ready = std::future::poll_fn(|task| service.poll_ready(task)).await;
    assert_eq!(ready, Err(Error::Operation("closed")));
    // The first attempt uses the service as it is.
    assert_eq!(service.call(()).await, Err(Error::Operation("closed")));
}

#[tokio::test(start_paused = true)]
async fn options_hooks_and_keys_work_together() {
    type Sent = (Option<String>, Option<u32>, bool);
    let sent = Arc::new(Mutex::new(Vec::<Sent>::new()));
    let log = sent.clone();
    let service = scripted(move |number, request: Request<()>| {
        let headers = request.headers();
        let key = headers
            .get("idempotency-key")
            .map(|key| key.to_str().unwrap().to_owned());
        let has_deadline = backstop::http::deadline::read(headers).is_some();
        log.lock()
            .unwrap()
            .push((key, attempt::read(headers), has_deadline));
        let status = if number < 3 { 502 } else { 200 };
        async move { Ok::<_, ()>(Response::builder().status(status).body(()).unwrap()) }
    });
    let layer = PolicyLayer::new((Timeout::after(ms(5000)), retry(), ClassifyResponses::new()))
        .cloned()
        .on_call(|request: &mut Request<()>| {
            let method = request.method().clone();
            idempotency::ensure(&method, request.headers_mut());
        })
        .options(|request: &Request<()>| rules::call_options(request.method(), request.headers()))
        .on_attempt(|request: &mut Request<()>, number| {
            attempt::write(request.headers_mut(), &number)
        });
    let mut service = layer.layer(service);
    let post = || Request::builder().method(Method::POST).body(()).unwrap();
    assert_eq!(send(&mut service, post()).await.unwrap().status(), 200);
    let sent = std::mem::take(&mut *sent.lock().unwrap());
    assert_eq!(sent.len(), 3);
    assert!(
        sent[0].0.is_some() && sent.iter().all(|one| one.0 == sent[0].0 && one.2),
        "{sent:?}"
    );
    assert_eq!(
        sent.iter().map(|one| one.1).collect::<Vec<_>>(),
        [Some(1), Some(2), Some(3)]
    );
}

#[tokio::test(start_paused = true)]
async fn a_post_without_a_key_is_not_repeated() {
    let service = scripted(|_, _: Request<()>| async {
        Ok::<_, ()>(Response::builder().status(502).body(()).unwrap())
    });
    let layer = PolicyLayer::new((retry(), ClassifyResponses::new()))
        .cloned()
        .options(|request: &Request<()>| rules::call_options(request.method(), request.headers()));
    let mut layered = layer.layer(service.clone());
    let post = Request::builder().method(Method::POST).body(()).unwrap();
    assert_eq!(send(&mut layered, post).await.unwrap().status(), 502);
    assert_eq!(service.calls.swap(0, Ordering::Relaxed), 1);
    assert_eq!(
        send(&mut layered, Request::new(())).await.unwrap().status(),
        502
    );
    assert_eq!(service.calls.load(Ordering::Relaxed), 3);
}

#[tokio::test(start_paused = true)]
async fn costs_come_from_requests() {
    let limiter = RateLimiter::builder()
        .quota(Quota::per_second(10))
        .build()
        .unwrap();
    let mut service = PolicyLayer::new(limiter.clone())
        .options(|cost: &u32| CallOptions::new().cost(*cost))
        .layer(scripted(|_, _: u32| async { Ok::<_, ()>(()) }));
    assert!(send(&mut service, 8).await.is_ok());
    let rejected = send(&mut service, 3).await.unwrap_err();
    assert_eq!(rejected.reason(), Some(Reason::RateLimited));
    assert_eq!(limiter.peek().remaining, 2);
}

#[tokio::test(start_paused = true)]
async fn a_standard_policy_is_a_layer() {
    let standard = Standard::builder().build().unwrap();
    let mut service =
        PolicyLayer::new(standard)
            .cloned()
            .layer(scripted(|number, (): ()| async move {
                match number {
                    1 => Err("down"),
                    _ => Ok(number),
                }
            }));
    assert_eq!(send(&mut service, ()).await, Ok(2));
}

/// A policy that attempts twice whether or not the call is repeatable.
struct Stubborn;

impl Policy for Stubborn {}
impl Describe for Stubborn {}

impl<Op: Operation> Run<Op> for &Stubborn {
    type Future = Twice<Op>;

    fn run(self, op: Op, cx: Context) -> Twice<Op> {
        Twice(op, cx, Box::pin(op.attempt(cx)), 1)
    }
}

struct Twice<Op: Operation>(Op, Context, Pin<Box<Op::Attempt>>, u32);

impl<Op: Operation> Unpin for Twice<Op> {}

impl<Op: Operation> Future for Twice<Op> {
    type Output = Outcome<Op::Value, Op::Error>;

    fn poll(mut self: Pin<&mut Self>, task: &mut std::task::Context<'_>) -> Poll<Self::Output> {
        let outcome = std::task::ready!(self.2.as_mut().poll(task));
        if self.3 == 2 {
            return Poll::Ready(outcome);
        }
        self.2 = Box::pin(self.0.attempt(self.1));
        self.3 = 2;
        self.poll(task)
    }
}

#[tokio::test]
async fn a_second_attempt_of_a_request_that_is_gone_is_rejected() {
    let service = scripted(|_, (): ()| async { Ok::<_, ()>(()) });
    let mut layered = PolicyLayer::new(Stubborn).layer(service.clone());
    let error = send(&mut layered, ()).await.unwrap_err();
    assert_eq!(error.reason(), Some(Reason::NotRepeatable));
    assert_eq!(service.calls.load(Ordering::Relaxed), 1);
}

#[tokio::test(start_paused = true)]
async fn a_dropped_request_returns_its_permit_and_not_its_token() {
    let limiter = RateLimiter::builder()
        .quota(Quota::per_minute(5))
        .build()
        .unwrap();
    let bulkhead = backstop::Bulkhead::new(3);
    let hangs = scripted(|_, ()| std::future::pending::<Result<(), ()>>());
    let policy = PolicyLayer::new((bulkhead.clone(), limiter.clone()));
    let mut service = policy.layer(hangs);
    let mut call = Box::pin(send(&mut service, ()));
    assert!(futures::poll!(call.as_mut()).is_pending());
    let in_use = || (bulkhead.snapshot().in_flight, limiter.snapshot().remaining);
    assert_eq!(in_use(), (1, 4));
    drop(call);
    assert_eq!(in_use(), (0, 4));
}
