//! A [`Retry`] with [`RetryBudget::grpc`] as gRPC's retry throttling.

use std::cell::Cell;
use std::collections::BTreeSet;

use backstop::policy::ErrorClass;
use backstop::{Backoff, Policy, Retry, RetryBudget};
use serde_json::Value;

use super::clock::TestClock;
use super::harness::{Adapter, Check, Failure, Scenario, Step, failed, inexpressible, unknown};

pub(crate) const ADAPTER: Adapter = Adapter {
    name: "Retry with RetryBudget::grpc",
    accepts: |file| {
        let grpc = [
            "grpc/grpc-go",
            "grpc/grpc-java",
            "grpc/grpc",
            "grpc/proposal",
        ];
        file.pattern() == "retry_budget" && grpc.iter().any(|project| file.is_from(project))
    },
    run,
};

fn run(scenario: &Scenario<'_>) -> Check {
    let clock = TestClock::new();
    let config = &scenario.config;
    let (retry, budget) = match (
        config.count_u32("max_tokens")?,
        config.number("token_ratio")?,
    ) {
        (Some(max), Some(ratio)) => {
            let budget = RetryBudget::grpc(max, ratio).build();
            let budget = budget.or_else(|error| failed(error.to_string()))?;
            let retry = Retry::builder()
                .max_attempts(config.count_u32("max_attempts")?.unwrap_or(5))
                .backoff(Backoff::NONE)
                .budget(budget.clone())
                .clock(clock.clone())
                .build();
            let retry = retry.or_else(|error| failed(error.to_string()))?;
            (Some(retry), Some(budget))
        }
        _ => (None, None),
    };
    let server = Server {
        good: indexes(config.get("server_ok_call_indexes"))?,
        calls: Cell::new(0),
    };
    scenario.play(&clock, |step: &Step| match step.op() {
        Some("rpc") => {
            let retry = step.need("max_tokens", retry.as_ref())?;
            let result = clock.block_on(retry.call(|| async { server.answer() }));
            let name = if result.is_ok() { "ok" } else { "unavailable" };
            step.check("expect", name)?;
            step.check("expect_last_server_call", server.calls.get() - 1)
        }
        Some("build") => build(step),
        Some(op @ ("check" | "fail" | "success")) => {
            let budget = step.need("max_tokens", budget.as_ref())?;
            let mut call = budget.begin();
            match op {
                "success" => call.success(),
                "fail" => call.failure(),
                _ => {}
            }
            // A query takes nothing from this budget.
            let may_retry = call.withdraw(ErrorClass::Transient).is_some();
            step.check("expect", may_retry)?;
            step.check("tokens", budget.snapshot().available)?;
            step.check("expect_tokens", budget.snapshot().available)
        }
        op => unknown(op),
    })
}

/// Answers call number `i`, counted from 0 over all RPCs, from the list.
struct Server {
    good: BTreeSet<u64>,
    calls: Cell<u64>,
}

impl Server {
    fn answer(&self) -> Result<(), &'static str> {
        let call = self.calls.replace(self.calls.get() + 1);
        match self.good.contains(&call) {
            true => Ok(()),
            false => Err("unavailable"),
        }
    }
}

fn indexes(value: Option<&Value>) -> Result<BTreeSet<u64>, Failure> {
    let list = value.and_then(Value::as_array).map(Vec::as_slice);
    let indexes = list.unwrap_or_default().iter().map(Value::as_u64);
    match indexes.collect() {
        Some(indexes) => Ok(indexes),
        None => inexpressible("`server_ok_call_indexes` is not a list of numbers"),
    }
}

fn build(step: &Step) -> Check {
    let max = step.need("max_tokens", step.number("max_tokens")?)?;
    let ratio = step.need("token_ratio", step.number("token_ratio")?)?;
    if max.fract() != 0.0 {
        return inexpressible("`max_tokens` is not whole");
    }
    // The setter's type rejects negative numbers.
    let budget = match max >= 0.0 {
        true => RetryBudget::grpc(max as u32, ratio).build().ok(),
        false => None,
    };
    step.check("expect_error", budget.is_none())?;
    if let Some(budget) = budget {
        let mut call = budget.begin();
        // Large enough for any ratio.
        for _ in 0..max as u32 {
            call.failure();
        }
        call.success();
        step.check("expect_token_ratio", budget.snapshot().available)?;
    }
    Ok(())
}
