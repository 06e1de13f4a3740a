use std::future::Future;
use std::num::NonZeroU32;
use std::pin::pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use backstop::KeyedRateLimiter;
use governor::{Quota, RateLimiter};

const fn number(number: u32) -> NonZeroU32 {
    NonZeroU32::new(number).unwrap()
}

#[test]
fn bursts_of_governor_are_ours() {
    let quota = Quota::per_second(number(50));
    assert_eq!(quota.burst_size(), number(50));
    assert_eq!(backstop::Quota::per_second(50).limit(), 50);
    let period = Duration::from_millis(20);
    assert_eq!(Quota::with_period(period).unwrap().burst_size(), number(1));
    assert_eq!(backstop::Quota::new(1, period).limit(), 1);
}

#[test]
fn a_newcomer_overtakes_a_waiter_of_governor_and_none_of_ours() {
    let mut cx = Context::from_waker(Waker::noop());
    let period = Duration::from_millis(20);
    let limiter = RateLimiter::direct(Quota::with_period(period).unwrap());
    limiter.check().unwrap();
    let mut waiter = pin!(limiter.until_ready());
    assert!(waiter.as_mut().poll(&mut cx).is_pending());
    std::thread::sleep(period * 2);
    assert!(limiter.check().is_ok());
    // After its wait it finds no token, and waits again.
    assert!(waiter.as_mut().poll(&mut cx).is_pending());

    let clock = backstop::ManualClock::new();
    let limiter = backstop::RateLimiter::builder()
        .quota(backstop::Quota::new(1, period))
        .clock(clock.clone())
        .build()
        .unwrap();
    limiter.try_acquire().unwrap();
    let mut waiter = pin!(limiter.acquire());
    assert!(waiter.as_mut().poll(&mut cx).is_pending());
    clock.advance(period);
    assert!(limiter.try_acquire().is_err());
    assert!(matches!(waiter.as_mut().poll(&mut cx), Poll::Ready(Ok(()))));
}

#[test]
fn governor_keeps_all_keys_and_we_keep_max_keys() {
    let quota = Quota::per_hour(number(1));
    let governor = RateLimiter::keyed(quota);
    let ours = KeyedRateLimiter::<u32>::builder()
        .quota(backstop::Quota::per_hour(1))
        .max_keys(1000)
        .build()
        .unwrap();
    for key in 0..5000_u32 {
        let _ = (governor.check_key(&key), ours.try_acquire(&key));
    }
    assert_eq!(governor.len(), 5000);
    assert!(ours.len() <= 1000);
}

#[tokio::test(start_paused = true)]
async fn a_call_beyond_the_wait_queue_is_rejected_at_once() {
    let bulkhead = backstop::Bulkhead::builder()
        .max_concurrent(20)
        .max_waiting(40)
        .max_wait(Duration::from_millis(200))
        .build()
        .unwrap();
    let mut cx = Context::from_waker(Waker::noop());
    let running: Vec<_> = (0..20).map(|_| bulkhead.try_acquire().unwrap()).collect();
    let mut waiters: Vec<_> = (0..40).map(|_| Box::pin(bulkhead.acquire())).collect();
    for waiter in &mut waiters {
        assert!(waiter.as_mut().poll(&mut cx).is_pending());
    }
    let mut call_61 = pin!(bulkhead.acquire());
    assert!(matches!(
        call_61.as_mut().poll(&mut cx),
        Poll::Ready(Err(_))
    ));
    drop(running);
}
