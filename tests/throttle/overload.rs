use backstop::throttle::ThrottleBuilder;
use backstop::{ManualClock, Throttle};

use super::{SECOND, builder};

/// Offers calls for a second to a dependency that succeeds `capacity` times a second and fails the rest at
/// once. Returns how many were sent, and how many succeeded.
fn goodput(throttle: &Throttle, clock: &ManualClock, offered: u32, capacity: u32) -> (u32, u32) {
    let (mut sent, mut good) = (0, 0);
    let tick = SECOND / offered;
    for call in 0..offered {
        clock.advance(tick);
        if let Ok(permit) = throttle.try_acquire() {
            sent += 1;
            // Capacity is spread evenly over the second.
            if good * offered <= call * capacity {
                good += 1;
                permit.success();
            } else {
                permit.failure();
            }
        }
    }
    (sent, good)
}

#[test]
fn the_load_on_an_overloaded_dependency_is_as_documented() {
    // 300 a second offered to one that takes 100.
    for (threshold, count_rejected, bound) in [(0.9, false, 195), (0.5, true, 215)] {
        let clock = ManualClock::new();
        let throttle = builder(&clock)
            .success_threshold(threshold)
            .count_rejected(count_rejected)
            .build()
            .unwrap();
        for _ in 0..180 {
            goodput(&throttle, &clock, 300, 100);
        }
        let runs = (0..30).map(|_| goodput(&throttle, &clock, 300, 100));
        let (sent, good) = runs.fold((0, 0), |sum, run| (sum.0 + run.0, sum.1 + run.1));
        assert!(sent / 30 <= bound, "{sent}");
        assert!(good / 30 >= 95, "{good}");
    }
}

#[test]
fn recovery_takes_one_window_unless_rejected_calls_count() {
    let admitted_after = |throttle: ThrottleBuilder, clock: &ManualClock, seconds| {
        let throttle = throttle.build().unwrap();
        for _ in 0..120 {
            goodput(&throttle, clock, 100, 0);
        }
        for _ in 0..seconds {
            goodput(&throttle, clock, 100, 100);
        }
        goodput(&throttle, clock, 100, 100).0
    };
    let clock = ManualClock::new();
    assert_eq!(admitted_after(builder(&clock), &clock, 61), 100);
    let book = || builder(&clock).count_rejected(true);
    // The documented drawback of `count_rejected`.
    assert!(admitted_after(book(), &clock, 180) < 50);
    assert!(admitted_after(book().success_threshold(0.5), &clock, 300) > 95);
}
