//! Hedges, in virtual time.

mod events;
mod latencies;
mod load;
mod neighbors;
mod nested;
mod rules;
mod settings;

use std::cell::{Cell, RefCell};
use std::future::pending;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use backstop::hedge::HedgeBuilder;
use backstop::{
    Classify, ClassifyErrors, Clock, Error, Event, Hedge, ManualClock, Policy, Timeout, Verdict,
};

const fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

fn hedge(clock: &ManualClock, delay: u64) -> HedgeBuilder {
    Hedge::builder().after(ms(delay)).clock(clock.clone())
}

fn timeout(clock: &ManualClock, millis: u64) -> Timeout {
    let timeout = Timeout::builder().after(ms(millis)).clock(clock.clone());
    timeout.build().unwrap()
}

fn elapsed(clock: &ManualClock) -> Duration {
    Duration::from_nanos(clock.now().as_nanos())
}

/// What is wrong with an answer, and the copy that it is from.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Fault {
    Down(usize),
    Forbidden,
    Busy(u64),
    Final,
}

/// What a copy does.
#[derive(Clone, Copy, Debug)]
enum Does {
    Good(u64),
    Down(u64),
    Bad(u64, Fault),
    Hang,
}
use Does::{Bad, Down, Good, Hang};

fn classify() -> ClassifyErrors<fn(&Fault) -> Verdict> {
    Classify::errors(|fault: &Fault| match *fault {
        Fault::Down(_) => Verdict::transient(),
        Fault::Forbidden => Verdict::permanent(),
        Fault::Busy(after) => Verdict::throttled(ms(after)),
        Fault::Final => Verdict::failure(),
    })
}

/// A call: its result, which names the copy that answered, when it ended, and when each copy began.
#[derive(Debug, PartialEq)]
struct Seen {
    result: Result<usize, Error<Fault>>,
    millis: u64,
    starts: Vec<u64>,
}

/// Makes one call, whose copies do one thing of the script each.
macro_rules! call {
    ($clock:expr, $policy:expr, $script:expr) => {{
        let (clock, policy, script): (&ManualClock, _, &[Does]) = ($clock, $policy, &$script);
        let (began, starts) = (elapsed(clock), RefCell::new(Vec::new()));
        let copy = Cell::new(0);
        let result = clock.block_on(policy.call(|| {
            let number = copy.replace(copy.get() + 1);
            starts
                .borrow_mut()
                .push((elapsed(clock) - began).as_millis() as u64);
            let does = script[number];
            async move {
                let (after, result) = match does {
                    Good(after) => (after, Ok(number)),
                    Down(after) => (after, Err(Fault::Down(number))),
                    Bad(after, fault) => (after, Err(fault)),
                    Hang => pending().await,
                };
                if after > 0 {
                    clock.sleep(ms(after)).await;
                }
                result
            }
        }));
        assert_eq!(clock.sleepers(), 0, "a timer is left");
        Seen {
            result,
            millis: (elapsed(clock) - began).as_millis() as u64,
            starts: starts.into_inner(),
        }
    }};
}
use call;

fn good(copy: usize, millis: u64, starts: &[u64]) -> Seen {
    Seen {
        result: Ok(copy),
        millis,
        starts: starts.to_vec(),
    }
}

fn bad(fault: Fault, millis: u64, starts: &[u64]) -> Seen {
    Seen {
        result: Err(Error::Operation(fault)),
        millis,
        starts: starts.to_vec(),
    }
}

/// What an observer heard of the hedge.
#[derive(Clone, Default)]
struct Heard(Arc<Mutex<Vec<String>>>);

impl Heard {
    fn observer(&self) -> impl Fn(&Event) + Send + Sync + 'static {
        let heard = self.0.clone();
        move |event: &Event| {
            if matches!(event, Event::Hedge { .. }) {
                heard.lock().unwrap().push(event.to_string());
            }
        }
    }

    fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.0.lock().unwrap())
    }
}
