use std::collections::VecDeque;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::clock::ManualClock;

const SECOND: Duration = Duration::from_secs(1);

fn percentage(ratio: f64, floor: u32, window: Duration) -> (ManualClock, RetryBudget) {
    let clock = ManualClock::new();
    let budget = RetryBudget::percentage()
        .ratio(ratio)
        .floor(floor)
        .window(window)
        .clock(clock.clone())
        .build()
        .unwrap();
    (clock, budget)
}

fn withdraw(budget: &RetryBudget) -> bool {
    let mut call = BudgetedCall {
        budget,
        last_price: BudgetedCall::NOTHING,
    };
    let allowed = call.withdraw(ErrorClass::Transient).is_some();
    // Never ends the call. Only the kind that counts calls in flight would differ, and these tests do not use it.
    std::mem::forget(call);
    allowed
}

#[test]
fn a_percentage_is_exact() {
    for percent in [0.1, 0.2, 0.3, 0.4, 0.6, 0.75, 0.9, 0.999, 1.5, 3.0] {
        let (_clock, budget) = percentage(percent, 0, SECOND);
        let allowed: u32 = (0..1000)
            .map(|_| {
                let _call = budget.begin();
                // Withdraws more often than any of these budgets allows.
                (0..4).map(|_| u32::from(withdraw(&budget))).sum::<u32>()
            })
            .sum();
        let expected = percent * 1000.0;
        assert!(
            (f64::from(allowed) - expected).abs() <= 1.0,
            "{percent}: {allowed}"
        );
    }
}

#[test]
fn a_year_of_idleness_costs_nothing() {
    let (clock, budget) = percentage(0.5, 0, SECOND);
    for _ in 0..10 {
        drop(budget.begin());
    }
    clock.advance(Duration::from_secs(365 * 86_400));
    // Clearing is O(1) by construction, because there are ten slices. This tests that all of them are cleared.
    assert_eq!(budget.snapshot().available, 0.0);
    drop((budget.begin(), budget.begin()));
    assert_eq!(budget.snapshot().available, 1.0);
}

#[test]
fn racing_withdrawals_never_overspend() {
    let clock = ManualClock::new();
    let budgets = [
        RetryBudget::percentage()
            .floor(50)
            .ratio(0.0)
            .clock(clock)
            .build(),
        RetryBudget::tokens().capacity(7000).build(),
    ];
    for budget in budgets.map(Result::unwrap) {
        let allowed = AtomicU32::new(0);
        thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..200 {
                        if withdraw(&budget) {
                            allowed.fetch_add(1, Ordering::Relaxed);
                        }
                    }
                });
            }
        });
        assert_eq!(allowed.into_inner(), 500);
    }
}

#[test]
fn racing_extras_never_exceed_their_share() {
    let budget = RetryBudget::in_flight()
        .ratio(0.0)
        .floor(3)
        .build()
        .unwrap();
    let (now, most) = (AtomicU32::new(0), AtomicU32::new(0));
    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                for _ in 0..1000 {
                    let mut call = budget.begin();
                    if let Some(extra) = call.withdraw(ErrorClass::Transient) {
                        most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                        now.fetch_sub(1, Ordering::SeqCst);
                        drop(extra);
                    }
                }
            });
        }
    });
    assert!((1..=3).contains(&most.into_inner()));
    let snapshot = budget.snapshot();
    assert_eq!(
        (snapshot.calls_in_flight, snapshot.extras_in_flight),
        (0, 0)
    );
}

#[test]
fn in_flight_allows_a_share_of_the_calls() {
    let budget = RetryBudget::in_flight()
        .ratio(0.5)
        .floor(1)
        .build()
        .unwrap();
    let mut calls: Vec<_> = (0..6).map(|_| budget.begin()).collect();
    let extras: Vec<_> = calls
        .iter_mut()
        .map(|call| call.withdraw(ErrorClass::Transient))
        .collect();
    assert_eq!(extras.iter().flatten().count(), 3);
    drop(extras);
    assert_eq!(budget.snapshot().available, 3.0);
    drop(calls);
    assert_eq!(budget.snapshot().available, 1.0);
}

#[test]
fn a_token_budget_refunds_what_the_last_retry_cost() {
    let budget = RetryBudget::tokens().build().unwrap();
    let mut call = budget.begin();
    drop(call.withdraw(ErrorClass::Transient));
    drop(call.withdraw(ErrorClass::Throttled));
    assert_eq!(budget.snapshot().available, 481.0);
    call.success();
    assert_eq!(budget.snapshot().available, 486.0);
    budget.begin().success();
    assert_eq!(budget.snapshot().available, 487.0);
}

#[test]
fn a_grpc_budget_allows_retries_above_half() {
    let budget = RetryBudget::grpc(4, 0.5).build().unwrap();
    let mut call = budget.begin();
    call.failure();
    assert!(call.withdraw(ErrorClass::Transient).is_some());
    call.failure();
    assert!(call.withdraw(ErrorClass::Transient).is_none());
    call.success();
    assert_eq!(budget.snapshot().available, 2.5);
    assert!(call.withdraw(ErrorClass::Transient).is_some());
    for _ in 0..9 {
        call.failure();
    }
    assert_eq!(budget.snapshot().available, 0.0);
}

#[test]
fn a_clock_that_goes_back_neither_freezes_nor_floods() {
    let share = Share::new(0.5, 0, &Slices::new(SECOND));
    let (deposits, mut withdrawals) = (Deposits::new(), Withdrawals::new());
    for _ in 0..10 {
        deposits.add(100_000);
    }
    withdrawals.add(100_000);
    assert_eq!(share.available(&deposits, &withdrawals, 100_000), 4);
    // Two slices back: all of it still counts.
    assert_eq!(share.available(&deposits, &withdrawals, 99_998), 4);
    // An hour back: forgotten, and new calls count at once.
    assert_eq!(share.available(&deposits, &withdrawals, 64_000), 0);
    for _ in 0..4 {
        deposits.add(64_000);
    }
    assert_eq!(share.available(&deposits, &withdrawals, 64_000), 2);
}

#[test]
fn settings_without_meaning_are_rejected() {
    let ratios = [f64::NAN, f64::INFINITY, -0.1, 1000.1];
    for ratio in ratios {
        assert!(RetryBudget::percentage().ratio(ratio).build().is_err());
        assert!(RetryBudget::in_flight().ratio(ratio).build().is_err());
    }
    for window in [Duration::ZERO, 61 * SECOND, Duration::MAX] {
        assert!(RetryBudget::percentage().window(window).build().is_err());
    }
    for reward in [f64::NAN, f64::INFINITY, -1.0] {
        assert!(RetryBudget::tokens().reward(reward).build().is_err());
    }
    for (max, ratio) in [(0, 0.1), (1001, 0.1), (10, 0.0), (10, f64::NAN), (10, -1.0)] {
        assert!(RetryBudget::grpc(max, ratio).build().is_err());
    }
}

#[test]
fn extreme_settings_saturate() {
    let (clock, budget) = percentage(1000.0, u32::MAX, 60 * SECOND);
    clock.advance(Duration::MAX);
    drop(budget.begin());
    assert!(withdraw(&budget));

    let tokens = RetryBudget::tokens()
        .capacity(u32::MAX)
        .initial(0)
        .reward(f64::MAX)
        .cost(ErrorClass::Timeout, u32::MAX)
        .build()
        .unwrap();
    assert!(!withdraw(&tokens));
    tokens.begin().success();
    assert_eq!(tokens.snapshot().available, f64::from(u32::MAX));

    let in_flight = RetryBudget::in_flight()
        .ratio(1000.0)
        .floor(u32::MAX)
        .build()
        .unwrap();
    assert!(in_flight.begin().withdraw(ErrorClass::Transient).is_some());
}

/// The model: a list of all operations, replayed from the start each time.
#[derive(Default)]
struct Model {
    deposits: VecDeque<u64>,
    withdrawals: VecDeque<u64>,
}

impl Model {
    fn available(&self, slice: u64, ratio: f64, reserve: f64) -> f64 {
        let inside = |list: &VecDeque<u64>| list.iter().filter(|at| slice - **at < 10).count();
        reserve + inside(&self.deposits) as f64 * ratio - inside(&self.withdrawals) as f64
    }
}

proptest! {
    #[test]
    fn a_percentage_budget_agrees_with_a_list_of_all_events(
        thousandths in 0_u32..3000,
        floor in 0_u32..3,
        window in 1_u64..=60,
        events in proptest::collection::vec((0_u64..2000, any::<bool>()), 1..200),
    ) {
        let ratio = f64::from(thousandths) / 1000.0;
        let (clock, budget) = percentage(ratio, floor, Duration::from_secs(window));
        let reserve = (u64::from(floor) * window) as f64;
        let mut model = Model::default();
        for (millis, is_call) in events {
            clock.advance(Duration::from_millis(millis));
            let slice = crate::clock::Clock::now(&clock).as_nanos() / (window * 100_000_000);
            if is_call {
                drop(budget.begin());
                model.deposits.push_back(slice);
            } else {
                let left = model.available(slice, ratio, reserve);
                let allowed = withdraw(&budget);
                // Where the two differ, the model is within rounding errors of the edge.
                prop_assert!(allowed == (left >= 1.0) || (left - 1.0).abs() < 1e-6);
                if allowed {
                    model.withdrawals.push_back(slice);
                }
            }
        }
    }
}

/// An operation on a bucket of tokens.
#[derive(Clone, Copy, Debug)]
enum Step {
    FirstTry,
    Failure(ErrorClass),
    RetriedSuccess(ErrorClass),
}

fn step() -> impl Strategy<Value = Step> {
    let class = prop_oneof![
        Just(ErrorClass::Transient),
        Just(ErrorClass::Throttled),
        Just(ErrorClass::Timeout),
    ];
    prop_oneof![
        Just(Step::FirstTry),
        class.clone().prop_map(Step::Failure),
        class.prop_map(Step::RetriedSuccess),
    ]
}

proptest! {
    #[test]
    fn a_token_budget_agrees_with_plain_arithmetic(
        capacity in 0_u32..60,
        prices in [0_u32..20, 0_u32..20, 0_u32..20],
        reward in 0_u32..4,
        steps in proptest::collection::vec(step(), 1..100),
    ) {
        let budget = RetryBudget::tokens()
            .capacity(capacity)
            .cost(ErrorClass::Transient, prices[0])
            .cost(ErrorClass::Throttled, prices[1])
            .cost(ErrorClass::Timeout, prices[2])
            .reward(f64::from(reward))
            .build()
            .unwrap();
        let mut model = i64::from(capacity);
        for step in steps {
            let mut call = budget.begin();
            let (class, succeeds) = match step {
                Step::FirstTry => (None, true),
                Step::Failure(class) => (Some(class), false),
                Step::RetriedSuccess(class) => (Some(class), true),
            };
            let mut refund = i64::from(reward);
            if let Some(class) = class {
                let price = i64::from(prices[class as usize]);
                let allowed = call.withdraw(class).is_some();
                prop_assert_eq!(allowed, model >= price);
                if allowed {
                    model -= price;
                    refund = price;
                }
            }
            if succeeds {
                call.success();
                model = (model + refund).min(i64::from(capacity));
            }
            prop_assert_eq!(budget.snapshot().available, model as f64);
        }
    }

    #[test]
    fn a_grpc_budget_agrees_with_plain_arithmetic(
        max in 1_u32..20,
        thousandths in 1_u32..3000,
        successes in proptest::collection::vec(any::<bool>(), 1..100),
    ) {
        let ratio = f64::from(thousandths) / 1000.0;
        let budget = RetryBudget::grpc(max, ratio).build().unwrap();
        let most = i64::from(max) * 1000;
        let mut model = most;
        for success in successes {
            let mut call = budget.begin();
            if success {
                call.success();
                model = (model + i64::from(thousandths)).min(most);
            } else {
                call.failure();
                model = (model - 1000).max(0);
            }
            prop_assert_eq!(call.withdraw(ErrorClass::Transient).is_some(), 2 * model > most);
            prop_assert_eq!(budget.snapshot().available, model as f64 / 1000.0);
        }
    }

    #[test]
    fn an_in_flight_budget_agrees_with_two_counters(
        hundredths in 0_u32..300,
        floor in 0_u32..5,
        events in proptest::collection::vec(0_u8..4, 1..200),
    ) {
        let ratio = f64::from(hundredths) / 100.0;
        let budget = RetryBudget::in_flight().ratio(ratio).floor(floor).build().unwrap();
        let (mut calls, mut extras) = (Vec::new(), Vec::new());
        for event in events {
            match event {
                0 => calls.push(budget.begin()),
                1 => drop(calls.pop()),
                2 => drop(extras.pop()),
                _ => {
                    let share = (calls.len() as f64 * ratio) as usize;
                    let allowed = extras.len() < share.max(floor as usize);
                    let Some(call) = calls.last_mut() else { continue };
                    let extra = call.withdraw(ErrorClass::Transient);
                    prop_assert_eq!(extra.is_some(), allowed);
                    extras.extend(extra);
                }
            }
            let snapshot = budget.snapshot();
            prop_assert_eq!(snapshot.calls_in_flight as usize, calls.len());
            prop_assert_eq!(snapshot.extras_in_flight as usize, extras.len());
        }
    }
}

#[test]
fn the_price_of_a_retry_is_refunded_once() {
    let budget = RetryBudget::tokens().initial(50).build().unwrap();
    let mut call = budget.begin();
    drop(call.withdraw(ErrorClass::Transient));
    assert_eq!(budget.snapshot().available, 36.0);
    call.success();
    assert_eq!(budget.snapshot().available, 50.0);
    call.success();
    assert_eq!(budget.snapshot().available, 51.0);
}

#[cfg(backstop_loom)]
mod loom_tests {
    use super::*;
    use loom::sync::Arc;

    #[test]
    fn loom_deposits_of_one_slice_are_all_counted() {
        loom::model(|| {
            let deposits = Arc::new(Deposits::new());
            let other = deposits.clone();
            let thread = loom::thread::spawn(move || other.add(25));
            deposits.add(25);
            thread.join().unwrap();
            let share = Share::new(1.0, 0, &Slices::new(SECOND));
            assert_eq!(share.available(&deposits, &Withdrawals::new(), 25), 2);
        });
    }

    #[test]
    fn loom_tokens_are_never_spent_twice() {
        loom::model(|| {
            let tokens = Arc::new(Tokens::new(3, 3));
            let other = tokens.clone();
            let thread = loom::thread::spawn(move || u32::from(other.take(2)));
            let taken = u32::from(tokens.take(2));
            assert_eq!(taken + thread.join().unwrap(), 1);
        });
    }

    #[test]
    fn loom_extras_never_exceed_their_share() {
        loom::model(|| {
            let in_flight = Arc::new(InFlight::new(0.0, 1));
            let other = in_flight.clone();
            let thread = loom::thread::spawn(move || u32::from(other.begin_extra()));
            let begun = u32::from(in_flight.begin_extra());
            assert_eq!(begun + thread.join().unwrap(), 1);
        });
    }
}

#[test]
fn tokens_come_back_with_time_and_no_fraction_is_lost() {
    let clock = ManualClock::new();
    let budget = RetryBudget::tokens()
        .capacity(100)
        .cost(ErrorClass::Transient, 1)
        .refill_per_second(0.3)
        .clock(clock.clone())
        .build()
        .unwrap();
    while withdraw(&budget) {}
    let mut allowed = 0;
    for _ in 0..10_001 {
        clock.advance(Duration::from_millis(7));
        let before = budget.snapshot();
        assert_eq!(before, budget.snapshot(), "reading changes nothing");
        allowed += u32::from(withdraw(&budget));
    }
    // 70.007 s at 0.3 tokens a second. A refill rounds down by less than a nanosecond.
    assert_eq!(allowed, 21);
    clock.advance(Duration::from_secs(86_400));
    assert_eq!(budget.snapshot().available, 100.0);
    assert!(withdraw(&budget));
    assert_eq!(budget.snapshot().available, 99.0);
}

#[test]
fn without_a_refill_only_successes_bring_tokens_back() {
    let budget = RetryBudget::tokens().capacity(14).build().unwrap();
    assert!(withdraw(&budget) && !withdraw(&budget));
    assert_eq!(budget.snapshot().available, 0.0);
    budget.begin().success();
    assert_eq!(budget.snapshot().available, 1.0);
}

#[test]
fn a_refill_must_be_a_number() {
    for refill in [-1.0, f64::NAN, f64::INFINITY] {
        let built = RetryBudget::tokens().refill_per_second(refill).build();
        assert_eq!(built.unwrap_err().setting(), "refill_per_second");
    }
    let budget = RetryBudget::tokens()
        .refill_per_second(f64::MAX)
        .clock(ManualClock::new())
        .build()
        .unwrap();
    assert_eq!(budget.snapshot().available, 500.0);
}
