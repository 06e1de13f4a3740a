//! The whole breaker against a slow and obvious one, on random lists of events.

use backstop::circuit_breaker::{HalfOpen, Isolation, Permit, State, Trip};
use backstop::policy::Health;
use backstop::{CircuitBreaker, Clock, ManualClock, Reason, Verdict};
use proptest::prelude::*;

use super::ms;

const SLOW: u64 = 400;

#[derive(Clone, Copy, Debug)]
enum Rule {
    Consecutive(u32),
    FailuresOf(u32, u32),
    FailuresWithin(u32, u64),
    FailureRateOf(f64, u32, u32),
    FailureRateWithin(f64, u64, u32),
    SlowRateOf(f64, u32, u32),
    SlowRateWithin(f64, u64, u32),
}

const SLICES: u64 = 5;

impl Rule {
    const fn trip(self) -> Trip {
        let slices = SLICES as u32;
        match self {
            Self::Consecutive(n) => Trip::consecutive(n),
            Self::FailuresOf(k, n) => Trip::failures(k).of_last(n),
            Self::FailuresWithin(k, t) => Trip::failures(k).within(ms(t)).slices(slices),
            Self::FailureRateOf(r, n, m) => Trip::failure_rate(r).of_last(n).min_calls(m),
            Self::FailureRateWithin(r, t, m) => Trip::failure_rate(r)
                .within(ms(t))
                .slices(slices)
                .min_calls(m),
            Self::SlowRateOf(r, n, m) => Trip::slow_rate(r).of_last(n).min_calls(m),
            Self::SlowRateWithin(r, t, m) => {
                Trip::slow_rate(r).within(ms(t)).slices(slices).min_calls(m)
            }
        }
    }

    /// Whether it holds after these calls, of which the last ended now.
    fn holds(self, calls: &[Call]) -> bool {
        let now = calls.last().map_or(0, |call| call.at);
        let last = |n: u32| &calls[calls.len().saturating_sub(n as usize)..];
        let within = |t: u64| {
            let slice = t / SLICES;
            let first = calls
                .iter()
                .position(|call| call.at / slice + SLICES > now / slice);
            &calls[first.unwrap_or(calls.len())..]
        };
        let failed = |calls: &[Call]| calls.iter().filter(|call| call.failed).count();
        let slow = |calls: &[Call]| calls.iter().filter(|call| call.slow).count();
        let rate = |bad: usize, calls: &[Call], rate: f64, least: u32| {
            calls.len() >= least as usize && bad as f64 / calls.len() as f64 >= rate
        };
        match self {
            Self::Consecutive(n) => calls.len() >= n as usize && failed(last(n)) == n as usize,
            Self::FailuresOf(k, n) => failed(last(n)) >= k as usize,
            Self::FailuresWithin(k, t) => failed(within(t)) >= k as usize,
            Self::FailureRateOf(r, n, m) => rate(failed(last(n)), last(n), r, m),
            Self::FailureRateWithin(r, t, m) => rate(failed(within(t)), within(t), r, m),
            Self::SlowRateOf(r, n, m) => rate(slow(last(n)), last(n), r, m),
            Self::SlowRateWithin(r, t, m) => rate(slow(within(t)), within(t), r, m),
        }
    }

    const fn slow_rate(self) -> Option<f64> {
        match self {
            Self::SlowRateOf(r, ..) | Self::SlowRateWithin(r, ..) => Some(r),
            _ => None,
        }
    }
}

#[derive(Clone, Copy, Debug)]
struct Call {
    at: u64,
    failed: bool,
    slow: bool,
}

#[derive(Clone, Debug)]
struct Config {
    rules: Vec<Rule>,
    needed: u32,
    of: u32,
    by_rate: Option<f64>,
    early: bool,
    permitted: u32,
    lease: u64,
    lost_fails: bool,
    max_half_open: Option<u64>,
    failures_only: bool,
}

impl Config {
    fn build(&self, clock: &ManualClock) -> CircuitBreaker {
        let rule = match self.by_rate {
            Some(rate) => HalfOpen::failure_rate(rate),
            None => HalfOpen::successes(self.needed),
        };
        let lost = if self.lost_fails {
            Health::Unhealthy
        } else {
            Health::Neutral
        };
        let mut builder = CircuitBreaker::builder()
            .slow_call(ms(SLOW))
            .half_open(rule.of(self.of))
            .decide_early(self.early)
            .permitted_calls(self.permitted)
            .probe_lease(ms(self.lease))
            .lost_probes_as(lost)
            .trip_on_failures_only(self.failures_only)
            .break_with(|trips, _| ms(u64::from(trips) * 500))
            .clock(clock.clone());
        for rule in &self.rules {
            builder = builder.trip_on(rule.trip());
        }
        if let Some(max) = self.max_half_open {
            builder = builder.max_half_open(ms(max));
        }
        builder.build().unwrap()
    }
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Wait(u64),
    Begin,
    /// Ends the call that began so many calls ago, if it is still in flight.
    End(usize, Health),
    Trip,
    HalfOpen,
    Close,
    Disable,
    MetricsOnly,
    Isolate,
    EndIsolation,
}

/// The obvious breaker: keeps everything and looks at it anew each time. Times in milliseconds.
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

    /// Does what time alone brings about.
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

    /// Tries both ends of every result that is still to come: what they agree on is certain.
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
                // Leases end before results count.
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
                let holds = self.config.rules.iter().any(|rule| match rule {
                    Rule::Consecutive(_) => call.failed && rule.holds(&self.calls),
                    rule => looks && rule.holds(&self.calls),
                });
                if self.state == State::Closed && holds {
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
        prop_assert_eq!(snapshot.trips, model.trips);
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

fn rules() -> impl Strategy<Value = Rule> {
    let share = prop_oneof![Just(0.25), Just(0.5), Just(1.0)];
    let time = prop_oneof![Just(50_u64), Just(500), Just(2_000)];
    prop_oneof![
        (1..5_u32).prop_map(Rule::Consecutive),
        (1..5_u32, 5..80_u32).prop_map(|(k, n)| Rule::FailuresOf(k, n)),
        (1..5_u32, time.clone()).prop_map(|(k, t)| Rule::FailuresWithin(k, t)),
        (share.clone(), 3..70_u32, 1..4_u32).prop_map(|(r, n, m)| Rule::FailureRateOf(r, n, m)),
        (share.clone(), time.clone(), 1..6_u32)
            .prop_map(|(r, t, m)| Rule::FailureRateWithin(r, t, m)),
        (share.clone(), 3..70_u32, 1..4_u32).prop_map(|(r, n, m)| Rule::SlowRateOf(r, n, m)),
        (share, time, 1..6_u32).prop_map(|(r, t, m)| Rule::SlowRateWithin(r, t, m)),
    ]
}

fn configs() -> impl Strategy<Value = Config> {
    let rate = prop_oneof![Just(None), Just(Some(0.5)), Just(Some(1.0))];
    let max = prop_oneof![2 => Just(None), 1 => Just(Some(300_u64))];
    (
        proptest::collection::vec(rules(), 1..4),
        (1..4_u32, 0..3_u32, rate, any::<bool>()),
        (
            1..4_u32,
            prop_oneof![Just(200_u64), Just(5_000)],
            any::<bool>(),
        ),
        (max, any::<bool>()),
    )
        .prop_map(
            |(rules, half_open, probes, (max_half_open, failures_only))| {
                let (needed, more, by_rate, early) = half_open;
                let (permitted, lease, lost_fails) = probes;
                Config {
                    rules,
                    needed,
                    of: needed + more,
                    by_rate,
                    early,
                    permitted,
                    lease,
                    lost_fails,
                    max_half_open,
                    failures_only,
                }
            },
        )
}

fn steps() -> impl Strategy<Value = Step> {
    let health = prop_oneof![
        4 => Just(Health::Healthy),
        4 => Just(Health::Unhealthy),
        1 => Just(Health::Neutral),
    ];
    prop_oneof![
        6 => prop_oneof![Just(1_u64), Just(13), Just(100), Just(401), Just(900), Just(2_500)]
            .prop_map(Step::Wait),
        14 => Just(Step::Begin),
        14 => (prop_oneof![4 => Just(0_usize), 1 => 1..6_usize], health)
            .prop_map(|(back, health)| Step::End(back, health)),
        1 => prop_oneof![
            Just(Step::Trip),
            Just(Step::HalfOpen),
            Just(Step::Close),
            Just(Step::Disable),
            Just(Step::MetricsOnly),
            Just(Step::Isolate),
            Just(Step::Isolate),
            Just(Step::EndIsolation),
            Just(Step::EndIsolation),
            Just(Step::EndIsolation),
        ],
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn the_breaker_does_what_the_obvious_one_does(
        config in configs(),
        steps in proptest::collection::vec(steps(), 0..250),
    ) {
        run(&config, &steps)?;
    }
}

#[test]
fn the_model_reaches_every_state() {
    // A model that is always closed would agree with a breaker that is: this one is not.
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
