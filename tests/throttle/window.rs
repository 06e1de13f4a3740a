use std::time::Duration;

use backstop::{ManualClock, Verdict};

use super::{MINUTE, SECOND, builder, counts, fail, probability};

/// In zeromicro/go-zero#5011, hanging calls did not count until they failed.
#[test]
fn hanging_calls_count_before_they_fail() {
    let clock = ManualClock::new();
    let at_once = builder(&clock).grace(Duration::ZERO).build().unwrap();
    let hanging: Vec<_> = (0..10).map(|_| at_once.try_acquire().unwrap()).collect();
    assert_eq!(counts(&at_once), (10, 0, 0, 10));
    assert_eq!(probability(&at_once), 0.9);
    drop(hanging);

    // By default they count once they are older than the grace. Slices are 3 s long.
    let throttle = builder(&clock).build().unwrap();
    let hanging: Vec<_> = (0..100).map(|_| throttle.try_acquire().unwrap()).collect();
    assert_eq!(counts(&throttle), (100, 0, 0, 100));
    assert_eq!(probability(&throttle), 0.0);
    clock.advance(6 * SECOND);
    assert_eq!(probability(&throttle), 0.9);
    for permit in hanging {
        permit.success();
    }
    assert_eq!(counts(&throttle), (100, 100, 0, 0));
    assert_eq!(probability(&throttle), 0.0);

    // With an unlimited grace they count only at their end.
    let at_end = builder(&clock).grace(Duration::MAX).build().unwrap();
    let hanging: Vec<_> = (0..100).map(|_| at_end.try_acquire().unwrap()).collect();
    clock.advance(MINUTE - 4 * SECOND);
    assert_eq!(probability(&at_end), 0.0);
    for permit in hanging {
        permit.failure();
    }
    assert_eq!(probability(&at_end), 0.9);
}

#[test]
fn the_grace_is_at_most_two_slices_longer_than_set() {
    for start in [0, 1, 2_999, 3_000, 4_500] {
        let clock = ManualClock::new();
        clock.advance(Duration::from_millis(start));
        let throttle = builder(&clock).build().unwrap();
        let hanging: Vec<_> = (0..20).map(|_| throttle.try_acquire().unwrap()).collect();
        clock.advance(SECOND);
        assert_eq!(probability(&throttle), 0.0, "{start}");
        clock.advance(6 * SECOND);
        assert_eq!(probability(&throttle), 0.9, "{start}");
        drop(hanging);
    }
}

#[test]
fn a_burst_after_a_pause_is_admitted() {
    let clock = ManualClock::new();
    let throttle = builder(&clock).build().unwrap();
    let burst: Vec<_> = (0..1000).map(|_| throttle.try_acquire().unwrap()).collect();
    clock.advance(SECOND / 2);
    for permit in burst {
        permit.success();
    }
    assert_eq!(throttle.snapshot().rejected, 0);
}

#[test]
fn a_result_counts_in_the_slice_of_its_request() {
    let clock = ManualClock::new();
    let throttle = builder(&clock).build().unwrap();
    let slow = throttle.try_acquire().unwrap();
    clock.advance(57 * SECOND);
    slow.success();
    throttle.record(Verdict::failure());
    assert_eq!(counts(&throttle), (2, 1, 1, 0));
    clock.advance(3 * SECOND);
    assert_eq!(counts(&throttle), (1, 0, 1, 0));

    // A result that arrives after its slice has expired is ignored.
    let slower = throttle.try_acquire().unwrap();
    clock.advance(MINUTE);
    slower.success();
    assert_eq!(counts(&throttle), (0, 0, 0, 0));
}

#[test]
fn a_call_expires_with_its_slice_wherever_in_the_slice_it_came() {
    let slice = MINUTE / 20;
    let nano = Duration::from_nanos(1);
    for into_slice in [Duration::ZERO, nano, slice / 2, slice - nano] {
        let clock = ManualClock::new();
        clock.advance(7 * slice + into_slice);
        let throttle = builder(&clock).build().unwrap();
        fail(&throttle, 1);
        clock.advance(MINUTE - into_slice - nano);
        assert_eq!(counts(&throttle).0, 1, "{into_slice:?}");
        clock.advance(nano);
        assert_eq!(counts(&throttle).0, 0, "{into_slice:?}");
    }
}
