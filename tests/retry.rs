//! Retry and its budget, seen from outside, in virtual time.
#![cfg(feature = "tokio")]

use std::cell::{Cell, RefCell};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use backstop::event::StopReason;
use backstop::policy::{ErrorClass, Guard, Guarded};
use backstop::{
    Backoff, CallOptions, Classify, Clock, Context, Error, Event, HintRule, Jitter, ManualClock,
    Outcome, Pipeline, Policy, Reason, Rejected, Retry, RetryBudget, Timeout, Verdict,
};

const fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

const fn s(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn elapsed(clock: &ManualClock) -> Duration {
    Duration::from_nanos(clock.now().as_nanos())
}

/// A retry on `clock` that waits exactly 100 ms, 200 ms, 400 ms, ...
fn doubling(clock: &ManualClock) -> backstop::retry::RetryBuilder {
    Retry::builder()
        .backoff(Backoff::exponential(ms(100)).jitter(Jitter::None))
        .clock(clock.clone())
}

fn total(clock: &ManualClock, limit: Duration) -> Timeout {
    let timeout = Timeout::builder().after(limit).clock(clock.clone());
    timeout.build().unwrap()
}

/// An observer that keeps why retries stopped, and one that looks at it.
fn stops() -> (Arc<Mutex<Vec<StopReason>>>, impl Fn(&Event) + Send + Sync) {
    let kept = Arc::new(Mutex::new(Vec::new()));
    let keep = kept.clone();
    let observer = move |event: &Event| {
        if let Event::RetryStopped { stop, .. } = event {
            keep.lock().unwrap().push(*stop);
        }
    };
    (kept, observer)
}

/// The instants at which a call that always fails makes its attempts.
macro_rules! attempts_of {
    ($clock:expr, $policy:expr) => {{
        let (clock, policy): (&ManualClock, _) = ($clock, $policy);
        let at = RefCell::new(Vec::new());
        let start = elapsed(clock);
        let result = clock.block_on(policy.call(|| {
            at.borrow_mut().push(elapsed(clock) - start);
            async { Err::<(), _>("down") }
        }));
        assert!(matches!(result, Err(Error::Operation("down"))));
        at.into_inner()
    }};
}

#[test]
fn waits_between_attempts_and_returns_the_last_error() {
    let clock = ManualClock::new();
    let retry = doubling(&clock).max_attempts(4).build().unwrap();
    let tries = Cell::new(0);
    let result: Result<(), _> = clock.block_on(retry.call(|| {
        tries.set(tries.get() + 1);
        let number = tries.get();
        async move { Err(number) }
    }));
    assert_eq!(result, Err(Error::Operation(4)));
    assert_eq!(elapsed(&clock), ms(700));
}

#[test]
fn a_retryable_value_is_retried_and_returned_as_a_value() {
    let clock = ManualClock::new();
    let stack = (
        doubling(&clock).build().unwrap(),
        Classify::by(|result: Result<&u16, &Error<()>>| match result {
            Ok(503) => Verdict::throttled(None),
            _ => Verdict::success(),
        }),
    );
    let report = clock.block_on(stack.call_reported(|| async { Ok(503) }));
    assert_eq!((report.result, report.attempts), (Ok(503), 3));
}

#[test]
fn pitfall_39_calls_of_one_policy_draw_their_own_jitter() {
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
fn pitfall_43_a_budget_bounds_the_extra_calls_of_failing_traffic() {
    let clock = ManualClock::new();
    let budget = RetryBudget::percentage()
        .ratio(0.2)
        .floor(0)
        .clock(clock.clone())
        .build()
        .unwrap();
    let retry = Retry::builder()
        .max_attempts(10)
        .backoff(Backoff::NONE)
        .budget(budget)
        .clock(clock.clone())
        .build()
        .unwrap();
    let sent = Cell::new(0_u32);
    for _ in 0..1000 {
        // Every second request fails.
        let _ = clock.block_on(retry.call(|| {
            sent.set(sent.get() + 1);
            let fails = sent.get() % 2 == 0;
            async move { if fails { Err(()) } else { Ok(()) } }
        }));
    }
    assert!((1190..=1200).contains(&sent.get()), "{}", sent.get());
}

#[test]
fn pitfall_46_extreme_settings_neither_panic_nor_hang() {
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
fn pitfall_48_a_hint_beyond_the_deadline_fails_at_once() {
    let clock = ManualClock::new();
    let (kept, observer) = stops();
    let stack = Pipeline::new((
        total(&clock, s(10)),
        doubling(&clock).build().unwrap(),
        Classify::errors(|_: &&str| Verdict::throttled(s(60))),
    ))
    .observer(observer);
    assert_eq!(attempts_of!(&clock, &stack), [s(0)]);
    assert_eq!(elapsed(&clock), s(0));
    assert_eq!(*kept.lock().unwrap(), [StopReason::Deadline]);
}

#[test]
fn pitfall_49_no_delay_at_all_still_ends_and_lets_others_run() {
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
fn pitfall_55_the_longest_time_includes_the_operations() {
    let clock = ManualClock::new();
    let retry = doubling(&clock)
        .max_attempts(100)
        .max_elapsed(s(10))
        .build()
        .unwrap();
    let attempts = Cell::new(0);
    let result: Result<(), _> = clock.block_on(retry.call(|| {
        attempts.set(attempts.get() + 1);
        let slow = clock.sleep(s(4));
        async move {
            slow.await;
            Err("down")
        }
    }));
    assert_eq!(result, Err(Error::Operation("down")));
    // Starts at 0, 4.1 and 8.3 s; a fourth would start at 12.7 s.
    assert_eq!(attempts.get(), 3);
    assert_eq!(elapsed(&clock), ms(12_300));
}

#[test]
fn never_sleeps_into_the_deadline() {
    let clock = ManualClock::new();
    let stack = (total(&clock, ms(300)), doubling(&clock).build().unwrap());
    // The third attempt would start at 300 ms exactly, when the time is up.
    assert_eq!(attempts_of!(&clock, &stack), [ms(0), ms(100)]);
    assert_eq!(elapsed(&clock), ms(100));
}

#[test]
fn a_call_that_must_not_run_twice_is_repeated_only_if_it_has_not_run() {
    let clock = ManualClock::new();
    let once = CallOptions::new().idempotent(false);
    let pipeline = Pipeline::new(doubling(&clock).build().unwrap());
    assert_eq!(attempts_of!(&clock, &pipeline.with(once)).len(), 1);

    let safe = Pipeline::new((
        doubling(&clock).build().unwrap(),
        Classify::errors(|_: &&str| Verdict::transient().not_executed()),
    ));
    assert_eq!(attempts_of!(&clock, &safe.with(once)).len(), 3);
}

#[test]
fn a_timeout_is_retried_only_when_that_is_safe() {
    let clock = ManualClock::new();
    let pipeline = Pipeline::new((doubling(&clock).build().unwrap(), total(&clock, s(1))));
    let hang = std::future::pending::<Result<(), ()>>;
    let report = clock.block_on(pipeline.call_reported(hang));
    assert!(report.result.unwrap_err().is_timeout());
    assert_eq!((report.attempts, report.elapsed), (3, ms(3300)));

    let once = CallOptions::new().idempotent(false);
    let report = clock.block_on(pipeline.with(once).call_reported(hang));
    assert_eq!((report.attempts, report.elapsed), (1, s(1)));
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

/// Rejects every call.
struct Reject(Rejected);

impl Guard for Reject {
    type Permit = ();

    fn enter(&self, _: &mut Context) -> Result<(), Rejected> {
        Err(self.0)
    }

    fn exit<T, E>(&self, (): (), _: &mut Outcome<T, E>) {}
}

fn rejected_for(clock: &ManualClock, retry: Retry, rejected: Rejected) -> Duration {
    let start = elapsed(clock);
    let stack = Pipeline::new((retry, Guarded(Reject(rejected))));
    // Never executed, so it may be repeated even so.
    let once = CallOptions::new().idempotent(false);
    let result = clock.block_on(stack.with(once).call(|| async { Ok::<_, ()>(()) }));
    assert_eq!(result, Err(rejected.into()));
    elapsed(clock) - start
}

#[test]
fn the_time_of_a_rejection_is_waited_exactly() {
    let clock = ManualClock::new();
    let retry = || doubling(&clock).max_attempts(2);
    let limited = Rejected::new("limiter", Reason::RateLimited).with_retry_after(s(42));
    assert_eq!(
        rejected_for(&clock, retry().build().unwrap(), limited),
        s(42)
    );

    let open = Rejected::new("breaker", Reason::CircuitOpen).with_retry_after(s(42));
    assert_eq!(rejected_for(&clock, retry().build().unwrap(), open), s(0));
    let patient = retry().retry_open_circuit(true).build().unwrap();
    assert_eq!(rejected_for(&clock, patient, open), s(42));
}

#[test]
fn what_never_reached_the_dependency_costs_no_budget() {
    let clock = ManualClock::new();
    for budget in [
        RetryBudget::tokens().capacity(0).build(),
        RetryBudget::grpc(1, 1.0).build(),
    ] {
        let budget = budget.unwrap();
        let before = budget.snapshot();
        let retry = doubling(&clock).max_attempts(2).budget(budget.clone());
        let limited = Rejected::new("limiter", Reason::RateLimited).with_retry_after(s(7));
        assert_eq!(rejected_for(&clock, retry.build().unwrap(), limited), s(7));
        assert_eq!(budget.snapshot(), before);
    }
}

#[test]
fn an_open_circuit_is_not_waited_out_past_the_deadline() {
    let clock = ManualClock::new();
    let open = Rejected::new("breaker", Reason::CircuitOpen).with_retry_after(s(42));
    let stack = (
        total(&clock, s(10)),
        doubling(&clock).retry_open_circuit(true).build().unwrap(),
        Guarded(Reject(open)),
    );
    let result = clock.block_on(stack.call(|| async { Ok::<_, ()>(()) }));
    assert_eq!(result, Err(open.into()));
    assert_eq!(elapsed(&clock), s(0));
}

#[test]
fn an_empty_budget_returns_the_error_at_once_or_after_the_delay() {
    for (wait, expected) in [(false, s(0)), (true, ms(100))] {
        let clock = ManualClock::new();
        let (kept, observer) = stops();
        let budget = RetryBudget::tokens().capacity(0).build().unwrap();
        let retry = doubling(&clock).budget(budget).wait_when_budget_empty(wait);
        let stack = Pipeline::new(retry.build().unwrap()).observer(observer);
        assert_eq!(attempts_of!(&clock, &stack), [s(0)]);
        assert_eq!(elapsed(&clock), expected);
        assert_eq!(*kept.lock().unwrap(), [StopReason::BudgetEmpty]);
    }
}

#[test]
fn attempts_pay_by_the_class_of_their_error() {
    let clock = ManualClock::new();
    let budget = RetryBudget::tokens()
        .cost(ErrorClass::Timeout, 10)
        .build()
        .unwrap();
    let retry = doubling(&clock).budget(budget.clone()).build().unwrap();
    let stack = (retry, total(&clock, s(1)));
    let result = clock.block_on(stack.call(std::future::pending::<Result<(), ()>>));
    assert!(result.unwrap_err().is_timeout());
    assert_eq!(budget.snapshot().available, 480.0);
}

#[test]
fn a_budget_counts_the_attempts_in_flight_until_they_end() {
    let clock = ManualClock::new();
    let budget = RetryBudget::in_flight().build().unwrap();
    let retry = doubling(&clock).budget(budget.clone()).build().unwrap();
    let seen = RefCell::new(Vec::new());
    let _ = clock.block_on(retry.call(|| {
        let now = budget.snapshot();
        seen.borrow_mut()
            .push((now.calls_in_flight, now.extras_in_flight));
        async { Err::<(), _>(()) }
    }));
    assert_eq!(*seen.borrow(), [(1, 0), (1, 1), (1, 1)]);
    let after = budget.snapshot();
    assert_eq!((after.calls_in_flight, after.extras_in_flight), (0, 0));
}

#[test]
fn an_attempt_that_has_ended_does_not_stand_in_the_way_of_the_next() {
    let clock = ManualClock::new();
    let one = RetryBudget::in_flight().ratio(0.0).floor(1);
    let budget = one.build().unwrap();
    let retry = doubling(&clock).budget(budget.clone()).build().unwrap();
    // Each retry is the only one in flight while it lasts.
    assert_eq!(attempts_of!(&clock, &retry).len(), 3);
    assert_eq!(budget.snapshot().extras_in_flight, 0);
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

#[test]
fn only_healthy_answers_refill_a_budget() {
    let clock = ManualClock::new();
    let budget = RetryBudget::tokens().initial(5).build().unwrap();
    let retry = doubling(&clock).budget(budget.clone()).build().unwrap();
    for (verdict, available) in [
        (Verdict::failure(), 5.0),
        (Verdict::ignore(), 5.0),
        (Verdict::success(), 6.0),
    ] {
        let is = Classify::by(move |_: Result<&(), &Error<()>>| verdict);
        let result = clock.block_on((&retry, is).call(|| async { Ok(()) }));
        assert_eq!((result, budget.snapshot().available), (Ok(()), available));
    }
}

#[test]
fn hooks_see_the_attempt_its_verdict_and_its_delay() {
    let clock = ManualClock::new();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let keep = seen.clone();
    let retry = doubling(&clock)
        .delay_with(|retrying| match retrying.attempt() {
            1 => retrying.delay() * 3,
            _ => ms(7),
        })
        .on_retry(move |retrying| {
            let class = retrying.verdict().class();
            keep.lock()
                .unwrap()
                .push((retrying.attempt(), class, retrying.delay()));
        })
        .build()
        .unwrap();
    assert_eq!(attempts_of!(&clock, &retry), [ms(0), ms(300), ms(307)]);
    assert_eq!(
        *seen.lock().unwrap(),
        [
            (1, ErrorClass::Transient, ms(300)),
            (2, ErrorClass::Transient, ms(7))
        ]
    );
}

#[test]
fn attempts_are_numbered() {
    let clock = ManualClock::new();
    let stack = (doubling(&clock).build().unwrap(), total(&clock, s(1)));
    let seen = RefCell::new(Vec::new());
    let _ = clock.block_on(stack.call_with(|attempt| {
        seen.borrow_mut()
            .push((attempt.number(), attempt.is_hedge(), attempt.remaining()));
        async { Err::<(), _>(()) }
    }));
    let left = Some(s(1));
    assert_eq!(
        *seen.borrow(),
        [(1, false, left), (2, false, left), (3, false, left)]
    );
}

#[tokio::test(start_paused = true)]
async fn obeys_tokios_paused_time() {
    let start = tokio::time::Instant::now();
    let retry = Retry::builder()
        .backoff(Backoff::fixed(s(3600)).jitter(Jitter::None))
        .build()
        .unwrap();
    let report = retry.call_reported(|| async { Err::<(), _>("down") }).await;
    assert_eq!(report.attempts, 3);
    assert_eq!(report.elapsed, s(7200));
    assert_eq!(start.elapsed(), s(7200));
}

#[test]
fn works_without_a_runtime() {
    // Whatever its clock: inside `call_blocking` even tokio's parks the thread.
    for retry in [
        Retry::builder().clock(backstop::BlockingClock),
        Retry::builder(),
    ] {
        let retry = retry
            .backoff(Backoff::fixed(Duration::from_micros(1)).jitter(Jitter::None))
            .build()
            .unwrap();
        let tries = Cell::new(0);
        let result = (Timeout::after(s(3600)), retry).call_blocking(|| {
            tries.set(tries.get() + 1);
            if tries.get() < 3 {
                Err(())
            } else {
                Ok("hello")
            }
        });
        assert_eq!((result, tries.get()), (Ok("hello"), 3));
    }
}
