//! A [`RateLimiter`] as golang.org/x/time/rate.

use std::collections::HashMap;
use std::time::Duration;

use backstop::rate_limiter::{Inherit, Quota, Reservation};
use backstop::{ManualClock, RateLimiter, Rejected};
use serde_json::Value;

use super::clock::TestClock;
use super::fields::Fields;
use super::harness::{
    Actor, Adapter, Check, Failure, Scenario, Step, failed, inexpressible, unknown,
};
use super::limits::{DEBT, available, foresee, nanos};

pub(crate) const ADAPTER: Adapter = Adapter {
    name: "RateLimiter, token bucket with reservations",
    accepts: |file| file.is_from("golang/time"),
    run,
};

fn run(scenario: &Scenario<'_>) -> Check {
    let clock = TestClock::new();
    let rate = rate(&scenario.config)?.unwrap_or(1.0);
    let burst = scenario.config.count("burst")?.unwrap_or(1);
    let earning = ManualClock::new();
    let actor = Golang {
        limiter: limiter(&earning, quota(rate, burst))?,
        clock: clock.clone(),
        earning,
        last: Duration::ZERO,
        rate,
        burst,
        made: HashMap::new(),
        last_act: 0.0,
        admitted: 0,
    };
    scenario.play(&clock, actor)
}

/// Reads a rate. `"inf"` admits any burst.
fn rate(fields: &Fields) -> Result<Option<f64>, Failure> {
    let interval = fields.duration("interval")?;
    let rate = match fields.get("rate_per_s").and_then(Value::as_str) {
        Some("inf" | "Inf" | "infinite") => Some(f64::INFINITY),
        _ => fields.number("rate_per_s")?,
    };
    Ok(rate.or(interval.map(|interval| 1.0 / interval.as_secs_f64())))
}

fn quota(rate: f64, burst: u64) -> Quota {
    let quota = if rate.is_infinite() {
        return Quota::per_second(DEBT).burst(DEBT);
    } else if rate < 1e-6 {
        // Practically never again.
        Quota::new(1, Duration::MAX)
    } else if rate.fract() == 0.0 {
        Quota::new(rate as u64, Duration::from_secs(1))
    } else {
        let million = Duration::from_secs(1_000_000);
        Quota::new((rate * 1e6).round() as u64, million)
    };
    quota.burst(burst)
}

fn limiter(clock: &ManualClock, quota: Quota) -> Result<RateLimiter, Failure> {
    let limiter = RateLimiter::builder().quota(quota).max_debt(DEBT);
    let built = limiter.clock(clock.clone()).build();
    built.or_else(|error| failed(error.to_string()))
}

/// Rounds to the nearest tenth of a second, like the source; in milliseconds.
fn to_tenth(time: Duration) -> u64 {
    (nanos(time).saturating_add(50_000_000)) / 100_000_000 * 100
}

/// A reservation: its tokens, when it may act, and the rate at its creation.
struct Made {
    reservation: Reservation,
    tokens: u64,
    act: f64,
    rate: f64,
}

/// The source's limiter stores the time of its last change. An earlier time earns nothing and becomes the last one, and a
/// rejection changes nothing. So our limiter has its own clock, which stands still until a change.
struct Golang {
    limiter: RateLimiter,
    /// The clock of the scenario, which may go backwards.
    clock: TestClock,
    /// The clock of the limiter.
    earning: ManualClock,
    /// The time of the last change in the scenario.
    last: Duration,
    rate: f64,
    burst: u64,
    /// Reservations that may be cancelled.
    made: HashMap<String, Made>,
    /// When the last reservation may act, in seconds.
    last_act: f64,
    /// Number of calls admitted since the start, or since the last loop began.
    admitted: u64,
}

impl Golang {
    fn now(&self) -> f64 {
        self.clock.elapsed().as_secs_f64()
    }

    /// Returns the time that earns tokens until now.
    fn earned(&self) -> Duration {
        self.clock.elapsed().saturating_sub(self.last)
    }

    /// Advances the limiter's clock to now, for a change.
    fn arrive(&mut self) {
        self.earning.advance(self.earned());
        self.last = self.clock.elapsed();
    }

    /// Carries out a change that takes `tokens` within `longest`. If it would be rejected, the limiter must not see it,
    /// unless nothing was earned until now.
    fn take<T>(
        &mut self,
        tokens: u64,
        longest: Duration,
        take: impl FnOnce(&RateLimiter) -> Result<T, Rejected>,
    ) -> Option<T> {
        let fits = tokens <= self.burst || self.rate.is_infinite();
        let earned = self.earned();
        let wait = foresee(&self.limiter, tokens).map(|wait| wait.saturating_sub(earned));
        if !fits || !(earned.is_zero() || wait.is_some_and(|wait| wait <= longest)) {
            return None;
        }
        self.earning.advance(earned);
        let taken = take(&self.limiter).ok()?;
        self.last = self.clock.elapsed();
        Some(taken)
    }

    fn allow(&mut self, tokens: u64) -> bool {
        let taken = self.take(tokens, Duration::ZERO, |limiter| {
            limiter.try_acquire_n(tokens)
        });
        let allowed = taken.is_some();
        if allowed {
            self.last_act = self.now();
            self.admitted += 1;
        }
        allowed
    }

    fn reserve(&mut self, step: &Step, tokens: u64) -> Check {
        let longest = step.duration("max_wait")?.unwrap_or(Duration::MAX);
        let made = self.take(tokens, longest, |limiter| {
            limiter.reserve_within(tokens, longest)
        });
        step.check("expect_ok", made.is_some())?;
        let id = step.text("id")?;
        let Some(reservation) = made else {
            // The time of a failed reservation has no meaning.
            step.get("expect_act_at_ms");
            return Ok(());
        };
        let wait = reservation.wait();
        let acts = self.clock.elapsed() + wait;
        let act = acts.as_secs_f64();
        self.last_act = act;
        match id {
            Some(id) => {
                let made = Made {
                    reservation,
                    tokens,
                    act,
                    rate: self.rate,
                };
                self.made.insert(id.to_owned(), made);
            }
            None => reservation.commit(tokens),
        }
        step.check("expect_act_at_ms", to_tenth(acts))?;
        step.check("expect_delay_ms", to_tenth(wait))
    }

    /// Waits for tokens if the wait ends before the caller gives up.
    fn wait(&mut self, step: &Step, tokens: u64) -> Check {
        let mut patience = Duration::MAX;
        for name in ["timeout", "max_wait", "deadline"] {
            patience = step.duration(name)?.unwrap_or(patience);
        }
        let cancelled = step.flag("cancelled")?.unwrap_or(false);
        let made = match cancelled {
            true => None,
            false => self.take(tokens, patience, |limiter| {
                limiter.reserve_within(tokens, patience)
            }),
        };
        let ok = made.is_some();
        let mut wait = Duration::ZERO;
        if let Some(reservation) = made {
            wait = reservation.wait();
            reservation.commit(tokens);
            self.clock.advance(wait);
            self.last_act = self.now();
        }
        step.check("expect", ok)?;
        step.check("expect_ok", ok)?;
        step.check("expect_delay_ms", to_tenth(wait))?;
        step.check("expect_wait_ms", to_tenth(wait))
    }

    /// Returns the tokens that are not promised to later reservations.
    fn cancel(&mut self, id: &str) -> Check {
        let Some(made) = self.made.remove(id) else {
            return Ok(());
        };
        let Made {
            reservation,
            tokens,
            act,
            rate,
        } = made;
        // Negative if the clock went backwards after the reservation: the source then adds tokens.
        let later = ((self.last_act - act) * rate).round();
        let (promised, extra) = (later.max(0.0) as u64, (-later).max(0.0) as u64);
        let now = self.now();
        if act < now || promised >= tokens {
            reservation.commit(tokens);
            return Ok(());
        }
        self.arrive();
        reservation.commit(promised);
        self.limiter.add(extra);
        let before = act - tokens as f64 / rate;
        if act == self.last_act && before >= now {
            self.last_act = before;
        }
        Ok(())
    }

    /// Checks the current tokens: whole ones where a whole number is expected.
    fn check_tokens(&self, step: &Step, key: &str) -> Check {
        let earned = self.earned();
        if earned.is_zero() || self.rate < 1e-6 || self.rate.is_infinite() {
            return step.check(key, available(&self.limiter));
        }
        let until_full = self.limiter.peek().reset_after.saturating_sub(earned);
        let tokens = self.burst as f64 - until_full.as_secs_f64() * self.rate;
        match step.get(key) {
            Some(expected) if expected.is_i64() => step.check(key, (tokens + 1e-9).floor()),
            _ => step.check(key, tokens),
        }
    }

    fn change(&mut self, rate: f64, burst: u64) -> Check {
        self.arrive();
        (self.rate, self.burst) = (rate, burst);
        let quota = quota(rate, burst);
        let changed = self.limiter.set_quota(quota, Inherit::AsIs);
        changed.or_else(|error| failed(error.to_string()))
    }
}

impl Golang {
    fn carry_out(&mut self, step: &Step) -> Check {
        let tokens = step.count("n")?.unwrap_or(1);
        if let Some(least) = step.count("expect_admitted_min")? {
            if self.admitted < least {
                return failed(format!(
                    "{} admitted, at least {least} expected",
                    self.admitted
                ));
            }
        }
        if let Some(most) = step.count("expect_admitted_max")? {
            if self.admitted > most {
                return failed(format!(
                    "{} admitted, at most {most} expected",
                    self.admitted
                ));
            }
        }
        step.check("expect_admitted", self.admitted)?;
        self.check_tokens(step, "expect_tokens_before")?;
        match step.op() {
            Some("allow") => {
                let allowed = self.allow(tokens);
                step.check("expect", allowed)?;
                step.check("expect_ok", allowed)?;
            }
            Some("reserve") => self.reserve(step, tokens)?,
            Some("wait") => self.wait(step, tokens)?,
            Some("cancel") => {
                let id = step.need("id", step.text("id")?)?.to_owned();
                self.cancel(&id)?;
            }
            Some("set_burst") => {
                let burst = step.need("burst", step.count("burst")?)?;
                self.change(self.rate, burst)?;
            }
            Some("set_limit" | "set_rate") => {
                let limit = rate(step)?.or(step.number("limit")?);
                let rate = step.need("rate_per_s", limit)?;
                self.change(rate, self.burst)?;
            }
            None => {}
            op => return unknown(op),
        }
        self.check_tokens(step, "expect_tokens")
    }
}

impl Actor for Golang {
    fn step(&mut self, step: &Step) -> Check {
        self.carry_out(step)
    }

    fn before_repeat(&mut self) {
        self.admitted = 0;
    }

    fn prose(&mut self, _: &Step, body: &str) -> Check {
        let tokens = body.strip_prefix("allow ").map(|n| n.trim().parse());
        match tokens {
            Some(Ok(tokens)) => {
                self.allow(tokens);
                Ok(())
            }
            _ => inexpressible(format!("a body in prose: {body:?}")),
        }
    }
}
