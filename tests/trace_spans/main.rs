//! Spans and log lines of the crate `tracing`.
#![cfg(feature = "tracing")]

mod each_callback;
mod panics;
mod racing;
mod subscriber;
mod unwinding;

use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use backstop::tracing::{AttemptSpan, CallSpan, EventLog, level};
use backstop::{
    Backoff, CircuitBreaker, Event, Fallback, Hedge, Jitter, ManualClock, Observer, Pipeline,
    Policy, Quota, RateLimiter, Retry, Timeout,
};
use tracing::Level;

use crate::subscriber::Recorded;

const fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

fn retry(clock: &ManualClock) -> Retry {
    Retry::builder()
        .backoff(Backoff::fixed(ms(100)).jitter(Jitter::None))
        .clock(clock.clone())
        .build()
        .unwrap()
}

#[test]
fn a_call_has_a_span_and_each_attempt_one_inside_it() {
    let recorded = Recorded::during(|| {
        let clock = ManualClock::new();
        let stack = (
            CallSpan::new("github"),
            retry(&clock),
            AttemptSpan::new("github"),
        );
        let attempts = std::cell::Cell::new(0);
        let result = clock.block_on(stack.call(|| async {
            // The span of a client is opened in the attempt's.
            let _client = tracing::info_span!("client").entered();
            attempts.set(attempts.get() + 1);
            if attempts.get() == 1 {
                Err("down")
            } else {
                Ok(7)
            }
        }));
        assert_eq!(result, Ok(7));
    });
    assert_eq!(
        recorded.spans(),
        [
            "call{policy=github otel.name=github outcome=succeeded attempts=2 otel.status_code=OK}",
            "call > attempt{policy=github attempt=1 hedge=false otel.name=attempt outcome=failed otel.status_code=ERROR}",
            "call > attempt > client{}",
            "call > attempt{policy=github attempt=2 hedge=false otel.name=attempt http.request.resend_count=1 outcome=succeeded otel.status_code=OK}",
            "call > attempt > client{}",
        ]
    );
}

#[test]
fn cancelled_rejected_and_hedged_calls_say_so() {
    let recorded = Recorded::during(|| {
        let clock = ManualClock::new();
        let hedge = Hedge::builder().after(ms(10)).max_extra_load(1.0);
        let hedge = hedge.clock(clock.clone()).build().unwrap();
        let stack = (CallSpan::new("h"), hedge, AttemptSpan::new("h"));
        let call = stack.call_with(|attempt| async move {
            if !attempt.is_hedge() {
                pending::<()>().await;
            }
            Ok::<_, ()>(())
        });
        clock.block_on(call).unwrap();

        let timeout = Timeout::builder().after(ms(5)).clock(clock.clone());
        let empty = RateLimiter::builder().quota(Quota::per_minute(1));
        let empty = empty.clock(clock.clone()).build().unwrap();
        let stack = (timeout.build().unwrap(), CallSpan::new("t"), empty);
        let cut = clock.block_on(stack.call(pending::<Result<(), ()>>));
        assert!(cut.unwrap_err().is_timeout());
        let rejected = clock.block_on(stack.call(pending::<Result<(), ()>>));
        assert!(rejected.unwrap_err().is_rejected());
    });
    assert_eq!(
        recorded.spans(),
        [
            "call{policy=h otel.name=h outcome=succeeded attempts=2 otel.status_code=OK}",
            "call > attempt{policy=h attempt=1 hedge=false otel.name=attempt outcome=cancelled}",
            "call > attempt{policy=h attempt=1 hedge=true otel.name=attempt outcome=succeeded otel.status_code=OK}",
            "call{policy=t otel.name=t outcome=cancelled attempts=1}",
            "call{policy=t otel.name=t outcome=rejected attempts=0 reason=rate_limited otel.status_code=ERROR}",
        ]
    );
}

#[test]
fn events_are_logged_at_their_levels_with_their_fields() {
    let recorded = Recorded::during(|| {
        let clock = ManualClock::new();
        let breaker = CircuitBreaker::builder()
            .clock(clock.clone())
            .build()
            .unwrap();
        let stack = (retry(&clock), breaker.clone());
        let pipeline = Pipeline::new(stack)
            .with_name("github")
            .observer(EventLog::new().clock(clock.clone()));
        let _ = clock.block_on(pipeline.call(|| async { Err::<(), _>("down") }));
        let own = CircuitBreaker::builder()
            .observer(EventLog::new().clock(clock.clone()))
            .clock(clock.clone())
            .build()
            .unwrap();
        let _isolation = own.isolate();
    });
    assert_eq!(
        recorded.lines(),
        [
            "DEBUG backstop: retry: attempt 1 failed, next in 100ms policy=retry pipeline=github kind=retry_scheduled",
            "DEBUG backstop: retry: attempt 2 failed, next in 100ms policy=retry pipeline=github kind=retry_scheduled",
            "DEBUG backstop: retry: stopped after 3 attempts: max attempts policy=retry pipeline=github kind=retry_stopped",
            "TRACE backstop: github: failed after 3 attempts in 200ms policy=github pipeline=github kind=call_finished",
            "WARN backstop: circuit_breaker: closed -> isolated: manual policy=circuit_breaker kind=circuit_changed",
            "WARN backstop: circuit_breaker: isolated -> closed: manual policy=circuit_breaker kind=circuit_changed",
        ]
    );
}

#[test]
fn levels_can_be_changed_and_events_suppressed() {
    let recorded = Recorded::during(|| {
        let clock = ManualClock::new();
        let log = EventLog::new()
            .clock(clock.clone())
            .level(|event| match event {
                Event::FallbackUsed { .. } => Some(Level::ERROR),
                Event::CallFinished { .. } => None,
                event => level(event),
            });
        let pipeline = Pipeline::new(Fallback::value(7)).observer(log);
        let answer = clock.block_on(pipeline.call(|| async { Err::<i32, _>("down") }));
        assert_eq!(answer, Ok(7));
    });
    assert_eq!(
        recorded.lines(),
        [
            "ERROR backstop: fallback: replaced the result of a call that failed policy=fallback pipeline=pipeline kind=fallback_used"
        ]
    );
}

/// Rejects `per_second` calls a second on a clock that moves between them.
fn reject(log: &EventLog, clock: &ManualClock, limiter: &RateLimiter, per_second: u32, calls: u32) {
    let pipeline = Pipeline::new(limiter.clone()).observer(log.clone());
    for _ in 0..calls {
        let _ = clock.block_on(pipeline.call(|| async { Ok::<_, ()>(()) }));
        clock.advance(Duration::from_secs(1) / per_second);
    }
}

#[test]
fn ten_thousand_rejections_a_second_give_one_line_a_second_for_each_reason() {
    let recorded = Recorded::during(|| {
        let clock = ManualClock::new();
        let limiter = RateLimiter::builder()
            .quota(Quota::per_minute(1))
            .name("api");
        let limiter = limiter.clock(clock.clone()).build().unwrap();
        limiter.try_acquire().unwrap();
        let log = EventLog::new()
            .clock(clock.clone())
            .level(|event| match event {
                Event::CallFinished { .. } => None,
                event => level(event),
            });
        reject(&log, &clock, &limiter, 10_000, 30_000);
        drop(log);
    });
    let lines = recorded.lines();
    assert_eq!(lines.len(), 4, "{lines:#?}");
    assert!(
        lines[0].starts_with("WARN backstop: api: rejected a call: rate limited"),
        "{}",
        lines[0]
    );
    assert!(
        lines[0].ends_with("kind=rejected reason=rate_limited"),
        "{}",
        lines[0]
    );
    // One line for each full second, and the rest when the log is dropped.
    let counts: Vec<u64> = lines[1..]
        .iter()
        .map(|line| line.rsplit_once("count=").unwrap().1.parse().unwrap())
        .collect();
    assert_eq!(counts, [10_000, 10_000, 9_999]);
}

#[test]
fn the_last_summary_is_written_by_the_next_event_of_any_kind() {
    let recorded = Recorded::during(|| {
        let clock = ManualClock::new();
        let limiter = RateLimiter::builder()
            .quota(Quota::per_minute(1))
            .name("api");
        let limiter = limiter.clock(clock.clone()).build().unwrap();
        limiter.try_acquire().unwrap();
        let log = Arc::new(
            EventLog::new()
                .clock(clock.clone())
                .level(|event| match event {
                    Event::CallFinished { .. } => None,
                    event => level(event),
                }),
        );
        reject(&log, &clock, &limiter, 10, 5);
        assert_eq!(Recorded::count(), 1);
        clock.advance(ms(600));
        let other = Pipeline::new(retry(&clock)).observer(log.clone());
        let _ = clock.block_on(other.call(|| async { Ok::<_, ()>(()) }));
        assert_eq!(Recorded::count(), 2);
        log.flush();
    });
    let lines = recorded.lines();
    assert_eq!(lines.len(), 2, "{lines:#?}");
    assert!(lines[1].ends_with("count=4"), "{}", lines[1]);
}

#[test]
fn reasons_and_shadow_mode_are_summarized_apart() {
    let recorded = Recorded::during(|| {
        let clock = ManualClock::new();
        let log = EventLog::new().clock(clock.clone());
        let limited = |shadow| {
            let limiter = RateLimiter::builder()
                .quota(Quota::per_minute(1))
                .name("api");
            limiter
                .shadow(shadow)
                .observer(log.clone())
                .clock(clock.clone())
                .build()
                .unwrap()
        };
        let (real, shadow) = (limited(false), limited(true));
        for _ in 0..3 {
            let _ = real.try_acquire();
            let _ = shadow.try_acquire();
            let _ = real.try_acquire_n(100);
        }
        log.flush();
    });
    let of = |text: &str| {
        let lines = recorded.lines();
        lines.iter().filter(|line| line.contains(text)).count()
    };
    assert_eq!(of("kind=rejected reason=rate_limited"), 2);
    assert_eq!(of("kind=would_reject reason=rate_limited"), 2);
    assert_eq!(of("reason=cost_exceeds_limit"), 2);
}

#[test]
fn without_a_subscriber_nothing_is_recorded() {
    let log = EventLog::new().clock(ManualClock::new());
    let clock = ManualClock::new();
    let limiter = RateLimiter::builder().quota(Quota::per_minute(1));
    let limiter = limiter
        .observer(log.clone())
        .clock(clock.clone())
        .build()
        .unwrap();
    for _ in 0..3 {
        let _ = limiter.try_acquire();
    }
    let recorded = Recorded::during(|| log.flush());
    // The subscriber of another test may have been there meanwhile.
    assert!(recorded.lines().len() <= 2);
    fn is_an_observer(_: &impl Observer) {}
    is_an_observer(&log);
}

#[test]
fn a_span_inside_a_retry_counts_its_own_attempts() {
    let recorded = Recorded::during(|| {
        let clock = ManualClock::new();
        let stack = (retry(&clock), CallSpan::new("inner"));
        let _ = clock.block_on(stack.call(|| async { Err::<(), _>("down") }));
    });
    let spans = recorded.spans();
    assert_eq!(spans.len(), 3);
    assert!(
        spans.iter().all(|span| span.contains("attempts=1 ")),
        "{spans:#?}"
    );
}

#[test]
fn a_span_inside_a_hedge_counts_the_attempts_of_its_own_copy() {
    let recorded = Recorded::during(|| {
        let clock = ManualClock::new();
        let hedge = Hedge::builder().after(ms(10)).clock(clock.clone());
        let hedge = hedge.build().unwrap();
        let stack = (hedge, CallSpan::new("copy"), retry(&clock));
        let call = stack.call_with(|attempt| async move {
            match attempt.is_hedge() {
                false => pending().await,
                true if attempt.number() < 3 => Err("down"),
                true => Ok(()),
            }
        });
        clock.block_on(call).unwrap();
    });
    assert_eq!(
        recorded.spans(),
        [
            "call{policy=copy otel.name=copy outcome=cancelled attempts=1}",
            "call{policy=copy otel.name=copy outcome=succeeded attempts=3 otel.status_code=OK}",
        ]
    );
}

#[test]
fn each_summary_is_written_when_it_is_due() {
    let recorded = Recorded::during(|| {
        let clock = ManualClock::new();
        let log = EventLog::new()
            .clock(clock.clone())
            .level(|event| match event {
                Event::Rejected { .. } => level(event),
                _ => None,
            });
        let limiter = |name| {
            let limiter = RateLimiter::builder().quota(Quota::per_hour(1)).name(name);
            let limiter = limiter.clock(clock.clone()).build().unwrap();
            limiter.try_acquire().unwrap();
            limiter
        };
        for name in ["first", "second"] {
            // Two rejections: one is written at once, the other a second later.
            reject(&log, &clock, &limiter(name), 4, 2);
        }
        let other = Pipeline::new(Fallback::value(7)).observer(log.clone());
        // The first is due at 1 s, the second at 1.5 s.
        for _ in 0..2 {
            let _ = clock.block_on(other.call(|| async { Err::<i32, _>("down") }));
            clock.advance(ms(500));
        }
        std::mem::forget(log);
    });
    let lines = recorded.lines();
    assert_eq!(lines.len(), 4, "{lines:#?}");
}
