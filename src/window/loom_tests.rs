use loom::sync::Arc;
use loom::thread;

use super::*;
use crate::instant::Instant;
use crate::sync::{AtomicU64, Ordering};

/// A window of calls with its marks.
#[derive(Debug)]
struct Calls {
    marks: AtomicU64,
    window: CountWindow,
}

impl Calls {
    fn new(size: u32, durations: bool) -> Self {
        Self {
            marks: AtomicU64::new(UNSETTLED),
            window: CountWindow::new(size, durations, true),
        }
    }

    fn record(&self, sample: Sample) -> bool {
        self.window.record(&self.marks, sample)
    }

    fn counts(&self) -> Counts {
        self.window.counts()
    }

    fn recounted(&self) -> Counts {
        self.window.recounted(&self.marks)
    }

    fn is_settled(&self) -> bool {
        self.marks.load(Ordering::Relaxed) == 0
    }

    fn clear(&self) {
        self.window.clear(&self.marks);
    }
}

const FAILED: Sample = Sample::new(true, false, 0);
const GOOD: Sample = Sample::GOOD;

/// Runs `first` and `second` on `shared` at the same time, in every order there is.
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
fn loom_a_count_windows_counters_equal_its_content() {
    loom::model(|| {
        // Two places, so that the threads meet in one.
        let window = Arc::new(Calls::new(2, true));
        race(
            &window,
            |window| {
                window.record(FAILED);
                window.record(GOOD);
            },
            |window| {
                window.record(GOOD);
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
                window.record(GOOD);
            },
            |window| {
                window.record(FAILED);
            },
        );
        let counts = window.counts();
        assert_eq!((counts.calls, counts.failures), (3, 2));
        assert!(!window.is_settled());
    });
}

#[test]
fn loom_a_window_full_of_good_calls_is_settled() {
    loom::model(|| {
        let window = Arc::new(Calls::new(2, false));
        race(
            &window,
            |window| {
                window.record(GOOD);
            },
            |window| {
                window.record(GOOD);
            },
        );
        // Its flags are compared with its content here.
        assert_eq!(window.counts(), window.recounted());
        assert!(window.is_settled());
    });
}

#[test]
fn loom_a_window_that_was_cleared_is_not_settled() {
    loom::model(|| {
        let window = Arc::new(Calls::new(2, false));
        window.record(FAILED);
        race(
            &window,
            |window| {
                window.record(GOOD);
            },
            |window| window.clear(),
        );
        let counts = window.counts();
        assert!(counts.calls < 2 && counts.failures == 0, "{counts:?}");
        assert!(!window.is_settled());
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
fn loom_a_roll_over_loses_no_call() {
    // From one slice to the next, and far ahead.
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
        // The first slice has left. The late one of the two may count into the newer slice.
        assert_eq!(seen(&window, 210), (1, 1));
        assert_eq!(window.sums()[..2], [1, 1]);
        assert_eq!(seen(&window, 410), (0, 0));
    });
}

#[test]
fn loom_a_call_is_counted_while_the_window_is_cleared_or_not_at_all() {
    loom::model(|| {
        let window = slices(2, false);
        record(&window, 0, 0);
        race(&window, |window| record(window, 1, 150), TimeWindow::clear);
        let (before, meanwhile) = seen(&window, 150);
        assert!(before == 0 && meanwhile <= 1);
        record(&window, 0, 160);
        assert_eq!(seen(&window, 160), (1, meanwhile));
    });
}

#[test]
fn loom_a_window_that_has_run_empty_restarts_once() {
    // At one time; at two in one slice, as slices lay; in two slices.
    for (first, second) in [(250, 250), (250, 260), (290, 310)] {
        let mut model = loom::model::Builder::new();
        // Without a bound this takes half an hour.
        model.preemption_bound = Some(3);
        model.check(move || {
            let window = slices(1, false);
            record(&window, 0, 0);
            race(
                &window,
                move |window| record(window, 0, first),
                move |window| record(window, 1, second),
            );
            // It restarted with the one or the other.
            assert_eq!(seen(&window, second), (1, 1));
            assert_eq!(seen(&window, second + 100), (0, 0));
            record(&window, 0, 1_000);
            assert_eq!(seen(&window, 1_099), (1, 0));
            assert_eq!(seen(&window, 1_100), (0, 0));
        });
    }
}
