use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use backstop::{Clock, Instant, Sleep, Throttle};

use super::{MINUTE, counts, fail, rejections};

/// A clock that can go backwards.
#[derive(Debug, Default)]
struct Skewed {
    nanos: AtomicU64,
}

impl Clock for Skewed {
    fn now(&self) -> Instant {
        Instant::from_nanos(self.nanos.load(Ordering::Relaxed))
    }

    fn sleep_until(&self, _: Instant) -> Sleep {
        Sleep::never()
    }
}

#[test]
fn a_backward_jump_of_the_clock_neither_freezes_nor_clears_the_window() {
    const HOUR: u64 = 3_600_000_000_000;
    let clock = Arc::new(Skewed::default());
    clock.nanos.store(10 * HOUR, Ordering::Relaxed);
    let throttle = Throttle::builder()
        .seed(1)
        .max_rejection(1.0)
        .clock(clock.clone())
        .build()
        .unwrap();
    for back in [9 * HOUR, 8 * HOUR, 0] {
        fail(&throttle, 100_000);
        clock.nanos.store(back, Ordering::Relaxed);
        let admitted = 1000 - rejections(&throttle, 1000);
        assert!((1..10).contains(&admitted), "{back}: {admitted}");
        let later = back + MINUTE.as_nanos() as u64 * 2;
        clock.nanos.store(later, Ordering::Relaxed);
        assert_eq!(counts(&throttle), (0, 0, 0, 0), "{back}");
    }
}
