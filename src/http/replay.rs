//! Bodies that can be sent more than once.

use std::error::Error as StdError;
use std::fmt;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};

use ::http::HeaderMap;
use bytes::{Buf, Bytes};
use http_body::{Body, Frame, SizeHint};

use crate::event::Panics;
use crate::sync::lock;

type BoxError = Box<dyn StdError + Send + Sync>;

/// Size of the kept frames, without their data, that any limit allows, in bytes.
const LEAST_FRAMES: u64 = 128 << 10;

/// A body that can be sent several times, one after the other or concurrently.
///
/// The original is read once, while it is sent, and kept up to a limit. A copy replays the kept frames, and continues
/// reading the original where the last copy stopped. Beyond the limit nothing is kept: the current copy continues,
/// and no further copy can be made. A body whose declared length exceeds the limit is never kept. Nor are very many small
/// frames: a frame takes about 100 bytes in addition to its data, and all frames together at most as much as the limit, or
/// 128 KiB.
///
/// [`Replay`] makes the copies of a body. For services under a policy, use [`Replayable`](crate::tower::Replayable).
pub struct ReplayBody<B> {
    kind: Kind<B>,
}

enum Kind<B> {
    /// A body that is not kept.
    Single(B),
    Copy {
        shared: Arc<Shared<B>>,
        /// The number of this copy.
        number: u64,
        /// The number of frames it has returned, while frames are kept.
        next: usize,
    },
}

/// Makes the copies of a body.
pub struct Replay<B> {
    shared: Arc<Shared<B>>,
}

struct Shared<B> {
    state: Mutex<State<B>>,
    /// The waker of the original. It does not own the original, which stores it.
    waiting: Arc<WaitList>,
    limit: u64,
}

/// Copies that wait for the original, by their numbers. Locked after the state.
#[derive(Default)]
struct WaitList(Mutex<Vec<(u64, Waker)>>);

struct State<B> {
    /// The original. `None` while a copy polls it outside the lock, and after its end.
    original: Option<B>,
    stage: Stage,
    /// Size hint of the original at its last poll.
    rest: SizeHint,
    /// The frames read so far.
    frames: Vec<Kept>,
    /// Bytes in `frames`.
    kept: u64,
    /// The number of copies made.
    copies: u64,
    /// Whether the original had ended at its last poll.
    is_at_end: bool,
    /// Whether a copy began to wait while another one polled the original.
    has_waited: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Everything read so far is kept.
    Keeping,
    /// The original has ended, and all of it is kept.
    Complete,
    /// The original exceeded the limit. Only the copy with this number continues.
    Beyond(u64),
    /// The original failed.
    Failed,
}

#[derive(Clone)]
enum Kept {
    Data(Bytes),
    Trailers(HeaderMap),
}

impl Kept {
    fn len(&self) -> u64 {
        match self {
            Self::Data(data) => data.len() as u64,
            Self::Trailers(_) => 0,
        }
    }

    fn is_empty(&self) -> bool {
        matches!(self, Self::Data(data) if data.is_empty())
    }

    fn frame(self) -> Frame<Bytes> {
        match self {
            Self::Data(data) => Frame::data(data),
            Self::Trailers(trailers) => Frame::trailers(trailers),
        }
    }
}

impl<B: Body> ReplayBody<B> {
    /// Returns a body that is sent once and not kept.
    pub const fn once(body: B) -> Self {
        Self {
            kind: Kind::Single(body),
        }
    }
}

impl<B: Body> Replay<B> {
    /// Returns a maker of copies that keeps up to `limit` bytes. Returns the body if its declared length exceeds
    /// that.
    ///
    /// # Errors
    ///
    /// The body, if it is too long.
    pub fn new(body: B, limit: u64) -> Result<Self, B> {
        let rest = body.size_hint();
        if rest.lower() > limit {
            return Err(body);
        }
        let state = State {
            stage: Stage::Keeping,
            is_at_end: body.is_end_stream(),
            original: Some(body),
            rest,
            frames: Vec::new(),
            kept: 0,
            copies: 0,
            has_waited: false,
        };
        Ok(Self {
            shared: Arc::new(Shared {
                state: Mutex::new(state),
                waiting: Arc::default(),
                limit,
            }),
        })
    }

    /// Returns the next copy; `None` if the original was longer than the limit, or failed.
    pub fn copy(&self) -> Option<ReplayBody<B>> {
        let mut state = lock(&self.shared.state);
        if !state.is_replayable() {
            return None;
        }
        state.copies += 1;
        Some(ReplayBody {
            kind: Kind::Copy {
                shared: self.shared.clone(),
                number: state.copies,
                next: 0,
            },
        })
    }

    /// Returns whether another copy can be made.
    pub fn is_replayable(&self) -> bool {
        lock(&self.shared.state).is_replayable()
    }
}

impl<B> State<B> {
    const fn is_replayable(&self) -> bool {
        matches!(self.stage, Stage::Keeping | Stage::Complete)
    }

    /// Returns whether the copy with this number fails once it has returned the kept frames.
    const fn fails(&self, number: u64) -> bool {
        match self.stage {
            Stage::Keeping | Stage::Complete => false,
            Stage::Beyond(owner) => owner != number,
            Stage::Failed => true,
        }
    }
}

impl WaitList {
    /// Registers a copy that waits. Returns the waker that it had before, to be dropped outside the lock.
    fn add(&self, number: u64, waker: Waker) -> Option<Waker> {
        let mut waiting = lock(&self.0);
        match waiting.iter_mut().find(|(of, _)| *of == number) {
            Some((_, before)) => Some(std::mem::replace(before, waker)),
            None => {
                waiting.push((number, waker));
                None
            }
        }
    }

    /// Removes a copy. Returns its waker, to be dropped outside the lock.
    fn remove(&self, number: u64) -> Option<Waker> {
        let mut waiting = lock(&self.0);
        let at = waiting.iter().position(|(of, _)| *of == number)?;
        Some(waiting.swap_remove(at).1)
    }

    /// Wakes the copies that wait, but not this one.
    fn wake_others(&self, number: Option<u64>) {
        let others = {
            let mut waiting = lock(&self.0);
            let (own, others) = std::mem::take(&mut *waiting)
                .into_iter()
                .partition(|(of, _)| Some(*of) == number);
            *waiting = own;
            others
        };
        // Outside the lock: wakers are user code.
        let mut panics = Panics::default();
        for (_, waker) in others {
            panics.run(|| waker.wake());
        }
        panics.resume();
    }
}

/// The waker of the original. Wakes all waiting copies, because the copy that polled the original may have been
/// dropped.
impl Wake for WaitList {
    fn wake(self: Arc<Self>) {
        self.wake_others(None);
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.wake_others(None);
    }
}

/// The next step of a copy.
enum Step<B> {
    Return(Option<Result<Frame<Bytes>, BoxError>>),
    Wait,
    Poll(B),
}

/// Marks the original as failed if its poll panics.
struct FailOnUnwind<'a, B>(&'a Shared<B>);

impl<B> Drop for FailOnUnwind<'_, B> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            lock(&self.0.state).stage = Stage::Failed;
            self.0.waiting.wake_others(None);
        }
    }
}

impl<B> Shared<B>
where
    B: Body + Send + Unpin + 'static,
    B::Error: Into<BoxError>,
{
    /// Returns the next step of a copy. The caller clones `waker`, because cloning it is user code.
    fn step(&self, number: u64, next: &mut usize, waker: Waker) -> (Step<B>, Option<Waker>) {
        let mut state = lock(&self.state);
        if let Some(kept) = state.frames.get(*next) {
            *next += 1;
            return (Step::Return(Some(Ok(kept.clone().frame()))), Some(waker));
        }
        let returned = match state.stage {
            Stage::Complete => None,
            Stage::Failed => Some(Err(CopyError::Failed.into())),
            Stage::Beyond(owner) if owner != number => Some(Err(CopyError::TooLarge.into())),
            Stage::Keeping | Stage::Beyond(_) => {
                // Registered before the poll, which may wake at once.
                let before = self.waiting.add(number, waker);
                let step = match state.original.take() {
                    Some(original) => Step::Poll(original),
                    None => {
                        state.has_waited = true;
                        Step::Wait
                    }
                };
                return (step, before);
            }
        };
        (Step::Return(returned), Some(waker))
    }

    /// Polls the original outside the lock, and keeps the frames it returns.
    fn poll_original(
        &self,
        mut original: B,
        is_last: bool,
        number: u64,
        next: &mut usize,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let waker = Waker::from(self.waiting.clone());
        let mark = FailOnUnwind(self);
        let polled = Pin::new(&mut original).poll_frame(&mut Context::from_waker(&waker));
        let polled = polled.map(|frame| frame.map(|frame| frame.map(keep)));
        let (rest, is_at_end) = (original.size_hint(), original.is_end_stream());
        drop(mark);
        // Dropped after the lock is released: a buffer may have an owner of the user's.
        let mut unneeded = Vec::new();
        let mut state = lock(&self.state);
        state.rest = rest;
        state.is_at_end = is_at_end;
        let has_waited = std::mem::replace(&mut state.has_waited, false);
        let returned = match polled {
            Poll::Pending => {
                state.original = Some(original);
                drop(state);
                // The original may have been ready before a copy began to wait. If this copy, which was woken, is
                // dropped, that one has to poll.
                if has_waited {
                    self.waiting.wake_others(Some(number));
                }
                return Poll::Pending;
            }
            Poll::Ready(None) => {
                if state.stage == Stage::Keeping {
                    state.stage = Stage::Complete;
                }
                state.rest = SizeHint::with_exact(0);
                None
            }
            Poll::Ready(Some(Err(error))) => {
                state.stage = Stage::Failed;
                Some(Err(error))
            }
            Poll::Ready(Some(Ok(kept))) => {
                // An empty frame is not kept: any number of them would be below the limit.
                if state.stage == Stage::Keeping && !kept.is_empty() {
                    state.kept += kept.len();
                    let frames = (state.frames.len() + 1).saturating_mul(size_of::<Kept>()) as u64;
                    let is_beyond =
                        state.kept > self.limit || frames > self.limit.max(LEAST_FRAMES);
                    if is_beyond || is_last {
                        state.stage = Stage::Beyond(number);
                        std::mem::swap(&mut unneeded, &mut state.frames);
                    } else {
                        state.frames.push(kept.clone());
                        *next += 1;
                    }
                }
                if is_at_end && state.stage == Stage::Keeping {
                    state.stage = Stage::Complete;
                }
                state.original = Some(original);
                Some(Ok(kept.frame()))
            }
        };
        drop(state);
        self.waiting.wake_others(None);
        Poll::Ready(returned.map(|frame| frame.map_err(Into::into)))
    }
}

fn keep<D: Buf>(frame: Frame<D>) -> Kept {
    match frame.into_data() {
        // Does not copy `Bytes`.
        Ok(mut data) => Kept::Data(data.copy_to_bytes(data.remaining())),
        Err(frame) => Kept::Trailers(frame.into_trailers().unwrap_or_default()),
    }
}

impl<B> Body for ReplayBody<B>
where
    B: Body + Send + Unpin + 'static,
    B::Error: Into<BoxError>,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        task: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match &mut self.kind {
            Kind::Single(body) => Pin::new(body).poll_frame(task).map(|frame| {
                frame.map(|frame| frame.map(|frame| keep(frame).frame()).map_err(Into::into))
            }),
            Kind::Copy {
                shared,
                number,
                next,
            } => match shared.step(*number, next, task.waker().clone()).0 {
                Step::Return(frame) => Poll::Ready(frame),
                Step::Wait => Poll::Pending,
                Step::Poll(original) => {
                    // A lone copy is the last one: the maker was dropped.
                    let is_last = Arc::strong_count(shared) == 1;
                    shared.poll_original(original, is_last, *number, next)
                }
            },
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            Kind::Single(body) => body.is_end_stream(),
            Kind::Copy {
                shared,
                number,
                next,
            } => {
                let state = lock(&shared.state);
                let at_rest = *next >= state.frames.len();
                // A client that takes a copy for complete does not poll it, and sends part of the body as all of it.
                at_rest
                    && !state.fails(*number)
                    && (state.stage == Stage::Complete || state.is_at_end)
            }
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Single(body) => body.size_hint(),
            Kind::Copy {
                shared,
                number,
                next,
            } => {
                let state = lock(&shared.state);
                let kept: u64 = state.frames.iter().skip(*next).map(Kept::len).sum();
                let mut hint = SizeHint::new();
                if state.fails(*number) {
                    hint.set_lower(kept);
                    return hint;
                }
                hint.set_lower(kept.saturating_add(state.rest.lower()));
                if let Some(upper) = state.rest.upper() {
                    hint.set_upper(kept.saturating_add(upper));
                }
                hint
            }
        }
    }
}

impl<B> Drop for ReplayBody<B> {
    fn drop(&mut self) {
        if let Kind::Copy { shared, number, .. } = &self.kind {
            let waker = shared.waiting.remove(*number);
            drop(waker);
        }
    }
}

impl<B> fmt::Debug for ReplayBody<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReplayBody")
            .field("is_kept", &matches!(self.kind, Kind::Copy { .. }))
            .finish()
    }
}

impl<B> fmt::Debug for Replay<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Replay")
            .field("limit", &self.shared.limit)
            .finish_non_exhaustive()
    }
}

/// The reason why a copy ends before the original.
#[derive(Clone, Copy, Debug)]
enum CopyError {
    TooLarge,
    Failed,
}

impl fmt::Display for CopyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::TooLarge => "the body is too large to be sent twice",
            Self::Failed => "the body failed while another copy was sent",
        })
    }
}

impl StdError for CopyError {}
