//! Hedges beside retries, breakers, bulkheads, and budgets.

use super::*;
use backstop::circuit_breaker::{HalfOpen, State};
use backstop::keyed::Evictable;
use backstop::{
    Backoff, Bulkhead, CircuitBreaker, Jitter, Keyed, Pipeline, Quota, RateLimiter, Reason, Retry,
    RetryBudget,
};

fn half_open(clock: &ManualClock, probes: u32) -> CircuitBreaker {
    let breaker = CircuitBreaker::builder()
        .half_open(HalfOpen::successes(probes))
        .permitted_calls(probes)
        .clock(clock.clone());
    let breaker = breaker.build().unwrap();
    breaker.half_open();
    breaker
}

#[test]
fn a_probe_of_a_breaker_outside_is_not_hedged() {
    let (clock, heard) = (ManualClock::new(), Heard::default());
    let breaker = half_open(&clock, 1);
    let hedge = hedge(&clock, 50).build().unwrap();
    let stack = Pipeline::new((&breaker, &hedge)).observer(heard.observer());
    assert_eq!(call!(&clock, &stack, [Good(200)]), good(0, 200, &[0]));
    assert_eq!(heard.take(), ["hedge: no copy: half-open"]);
    assert_eq!(breaker.state(), State::Closed);
    // Closed again.
    assert_eq!(
        call!(&clock, &stack, [Good(200), Good(1)]),
        good(1, 51, &[0, 50])
    );
}

#[test]
fn a_breaker_inside_that_is_half_open_rejects_copies() {
    let clock = ManualClock::new();
    let breaker = half_open(&clock, 3);
    let hedge = hedge(&clock, 50).build().unwrap();
    let stack = (&hedge, &breaker);
    // There would be a place for another probe.
    assert_eq!(call!(&clock, &stack, [Good(200)]), good(0, 200, &[0]));
    assert_eq!(breaker.snapshot().probes_in_flight, 0);
    assert_eq!(hedge.snapshot().lost, 1);
    // The break is over, and a copy must not be the first probe.
    breaker.trip_for(Duration::ZERO);
    assert_eq!(call!(&clock, &stack, [Good(200)]), good(0, 200, &[0]));
}

#[test]
fn an_open_circuit_ends_the_call() {
    let clock = ManualClock::new();
    let breaker = CircuitBreaker::builder()
        .clock(clock.clone())
        .build()
        .unwrap();
    breaker.trip();
    let hedge = hedge(&clock, 50).build().unwrap();
    let seen = call!(&clock, &(&hedge, &breaker), []);
    assert_eq!(seen.result.unwrap_err().reason(), Some(Reason::CircuitOpen));
    assert_eq!(hedge.snapshot().launched, 0);
}

#[test]
fn a_copy_that_is_rejected_leaves_the_call_to_the_first() {
    let clock = ManualClock::new();
    let room = Bulkhead::builder().max_concurrent(1).clock(clock.clone());
    let stack = (hedge(&clock, 50).build().unwrap(), room.build().unwrap());
    assert_eq!(call!(&clock, &stack, [Good(200)]), good(0, 200, &[0]));
    // The error of the copy that was executed, although the rejection came last.
    assert_eq!(
        call!(&clock, &stack, [Down(200)]),
        bad(Fault::Down(0), 200, &[0])
    );
    let report = clock.block_on(stack.call_reported(|| async {
        clock.sleep(ms(200)).await;
        Err::<(), _>(())
    }));
    assert_eq!(
        report.last_rejection.unwrap().reason(),
        Reason::BulkheadFull
    );
}

#[test]
fn a_retry_outside_repeats_a_call_whose_copies_all_failed() {
    let clock = ManualClock::new();
    let retry = Retry::builder().backoff(Backoff::NONE).clock(clock.clone());
    let stack = (retry.build().unwrap(), hedge(&clock, 50).build().unwrap());
    let seen = call!(&clock, &stack, [Down(10), Down(10), Down(10), Good(10)]);
    assert_eq!(seen, good(3, 40, &[0, 10, 20, 30]));
}

#[test]
fn a_budget_that_a_retry_shares_counts_a_call_once() {
    let clock = ManualClock::new();
    let budget = RetryBudget::in_flight().build().unwrap();
    let retry = Retry::builder()
        .backoff(Backoff::NONE)
        .budget(budget.clone());
    let retry = retry.clock(clock.clone()).build().unwrap();
    let hedge = hedge(&clock, 50).budget(budget.clone()).build().unwrap();
    let seen = RefCell::new(Vec::new());
    let observe = || {
        let now = budget.snapshot();
        seen.borrow_mut()
            .push((now.calls_in_flight, now.extras_in_flight));
        async {
            clock.sleep(ms(100)).await;
            Ok::<_, ()>(())
        }
    };
    clock.block_on((&retry, &hedge).call(observe)).unwrap();
    clock.block_on(hedge.call(observe)).unwrap();
    assert_eq!(seen.into_inner(), [(1, 0), (1, 1), (1, 0), (1, 1)]);
    let after = budget.snapshot();
    assert_eq!((after.calls_in_flight, after.extras_in_flight), (0, 0));

    // One deposit a call: 10 calls allow one extra, by whichever layer.
    let budget = RetryBudget::percentage().ratio(0.1).floor(0);
    let budget = budget.clock(clock.clone()).build().unwrap();
    let retry = Retry::builder().budget(budget.clone()).clock(clock.clone());
    let hedge = Hedge::builder()
        .after(ms(50))
        .budget(budget.clone())
        .clock(clock.clone());
    let stack = (retry.build().unwrap(), hedge.build().unwrap());
    for _ in 0..10 {
        clock
            .block_on(stack.call(|| async { Ok::<_, ()>(()) }))
            .unwrap();
    }
    assert_eq!(budget.snapshot().available, 1.0);
}

#[test]
fn a_result_is_recorded_once() {
    // gRPC's budget: a failed attempt takes a token, a good call gives one.
    let clock = ManualClock::new();
    let budget = RetryBudget::grpc(10, 1.0).build().unwrap();
    let retry = Retry::builder().max_attempts(1).budget(budget.clone());
    let retry = retry.clock(clock.clone()).build().unwrap();
    let hedge = hedge(&clock, 50).budget(budget.clone()).build().unwrap();
    let stack = (&retry, &hedge);
    call!(&clock, &stack, [Down(0), Down(0)]);
    assert_eq!(budget.snapshot().available, 8.0);
    call!(&clock, &hedge, [Down(0), Down(0)]);
    assert_eq!(budget.snapshot().available, 6.0);
    call!(&clock, &stack, [Down(0), Good(0)]);
    call!(&clock, &hedge, [Down(0), Good(0)]);
    assert_eq!(budget.snapshot().available, 6.0);
    // Half of it is left: no copies.
    call!(&clock, &hedge, [Down(0), Down(0)]);
    assert_eq!(budget.snapshot().available, 4.0);
    assert_eq!(
        call!(&clock, &hedge, [Down(0)]),
        bad(Fault::Down(0), 0, &[0])
    );
}

#[test]
fn what_a_copy_has_paid_is_paid_back_when_the_call_succeeds() {
    let clock = ManualClock::new();
    let budget = RetryBudget::tokens().capacity(100).build().unwrap();
    let retry = Retry::builder().budget(budget.clone()).clock(clock.clone());
    let retry = retry.build().unwrap();
    let hedge = hedge(&clock, 50).budget(budget.clone()).build().unwrap();
    call!(&clock, &(&retry, &hedge), [Hang, Good(1)]);
    assert_eq!(budget.snapshot().available, 100.0);
    call!(&clock, &hedge, [Hang, Good(1)]);
    assert_eq!(budget.snapshot().available, 100.0);
}

#[test]
fn a_hedge_of_each_key_is_evicted_when_its_latencies_are_forgotten() {
    let clock = ManualClock::new();
    let template = Hedge::builder().clock(clock.clone());
    let hosts = Keyed::<u64, _>::try_new(move || template.clone().build()).unwrap();
    let call = || async { Ok::<_, ()>(()) };
    clock.block_on(hosts.get(&1).call(call)).unwrap();
    hosts.evict_idle();
    assert_eq!(hosts.len(), 1);
    clock.advance(Duration::from_secs(60));
    hosts.evict_idle();
    assert_eq!(hosts.len(), 0);
    let fixed = hedge(&clock, 1).build().unwrap();
    assert_eq!(fixed.evictable_in(), Some(Duration::ZERO));
    let other = fixed.clone();
    assert_eq!(other.evictable_in(), None);
}

#[test]
fn a_copy_that_the_shared_budget_denies_costs_nothing_of_the_extra_load() {
    let clock = ManualClock::new();
    let budget = RetryBudget::in_flight()
        .ratio(0.0)
        .floor(1)
        .build()
        .unwrap();
    let hedge = hedge(&clock, 50).max_extra_load(0.5);
    let hedge = hedge.budget(budget.clone()).build().unwrap();
    {
        let mut other = budget.begin();
        let _retry = other.withdraw(backstop::ErrorClass::Transient).unwrap();
        for _ in 0..2 {
            assert_eq!(call!(&clock, &hedge, [Good(60)]).starts, [0]);
        }
    }
    // Two calls and a half allow one copy.
    assert_eq!(call!(&clock, &hedge, [Hang, Good(1)]).starts, [0, 50]);
}

#[test]
fn a_retry_outside_obeys_what_the_server_of_any_copy_asked_for() {
    let clock = ManualClock::new();
    // The last copy fails without a hint.
    for (script, starts) in [
        (
            &[Bad(60, Fault::Busy(500)), Down(20), Good(1)][..],
            &[0, 50, 560][..],
        ),
        (
            &[Down(90), Bad(10, Fault::Busy(500)), Good(1)],
            &[0, 50, 560],
        ),
        // Another copy asked for more.
        (
            &[Bad(60, Fault::Busy(500)), Bad(20, Fault::Busy(5)), Good(1)],
            &[0, 50, 560],
        ),
        (
            &[Bad(60, Fault::Busy(5)), Bad(20, Fault::Busy(500)), Good(1)],
            &[0, 50, 570],
        ),
        // The hint has passed, so the backoff applies.
        (&[Bad(60, Fault::Busy(5)), Down(20), Good(1)], &[0, 50, 77]),
        // A server said not to try again.
        (&[Bad(60, Fault::Final), Down(20)], &[0, 50]),
        (&[Down(90), Bad(10, Fault::Final)], &[0, 50]),
    ] {
        let retry = Retry::builder()
            .backoff(Backoff::fixed(ms(7)).jitter(Jitter::None))
            .throttled_backoff(Backoff::fixed(ms(7)).jitter(Jitter::None))
            .clock(clock.clone());
        let retry = retry.build().unwrap();
        let hedge = hedge(&clock, 50).build().unwrap();
        let seen = call!(&clock, &(retry, hedge, classify()), script);
        assert_eq!(seen.starts, starts, "{script:?}");
    }
}

#[test]
fn a_copy_that_an_inner_layer_rejects_costs_no_budget() {
    let clock = ManualClock::new();
    let tokens = RetryBudget::tokens().capacity(100).initial(50).build();
    let budget = tokens.unwrap();
    let bulkhead = Bulkhead::builder().max_concurrent(1).clock(clock.clone());
    let bulkhead = bulkhead.build().unwrap();
    let hedge = hedge(&clock, 50).budget(budget.clone()).build().unwrap();
    let stack = (&hedge, &bulkhead);
    // The reward of a success at the first attempt.
    assert_eq!(call!(&clock, &stack, [Good(60)]), good(0, 60, &[0]));
    assert_eq!(budget.snapshot().available, 51.0);
    assert_eq!(
        call!(&clock, &stack, [Down(60)]),
        bad(Fault::Down(0), 60, &[0])
    );
    assert_eq!(budget.snapshot().available, 51.0);
    assert_eq!(
        (hedge.snapshot().launched, bulkhead.snapshot().rejected),
        (2, 2)
    );
}

#[test]
fn copies_that_are_rejected_one_after_the_other_cost_and_earn_nothing() {
    let clock = ManualClock::new();
    // The first copy holds the permit. The others wait for it from 50 and 100 ms on, for 100 ms each.
    for (script, expected, tokens) in [
        (&[Good(300)][..], good(0, 300, &[0]), 51.0),
        (&[Good(160)], good(0, 160, &[0]), 50.0),
        (&[Down(160), Good(10)], good(1, 170, &[0, 160]), 50.0),
        (
            &[Down(160), Down(10)],
            bad(Fault::Down(1), 170, &[0, 160]),
            40.0,
        ),
    ] {
        let tokens_of = RetryBudget::tokens().capacity(100).initial(50);
        let tokens_of = tokens_of.cost(backstop::ErrorClass::Timeout, 10);
        let budget = tokens_of.build().unwrap();
        let bulkhead = Bulkhead::builder().max_concurrent(1).max_waiting(2);
        let bulkhead = bulkhead.max_wait(ms(100)).clock(clock.clone());
        let hedge = hedge(&clock, 50).max_hedges(2).budget(budget.clone());
        let stack = (
            hedge.build().unwrap(),
            bulkhead.build().unwrap(),
            classify(),
        );
        assert_eq!(call!(&clock, &stack, script), expected);
        assert_eq!(budget.snapshot().available, tokens, "{script:?}");
    }
}

#[test]
fn a_result_is_recorded_once_if_a_rejected_copy_ends_last() {
    let clock = ManualClock::new();
    let budget = RetryBudget::grpc(10, 1.0).build().unwrap();
    let retry = Retry::builder().max_attempts(1).budget(budget.clone());
    let retry = retry.clock(clock.clone()).build().unwrap();
    let hedge = hedge(&clock, 50).budget(budget.clone()).build().unwrap();
    for (attempts, left) in [(&[Down(0)][..], 9.0), (&[Down(60)], 8.0)] {
        let quota = RateLimiter::builder().quota(Quota::per_hour(1).burst(1));
        let limiter = quota.clock(clock.clone()).build().unwrap();
        call!(&clock, &(&retry, &hedge, limiter), attempts);
        assert_eq!(budget.snapshot().available, left);
    }
    // Without a layer outside.
    let quota = RateLimiter::builder().quota(Quota::per_hour(1).burst(1));
    let limiter = quota.clock(clock.clone()).build().unwrap();
    call!(&clock, &(&hedge, limiter), [Down(0)]);
    assert_eq!(budget.snapshot().available, 7.0);
}

#[test]
fn a_retry_outside_waits_for_the_rest_of_a_hint_only() {
    for (hint, again) in [(500, 560), (50, 157)] {
        let clock = ManualClock::new();
        let backoff = Backoff::fixed(ms(7)).jitter(Jitter::None);
        let retry = Retry::builder().max_attempts(2).backoff(backoff.clone());
        let retry = retry.throttled_backoff(backoff).clock(clock.clone());
        let bulkhead = Bulkhead::builder().max_concurrent(1).max_waiting(2);
        let bulkhead = bulkhead.max_wait(ms(100)).clock(clock.clone());
        let bulkhead = bulkhead.build().unwrap();
        let hedge = hedge(&clock, 50).build().unwrap();
        let stack = (retry.build().unwrap(), hedge, &bulkhead, classify());
        let starts = RefCell::new(Vec::new());
        // The first copy fails at 60 ms.
        let call = stack.call(|| {
            starts.borrow_mut().push(elapsed(&clock));
            let is_first = starts.borrow().len() == 1;
            let clock = &clock;
            async move {
                if is_first {
                    clock.sleep(ms(60)).await;
                    return Err(Fault::Busy(hint));
                }
                Ok(())
            }
        });
        // This call has its permit next, so that the other copy is rejected at 150 ms.
        let other = async {
            clock.sleep(ms(10)).await;
            let _permit = bulkhead.acquire().await.unwrap();
            clock.sleep(ms(95)).await;
        };
        let (result, ()) = clock.block_on(async { futures::join!(call, other) });
        assert_eq!(result, Ok(()));
        assert_eq!(*starts.borrow(), [ms(0), ms(again)], "a hint of {hint} ms");
    }
}
