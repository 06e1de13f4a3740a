//! Stacks as a subject of their own: what policies do to each other.
//!
//! Most tests read *given* a stack, *when* the operation does this, *then* the call ends like that,
//! after so many attempts and so much virtual time.

mod blocking;
mod boxed;
mod checked;
mod clock_readings;
mod deadlines;
mod endings;
mod endpoints;
mod observers;
mod printed;
#[cfg(feature = "tokio")]
mod reconfigured;
mod rejections;

use std::time::Duration;

use backstop::event::Ending;
use backstop::{
    Backoff, Classify, ClassifyErrors, Error, Jitter, ManualClock, Retry, Timeout, Verdict,
};

const fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// What is wrong with an answer.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Fault {
    Down,
    Forbidden,
    /// Busy, come back after so many milliseconds.
    Busy(u64),
}

/// What an attempt does: it answers after so many milliseconds, if at all.
#[derive(Clone, Copy, Debug)]
enum Does {
    Good(u64),
    Bad(u64, Fault),
    Hang,
}

fn timeout(clock: &ManualClock, millis: u64) -> Timeout {
    let timeout = Timeout::builder().after(ms(millis)).clock(clock.clone());
    timeout.build().unwrap()
}

/// Three attempts, 100 ms and 200 ms apart.
fn retry(clock: &ManualClock) -> Retry {
    let exact = |backoff: Backoff| backoff.jitter(Jitter::None);
    let retry = Retry::builder()
        .backoff(exact(Backoff::exponential(ms(100))))
        .throttled_backoff(exact(Backoff::exponential(ms(100))));
    retry.clock(clock.clone()).build().unwrap()
}

/// Knows the faults.
fn classify() -> ClassifyErrors<fn(&Fault) -> Verdict> {
    Classify::errors(|fault: &Fault| match *fault {
        Fault::Down => Verdict::transient(),
        Fault::Forbidden => Verdict::permanent(),
        Fault::Busy(after) => Verdict::throttled(ms(after)),
    })
}

/// Says the same of everything that went wrong.
fn all_are(verdict: Verdict) -> Classify<impl Fn(Result<&(), &Error<Fault>>) -> Verdict> {
    Classify::by(move |result: Result<&(), &Error<Fault>>| match result {
        Ok(()) => Verdict::success(),
        Err(_) => verdict,
    })
}

/// What came of a call: how it ended, after how many attempts, and when.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Seen(Ending, u32, Duration);

/// Makes one call; each attempt does the next thing of `script`, and then the last one again.
macro_rules! when {
    (|$clock:ident| $stack:expr, $script:expr) => {{
        let clock = backstop::ManualClock::new();
        let script: &[$crate::Does] = $script;
        let stack = {
            let $clock = &clock;
            $stack
        };
        let attempt = std::cell::Cell::new(0);
        let report = clock.block_on(stack.call_reported(|| {
            let does = script[attempt.get().min(script.len() - 1)];
            attempt.set(attempt.get() + 1);
            let clock = &clock;
            async move {
                let (after, answer) = match does {
                    $crate::Does::Good(after) => (after, Ok(())),
                    $crate::Does::Bad(after, fault) => (after, Err(fault)),
                    $crate::Does::Hang => std::future::pending().await,
                };
                if after > 0 {
                    clock.sleep($crate::ms(after)).await;
                }
                answer
            }
        }));
        assert_eq!(clock.sleepers(), 0);
        let ending = backstop::event::Ending::of(&report.result);
        $crate::Seen(ending, report.attempts, report.elapsed)
    }};
}

/// `given! { |clock| stack => { [script] => ending, attempts, milliseconds; ... } ... }`
macro_rules! given {
    ($(|$clock:ident| $stack:expr => {
        $([$($does:expr),*] => $ending:expr, $attempts:expr, $millis:expr;)*
    })*) => {$($(
        let seen = when!(|$clock| $stack, &[$($does),*]);
        let expected = $crate::Seen($ending, $attempts, $crate::ms($millis));
        let given = concat!(stringify!($stack), ", when ", stringify!([$($does),*]));
        assert_eq!(seen, expected, "given {given}");
    )*)*};
}

// After the macros that they use.
mod copies;
mod limits;
mod options;
mod order;
mod pipelines;
mod unwinding;
mod wrappers;
