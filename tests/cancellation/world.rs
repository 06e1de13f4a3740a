//! The handles that a call may leave something behind in, and the check that it does not.

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::panic::resume_unwind;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use backstop::bulkhead::limit::Aimd;
use backstop::circuit_breaker::HalfOpen;
use backstop::{
    Backoff, Bulkhead, CircuitBreaker, Coalesce, Endpoints, Hedge, Jitter, KeyedRateLimiter,
    LoadShedder, ManualClock, Policy, Priority, Quota, RateLimiter, Retry, RetryBudget, Standard,
    Throttle, Timeout,
};

pub(crate) const STEP: Duration = Duration::from_millis(10);

/// Everything a call could leave something behind in.
pub(crate) struct World {
    pub(crate) clock: ManualClock,
    pub(crate) budget: RetryBudget,
    /// One permit, and room for one call that waits for it.
    pub(crate) bulkhead: Bulkhead,
    /// Takes one probe at a time, and needs two that end well.
    pub(crate) breaker: CircuitBreaker,
    /// A token for each step, and room for waiters.
    pub(crate) limiter: RateLimiter,
    pub(crate) limiters: KeyedRateLimiter<u32>,
    pub(crate) throttle: Throttle,
    /// Sheds about half of the calls once it has been updated a few times.
    pub(crate) shedder: LoadShedder,
    /// Two nodes, of which the first is ejected after one failure.
    pub(crate) endpoints: Endpoints<u32>,
    /// Launches a copy after half a step, and after a failure, while the budget of retries has some left.
    pub(crate) hedge: Hedge,
    pub(crate) coalesce: Coalesce<u32, (), ()>,
    /// Operations in flight.
    pub(crate) running: Rc<Cell<u32>>,
    /// Polls of operations left before one panics.
    pub(crate) fuse: Cell<u32>,
}

impl World {
    pub(crate) fn new() -> Self {
        let clock = ManualClock::new();
        let limit = Aimd::builder().initial(1).max(1).build().unwrap();
        let bulkhead = Bulkhead::builder().adaptive(limit).max_waiting(1);
        // Rejects about half of the calls after a failure.
        let throttle = Throttle::builder().seed(1).clock(clock.clone());
        let throttle = throttle
            .min_calls(1)
            .max_rejection(0.5)
            .grace(Duration::ZERO);
        let breaker = CircuitBreaker::builder()
            .break_for(Backoff::fixed(STEP).jitter(Jitter::None))
            .half_open(HalfOpen::successes(2))
            .permitted_calls(1)
            .clock(clock.clone());
        let quota = Quota::new(1, STEP).burst(1);
        let limiter = RateLimiter::builder().quota(quota).max_wait(STEP * 4);
        let limiters = KeyedRateLimiter::builder().quota(quota);
        let endpoints = Endpoints::builder()
            .node("a", 1)
            .node("b", 2)
            .eject_after(1);
        let endpoints = endpoints
            .base_ejection(STEP * 2)
            .seed(1)
            .clock(clock.clone());
        let shedder = LoadShedder::builder().seed(1).clock(clock.clone());
        let shedder = shedder.signal(1.0, || 1.0).max_shed(0.5);
        let budget = RetryBudget::in_flight().build().unwrap();
        let hedge = Hedge::builder()
            .after(STEP / 2)
            .max_hedges(2)
            .budget(budget.clone());
        let coalesce = Coalesce::builder().clock(clock.clone());
        Self {
            clock: clock.clone(),
            budget,
            hedge: hedge.clock(clock.clone()).build().unwrap(),
            coalesce: coalesce.build().unwrap(),
            breaker: breaker.build().unwrap(),
            limiter: limiter.clock(clock.clone()).build().unwrap(),
            limiters: limiters.clock(clock.clone()).build().unwrap(),
            bulkhead: bulkhead.max_wait(STEP * 2).clock(clock).build().unwrap(),
            throttle: throttle.build().unwrap(),
            endpoints: endpoints.build().unwrap(),
            shedder: shedder.update_interval(STEP).build().unwrap(),
            running: Rc::default(),
            fuse: Cell::new(u32::MAX),
        }
    }

    pub(crate) fn timeout(&self, steps: u32) -> Timeout {
        let timeout = Timeout::builder().after(STEP * steps);
        timeout.clock(self.clock.clone()).build().unwrap()
    }

    /// Three attempts, one step apart.
    pub(crate) fn retry(&self) -> Retry {
        let retry = Retry::builder()
            .backoff(Backoff::fixed(STEP).jitter(Jitter::None))
            .budget(self.budget.clone());
        retry.clock(self.clock.clone()).build().unwrap()
    }

    /// The layers of the world that it has, and timeouts around them.
    pub(crate) fn standard(&self) -> Standard {
        let standard = Standard::builder()
            .limiter(
                RateLimiter::builder()
                    .quota(Quota::new(1, STEP).burst(1))
                    .max_wait(STEP * 4),
            )
            .backoff(Backoff::fixed(STEP).jitter(Jitter::None))
            .budget(self.budget.clone())
            .total_timeout(STEP * 4)
            .attempt_timeout(STEP);
        standard.clock(self.clock.clone()).build().unwrap()
    }

    /// A retry that waits although its budget is empty.
    pub(crate) fn poor_retry(&self) -> Retry {
        let retry = Retry::builder()
            .backoff(Backoff::fixed(STEP).jitter(Jitter::None))
            .budget(RetryBudget::tokens().capacity(0).build().unwrap())
            .wait_when_budget_empty(true);
        retry.clock(self.clock.clone()).build().unwrap()
    }

    /// An operation that yields, sleeps for a step, yields again and fails.
    pub(crate) fn operation(&self) -> impl Future<Output = Result<(), ()>> + '_ {
        let running = Running::new(&self.running);
        let mut work = Box::pin(async move {
            let _running = running;
            yield_once().await;
            self.clock.sleep(STEP).await;
            yield_once().await;
            Err(())
        });
        poll_fn(move |cx| {
            match self.fuse.get() {
                0 => resume_unwind(Box::new("boom")),
                left => self.fuse.set(left - 1),
            }
            work.as_mut().poll(cx)
        })
    }

    #[track_caller]
    pub(crate) fn assert_nothing_is_left(&self, when: &str) {
        assert_eq!(self.clock.sleepers(), 0, "sleepers, {when}");
        assert_eq!(self.running.get(), 0, "operations, {when}");
        let budget = self.budget.snapshot();
        assert_eq!(budget.calls_in_flight, 0, "calls in the budget, {when}");
        assert_eq!(budget.extras_in_flight, 0, "retries in the budget, {when}");
        let bulkhead = self.bulkhead.snapshot();
        assert_eq!(bulkhead.in_flight, 0, "permits, {when}");
        assert_eq!(bulkhead.waiting, 0, "waiters, {when}");
        let limiter = self.limiter.snapshot();
        assert_eq!(limiter.waiting, 0, "callers that wait for a token, {when}");
        assert!(limiter.available[0] >= 0, "tokens, {when}");
        let breaker = self.breaker.snapshot();
        assert_eq!(breaker.probes_in_flight, 0, "probes, {when}");
        // Nor a health check, which would keep probes out.
        self.breaker.trip_for(Duration::ZERO);
        assert!(self.breaker.try_acquire().is_ok(), "health checks, {when}");
        assert_eq!(self.hedge.snapshot().in_flight, 0, "copies, {when}");
        let flights = self.coalesce.snapshot();
        let left = (flights.flights, flights.waiting);
        assert_eq!(left, (0, 0), "shared executions, {when}");
        let throttle = self.throttle.snapshot();
        assert_eq!(throttle.in_flight, 0, "calls in the throttle, {when}");
        let nodes = self.endpoints.snapshot().nodes;
        let in_flight: u32 = nodes.iter().map(|node| node.in_flight).sum();
        assert_eq!(in_flight, 0, "calls of endpoints, {when}");
        // It holds nothing for a call, and goes on as before.
        let shed = self.shedder.snapshot().rejected;
        let rejected = (0..100).filter(|_| self.shedder.try_acquire(Priority::LOWEST).is_err());
        let rejected = rejected.count() as u64;
        assert_eq!(
            self.shedder.snapshot().rejected,
            shed + rejected,
            "shed, {when}"
        );
        // Nor a deadline that the next call on this thread would inherit.
        let long = self.timeout(1000);
        let left = long.call_with(|attempt| async move { Ok::<_, ()>(attempt.remaining()) });
        let left = self.clock.block_on(left).unwrap();
        assert_eq!(left, Some(STEP * 1000), "the deadline, {when}");
    }
}

/// Counts an operation for as long as it lives.
struct Running(Rc<Cell<u32>>);

impl Running {
    fn new(count: &Rc<Cell<u32>>) -> Self {
        count.set(count.get() + 1);
        Self(count.clone())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

pub(crate) async fn yield_once() {
    let mut yielded = false;
    poll_fn(|cx| {
        if std::mem::replace(&mut yielded, true) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}
