//! Tokio's clock.

use super::{Clock, ClockHandle, Instant, Kind, Sleep, SleepKind, blocking, real};

/// Tokio's clock and timers. The default.
///
/// It obeys paused time: under `#[tokio::test(start_paused = true)]` every pattern runs in virtual
/// time. Inside [`call_blocking`](crate::Policy::call_blocking), where there may be no runtime, its
/// sleeps park the thread instead.
///
/// # Panics
///
/// As tokio's own timers do, a sleep panics when it is first polled outside a tokio runtime with
/// time enabled, unless inside `call_blocking`.
#[derive(Clone, Copy, Debug, Default)]
pub struct TokioClock;

/// Without a share in tokio's cooperation budget: an operation that uses up its task's budget on
/// every poll must not keep its own timeout from being looked at.
pub(super) type Timer = tokio::task::coop::Unconstrained<tokio::time::Sleep>;

#[inline]
pub(super) fn timer(at: std::time::Instant) -> Timer {
    tokio::task::coop::unconstrained(tokio::time::sleep_until(at.into()))
}

impl Clock for TokioClock {
    #[inline]
    fn now(&self) -> Instant {
        real::from_std(tokio::time::Instant::now().into_std())
    }

    #[inline]
    fn sleep_until(&self, deadline: Instant) -> Sleep {
        if blocking::is_active() {
            return blocking::sleep_until(deadline);
        }
        Sleep::of(match real::to_std(deadline) {
            Some(at) if deadline != Instant::FAR_FUTURE => SleepKind::Tokio { timer: timer(at) },
            _ => SleepKind::Never,
        })
    }

    fn into_handle(self) -> ClockHandle {
        ClockHandle(Kind::Tokio)
    }
}
