use loom::sync::Arc;
use loom::thread;

use super::*;
use crate::instant::Instant;
use crate::sync::{AtomicU64, Ordering};

/// A window of calls with its `dirty` word.
#[derive(Debug)]
struct Calls {
    dirty: AtomicU64,
    window: CountWindow,
}

impl Calls {
    fn new(size: u32, durations: bool) -> Self {
        Self {
            dirty: AtomicU64::new(COUNTS_SUCCESSES),
            window: CountWindow::new(size, durations, true),
        }
    }

    fn record(&self, sample: Sample) -> bool {
        self.window.record(&self.dirty, sample)
    }

    fn counts(&self) -> Counts {
        self.window.counts()
    }

    fn recounted(&self) -> Counts {
        self.window.recounted(&self.dirty)
    }

    fn skips_successes(&self) -> bool {
        self.dirty.load(Ordering::Relaxed) == 0
    }

    fn clear(&self) {
        self.window.clear(&self.dirty);
    }
}

const FAILED: Sample = Sample::new(true, false, 0);
const SUCCESS: Sample = Sample::SUCCESS;

/// Runs `first` and `second` on `shared` concurrently, in every possible order.
fn race<T: Send + Sync + 'static>(
    shared: &Arc<T>,
    first: impl FnOnce(&T) + Send + 'static,
    second: impl FnOnce(&T),
) {
    let other = {
        let shared = shared.clone();
        thread::spawn(move || first(&shared))
    };
    second(shared);
    other.join().unwrap();
}

#[test]
fn loom_the_totals_of_a_count_window_equal_its_content() {
    loom::model(|| {
        // Two slots, so that the threads race for one.
        let window = Arc::new(Calls::new(2, true));
        race(
            &window,
            |window| {
                window.record(FAILED);
                window.record(SUCCESS);
            },
            |window| {
                window.record(SUCCESS);
            },
        );
        assert_eq!(window.counts(), window.recounted());
        assert_eq!(window.counts().calls, 2);
    });
}

#[test]
fn loom_a_count_window_loses_no_failure() {
    loom::model(|| {
        let window = Arc::new(Calls::new(3, false));
        race(
            &window,
            |window| {
                window.record(FAILED);
                window.record(SUCCESS);
            },
            |window| {
                window.record(FAILED);
            },
        );
        let counts = window.counts();
        assert_eq!((counts.calls, counts.failures), (3, 2));
        assert!(!window.skips_successes());
    });
}

#[test]
fn loom_a_window_full_of_successes_skips_successes() {
    loom::model(|| {
        let window = Arc::new(Calls::new(2, false));
        race(
            &window,
            |window| {
                window.record(SUCCESS);
            },
            |window| {
                window.record(SUCCESS);
            },
        );
        // Also checks the `dirty` word.
        assert_eq!(window.counts(), window.recounted());
        assert!(window.skips_successes());
    });
}

#[test]
fn loom_a_cleared_window_counts_successes() {
    loom::model(|| {
        let window = Arc::new(Calls::new(2, false));
        window.record(FAILED);
        race(
            &window,
            |window| {
                window.record(SUCCESS);
            },
            |window| window.clear(),
        );
        let counts = window.counts();
        assert!(counts.calls < 2 && counts.failures == 0, "{counts:?}");
        assert!(!window.skips_successes());
    });
}

/// A window of slices of 100 µs, with kinds 0 and 1.
fn slices(slices: u32, aligned: bool) -> Arc<TimeWindow> {
    let window = Duration::from_micros(100) * slices;
    Arc::new(TimeWindow::new(window, slices, aligned, 2))
}

fn record(window: &TimeWindow, kind: usize, now: u64) {
    window.advance(Instant::from_nanos(now * 1_000));
    window.add(kind, 1);
}

fn seen(window: &TimeWindow, now: u64) -> (u64, u64) {
    let sums = window.sums_at(Instant::from_nanos(now * 1_000));
    (sums[0], sums[1])
}

#[test]
fn loom_beginning_a_slice_loses_no_call() {
    // In the next slice, and far ahead.
    for now in [100, 100_000] {
        loom::model(move || {
            let window = slices(1, true);
            record(&window, 0, 0);
            race(
                &window,
                move |window| record(window, 0, now),
                move |window| record(window, 1, now),
            );
            assert_eq!(seen(&window, now), (1, 1));
            assert_eq!(window.sums()[..2], [1, 1]);
            assert_eq!(seen(&window, now + 100), (0, 0));
        });
    }
}

#[test]
fn loom_calls_that_begin_two_slices_are_both_in_the_window() {
    loom::model(|| {
        let window = slices(2, true);
        record(&window, 0, 0);
        race(
            &window,
            |window| record(window, 0, 110),
            |window| record(window, 1, 210),
        );
        // The first slice has expired. The late call of the two may count into the newer slice.
        assert_eq!(seen(&window, 210), (1, 1));
        assert_eq!(window.sums()[..2], [1, 1]);
        assert_eq!(seen(&window, 410), (0, 0));
    });
}

#[test]
fn loom_a_call_that_races_with_a_clear_counts_once_or_not_at_all() {
    loom::model(|| {
        let window = slices(2, false);
        record(&window, 0, 0);
        race(&window, |window| record(window, 1, 150), TimeWindow::clear);
        let (before, concurrent) = seen(&window, 150);
        assert!(before == 0 && concurrent <= 1);
        record(&window, 0, 160);
        assert_eq!(seen(&window, 160), (1, concurrent));
    });
}

#[test]
fn loom_a_window_that_has_run_empty_restarts_once() {
    // At one time, at two times within one slice of the old alignment, and in two slices.
    for (first, second) in [(250, 250), (250, 260), (290, 310)] {
        let mut model = loom::model::Builder::new();
        // Bounded, because all interleavings take half an hour.
        model.preemption_bound = Some(3);
        model.check(move || {
            let window = slices(1, false);
            record(&window, 0, 0);
            race(
                &window,
                move |window| record(window, 0, first),
                move |window| record(window, 1, second),
            );
            // The window has restarted with one of the two.
            assert_eq!(seen(&window, second), (1, 1));
            assert_eq!(seen(&window, second + 100), (0, 0));
            record(&window, 0, 1_000);
            assert_eq!(seen(&window, 1_099), (1, 0));
            assert_eq!(seen(&window, 1_100), (0, 0));
        });
    }
}
