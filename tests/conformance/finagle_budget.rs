//! [`RetryBudget::percentage`] as the retry budgets of Finagle and tower.

use std::time::Duration;

use backstop::budget::BudgetedCall;
use backstop::policy::ErrorClass;
use backstop::{ConfigError, RetryBudget};

use super::clock::TestClock;
use super::fields::Fields;
use super::harness::{
    Actor, Adapter, Check, Failure, Scenario, Step, failed, inexpressible, unknown,
};

pub(crate) const ADAPTER: Adapter = Adapter {
    name: "RetryBudget::percentage",
    accepts: |file| {
        let sources = ["twitter/finagle", "tower-rs/tower"];
        file.pattern() == "retry_budget" && sources.iter().any(|project| file.is_from(project))
    },
    run,
};

fn run(scenario: &Scenario<'_>) -> Check {
    if scenario.config.has("kind") {
        return inexpressible(
            "twitter/util's own bucket, which takes any amount; a budget gives one retry at a time",
        );
    }
    let clock = TestClock::new();
    let budget = match budget(&scenario.config, &clock)? {
        Some(budget) => budget.or_else(|error| failed(error.to_string()))?,
        None => return inexpressible("a negative setting"),
    };
    // There a withdrawal belongs to no call, here it does: to one that began so long ago that its
    // deposit is forgotten.
    clock.move_to(-2 * i128::try_from(LONGEST_TTL.as_nanos()).unwrap());
    let asking = budget.begin();
    clock.move_to(0);
    let actor = Finagle {
        budget: &budget,
        clock: &clock,
        asking,
        withdrawn: 0,
    };
    scenario.play(&clock, actor)
}

const LONGEST_TTL: Duration = Duration::from_secs(60);

struct Finagle<'a> {
    budget: &'a RetryBudget,
    clock: &'a TestClock,
    asking: BudgetedCall<'a>,
    /// Since the last `repeat` began.
    withdrawn: u64,
}

impl Actor for Finagle<'_> {
    fn step(&mut self, step: &Step) -> Check {
        match step.op() {
            Some("deposit") => drop(self.budget.begin()),
            Some("withdraw") => {
                let allowed = self.asking.withdraw(ErrorClass::Transient).is_some();
                self.withdrawn += u64::from(allowed);
                step.check("expect", allowed)?;
            }
            Some("build") => {
                let refused = !matches!(budget(step, self.clock)?, Some(Ok(_)));
                step.check("expect_error", refused)?;
            }
            Some("repeat") => step.check("expect_withdrawn", self.withdrawn)?,
            op => unknown(op)?,
        }
        step.check("expect_balance", self.budget.snapshot().available)
    }

    fn before_repeat(&mut self) {
        self.withdrawn = 0;
    }
}

/// The budget of a configuration, or of a `build` step. `None` when it has a negative setting that
/// the type of our setter refuses.
fn budget(
    fields: &Fields,
    clock: &TestClock,
) -> Result<Option<Result<RetryBudget, ConfigError>>, Failure> {
    let window = fields.nanos("ttl")?.unwrap_or(10_000_000_000);
    let floor = fields.number("min_retries_per_s")?.unwrap_or(10.0);
    let ratio = fields.number("retry_ratio")?.unwrap_or(0.2);
    let (Ok(window), true) = (u64::try_from(window), floor >= 0.0) else {
        return Ok(None);
    };
    if floor.fract() != 0.0 {
        return inexpressible("a fraction of a retry per second");
    }
    Ok(Some(
        RetryBudget::percentage()
            .window(Duration::from_nanos(window))
            .floor_per_second(floor as u32)
            .ratio(ratio)
            .clock(clock.clone())
            .build(),
    ))
}
