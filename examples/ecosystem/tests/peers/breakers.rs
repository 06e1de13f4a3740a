use std::time::Duration;

use backstop::circuit_breaker::{State, Trip};
use backstop::{CircuitBreaker, ManualClock};
use failsafe::futures::CircuitBreaker as _;
use failsafe::{Config, backoff, failure_policy};

const BREAK: Duration = Duration::from_millis(10);

fn tripped() -> impl failsafe::futures::CircuitBreaker {
    let policy = failure_policy::consecutive_failures(1, backoff::constant(BREAK));
    let breaker = Config::new().failure_policy(policy).build();
    breaker.on_error();
    assert!(!breaker.is_call_permitted());
    std::thread::sleep(BREAK * 2);
    breaker
}

#[tokio::test]
async fn failsafe_permits_every_call_once_the_break_is_over() {
    let breaker = tripped();
    let calls = (0..100).map(|_| breaker.is_call_permitted());
    assert!(calls.into_iter().all(|permitted| permitted));
}

#[tokio::test]
async fn asking_failsafe_makes_the_circuit_half_open() {
    // A failure in a closed circuit needs the policy to open it; in a half-open one it does at once.
    let policy = failure_policy::consecutive_failures(2, backoff::constant(BREAK));
    let breaker = Config::new().failure_policy(policy).build();
    breaker.on_error();
    breaker.on_error();
    std::thread::sleep(BREAK * 2);
    assert!(format!("{breaker:?}").contains("open"));
    assert!(breaker.is_call_permitted());
    assert!(format!("{breaker:?}").contains("half_open"));
}

#[test]
fn a_rate_of_failsafe_opens_nothing_before_a_window_has_passed() {
    let window = Duration::from_secs(3600);
    let breaks = backoff::constant(BREAK);
    let policy = failure_policy::success_rate_over_time_window(0.8, 5, window, breaks);
    let breaker = Config::new().failure_policy(policy).build();
    for _ in 0..1000 {
        breaker.on_error();
    }
    assert!(breaker.is_call_permitted());

    let rate = Trip::failure_rate(0.2).within(window).min_calls(5);
    let ours = CircuitBreaker::builder()
        .trip_on(rate)
        .clock(ManualClock::new())
        .build()
        .unwrap();
    for _ in 0..4 {
        ours.try_acquire().unwrap().success();
    }
    ours.try_acquire().unwrap().failure();
    assert_eq!(ours.state(), State::Open);
}

#[test]
#[should_panic(expected = "start must be")]
fn failsafe_counts_breaks_in_seconds() {
    let _ = backoff::exponential(Duration::from_millis(500), Duration::from_secs(5));
}

#[test]
fn recloser_admits_every_call_while_half_open() {
    let breaker = recloser::Recloser::custom()
        .error_rate(0.5)
        .closed_len(1)
        .half_open_len(10)
        .open_wait(BREAK)
        .build();
    let fails = || Err::<(), _>(());
    while !matches!(breaker.call(fails), Err(recloser::Error::Rejected)) {}
    std::thread::sleep(BREAK * 2);
    let mut admitted = 0;
    breaker
        .call(|| {
            // All of them while the first one runs.
            for _ in 0..9 {
                admitted += u32::from(breaker.call(|| Ok::<_, ()>(())).is_ok());
            }
            Ok::<_, ()>(())
        })
        .unwrap();
    assert_eq!(admitted, 9);
}
