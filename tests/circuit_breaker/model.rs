//! The breaker against a naive model, on random sequences of steps.

use backstop::circuit_breaker::{Isolation, Permit, State};
use backstop::policy::Health;
use backstop::{Clock, ManualClock, Reason, Verdict};
use proptest::prelude::*;

use super::model_steps::{Call, Config, Rule, SLOW, Step, configs, steps};
use super::ms;

/// The naive breaker: keeps all calls and evaluates all rules from scratch. Times in milliseconds.
struct Model {
    config: Config,
    state: State,
    generation: u64,
    calls: Vec<Call>,
    until: u64,
    since: u64,
    trips: u32,
    isolations: u32,
    probes: Vec<(u64, u64)>,
    results: Vec<Call>,
}

#[derive(Debug, PartialEq)]
enum Answer {
    Admitted,
    Isolated,
    Open(Option<u64>),
}

impl Model {
    const fn new(config: Config) -> Self {
        Self {
            config,
            state: State::Closed,
            generation: 0,
            calls: Vec::new(),
            until: 0,
            since: 0,
            trips: 0,
            isolations: 0,
            probes: Vec::new(),
            results: Vec::new(),
        }
    }

    fn enter(&mut self, state: State, now: u64) {
        self.state = state;
        self.since = now;
        self.generation += 1;
        match state {
            State::Open => {
                self.trips += 1;
                self.until = now + u64::from(self.trips) * 500;
            }
            State::HalfOpen => {
                self.probes.clear();
                self.results.clear();
            }
            _ => {
                self.trips = 0;
                self.calls.clear();
            }
        }
    }

    /// Applies the passing of time.
    fn settle(&mut self, now: u64) {
        if self.state != State::HalfOpen || self.isolations > 0 {
            return;
        }
        let lost = self
            .probes
            .iter()
            .filter(|(_, lost_at)| *lost_at <= now)
            .count();
        self.probes.retain(|(_, lost_at)| *lost_at > now);
        if self.config.lost_fails {
            let failure = Call {
                at: now,
                failed: true,
                slow: false,
            };
            self.results.extend(std::iter::repeat_n(failure, lost));
        }
        self.decide(now);
        if self.state == State::HalfOpen {
            if let Some(max) = self.config.max_half_open {
                if now >= self.since + max {
                    self.enter(State::Open, self.since + max);
                }
            }
        }
    }

    /// Tries the remaining results with only successes and only failures: if both agree, the decision is certain.
    fn decide(&mut self, now: u64) {
        let of = self.config.of as usize;
        let left = of.saturating_sub(self.results.len());
        if left > 0 && !self.config.early {
            return;
        }
        let closes = |bad: bool| {
            let mut all = self.results.clone();
            let call = Call {
                at: now,
                failed: bad,
                slow: bad,
            };
            all.extend(std::iter::repeat_n(call, left));
            let failed = all.iter().filter(|call| call.failed).count();
            let slow = all.iter().filter(|call| call.slow).count();
            let enough = match self.config.by_rate {
                Some(rate) => (failed as f64 / of as f64) < rate,
                None => all.len() - failed >= self.config.needed as usize,
            };
            let slow_rate = self.config.rules.iter().find_map(|rule| rule.slow_rate());
            enough && slow_rate.is_none_or(|rate| (slow as f64 / of as f64) < rate)
        };
        match (closes(false), closes(true)) {
            (true, true) => self.enter(State::Closed, now),
            (false, false) => self.enter(State::Open, now),
            _ => {}
        }
    }

    fn begin(&mut self, id: u64, now: u64) -> Answer {
        if self.isolations > 0 {
            return Answer::Isolated;
        }
        self.settle(now);
        if self.state == State::Open {
            if now < self.until {
                return Answer::Open(Some(self.until - now));
            }
            self.enter(State::HalfOpen, now);
        }
        if self.state == State::HalfOpen {
            let in_flight = self.probes.len();
            if in_flight >= self.config.permitted as usize
                || in_flight + self.results.len() >= self.config.of as usize
            {
                return Answer::Open(None);
            }
            self.probes.push((id, now + self.config.lease));
        }
        Answer::Admitted
    }

    fn end(&mut self, id: u64, generation: u64, began: u64, health: Health, now: u64) {
        if generation != self.generation {
            return;
        }
        let call = Call {
            at: now,
            failed: health == Health::Unhealthy,
            slow: now - began >= SLOW,
        };
        match self.state {
            State::HalfOpen => {
                // Leases end before results are counted.
                let lost = self
                    .probes
                    .iter()
                    .filter(|(_, lost_at)| *lost_at <= now)
                    .count();
                self.probes.retain(|(_, lost_at)| *lost_at > now);
                if self.config.lost_fails {
                    let failure = Call {
                        at: now,
                        failed: true,
                        slow: false,
                    };
                    self.results.extend(std::iter::repeat_n(failure, lost));
                }
                if let Some(index) = self.probes.iter().position(|(probe, _)| *probe == id) {
                    self.probes.remove(index);
                    if health != Health::Neutral {
                        self.results.push(call);
                    }
                }
                self.settle(now);
            }
            State::Closed | State::MetricsOnly if health != Health::Neutral => {
                self.calls.push(call);
                let looks = call.failed || call.slow || !self.config.failures_only;
                let matches = self.config.rules.iter().any(|rule| match rule {
                    Rule::Consecutive(_) => call.failed && rule.matches(&self.calls),
                    rule => looks && rule.matches(&self.calls),
                });
                if self.state == State::Closed && matches {
                    self.enter(State::Open, now);
                }
            }
            _ => {}
        }
    }

    const fn shown(&self) -> State {
        match self.isolations {
            0 => self.state,
            _ => State::Isolated,
        }
    }
}

fn run(config: &Config, steps: &[Step]) -> Result<(), TestCaseError> {
    let clock = ManualClock::new();
    let breaker = config.build(&clock);
    let mut model = Model::new(config.clone());
    let mut calls: Vec<Option<(u64, u64, u64, Permit<'_>)>> = Vec::new();
    let mut isolations: Vec<Isolation> = Vec::new();
    for (id, step) in (1..).zip(steps) {
        let now = clock.now().as_nanos() / 1_000_000;
        match *step {
            Step::Wait(millis) => clock.advance(ms(millis)),
            Step::Begin => {
                let expected = model.begin(id, now);
                let answer = match breaker.try_acquire() {
                    Ok(permit) => {
                        calls.push(Some((id, model.generation, now, permit)));
                        Answer::Admitted
                    }
                    Err(rejected) if rejected.reason() == Reason::Isolated => Answer::Isolated,
                    Err(rejected) => {
                        let after = rejected.retry_after();
                        Answer::Open(after.map(|after| after.as_millis() as u64))
                    }
                };
                prop_assert_eq!(answer, expected);
            }
            Step::End(back, health) => {
                let index = calls.len().checked_sub(back + 1);
                let Some(call) = index.and_then(|index| calls[index].take()) else {
                    continue;
                };
                let (id, generation, began, permit) = call;
                model.end(id, generation, began, health, now);
                match health {
                    Health::Healthy => permit.success(),
                    Health::Unhealthy => permit.failure(),
                    Health::Neutral if id % 2 == 0 => drop(permit),
                    Health::Neutral => permit.record(Verdict::ignore()),
                }
            }
            Step::Trip => {
                breaker.trip();
                model.enter(State::Open, now);
            }
            Step::HalfOpen => {
                breaker.half_open();
                model.enter(State::HalfOpen, now);
            }
            Step::Close => {
                breaker.close();
                model.enter(State::Closed, now);
            }
            Step::Disable => {
                breaker.disable();
                model.enter(State::Disabled, now);
            }
            Step::MetricsOnly => {
                breaker.metrics_only();
                model.enter(State::MetricsOnly, now);
            }
            Step::Isolate => {
                isolations.push(breaker.isolate());
                model.isolations += 1;
                if model.state == State::HalfOpen {
                    model.state = State::Open;
                    model.until = now;
                }
                if model.isolations == 1 {
                    model.generation += 1;
                }
            }
            Step::EndIsolation => {
                if isolations.pop().is_some() {
                    model.isolations -= 1;
                    if model.isolations == 0 {
                        model.generation += 1;
                    }
                }
            }
        }
        let snapshot = breaker.snapshot();
        prop_assert_eq!(breaker.state(), model.shown(), "{:?} {:?}", step, snapshot);
        prop_assert_eq!(snapshot.consecutive_trips, model.trips);
        let failures_in_a_row = model
            .calls
            .iter()
            .rev()
            .take_while(|call| call.failed)
            .count();
        if model.state == State::Closed && model.has_consecutive() {
            prop_assert_eq!(snapshot.consecutive_failures as usize, failures_in_a_row);
        }
    }
    Ok(())
}

impl Model {
    fn has_consecutive(&self) -> bool {
        let mut rules = self.config.rules.iter();
        rules.any(|rule| matches!(rule, Rule::Consecutive(_)))
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn the_breaker_equals_a_naive_model(
        config in configs(),
        steps in proptest::collection::vec(steps(), 0..250),
    ) {
        run(&config, &steps)?;
    }
}

#[test]
fn the_model_reaches_every_state() {
    // Guards against a model and a breaker that agree because both stay closed.
    let config = Config {
        rules: vec![Rule::Consecutive(1)],
        needed: 1,
        of: 1,
        by_rate: None,
        early: true,
        permitted: 1,
        lease: 1_000,
        lost_fails: true,
        max_half_open: None,
        failures_only: false,
    };
    let (fail, succeed) = (
        Step::End(0, Health::Unhealthy),
        Step::End(0, Health::Healthy),
    );
    let steps = [
        Step::Begin,
        fail,
        Step::Wait(500),
        Step::Begin,
        succeed,
        Step::Begin,
    ];
    run(&config, &steps).unwrap();
    let mut model = Model::new(config);
    model.begin(1, 0);
    model.end(1, 0, 0, Health::Unhealthy, 0);
    assert_eq!(model.state, State::Open);
    assert_eq!(model.begin(2, 500), Answer::Admitted);
    assert_eq!(model.state, State::HalfOpen);
}
