//! What zero means to bulkheads and their limits.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use backstop::bulkhead::limit::{
    Aimd, ConcurrencyLimit, Correlated, Gradient, Gradient2, Sample, Vegas, Windowed,
    WindowedBuilder,
};
use backstop::{Bulkhead, Instant, ManualClock, Reason};

use super::{ZERO, ms};

pub(super) fn no_call_waits() {
    let clock = ManualClock::new();
    let builder = || Bulkhead::builder().max_concurrent(1).clock(clock.clone());
    for builder in [
        builder().max_waiting(0),
        builder().max_waiting(0).max_wait(ZERO),
        builder().max_waiting(1).max_wait(ZERO),
    ] {
        let bulkhead = builder.build().unwrap();
        let _permit = bulkhead.try_acquire().unwrap();
        let rejected = clock.block_on(bulkhead.acquire()).unwrap_err();
        assert_eq!(rejected.reason(), Reason::BulkheadFull);
    }
}

fn sample(millis: u64, latency: u64, in_flight: u32) -> Sample {
    Sample::new(Instant::ORIGIN + ms(millis), ms(latency), in_flight)
}

/// Returns the limit after some seconds of samples with these latencies.
fn limit(
    mut algorithm: impl ConcurrencyLimit,
    in_flight: u32,
    latency: impl Fn(u64) -> u64,
) -> u32 {
    for call in 0..1000 {
        algorithm.on_sample(&sample(1000 + call * 10, latency(call), in_flight));
    }
    algorithm.limit()
}

pub(super) fn an_overload_drops_to_the_minimum() {
    let aimd = Aimd::builder().min(2).decrease_factor(0.0).build().unwrap();
    let gradient = Gradient2::builder().min(2).decrease_factor(0.0);
    let after_overload = |mut algorithm: Box<dyn ConcurrencyLimit>| {
        algorithm.on_sample(&sample(1000, 10, 20).overloaded());
        algorithm.limit()
    };
    assert_eq!(after_overload(Box::new(aimd)), 2);
    assert_eq!(after_overload(Box::new(gradient.build().unwrap())), 2);
}

pub(super) fn every_call_is_an_overload() {
    let aimd = |timeout| Aimd::builder().timeout(timeout).build().unwrap();
    assert_eq!(limit(aimd(ZERO), 20, |_| 1), 1);
    assert_eq!(limit(aimd(ms(10)), 200, |_| 1), 200);
}

pub(super) fn it_grows_at_any_use() {
    let aimd = |share| Aimd::builder().utilization(share).build().unwrap();
    assert!(limit(aimd(0.0), 1, |_| 1) > limit(aimd(0.5), 1, |_| 1));
    let gradient2 = |share| Gradient2::builder().utilization(share).build().unwrap();
    assert!(limit(gradient2(0.0), 1, |_| 1) > limit(gradient2(0.5), 1, |_| 1));
    let gradient = |share| Gradient::builder().utilization(share).build().unwrap();
    assert!(limit(gradient(0.0), 1, |_| 1) > limit(gradient(0.5), 1, |_| 1));
    let vegas = |share| {
        let builder = Vegas::builder().calibration(None);
        builder.utilization(share).build().unwrap()
    };
    assert!(limit(vegas(0.0), 1, |_| 1) > limit(vegas(0.5), 1, |_| 1));
}

pub(super) fn the_limit_does_not_grow() {
    let gradient = |calls| Gradient2::builder().queue_size(calls).build().unwrap();
    assert_eq!(limit(gradient(0), 1000, |_| 1), 20);
    assert!(limit(gradient(4), 1000, |_| 1) > 20);
}

/// Calls for the first calibration, and then slower ones.
fn slower(call: u64, later: u64) -> u64 {
    if call < 60 { 100 } else { later }
}

pub(super) fn the_smallest_latency_counts() {
    let gradient = |quantile| Gradient::builder().quantile(quantile).build().unwrap();
    let mostly_slow = |call| slower(call, if call % 3 == 0 { 100 } else { 1000 });
    assert!(limit(gradient(0.0), 1000, mostly_slow) > limit(gradient(0.5), 1000, mostly_slow));
}

pub(super) fn no_excess_is_tolerated() {
    let gradient = |buffer| Gradient::builder().buffer(buffer).build().unwrap();
    let slow = |call| slower(call, 110);
    assert!(limit(gradient(0.0), 1000, slow) < limit(gradient(0.25), 1000, slow));
}

pub(super) fn one_overload_suffices_for_a_gradient() {
    let limit = |share| {
        let mut gradient = Gradient::builder().overload_share(share).build().unwrap();
        for call in 0..1000 {
            let mut sample = sample(1000 + call * 10, 10, 1000);
            // At least once in each window of 100 ms.
            sample.overloaded = call > 60 && call % 5 == 0;
            gradient.on_sample(&sample);
        }
        gradient.limit()
    };
    assert!(limit(0.0) < limit(0.5), "{} {}", limit(0.0), limit(0.5));
}

fn each_sample() -> WindowedBuilder {
    let builder = Windowed::builder().window_between(ZERO, ZERO);
    builder.min_calls(1).min_latency(ZERO)
}

/// `without_correlations_nothing_is_congested`, beside the machine, tests that the guard is off.
pub(super) fn correlations_change_nothing() {
    assert!(Correlated::builder().correlation_window(0).build().is_ok());
}

pub(super) fn only_the_current_number_counts() {
    let limit = |stabilization| {
        let builder = Correlated::builder().windowed(each_sample()).initial(100);
        let builder = builder.max_limit_stabilization(stabilization);
        let mut correlated = builder.build().unwrap();
        for window in 0..300 {
            let in_flight = if window < 100 { 100 } else { 5 };
            correlated.on_sample(&sample(100 * (window + 1), 10, in_flight));
        }
        correlated.limit()
    };
    assert!(limit(ZERO) < limit(Duration::from_secs(3600)));
}

/// Records the samples that it gets.
#[derive(Clone, Debug, Default)]
struct Recorder(Arc<Mutex<Vec<Sample>>>);

impl ConcurrencyLimit for Recorder {
    fn limit(&self) -> u32 {
        1
    }

    fn on_sample(&mut self, sample: &Sample) {
        self.0.lock().unwrap().push(*sample);
    }
}

/// Returns the aggregates of these samples.
fn aggregates(builder: WindowedBuilder, samples: impl IntoIterator<Item = Sample>) -> Vec<Sample> {
    let recorder = Recorder::default();
    let mut windowed = builder.around(recorder.clone()).unwrap();
    for sample in samples {
        windowed.on_sample(&sample);
    }
    std::mem::take(&mut *recorder.0.lock().unwrap())
}

pub(super) fn a_window_ends_when_it_has_its_calls() {
    let builder = Windowed::builder().min_calls(3);
    let samples = || (0..6).map(|_| sample(10, 1, 1));
    // The first window ends as soon as it has its calls, the next one after a second.
    assert_eq!(aggregates(builder, samples()).len(), 1);
    let builder = builder.window_between(ZERO, ZERO);
    assert_eq!(aggregates(builder, samples()).len(), 2);
}

pub(super) fn an_aggregate_has_the_smallest_latency() {
    let builder = each_sample().min_calls(3).quantile(0.0);
    let found = aggregates(builder, [5, 1, 9].map(|latency| sample(10, latency, 1)));
    assert_eq!(found[0].latency, ms(1));
}

pub(super) fn no_call_is_too_fast() {
    let fast = || {
        [Sample::new(
            Instant::ORIGIN + ms(10),
            Duration::from_nanos(1),
            1,
        )]
    };
    assert_eq!(aggregates(each_sample(), fast()).len(), 1);
    let builder = each_sample().min_latency(Duration::from_micros(100));
    assert_eq!(aggregates(builder, fast()).len(), 0);
}

pub(super) fn one_overload_suffices_for_a_window() {
    let samples = || {
        let good = (0..99).map(|_| sample(10, 1, 1));
        good.chain([sample(10, 1, 1).overloaded()])
    };
    let builder = each_sample().min_calls(100);
    assert!(!aggregates(builder, samples())[0].overloaded);
    assert!(aggregates(builder.overload_share(0.0), samples())[0].overloaded);
}
