//! Model checks: calls that enter and leave during a drain, and probes.

use std::time::Duration;

use loom::sync::{Arc, Mutex};
use loom::thread;

use super::latency::{Decay, Latency};
use super::stats::NodeStats;
use crate::instant::Instant;

#[test]
fn loom_a_drain_sees_each_call_or_keeps_it_out() {
    loom::model(|| {
        let stats = Arc::new(NodeStats::new());
        // Whether the routes lead to the node.
        let routes = Arc::new(Mutex::new(true));
        let caller = {
            let (stats, routes) = (stats.clone(), routes.clone());
            thread::spawn(move || {
                let routes = routes.lock().unwrap();
                if *routes {
                    stats.enter();
                }
                let entered = *routes;
                drop(routes);
                (entered, entered && stats.leave())
            })
        };
        *routes.lock().unwrap() = false;
        stats.close();
        let seen = stats.in_flight();
        let (entered, wakes) = caller.join().unwrap();
        assert!(stats.is_idle());
        if seen == 1 {
            // The drain waits, so the call wakes it.
            assert!(entered && wakes);
        }
    });
}

#[test]
fn loom_the_last_of_two_calls_wakes_the_drain() {
    loom::model(|| {
        let stats = Arc::new(NodeStats::new());
        stats.enter();
        stats.enter();
        stats.close();
        let other = {
            let stats = stats.clone();
            thread::spawn(move || stats.leave())
        };
        let here = stats.leave();
        assert!(here ^ other.join().unwrap());
    });
}

#[test]
fn loom_one_of_two_calls_is_the_probe() {
    loom::model(|| {
        let stats = Arc::new(NodeStats::new());
        let claim = |stats: &NodeStats| stats.claim_probe(Instant::ORIGIN, 10);
        let other = {
            let stats = stats.clone();
            thread::spawn(move || claim(&stats))
        };
        let here = claim(&stats);
        assert!(here ^ other.join().unwrap());
        assert!(!claim(&stats));
        assert!(
            stats.claim_probe(Instant::from_nanos(10), 10),
            "the lease is over"
        );
    });
}

#[test]
fn loom_no_sample_is_lost() {
    loom::model(|| {
        let latency = Arc::new(Latency::new());
        let decay = Decay::new(Duration::from_secs(1));
        let record = move |latency: &Latency, sample| {
            latency.record(sample, Instant::from_nanos(1), decay);
        };
        let other = {
            let latency = latency.clone();
            thread::spawn(move || record(&latency, 1_000_000))
        };
        record(&latency, 3_000_000);
        other.join().unwrap();
        let average = latency.at(Instant::from_nanos(1), decay).unwrap();
        // The first sample is the average, and the second has moved it.
        let moved = [1_000_000.0, 3_000_000.0].map(|first| (average - first).abs());
        assert!(moved.iter().all(|moved| *moved > 1.0), "{average}");
    });
}

#[test]
fn loom_no_call_is_lost_when_an_epoch_begins() {
    loom::model(|| {
        let mut record = super::record::Record::new(1.0, 0, 0, None);
        let stats = record.stats.clone();
        let caller = thread::spawn(move || stats.succeed(true));
        record.begin_epoch();
        caller.join().unwrap();
        assert_eq!(record.totals().good, 1);
    });
}
