use std::pin::Pin;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};

use backstop::ManualClock;
use backstop::http::{Replay, ReplayBody};
use bytes::Bytes;
use futures::channel::mpsc;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use http_body_util::{BodyExt, Full};

/// A body that a test feeds.
struct Fed(mpsc::UnboundedReceiver<Result<Frame<Bytes>, std::io::Error>>);

impl Body for Fed {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        task: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, std::io::Error>>> {
        futures::Stream::poll_next(Pin::new(&mut self.0), task)
    }
}

type Feed = mpsc::UnboundedSender<Result<Frame<Bytes>, std::io::Error>>;

fn fed(limit: u64) -> (Feed, Replay<Fed>) {
    let (feed, body) = mpsc::unbounded();
    (feed, Replay::new(Fed(body), limit).ok().unwrap())
}

fn send(feed: &Feed, data: &'static str) {
    feed.unbounded_send(Ok(Frame::data(data.into()))).unwrap();
}

struct Count(AtomicU32);

impl Wake for Count {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// The next frame, if it is ready: its data, `trailers`, `end`, or the error.
fn next(body: &mut ReplayBody<Fed>) -> Option<String> {
    next_with(body, Waker::noop())
}

fn next_with(body: &mut ReplayBody<Fed>, waker: &Waker) -> Option<String> {
    match Pin::new(body).poll_frame(&mut Context::from_waker(waker)) {
        Poll::Pending => None,
        Poll::Ready(None) => Some("end".into()),
        Poll::Ready(Some(Err(error))) => Some(error.to_string()),
        Poll::Ready(Some(Ok(frame))) => Some(match frame.into_data() {
            Ok(data) => String::from_utf8(data.to_vec()).unwrap(),
            Err(_) => "trailers".into(),
        }),
    }
}

#[test]
fn the_original_is_dropped_with_the_maker_and_the_last_copy() {
    let (feed, replay) = fed(100);
    let mut copy = replay.copy().unwrap();
    // Pending: the original keeps the waker of this poll.
    assert_eq!(next(&mut copy), None);
    drop(replay);
    assert!(!feed.is_closed());
    drop(copy);
    assert!(feed.is_closed());
}

#[test]
fn a_copy_begins_again_and_continues_where_the_last_one_stopped() {
    let (feed, replay) = fed(100);
    send(&feed, "a");
    send(&feed, "b");
    let mut first = replay.copy().unwrap();
    assert_eq!(next(&mut first).as_deref(), Some("a"));
    drop(first);
    let mut second = replay.copy().unwrap();
    assert_eq!(next(&mut second).as_deref(), Some("a"));
    assert_eq!(next(&mut second).as_deref(), Some("b"));
    assert_eq!(next(&mut second), None);
    feed.unbounded_send(Ok(Frame::trailers(HeaderMap::new())))
        .unwrap();
    drop(feed);
    assert_eq!(next(&mut second).as_deref(), Some("trailers"));
    assert_eq!(next(&mut second).as_deref(), Some("end"));
    assert!(second.is_end_stream());
    let mut third = replay.copy().unwrap();
    for frame in ["a", "b", "trailers", "end"] {
        assert_eq!(next(&mut third).as_deref(), Some(frame));
    }
    assert!(replay.is_replayable());
}

#[test]
fn above_the_limit_the_running_copy_continues_and_there_is_no_other() {
    let (feed, replay) = fed(3);
    let (mut running, mut other) = (replay.copy().unwrap(), replay.copy().unwrap());
    send(&feed, "abc");
    assert_eq!(next(&mut running).as_deref(), Some("abc"));
    assert!(replay.is_replayable());
    send(&feed, "d");
    assert_eq!(next(&mut running).as_deref(), Some("d"));
    assert!(!replay.is_replayable() && replay.copy().is_none());
    send(&feed, "e");
    assert_eq!(next(&mut running).as_deref(), Some("e"));
    let error = next(&mut other).unwrap();
    assert_eq!(error, "the body is too large to be sent twice");
    drop(feed);
    assert_eq!(next(&mut running).as_deref(), Some("end"));
}

#[test]
fn a_body_that_declares_more_than_the_limit_is_not_kept() {
    let body = Replay::new(Full::<Bytes>::from("abcd"), 3).unwrap_err();
    assert_eq!(Body::size_hint(&body).exact(), Some(4));
    assert!(Replay::new(Full::<Bytes>::from("abc"), 3).is_ok());
}

#[test]
fn copies_that_run_at_once_share_the_original() {
    let (feed, replay) = fed(100);
    let (mut left, mut right) = (replay.copy().unwrap(), replay.copy().unwrap());
    let (woken_left, woken_right) = (Arc::new(Count(0.into())), Arc::new(Count(0.into())));
    let wakers = (
        Waker::from(woken_left.clone()),
        Waker::from(woken_right.clone()),
    );
    assert_eq!(next_with(&mut left, &wakers.0), None);
    assert_eq!(next_with(&mut right, &wakers.1), None);
    // The copy that polled last is gone; the other one is woken nevertheless.
    drop(right);
    send(&feed, "a");
    assert_eq!(woken_left.0.load(Ordering::Relaxed), 1);
    assert_eq!(next_with(&mut left, &wakers.0).as_deref(), Some("a"));
    // However often a copy is polled, it waits once.
    for _ in 0..10 {
        assert_eq!(next_with(&mut left, &wakers.0), None);
    }
    let before = woken_left.0.load(Ordering::Relaxed);
    send(&feed, "b");
    assert_eq!(woken_left.0.load(Ordering::Relaxed), before + 1);
}

#[test]
fn a_body_that_fails_has_no_further_copies() {
    let (feed, replay) = fed(100);
    let (mut one, mut other) = (replay.copy().unwrap(), replay.copy().unwrap());
    feed.unbounded_send(Err(std::io::Error::other("disk")))
        .unwrap();
    assert_eq!(next(&mut one).as_deref(), Some("disk"));
    assert_eq!(
        next(&mut other).as_deref(),
        Some("the body failed while another copy was sent")
    );
    assert!(replay.copy().is_none());
}

/// A body that panics.
struct Broken;

impl Body for Broken {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, std::io::Error>>> {
        panic!("a bug")
    }
}

#[test]
fn a_body_that_panics_fails_its_other_copies() {
    let replay = Replay::new(Broken, 100).ok().unwrap();
    let (mut one, mut other) = (replay.copy().unwrap(), replay.copy().unwrap());
    let poll = |body: &mut ReplayBody<Broken>| {
        Pin::new(body)
            .poll_frame(&mut Context::from_waker(Waker::noop()))
            .map(|frame| frame.unwrap().is_err())
    };
    assert!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| poll(&mut one))).is_err());
    assert_eq!(poll(&mut other), Poll::Ready(true));
    assert!(replay.copy().is_none());
}

#[test]
fn the_size_of_a_copy_is_what_is_left_of_it() {
    let replay = Replay::new(Full::<Bytes>::from("abcd"), 10).ok().unwrap();
    let exact = |body: &ReplayBody<_>| -> Option<u64> { SizeHint::exact(&body.size_hint()) };
    let mut copy = replay.copy().unwrap();
    assert_eq!(exact(&copy), Some(4));
    let waker = Waker::noop();
    assert!(
        Pin::new(&mut copy)
            .poll_frame(&mut Context::from_waker(waker))
            .is_ready()
    );
    assert_eq!(exact(&copy), Some(0));
    assert!(copy.is_end_stream());
    let again = replay.copy().unwrap();
    assert_eq!(exact(&again), Some(4));
    assert!(!again.is_end_stream());
    let empty = Replay::new(Full::<Bytes>::default(), 0)
        .ok()
        .unwrap()
        .copy()
        .unwrap();
    assert!(empty.is_end_stream());
    let collected = ManualClock::new().block_on(again.collect()).unwrap();
    assert_eq!(collected.to_bytes(), "abcd");
}

#[test]
fn frames_are_kept_while_they_take_no_more_memory_than_the_limit() {
    // Frames of one byte, of which 60 000 are below the limit.
    let (feed, replay) = fed(64 << 10);
    let mut copy = replay.copy().unwrap();
    let mut kept = 0;
    for _ in 0..60_000 {
        send(&feed, "a");
        assert_eq!(next(&mut copy).as_deref(), Some("a"));
        kept += u32::from(replay.is_replayable());
    }
    assert!((1000..3000).contains(&kept), "{kept} frames are kept");
    // The running copy continues.
    drop(feed);
    assert_eq!(next(&mut copy).as_deref(), Some("end"));
    // A larger limit allows more.
    let (feed, replay) = fed(1 << 20);
    let mut copy = replay.copy().unwrap();
    for _ in 0..3000 {
        send(&feed, "a");
        assert_eq!(next(&mut copy).as_deref(), Some("a"));
    }
    assert!(replay.is_replayable());
}

#[test]
fn the_last_copy_keeps_nothing() {
    let (feed, replay) = fed(100);
    let mut copy = replay.copy().unwrap();
    drop(replay);
    // More than the limit passes through.
    for _ in 0..200 {
        send(&feed, "a");
        assert_eq!(next(&mut copy).as_deref(), Some("a"));
    }
    drop(feed);
    assert_eq!(next(&mut copy).as_deref(), Some("end"));
}

/// A body that wakes during its poll, before another copy registers, and is pending.
struct WakesEarly {
    other: Arc<Mutex<Option<ReplayBody<Self>>>>,
    waker: Waker,
    is_ready: bool,
}

impl Body for WakesEarly {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        task: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, std::io::Error>>> {
        if std::mem::replace(&mut self.is_ready, true) {
            return Poll::Ready(Some(Ok(Frame::data("a".into()))));
        }
        task.waker().wake_by_ref();
        let mut other = self.other.lock().unwrap();
        let other = Pin::new(other.as_mut().unwrap());
        assert!(
            other
                .poll_frame(&mut Context::from_waker(&self.waker))
                .is_pending()
        );
        Poll::Pending
    }
}

#[test]
fn a_copy_that_began_to_wait_while_another_one_polled_is_woken_though_that_one_is_dropped() {
    let (woken, other) = (Arc::new(Count(0.into())), Arc::default());
    let body = WakesEarly {
        other: Arc::clone(&other),
        waker: Waker::from(woken.clone()),
        is_ready: false,
    };
    let replay = Replay::new(body, 100).ok().unwrap();
    let mut first = replay.copy().unwrap();
    *other.lock().unwrap() = replay.copy();
    let mut task = Context::from_waker(Waker::noop());
    assert!(Pin::new(&mut first).poll_frame(&mut task).is_pending());
    drop(first);
    assert_eq!(woken.0.load(Ordering::Relaxed), 1);
    let mut second = other.lock().unwrap().take().unwrap();
    assert!(Pin::new(&mut second).poll_frame(&mut task).is_ready());
}

/// A body that is always pending, and stores its waker.
struct Hangs {
    waker: Option<Waker>,
    _alive: Arc<()>,
}

impl Body for Hangs {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        task: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, std::io::Error>>> {
        self.waker = Some(task.waker().clone());
        Poll::Pending
    }
}

#[test]
fn a_body_that_was_pending_is_dropped_with_its_last_copy() {
    let alive = Arc::new(());
    let body = Hangs {
        waker: None,
        _alive: alive.clone(),
    };
    let replay = Replay::new(body, 100).ok().unwrap();
    let mut copy = replay.copy().unwrap();
    let woken = Arc::new(Count(0.into()));
    let waker = Waker::from(woken.clone());
    let poll = Pin::new(&mut copy).poll_frame(&mut Context::from_waker(&waker));
    assert!(poll.is_pending());
    drop(waker);
    drop(copy);
    assert_eq!(Arc::strong_count(&woken), 1, "the waker of the copy");
    drop(replay);
    assert_eq!(Arc::strong_count(&alive), 1, "the body");
}

#[test]
fn the_last_copy_keeps_nothing_though_its_body_was_pending() {
    let (feed, replay) = fed(100);
    let mut copy = replay.copy().unwrap();
    assert_eq!(next(&mut copy), None);
    drop(replay);
    // More than the limit passes through.
    for _ in 0..200 {
        send(&feed, "a");
        assert_eq!(next(&mut copy).as_deref(), Some("a"));
        assert_eq!(next(&mut copy), None);
    }
}

/// A body that knows when it has ended or failed, as those of HTTP clients do.
struct Knowing(Fed, bool);

impl Body for Knowing {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        task: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, std::io::Error>>> {
        let polled = Pin::new(&mut self.0).poll_frame(task);
        self.1 = matches!(polled, Poll::Ready(None | Some(Err(_))));
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.1
    }

    fn size_hint(&self) -> SizeHint {
        match self.1 {
            true => SizeHint::with_exact(0),
            false => SizeHint::default(),
        }
    }
}

/// A client that takes a copy for complete sends part of the body as all of it.
#[test]
fn a_copy_that_lacks_a_part_of_the_body_does_not_seem_complete() {
    for (limit, fails) in [(3, false), (100, true)] {
        let (feed, body) = mpsc::unbounded();
        let body = Knowing(Fed(body), false);
        let replay = Replay::new(body, limit).ok().unwrap();
        let (mut first, mut second) = (replay.copy().unwrap(), replay.copy().unwrap());
        send(&feed, "abcd");
        if fails {
            feed.unbounded_send(Err(std::io::Error::other("broken")))
                .unwrap();
        }
        drop(feed);
        let read = |body: &mut ReplayBody<Knowing>| {
            let polled = Pin::new(body).poll_frame(&mut Context::from_waker(Waker::noop()));
            let Poll::Ready(frame) = polled else {
                panic!("not ready");
            };
            frame.map(|frame| frame.is_ok())
        };
        assert_eq!(read(&mut first), Some(true));
        assert_eq!(read(&mut first), fails.then_some(false));
        assert_eq!(first.is_end_stream(), !fails);
        let lacks = |second: &ReplayBody<Knowing>| {
            assert!(!second.is_end_stream(), "{limit}");
            assert_eq!(second.size_hint().exact(), None, "{limit}");
        };
        lacks(&second);
        if fails {
            assert_eq!(read(&mut second), Some(true));
            lacks(&second);
        }
        assert_eq!(read(&mut second), Some(false));
    }
}
