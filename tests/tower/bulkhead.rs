use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use backstop::bulkhead::limit::{Aimd, ConcurrencyLimit, Sample};
use backstop::tower::{BulkheadLayer, HeldBody, Hold, RespondLayer};
use backstop::{Bulkhead, CallOptions, Reason};
use bytes::Bytes;
use futures::{FutureExt, StreamExt};
use http::{Request, Response};
use http_body::Frame;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use tower_layer::Layer;

use crate::{Scripted, scripted, send};

type Streamed = UnsyncBoxBody<Bytes, std::io::Error>;

fn three_frames(fails: bool) -> Streamed {
    let frames = (0..3).map(move |number| match (number, fails) {
        (2, true) => Err(std::io::Error::other("broken")),
        _ => Ok(Frame::data(Bytes::from("x"))),
    });
    BodyExt::boxed_unsync(StreamBody::new(futures::stream::iter(frames).boxed()))
}

fn streaming(fails: bool) -> Scripted<Request<()>, Response<Streamed>, ()> {
    scripted(move |_, _| async move { Ok(Response::new(three_frames(fails))) })
}

fn bulkhead() -> Bulkhead {
    Bulkhead::builder().max_concurrent(1).build().unwrap()
}

fn in_flight(bulkhead: &Bulkhead) -> u32 {
    bulkhead.snapshot().in_flight
}

async fn body_of<S>(service: &mut S) -> HeldBody<Streamed>
where
    S: tower_service::Service<
            Request<()>,
            Response = Response<HeldBody<Streamed>>,
            Error = backstop::Error<()>,
        >,
{
    send(service, Request::new(())).await.unwrap().into_body()
}

#[tokio::test]
async fn a_permit_is_held_until_the_body_ends() {
    let bulkhead = bulkhead();
    let mut service = BulkheadLayer::new(bulkhead.clone()).layer(streaming(false));
    let mut body = body_of(&mut service).await;
    for _ in 0..3 {
        assert_eq!(in_flight(&bulkhead), 1);
        let rejected = send(&mut service, Request::new(())).await.unwrap_err();
        assert_eq!(rejected.reason(), Some(Reason::BulkheadFull));
        assert!(body.frame().await.unwrap().is_ok());
    }
    assert!(body.frame().await.is_none());
    assert_eq!(in_flight(&bulkhead), 0);
    assert!(send(&mut service, Request::new(())).await.is_ok());
}

#[tokio::test]
async fn a_body_that_is_dropped_or_fails_returns_the_permit() {
    let bulkhead = bulkhead();
    let layer = BulkheadLayer::new(bulkhead.clone());
    let mut body = body_of(&mut layer.layer(streaming(false))).await;
    assert!(body.frame().await.unwrap().is_ok());
    assert_eq!(in_flight(&bulkhead), 1);
    drop(body);
    assert_eq!(in_flight(&bulkhead), 0);
    let mut body = body_of(&mut layer.layer(streaming(true))).await;
    while let Some(Ok(_)) = body.frame().await {}
    assert_eq!(in_flight(&bulkhead), 0);
}

#[tokio::test]
async fn a_permit_may_be_returned_with_the_head_and_is_without_a_body() {
    let bulkhead = bulkhead();
    let layer = BulkheadLayer::new(bulkhead.clone());
    let body = body_of(&mut layer.clone().hold(Hold::Headers).layer(streaming(false))).await;
    assert_eq!(in_flight(&bulkhead), 0);
    drop(body);
    let empty = scripted(|_, _: Request<()>| async {
        Ok::<_, ()>(Response::new(Full::<Bytes>::default()))
    });
    let response = send(&mut layer.layer(empty), Request::new(()))
        .await
        .unwrap();
    // A server does not poll a body that is at its end.
    assert_eq!(in_flight(&bulkhead), 0);
    drop(response);
    let full = scripted(|_, _: Request<()>| async {
        Ok::<_, ()>(Response::new(Full::<Bytes>::from("x")))
    });
    let mut body = send(&mut layer.layer(full), Request::new(()))
        .await
        .unwrap()
        .into_body();
    assert_eq!(in_flight(&bulkhead), 1);
    assert!(body.frame().await.unwrap().is_ok());
    // Nor one whose length it knows.
    assert_eq!(in_flight(&bulkhead), 0);
}

#[tokio::test]
async fn rejections_are_answered_outside() {
    let bulkhead = bulkhead();
    let inner =
        scripted(|_, _: Request<()>| async { Ok::<_, ()>(Response::new(String::from("ok"))) });
    let layer = (RespondLayer::new(), BulkheadLayer::new(bulkhead.clone()));
    let mut service = layer.layer(inner);
    let first = send(&mut service, Request::new(())).await.unwrap();
    let second = send(&mut service, Request::new(())).await.unwrap();
    assert_eq!(
        (first.status().as_u16(), second.status().as_u16()),
        (200, 503)
    );
    assert_eq!(second.headers()["retry-after"], "1");
    drop(first);
    assert_eq!(
        send(&mut service, Request::new(())).await.unwrap().status(),
        200
    );
}

#[tokio::test]
async fn a_call_that_fails_or_is_dropped_returns_the_permit() {
    let bulkhead = bulkhead();
    let layer = BulkheadLayer::new(bulkhead.clone());
    let broken = scripted(|_, _: Request<()>| async { Err::<Response<Streamed>, _>("broken") });
    assert!(
        send(&mut layer.layer(broken), Request::new(()))
            .await
            .is_err()
    );
    assert_eq!(in_flight(&bulkhead), 0);
    let hangs =
        scripted(|_, _: Request<()>| std::future::pending::<Result<Response<Streamed>, ()>>());
    let mut service = layer.layer(hangs);
    let call = tokio::time::timeout(
        std::time::Duration::from_millis(1),
        send(&mut service, Request::new(())),
    );
    assert!(call.await.is_err());
    assert_eq!(in_flight(&bulkhead), 0);
}

#[tokio::test]
async fn a_request_says_how_many_permits_it_takes() {
    let bulkhead = Bulkhead::builder().max_concurrent(3).build().unwrap();
    let cost = |request: &Request<()>| match request.method() {
        &http::Method::POST => CallOptions::new().cost(3),
        _ => CallOptions::new(),
    };
    let layer = BulkheadLayer::new(bulkhead.clone()).options(cost);
    let mut service = layer.layer(streaming(false));
    let body = body_of(&mut service).await;
    assert_eq!(in_flight(&bulkhead), 1);
    let post = || {
        let mut request = Request::new(());
        *request.method_mut() = http::Method::POST;
        request
    };
    let rejected = send(&mut service, post()).await.unwrap_err();
    assert_eq!(rejected.reason(), Some(Reason::BulkheadFull));
    drop(body);
    let response = send(&mut service, post()).await.unwrap();
    assert_eq!(in_flight(&bulkhead), 3);
    drop(response);
    assert_eq!(in_flight(&bulkhead), 0);
}

#[tokio::test(start_paused = true)]
async fn a_request_that_waits_has_its_own_deadline() {
    let bulkhead = Bulkhead::builder().max_concurrent(1).max_waiting(1);
    let bulkhead = bulkhead.build().unwrap();
    let _permit = bulkhead.try_acquire().unwrap();
    let within = |_: &Request<()>| CallOptions::new().deadline(Duration::from_millis(50));
    let layer = BulkheadLayer::new(bulkhead.clone()).options(within);
    let start = tokio::time::Instant::now();
    let mut service = layer.layer(streaming(false));
    let rejected = send(&mut service, Request::new(())).await.unwrap_err();
    assert_eq!(rejected.reason(), Some(Reason::DeadlineTooClose));
    assert_eq!(start.elapsed(), Duration::from_millis(50));
}

#[tokio::test(start_paused = true)]
async fn a_request_or_a_body_that_is_dropped_is_an_overload_for_an_adaptive_limit() {
    let limit = || Aimd::builder().initial(10).build().unwrap();
    let hangs =
        || scripted(|_, _: Request<()>| std::future::pending::<Result<Response<Streamed>, ()>>());
    let cut = |bulkhead: Bulkhead| async move {
        let mut service = BulkheadLayer::new(bulkhead.clone()).layer(hangs());
        let call = send(&mut service, Request::new(()));
        assert!(
            tokio::time::timeout(Duration::from_secs(1), call)
                .await
                .is_err()
        );
        bulkhead.snapshot().limit
    };
    let adaptive = || Bulkhead::builder().adaptive(limit());
    assert!(cut(adaptive().build().unwrap()).await < 10);
    let bulkhead = adaptive().cancel_is_overload(false).build().unwrap();
    assert_eq!(cut(bulkhead).await, 10);

    let answers = |status: u16| {
        scripted(move |_, _: Request<()>| async move {
            let response = Response::builder().status(status);
            Ok::<_, ()>(response.body(three_frames(false)).unwrap())
        })
    };
    // A client that only looks at the status drops the body without a poll.
    for (status, reads, is_overload) in [
        (200, true, true),
        (200, false, false),
        (404, true, false),
        (404, false, false),
        (429, false, false),
    ] {
        let bulkhead = adaptive().build().unwrap();
        let mut service = BulkheadLayer::new(bulkhead.clone()).layer(answers(status));
        let mut body = body_of(&mut service).await;
        if reads {
            assert!(body.frame().await.unwrap().is_ok());
        }
        drop(body);
        let limit = bulkhead.snapshot().limit;
        assert_eq!(limit < 10, is_overload, "{status}: {limit}");
        assert_eq!(in_flight(&bulkhead), 0);
    }
}

/// Counts samples of calls that were not cut short.
#[derive(Clone, Debug)]
struct Counting(Arc<AtomicU32>);

impl ConcurrencyLimit for Counting {
    fn limit(&self) -> u32 {
        10
    }

    fn on_sample(&mut self, sample: &Sample) {
        self.0
            .fetch_add(u32::from(!sample.overloaded), Ordering::Relaxed);
    }
}

#[tokio::test]
async fn responses_without_a_body_end_their_calls_well() {
    let samples = Arc::<AtomicU32>::default();
    let bulkhead = Bulkhead::builder()
        .adaptive(Counting(samples.clone()))
        .cancel_is_overload(true);
    let empty = scripted(|_, _: Request<()>| async {
        Ok::<_, ()>(Response::new(Full::<Bytes>::default()))
    });
    let mut service = BulkheadLayer::new(bulkhead.build().unwrap()).layer(empty);
    for calls in 1..4 {
        drop(send(&mut service, Request::new(())).await.unwrap());
        assert_eq!(samples.load(Ordering::Relaxed), calls);
    }
}

#[tokio::test]
async fn a_body_dropped_before_its_declared_length_was_sent_is_cancelled() {
    let good = Arc::<AtomicU32>::default();
    let bulkhead = Bulkhead::builder()
        .adaptive(Counting(good.clone()))
        .cancel_is_overload(true);
    let file = scripted(|_, length: Option<&'static str>| async move {
        let mut response = Response::builder();
        if let Some(length) = length {
            response = response.header("content-length", length);
        }
        Ok::<_, ()>(response.body(three_frames(false)).unwrap())
    });
    let mut service = BulkheadLayer::new(bulkhead.build().unwrap()).layer(file);
    for (length, frames, is_good) in [
        (Some("3"), 3, true),
        (Some("3"), 2, false),
        (None, 3, false),
        // More than declared, less, and no number.
        (Some("2"), 3, true),
        (Some("4"), 3, false),
        (Some("x"), 3, false),
    ] {
        let mut body = send(&mut service, length).await.unwrap().into_body();
        for _ in 0..frames {
            body.frame().await.unwrap().unwrap();
        }
        drop(body);
        let good = good.swap(0, Ordering::Relaxed) == 1;
        assert_eq!(good, is_good, "{length:?}, {frames} frames");
    }
}

#[tokio::test]
async fn a_body_of_declared_length_zero_ends_well_though_it_was_polled() {
    let good = Arc::<AtomicU32>::default();
    let bulkhead = Bulkhead::builder()
        .adaptive(Counting(good.clone()))
        .cancel_is_overload(true);
    let empty = scripted(|_, length: &'static str| async move {
        let body: Streamed = StreamBody::new(futures::stream::pending()).boxed_unsync();
        let response = Response::builder().header("content-length", length);
        Ok::<_, ()>(response.body(body).unwrap())
    });
    let mut service = BulkheadLayer::new(bulkhead.build().unwrap()).layer(empty);
    for (length, is_good) in [("0", true), ("1", false)] {
        let mut body = send(&mut service, length).await.unwrap().into_body();
        assert!(body.frame().now_or_never().is_none());
        drop(body);
        assert_eq!(good.swap(0, Ordering::Relaxed) == 1, is_good, "{length}");
    }
}

/// Servers drop a body that has returned its trailers.
#[tokio::test]
async fn a_body_ends_with_its_trailers() {
    let good = Arc::<AtomicU32>::default();
    let bulkhead = Bulkhead::builder()
        .adaptive(Counting(good.clone()))
        .cancel_is_overload(true);
    let bulkhead = bulkhead.build().unwrap();
    let with_trailers = scripted(|_, _: Request<()>| async {
        let frames = [
            Frame::data(Bytes::from("x")),
            Frame::trailers(http::HeaderMap::new()),
        ];
        let frames = futures::stream::iter(frames.map(Ok));
        let body: Streamed = BodyExt::boxed_unsync(StreamBody::new(frames.boxed()));
        Ok::<_, ()>(Response::new(body))
    });
    let mut service = BulkheadLayer::new(bulkhead.clone()).layer(with_trailers);
    let mut body = body_of(&mut service).await;
    assert!(body.frame().await.unwrap().unwrap().is_data());
    assert_eq!((in_flight(&bulkhead), good.load(Ordering::Relaxed)), (1, 0));
    assert!(body.frame().await.unwrap().unwrap().is_trailers());
    assert_eq!((in_flight(&bulkhead), good.load(Ordering::Relaxed)), (0, 1));
}
