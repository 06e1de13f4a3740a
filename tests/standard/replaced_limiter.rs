//! What a limiter remembers beyond the one that replaces it.

use backstop::adaptive_rate::CubicRate;

use super::*;

/// Replaces the limiter of `settings` by one that differs in a setting that cannot change in place.
fn replaced(
    clock: &ManualClock,
    quotas: &[Quota],
    use_it: impl FnOnce(&RateLimiter),
) -> [Vec<i64>; 2] {
    let settings = || {
        quotas
            .iter()
            .fold(RateLimiter::builder(), |limiter, quota| {
                limiter.quota(*quota)
            })
    };
    let standard = standard(clock).limiter(settings()).build().unwrap();
    let available = || standard.snapshot().limiter.unwrap().available;
    use_it(&standard.limiter().unwrap());
    let before = available();
    let config = standard.config().limiter(settings().pause_on_hint(s(1)));
    standard.reconfigure(config).unwrap();
    [before, available()]
}

#[test]
fn a_debt_continues_in_a_new_limiter() {
    let quotas = [
        Quota::per_second(10),
        Quota::per_second(10).fixed_window(),
        Quota::per_second(10).fixed_window_from_first(),
        Quota::per_second(10).sliding_log(),
        Quota::per_second(10).sliding_counter(),
    ];
    for quota in quotas {
        let clock = ManualClock::new();
        let [before, after] = replaced(&clock, &[quota], |limiter| {
            limiter.reserve(10).unwrap().commit(20);
        });
        assert_eq!(before, after, "{quota}");
        assert!(after[0] < 0, "{quota}");
    }
}

#[test]
fn each_of_several_quotas_keeps_the_tokens_that_it_has_left() {
    let clock = ManualClock::new();
    let quotas = [Quota::per_second(10), Quota::per_minute(20).fixed_window()];
    let [before, after] = replaced(&clock, &quotas, |limiter| {
        limiter.try_acquire_n(10).unwrap();
        clock.advance(s(1));
        limiter.try_acquire_n(9).unwrap();
    });
    assert_eq!(before, [1, 1]);
    assert_eq!(after, [1, 1]);
}

#[test]
fn a_striped_limiter_keeps_the_tokens_that_it_has_left() {
    let clock = ManualClock::new();
    let striped = |debt| {
        let limiter = RateLimiter::builder()
            .quota(Quota::per_second(30))
            .stripes(4);
        limiter.max_debt(debt)
    };
    let standard = standard(&clock).limiter(striped(30)).build().unwrap();
    let available = || standard.snapshot().limiter.unwrap().available;
    for (tokens, left) in [(23, [7]), (20, [-13])] {
        let limiter = standard.limiter().unwrap();
        limiter.reserve(tokens).unwrap().commit(tokens);
        assert_eq!(available(), left);
        let config = standard.config().limiter(striped(30 + tokens));
        standard.reconfigure(config).unwrap();
        assert_eq!(available(), left);
    }
}

#[test]
fn an_adaptive_rate_continues_in_a_new_limiter() {
    let clock = ManualClock::new();
    let adaptive = |rate| RateLimiter::builder().adaptive(rate);
    let standard = standard(&clock)
        .limiter(adaptive(CubicRate::builder()))
        .build()
        .unwrap();
    let first = standard.limiter().unwrap();
    for _ in 0..40 {
        clock.advance(ms(50));
        first.try_acquire().unwrap();
        first.record(&Verdict::success());
    }
    first.record(&Verdict::throttled(None));
    let found = first.snapshot();
    assert_eq!(found.remaining, 13);
    let others = [
        adaptive(CubicRate::builder()).pause_on_hint(s(1)),
        adaptive(CubicRate::builder().min_rate(0.4)),
        adaptive(CubicRate::builder().window(s(1))),
    ];
    for other in others {
        standard
            .reconfigure(standard.config().limiter(other))
            .unwrap();
        let now = standard.snapshot().limiter.unwrap();
        assert_eq!(
            (now.quotas, now.available),
            (found.quotas.clone(), vec![13])
        );
        // It still learns.
        let limiter = standard.limiter().unwrap();
        limiter.record(&Verdict::success());
        assert!(limiter.snapshot().remaining <= 13);
    }
}
