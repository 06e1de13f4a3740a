use super::*;
use proptest::prelude::*;

const fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

fn first(backoff: &Backoff, count: u32) -> Vec<u128> {
    (1..=count).map(|n| backoff.delay(n).as_millis()).collect()
}

#[test]
fn an_exponential_backoff_begins_at_its_initial_delay_and_doubles() {
    assert_eq!(
        first(&Backoff::exponential(ms(100)), 4),
        [100, 200, 400, 800]
    );
}

#[test]
fn shapes() {
    assert_eq!(first(&Backoff::fixed(ms(7)), 3), [7, 7, 7]);
    assert_eq!(first(&Backoff::linear(ms(10), ms(5)), 3), [10, 15, 20]);
    assert_eq!(
        first(&Backoff::exponential(ms(10)).factor(1.5), 3),
        [10, 15, 22]
    );
    assert_eq!(
        first(&Backoff::fibonacci(ms(1)), 8),
        [1, 1, 2, 3, 5, 8, 13, 21]
    );
    assert_eq!(
        first(&Backoff::custom(|n| ms(u64::from(n * n))), 3),
        [1, 4, 9]
    );
    assert_eq!(first(&Backoff::NONE, 2), [0, 0]);
}

#[test]
fn the_default_cap_never_cuts_the_first_delay() {
    assert_eq!(Backoff::exponential(ms(1)).delay(99), ms(20_000));
    for backoff in [
        Backoff::fixed(ms(300_000)),
        Backoff::exponential(ms(300_000)),
        Backoff::custom(|_| ms(300_000)),
    ] {
        assert_eq!(backoff.delay(1), ms(300_000));
    }
}

#[test]
fn delays_saturate_at_the_cap() {
    let shapes = [
        Backoff::exponential(ms(1)).factor(1e30),
        Backoff::exponential(Duration::MAX),
        Backoff::linear(Duration::MAX, Duration::MAX),
        Backoff::fibonacci(Duration::MAX),
        Backoff::custom(|_| Duration::MAX),
    ];
    let jitters = [
        Jitter::None,
        Jitter::Full,
        Jitter::Equal,
        Jitter::PlusMinus(1.0),
        Jitter::Decorrelated,
        Jitter::DecorrelatedV2,
    ];
    for shape in shapes {
        for max in [ms(1), Duration::MAX] {
            let backoff = shape.clone().max(max);
            for n in [1, 2, 1000, u32::MAX] {
                assert!(backoff.delay(n) <= max);
            }
            assert_eq!(backoff.delay(u32::MAX), max, "{backoff:?}");
            for jitter in jitters {
                let backoff = backoff.clone().jitter(jitter);
                assert!(backoff.delays(1).take(2000).all(|delay| delay <= max));
                let mut late = Progress {
                    given: u32::MAX - 1,
                    memory: f64::MAX,
                };
                assert!(late.next(&backoff, || 0.999) <= max);
                assert!(late.next(&backoff, || 0.999) <= max);
            }
        }
    }
}

#[test]
fn no_jittered_delay_exceeds_the_cap() {
    for jitter in [Jitter::Full, Jitter::Equal, Jitter::PlusMinus(1.0)] {
        let backoff = Backoff::fixed(ms(10_000)).max(ms(10_000)).jitter(jitter);
        assert!(backoff.delays(3).take(10_000).all(|d| d <= ms(10_000)));
    }
    for jitter in [Jitter::Decorrelated, Jitter::DecorrelatedV2] {
        let backoff = Backoff::exponential(ms(10)).max(ms(10_000)).jitter(jitter);
        assert!(backoff.delays(3).take(10_000).all(|d| d <= ms(10_000)));
    }
}

#[test]
fn whole_seconds_are_spread_like_any_other_delay() {
    let backoff = Backoff::fixed(ms(1000)).jitter(Jitter::PlusMinus(0.99));
    let delays: Vec<_> = backoff.delays(5).take(1000).collect();
    assert!(delays.iter().any(|delay| *delay < ms(200)));
    assert!(delays.iter().any(|delay| *delay > ms(1800)));
}

#[test]
fn settings_without_meaning_are_rejected() {
    let table = [
        Backoff::fixed(Duration::ZERO),
        Backoff::linear(Duration::ZERO, ms(1)),
        Backoff::exponential(Duration::ZERO),
        Backoff::fibonacci(Duration::ZERO),
        Backoff::exponential(ms(1)).factor(f64::NAN),
        Backoff::exponential(ms(1)).factor(f64::INFINITY),
        Backoff::exponential(ms(1)).factor(0.5),
        Backoff::exponential(ms(1)).factor(-2.0),
        Backoff::fixed(ms(1)).factor(2.0),
        Backoff::fixed(ms(1)).max(Duration::ZERO),
        Backoff::fixed(ms(1)).jitter(Jitter::PlusMinus(f64::NAN)),
        Backoff::fixed(ms(1)).jitter(Jitter::PlusMinus(-0.0001)),
        Backoff::fixed(ms(1)).jitter(Jitter::PlusMinus(1.0001)),
        Backoff::fixed(ms(1)).jitter(Jitter::Decorrelated),
        Backoff::fixed(ms(1)).jitter(Jitter::DecorrelatedV2),
    ];
    for backoff in table {
        assert!(backoff.check("retry", "backoff").is_err(), "{backoff:?}");
    }
    for backoff in [
        Backoff::NONE,
        Backoff::NONE.max(Duration::ZERO),
        Backoff::linear(ms(1), Duration::ZERO),
        Backoff::exponential(ms(1)).factor(1.0),
        Backoff::exponential(Duration::MAX).max(Duration::MAX),
        Backoff::fixed(ms(1)).jitter(Jitter::PlusMinus(0.0)),
    ] {
        assert!(backoff.check("retry", "backoff").is_ok(), "{backoff:?}");
    }
}

#[test]
fn decorrelated_jitter_comes_down_again_from_the_cap() {
    // The remembered delay is the one after the cap.
    let backoff = Backoff::exponential(ms(10)).max(ms(1000));
    let backoff = backoff.jitter(Jitter::Decorrelated);
    let below = backoff
        .delays(3)
        .skip(100)
        .take(1000)
        .filter(|delay| *delay < ms(1000));
    assert!(below.count() > 250);
}

#[test]
fn a_backoff_continues_after_a_number_of_delays() {
    for jitter in [Jitter::Decorrelated, Jitter::DecorrelatedV2] {
        let backoff = Backoff::exponential(ms(10)).jitter(jitter);
        for given in [0, 1, 5, 40] {
            let rng = SharedRng::new(Some(7));
            let mut progress = Progress::after(&backoff, given, || rng.unit());
            let next = progress.next(&backoff, || rng.unit());
            assert_eq!(Some(next), backoff.delays(7).nth(given as usize));
        }
    }
}

/// The bounds of each jitter, as documented.
fn bounds(jitter: Jitter, delay: Duration) -> (Duration, Duration) {
    match jitter {
        Jitter::None => (delay, delay),
        Jitter::Full => (Duration::ZERO, delay),
        Jitter::Equal => (delay / 2, delay),
        Jitter::PlusMinus(f) => (delay.mul_f64(1.0 - f), delay.mul_f64(1.0 + f)),
        _ => unreachable!("has no bounds of one delay"),
    }
}

proptest! {
    #[test]
    fn a_jittered_delay_is_where_its_jitter_promises(
        initial in 1_u64..10_000,
        factor in 1.0_f64..4.0,
        max in 1_u64..60_000,
        fraction in 0.0_f64..=1.0,
        seed: u64,
    ) {
        let plain = Backoff::exponential(ms(initial)).factor(factor).max(ms(max));
        for jitter in [Jitter::None, Jitter::Full, Jitter::Equal, Jitter::PlusMinus(fraction)] {
            let backoff = plain.clone().jitter(jitter);
            for (n, delay) in (1..).zip(backoff.delays(seed).take(40)) {
                // The model: plain arithmetic on numbers that cannot overflow here.
                let model = (initial as f64 * factor.powi(n - 1)).min(max as f64) / 1e3;
                let (low, high) = bounds(jitter, Duration::from_secs_f64(model));
                let slack = Duration::from_micros(1);
                prop_assert!(delay + slack >= low, "{delay:?} < {low:?}");
                prop_assert!(delay <= (high + slack).min(ms(max)), "{delay:?} > {high:?}");
            }
        }
    }

    #[test]
    fn decorrelated_jitter_stays_between_the_first_delay_and_three_times_the_last(
        initial in 1_u64..10_000,
        max in 1_u64..60_000,
        seed: u64,
    ) {
        let backoff = Backoff::exponential(ms(initial)).max(ms(max)).jitter(Jitter::Decorrelated);
        let mut last = ms(initial);
        for delay in backoff.delays(seed).take(40) {
            prop_assert!(delay >= ms(initial).min(ms(max)));
            prop_assert!(delay <= (last * 3).max(ms(initial)).min(ms(max)));
            last = delay;
        }
    }

    #[test]
    fn equal_seeds_give_equal_delays(seed: u64) {
        let backoff = Backoff::exponential(ms(10)).jitter(Jitter::DecorrelatedV2);
        let run = || backoff.delays(seed).take(20).collect::<Vec<_>>();
        prop_assert_eq!(run(), run());
    }
}

#[test]
fn fibonacci_numbers_are_exact_up_to_the_largest_u64() {
    let numbers = [0, 1, 2, 3, 10, 46, 47, 48, u32::MAX].map(fibonacci);
    let exact = [0, 1, 1, 2, 55, 1_836_311_903, 2_971_215_073];
    assert_eq!(numbers[..7], exact);
    assert_eq!(numbers[7..], [u32::MAX; 2]);
}
