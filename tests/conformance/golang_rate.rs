//! A [`RateLimiter`] as golang.org/x/time/rate.

use std::collections::HashMap;
use std::time::Duration;

use backstop::RateLimiter;
use backstop::rate_limiter::{Inherit, Quota, Reservation};
use serde_json::Value;

use super::clock::TestClock;
use super::fields::Fields;
use super::harness::{
    Actor, Adapter, Check, Failure, Scenario, Step, failed, inexpressible, unknown, unless_parted,
};
use super::limits::{DEBT, available, nanos, slower_limiter};

pub(crate) const ADAPTER: Adapter = Adapter {
    name: "RateLimiter, token bucket with reservations",
    accepts: |file| file.is_from("golang/time"),
    run,
};

/// There every step back of the clock counts. Here the time stands still for up to a second, until the
/// clock has made up for it: so a millisecond of a scenario is a second of the limiter's.
const SLOWER: u32 = 1000;

fn run(scenario: &Scenario<'_>) -> Check {
    let clock = TestClock::new();
    let rate = rate(&scenario.config)?.unwrap_or(1.0);
    let burst = scenario.config.count("burst")?.unwrap_or(1);
    let actor = Golang {
        limiter: slower_limiter(&clock, SLOWER, [quota(rate, burst)])?,
        clock: clock.clone(),
        rate,
        burst,
        made: HashMap::new(),
        last_act: 0.0,
        admitted: 0,
        latest: Duration::ZERO,
        difference: None,
    };
    scenario.play(&clock, actor)
}

/// `"inf"` is a rate too, which admits whatever the burst.
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
        // Never again, within a lifetime.
        Quota::new(1, Duration::MAX)
    } else if rate.fract() == 0.0 {
        Quota::new(rate as u64, Duration::from_secs(1) * SLOWER)
    } else {
        let million = Duration::from_secs(1_000_000);
        Quota::new((rate * 1e6).round() as u64, million * SLOWER)
    };
    quota.burst(burst)
}

/// To the nearest tenth of a second, as there; in milliseconds.
fn to_tenth(time: Duration) -> u64 {
    (nanos(time).saturating_add(50_000_000)) / 100_000_000 * 100
}

/// Only where it is expected: a look at a time before the last one would set this limiter's time
/// back, as there a call does.
fn check_tokens(step: &Step, key: &str, limiter: &RateLimiter) -> Check {
    match step.has(key) {
        true => step.check(key, available(limiter)),
        false => Ok(()),
    }
}

/// A reservation, how much it holds, when it may act, and the rate when it was made.
struct Made {
    reservation: Reservation,
    tokens: u64,
    act: f64,
    rate: f64,
}

struct Golang {
    limiter: RateLimiter,
    clock: TestClock,
    rate: f64,
    burst: u64,
    /// Reservations that may be cancelled.
    made: HashMap<String, Made>,
    /// When the last reservation may act, in seconds.
    last_act: f64,
    /// How many calls were allowed, since the last loop began if there was one.
    admitted: u64,
    /// When the last reservation was asked for.
    latest: Duration,
    difference: Option<&'static str>,
}

impl Golang {
    fn now(&self) -> f64 {
        self.clock.elapsed().as_secs_f64()
    }

    fn allow(&mut self, tokens: u64) -> bool {
        let allowed = self.limiter.try_acquire_n(tokens).is_ok();
        if allowed {
            self.last_act = self.now();
            self.admitted += 1;
        }
        allowed
    }

    fn reserve(&mut self, step: &Step, tokens: u64) -> Check {
        let longest = step.duration("max_wait")?.unwrap_or(Duration::MAX);
        let longest = longest.saturating_mul(SLOWER);
        let fits = tokens <= self.burst || self.rate.is_infinite();
        let made = match fits {
            true => self.limiter.reserve_within(tokens, longest).ok(),
            false => None,
        };
        let now = self.clock.elapsed();
        if made.is_none() && fits && now < self.latest {
            // Here the limiter has followed the clock.
            self.difference = Some("a failed reservation at an earlier time that changes nothing");
        }
        self.latest = now;
        step.check("expect_ok", made.is_some())?;
        let id = step.text("id")?;
        let Some(reservation) = made else {
            // A time at which a failed reservation may act says nothing.
            step.get("expect_act_at_ms");
            return Ok(());
        };
        let wait = reservation.wait() / SLOWER;
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

    /// Waits for tokens, if the wait ends before the caller gives up.
    fn wait(&mut self, step: &Step, tokens: u64) -> Check {
        let mut patience = Duration::MAX;
        for name in ["timeout", "max_wait", "deadline"] {
            patience = step.duration(name)?.unwrap_or(patience);
        }
        let patience = patience.saturating_mul(SLOWER);
        let cancelled = step.flag("cancelled")?.unwrap_or(false);
        let fits = tokens <= self.burst || self.rate.is_infinite();
        let made = match fits && !cancelled {
            true => self.limiter.reserve_within(tokens, patience).ok(),
            false => None,
        };
        let ok = made.is_some();
        let mut wait = Duration::ZERO;
        if let Some(reservation) = made {
            wait = reservation.wait() / SLOWER;
            reservation.commit(tokens);
            self.clock.advance(wait);
            self.last_act = self.now();
        }
        step.check("expect", ok)?;
        step.check("expect_ok", ok)?;
        step.check("expect_delay_ms", to_tenth(wait))?;
        step.check("expect_wait_ms", to_tenth(wait))
    }

    /// Gives back the tokens that are not promised to later reservations.
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
        let promised = ((self.last_act - act) * rate).round().max(0.0) as u64;
        let now = self.now();
        if act < now || promised >= tokens {
            reservation.commit(tokens);
            return Ok(());
        }
        reservation.commit(promised);
        let before = act - tokens as f64 / rate;
        if act == self.last_act && before >= now {
            self.last_act = before;
        }
        Ok(())
    }

    fn change(&mut self) -> Check {
        let quota = quota(self.rate, self.burst);
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
        check_tokens(step, "expect_tokens_before", &self.limiter)?;
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
                self.burst = step.need("burst", step.count("burst")?)?;
                self.change()?;
            }
            Some("set_limit" | "set_rate") => {
                let limit = rate(step)?.or(step.number("limit")?);
                self.rate = step.need("rate_per_s", limit)?;
                self.change()?;
            }
            None => {}
            op => return unknown(op),
        }
        check_tokens(step, "expect_tokens", &self.limiter)
    }
}

impl Actor for Golang {
    fn step(&mut self, step: &Step) -> Check {
        let result = self.carry_out(step);
        unless_parted(result, self.difference)
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
