//! Clocks, and what their going backwards means to the policies.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::thread;
use std::time::Duration;

use backstop::{
    Clock, ClockHandle, Instant, ManualClock, Policy, Quota, RateLimiter, Sleep, Timeout, deadline,
};

const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3600);

fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// A clock that a test can put back. Its sleeps wait for what it reads.
#[derive(Clone, Debug, Default)]
struct Adjustable {
    inner: ManualClock,
    back: Arc<AtomicU64>,
}

impl Adjustable {
    fn at(time: Duration) -> Self {
        let clock = Self::default();
        clock.advance(time);
        clock
    }

    fn advance(&self, by: Duration) {
        self.inner.advance(by);
    }

    fn put_back(&self, by: Duration) {
        self.back.fetch_add(by.as_nanos() as u64, Ordering::Relaxed);
    }
}

impl Clock for Adjustable {
    fn now(&self) -> Instant {
        let back = self.back.load(Ordering::Relaxed);
        Instant::from_nanos(self.inner.now().as_nanos() - back)
    }

    fn sleep_until(&self, deadline: Instant) -> Sleep {
        let back = Duration::from_nanos(self.back.load(Ordering::Relaxed));
        self.inner.sleep_until(deadline + back)
    }
}

fn handle(clock: &Adjustable) -> ClockHandle {
    clock.clone().into()
}

/// One quota of each algorithm, 10/s with a burst of 5 or as near to it as the algorithm has it.
fn quotas() -> [Quota; 6] {
    [
        Quota::per_second(10).burst(5),
        Quota::per_second(10).burst(5).warm_up(SECOND, 3),
        Quota::per_second(10).leaky_bucket(5),
        Quota::new(5, ms(500)).fixed_window(),
        Quota::new(5, ms(500)).sliding_log(),
        Quota::new(5, ms(500)).sliding_counter(),
    ]
}

fn drain(limiter: &RateLimiter) -> u32 {
    (0..1_000)
        .take_while(|_| limiter.try_acquire().is_ok())
        .count() as u32
}

#[test]
fn time_continues_from_where_it_was_when_a_clock_goes_back() {
    let clock = Adjustable::at(10 * HOUR);
    let handle = handle(&clock);
    let before = handle.now();
    clock.put_back(HOUR);
    assert_eq!(handle.now(), before);
    clock.advance(SECOND);
    assert_eq!(handle.now(), before + SECOND);
    clock.put_back(HOUR);
    clock.advance(SECOND);
    assert_eq!(handle.now(), before + SECOND);
    clock.advance(SECOND);
    assert_eq!(handle.now(), before + 2 * SECOND);
}

#[test]
fn time_stands_still_while_a_clock_makes_up_for_less_than_a_second() {
    let clock = Adjustable::at(HOUR);
    let handle = handle(&clock);
    let before = handle.now();
    clock.put_back(SECOND);
    assert_eq!(handle.now(), before);
    clock.advance(ms(999));
    assert_eq!(handle.now(), before);
    clock.advance(ms(2));
    assert_eq!(handle.now(), before + ms(1));
}

#[test]
fn a_sleep_on_a_clock_that_went_back_takes_its_time() {
    let clock = Adjustable::at(10 * HOUR);
    let handle = handle(&clock);
    handle.now();
    clock.put_back(HOUR);
    let mut sleep = Box::pin(handle.sleep_until(handle.now() + SECOND));
    let mut poll = || sleep.as_mut().poll(&mut Context::from_waker(Waker::noop()));
    assert!(poll().is_pending());
    clock.advance(ms(999));
    assert!(poll().is_pending());
    clock.advance(ms(1));
    assert_eq!(poll(), Poll::Ready(()));
}

/// Says whether it was woken.
#[derive(Default)]
struct Flag(AtomicBool);

impl std::task::Wake for Flag {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

struct Panicking;

impl std::task::Wake for Panicking {
    fn wake(self: Arc<Self>) {
        panic!("from the waker");
    }
}

#[test]
fn a_sleep_that_waits_when_its_clock_goes_back_takes_its_time() {
    let clock = Adjustable::at(10 * HOUR);
    let handle = handle(&clock);
    let mut sleep = Box::pin(handle.sleep_until(handle.now() + 2 * SECOND));
    let flag = Arc::new(Flag::default());
    let waker = Waker::from(flag.clone());
    let mut poll = || sleep.as_mut().poll(&mut Context::from_waker(&waker));
    assert!(poll().is_pending());
    clock.advance(SECOND);
    handle.now();
    clock.put_back(HOUR);
    handle.now();
    assert!(flag.0.load(Ordering::Relaxed), "to be started again");
    assert!(poll().is_pending());
    clock.advance(ms(999));
    assert!(poll().is_pending());
    clock.advance(ms(1));
    assert_eq!(poll(), Poll::Ready(()));
    assert_eq!(clock.inner.sleepers(), 0);
}

#[test]
fn a_waker_that_panics_in_a_jump_does_not_keep_other_sleeps_asleep() {
    let clock = Adjustable::at(10 * HOUR);
    let handle = handle(&clock);
    let flag = Arc::new(Flag::default());
    let wakers = [Waker::from(Arc::new(Panicking)), flag.clone().into()];
    let sleeps = wakers.map(|waker| {
        let mut sleep = Box::pin(handle.sleep_until(handle.now() + HOUR));
        let poll = sleep.as_mut().poll(&mut Context::from_waker(&waker));
        assert!(poll.is_pending());
        sleep
    });
    clock.put_back(2 * HOUR);
    let read = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| handle.now()));
    assert!(
        read.is_err(),
        "the panic reaches the thread that read the clock"
    );
    assert!(flag.0.load(Ordering::Relaxed));
    drop(sleeps);
}

#[test]
fn handles_of_one_arc_see_one_time() {
    let clock = Arc::new(Adjustable::at(10 * HOUR));
    let shared: Arc<dyn Clock> = clock.clone();
    let (first, second) = (ClockHandle::from(clock.clone()), ClockHandle::from(shared));
    let before = first.now();
    clock.put_back(HOUR);
    assert_eq!(second.now(), before);
    clock.advance(SECOND);
    assert_eq!(first.now(), before + SECOND);
}

#[test]
fn a_deadline_survives_a_clock_that_goes_back() {
    let clock = Arc::new(Adjustable::at(10 * HOUR));
    let timeout = |after| {
        Timeout::builder()
            .after(after)
            .clock(clock.clone())
            .build()
            .unwrap()
    };
    let (outer, inner) = (timeout(10 * SECOND), timeout(HOUR));
    let left = clock.inner.block_on(outer.call(|| async {
        clock.put_back(HOUR);
        clock.advance(SECOND);
        inner
            .call(|| async { Ok::<_, ()>(deadline::current_on(clock.clone())) })
            .await
            .map_err(|_| ())
    }));
    // The second before the first reading after the jump is part of the jump.
    assert_eq!(left, Ok(Some(10 * SECOND)));
}

/// Every second reading is 20 ms late.
#[derive(Debug, Default)]
struct Jittering {
    inner: ManualClock,
    readings: AtomicU64,
}

impl Clock for Jittering {
    fn now(&self) -> Instant {
        let late = self.readings.fetch_add(1, Ordering::Relaxed) % 2 * 20_000_000;
        Instant::from_nanos(self.inner.now().as_nanos().saturating_sub(late))
    }

    fn sleep_until(&self, deadline: Instant) -> Sleep {
        self.inner.sleep_until(deadline)
    }
}

#[test]
fn late_readings_earn_no_tokens() {
    let clock = Arc::new(Jittering::default());
    clock.inner.advance(HOUR);
    let quota = Quota::per_second(10).burst(1);
    let limiter = RateLimiter::builder().quota(quota).clock(clock.clone());
    let limiter = limiter.build().unwrap();
    let admitted = (0..2_000).filter(|_| limiter.try_acquire().is_ok()).count();
    assert_eq!(admitted, 1);
}

/// The system's clock, as a user would write it.
#[derive(Debug)]
struct Elapsed(std::time::Instant);

impl Clock for Elapsed {
    fn now(&self) -> Instant {
        Instant::from_nanos(self.0.elapsed().as_nanos() as u64)
    }

    fn sleep_until(&self, _: Instant) -> Sleep {
        Sleep::never()
    }
}

#[test]
fn racing_threads_earn_no_tokens() {
    const RATE: u64 = 100_000;

    let clock = Arc::new(Elapsed(std::time::Instant::now()));
    let quota = Quota::per_second(RATE).burst(RATE);
    let limiter = RateLimiter::builder().quota(quota).clock(clock.clone());
    let limiter = limiter.build().unwrap();
    let start = clock.now();
    let calls = || {
        (0..20_000)
            .filter(|_| limiter.try_acquire().is_ok())
            .count()
    };
    let admitted: usize = thread::scope(|scope| {
        let threads: Vec<_> = (0..32).map(|_| scope.spawn(calls)).collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .sum()
    });
    let nanos = clock.now().saturating_duration_since(start).as_nanos();
    let earned = nanos * u128::from(RATE) / 1_000_000_000;
    assert!(
        admitted as u128 <= earned + 1 + u128::from(RATE),
        "{admitted}"
    );
}

#[test]
fn after_a_clock_goes_back_by_an_hour_the_next_second_earns_its_tokens() {
    for quota in quotas() {
        let clock = Adjustable::at(24 * HOUR);
        let limiter = RateLimiter::builder().quota(quota).clock(clock.clone());
        let limiter = limiter.build().unwrap();
        drain(&limiter);
        clock.put_back(HOUR);
        assert_eq!(drain(&limiter), 0, "{quota:?}");
        clock.advance(SECOND);
        let admitted = drain(&limiter);
        assert!((1..=10).contains(&admitted), "{quota:?}: {admitted}");
    }
}

#[cfg(feature = "tokio")]
mod tokio_clock {
    use super::*;
    use backstop::TokioClock;
    use tokio::runtime::{Builder, Runtime};

    fn paused() -> Runtime {
        let mut builder = Builder::new_current_thread();
        builder.enable_time().start_paused(true).build().unwrap()
    }

    /// What a static limiter would say in a second test, after a first one that slept for two hours.
    #[test]
    fn a_limiter_forgets_how_far_a_paused_runtime_was() {
        for quota in [Quota::per_second(1), Quota::per_second(1).sliding_log()]
            .into_iter()
            .chain(quotas())
        {
            let limiter = RateLimiter::builder().quota(quota).build().unwrap();
            paused().block_on(async {
                drain(&limiter);
                tokio::time::sleep(2 * HOUR).await;
                drain(&limiter);
            });
            paused().block_on(async {
                drain(&limiter);
                let wait = limiter.try_acquire().unwrap_err().retry_after().unwrap();
                assert!(wait <= SECOND, "{quota:?}: {wait:?}");
                let start = tokio::time::Instant::now();
                limiter.acquire().await.unwrap();
                let waited = start.elapsed();
                assert!(waited <= SECOND + ms(1), "{quota:?}: {waited:?}");
                tokio::time::sleep(SECOND).await;
                assert!(drain(&limiter) >= 1, "{quota:?}");
            });
        }
    }

    #[test]
    fn a_keyed_limiter_forgets_how_far_a_paused_runtime_was() {
        let limiter = backstop::KeyedRateLimiter::<u32>::builder().quota(Quota::per_second(1));
        let limiter = limiter.build().unwrap();
        let take = || {
            let _ = limiter.try_acquire(&7);
            limiter.try_acquire(&7).unwrap_err().retry_after().unwrap()
        };
        paused().block_on(async {
            take();
            tokio::time::sleep(2 * HOUR).await;
            take();
        });
        paused().block_on(async {
            let wait = take();
            assert!(wait <= SECOND, "{wait:?}");
            tokio::time::sleep(SECOND).await;
            assert!(limiter.try_acquire(&7).is_ok());
        });
    }

    #[test]
    fn a_timeout_takes_its_time_in_the_second_paused_runtime() {
        let read = || ClockHandle::from(TokioClock).now();
        paused().block_on(async {
            read();
            tokio::time::sleep(2 * HOUR).await;
            read();
        });
        paused().block_on(async {
            let start = tokio::time::Instant::now();
            let timeout = Timeout::after(SECOND);
            let call = timeout.call(std::future::pending::<Result<(), ()>>);
            assert!(call.await.unwrap_err().is_timeout());
            assert!((SECOND..=SECOND + ms(1)).contains(&start.elapsed()));
        });
    }

    #[test]
    fn paused_runtimes_side_by_side_do_not_move_each_other() {
        let (first, second) = (paused(), paused());
        let limiter = RateLimiter::builder()
            .quota(Quota::per_hour(1))
            .build()
            .unwrap();
        second.block_on(async { limiter.try_acquire().unwrap() });
        first.block_on(async {
            tokio::time::sleep(2 * HOUR).await;
            ClockHandle::from(TokioClock).now();
        });
        second.block_on(async {
            assert!(limiter.try_acquire().is_err());
            tokio::time::sleep(HOUR).await;
            assert!(limiter.try_acquire().is_ok());
        });
    }
}

#[test]
fn a_waker_that_panics_keeps_no_other_sleeper_asleep() {
    struct Panics;
    impl Wake for Panics {
        fn wake(self: Arc<Self>) {
            panic!("on purpose");
        }
    }

    #[derive(Default)]
    struct Woken(AtomicBool);
    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.store(true, Ordering::Relaxed);
        }
    }

    let clock = ManualClock::new();
    let others = [SECOND, 2 * SECOND].map(|after| (after, Arc::new(Woken::default())));
    let sleep = |after, waker: Waker| {
        let mut sleep = Box::pin(clock.sleep(after));
        let polled = sleep.as_mut().poll(&mut Context::from_waker(&waker));
        assert!(polled.is_pending());
        sleep
    };
    let mut sleeps = vec![sleep(SECOND, Arc::new(Panics).into())];
    sleeps.extend(
        others
            .iter()
            .map(|(after, woken)| sleep(*after, woken.clone().into())),
    );
    let advance = std::panic::AssertUnwindSafe(|| clock.advance(3 * SECOND));
    std::panic::catch_unwind(advance).unwrap_err();
    for (after, woken) in &others {
        assert!(woken.0.load(Ordering::Relaxed), "the one after {after:?}");
    }
    assert_eq!(clock.now(), Instant::ORIGIN + 3 * SECOND);
}
