//! [`RetryBudget::percentage`] as the retry budgets of Finagle and tower and as their leaky bucket;
//! [`RetryBudget::tokens`] as the bounded bucket.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use backstop::policy::ErrorClass;
use backstop::retry_budget::BudgetedCall;
use backstop::{Clock, ConfigError, Instant, RetryBudget, Sleep};

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
    match scenario.config.text("kind")? {
        Some("leaky") => return leaky(scenario),
        Some("bounded") => return bounded(scenario),
        // A budget that never allows a retry, whatever is deposited.
        Some("empty") => return play(scenario, &scenario.config, true),
        Some(kind) => return inexpressible(format!("kind {kind:?}")),
        None => {}
    }
    play(scenario, &scenario.config, false)
}

fn play(scenario: &Scenario<'_>, config: &Fields, is_empty: bool) -> Check {
    let clock = TestClock::new();
    let nothing = RetryBudget::percentage().ratio(0.0).floor(0);
    let budget = match is_empty {
        true => Some(nothing.clock(clock.clone()).build()),
        false => budget(config, &clock)?,
    };
    let budget = match budget {
        Some(budget) => budget.or_else(|error| failed(error.to_string()))?,
        None => return inexpressible("a negative setting"),
    };
    // In the source a withdrawal belongs to no call. Here it belongs to a call so old that its deposit has
    // expired.
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
    /// Withdrawals since the last `repeat` began.
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
                let is_error = !matches!(budget(step, self.clock)?, Some(Ok(_)));
                step.check("expect_error", is_error)?;
            }
            None => step.check("expect_withdrawn", self.withdrawn)?,
            op => unknown(op)?,
        }
        step.check("expect_balance", self.budget.snapshot().available)
    }

    fn before_repeat(&mut self) {
        self.withdrawn = 0;
    }
}

/// Builds the budget of a configuration or of a `build` step. Returns `None` for a negative setting, which the type
/// of our setter rejects.
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
            .floor(floor as u32)
            .ratio(ratio)
            .clock(clock.clone())
            .build(),
    ))
}

/// Runs the leaky bucket: every token comes from a call at a ratio of one. The floor of a budget is per second, the
/// reserve of the bucket is for its whole time, so that time is one second here.
fn leaky(scenario: &Scenario<'_>) -> Check {
    let clock = TestClock::new();
    let config = &scenario.config;
    let ttl = config.duration("ttl")?.unwrap_or(Duration::from_secs(1));
    if config.count("slices")?.unwrap_or(10) != 10 {
        return inexpressible("a bucket of other than ten slices");
    }
    let scaled = Scaled {
        clock: clock.clone(),
        ttl: ttl.max(Duration::from_nanos(1)),
        begun: Arc::default(),
    };
    let budget = RetryBudget::percentage()
        .ratio(1.0)
        .floor(config.count_u32("reserve")?.unwrap_or(0))
        .window(SECOND)
        .clock(scaled.clone())
        .build()
        .or_else(|error| failed(error.to_string()))?;
    let asking = budget.begin();
    scaled.begun.store(true, Ordering::SeqCst);
    let put = || drop(budget.begin());
    play_bucket(scenario, &clock, &budget, put, asking)
}

fn bounded(scenario: &Scenario<'_>) -> Check {
    let limit = scenario.config.count_u32("limit")?;
    let Some(limit) = limit else {
        return inexpressible("no `limit`");
    };
    let budget = RetryBudget::tokens()
        .capacity(limit)
        .initial(0)
        .cost(ErrorClass::Transient, 1)
        .build()
        .or_else(|error| failed(error.to_string()))?;
    let put = || budget.begin().success();
    play_bucket(scenario, &TestClock::new(), &budget, put, budget.begin())
}

/// Runs a bucket. It gives an amount at once or nothing, a budget one retry at a time: if enough is available, the
/// amount is taken one by one, which is equivalent without calls in between.
fn play_bucket(
    scenario: &Scenario<'_>,
    clock: &TestClock,
    budget: &RetryBudget,
    put: impl Fn(),
    mut asking: BudgetedCall<'_>,
) -> Check {
    scenario.play(clock, |step: &Step| {
        let amount = step.count("amount")?;
        if amount.is_some_and(|amount| amount > 1_000_000) {
            return inexpressible(format!("the amount {amount:?}"));
        }
        match step.op() {
            Some("put") => (0..step.need("amount", amount)?).for_each(|_| put()),
            Some("get") => {
                let amount = step.need("amount", amount)?;
                let enough = budget.snapshot().available >= amount as f64;
                let mut one_by_one = 0..if enough { amount } else { 0 };
                let all = one_by_one.all(|_| asking.withdraw(ErrorClass::Transient).is_some());
                step.check("expect", enough && all)?;
            }
            op => unknown(op)?,
        }
        step.check("expect_count", budget.snapshot().available)
    })
}

const SECOND: Duration = Duration::from_secs(1);

/// A clock on which `ttl` is one second. It stands still until the scenario has begun.
#[derive(Clone, Debug)]
struct Scaled {
    clock: TestClock,
    ttl: Duration,
    begun: Arc<AtomicBool>,
}

impl Clock for Scaled {
    fn now(&self) -> Instant {
        if !self.begun.load(Ordering::SeqCst) {
            return Instant::ORIGIN;
        }
        let scaled = self.clock.elapsed().as_nanos() * SECOND.as_nanos() / self.ttl.as_nanos();
        let scaled = u64::try_from(scaled).unwrap_or(u64::MAX);
        Instant::ORIGIN + 100 * SECOND + Duration::from_nanos(scaled)
    }

    fn sleep_until(&self, _: Instant) -> Sleep {
        unreachable!("a budget does not wait")
    }
}
