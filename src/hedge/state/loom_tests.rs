//! Model checks: no latency is lost within a window, and its range covers all of them.

use loom::sync::Arc;
use loom::thread;

use super::histogram::Histogram;
use crate::instant::Instant;

#[test]
fn loom_latencies_that_are_recorded_at_once_are_all_counted() {
    loom::model(|| {
        let histogram = Arc::new(Histogram::new(100));
        let now = Instant::from_nanos(5);
        let other = {
            let histogram = histogram.clone();
            thread::spawn(move || {
                histogram.record(now, 2, false);
                histogram.record(now, 1, true);
            })
        };
        histogram.record(now, 3, false);
        other.join().unwrap();
        assert_eq!(histogram.known(now), 2);
        assert_eq!(histogram.quantile(now, 0.99).0, Some(3));
        assert_eq!(histogram.quantile(now, 0.01).0, Some(2));
    });
}

#[test]
fn loom_one_of_two_threads_begins_a_window() {
    loom::model(|| {
        let histogram = Arc::new(Histogram::new(100));
        histogram.record(Instant::from_nanos(5), 1, false);
        let later = Instant::from_nanos(105);
        let other = {
            let histogram = histogram.clone();
            thread::spawn(move || histogram.record(later, 1, false))
        };
        histogram.record(later, 1, false);
        other.join().unwrap();
        // A sample recorded during the rotation may be lost; the window before it is not.
        assert!((1..=3).contains(&histogram.known(later)));
        assert_eq!(histogram.known(Instant::from_nanos(305)), 0);
    });
}
