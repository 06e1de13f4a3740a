//! A [`RateLimiter`] with a fixed window as the cycles of resilience4j and as Failsafe's smooth and bursty
//! limiters: reservations are debts that the next windows pay.

use std::time::Duration;

use backstop::RateLimiter;
use backstop::rate_limiter::{Inherit, Quota};
use serde_json::json;

use super::clock::TestClock;
use super::harness::{Adapter, Check, Failure, Scenario, Step, failed, inexpressible, unknown};
use super::limits::{available, foresee, limiter, nanos, reserve};

pub(crate) const RESILIENCE4J: Adapter = Adapter {
    name: "RateLimiter, fixed window with reservations",
    accepts: |file| {
        file.is_from("resilience4j/resilience4j") && file.pattern() == "rate_limiter_fixed_cycle"
    },
    run: resilience4j,
};

pub(crate) const FAILSAFE: Adapter = Adapter {
    name: "RateLimiter, fixed window with reservations",
    accepts: |file| {
        let sources = ["failsafe-go/failsafe-go", "failsafe-lib/failsafe"];
        file.pattern() == "rate_limiter" && sources.iter().any(|project| file.is_from(project))
    },
    run: failsafe,
};

fn resilience4j(scenario: &Scenario<'_>) -> Check {
    let clock = TestClock::new();
    let config = &scenario.config;
    let limit = config.count("limit_for_period")?.unwrap_or(50);
    let period = config.duration("refresh_period")?;
    let period = period.unwrap_or(Duration::from_nanos(500));
    let mut timeout = config
        .duration("timeout")?
        .unwrap_or(Duration::from_secs(5));
    let mut cycles = Cycles {
        limiter: limiter(&clock, [Quota::new(limit, period).fixed_window()])?,
        clock: clock.clone(),
        period,
        coming: None,
    };
    scenario.play(&clock, |step: &Step| {
        cycles.change(false)?;
        let permits = step.count("permits")?.unwrap_or(1);
        match step.op() {
            Some("acquire") => {
                step.check("expect", cycles.reserve(permits, timeout)?.is_some())?;
            }
            Some("reserve") => {
                let wait = cycles.reserve(permits, timeout)?;
                check_wait(step, wait.map_or(-1.0, |wait| wait.as_nanos() as f64))?;
            }
            Some("set_limit") => {
                let limit = step.need("limit_for_period", step.count("limit_for_period")?)?;
                cycles.coming = Some((limit, cycles.number()));
                cycles.change(false)?;
            }
            Some("set_timeout") => {
                timeout = step.need("timeout", step.duration("timeout")?)?;
            }
            Some("drain") => {
                let there = available(&cycles.limiter).max(0) as u64;
                cycles.reserve(there, Duration::ZERO)?;
                step.check("expect", there)?;
            }
            None => {}
            op => return unknown(op),
        }
        let wait = foresee(&cycles.limiter, 1).map_or(u64::MAX, nanos);
        let metrics = json!({"available": available(&cycles.limiter), "nanos_to_wait": wait});
        step.check("expect_metrics", metrics)
    })
}

/// A limiter with cycles. In the source a lower limit applies from the next cycle on; here no window exceeds its
/// limit.
struct Cycles {
    limiter: RateLimiter,
    clock: TestClock,
    period: Duration,
    /// A new limit and the cycle in which it was set.
    coming: Option<(u64, u64)>,
}

impl Cycles {
    /// Returns the number of the current cycle.
    fn number(&self) -> u64 {
        nanos(self.clock.elapsed()) / nanos(self.period).max(1)
    }

    /// Applies the new limit once it invalidates no permit, or immediately.
    fn change(&mut self, at_once: bool) -> Check {
        let Some((limit, since)) = self.coming else {
            return Ok(());
        };
        let fits = i128::from(available(&self.limiter)) <= i128::from(limit);
        if at_once || fits || self.number() > since {
            self.coming = None;
            let quota = Quota::new(limit, self.period).fixed_window();
            let changed = self.limiter.set_quota(quota, Inherit::AsIs);
            return changed.or_else(|error| failed(error.to_string()));
        }
        Ok(())
    }

    fn reserve(&mut self, permits: u64, longest: Duration) -> Result<Option<Duration>, Failure> {
        let there = available(&self.limiter).max(0) as u64;
        let Some((limit, _)) = self.coming.filter(|_| permits > there) else {
            return Ok(reserve(&self.limiter, permits, longest));
        };
        // The permits beyond the new limit, and the rest from the next cycles.
        let beyond = there - limit;
        reserve(&self.limiter, beyond, Duration::ZERO);
        self.change(true)?;
        match reserve(&self.limiter, permits - beyond, longest) {
            Some(wait) => Ok(Some(wait)),
            None => inexpressible("a rejection while more permits are left than the new limit"),
        }
    }
}

/// Checks `wait` in nanoseconds; negative if rejected, which every unit writes as -1.
fn check_wait(step: &Step, wait: f64) -> Check {
    step.check("expect_wait_ns", wait)?;
    step.check("expect_wait_ms", if wait < 0.0 { -1.0 } else { wait / 1e6 })?;
    let (least, most) = (
        step.nanos("expect_wait_min")?
            .map(|nanos| nanos as f64)
            .or(step.number("expect_wait_ns_min")?),
        step.nanos("expect_wait_max")?
            .map(|nanos| nanos as f64)
            .or(step.number("expect_wait_ns_max")?),
    );
    match least.is_some_and(|least| wait < least) || most.is_some_and(|most| wait > most) {
        true => failed(format!("waits {wait} ns, not {least:?} to {most:?}")),
        false => Ok(()),
    }
}

fn failsafe(scenario: &Scenario<'_>) -> Check {
    let clock = TestClock::new();
    let config = &scenario.config;
    let quota = match config.text("kind")? {
        Some("smooth") => {
            let interval = match (config.duration("interval")?, config.count("max_permits")?) {
                (Some(interval), _) => interval,
                (None, Some(permits)) => {
                    let period = config.duration("period")?.unwrap_or(Duration::from_secs(1));
                    period / u32::try_from(permits.max(1)).unwrap_or(u32::MAX)
                }
                (None, None) => return inexpressible("no interval"),
            };
            // One permit per interval, on a grid from the start.
            Quota::new(1, interval)
        }
        Some("bursty") => {
            let (permits, period) = (config.count("max_permits")?, config.duration("period")?);
            let (Some(permits), Some(period)) = (permits, period) else {
                return inexpressible("no `max_permits` or no `period`");
            };
            Quota::new(permits, period)
        }
        kind => return inexpressible(format!("kind {kind:?}")),
    };
    let limiter = limiter(&clock, [quota.fixed_window()])?;
    scenario.play(&clock, |step: &Step| {
        let permits = step.count("permits")?.unwrap_or(1);
        let longest = step.duration("max_wait")?;
        match step.op() {
            Some("reserve" | "reserve_each" | "try_reserve") => {
                let mut wait = -1.0;
                for _ in 0..step.count("times")?.unwrap_or(1) {
                    let made = reserve(&limiter, permits, longest.unwrap_or(Duration::MAX));
                    wait = made.map_or(-1.0, |wait| wait.as_nanos() as f64);
                }
                check_wait(step, wait)?;
            }
            Some("try_acquire") => {
                let longest = longest.unwrap_or(Duration::ZERO);
                let taken = reserve(&limiter, permits, longest);
                if let Some(wait) = taken {
                    // Waits for the reservation.
                    clock.advance(wait);
                }
                step.check("expect", taken.is_some())?;
            }
            Some("acquire") => {
                if let Some(wait) = reserve(&limiter, permits, Duration::MAX) {
                    clock.advance(wait);
                    check_wait(step, wait.as_nanos() as f64)?;
                }
            }
            None => {}
            op => return unknown(op),
        }
        step.check("expect_metrics", metrics(&clock, &limiter, quota.period()))
    })
}

fn metrics(clock: &TestClock, limiter: &RateLimiter, period: Duration) -> serde_json::Value {
    let next_free = clock.elapsed() + limiter.peek().reset_after;
    json!({
        "next_free_ms": next_free.as_secs_f64() * 1e3,
        "next_free_ns": nanos(next_free),
        "available": available(limiter),
        "period": nanos(clock.elapsed()) / nanos(period).max(1),
    })
}
