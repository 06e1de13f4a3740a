//! Tests of the share to shed and of the threshold.

use super::*;

#[test]
fn a_threshold_sheds_the_given_share_and_the_lowest_priorities_first() {
    let mut levels = Levels::new();
    for call in 0..5000 {
        levels.add(if call % 4 == 0 {
            Priority::HIGH
        } else {
            Priority::LOW
        });
    }
    for rate in [0.0, 0.1, 0.5, 0.74, 0.76, 0.9, 1.0] {
        let threshold = levels.threshold(rate);
        let shed = |priority| {
            (0..1000)
                .filter(|i| threshold.sheds(priority, f64::from(*i) / 1e3))
                .count()
        };
        let (low, high) = (
            shed(Priority::LOW) as f64 / 1e3,
            shed(Priority::HIGH) as f64 / 1e3,
        );
        assert!(
            (0.75 * low + 0.25 * high - rate).abs() < 0.01,
            "{rate}: {low} {high}"
        );
        assert!(high == 0.0 || low == 1.0, "{rate}: {low} {high}");
        assert_eq!(Threshold::from_bits(threshold.to_bits()), threshold);
    }
    assert_eq!(
        Levels::new().threshold(0.5),
        Threshold::default(),
        "no calls are known"
    );
    let none = levels.threshold(0.0);
    assert!(
        !none.sheds(Priority::LOWEST, 0.0),
        "even at a level without calls"
    );
}

#[test]
fn too_few_calls_make_no_threshold() {
    let mut levels = Levels::new();
    for calls in 1..=200 {
        levels.add(Priority::NORMAL);
        let threshold = levels.threshold(0.05);
        assert_eq!(threshold == Threshold::default(), calls < 100, "{calls}");
    }
}

#[test]
fn any_hundred_consecutive_calls_have_at_most_the_maximum_shed() {
    for (max, most) in [
        (0.9, 90),
        (0.29, 29),
        (0.5, 50),
        (1.0, 100),
        (0.01, 1),
        (1e-9, 0),
    ] {
        let mut cap = ShedCap::new(max);
        // After calm calls, all are below the threshold, then half of them, then all.
        let calls = (0..1500).map(|call| {
            let below = (500..700).contains(&call) || call % 2 == 0 || call > 1000;
            cap.sheds(below && call >= 500)
        });
        let shed: Vec<bool> = calls.collect();
        let worst = shed
            .windows(100)
            .map(|calls| calls.iter().filter(|shed| **shed).count());
        assert_eq!(worst.max(), Some(most), "{max}");
    }
}

#[test]
fn a_maximum_of_less_than_one_in_a_hundred_holds() {
    for (max, calls, most) in [
        (0.001, 10_000, 10),
        (0.0049, 10_000, 48),
        (1e-9, 10_000, 0),
        (f64::MIN_POSITIVE, 10_000, 0),
    ] {
        let mut cap = ShedCap::new(max);
        let shed = (0..calls).filter(|_| cap.sheds(true)).count();
        assert_eq!(shed, most, "{max}");
    }
}

#[test]
fn the_share_rises_fast_holds_for_the_cool_off_and_falls_slowly() {
    let at = |ms| Instant::ORIGIN + Duration::from_millis(ms);
    let mut pressure = Pressure::new(0.12, Duration::from_millis(1000));
    for (now, overloaded, rate) in [
        (0, true, 0.05),
        (100, true, 0.10),
        (200, true, 0.12),
        (300, false, 0.12),
        (1199, false, 0.12),
        (1200, false, 0.11),
        (1300, false, 0.10),
    ] {
        pressure.update(overloaded, WINDOW, WINDOW, at(now));
        assert!(
            (pressure.rate() - rate).abs() < 1e-9,
            "{now}: {}",
            pressure.rate()
        );
    }
    for now in 0..100 {
        pressure.update(false, WINDOW, WINDOW, at(2000 + now));
    }
    assert_eq!(pressure.rate(), 0.0);
}

#[test]
fn windows_without_calls_count_as_calm() {
    let at = |ms| Instant::ORIGIN + Duration::from_millis(ms);
    for (pause, rate) in [(900, 0.5), (1_000, 0.49), (1_550, 0.45), (6_000, 0.0)] {
        let mut pressure = Pressure::new(0.5, Duration::from_millis(1000));
        for window in 0..20 {
            pressure.update(true, WINDOW, WINDOW, at(100 * window));
        }
        let now = 1900 + pause;
        pressure.update(false, WINDOW, Duration::from_millis(pause), at(now));
        assert!(
            (pressure.rate() - rate).abs() < 1e-9,
            "{pause}: {}",
            pressure.rate()
        );
    }
}

const WINDOW: Duration = Duration::from_millis(100);

/// A queue in front of a server whose capacity equals a load of 1.
struct Queue {
    delay: f64,
    now: Instant,
    pressure: Pressure,
}

impl Queue {
    fn new(cool_off: Duration) -> Self {
        Self {
            delay: 0.0,
            now: Instant::ORIGIN,
            pressure: Pressure::new(0.9, cool_off),
        }
    }

    /// Advances by a window. The smallest delay is at one of its ends.
    fn pass(&mut self, load: f64) -> f64 {
        let before = self.delay;
        let admitted = load * (1.0 - self.pressure.rate());
        self.delay = (before + (admitted - 1.0) * 0.1).clamp(0.0, 0.3);
        self.now += WINDOW;
        let report = QueueReport {
            delay: Duration::from_secs_f64(before.min(self.delay)),
            target: Duration::from_millis(5),
            overloaded: before.min(self.delay) > 0.005,
        };
        self.pressure.follow(report, WINDOW, WINDOW, self.now);
        self.pressure.rate()
    }
}

#[test]
fn the_share_settles_where_the_admitted_load_fits_the_capacity() {
    for load in [1.2_f64, 2.0, 3.0, 6.0] {
        let mut queue = Queue::new(Duration::from_secs(1));
        let rates: Vec<f64> = (0..200).map(|_| queue.pass(load)).collect();
        let fits = 1.0 - 1.0 / load;
        for rate in &rates[50..] {
            assert!((rate - fits).abs() < 0.05, "{load}: {rate}");
        }
        assert!(queue.delay < 0.05, "{load}: waits {}", queue.delay);
        // The share is near its final value after 15 windows.
        assert!(rates[15] > 0.8 * fits, "{load}: {}", rates[15]);
    }
}

#[test]
fn the_share_is_zero_three_cool_offs_after_the_load_has_ended() {
    for cool_off in [0, 1, 2] {
        let mut queue = Queue::new(Duration::from_secs(cool_off));
        for _ in 0..100 {
            queue.pass(3.0);
        }
        assert!(queue.pressure.rate() > 0.6);
        // Three cool-offs, of ten windows a second.
        for _ in 0..30 * cool_off.max(1) {
            queue.pass(0.5);
        }
        assert_eq!(queue.pressure.rate(), 0.0, "cool-off {cool_off}");
    }
}

#[test]
fn without_a_standing_queue_no_call_is_shed() {
    let mut pressure = Pressure::new(0.9, Duration::ZERO);
    let mut now = Instant::ORIGIN;
    for delay in [0, 500, 100, 0, 900, 0, 30] {
        now += WINDOW;
        let report = QueueReport {
            delay: Duration::from_millis(delay),
            target: Duration::from_millis(5),
            overloaded: false,
        };
        pressure.follow(report, WINDOW, WINDOW, now);
        assert_eq!(pressure.rate(), 0.0);
    }
}

#[test]
fn extreme_reports_saturate() {
    let extremes = [
        Duration::ZERO,
        Duration::from_nanos(1),
        WINDOW,
        Duration::MAX,
    ];
    for cool_off in extremes {
        let mut pressure = Pressure::new(1.0, cool_off);
        for delay in extremes {
            for target in extremes {
                for elapsed in extremes {
                    for window in &extremes[1..] {
                        let report = QueueReport {
                            delay,
                            target,
                            overloaded: true,
                        };
                        pressure.follow(report, *window, elapsed, Instant::FAR_FUTURE);
                        assert!((0.0..=1.0).contains(&pressure.rate()));
                    }
                }
            }
        }
    }
}

#[test]
fn shares_are_weighted_by_calls_per_second_until_they_expire() {
    let second = Duration::from_secs(1);
    let share = |calls, rate| Share {
        calls,
        over: second,
        rate,
        at: Instant::ORIGIN + 10 * second,
        good_for: 2 * second,
    };
    let now = Instant::ORIGIN + 12 * second;
    let is = |shares: &[Share], now, expected: f64| {
        let combined = combine(shares.iter().copied(), now);
        assert!((combined - expected).abs() < 1e-9, "{combined}");
    };
    is(&[], now, 0.0);
    is(&[share(100, 0.2), share(100, 0.4)], now, 0.3);
    is(&[share(100, 0.3), share(0, 0.8)], now, 0.3);
    // Ten times as many calls in ten times the time.
    let over = 10 * second;
    let seldom = Share {
        over,
        ..share(1000, 0.8)
    };
    is(&[share(100, 0.2), seldom], now, 0.5);
    let at = now;
    let newer = Share {
        at,
        ..share(100, 0.6)
    };
    is(&[share(100, 0.2), newer], now, 0.4);
    is(
        &[share(100, 0.2), newer],
        now + Duration::from_nanos(1),
        0.6,
    );
}

#[test]
fn the_distribution_covers_the_last_thousand_calls() {
    let mut levels = Levels::new();
    levels.add(Priority::LOWEST);
    (0..CALLS).for_each(|_| levels.add(Priority::NORMAL));
    assert_eq!(levels.recent.len(), CALLS);
    assert_eq!(levels.counts.iter().sum::<u32>(), CALLS as u32);
    assert_eq!(levels.counts[usize::from(Priority::LOWEST.as_u16())], 0);
}

#[test]
fn a_delay_of_up_to_half_the_target_is_not_an_overload() {
    for (millis, is_overload) in [(4, false), (5, false), (6, true)] {
        let mut pressure = Pressure::new(0.9, Duration::from_secs(1));
        let window = Duration::from_millis(100);
        let report = QueueReport {
            delay: Duration::from_millis(millis),
            target: Duration::from_millis(10),
            overloaded: false,
        };
        pressure.follow(report, window, window, Instant::ORIGIN);
        assert_eq!(pressure.overloaded_at.is_some(), is_overload, "{millis} ms");
    }
}
