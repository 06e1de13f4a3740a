use loom::sync::Arc;
use loom::thread;

use super::*;
use crate::clock::Instant;

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
