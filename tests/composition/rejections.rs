//! A rejection means that nothing was executed; and what calls tell about the errors they do not return.

use std::cell::Cell;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use backstop::event::StopReason;
use backstop::policy::{AtMostOnce, Describe, Guard, Guarded, Run};
use backstop::{
    Backoff, Bulkhead, CallOptions, Classified, Context, Error, Event, HintRule, Inspect, Jitter,
    ManualClock, Operation, Outcome, Pipeline, Policy, Quota, RateLimiter, Reason, Rejected, Retry,
    Verdict,
};

use super::{Fault, ms};

/// Admits so many calls.
struct AdmitsOnly(AtomicU32, Reason);

impl Guard for AdmitsOnly {
    type Permit = ();

    fn enter(&self, _: &mut Context) -> Result<(), Rejected> {
        match self.0.load(Ordering::Relaxed) {
            0 => Err(Rejected::new("door", self.1)),
            left => {
                self.0.store(left - 1, Ordering::Relaxed);
                Ok(())
            }
        }
    }

    fn exit<T, E>(&self, (): (), _: &mut Outcome<T, E>) {}
}

fn admits(calls: u32, reason: Reason) -> Guarded<AdmitsOnly> {
    Guarded(AdmitsOnly(calls.into(), reason))
}

fn every_30_ms(clock: &ManualClock) -> backstop::retry::RetryBuilder {
    let fixed = Backoff::fixed(ms(30)).jitter(Jitter::None);
    Retry::builder().backoff(fixed).clock(clock.clone())
}

async fn down() -> Result<(), Fault> {
    Err(Fault::Down)
}

#[test]
fn a_rejection_after_an_executed_attempt_is_not_the_result() {
    for reason in [Reason::Isolated, Reason::BulkheadFull] {
        let clock = ManualClock::new();
        let events = Arc::new(Mutex::new(Vec::new()));
        let keep = events.clone();
        let stack = (every_30_ms(&clock).build().unwrap(), admits(1, reason));
        let pipeline = Pipeline::new(stack)
            .observer(move |event: &Event| keep.lock().unwrap().push(event.kind()));
        let report = clock.block_on(pipeline.call_reported(down));
        assert_eq!(report.result, Err(Error::Operation(Fault::Down)));
        assert!(!report.result.unwrap_err().is_rejected());
        assert_eq!((report.attempts, report.last_error), (1, None));
        assert_eq!(report.last_rejection.unwrap().reason(), reason);
        assert!(events.lock().unwrap().contains(&"rejected"));
    }
}

#[test]
fn a_rejection_is_the_result_if_nothing_was_executed_or_if_asked_for() {
    let clock = ManualClock::new();
    let stack = (
        every_30_ms(&clock).build().unwrap(),
        admits(0, Reason::Shed),
    );
    let report = clock.block_on(stack.call_reported(down));
    assert!(report.result.unwrap_err().is_rejected());
    assert_eq!((report.attempts, report.last_error), (0, None));

    let retry = every_30_ms(&clock).return_rejection(true).build().unwrap();
    let stack = (retry, admits(1, Reason::Shed));
    let report = clock.block_on(stack.call_reported(down));
    assert_eq!(report.operation_error(), Some(&Fault::Down));
    assert_eq!(report.result.unwrap_err().reason(), Some(Reason::Shed));
    assert_eq!(report.attempts, 1);
}

#[test]
fn the_last_executed_attempt_is_the_result_even_if_more_rejections_came_between() {
    let clock = ManualClock::new();
    // Full at first, then free for one attempt, then full again.
    struct Door(AtomicU32);
    impl Guard for Door {
        type Permit = ();
        fn enter(&self, _: &mut Context) -> Result<(), Rejected> {
            match self.0.fetch_add(1, Ordering::Relaxed) {
                2 => Ok(()),
                _ => Err(Rejected::new("door", Reason::BulkheadFull)),
            }
        }
        fn exit<T, E>(&self, (): (), _: &mut Outcome<T, E>) {}
    }
    let retry = every_30_ms(&clock).max_attempts(9).build().unwrap();
    let stack = (retry, Guarded(Door(0.into())));
    let report = clock.block_on(stack.call_reported(down));
    assert_eq!(report.result, Err(Error::Operation(Fault::Down)));
    assert_eq!((report.attempts, report.elapsed), (1, ms(240)));
}

#[test]
fn a_value_comes_with_the_errors_on_the_way_to_it() {
    let clock = ManualClock::new();
    let retry = every_30_ms(&clock).build().unwrap();
    let attempt = Cell::new(0);
    let report = clock.block_on(retry.call_reported(|| async {
        attempt.set(attempt.get() + 1);
        match attempt.get() {
            3 => Ok("here"),
            n => Err(n),
        }
    }));
    assert_eq!((report.result, report.attempts), (Ok("here"), 3));
    assert_eq!(report.last_error, Some(2));
}

#[test]
fn a_timeout_comes_with_the_error_of_the_attempt_before() {
    let clock = ManualClock::new();
    let retry = every_30_ms(&clock).build().unwrap();
    let stack = (super::timeout(&clock, 50), retry);
    let first = Cell::new(true);
    let report = clock.block_on(stack.call_reported(|| {
        let is_first = first.replace(false);
        async move {
            match is_first {
                true => Err(Fault::Down),
                false => std::future::pending::<Result<(), _>>().await,
            }
        }
    }));
    assert_eq!(report.operation_error(), Some(&Fault::Down));
    assert!(report.result.unwrap_err().is_timeout());
}

#[test]
fn rejections_by_layers_that_know_no_time_wait_for_the_ordinary_backoff() {
    let clock = ManualClock::new();
    let bulkhead = Bulkhead::builder().max_concurrent(1).clock(clock.clone());
    let bulkhead = bulkhead.build().unwrap();
    let _taken = bulkhead.try_acquire().unwrap();
    let stack = (every_30_ms(&clock).build().unwrap(), &bulkhead);
    let report = clock.block_on(stack.call_reported(down));
    assert_eq!((report.attempts, report.elapsed), (0, ms(60)));

    // A layer that knows it is waited for exactly.
    let quota = Quota::new(1, ms(100)).burst(1);
    let limiter = RateLimiter::builder().quota(quota).clock(clock.clone());
    let stack = (
        every_30_ms(&clock).build().unwrap(),
        limiter.build().unwrap(),
    );
    let report = clock.block_on(stack.call_reported(down));
    assert_eq!((report.attempts, report.elapsed), (2, ms(100)));
}

#[test]
fn what_cannot_be_run_again_is_attempted_once_but_may_be_rejected_before() {
    let clock = ManualClock::new();
    let stops = Arc::new(Mutex::new(Vec::new()));
    let keep = stops.clone();
    let pipeline =
        Pipeline::new(every_30_ms(&clock).build().unwrap()).observer(move |event: &Event| {
            if let Event::RetryStopped { stop, .. } = event {
                keep.lock().unwrap().push(*stop);
            }
        });
    let once = CallOptions::new().repeatable(false);
    let report = clock.block_on(pipeline.with(once).call_reported(down));
    assert_eq!(report.attempts, 1);
    assert_eq!(*stops.lock().unwrap(), [StopReason::NotRepeatable]);
    // Not started yet, so nothing is lost.
    let quota = Quota::new(1, ms(100)).burst(1);
    let limiter = RateLimiter::builder().quota(quota).clock(clock.clone());
    let limiter = limiter.build().unwrap();
    limiter.try_acquire().unwrap();
    let around = pipeline.with(once).around(&limiter);
    let report = clock.block_on(around.call_reported(|| async { Ok::<_, Fault>(7) }));
    assert_eq!((report.result, report.elapsed), (Ok(7), ms(100)));
}

// ===== Hints =====

/// The waits after attempts whose errors bring this verdict.
fn waits(
    retry: backstop::retry::RetryBuilder,
    clock: &ManualClock,
    verdicts: &[Verdict],
) -> Vec<Duration> {
    let (at, attempt) = (std::cell::RefCell::new(Vec::new()), Cell::new(0));
    let retry = retry.clock(clock.clone()).build().unwrap();
    let _ = clock.block_on(retry.call_classified(|| async {
        at.borrow_mut().push(backstop::Clock::now(clock));
        let verdict = verdicts[attempt.get().min(verdicts.len() - 1)];
        attempt.set(attempt.get() + 1);
        Err::<(), _>(Classified::new(Fault::Down, verdict))
    }));
    let at = at.into_inner();
    at.windows(2)
        .map(|pair| pair[1].saturating_duration_since(pair[0]))
        .collect()
}

#[test]
fn a_hint_is_obeyed_and_jitter_only_adds() {
    let clock = ManualClock::new();
    let second = Duration::from_secs(1);
    let hint = Verdict::throttled(second * 60);
    for seed in 0..50 {
        let retry = Retry::builder().max_attempts(2).seed(seed);
        let waited = waits(retry, &clock, &[hint])[0];
        assert!((second * 60..second * 61).contains(&waited), "{waited:?}");
    }
    let longer = Verdict::throttled(second * 61);
    assert_eq!(waits(Retry::builder(), &clock, &[longer]), []);
    let patient = Retry::builder().max_hint(second * 61).max_attempts(2);
    assert_eq!(waits(patient, &clock, &[longer]).len(), 1);
    let short = Retry::builder().max_elapsed(second * 59);
    assert_eq!(waits(short, &clock, &[hint]), []);
    let amazon = Retry::builder()
        .max_attempts(2)
        .hint(HintRule::Within(second * 5));
    assert!(waits(amazon, &clock, &[hint])[0] <= second * 6);
}

#[test]
fn a_pushback_resets_the_backoff() {
    let clock = ManualClock::new();
    let doubling = Backoff::exponential(ms(100)).jitter(Jitter::None);
    let retry = || Retry::builder().max_attempts(5).backoff(doubling.clone());
    let (plain, pushback) = (Verdict::transient(), Verdict::pushback(ms(250)));
    let hint = Verdict::transient().after(ms(250));
    let with = waits(retry(), &clock, &[plain, plain, pushback, plain]);
    assert_eq!(with, [ms(100), ms(200), ms(250), ms(100)]);
    let without = waits(retry(), &clock, &[plain, plain, hint, plain]);
    assert_eq!(without, [ms(100), ms(200), ms(250), ms(800)]);
}

// ===== Ways to call =====

/// Claims to attempt at most once, and attempts twice.
struct Lies;

impl Policy for Lies {}
impl AtMostOnce for Lies {}
impl Describe for Lies {}

impl<Op: Operation> Run<Op> for &Lies {
    type Future = Op::Attempt;

    fn run(self, op: Op, cx: Context) -> Op::Attempt {
        drop(op.attempt(cx));
        op.attempt(cx)
    }
}

#[test]
fn a_second_attempt_of_what_runs_once_is_a_rejection() {
    let clock = ManualClock::new();
    let body = String::from("body");
    let result = clock.block_on(Lies.call_once(|| async { Ok::<_, Fault>(body) }));
    assert_eq!(result.unwrap_err().reason(), Some(Reason::NotRepeatable));
    // A policy that keeps its word is told that there is one attempt only.
    struct Asks(Cell<bool>);
    impl Guard for Asks {
        type Permit = ();
        fn enter(&self, cx: &mut Context) -> Result<(), Rejected> {
            self.0.set(cx.is_repeatable());
            Ok(())
        }
        fn exit<T, E>(&self, (): (), _: &mut Outcome<T, E>) {}
    }
    let asks = Guarded(Asks(true.into()));
    let sent = clock.block_on(asks.call_once(|| async { Ok::<_, Fault>(vec![1]) }));
    assert_eq!((sent, asks.0.0.get()), (Ok(vec![1]), false));
}

#[test]
fn hooks_see_errors_and_attempts() {
    let clock = ManualClock::new();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let (notified, inspected) = (seen.clone(), seen.clone());
    let retry = every_30_ms(&clock).build().unwrap();
    let stack = (
        retry.notify(move |error: &Error<Fault>, retrying| {
            let line = format!("{error:?} {} {:?}", retrying.attempt(), retrying.delay());
            notified.lock().unwrap().push(line);
        }),
        Inspect::errors(move |fault: &Fault, attempt| {
            inspected
                .lock()
                .unwrap()
                .push(format!("{fault:?} {}", attempt.number()));
        }),
    );
    let _ = clock.block_on(stack.call(down));
    assert_eq!(
        *seen.lock().unwrap(),
        [
            "Down 1",
            "Operation(Down) 1 30ms",
            "Down 2",
            "Operation(Down) 2 30ms",
            "Down 3",
        ]
    );
}

#[test]
fn a_stack_around_a_pipeline_has_its_name_observer_and_options() {
    let clock = ManualClock::new();
    let lines = Arc::new(Mutex::new(Vec::new()));
    let keep = lines.clone();
    let pipeline = Pipeline::new(every_30_ms(&clock).max_attempts(2).build().unwrap())
        .with_name("hosts")
        .observer(move |event: &Event| keep.lock().unwrap().push(event.to_string()));
    let door = admits(0, Reason::Isolated);
    let around = pipeline.around((super::timeout(&clock, 100), &door));
    assert!(clock.block_on(around.call(down)).unwrap_err().is_rejected());
    let around = pipeline.around(super::timeout(&clock, 100));
    assert!(clock.block_on(around.call(down)).is_err());
    let once = CallOptions::new().idempotent(false);
    let around = pipeline.with(once).around(());
    assert!(clock.block_on(around.call(down)).is_err());
    assert_eq!(
        *lines.lock().unwrap(),
        [
            "door: rejected a call: isolated",
            "retry: stopped after 0 attempts: rejected (isolated)",
            "hosts: rejected (isolated) after 0 attempts in 0ns",
            "retry: attempt 1 failed, next in 30ms",
            "retry: stopped after 2 attempts: max attempts",
            "hosts: failed after 2 attempts in 30ms",
            "retry: stopped after 1 attempt: not idempotent",
            "hosts: failed after 1 attempt in 0ns",
        ]
    );
    let mut layers = Vec::new();
    pipeline
        .around(super::timeout(&clock, 1))
        .describe(&mut layers);
    assert_eq!(layers.len(), 2);
}
