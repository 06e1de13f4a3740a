//! Model checks of a clock's timeline.

use std::sync::Arc;

use loom::sync::atomic::{AtomicU64, Ordering};
use loom::thread;

use super::timeline::{TOLERANCE, Timeline};
use crate::instant::Instant;

const HOUR: u64 = 3600 * TOLERANCE;

struct Clock {
    reading: AtomicU64,
    timeline: Timeline,
}

impl Clock {
    fn now(&self) -> u64 {
        let read = || Instant::from_nanos(self.reading.load(Ordering::Relaxed));
        self.timeline.now(read).0.as_nanos()
    }
}

#[test]
fn loom_threads_that_see_one_jump_shift_the_time_once() {
    loom::model(|| {
        let clock = Arc::new(Clock {
            reading: AtomicU64::new(HOUR),
            timeline: Timeline::new(),
        });
        assert_eq!(clock.now(), HOUR);
        let reader = {
            let clock = clock.clone();
            thread::spawn(move || assert_eq!(clock.now(), HOUR))
        };
        clock.reading.store(0, Ordering::Relaxed);
        assert_eq!(clock.now(), HOUR);
        reader.join().unwrap();
        assert_eq!(clock.now(), HOUR);
        assert_eq!(clock.timeline.shift(), HOUR);
        clock.reading.store(1, Ordering::Relaxed);
        assert_eq!(clock.now(), HOUR + 1);
    });
}

#[test]
fn loom_a_jump_during_readings_of_a_continuing_clock_earns_nothing() {
    loom::model(|| {
        let clock = Arc::new(Clock {
            reading: AtomicU64::new(HOUR),
            timeline: Timeline::new(),
        });
        assert_eq!(clock.now(), HOUR);
        let reader = {
            let clock = clock.clone();
            thread::spawn(move || {
                let first = clock.now();
                let second = clock.now();
                assert!(first <= second && second <= HOUR + 2);
            })
        };
        clock.reading.store(HOUR + 1, Ordering::Relaxed);
        clock.reading.store(0, Ordering::Relaxed);
        let first = clock.now();
        clock.reading.store(1, Ordering::Relaxed);
        let second = clock.now();
        assert!(first <= second && second <= HOUR + 2);
        reader.join().unwrap();
        assert!(clock.now() <= HOUR + 2);
    });
}
