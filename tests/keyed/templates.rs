//! Stacks that a template can make.

use backstop::bulkhead::limit::Aimd;
use backstop::circuit_breaker::{State, Trip};
use backstop::{
    Bulkhead, CircuitBreaker, ConfigError, ManualClock, Pipeline, Policy, Quota, RateLimiter,
    Retry, Timeout,
};

use super::*;

#[test]
fn templates_may_be_any_stack_with_options_and_policies_without_state() -> Result<(), ConfigError> {
    let clock = ManualClock::new();
    let make = {
        let clock = clock.clone();
        move || {
            let breaker = CircuitBreaker::builder()
                .trip_on(Trip::consecutive(1))
                .clock(clock.clone())
                .build()?;
            let limiter = RateLimiter::builder()
                .quota(Quota::per_second(1))
                .clock(clock.clone())
                .build()?;
            let attempt = Timeout::builder()
                .after(Duration::from_secs(1))
                .clock(clock.clone())
                .build()?;
            let retry = Retry::builder().clock(clock.clone()).build()?;
            let stack = (retry, breaker, Some(limiter), attempt, None::<Bulkhead>);
            Ok::<_, ConfigError>(Pipeline::new(stack))
        }
    };
    let hosts = Keyed::<String, _>::try_new(make)?;
    let call = || async { Ok::<_, ()>(7) };
    assert_eq!(clock.block_on(hosts.get("a").call(call)), Ok(7));
    hosts.evict_idle();
    assert_eq!(hosts.len(), 1, "a token is missing");
    clock.advance(Duration::from_secs(1));
    hosts.evict_idle();
    assert_eq!(hosts.len(), 0);

    let failing = Keyed::<String, _>::try_new(|| Retry::builder().max_attempts(0).build());
    assert_eq!(failing.unwrap_err().setting(), "max_attempts");
    Ok(())
}

/// A breaker that opens at the first failure, and a limiter of one call a second.
fn stack(clock: &ManualClock) -> Result<(CircuitBreaker, RateLimiter), ConfigError> {
    let breaker = CircuitBreaker::builder().trip_on(Trip::consecutive(1));
    let limiter = RateLimiter::builder().quota(Quota::per_second(1));
    Ok((
        breaker.clock(clock.clone()).build()?,
        limiter.clock(clock.clone()).build()?,
    ))
}

#[test]
fn a_template_of_arcs_gives_each_key_a_state_of_its_own() -> Result<(), ConfigError> {
    let clock = ManualClock::new();
    let for_hosts = clock.clone();
    let hosts = Keyed::<String, _>::try_new(move || Ok(Arc::new(stack(&for_hosts)?)))?;
    let failed = clock.block_on(hosts.get("a").call(|| async { Err::<(), _>(()) }));
    assert!(failed.is_err());
    assert_eq!(hosts.get("a").0.state(), State::Open);
    assert_eq!(hosts.get("b").0.state(), State::Closed);
    assert!(hosts.get("b").1.try_acquire().is_ok());

    clock.advance(Duration::from_secs(1));
    let held = hosts.get("b");
    hosts.evict_idle();
    assert_eq!(hosts.len(), 2, "one has history, the other a handle");
    drop(held);
    hosts.evict_idle();
    assert_eq!(hosts.len(), 1);
    clock.advance(Duration::from_secs(3600));
    hosts.evict_idle();
    assert!(hosts.is_empty());
    Ok(())
}

#[test]
fn a_template_that_returns_one_arc_shares_it_and_its_entries_stay() -> Result<(), ConfigError> {
    let clock = ManualClock::new();
    let shared = Arc::new(stack(&clock)?);
    let hosts = Keyed::new(move |_: &String| shared.clone());
    let failed = clock.block_on(hosts.get("a").call(|| async { Err::<(), _>(()) }));
    assert!(failed.is_err());
    assert_eq!(hosts.get("b").0.state(), State::Open);
    clock.advance(Duration::from_secs(3600));
    hosts.evict_idle();
    assert_eq!(hosts.len(), 2);
    Ok(())
}

#[test]
fn a_builder_is_a_template_also_with_an_algorithm_that_finds_a_limit() -> Result<(), ConfigError> {
    let clock = ManualClock::new();
    let limit = Aimd::builder().initial(2).build()?;
    let template = Bulkhead::builder().adaptive(limit).clock(clock);
    let hosts = Keyed::<String, _>::try_new(move || template.clone().build())?;
    let busy = hosts.get("a");
    let _permits = [busy.try_acquire().unwrap(), busy.try_acquire().unwrap()];
    assert!(hosts.get("a").try_acquire().is_err());
    assert!(hosts.get("b").try_acquire().is_ok());
    Ok(())
}
