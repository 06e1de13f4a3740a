//! Eight layers, four threads, and user code that panics at random wherever the library runs it.
//!
//! No permit or token is lost, no call waits forever, no limit is exceeded. `BACKSTOP_STORM` sets the number of
//! calls, `BACKSTOP_STORM_SEED` the seed:
//!
//! ```text
//! BACKSTOP_STORM=10000000 cargo test --release --test storm -- --nocapture
//! ```

mod user_code;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering::SeqCst};
use std::task::{Context as TaskContext, Poll, Waker};
use std::time::Duration;

use backstop::circuit_breaker::{HalfOpen, Trip};
use backstop::rate_limiter::{KeyedRateLimiter, Quota};
use backstop::{
    Backoff, Bulkhead, CircuitBreaker, Clock, Context, Error, LoadShedder, ManualClock, Pipeline,
    Policy, Priority, Retry, Throttle, Timeout,
};

use user_code::User::{self, Hook, Key as KeyCode, Operation};
use user_code::{Bell, DICE, Ears, KEYS_ALIVE, Key, ODDS, PANICS, roll, survive, user_code};

const THREADS: u64 = 4;
/// Number of concurrent calls per thread.
const SLOTS: usize = 12;
const LIMIT: u32 = 14;
const KEYS: u64 = 24;
const MAX_KEYS: usize = 16;
const RATE: u64 = 300;
const BURST: u64 = 8;
const ATTEMPTS: u64 = 3;
const BREAK: Duration = ms(40);
const PROBES: u32 = 3;

const fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

fn setting(name: &str, default: u64) -> u64 {
    match std::env::var(name) {
        Ok(text) => text.parse().expect("a number"),
        Err(_) => default,
    }
}

/// The operation's error.
#[derive(Debug)]
struct Down;

/// How a call ended.
#[derive(Clone, Copy, Debug, PartialEq)]
enum End {
    Succeeded,
    Failed,
    TimedOut,
    Rejected,
    /// A wait for a permit or a token without a stack.
    Bare,
    Panicked,
    Dropped,
}

const ENDS: [End; 7] = [
    End::Succeeded,
    End::Failed,
    End::TimedOut,
    End::Rejected,
    End::Bare,
    End::Panicked,
    End::Dropped,
];

struct World {
    clock: ManualClock,
    pipeline: Pipeline<(Timeout, Retry)>,
    limits: KeyedRateLimiter<Key>,
    bulkhead: Bulkhead,
    breaker: CircuitBreaker,
    throttle: Throttle,
    shedder: LoadShedder,
    attempt: Timeout,
    finished: Ears,
    inside: AtomicI64,
    admitted: [AtomicU64; KEYS as usize],
    ends: [AtomicU64; ENDS.len()],
}

/// A call inside the bulkhead, counted in flight.
struct Inside<'a>(&'a World);

impl<'a> Inside<'a> {
    fn new(world: &'a World) -> Self {
        let inside = world.inside.fetch_add(1, SeqCst) + 1;
        assert!(inside <= i64::from(LIMIT), "{inside} calls in the bulkhead");
        Self(world)
    }
}

impl Drop for Inside<'_> {
    fn drop(&mut self) {
        self.0.inside.fetch_sub(1, SeqCst);
        user_code(Operation);
    }
}

/// A call in progress.
struct Slot<'a> {
    future: Pin<Box<dyn Future<Output = End> + Send + 'a>>,
    woken: Arc<AtomicBool>,
    waker: Option<Waker>,
}

impl World {
    fn new() -> Self {
        let clock = ManualClock::new();
        let finished = Ears::default();
        let total = Timeout::builder().after_with(|_| {
            user_code(Hook);
            ms(100)
        });
        let retry = Retry::builder()
            .max_attempts(ATTEMPTS as u32)
            .backoff(Backoff::exponential(ms(5)))
            .delay_with(|retrying| {
                user_code(Hook);
                retrying.delay()
            })
            .on_retry(|_| user_code(Hook));
        let policies = (
            total.clock(clock.clone()).build().unwrap(),
            retry.clock(clock.clone()).build().unwrap(),
        );
        let limits = KeyedRateLimiter::builder()
            .quota(Quota::per_second(RATE).burst(BURST))
            .quota_for(|_: &Key| {
                user_code(Hook);
                None
            })
            .max_keys(MAX_KEYS)
            .max_wait(ms(60))
            .clock(clock.clone());
        let bulkhead = Bulkhead::builder()
            .max_concurrent(LIMIT)
            .max_waiting(16)
            .observer(Ears::default())
            .clock(clock.clone());
        let breaker = CircuitBreaker::builder()
            .trip_on(Trip::failure_rate(0.5).of_last(20).min_calls(10))
            .break_with(|_, _| {
                user_code(Hook);
                BREAK
            })
            .half_open(HalfOpen::successes(PROBES))
            .permitted_calls(PROBES)
            .observer(Ears::default())
            .clock(clock.clone());
        let throttle = Throttle::builder()
            .window(ms(2_000))
            .max_rejection(0.7)
            .observer(Ears::default())
            .clock(clock.clone());
        let shedder = LoadShedder::builder()
            .codel(ms(20), ms(100))
            .observer(Ears::default())
            .clock(clock.clone());
        let attempt = Timeout::builder().after(ms(8)).clock(clock.clone());
        Self {
            pipeline: Pipeline::new(policies).observer(finished.clone()),
            limits: limits.build().unwrap(),
            bulkhead: bulkhead.build().unwrap(),
            breaker: breaker.build().unwrap(),
            throttle: throttle.build().unwrap(),
            shedder: shedder.build().unwrap(),
            attempt: attempt.build().unwrap(),
            clock,
            finished,
            inside: AtomicI64::new(0),
            admitted: [const { AtomicU64::new(0) }; KEYS as usize],
            ends: [const { AtomicU64::new(0) }; ENDS.len()],
        }
    }

    /// The operation: it answers immediately or later, fails, hangs, or panics.
    async fn work(&self, inside: Inside<'_>) -> Result<(), Down> {
        user_code(Operation);
        match roll(32) {
            0 => std::future::pending().await,
            1..=8 => self.clock.sleep(ms(roll(8))).await,
            _ => {}
        }
        user_code(Operation);
        // In some periods most calls fail, so that the circuit opens and closes.
        let is_bad = self.clock.now().as_nanos() / 100_000_000 % 5 == 0;
        let fails = roll(20) < if is_bad { 15 } else { 1 };
        drop(inside);
        if fails { Err(Down) } else { Ok(()) }
    }

    async fn call(&self) -> End {
        let key = Key::new(roll(KEYS));
        let attempts = AtomicU64::new(0);
        let stack = (
            self.limits.get(&key),
            &self.bulkhead,
            &self.breaker,
            &self.throttle,
            &self.shedder,
            &self.attempt,
        );
        let result = self.pipeline.around(stack);
        let result = result.call(|| {
            let inside = Inside::new(self);
            self.admitted[key.0 as usize].fetch_add(1, SeqCst);
            assert!(attempts.fetch_add(1, SeqCst) < ATTEMPTS);
            user_code(Operation);
            self.work(inside)
        });
        match result.await {
            Ok(()) => End::Succeeded,
            Err(Error::Operation(Down)) => End::Failed,
            Err(Error::TimedOut(_)) => End::TimedOut,
            Err(_) => End::Rejected,
        }
    }

    /// Waits for a permit and for a token, without a timeout that would hide a lost wake-up.
    async fn bare(&self) -> End {
        if roll(2) == 0 {
            let key = Key::new(roll(KEYS));
            if self
                .limits
                .acquire_within(&key, 1, ms(60_000))
                .await
                .is_ok()
            {
                self.admitted[key.0 as usize].fetch_add(1, SeqCst);
            }
        } else if let Ok(permit) = self.bulkhead.acquire_with(Context::new()).await {
            let inside = Inside::new(self);
            self.clock.sleep(ms(roll(6))).await;
            drop(inside);
            drop(permit);
        }
        End::Bare
    }

    fn begin(&self) -> Slot<'_> {
        Slot {
            future: if roll(8) == 0 {
                Box::pin(self.bare())
            } else {
                Box::pin(self.call())
            },
            woken: Arc::new(AtomicBool::new(true)),
            waker: None,
        }
    }

    /// Polls a call.
    fn poll(&self, slot: &mut Slot<'_>) -> Option<End> {
        slot.woken.store(false, SeqCst);
        let polled = survive(|| {
            if slot.waker.is_none() || roll(2) == 0 {
                slot.waker = Some(Waker::from(Arc::new(Bell(slot.woken.clone()))));
            }
            let waker = slot.waker.as_ref().expect("it has been made");
            slot.future
                .as_mut()
                .poll(&mut TaskContext::from_waker(waker))
        });
        match polled {
            Some(Poll::Ready(end)) => Some(end),
            Some(Poll::Pending) => None,
            None => Some(End::Panicked),
        }
    }

    fn end(&self, slot: Slot<'_>, end: End) {
        self.ends[end as usize].fetch_add(1, SeqCst);
        let Slot { future, waker, .. } = slot;
        survive(|| drop(future));
        survive(|| drop(waker));
    }

    fn advance(&self, by: Duration) {
        survive(|| self.clock.advance(by));
    }

    /// Makes calls on this thread. Returns those still in progress.
    fn rage(&self, thread: u64, left: &AtomicI64, seed: u64) -> Vec<Slot<'_>> {
        DICE.set(seed.wrapping_mul(THREADS).wrapping_add(thread) << 32);
        ODDS.set(300);
        let mut slots: Vec<Slot<'_>> = Vec::new();
        // The first thread advances the clock, so the threads end together.
        while left.load(SeqCst) > 0 {
            if thread == 0 && roll(4) == 0 {
                self.advance(ms(roll(3)));
            }
            let mut is_idle = true;
            if slots.len() < SLOTS && left.fetch_sub(1, SeqCst) > 0 {
                slots.push(self.begin());
                is_idle = false;
                // Polls a call spuriously, or drops it.
                let at = roll(slots.len() as u64) as usize;
                let end = match roll(20) {
                    0 => Some(End::Dropped),
                    1 | 2 => self.poll(&mut slots[at]),
                    _ => None,
                };
                if let Some(end) = end {
                    self.end(slots.swap_remove(at), end);
                }
            }
            let mut at = 0;
            while at < slots.len() {
                if slots[at].woken.load(SeqCst) {
                    is_idle = false;
                    if let Some(end) = self.poll(&mut slots[at]) {
                        self.end(slots.swap_remove(at), end);
                        continue;
                    }
                }
                at += 1;
            }
            if is_idle && thread == 0 {
                self.advance(ms(1));
            } else if is_idle {
                std::thread::yield_now();
            }
        }
        slots
    }

    /// Finishes the calls in progress. Polls a call only if it was woken.
    fn finish(&self, mut slots: Vec<Slot<'_>>) {
        for _ in 0..100_000 {
            while let Some(at) = slots.iter().position(|slot| slot.woken.load(SeqCst)) {
                if let Some(end) = self.poll(&mut slots[at]) {
                    self.end(slots.swap_remove(at), end);
                }
            }
            let bulkhead = self.bulkhead.snapshot();
            assert!(
                bulkhead.waiting == 0 || bulkhead.in_flight == LIMIT,
                "calls wait for permits that are free: {bulkhead:?}"
            );
            if slots.is_empty() {
                return;
            }
            self.advance(ms(5));
        }
        panic!("{} calls wait forever", slots.len());
    }

    /// Checks that every permit and token was returned and that every policy still works.
    fn check(&self) {
        let bulkhead = self.bulkhead.snapshot();
        assert_eq!((bulkhead.in_flight, bulkhead.waiting), (0, 0));
        assert_eq!(self.inside.load(SeqCst), 0);
        assert_eq!(self.clock.sleepers(), 0);
        let permits: Vec<_> = (0..LIMIT).map(|_| self.bulkhead.try_acquire()).collect();
        assert!(permits.iter().all(Result::is_ok) && self.bulkhead.try_acquire().is_err());
        drop(permits);

        let seconds = self.clock.now().as_nanos().div_ceil(1_000_000_000);
        for admitted in &self.admitted {
            let admitted = admitted.load(SeqCst);
            assert!(
                admitted <= RATE * seconds + BURST,
                "{admitted} in {seconds} s"
            );
        }
        let (remembered, mut visited) = (self.limits.len(), 0);
        self.limits.for_each(|_, _| visited += 1);
        assert!(remembered <= MAX_KEYS && remembered == visited);
        self.clock.advance(ms(3_600_000));
        self.limits.evict_idle();
        assert_eq!(self.limits.len(), 0);
        for key in 0..MAX_KEYS as u64 {
            let admitted = (0..=BURST).filter(|_| self.limits.try_acquire(&Key::new(key)).is_ok());
            assert_eq!(admitted.count() as u64, BURST, "key {key}");
        }

        assert_eq!(self.breaker.snapshot().probes_in_flight, 0);
        self.breaker.trip_for(BREAK);
        assert!(self.breaker.try_acquire().is_err());
        self.clock.advance(BREAK);
        let probes: Vec<_> = (0..PROBES).map(|_| self.breaker.try_acquire()).collect();
        assert!(self.breaker.try_acquire().is_err());
        probes
            .into_iter()
            .for_each(|probe| probe.unwrap().success());
        assert_eq!(
            self.breaker.state(),
            backstop::circuit_breaker::State::Closed
        );

        for _ in 0..100 {
            self.throttle.try_acquire().unwrap().success();
            self.shedder.observe_delay(Duration::ZERO);
            self.shedder.try_acquire(Priority::default()).unwrap();
        }
    }
}

#[test]
fn eight_layers_lose_nothing_when_all_user_code_panics_at_random() {
    let default = if cfg!(debug_assertions) {
        20_000
    } else {
        400_000
    };
    let calls = setting("BACKSTOP_STORM", default);
    let seed = setting("BACKSTOP_STORM_SEED", 1);
    let world = World::new();
    let left = AtomicI64::new(calls as i64);
    let slots: Vec<Slot<'_>> = std::thread::scope(|scope| {
        let rage = |thread| world.rage(thread, &left, seed);
        let threads: Vec<_> = (0..THREADS)
            .map(|thread| scope.spawn(move || rage(thread)))
            .collect();
        threads
            .into_iter()
            .flat_map(|thread| thread.join().unwrap())
            .collect()
    });
    ODDS.set(300);
    world.finish(slots);
    ODDS.set(0);
    world.check();

    let count = |counter: &AtomicU64| counter.load(SeqCst);
    let ended = ENDS.map(|end| (end, count(&world.ends[end as usize])));
    println!(
        "{calls} calls in {:?} of virtual time, seed {seed}: {ended:?}",
        Duration::from_nanos(world.clock.now().as_nanos()),
    );
    let sum = |ends: &[(End, u64)]| ends.iter().map(|(_, calls)| calls).sum::<u64>();
    assert_eq!(sum(&ended), calls);
    assert!(ended.iter().all(|(_, calls)| *calls > 0));
    let finished = count(&world.finished.0);
    assert!(sum(&ended[..4]) <= finished && finished <= calls);
    let kinds = [Operation, User::Observer, Hook, KeyCode, User::Waker];
    for kind in kinds {
        let panics = count(&PANICS[kind as usize]);
        println!("panics in {kind:?}: {panics}");
        assert!(panics > 0, "{kind:?}");
    }
    println!("{:?}", world.breaker.snapshot());
    drop(world);
    assert_eq!(KEYS_ALIVE.load(SeqCst), 0);
}
