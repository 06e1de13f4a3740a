use loom::sync::Arc;
use loom::thread;

use super::*;
use crate::instant::Instant;

const FAILED: Sample = Sample {
    failed: true,
    slow: false,
    took: 0,
};
const GOOD: Sample = Sample {
    failed: false,
    slow: false,
    took: 0,
};

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
fn loom_a_word_loses_no_call() {
    loom::model(|| {
        let window = Arc::new(CountWindow::new(3, Tracks::default()));
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
    });
}

#[test]
fn loom_a_rings_counters_equal_its_content() {
    loom::model(|| {
        // Two places, so that the threads meet in one.
        let tracks = Tracks {
            slow: false,
            durations: true,
        };
        let window = Arc::new(CountWindow::new(2, tracks));
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
fn loom_a_ring_that_is_full_of_good_calls_is_settled() {
    loom::model(|| {
        let window = Arc::new(CountWindow::ring(2, Tracks::default()));
        race(
            &window,
            |window| {
                window.push(FAILED);
                window.after_good(window.push_good());
            },
            |window| {
                window.after_good(window.push_good());
                window.after_good(window.push_good());
            },
        );
        // What it says of itself is compared with its content here.
        assert_eq!(window.counts(), window.recounted());
        assert_eq!(window.is_settled(), window.counts().failures == 0);
    });
}

#[test]
fn loom_a_ring_that_was_emptied_is_not_settled() {
    loom::model(|| {
        let window = Arc::new(CountWindow::ring(2, Tracks::default()));
        window.after_good(window.push_good());
        race(
            &window,
            |window| {
                window.after_good(window.push_good());
            },
            |window| window.clear(),
        );
        assert!(window.counts().calls < 2);
        assert!(!window.is_settled());
    });
}

#[test]
fn loom_a_roll_over_loses_no_call() {
    for first in [FAILED, GOOD] {
        for second in [FAILED, GOOD] {
            loom::model(move || {
                let window = Arc::new(TimeWindow::new(
                    Duration::from_micros(100),
                    1,
                    true,
                    Tracks::default(),
                ));
                window.record(FAILED, Instant::from_nanos(0));
                window.record(GOOD, Instant::from_nanos(0));
                let now = Instant::from_nanos(100_000);
                race(
                    &window,
                    move |window| window.record(first, now),
                    move |window| window.record(second, now),
                );
                let counts = window.counts(now);
                let failures = u64::from(first.failed) + u64::from(second.failed);
                assert_eq!((counts.calls, counts.failures), (2, failures));
            });
        }
    }
}

#[test]
fn loom_a_sweep_of_an_empty_window_loses_no_call() {
    // Two calls come to the first slice for which the tags are swept; the second one may sweep when
    // the first one counts already.
    loom::model(|| {
        let window = Arc::new(TimeWindow::new(
            Duration::from_micros(100),
            1,
            true,
            Tracks::default(),
        ));
        window.record(FAILED, micros(0));
        let now = micros(100 << 22);
        race(
            &window,
            move |window| window.record(GOOD, now),
            move |window| window.record(FAILED, now),
        );
        let counts = window.counts(now);
        assert_eq!((counts.calls, counts.failures), (2, 1));
    });
}

#[test]
fn loom_a_late_call_cannot_reopen_a_slice() {
    loom::model(|| {
        let window = Arc::new(TimeWindow::new(
            Duration::from_micros(100),
            1,
            true,
            Tracks::default(),
        ));
        let now = Instant::from_nanos(100_000);
        race(
            &window,
            |window| window.record(GOOD, Instant::from_nanos(0)),
            move |window| window.record(GOOD, now),
        );
        // The late call counts into the new slice or is gone with the old one.
        let calls = window.counts(now).calls;
        assert!(calls == 1 || calls == 2, "{calls}");
    });
}

/// A window of one slice of 100 µs that began with its first call, and has run empty.
fn empty() -> Arc<TimeWindow> {
    let window = TimeWindow::new(Duration::from_micros(100), 1, false, Tracks::default());
    window.record(FAILED, micros(0));
    Arc::new(window)
}

const fn micros(at: u64) -> Instant {
    Instant::from_nanos(at * 1_000)
}

#[test]
fn loom_a_window_that_has_run_empty_begins_anew_once() {
    // At one time; at two in one slice, as slices lay; in two slices.
    for (first, second) in [(250, 250), (250, 260), (290, 310)] {
        loom::model(move || {
            let window = empty();
            race(
                &window,
                move |window| window.record(GOOD, micros(first)),
                move |window| window.record(FAILED, micros(second)),
            );
            let at = |now| window.counts(micros(now));
            // It began with the one or the other; of the second, the first call is from before it.
            let calls = at(second).calls;
            assert!(calls == 2 || (calls == 1 && first < second), "{calls}");
            assert_eq!(at(second).failures, 1);
            assert_eq!(at(first + 99).failures, 1);
            assert_eq!(at(second + 100).calls, 0);
            // And goes on as one that nobody has raced for.
            window.record(GOOD, micros(1_000));
            assert_eq!(at(1_099).calls, 1);
            assert_eq!(at(1_100).calls, 0);
        });
    }
}
