//! Configurations and steps for the model.

use backstop::circuit_breaker::{HalfOpen, Trip};
use backstop::policy::Health;
use backstop::{CircuitBreaker, ManualClock};
use proptest::prelude::*;

use super::ms;

/// Calls are slow from this many milliseconds.
pub(super) const SLOW: u64 = 400;

#[derive(Clone, Copy, Debug)]
pub(super) enum Rule {
    Consecutive(u32),
    FailuresOf(u32, u32),
    FailuresWithin(u32, u64),
    FailureRateOf(f64, u32, u32),
    FailureRateWithin(f64, u64, u32),
    SlowRateOf(f64, u32, u32),
    SlowRateWithin(f64, u64, u32),
}

pub(super) const SLICES: u64 = 5;

impl Rule {
    pub(super) const fn trip(self) -> Trip {
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

    /// Whether the rule matches after these calls; the last one ended now.
    pub(super) fn matches(self, calls: &[Call]) -> bool {
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

    pub(super) const fn slow_rate(self) -> Option<f64> {
        match self {
            Self::SlowRateOf(r, ..) | Self::SlowRateWithin(r, ..) => Some(r),
            _ => None,
        }
    }
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Call {
    pub(super) at: u64,
    pub(super) failed: bool,
    pub(super) slow: bool,
}

#[derive(Clone, Debug)]
pub(super) struct Config {
    pub(super) rules: Vec<Rule>,
    pub(super) needed: u32,
    pub(super) of: u32,
    pub(super) by_rate: Option<f64>,
    pub(super) early: bool,
    pub(super) permitted: u32,
    pub(super) lease: u64,
    pub(super) lost_fails: bool,
    pub(super) max_half_open: Option<u64>,
    pub(super) failures_only: bool,
}

impl Config {
    pub(super) fn build(&self, clock: &ManualClock) -> CircuitBreaker {
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
pub(super) enum Step {
    Wait(u64),
    Begin,
    /// Finishes the call that began this many calls ago, if it is still in flight.
    End(usize, Health),
    Trip,
    HalfOpen,
    Close,
    Disable,
    MetricsOnly,
    Isolate,
    EndIsolation,
}

pub(super) fn rules() -> impl Strategy<Value = Rule> {
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

pub(super) fn configs() -> impl Strategy<Value = Config> {
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

pub(super) fn steps() -> impl Strategy<Value = Step> {
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
