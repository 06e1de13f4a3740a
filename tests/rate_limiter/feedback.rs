//! Limiters that learn from results: pauses that servers ask for, and adaptive rates.

use backstop::adaptive_rate::CubicRate;
use backstop::{
    Backoff, CircuitBreaker, ClassifyErrors, Health, Jitter, Keyed, Policy, Reason, Retry, Verdict,
};

use super::*;

/// Busy, with the seconds after which to come back.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Busy(Option<u64>);

fn classify() -> ClassifyErrors<fn(&Busy) -> Verdict> {
    backstop::Classify::errors(|busy: &Busy| Verdict::throttled(busy.0.map(Duration::from_secs)))
}

/// One call that ends like this. Whether it was rejected by the limiter.
fn call(clock: &ManualClock, stack: &impl Callable, result: Result<(), Busy>) -> Option<Duration> {
    stack.run(clock, result)
}

trait Callable {
    fn run(&self, clock: &ManualClock, result: Result<(), Busy>) -> Option<Duration>;
}

impl Callable for (RateLimiter, ClassifyErrors<fn(&Busy) -> Verdict>) {
    fn run(&self, clock: &ManualClock, result: Result<(), Busy>) -> Option<Duration> {
        match clock.block_on(self.call(|| async { result })) {
            Err(error) if error.is_rejected() => Some(error.retry_after().unwrap()),
            _ => None,
        }
    }
}

#[test]
fn a_hint_for_one_caller_pauses_all_callers() {
    let clock = ManualClock::new();
    let limiter = builder(&clock, Quota::per_second(100))
        .pause_on_hint(60 * SECOND)
        .build()
        .unwrap();
    let stack = (limiter.clone(), classify());
    // Neither a throttled answer without a hint nor a good one pauses anything.
    assert_eq!(call(&clock, &stack, Err(Busy(None))), None);
    assert_eq!(call(&clock, &stack, Ok(())), None);
    assert_eq!(limiter.snapshot().paused_for, Duration::ZERO);

    assert_eq!(call(&clock, &stack, Err(Busy(Some(30)))), None);
    assert_eq!(call(&clock, &stack, Ok(())), Some(30 * SECOND));
    assert_eq!(
        limiter.try_acquire().unwrap_err().reason(),
        Reason::RateLimited
    );
    clock.advance(30 * SECOND);
    assert_eq!(call(&clock, &stack, Ok(())), None);

    // A server cannot stop all callers for a day.
    assert_eq!(call(&clock, &stack, Err(Busy(Some(86_400)))), None);
    assert_eq!(call(&clock, &stack, Ok(())), Some(60 * SECOND));
}

#[test]
fn without_the_option_a_hint_pauses_nothing() {
    let clock = ManualClock::new();
    let stack = (limiter(&clock, Quota::per_second(100)), classify());
    assert_eq!(call(&clock, &stack, Err(Busy(Some(30)))), None);
    assert_eq!(call(&clock, &stack, Ok(())), None);
    stack.0.record(&Verdict::throttled(Some(SECOND)));
    assert!(stack.0.try_acquire().is_ok());
}

#[test]
fn a_call_that_waited_for_its_turn_pauses_too() {
    let clock = ManualClock::new();
    let limiter = builder(&clock, Quota::per_second(1))
        .max_wait(10 * SECOND)
        .pause_on_hint(60 * SECOND)
        .build()
        .unwrap();
    limiter.try_acquire().unwrap();
    let stack = (limiter.clone(), classify());
    assert_eq!(call(&clock, &stack, Err(Busy(Some(40)))), None);
    assert_eq!(limiter.snapshot().paused_for, 40 * SECOND);
}

#[test]
fn a_rejection_by_a_layer_inside_pauses_nothing() {
    let clock = ManualClock::new();
    let limiter = builder(&clock, Quota::per_second(100))
        .pause_on_hint(60 * SECOND)
        .build()
        .unwrap();
    let breaker = CircuitBreaker::builder()
        .clock(clock.clone())
        .build()
        .unwrap();
    breaker.trip();
    let stack = (limiter.clone(), breaker);
    let error = clock
        .block_on(stack.call(|| async { Ok::<_, ()>(()) }))
        .unwrap_err();
    assert!(error.retry_after().is_some());
    assert_eq!(limiter.snapshot().paused_for, Duration::ZERO);
}

#[test]
fn a_retry_after_for_one_caller_holds_the_others_of_that_host_only() {
    let clock = ManualClock::new();
    let for_hosts = clock.clone();
    let hosts = Keyed::new(move |_: &String| {
        let limiter = builder(&for_hosts, Quota::per_second(100)).max_wait(Duration::MAX);
        limiter.pause_on_hint(60 * SECOND).build().unwrap()
    });
    let retry = Retry::builder()
        .throttled_backoff(Backoff::fixed(SECOND).jitter(Jitter::None))
        .clock(clock.clone())
        .build()
        .unwrap();
    let get = |host: &'static str, answers: Vec<Result<(), Busy>>| {
        let (clock, retry, limiter) = (clock.clone(), retry.clone(), hosts.get(host));
        async move {
            let answers = std::sync::Mutex::new(answers.into_iter());
            let result = (retry, &limiter, classify())
                .call(|| async { answers.lock().unwrap().next().unwrap() })
                .await;
            (result, clock.now())
        }
    };
    let start = clock.now();
    let first = get("a.example", vec![Err(Busy(Some(20))), Ok(())]);
    let (a, second, elsewhere) = clock.block_on(async {
        let second = async {
            clock.sleep(SECOND).await;
            get("a.example", vec![Ok(())]).await
        };
        let elsewhere = async {
            clock.sleep(SECOND).await;
            get("b.example", vec![Ok(())]).await
        };
        futures::join!(first, second, elsewhere)
    });
    // The one with the hint comes back after that and its jitter, which the backoff here has not.
    assert_eq!(a, (Ok(()), start + 20 * SECOND));
    assert_eq!(second, (Ok(()), start + 20 * SECOND));
    assert_eq!(elsewhere, (Ok(()), start + SECOND));
}

/// Calls at `rate` a second for `seconds`, of which the dependency throttles all above `limit`. How many
/// were sent, and how many of these throttled.
fn load(
    clock: &ManualClock,
    limiter: &RateLimiter,
    rate: u32,
    seconds: u32,
    limit: u32,
) -> (u32, u32) {
    let stack = (limiter.clone(), classify());
    let (mut sent, mut throttled) = (0, 0);
    for _ in 0..seconds {
        let mut in_second = 0;
        for _ in 0..rate {
            clock.advance(SECOND / rate);
            let answer = if in_second < limit {
                Ok(())
            } else {
                Err(Busy(None))
            };
            if call(clock, &stack, answer).is_none() {
                in_second += 1;
                sent += 1;
                throttled += u32::from(answer.is_err());
            }
        }
    }
    (sent, throttled)
}

fn adaptive(clock: &ManualClock) -> RateLimiterBuilder {
    let limiter = RateLimiter::builder().clock(clock.clone());
    limiter.adaptive(CubicRate::builder())
}

#[test]
fn an_adaptive_limiter_limits_nothing_until_a_call_is_throttled_and_then_finds_the_rate() {
    let clock = ManualClock::new();
    let limiter = adaptive(&clock).build().unwrap();
    assert_eq!(load(&clock, &limiter, 200, 10, 1000), (2000, 0));
    // Four times what the dependency takes: without the limiter 9000 of 12 000 would be throttled.
    let (sent, throttled) = load(&clock, &limiter, 200, 60, 50);
    assert!(
        (1200..3300).contains(&sent),
        "{sent} sent, {throttled} throttled"
    );
    assert!(throttled * 5 < sent, "{sent} sent, {throttled} throttled");
    let quota = limiter.snapshot().quotas[0];
    let rate = quota.tokens() as f64 / quota.period().as_secs_f64();
    assert!(rate < 150.0, "{rate} a second");
}

#[test]
fn an_adaptive_limiter_never_exceeds_its_quota() {
    let clock = ManualClock::new();
    let limiter = adaptive(&clock)
        .quota(Quota::per_second(20))
        .build()
        .unwrap();
    let (sent, _) = load(&clock, &limiter, 200, 10, 1000);
    assert_eq!(sent, 20 + 10 * 20 - 1);
    // One throttled answer, and then an hour that goes well: back at the quota, and no higher.
    load(&clock, &limiter, 20, 1, 0);
    assert_ne!(limiter.snapshot().quotas, [Quota::per_second(20)]);
    let (sent, _) = load(&clock, &limiter, 30, 100, 1000);
    assert!(sent > 1000, "{sent}");
    assert_eq!(limiter.snapshot().quotas, [Quota::per_second(20)]);
}

#[test]
fn results_of_calls_admitted_manually_count_when_they_are_recorded() {
    let clock = ManualClock::new();
    let limiter = adaptive(&clock).build().unwrap();
    for _ in 0..100 {
        clock.advance(ms(50));
        limiter.try_acquire().unwrap();
        limiter.record(&Verdict::success());
    }
    limiter.record(&Verdict::ignore());
    assert_eq!(
        limiter.snapshot().quotas,
        [Quota::per_second(1_000_000_000)]
    );
    limiter.record(&Verdict::throttled(None));
    // 0.7 of 20 a second, and a second's worth at once.
    assert_eq!(limiter.snapshot().remaining, 13);
    assert_eq!(drain(&limiter), 13);
}

#[test]
fn settings_that_contradict_adaptive_are_errors() {
    let clock = ManualClock::new();
    let quota = Quota::per_second(10);
    for (builder, setting) in [
        (adaptive(&clock).quota(quota).quota(quota), "adaptive"),
        (adaptive(&clock).quota(quota.sliding_log()), "adaptive"),
        (adaptive(&clock).quota(quota).stripes(2), "adaptive"),
        (
            adaptive(&clock).adaptive(CubicRate::builder().decrease_factor(2.0)),
            "decrease_factor",
        ),
        (
            builder(&clock, quota).pause_on_hint(Duration::ZERO),
            "pause_on_hint",
        ),
        (RateLimiter::builder().clock(clock.clone()), "quota"),
    ] {
        assert_eq!(builder.build().unwrap_err().setting(), setting);
    }
    let limiter = adaptive(&clock).build().unwrap();
    let changed = limiter.set_quota(quota, backstop::rate_limiter::Inherit::AsIs);
    assert!(changed.unwrap_err().to_string().contains("adaptive"));
}

#[test]
fn threads_that_learn_at_once_leave_the_newest_rate_in_force() {
    let clock = ManualClock::new();
    let limiter = adaptive(&clock).build().unwrap();
    for _ in 0..40 {
        clock.advance(ms(50));
        limiter.record(&Verdict::success());
    }
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..500 {
                    limiter.record(&Verdict::throttled(None));
                    limiter.record(&Verdict::success());
                }
            });
        }
    });
    // Each throttled answer takes three tenths, down to the smallest rate of 0.5 a second.
    limiter.record(&Verdict::throttled(None));
    let quota = limiter.snapshot().quotas[0];
    assert_eq!((quota.tokens(), quota.period()), (1, 2 * SECOND));
}

#[test]
fn a_throttled_answer_slows_an_adaptive_limiter_though_it_is_neutral_and_a_rejection_does_not() {
    let clock = ManualClock::new();
    let limiter = adaptive(&clock).build().unwrap();
    for _ in 0..100 {
        clock.advance(ms(50));
        limiter.try_acquire().unwrap();
        limiter.record(&Verdict::success());
    }
    let breaker = CircuitBreaker::builder().clock(clock.clone());
    let breaker = breaker.build().unwrap();
    let isolation = breaker.isolate();
    let stack = (limiter.clone(), breaker);
    let rejected = clock.block_on(stack.call(|| async { Ok::<_, ()>(()) }));
    assert_eq!(rejected.unwrap_err().reason(), Some(Reason::Isolated));
    drop(isolation);
    let unlimited = [Quota::per_second(1_000_000_000)];
    assert_eq!(limiter.snapshot().quotas, unlimited);

    // The verdict of a 429.
    let throttled = Verdict::throttled(None).with_health(Health::Neutral);
    let classify = backstop::Classify::errors(move |(): &()| throttled.not_executed());
    let stack = (limiter.clone(), classify);
    let throttled = clock.block_on(stack.call(|| async { Err::<(), _>(()) }));
    assert_eq!(throttled.unwrap_err().into_operation(), Some(()));
    assert_eq!(limiter.snapshot().remaining, 13);
}
