//! A [`Retry`] with [`RetryBudget::tokens`] as the standard retry mode of the AWS SDKs, in its
//! versions 2.0 and 2.1.
//!
//! The call of a scenario is a real one: its operation waits for the answer of the next `attempt`
//! step, and between two steps the clock runs until the retry has made its next attempt or given up.

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::time::Duration;

use backstop::event::StopReason;
use backstop::policy::ErrorClass;
use backstop::retry_budget::BudgetedCall;
use backstop::{
    Backoff, Classify, ClassifyErrors, Clock, Error, Event, HintRule, Jitter, Pipeline, Policy,
    Retry, RetryBudget, Verdict,
};
use serde_json::json;

use super::clock::TestClock;
use super::delays::{delays, millis};
use super::fields::Fields;
use super::harness::{Adapter, Check, Failure, Scenario, Step, failed, inexpressible, unknown};

pub(crate) const ADAPTER: Adapter = Adapter {
    name: "Retry with RetryBudget::tokens",
    accepts: |file| file.pattern() == "retry_delay_and_quota",
    run: |scenario: &Scenario<'_>| match scenario.config.has("capacity") {
        true => run_bucket(scenario),
        false => run_calls(scenario),
    },
};

/// The settings of a call and of its delays.
#[derive(Clone, Debug)]
struct Settings {
    capacity: u32,
    initial: u32,
    max_attempts: u32,
    base: Duration,
    throttle_base: Duration,
    max: Duration,
    jitter: f64,
    hint: HintRule,
    costs: [(ErrorClass, u32); 3],
    long_polling: bool,
}

impl Settings {
    fn read(scenario: &Scenario<'_>) -> Result<Self, Failure> {
        let config = &scenario.config;
        let v2_0 = config.has("retry_cost")
            || config.has("transient_cost")
            || scenario.file.mentions("v2.0") && !scenario.file.mentions("v2.1");

        let tokens = config.count_u32("initial_tokens")?.unwrap_or(500);
        let max = config.duration("max_backoff")?;
        let max = max.unwrap_or(Duration::from_secs(20));
        let second = Duration::from_secs(1);
        let base = match config.duration("base")? {
            Some(base) => base,
            None if v2_0 => second,
            None => Duration::from_millis(50),
        };
        let throttle_base = match config.duration("throttle_base")? {
            Some(base) => base,
            None if v2_0 => base,
            None => second,
        };
        let jitter = config.number("jitter")?.unwrap_or(1.0);
        let [transient, throttled, timeout] = if v2_0 {
            let retry = config.count_u32("retry_cost")?.unwrap_or(5);
            // AWS calls a lost connection or a timeout transient.
            let timeout = config.count_u32("transient_cost")?.unwrap_or(10);
            [retry, retry, timeout]
        } else {
            [14, 5, 14]
        };
        Ok(Self {
            capacity: tokens,
            initial: tokens,
            max_attempts: config.count_u32("max_attempts")?.unwrap_or(3),
            base,
            throttle_base,
            max,
            jitter,
            hint: match v2_0 {
                true => HintRule::UpTo(max),
                false => HintRule::Within(Duration::from_secs(5)),
            },
            costs: [
                (ErrorClass::Transient, transient),
                (ErrorClass::Throttled, throttled),
                (ErrorClass::Timeout, timeout),
            ],
            long_polling: config.flag("long_polling")?.unwrap_or(false),
        })
    }

    fn budget(&self) -> Result<RetryBudget, Failure> {
        let mut builder = RetryBudget::tokens()
            .capacity(self.capacity)
            .initial(self.initial);
        for (class, cost) in self.costs {
            builder = builder.cost(class, cost);
        }
        builder.build().or_else(|error| failed(error.to_string()))
    }
}

/// Returns `jitter * min(base * 2^(n-1), max)`. The source draws `jitter` from 0 to 1; its tests fix it.
fn backoff(base: Duration, max: Duration, jitter: f64) -> Backoff {
    if base.is_zero() || max.is_zero() || jitter <= 0.0 {
        return Backoff::NONE;
    }
    let plain = Backoff::exponential(base).max(max).jitter(Jitter::None);
    if jitter == 1.0 {
        return plain;
    }
    Backoff::custom(move |n| plain.delay(n).mul_f64(jitter))
        .max(max)
        .jitter(Jitter::None)
}

fn run_calls(scenario: &Scenario<'_>) -> Check {
    let clock = TestClock::new();
    let settings = Settings::read(scenario)?;
    let mut client = Client::new(&settings, &clock)?;
    scenario.play(&clock, |step: &Step| match step.op() {
        Some("attempt") => client.attempt(step),
        // Dropping the call forgets the cost of its retries.
        Some("forget_retry_cost") => {
            client.call = None;
            Ok(())
        }
        Some("set_quota") if client.call.is_some() => inexpressible("`set_quota` during a call"),
        Some("set_quota") => {
            let tokens = step.need("tokens", step.count_u32("tokens")?)?;
            let settings = Settings {
                initial: tokens,
                ..settings.clone()
            };
            client = Client::new(&settings, &clock)?;
            Ok(())
        }
        Some("delay") => {
            let attempt = step.need("attempt", step.count_u32("attempt")?)?;
            if attempt == 0 {
                return inexpressible("attempts count from 1");
            }
            let base = match step.text("error")? {
                Some("throttling") => settings.throttle_base,
                _ => settings.base,
            };
            let base = step.duration("base")?.unwrap_or(base);
            let max = step.duration("max_backoff")?.unwrap_or(settings.max);
            let jitter = step.number("jitter")?.unwrap_or(settings.jitter);
            let delays = delays(backoff(base, max, jitter), attempt, 0);
            let delays = delays.or_else(|error| failed(error.to_string()))?;
            step.check("expect_ms", millis(delays[attempt as usize - 1]))
        }
        op => unknown(op),
    })
}

/// The server's answer.
type Answer = Result<(), Verdict>;
type Stack = Pipeline<(Retry, ClassifyErrors<fn(&Verdict) -> Verdict>)>;
type Call = Pin<Box<dyn Future<Output = Result<(), Error<Verdict>>>>>;

struct Client {
    stack: Rc<Stack>,
    budget: RetryBudget,
    clock: TestClock,
    answer: Rc<Cell<Option<Answer>>>,
    waiting: Rc<Cell<bool>>,
    stop: Arc<Mutex<Option<StopReason>>>,
    /// The call in flight.
    call: Option<Call>,
}

impl Client {
    fn new(settings: &Settings, clock: &TestClock) -> Result<Self, Failure> {
        let budget = settings.budget()?;
        let retry = Retry::builder()
            .max_attempts(settings.max_attempts)
            .backoff(backoff(settings.base, settings.max, settings.jitter))
            .throttled_backoff(backoff(
                settings.throttle_base,
                settings.max,
                settings.jitter,
            ))
            .hint(settings.hint)
            .budget(budget.clone())
            .wait_when_budget_empty(settings.long_polling)
            .clock(clock.clone())
            .build()
            .or_else(|error| failed(error.to_string()))?;
        let stop = Arc::new(Mutex::new(None));
        let last_stop = stop.clone();
        let classify = Classify::errors((|verdict: &Verdict| *verdict) as fn(&Verdict) -> Verdict);
        let stack = Pipeline::new((retry, classify)).observer(move |event: &Event| {
            if let Event::RetryStopped { stop, .. } = event {
                *last_stop.lock().unwrap() = Some(*stop);
            }
        });
        Ok(Self {
            stack: Rc::new(stack),
            budget,
            clock: clock.clone(),
            answer: Rc::default(),
            waiting: Rc::default(),
            stop,
            call: None,
        })
    }

    fn attempt(&mut self, step: &Step) -> Check {
        self.answer.set(Some(answer(step)?));
        let mut call = match self.call.take() {
            Some(call) => call,
            None => self.start(),
        };
        let before = self.clock.now();
        // Runs until the call ends, or the next attempt waits for its answer.
        let result = self.clock.block_on(poll_fn(|cx| {
            self.waiting.set(false);
            match call.as_mut().poll(cx) {
                Poll::Ready(result) => Poll::Ready(Some(result)),
                Poll::Pending if self.waiting.get() => Poll::Ready(None),
                Poll::Pending => Poll::Pending,
            }
        }));
        let delay = self.clock.now().saturating_duration_since(before);
        let stop = self.stop.lock().unwrap().take();
        let outcome = match (result, stop) {
            (None, _) => {
                self.call = Some(call);
                "retry"
            }
            (Some(Ok(())), _) => "success",
            (Some(Err(_)), Some(StopReason::MaxAttempts)) => "max_attempts_exceeded",
            (Some(Err(_)), Some(StopReason::BudgetEmpty)) => "quota_exceeded",
            (Some(Err(_)), Some(StopReason::NotRetryable)) => "fail",
            (Some(Err(_)), stop) => return failed(format!("stopped because of {stop:?}")),
        };
        let seen = json!({
            "outcome": outcome,
            "quota": self.budget.snapshot().available,
            "delay_ms": millis(delay),
        });
        let mentions_delay = step
            .get("expect")
            .is_some_and(|e| e.get("delay_ms").is_some());
        if outcome != "retry" && !mentions_delay && !delay.is_zero() {
            return failed(format!("waited {delay:?} before the end of the call"));
        }
        step.check("expect", seen)
    }

    /// Starts a call whose operation waits for answers.
    fn start(&self) -> Call {
        let (stack, answer) = (self.stack.clone(), self.answer.clone());
        let waiting = self.waiting.clone();
        Box::pin(async move {
            stack
                .call(|| {
                    poll_fn(|_| match answer.take() {
                        Some(answer) => Poll::Ready(answer),
                        None => {
                            waiting.set(true);
                            Poll::Pending
                        }
                    })
                })
                .await
        })
    }
}

/// Returns the answer that an `attempt` step describes.
fn answer(step: &Step) -> Result<Answer, Failure> {
    let status = step.count("status")?;
    let verdict = match (step.text("error")?, status) {
        (None | Some("none"), None | Some(200..400)) => return Ok(Ok(())),
        (Some("transient" | "timeout"), _) => Verdict::timed_out(),
        (Some("throttling"), _) | (None, Some(429)) => Verdict::throttled(None),
        (Some("server_error"), _) | (None, Some(500..)) => Verdict::transient(),
        (Some("fatal"), _) | (None, Some(400..500)) => Verdict::permanent(),
        (error, status) => {
            return inexpressible(format!("error {error:?} with status {status:?}"));
        }
    };
    Ok(Err(match hint(step)? {
        Some(hint) => verdict.after(hint),
        None => verdict,
    }))
}

/// Returns the server's hint in milliseconds, or `None` if it cannot be parsed.
fn hint(step: &Step) -> Result<Option<Duration>, Failure> {
    let given = step.get("retry_after").or(step.get("retry_after_ms"));
    let millis = given.and_then(|value| match value.as_str() {
        Some(text) => text.parse().ok(),
        None => value.as_f64(),
    });
    Ok(millis
        .filter(|millis| *millis >= 0.0)
        .and_then(|millis| Duration::try_from_secs_f64(millis / 1e3).ok()))
}

/// Runs the bucket alone: `acquire` pays for a retry, `release` pays back, `reward` is a success at the first
/// attempt.
fn run_bucket(scenario: &Scenario<'_>) -> Check {
    let config = &scenario.config;
    let capacity = step_count(config, "capacity")?;
    let cost = config.count_u32("cost")?;
    let amounts = |op: &str| -> Result<Vec<u32>, Failure> {
        let steps = scenario.steps().into_iter();
        let mut amounts = steps
            .filter(|step| step.op() == Some(op))
            .map(|step| step.need("amount", step.count_u32("amount")?.or(cost)))
            .collect::<Result<Vec<_>, _>>()?;
        amounts.sort_unstable();
        amounts.dedup();
        Ok(amounts)
    };
    // Prices belong to classes of errors, of which there are three.
    let classes = [
        ErrorClass::Transient,
        ErrorClass::Throttled,
        ErrorClass::Timeout,
    ];
    let prices = amounts("acquire")?;
    if prices.len() > classes.len() {
        return inexpressible("more prices than classes of errors");
    }
    // A release without a payment is emulated by successes at the first attempt.
    let unit = amounts("release")?.into_iter().fold(0, gcd);
    let rewarded = config.number("success_reward")?;
    let reward = rewarded.unwrap_or(f64::from(unit.max(1)));
    let mut builder = RetryBudget::tokens().capacity(capacity).reward(reward);
    for (&class, &price) in classes.iter().zip(&prices) {
        builder = builder.cost(class, price);
    }
    let budget = builder.build().or_else(|error| failed(error.to_string()))?;

    let mut calls: Vec<(u32, BudgetedCall<'_>)> = Vec::new();
    scenario.play(&TestClock::new(), |step: &Step| {
        match step.op() {
            Some("acquire") => {
                let price = step.need("amount", step.count_u32("amount")?.or(cost))?;
                let place = prices.iter().position(|&known| known == price);
                let class = classes[step.need("amount", place)?];
                let mut call = budget.begin();
                let granted = call.withdraw(class).is_some();
                if granted {
                    calls.push((price, call));
                }
                step.check("expect", granted)?;
            }
            Some("release") => {
                let amount = step.need("amount", step.count_u32("amount")?.or(cost))?;
                match calls.iter().rposition(|(price, _)| *price == amount) {
                    Some(place) => calls.remove(place).1.success(),
                    None if rewarded.is_none() => {
                        (0..amount / unit.max(1)).for_each(|_| budget.begin().success());
                    }
                    None => return inexpressible("releases more than any call has paid"),
                }
            }
            Some("reward") => budget.begin().success(),
            op => unknown(op)?,
        }
        step.check("left", budget.snapshot().available)?;
        step.check("expect_left", budget.snapshot().available)
    })
}

const fn gcd(a: u32, b: u32) -> u32 {
    match b {
        0 => a,
        b => gcd(b, a % b),
    }
}

fn step_count(config: &Fields, key: &str) -> Result<u32, Failure> {
    config
        .count_u32(key)?
        .map_or_else(|| inexpressible(format!("`{key}` is missing")), Ok)
}
