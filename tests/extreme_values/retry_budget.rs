//! Retry budgets.

use super::values::{COUNTS, NUMBERS, TIMES, check};
use backstop::policy::ErrorClass;
use backstop::{Retry, RetryBudget};

use super::{clocks, try_out};

/// A call with more retries than there are, and a snapshot of what is left.
fn spend(budget: RetryBudget) {
    for _ in 0..3 {
        let mut call = budget.begin();
        for class in [
            ErrorClass::Transient,
            ErrorClass::Throttled,
            ErrorClass::Timeout,
        ] {
            call.failure();
            let before = budget.snapshot().available;
            let granted = call.withdraw(class).is_some();
            let after = budget.snapshot().available;
            assert!(
                before >= 0.0 && after >= 0.0 && after <= before,
                "{before} {after}"
            );
            assert!(
                granted || before < f64::from(u32::MAX),
                "{before} left and rejected"
            );
        }
        call.success();
    }
    try_out(Retry::builder().budget(budget));
}

#[test]
fn percentage_budgets() {
    let is_ratio = |ratio| (0.0..=1000.0).contains(&ratio);
    for clock in clocks() {
        let budget = || RetryBudget::percentage().clock(clock.clone());
        check(
            "ratio",
            &NUMBERS,
            is_ratio,
            |n| budget().ratio(n).build(),
            spend,
        );
        check(
            "floor",
            &COUNTS,
            |_| true,
            |n| budget().floor(n).build(),
            spend,
        );
        let is_window = |window| (TIMES[2]..=TIMES[3]).contains(&window);
        check(
            "window",
            &TIMES,
            is_window,
            |time| budget().window(time).build(),
            spend,
        );
        let largest = budget().ratio(1000.0).floor(u32::MAX).window(TIMES[3]);
        spend(largest.build().unwrap());
    }
}

#[test]
fn token_budgets() {
    let budget = RetryBudget::tokens;
    check(
        "capacity",
        &COUNTS,
        |_| true,
        |n| budget().capacity(n).build(),
        spend,
    );
    check(
        "initial",
        &COUNTS,
        |_| true,
        |n| budget().initial(n).build(),
        spend,
    );
    for class in [
        ErrorClass::Transient,
        ErrorClass::Throttled,
        ErrorClass::Timeout,
    ] {
        check(
            "cost",
            &COUNTS,
            |_| true,
            |n| budget().cost(class, n).build(),
            spend,
        );
        let largest = budget()
            .capacity(u32::MAX)
            .cost(class, u32::MAX)
            .reward(f64::MAX);
        spend(largest.build().unwrap());
    }
    let is_reward = |reward: f64| reward.is_finite() && reward >= 0.0;
    check(
        "reward",
        &NUMBERS,
        is_reward,
        |n| budget().reward(n).build(),
        spend,
    );
}

#[test]
fn grpc_budgets() {
    let is_max = |max| (1..=1000).contains(&max);
    check(
        "max_tokens",
        &COUNTS,
        is_max,
        |n| RetryBudget::grpc(n, 0.1).build(),
        spend,
    );
    let is_ratio = |ratio: f64| ratio.is_finite() && ratio >= 0.001;
    check(
        "ratio",
        &NUMBERS,
        is_ratio,
        |n| RetryBudget::grpc(10, n).build(),
        spend,
    );
}

#[test]
fn in_flight_budgets() {
    let budget = RetryBudget::in_flight;
    let is_ratio = |ratio| (0.0..=1000.0).contains(&ratio);
    check(
        "ratio",
        &NUMBERS,
        is_ratio,
        |n| budget().ratio(n).build(),
        spend,
    );
    check(
        "floor",
        &COUNTS,
        |_| true,
        |n| budget().floor(n).build(),
        spend,
    );
    spend(budget().ratio(1000.0).floor(u32::MAX).build().unwrap());
}
