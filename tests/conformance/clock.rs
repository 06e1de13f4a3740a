//! The clock of a scenario: a [`ManualClock`] that can also go backwards.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use backstop::{Clock, Instant, ManualClock, Sleep};

/// A clock that the steps of a scenario move. Clones share one time, which starts at [`TestClock::START`].
///
/// In some scenarios time goes backwards, which a [`ManualClock`] never does.
#[derive(Clone, Debug)]
pub(crate) struct TestClock {
    manual: ManualClock,
    /// How far the clock has gone backwards, in nanoseconds.
    back: Arc<AtomicU64>,
}

impl TestClock {
    /// The start of scenarios: late enough for steps before the start, and a whole number of days, so that windows
    /// aligned to the clock are also aligned to the scenario.
    const START: Duration = Duration::from_secs(1000 * 24 * 60 * 60);

    pub(crate) fn new() -> Self {
        let manual = ManualClock::new();
        manual.advance(Self::START);
        Self {
            manual,
            back: Arc::default(),
        }
    }

    /// Returns the time since the scenario began, or zero before.
    pub(crate) fn elapsed(&self) -> Duration {
        let start = Instant::ORIGIN + Self::START;
        self.now().saturating_duration_since(start)
    }

    pub(crate) fn advance(&self, duration: Duration) {
        self.manual.advance(duration);
    }

    /// Runs a future to completion; time advances when it is pending.
    pub(crate) fn block_on<F: Future>(&self, future: F) -> F::Output {
        self.manual.block_on(future)
    }

    /// Moves the clock to `nanos` after the start of the scenario; negative is before it.
    pub(crate) fn move_to(&self, nanos: i128) {
        let start = i128::try_from(Self::START.as_nanos()).unwrap();
        let distance = start + nanos - i128::from(self.now().as_nanos());
        let amount = u64::try_from(distance.unsigned_abs()).unwrap_or(u64::MAX);
        if distance < 0 {
            self.back.fetch_add(amount, Ordering::SeqCst);
        } else {
            self.advance(Duration::from_nanos(amount));
        }
    }
}

impl Clock for TestClock {
    fn now(&self) -> Instant {
        let back = self.back.load(Ordering::SeqCst);
        Instant::from_nanos(self.manual.now().as_nanos().saturating_sub(back))
    }

    fn sleep_until(&self, deadline: Instant) -> Sleep {
        let wait = deadline.saturating_duration_since(self.now());
        self.manual.sleep(wait)
    }
}
