//! Hooks that run a runtime of their own inside a blocking call.

use std::cell::Cell;
use std::future::ready;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use backstop::bulkhead::limit::{ConcurrencyLimit, Sample};
use backstop::circuit_breaker::{CircuitBreakerBuilder, Trip};
use backstop::dead_letter::{DeadLetterQueue, DeadLetterQueueBuilder, NewLetter, Timestamp};
use backstop::policy::{Guard, Guarded};
use backstop::rate_limiter::KeyedRateLimiter;
use backstop::retry::RetryBuilder;
use backstop::{
    Attempt, Backoff, Bulkhead, CircuitBreaker, Classify, Context, Error, Event, Fallback, Hedge,
    Inspect, Jitter, LoadShedder, ManualClock, Outcome, Pipeline, Policy, Quota, Rejected, Retry,
    Timeout, Verdict,
};

use super::{Fault, ms};

thread_local! {
    /// Number of runtimes that hooks have run on this thread.
    static RUNTIMES: Cell<u32> = const { Cell::new(0) };
}

/// Runs a runtime of its own until a timer of backstop fires in it.
fn run_a_runtime() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    let hangs = std::future::pending::<Result<(), Fault>>;
    let result = runtime.block_on(Timeout::after(ms(50)).call(hangs));
    assert!(result.unwrap_err().is_timeout());
    RUNTIMES.set(RUNTIMES.get() + 1);
}

fn fail() -> Result<(), Fault> {
    Err(Fault::Down)
}

type BoxCall = Box<dyn FnOnce() + Send>;

/// Runs each call on a thread of its own. Returns the names of the calls that hang, that panic, and
/// that run no hook.
fn not_well(calls: Vec<(&'static str, BoxCall)>) -> Vec<(&'static str, &'static str)> {
    let calls = calls.into_iter().map(|(name, call)| {
        let (done, ended) = mpsc::channel();
        thread::spawn(move || {
            call();
            done.send(RUNTIMES.get())
        });
        (name, ended)
    });
    let calls: Vec<_> = calls.collect();
    let latest = Instant::now() + Duration::from_secs(60);
    let ends = calls.into_iter().filter_map(|(name, ended)| {
        let left = latest.saturating_duration_since(Instant::now());
        let fault = match ended.recv_timeout(left) {
            Ok(0) => "its hook did not run",
            Ok(_) => return None,
            Err(RecvTimeoutError::Timeout) => "hangs",
            Err(RecvTimeoutError::Disconnected) => "panics",
        };
        Some((name, fault))
    });
    ends.collect()
}

macro_rules! calls {
    ($($name:literal: $call:expr;)*) => {
        vec![$(($name, Box::new(|| { let _ = $call; }) as Box<dyn FnOnce() + Send>)),*]
    };
}

/// A guard that runs a runtime when a call enters.
struct OnEntry;

impl Guard for OnEntry {
    type Permit = ();

    fn enter(&self, _: &mut Context) -> Result<(), Rejected> {
        run_a_runtime();
        Ok(())
    }

    fn exit<T, E>(&self, (): (), _: &mut Outcome<T, E>) {}
}

/// A guard that runs a runtime when a call leaves.
struct OnExit;

impl Guard for OnExit {
    type Permit = ();

    fn enter(&self, _: &mut Context) -> Result<(), Rejected> {
        Ok(())
    }

    fn exit<T, E>(&self, (): (), _: &mut Outcome<T, E>) {
        run_a_runtime();
    }
}

/// A limit algorithm that runs a runtime for each sample.
#[derive(Clone, Debug)]
struct OnSample;

impl ConcurrencyLimit for OnSample {
    fn limit(&self) -> u32 {
        5
    }

    fn on_sample(&mut self, _: &Sample) {
        run_a_runtime();
    }
}

/// A value that runs a runtime when it is cloned.
struct OnClone;

impl Clone for OnClone {
    fn clone(&self) -> Self {
        run_a_runtime();
        Self
    }
}

fn retry() -> RetryBuilder {
    let nanosecond = Backoff::fixed(Duration::from_nanos(1)).jitter(Jitter::None);
    Retry::builder().backoff(nanosecond)
}

/// Opens at the first failure.
fn breaker() -> CircuitBreakerBuilder {
    CircuitBreaker::builder().trip_on(Trip::consecutive(1))
}

fn custom() -> Backoff {
    Backoff::custom(|_| {
        run_a_runtime();
        Duration::from_nanos(1)
    })
}

fn letters() -> DeadLetterQueueBuilder<()> {
    DeadLetterQueue::builder()
}

fn push(letters: DeadLetterQueueBuilder<()>) {
    let letter = NewLetter::new(()).error("down");
    letters.build().unwrap().push_blocking(letter).unwrap();
}

#[test]
fn hooks_classifiers_and_observers_may_run_a_runtime_of_their_own() {
    let calls = calls! {
        "retry: on_retry": retry().on_retry(|_| run_a_runtime()).build().unwrap().call_blocking(fail);
        "retry: delay_with": {
            let delay = |_: &_| { run_a_runtime(); Duration::ZERO };
            retry().delay_with(delay).build().unwrap().call_blocking(fail)
        };
        "retry: notify": {
            let retry = retry().build().unwrap();
            retry.notify(|_: &Error<Fault>, _| run_a_runtime()).call_blocking(fail)
        };
        "retry: backoff": Retry::builder().backoff(custom()).build().unwrap().call_blocking(fail);
        "timeout: after_with": {
            let timeout = Timeout::after_with(|_| { run_a_runtime(); ms(1000) });
            timeout.call_blocking(fail)
        };
        "hedge: after_with": {
            // Called while the first copy is pending, which is in the backoff of the retry.
            let backoff = Backoff::fixed(ms(1)).jitter(Jitter::None);
            let retry = Retry::builder().backoff(backoff).build().unwrap();
            let hedge = Hedge::builder().after_with(|_| { run_a_runtime(); Duration::MAX });
            (hedge.build().unwrap(), retry).call_blocking(fail)
        };
        "classify: errors": {
            let classify = Classify::errors(|_: &Fault| { run_a_runtime(); Verdict::permanent() });
            classify.call_blocking(fail)
        };
        "classify: by": {
            let classify = Classify::by(|result: Result<&(), &Error<Fault>>| {
                run_a_runtime();
                Verdict::default_for(result)
            });
            classify.call_blocking(fail)
        };
        "classify: by_attempt": {
            let classify = Classify::by_attempt(|result: Result<&(), &Error<Fault>>, _: Attempt| {
                run_a_runtime();
                Verdict::default_for(result)
            });
            classify.call_blocking(fail)
        };
        "classify: retry_if": {
            Classify::retry_if(|_: &Fault| { run_a_runtime(); false }).call_blocking(fail)
        };
        "inspect": Inspect::errors(|_: &Fault, _| run_a_runtime()).call_blocking(fail);
        "guard: enter": Guarded(OnEntry).call_blocking(fail);
        "guard: exit": Guarded(OnExit).call_blocking(fail);
        "fallback: value": Fallback::value(OnClone).call_blocking(|| fail().map(|()| OnClone));
        "fallback: with": Fallback::with(|_: &Error<Fault>| run_a_runtime()).call_blocking(fail);
        "fallback: try_with": {
            Fallback::try_with(|_: &Error<Fault>| { run_a_runtime(); None }).call_blocking(fail)
        };
        "fallback: to": {
            Fallback::to(|_: &Error<Fault>| { run_a_runtime(); ready(fail()) }).call_blocking(fail)
        };
        "breaker: break_with": {
            let breaker = breaker().break_with(|_, _| { run_a_runtime(); ms(1) });
            breaker.build().unwrap().call_blocking(fail)
        };
        "breaker: break_for": breaker().break_for(custom()).build().unwrap().call_blocking(fail);
        "breaker: trip": {
            let trip = Trip::custom("user's", |_| { run_a_runtime(); false });
            let breaker = CircuitBreaker::builder().trip_on(trip.of_last(1).min_calls(1));
            breaker.build().unwrap().call_blocking(fail)
        };
        "bulkhead: limit algorithm": {
            let bulkhead = Bulkhead::builder().adaptive(OnSample).build().unwrap();
            bulkhead.call_blocking(|| Ok::<_, Fault>(()))
        };
        "limiter: quota_for": {
            let limits = KeyedRateLimiter::builder().quota(Quota::per_second(1));
            let limits = limits.quota_for(|_: &u8| { run_a_runtime(); None }).build().unwrap();
            limits.get(&1).call_blocking(fail)
        };
        "shedder: signal": {
            let clock = ManualClock::new();
            let shedder = LoadShedder::builder().signal(0.5, || { run_a_runtime(); 0.0 });
            let shedder = shedder.clock(clock.clone()).build().unwrap();
            clock.advance(ms(60_000));
            shedder.call_blocking(fail)
        };
        "letters: redact": push(letters().redact(|_| run_a_runtime()));
        "letters: redact_error": push(letters().redact_error(|_| { run_a_runtime(); "".into() }));
        "letters: timestamps": {
            push(letters().timestamps(|| { run_a_runtime(); Timestamp::from_micros(1) }))
        };
        "observer of a pipeline": {
            let stack = Pipeline::new(retry().build().unwrap()).observer(|_: &Event| run_a_runtime());
            stack.call_blocking(fail)
        };
        "observer of a handle": {
            breaker().observer(|_: &Event| run_a_runtime()).build().unwrap().call_blocking(fail)
        };
        "observer of a handle in an observed stack": {
            let breaker = breaker().observer(|_: &Event| run_a_runtime()).build().unwrap();
            Pipeline::new(breaker).observer(|_: &Event| ()).call_blocking(fail)
        };
    };
    assert_eq!(not_well(calls), []);
}

#[cfg(feature = "chaos")]
#[test]
fn hooks_of_faults_may_run_a_runtime_of_their_own() {
    use backstop::chaos::Chaos;

    let calls = calls! {
        "behavior": {
            let chaos = Chaos::builder().behavior(1.0, || { run_a_runtime(); ready(()) });
            chaos.max_share(1.0).build().unwrap().call_blocking(fail)
        };
        "error": {
            let chaos = Chaos::builder().error(1.0, || { run_a_runtime(); Fault::Down });
            chaos.max_share(1.0).build().unwrap().call_blocking(fail)
        };
        "result": {
            let chaos = Chaos::builder().result(1.0, || { run_a_runtime(); fail() });
            chaos.max_share(1.0).build().unwrap().call_blocking(fail)
        };
        "only": {
            let chaos = Chaos::builder().latency(1.0, ms(0)).only(|_| { run_a_runtime(); false });
            chaos.max_share(1.0).build().unwrap().call_blocking(fail)
        };
    };
    assert_eq!(not_well(calls), []);
}

#[cfg(feature = "http")]
#[test]
fn classifiers_of_responses_may_run_a_runtime_of_their_own() {
    use backstop::http::ClassifyResponses;
    use http::Response;

    fn answer() -> Result<Response<()>, Fault> {
        Ok(Response::new(()))
    }

    let calls = calls! {
        "rule": {
            let classify = ClassifyResponses::new().rule(|_, _| { run_a_runtime(); None });
            classify.call_blocking(answer)
        };
        "by": {
            let classify = ClassifyResponses::by(|response: &Response<()>| {
                run_a_runtime();
                (response.status(), response.headers())
            });
            classify.call_blocking(answer)
        };
    };
    assert_eq!(not_well(calls), []);
}
