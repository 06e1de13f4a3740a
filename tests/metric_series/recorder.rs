//! A recorder that keeps every series.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use backstop::metrics::{Kind, TABLE};
use metrics::{
    Counter, Gauge, Histogram, HistogramFn, Key, KeyName, Metadata, Recorder, SharedString, Unit,
};

#[derive(Clone, Default)]
pub(crate) struct TestRecorder(Arc<Mutex<Series>>);

#[derive(Default)]
struct Series {
    described: Vec<String>,
    counters: BTreeMap<Name, Arc<AtomicU64>>,
    gauges: BTreeMap<Name, Arc<AtomicU64>>,
    histograms: BTreeMap<Name, Arc<Values>>,
}

/// The metric, and its labels as `key=value,...` in the order of the key.
type Name = (String, String);

#[derive(Default)]
struct Values(Mutex<Vec<f64>>);

impl HistogramFn for Values {
    fn record(&self, value: f64) {
        self.0.lock().unwrap().push(value);
    }
}

fn name(key: &Key) -> Name {
    let labels: Vec<String> = key
        .labels()
        .map(|label| format!("{}={}", label.key(), label.value()))
        .collect();
    (key.name().to_owned(), labels.join(","))
}

fn at(metric: &str, labels: &str) -> Name {
    (metric.to_owned(), labels.to_owned())
}

impl TestRecorder {
    /// The value of a counter; 0 if it is not registered.
    pub(crate) fn counter(&self, metric: &str, labels: &str) -> u64 {
        let series = self.0.lock().unwrap();
        let counter = series.counters.get(&at(metric, labels));
        counter.map_or(0, |counter| counter.load(Ordering::Relaxed))
    }

    /// The sum of all series of a counter.
    pub(crate) fn sum(&self, metric: &str) -> u64 {
        let series = self.0.lock().unwrap();
        let of = series.counters.iter().filter(|(name, _)| name.0 == metric);
        of.map(|(_, counter)| counter.load(Ordering::Relaxed)).sum()
    }

    pub(crate) fn gauge(&self, metric: &str, labels: &str) -> f64 {
        let series = self.0.lock().unwrap();
        let gauge = series.gauges.get(&at(metric, labels));
        f64::from_bits(gauge.expect("it is registered").load(Ordering::Relaxed))
    }

    pub(crate) fn gauges(&self) -> Vec<Name> {
        self.0.lock().unwrap().gauges.keys().cloned().collect()
    }

    /// The values of a histogram, rounded to a microsecond.
    pub(crate) fn histogram(&self, metric: &str, labels: &str) -> Vec<f64> {
        let series = self.0.lock().unwrap();
        let histogram = series.histograms.get(&at(metric, labels));
        let values = histogram.map_or(vec![], |values| values.0.lock().unwrap().clone());
        values
            .iter()
            .map(|value| (value * 1e6).round() / 1e6)
            .collect()
    }

    /// The number of series.
    pub(crate) fn series(&self) -> usize {
        let series = self.0.lock().unwrap();
        series.counters.len() + series.gauges.len() + series.histograms.len()
    }

    /// Every series is a metric of the table, of its kind, with its labels; and the whole table is described.
    pub(crate) fn check_against_the_table(&self) {
        let series = self.0.lock().unwrap();
        let kinds = [
            (Kind::Counter, series.counters.keys().collect::<Vec<_>>()),
            (Kind::Gauge, series.gauges.keys().collect()),
            (Kind::Histogram, series.histograms.keys().collect()),
        ];
        for (kind, names) in kinds {
            for (metric, labels) in names {
                let found = TABLE.iter().find(|row| row.name == metric);
                let row = found.unwrap_or_else(|| panic!("{metric} is not in the table"));
                assert_eq!(row.kind, kind, "{metric}");
                let keys: Vec<&str> = labels
                    .split(',')
                    .map(|label| label.split_once('=').unwrap().0)
                    .filter(|&key| key != "pipeline")
                    .collect();
                assert_eq!(keys, row.labels, "{metric}");
            }
        }
        let table: Vec<&str> = TABLE.iter().map(|row| row.name).collect();
        assert_eq!(series.described, table);
    }

    fn describe(&self, name: &KeyName) {
        let mut series = self.0.lock().unwrap();
        series.described.push(name.as_str().to_owned());
    }
}

impl Recorder for TestRecorder {
    fn describe_counter(&self, name: KeyName, _: Option<Unit>, _: SharedString) {
        self.describe(&name);
    }

    fn describe_gauge(&self, name: KeyName, _: Option<Unit>, _: SharedString) {
        self.describe(&name);
    }

    fn describe_histogram(&self, name: KeyName, _: Option<Unit>, _: SharedString) {
        self.describe(&name);
    }

    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        let counters = &mut self.0.lock().unwrap().counters;
        Counter::from_arc(counters.entry(name(key)).or_default().clone())
    }

    fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
        let gauges = &mut self.0.lock().unwrap().gauges;
        Gauge::from_arc(gauges.entry(name(key)).or_default().clone())
    }

    fn register_histogram(&self, key: &Key, _: &Metadata<'_>) -> Histogram {
        let histograms = &mut self.0.lock().unwrap().histograms;
        Histogram::from_arc(histograms.entry(name(key)).or_default().clone())
    }
}
