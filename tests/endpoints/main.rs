//! Sets of endpoints, in virtual time.

mod attempts;
mod checks;
mod health;
mod load;
mod model;
mod nodes;
mod settings;
mod simulation;
mod throttled;
mod user_code;
#[path = "../watchdog/mod.rs"]
mod watchdog;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::future::Future;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use backstop::endpoints::{Endpoint, EndpointsBuilder, NodeState, Snapshot};
use backstop::{Endpoints, Event, ManualClock};
use futures::future::join_all;

const fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

const SECOND: Duration = Duration::from_secs(1);

fn name(node: usize) -> String {
    format!("node-{node}")
}

/// A builder of so many nodes, whose values are their numbers.
fn builder(clock: &ManualClock, nodes: usize) -> EndpointsBuilder<usize> {
    let nodes = (0..nodes).map(|node| Endpoint::new(name(node), node));
    let builder = Endpoints::builder().nodes(nodes).ejection_jitter(0.0);
    builder.seed(1).clock(clock.clone())
}

/// As [`builder`], with nodes that take turns: failures do not keep calls away from a node.
fn rotating(clock: &ManualClock, nodes: usize) -> EndpointsBuilder<usize> {
    builder(clock, nodes).round_robin()
}

/// Events as text.
#[derive(Clone, Default)]
struct Heard(Arc<Mutex<Vec<String>>>);

impl Heard {
    fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.0.lock().unwrap())
    }

    fn observer(&self) -> impl Fn(&Event) + Send + Sync + use<> + 'static {
        let heard = self.0.clone();
        move |event: &Event| heard.lock().unwrap().push(event.to_string())
    }
}

/// Makes one call, to any node.
fn call(clock: &ManualClock, endpoints: &Endpoints<usize>, is_good: bool) {
    let result = |node: usize| if is_good { Ok(node) } else { Err("down") };
    let _ = clock.block_on(endpoints.call(|node| async move { result(*node) }));
}

/// Lets a node fail so many times, by picking until it is the one.
fn fail(endpoints: &Endpoints<usize>, node: usize, times: u32) {
    let mut failed = 0;
    for _ in 0..10_000 {
        if failed == times {
            return;
        }
        let permit = endpoints.try_acquire().expect("a node is available");
        if **permit.node() == node {
            permit.failure();
            failed += 1;
        } else {
            permit.success();
        }
    }
    panic!("{} is not picked", name(node));
}

fn state(endpoints: &Endpoints<usize>, node: usize) -> NodeState {
    of(&endpoints.snapshot(), node).state
}

fn of(snapshot: &Snapshot, node: usize) -> backstop::endpoints::NodeSnapshot {
    let nodes = snapshot.nodes.iter();
    nodes
        .clone()
        .find(|snapshot| *snapshot.name == *name(node))
        .unwrap_or_else(|| panic!("no node {node} in {snapshot:?}"))
        .clone()
}

/// How often each node is picked in so many calls that end at once.
fn picks(endpoints: &Endpoints<usize>, calls: u32) -> BTreeMap<usize, u32> {
    let mut counts = BTreeMap::new();
    for _ in 0..calls {
        let permit = endpoints.try_acquire().expect("a node is available");
        *counts.entry(**permit.node()).or_default() += 1;
        permit.success();
    }
    counts
}

/// Starts a call every `1 / rate`, for a time, and waits for all of them.
fn simulate<F, Fut>(clock: &ManualClock, rate: u32, time: Duration, call: F)
where
    F: Fn(u32) -> Fut,
    Fut: Future<Output = ()>,
{
    let count = (time.as_secs_f64() * f64::from(rate)).round() as u32;
    let calls = (0..count).map(|number| {
        let start = SECOND * number / rate;
        let call = &call;
        async move {
            clock.sleep(start).await;
            call(number).await;
        }
    });
    clock.block_on(join_all(calls));
}

/// Numbers by node.
#[derive(Default)]
struct Counts(RefCell<BTreeMap<usize, u32>>);

impl Counts {
    fn add(&self, node: usize) {
        *self.0.borrow_mut().entry(node).or_default() += 1;
    }

    fn share(&self, node: usize) -> f64 {
        let counts = self.0.borrow();
        let all: u32 = counts.values().sum();
        f64::from(counts.get(&node).copied().unwrap_or_default()) / f64::from(all)
    }
}
