//! One clock for everything: what reads the time and what sleeps are the same object.
//!
//! A handle is built with a clock and keeps it; the default is [`TokioClock`], which obeys tokio's
//! paused time. The pure state machines never see a clock: they take an [`Instant`] as an argument.
//!
//! | clock | time | sleeps | for |
//! |---|---|---|---|
//! | [`TokioClock`] (default) | tokio's, so it obeys `start_paused` | a tokio timer | async programs and their tests |
//! | [`FastClock`] (feature `fast-clock`) | the CPU's counter, about 10 ns a read | tokio timers that stay registered | the hottest paths |
//! | [`BlockingClock`] | the system's | parks the thread | programs without a runtime |
//! | [`ManualClock`] | moved by hand | wakes in deadline order | deterministic tests |
//! | your own [`Clock`] | yours | yours | other runtimes, simulators |
//!
//! # Clocks that jump
//!
//! A clock of your own may go backwards. No pattern panics, freezes or bursts then: all arithmetic
//! on [`Instant`] saturates.
//!
//! # Example
//!
//! A test of a one-hour outage, without waiting:
//!
//! ```
//! use std::time::Duration;
//! use backstop::{Backoff, Clock, Jitter, ManualClock, Policy, Retry};
//!
//! let clock = ManualClock::new();
//! let retry = Retry::builder()
//!     .max_attempts(13)
//!     .backoff(Backoff::fixed(Duration::from_secs(300)).jitter(Jitter::None))
//!     .clock(clock.clone())
//!     .build()?;
//!
//! let result = clock.block_on(retry.call(|| async {
//!     match clock.now().as_nanos() >= 3_600_000_000_000 {
//!         true => Ok("back"),
//!         false => Err("down"),
//!     }
//! }));
//! assert_eq!(result, Ok("back"));
//! # Ok::<(), backstop::ConfigError>(())
//! ```

use std::fmt::Debug;
use std::future::Future;
use std::ops::{Add, AddAssign};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use pin_project_lite::pin_project;

pub(crate) mod blocking;
#[cfg(feature = "fast-clock")]
mod fast;
mod manual;
#[cfg(feature = "fast-clock")]
mod pool;
mod real;
mod timers;
#[cfg(feature = "tokio")]
mod tokio;

pub use self::blocking::BlockingClock;
#[cfg(feature = "fast-clock")]
pub use self::fast::FastClock;
pub use self::manual::ManualClock;
#[cfg(feature = "tokio")]
pub use self::tokio::TokioClock;

/// A source of time: reads it and waits for it.
///
/// Both come from one object, so that a test which moves the one moves the other.
///
/// Layers on one clock share its readings. Give all of them the same [`ClockHandle`], or clones of
/// one `Arc`, rather than one clock each.
///
/// # Example
///
/// A clock on top of another one; it lets a test set time back:
///
/// ```
/// use std::sync::atomic::{AtomicU64, Ordering};
/// use backstop::{Clock, Instant, ManualClock, Sleep};
///
/// #[derive(Debug)]
/// struct Skewed {
///     inner: ManualClock,
///     back_nanos: AtomicU64,
/// }
///
/// impl Clock for Skewed {
///     fn now(&self) -> Instant {
///         let back = self.back_nanos.load(Ordering::Relaxed);
///         Instant::from_nanos(self.inner.now().as_nanos().saturating_sub(back))
///     }
///
///     fn sleep_until(&self, deadline: Instant) -> Sleep {
///         let wait = deadline.saturating_duration_since(self.now());
///         self.inner.sleep_until(self.inner.now() + wait)
///     }
/// }
/// ```
pub trait Clock: Debug + Send + Sync + 'static {
    /// The time on this clock.
    fn now(&self) -> Instant;

    /// A future that is ready once this clock reads `deadline` or later, and that gives up its
    /// timer when it is dropped.
    ///
    /// [`Instant::FAR_FUTURE`] never comes.
    fn sleep_until(&self, deadline: Instant) -> Sleep;

    /// The clock as handles keep it. Built-in clocks override this to avoid the indirection.
    #[doc(hidden)]
    fn into_handle(self) -> ClockHandle
    where
        Self: Sized,
    {
        ClockHandle::custom(Arc::new(self))
    }
}

/// Clones of one `Arc` are one clock: layers that have it share its readings.
impl<C: Clock> Clock for Arc<C> {
    fn now(&self) -> Instant {
        (**self).now()
    }

    fn sleep_until(&self, deadline: Instant) -> Sleep {
        (**self).sleep_until(deadline)
    }

    fn into_handle(self) -> ClockHandle {
        ClockHandle::custom(self)
    }
}

/// Clones of one `Arc` are one clock: layers that have it share its readings.
impl Clock for Arc<dyn Clock> {
    fn now(&self) -> Instant {
        (**self).now()
    }

    fn sleep_until(&self, deadline: Instant) -> Sleep {
        (**self).sleep_until(deadline)
    }

    fn into_handle(self) -> ClockHandle {
        ClockHandle::custom(self)
    }
}

/// A point on a clock: nanoseconds since that clock's own origin, in one word.
///
/// Points of different clocks are not comparable. All arithmetic saturates: an instant later than
/// [`Instant::FAR_FUTURE`], 584 years after the origin, is `FAR_FUTURE`, which means "never".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Instant(u64);

impl Instant {
    /// The clock's origin.
    pub const ORIGIN: Self = Self(0);

    /// Later than every other instant: a deadline that never comes.
    pub const FAR_FUTURE: Self = Self(u64::MAX);

    /// The instant `nanos` nanoseconds after the clock's origin.
    #[inline]
    pub const fn from_nanos(nanos: u64) -> Self {
        Self(nanos)
    }

    /// Nanoseconds since the clock's origin.
    #[inline]
    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    /// The time since `earlier`; zero when `earlier` is later.
    #[inline]
    pub const fn saturating_duration_since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

impl Instant {
    /// As adding a duration of so many nanoseconds. Saturates too.
    #[inline]
    pub(crate) const fn after(self, nanos: u64) -> Self {
        Self(self.0.saturating_add(nanos))
    }
}

impl Add<Duration> for Instant {
    type Output = Self;

    /// Saturates at [`Instant::FAR_FUTURE`].
    #[inline]
    fn add(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(nanos(duration)))
    }
}

impl AddAssign<Duration> for Instant {
    #[inline]
    fn add_assign(&mut self, duration: Duration) {
        *self = *self + duration;
    }
}

/// The nanoseconds of `duration`; `u64::MAX`, about 584 years, for longer ones.
#[inline]
pub(crate) const fn nanos(duration: Duration) -> u64 {
    let nanos = duration.as_nanos();
    if nanos > u64::MAX as u128 {
        u64::MAX
    } else {
        nanos as u64
    }
}

/// A clock as the handles keep it: cheap to clone, and without a type parameter.
///
/// Every clock converts into it, so builders take `clock(my_clock)`.
#[derive(Clone, Debug)]
pub struct ClockHandle {
    // Every layer asks for it several times in a call: a load is cheaper than a match.
    id: ClockId,
    kind: Kind,
}

#[derive(Clone, Debug)]
enum Kind {
    #[cfg(feature = "tokio")]
    Tokio,
    #[cfg(feature = "fast-clock")]
    Fast,
    Blocking,
    Manual(ManualClock),
    Custom(Arc<dyn Clock>),
}

/// Which clock a reading came from, so that readings of two clocks are never compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ClockId(usize);

impl ClockId {
    /// No clock at all.
    pub(crate) const NONE: Self = Self(0);
    #[cfg(feature = "tokio")]
    const TOKIO: Self = Self(1);
    #[cfg(feature = "fast-clock")]
    const FAST: Self = Self(2);
    const BLOCKING: Self = Self(3);

    /// The clock of this identity, where it needs no more than that to be read.
    pub(crate) const fn handle(self) -> Option<ClockHandle> {
        match self {
            #[cfg(feature = "tokio")]
            Self::TOKIO => Some(ClockHandle::TOKIO),
            #[cfg(feature = "fast-clock")]
            Self::FAST => Some(ClockHandle::FAST),
            Self::BLOCKING => Some(ClockHandle::BLOCKING),
            _ => None,
        }
    }
}

impl ClockHandle {
    #[cfg(feature = "tokio")]
    const TOKIO: Self = Self::new(ClockId::TOKIO, Kind::Tokio);
    #[cfg(feature = "fast-clock")]
    const FAST: Self = Self::new(ClockId::FAST, Kind::Fast);
    const BLOCKING: Self = Self::new(ClockId::BLOCKING, Kind::Blocking);

    const fn new(id: ClockId, kind: Kind) -> Self {
        Self { id, kind }
    }

    fn custom(clock: Arc<dyn Clock>) -> Self {
        let address = Arc::as_ptr(&clock).cast::<()>() as usize;
        Self::new(ClockId(address), Kind::Custom(clock))
    }

    /// The clock a builder uses when none is given: tokio's, with the feature `tokio`.
    pub(crate) const fn preset() -> Option<Self> {
        #[cfg(feature = "tokio")]
        return Some(Self::TOKIO);
        #[cfg(not(feature = "tokio"))]
        None
    }

    #[inline]
    pub(crate) const fn id(&self) -> ClockId {
        self.id
    }

    /// Whether it is a clock of the user's own, which may go back. The built-in ones never do.
    pub(crate) const fn is_custom(&self) -> bool {
        matches!(self.kind, Kind::Custom(_))
    }

    /// The time on this clock.
    #[inline(always)]
    pub fn now(&self) -> Instant {
        match &self.kind {
            #[cfg(feature = "tokio")]
            Kind::Tokio => TokioClock.now(),
            #[cfg(feature = "fast-clock")]
            Kind::Fast => fast::now(),
            Kind::Blocking => BlockingClock.now(),
            Kind::Manual(clock) => clock.now(),
            Kind::Custom(clock) => clock.now(),
        }
    }

    /// Waits until this clock reads `deadline`. Allocates for custom clocks only.
    #[inline]
    pub fn sleep_until(&self, deadline: Instant) -> Sleep {
        match &self.kind {
            #[cfg(feature = "tokio")]
            Kind::Tokio => TokioClock.sleep_until(deadline),
            #[cfg(feature = "fast-clock")]
            Kind::Fast => fast::sleep_until(deadline),
            Kind::Blocking => BlockingClock.sleep_until(deadline),
            Kind::Manual(clock) => clock.sleep_until(deadline),
            Kind::Custom(clock) => clock.sleep_until(deadline),
        }
    }
}

/// Puts a sleep of `clock` until `deadline` into `slot`.
///
/// The same as setting the slot to what [`ClockHandle::sleep_until`] returns, but each kind of
/// sleep is built in its place: a sleep is 112 bytes, of which a fresh one uses a few, and moving
/// one on costs more than making it.
#[inline(always)]
#[cfg_attr(not(feature = "tokio"), expect(unused_mut))]
pub(crate) fn arm(clock: &ClockHandle, deadline: Instant, mut slot: Pin<&mut Option<Sleep>>) {
    match &clock.kind {
        #[cfg(feature = "tokio")]
        Kind::Tokio => match tokio::timer(deadline) {
            Some(timer) => slot.set(Some(Sleep::of(SleepKind::Tokio { timer }))),
            None => arm_other(clock, deadline, slot),
        },
        #[cfg(feature = "fast-clock")]
        Kind::Fast => match fast::timer(deadline) {
            Some(timer) => slot.set(Some(Sleep::of(SleepKind::Fast { timer }))),
            None => arm_other(clock, deadline, slot),
        },
        _ => arm_other(clock, deadline, slot),
    }
}

#[cold]
fn arm_other(clock: &ClockHandle, deadline: Instant, mut slot: Pin<&mut Option<Sleep>>) {
    slot.set(Some(clock.sleep_until(deadline)));
}

impl<C: Clock> From<C> for ClockHandle {
    fn from(clock: C) -> Self {
        clock.into_handle()
    }
}

pin_project! {
    /// Waits for an instant on a clock. Made by [`Clock::sleep_until`].
    ///
    /// # Cancel safety
    ///
    /// Dropping it gives up its timer and nothing else.
    #[derive(Debug)]
    #[must_use = "futures do nothing unless you `.await` or poll them"]
    pub struct Sleep {
        #[pin]
        kind: SleepKind,
    }
}

pin_project! {
    #[project = SleepProj]
    enum SleepKind {
        Tokio { #[pin] timer: TokioTimer },
        Fast { timer: FastTimer },
        Other { other: OtherSleep },
    }
}

/// What calls that are in a hurry do not wait for. Apart, so that the others need not tell seven
/// kinds from each other.
enum OtherSleep {
    Never,
    Yield {
        yielded: bool,
    },
    Blocking {
        timer: blocking::Timer,
    },
    Manual {
        timer: manual::Timer,
    },
    Custom {
        future: Pin<Box<dyn Future<Output = ()> + Send>>,
    },
}

// The variants above stay when a feature is off, but nothing can make one.
#[cfg(not(feature = "tokio"))]
type TokioTimer = std::future::Pending<()>;
#[cfg(feature = "tokio")]
type TokioTimer = self::tokio::Timer;
#[cfg(not(feature = "fast-clock"))]
type FastTimer = std::future::Pending<()>;
#[cfg(feature = "fast-clock")]
type FastTimer = fast::Timer;

impl std::fmt::Debug for SleepKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Tokio { .. } => "Tokio",
            Self::Fast { .. } => "Fast",
            Self::Other { other } => match other {
                OtherSleep::Never => "Never",
                OtherSleep::Yield { .. } => "Yield",
                OtherSleep::Blocking { .. } => "Blocking",
                OtherSleep::Manual { .. } => "Manual",
                OtherSleep::Custom { .. } => "Custom",
            },
        })
    }
}

impl Sleep {
    /// A sleep of a clock of your own. Allocates once, to hide the future's type.
    pub fn new(future: impl Future<Output = ()> + Send + 'static) -> Self {
        Self::other(OtherSleep::Custom {
            future: Box::pin(future),
        })
    }

    /// A sleep that never ends, for deadlines that never come. Does not allocate.
    pub fn never() -> Self {
        Self::other(OtherSleep::Never)
    }

    /// A sleep of no time that lets other tasks run first.
    pub(crate) const fn yield_once() -> Self {
        Self::other(OtherSleep::Yield { yielded: false })
    }

    #[inline]
    const fn of(kind: SleepKind) -> Self {
        Self { kind }
    }

    const fn other(other: OtherSleep) -> Self {
        Self::of(SleepKind::Other { other })
    }
}

impl Future for Sleep {
    type Output = ();

    #[inline(always)]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        match self.project().kind.project() {
            SleepProj::Tokio { timer } => timer.poll(cx),
            SleepProj::Fast { timer } => Pin::new(timer).poll(cx),
            SleepProj::Other { other } => other.poll(cx),
        }
    }
}

impl OtherSleep {
    #[inline(never)]
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match self {
            Self::Never => Poll::Pending,
            Self::Yield { yielded: true } => Poll::Ready(()),
            Self::Yield { yielded } => {
                *yielded = true;
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            Self::Blocking { timer } => Pin::new(timer).poll(cx),
            Self::Manual { timer } => Pin::new(timer).poll(cx),
            Self::Custom { future } => future.as_mut().poll(cx),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instants_saturate() {
        assert_eq!(Instant::ORIGIN + Duration::MAX, Instant::FAR_FUTURE);
        assert_eq!(
            Instant::FAR_FUTURE + Duration::from_nanos(1),
            Instant::FAR_FUTURE
        );
        let (a, b) = (Instant::from_nanos(1), Instant::from_nanos(3));
        assert_eq!(b.saturating_duration_since(a), Duration::from_nanos(2));
        assert_eq!(a.saturating_duration_since(b), Duration::ZERO);
    }

    #[test]
    fn clocks_have_identities() {
        let (a, b) = (ManualClock::new(), ManualClock::new());
        assert_eq!(
            ClockHandle::from(a.clone()).id(),
            ClockHandle::from(a.clone()).id()
        );
        assert_ne!(ClockHandle::from(a.clone()).id(), ClockHandle::from(b).id());
        assert_ne!(
            ClockHandle::from(BlockingClock).id(),
            ClockHandle::from(a).id()
        );
        assert_ne!(ClockHandle::from(BlockingClock).id(), ClockId::NONE);
    }
}
