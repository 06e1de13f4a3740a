//! Layers that are removed and put back.

use super::*;

#[test]
fn a_layer_that_is_switched_off_and_on_continues_where_it_was() {
    let clock = ManualClock::new();
    let standard = standard(&clock).without_breaker().without_budget();
    let standard = standard.build().unwrap();
    let change = |config: fn(Config) -> Config| {
        standard.reconfigure(config(standard.config())).unwrap();
    };
    for times in 1..=4 {
        change(|config| config.quota(Quota::per_hour(10)));
        fail(&clock, &standard);
        let remaining = standard.snapshot().limiter.unwrap().remaining;
        assert_eq!(remaining, 10 - times);
        change(Config::without_limiter);
    }
    for time in 0..4 {
        change(|config| config.breaker(CircuitBreaker::builder()));
        if time == 0 {
            standard.breaker().unwrap().trip_for(s(3600));
        }
        assert_eq!(standard.breaker().unwrap().state(), State::Open, "{time}");
        change(Config::without_breaker);
    }
    // The stack's own budget, too.
    for time in 0..4 {
        change(|config| config.budget_share(0.0, 1));
        let budget = standard.budget().unwrap();
        if time == 0 {
            while budget
                .begin()
                .withdraw(backstop::ErrorClass::Transient)
                .is_some()
            {}
        }
        assert_eq!(budget.snapshot().available, 0.0, "{time}");
        change(Config::without_budget);
    }
}
