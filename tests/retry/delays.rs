//! Delays: backoff, jitter, and hints of the server.

use std::cell::Cell;
use std::time::Duration;

use backstop::{Backoff, Classify, HintRule, Jitter, ManualClock, Policy, Retry, Verdict};

use super::{doubling, ms, s, total};

#[test]
fn calls_of_one_policy_draw_their_own_jitter() {
    let clock = ManualClock::new();
    let retry = Retry::builder()
        .max_attempts(2)
        .backoff(Backoff::fixed(s(1)))
        .clock(clock.clone())
        .build()
        .unwrap();
    let mut delays: Vec<_> = (0..1000)
        .map(|_| attempts_of!(&clock, &retry.clone())[1])
        .collect();
    delays.sort();
    delays.dedup();
    assert!(delays.len() > 990, "only {} different delays", delays.len());
    assert!(delays[0] < ms(50) && delays[delays.len() - 1] > ms(950));
}

#[test]
fn a_seed_makes_the_delays_reproducible() {
    let run = |seed| {
        let clock = ManualClock::new();
        let retry = Retry::builder()
            .max_attempts(9)
            .seed(seed)
            .clock(clock.clone());
        attempts_of!(&clock, &retry.build().unwrap())
    };
    assert_eq!(run(7), run(7));
    assert_ne!(run(7), run(8));
}

#[test]
fn extreme_settings_neither_panic_nor_hang() {
    let clock = ManualClock::new();
    for backoff in [
        Backoff::exponential(s(1)).factor(1e30).max(Duration::MAX),
        Backoff::fixed(Duration::MAX),
        Backoff::custom(|_| Duration::MAX),
    ] {
        let retry = Retry::builder()
            .max_attempts(u32::MAX)
            .backoff(backoff.jitter(Jitter::None))
            .clock(clock.clone())
            .build()
            .unwrap();
        let stack = (total(&clock, s(5)), retry);
        assert!(attempts_of!(&clock, &stack).len() <= 2);
    }
    let never = Retry::builder().max_attempts(0).clock(clock).build();
    assert_eq!(never.unwrap_err().setting(), "max_attempts");
}

#[test]
fn no_delay_at_all_still_ends_and_lets_others_run() {
    let zero = Retry::builder().backoff(Backoff::exponential(Duration::ZERO));
    assert!(zero.build().is_err());

    let clock = ManualClock::new();
    let retry = Retry::builder()
        .max_attempts(1000)
        .backoff(Backoff::NONE)
        .clock(clock.clone())
        .build()
        .unwrap();
    let attempts = Cell::new(0);
    let seen_by_other = Cell::new(0);
    clock.block_on(async {
        futures::join!(
            retry.call(|| {
                attempts.set(attempts.get() + 1);
                async { Err::<(), _>(()) }
            }),
            async { seen_by_other.set(attempts.get()) },
        )
        .0
        .unwrap_err();
    });
    assert_eq!(attempts.get(), 1000);
    assert_eq!(seen_by_other.get(), 1, "the other part had to wait");
}

#[test]
fn server_hints_follow_the_rule() {
    let table = [
        (HintRule::Within(s(5)), s(3), s(3)),
        (HintRule::Within(s(5)), ms(1), ms(100)),
        (HintRule::Within(s(5)), s(60), ms(5100)),
        (HintRule::UpTo(s(20)), s(60), s(20)),
        (HintRule::UpTo(s(20)), ms(1), ms(1)),
        (HintRule::Ignore, s(60), ms(100)),
    ];
    for (rule, hint, expected) in table {
        let clock = ManualClock::new();
        let stack = (
            doubling(&clock).max_attempts(2).hint(rule).build().unwrap(),
            Classify::errors(move |_: &&str| Verdict::transient().after(hint)),
        );
        assert_eq!(attempts_of!(&clock, &stack)[1], expected, "{rule:?}");
    }
}

#[test]
fn throttled_answers_start_from_a_longer_delay() {
    let clock = ManualClock::new();
    let throttled = Backoff::exponential(s(1)).jitter(Jitter::None);
    let stack = (
        doubling(&clock)
            .throttled_backoff(throttled)
            .build()
            .unwrap(),
        Classify::errors(|_: &&str| Verdict::throttled(None)),
    );
    assert_eq!(attempts_of!(&clock, &stack), [s(0), s(1), s(3)]);
}

#[test]
fn a_delay_of_ones_own_overrules_the_servers_hint() {
    let clock = ManualClock::new();
    let retry = |retry: backstop::retry::RetryBuilder| {
        let busy = Classify::errors(|_: &&str| Verdict::throttled(s(60)));
        (total(&clock, s(10)), retry.build().unwrap(), busy)
    };
    // By itself it gives up, as the server's minute lies beyond the deadline.
    assert_eq!(attempts_of!(&clock, &retry(doubling(&clock))), [s(0)]);
    let own = doubling(&clock).delay_with(|_| s(2));
    assert_eq!(attempts_of!(&clock, &retry(own)), [s(0), s(2), s(4)]);
}
