use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};

use backstop::event::StopReason;
use backstop::http::{ClassifyResponses, Replay, ReplayBody};
use backstop::tower::PolicyLayer;
use backstop::{Endpoints, Event, ManualClock, Pipeline, Retry};
use bytes::Bytes;
use futures::StreamExt;
use http::{Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt, Full, StreamBody};
use tower_layer::Layer;

use crate::{scripted, send};

type Streamed = http_body_util::combinators::UnsyncBoxBody<Bytes, std::io::Error>;

/// A body of 16 frames without a declared length.
fn streamed(frame: usize) -> Streamed {
    let frames = futures::stream::iter(
        (0..16_u8)
            .map(move |byte| Ok::<_, std::io::Error>(Frame::data(Bytes::from(vec![byte; frame])))),
    );
    BodyExt::boxed_unsync(StreamBody::new(frames.boxed()))
}

fn retry() -> (Retry, ClassifyResponses) {
    (
        Retry::builder().max_attempts(3).build().unwrap(),
        ClassifyResponses::new(),
    )
}

/// Sends a body to a server that reads `reads` frames and answers 502, except at the third attempt, which reads it all.
/// Returns the number of attempts, the status, and what the last one has read.
async fn post<B>(limit: u64, body: B, reads: usize) -> (u32, u16, Vec<u8>)
where
    B: http_body::Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let received = Arc::new(Mutex::new(Vec::new()));
    let log = received.clone();
    let service = scripted(move |number, request: Request<ReplayBody<B>>| {
        let log = log.clone();
        async move {
            let mut body = request.into_body();
            let mut data = Vec::new();
            let (status, reads) = if number < 3 {
                (502, reads)
            } else {
                (200, usize::MAX)
            };
            for _ in 0..reads {
                match body.frame().await {
                    Some(frame) => data.extend_from_slice(&frame.unwrap().into_data().unwrap()),
                    None => break,
                }
            }
            *log.lock().unwrap() = data;
            Ok::<_, ()>(Response::builder().status(status).body(()).unwrap())
        }
    });
    let mut layered = PolicyLayer::new(retry())
        .replayable(limit)
        .layer(service.clone());
    let request = Request::post("/").body(body).unwrap();
    let status = send(&mut layered, request).await.unwrap().status().as_u16();
    let received = std::mem::take(&mut *received.lock().unwrap());
    (service.calls.load(Ordering::Relaxed), status, received)
}

const MIB: usize = 1 << 20;

fn all() -> Vec<u8> {
    (0..16_u8).flat_map(|byte| vec![byte; MIB / 16]).collect()
}

#[tokio::test(start_paused = true)]
async fn a_megabyte_is_replayed_under_the_limit() {
    // Whatever was read of it before.
    for reads in [0, 1, 15, 16, 99] {
        let (attempts, status, received) = post(MIB as u64, streamed(MIB / 16), reads).await;
        assert_eq!((attempts, status), (3, 200), "{reads}");
        assert!(received == all(), "{reads}: {} bytes", received.len());
    }
}

#[tokio::test(start_paused = true)]
async fn a_megabyte_is_sent_once_above_the_limit() {
    let (attempts, status, received) = post(MIB as u64 - 1, streamed(MIB / 16), 99).await;
    assert_eq!((attempts, status, received.len()), (1, 502, MIB));
    // A declared length is known before anything is sent.
    let full = Full::<Bytes>::from(all());
    let (attempts, status, received) = post(MIB as u64 - 1, full, 99).await;
    assert_eq!((attempts, status, received.len()), (1, 502, MIB));
    let full = Full::<Bytes>::from(all());
    let (attempts, _, received) = post(MIB as u64, full, 99).await;
    assert!(attempts == 3 && received == all());
}

#[tokio::test(start_paused = true)]
async fn an_attempt_that_finds_the_body_too_long_ends_the_retry_without_a_wait() {
    let start = tokio::time::Instant::now();
    let (attempts, ..) = post(10, streamed(MIB / 16), 99).await;
    assert_eq!((attempts, start.elapsed()), (1, std::time::Duration::ZERO));
}

/// Pipelines and endpoints pass on that the body is gone.
#[tokio::test(start_paused = true)]
async fn the_layers_between_pass_on_that_a_body_is_gone() {
    let stopped = Arc::new(Mutex::new(Vec::new()));
    let log = stopped.clone();
    let observer = move |event: &Event| {
        if let Event::RetryStopped { stop, .. } = event {
            log.lock().unwrap().push(*stop);
        }
    };
    let nodes = Endpoints::<()>::builder().node("a", ()).build().unwrap();
    let stack = Pipeline::new((retry().0, nodes, ClassifyResponses::new())).observer(observer);
    let service = scripted(|_, request: Request<ReplayBody<Streamed>>| async move {
        let read = request.into_body().collect().await.unwrap();
        assert_eq!(read.to_bytes().len(), MIB);
        Ok::<_, ()>(Response::builder().status(502).body(()).unwrap())
    });
    let mut layered = PolicyLayer::new(stack)
        .replayable(10)
        .layer(service.clone());
    let request = Request::post("/").body(streamed(MIB / 16)).unwrap();
    assert_eq!(send(&mut layered, request).await.unwrap().status(), 502);
    assert_eq!(service.calls.load(Ordering::Relaxed), 1);
    assert_eq!(*stopped.lock().unwrap(), [StopReason::NotRepeatable]);
}

#[test]
fn heads_are_the_same_in_all_attempts() {
    let clock = ManualClock::new();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let log = seen.clone();
    let service = scripted(move |_, request: Request<ReplayBody<Full<Bytes>>>| {
        log.lock().unwrap().push((
            request.uri().clone(),
            request.headers().clone(),
            request.extensions().get::<u8>().copied(),
        ));
        async { Err::<Response<()>, _>("down") }
    });
    let retry = Retry::builder().clock(clock.clone()).build().unwrap();
    let mut layered = PolicyLayer::new(retry).replayable(100).layer(service);
    let request = Request::put("/x")
        .header("a", "b")
        .extension(7_u8)
        .body(Full::from("data"))
        .unwrap();
    assert!(clock.block_on(send(&mut layered, request)).is_err());
    let seen = seen.lock().unwrap();
    assert!(seen.len() == 3 && seen.iter().all(|one| *one == seen[0] && one.2 == Some(7)));
}

/// Any number of empty frames is below the limit, so keeping them would take any amount of memory.
#[tokio::test]
async fn empty_frames_are_sent_and_not_kept() {
    let frames = (0..1000).map(|number| match number % 100 {
        0 => Bytes::from("x"),
        _ => Bytes::new(),
    });
    let frames = frames.map(|data| Ok::<_, std::io::Error>(Frame::data(data)));
    let body = StreamBody::new(futures::stream::iter(frames.collect::<Vec<_>>()));
    let replay = Replay::new(body, 10).unwrap_or_else(|_| panic!("its length is not declared"));
    let (mut first, mut second) = (replay.copy().unwrap(), replay.copy().unwrap());
    let mut counts = [0; 2];
    for (copy, count) in [&mut first, &mut second].into_iter().zip(&mut counts) {
        let mut data = Vec::new();
        while let Some(frame) = copy.frame().await {
            *count += 1;
            data.extend_from_slice(&frame.unwrap().into_data().unwrap());
        }
        assert_eq!(data, [b'x'; 10]);
    }
    assert_eq!(counts, [1000, 10]);
}
