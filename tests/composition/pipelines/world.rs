//! The calls of a case, and everything that they could leave something behind in.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use backstop::policy::{Operation, Tried};
use backstop::{
    Clock, Context, Error, Event, ManualClock, MaybeStale, Observer, Outcome, Priority,
    RetryBudget, Verdict,
};
use futures::future::{Either, join_all, select};
use proptest::prelude::*;

use super::super::{Does, Fault, ms};
use super::layers::{Layer, LayerPlan};

pub(super) type Ended = Outcome<MaybeStale<u32>, Fault>;
pub(super) type Boxed<'a> = Pin<Box<dyn Future<Output = Ended> + 'a>>;

/// One call.
#[derive(Clone, Debug)]
pub(super) struct CallPlan {
    at: u64,
    /// When it is dropped, after its start.
    dropped: Option<u64>,
    /// What its attempts do; the last one again and again.
    script: Vec<Does>,
    idempotent: bool,
    repeatable: bool,
    priority: Priority,
}

impl CallPlan {
    pub(super) fn good(at: u64, takes: u64) -> Self {
        Self {
            at,
            dropped: None,
            script: vec![Does::Good(takes)],
            idempotent: true,
            repeatable: true,
            priority: Priority::NORMAL,
        }
    }
}

pub(super) fn call_plans() -> impl Strategy<Value = Vec<CallPlan>> {
    let fault = prop_oneof![
        3 => Just(Fault::Down),
        1 => Just(Fault::Forbidden),
        1 => (0..40_u64).prop_map(Fault::Busy),
    ];
    let does = prop_oneof![
        4 => (0..30_u64).prop_map(Does::Good),
        4 => (0..30_u64, fault).prop_map(|(after, fault)| Does::Bad(after, fault)),
        1 => Just(Does::Hang),
    ];
    let call = (
        0..200_u64,
        prop::option::weighted(0.2, 0..60_u64),
        prop::collection::vec(does, 1..4),
        prop::bool::weighted(0.9),
        prop::bool::weighted(0.9),
        prop::sample::select(vec![
            Priority::LOWEST,
            Priority::NORMAL,
            Priority::HIGHEST.level(9),
        ]),
    );
    let call = call.prop_map(
        |(at, dropped, script, idempotent, repeatable, priority)| CallPlan {
            at,
            dropped,
            script,
            idempotent,
            repeatable,
            priority,
        },
    );
    prop::collection::vec(call, 1..14)
}

/// What happened, in order: one line each.
#[derive(Clone, Default, PartialEq, Eq)]
pub(super) struct Trace(String);

impl fmt::Debug for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

pub(super) struct World {
    clock: ManualClock,
    budget: RetryBudget,
    layers: Vec<Layer>,
    calls: Vec<Call>,
    /// Attempts of the operation in flight.
    running: Cell<u32>,
    /// Operations started in each run of a layer.
    runs: RefCell<Vec<u32>>,
    ended: Cell<usize>,
    trace: Arc<Mutex<Trace>>,
}

/// A call, as its operation keeps it.
struct Call {
    number: u32,
    plan: CallPlan,
    started: Cell<u32>,
    tried: Cell<Tried>,
    log: Log,
}

/// Writes the trace of a call.
struct Log {
    number: u32,
    clock: ManualClock,
    trace: Arc<Mutex<Trace>>,
}

impl Log {
    fn add(&self, what: impl fmt::Display) {
        let millis = self.clock.now().as_nanos() as f64 / 1e6;
        let line = format!("{millis:>12.6} ms, call {}: {what}\n", self.number);
        self.trace.lock().unwrap().0 += &line;
    }
}

impl Observer for Log {
    fn on_event(&self, event: &Event) {
        self.add(format_args!("{event:?}"));
    }
}

impl World {
    pub(super) fn new(seed: u64, layers: &[LayerPlan], calls: &[CallPlan]) -> Self {
        let clock = ManualClock::new();
        let trace = Arc::default();
        let budget = RetryBudget::in_flight().build().unwrap();
        let layers = layers.iter().enumerate();
        let layer = |(index, plan): (usize, &LayerPlan)| {
            Layer::new(*plan, seed.wrapping_add(index as u64), &clock, &budget)
        };
        let call = |(number, plan): (u32, &CallPlan)| Call {
            number,
            plan: plan.clone(),
            started: Cell::new(0),
            tried: Cell::new(Tried::default()),
            log: Log {
                number,
                clock: clock.clone(),
                trace: Arc::clone(&trace),
            },
        };
        Self {
            layers: layers.map(layer).collect(),
            calls: (0..).zip(calls).map(call).collect(),
            running: Cell::new(0),
            runs: RefCell::default(),
            ended: Cell::new(0),
            clock: clock.clone(),
            budget: budget.clone(),
            trace,
        }
    }

    /// Makes all calls.
    pub(super) fn run(&self) {
        self.clock
            .block_on(join_all(self.calls.iter().map(|call| self.call(call))));
    }

    /// Makes all calls, and leaks those that have not ended by then.
    pub(super) fn run_and_forget(&self, after: Duration) {
        let calls = Box::pin(join_all(self.calls.iter().map(|call| self.call(call))));
        let until = Box::pin(self.clock.sleep(after));
        match self.clock.block_on(select(calls, until)) {
            Either::Left(_) => {}
            Either::Right((_, calls)) => std::mem::forget(calls),
        }
    }

    async fn call(&self, call: &Call) {
        self.clock.sleep(ms(call.plan.at)).await;
        let cx = Context::new()
            .with_idempotent(call.plan.idempotent)
            .with_repeatable(call.plan.repeatable)
            .with_priority(call.plan.priority);
        let rest = Rest {
            world: self,
            depth: 0,
            run: None,
            call,
        };
        let attempt = rest.attempt(cx);
        match call.plan.dropped {
            None => call.log.add(format_args!("{:?}", attempt.await.result)),
            Some(after) => {
                let until = Box::pin(self.clock.sleep(ms(after)));
                match select(attempt, until).await {
                    Either::Left((ended, _)) => call.log.add(format_args!("{:?}", ended.result)),
                    Either::Right(_) => call.log.add("dropped"),
                }
            }
        }
        self.ended.set(self.ended.get() + 1);
    }

    pub(super) fn ended(&self) -> usize {
        self.ended.get()
    }

    pub(super) fn trace(&self) -> Trace {
        self.trace.lock().unwrap().clone()
    }

    /// Checks the layer against this limit, and not its own.
    pub(super) fn claim_limit(&self, layer: usize, limit: u32) {
        self.layers[layer].seen.claimed.set(Some(limit));
    }

    /// What does not hold.
    pub(super) fn broken(&self) -> Vec<String> {
        let mut broken = Vec::new();
        for (index, layer) in self.layers.iter().enumerate() {
            let in_layer = layer.broken().into_iter();
            broken.extend(in_layer.map(|text| format!("layer {index}: {text}")));
        }
        let budget = self.budget.snapshot();
        for (what, left) in [
            ("attempts of the operation", self.running.get() as usize),
            ("sleepers", self.clock.sleepers()),
            ("calls in the budget", budget.calls_in_flight as usize),
            ("retries in the budget", budget.extras_in_flight as usize),
        ] {
            if left > 0 {
                broken.push(format!("{what} at the end: {left}"));
            }
        }
        broken
    }

    /// One attempt of the operation.
    async fn attempt(&self, call: &Call, number: u32) -> Result<MaybeStale<u32>, Fault> {
        let _running = Counted::new(&self.running);
        let script = &call.plan.script;
        let does = script[(number as usize).min(script.len() - 1)];
        call.log.add(format_args!("attempt {number} {does:?}"));
        let (after, answer) = match does {
            Does::Good(after) => (ms(after), Ok(MaybeStale::fresh(call.number))),
            Does::Bad(after, fault) => (ms(after), Err(fault)),
            // A pipeline without a timeout ends too.
            Does::Hang => (Duration::from_secs(3600), Err(Fault::Down)),
        };
        if !after.is_zero() {
            self.clock.sleep(after).await;
        }
        answer
    }
}

/// Counts something for as long as it lives.
struct Counted<'a>(&'a Cell<u32>);

impl<'a> Counted<'a> {
    fn new(count: &'a Cell<u32>) -> Self {
        count.set(count.get() + 1);
        Self(count)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

/// The layers from `depth` on, around the operation of a call, as an operation for the layer outside them.
#[derive(Clone, Copy)]
pub(super) struct Rest<'a> {
    world: &'a World,
    depth: usize,
    /// The run of the layer outside.
    run: Option<usize>,
    call: &'a Call,
}

impl Rest<'_> {
    /// The key of the call: one of three.
    pub(super) const fn key(&self) -> u32 {
        self.call.number % 3
    }
}

impl<'a> Operation for Rest<'a> {
    type Value = MaybeStale<u32>;
    type Error = Fault;
    type Attempt = Boxed<'a>;
    type Listener = &'a dyn Observer;

    fn attempt(self, cx: Context) -> Boxed<'a> {
        let world = self.world;
        let mut guard = None;
        if let Some(run) = self.run {
            let outside = &world.layers[self.depth - 1];
            let seen = &outside.seen;
            outside.look();
            guard = Some(Counted::new(&seen.in_flight));
            seen.most.set(seen.most.get().max(seen.in_flight.get()));
            seen.starts.borrow_mut().push(world.clock.now());
            let mut runs = world.runs.borrow_mut();
            runs[run] += 1;
            seen.most_in_a_run
                .set(seen.most_in_a_run.get().max(runs[run]));
        }
        let Some(layer) = world.layers.get(self.depth) else {
            let number = self.call.started.get();
            self.call.started.set(number + 1);
            return Box::pin(async move {
                let _guard = guard;
                match world.attempt(self.call, number).await {
                    Ok(value) => Outcome::of(Ok(value)),
                    Err(fault) => {
                        let verdict = match fault {
                            Fault::Down => Verdict::transient(),
                            Fault::Forbidden => Verdict::permanent(),
                            Fault::Busy(after) => Verdict::throttled(ms(after)),
                        };
                        Outcome::new(Err(Error::Operation(fault)), verdict)
                    }
                }
            });
        };
        let run = {
            let mut runs = world.runs.borrow_mut();
            runs.push(0);
            runs.len() - 1
        };
        let rest = Self {
            depth: self.depth + 1,
            run: Some(run),
            ..self
        };
        let future = layer.run(rest, cx, &world.clock);
        Box::pin(async move {
            // Dropped after the future.
            let _guard = guard;
            future.await
        })
    }

    fn listener(self) -> &'a dyn Observer {
        &self.call.log
    }

    fn started(self) -> u32 {
        self.call.started.get()
    }

    fn tried(self) -> Tried {
        self.call.tried.get()
    }

    fn keep_tried(self, tried: Tried) {
        self.call.tried.set(tried);
    }
}
