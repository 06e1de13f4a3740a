//! The bulkhead as a policy.

use std::mem;
use std::pin::Pin;
use std::task::{Context as TaskContext, Poll, ready};

use pin_project_lite::pin_project;

use super::Bulkhead;
use super::acquire::{Request, Wait};
use super::inner::Inner;
use super::permit_queue::Full;
use super::raw_permit::{Ending, RawPermit};
use crate::clock::ClockHandle;
use crate::error::Rejected;
use crate::event::Observer;
use crate::instant::Instant;
use crate::policy::guarded::{self, Entered, Entrance, Gate, GuardedFuture, Permit};
use crate::policy::{
    AtMostOnce, Context, Describe, Finished, LayerKind, Operation, Outcome, Policy, Run,
};
use crate::verdict::Verdict;

impl Policy for Bulkhead {}

impl AtMostOnce for Bulkhead {}

impl<'a, Op: Operation> Run<Op> for &'a Bulkhead {
    type Future = GuardedFuture<&'a Bulkhead, Op>;

    #[inline(always)]
    fn run(self, op: Op, cx: Context) -> Self::Future {
        guarded::run(self, op, cx)
    }
}

impl Describe for Bulkhead {
    fn clock(&self) -> Option<ClockHandle> {
        Some(self.inner.base.clock.clone())
    }

    fn describe(&self, layers: &mut Vec<LayerKind>) {
        layers.push(LayerKind::Bulkhead {
            adaptive: self.inner.adaptive.is_some(),
        });
    }
}

impl<'a> Gate for &'a Bulkhead {
    type Ticket = Ticket;
    type Permit = Running<'a>;
    type Entrance = Waiting<'a>;

    #[inline(always)]
    fn enter(
        self,
        cx: &mut Context,
        observer: Option<&dyn Observer>,
    ) -> Entered<Ticket, Waiting<'a>> {
        let inner = &*self.inner;
        let rejected = match inner.try_enter(inner.entrant(cx, self.partition), cx, observer) {
            Ok(raw) => return Entered::Admitted(Ticket(raw)),
            Err(Full::Busy) if inner.may_wait() => None,
            Err(full) => Some(full.reason()),
        };
        Entered::Waits(Waiting {
            bulkhead: self,
            wait: Wait::new(rejected),
        })
    }

    #[inline(always)]
    fn permit(self, Ticket(raw): Ticket) -> Running<'a> {
        Running {
            inner: &self.inner,
            raw,
        }
    }
}

/// The permits of an admitted call, before its attempt has been created.
#[derive(Clone, Copy, Debug)]
pub struct Ticket(RawPermit);

/// The permits of a running call, or none after [`take`](Permit::take).
pub struct Running<'a> {
    inner: &'a Inner,
    raw: RawPermit,
}

impl Permit for Running<'_> {
    #[inline(always)]
    fn take(&mut self) -> Self {
        Self {
            inner: self.inner,
            raw: self.raw.take().unwrap_or(RawPermit::NOTHING),
        }
    }

    #[inline(always)]
    fn exit<T, E>(self, outcome: Outcome<T, E>, observer: Option<&dyn Observer>) -> Outcome<T, E> {
        let (inner, raw) = (self.inner, self.raw);
        // The permits are released below.
        mem::forget(self);
        outcome.shown_to(|verdict, finished| {
            if inner.adaptive.is_some() && !raw.is_nothing() {
                let (word, in_flight, started) = raw.into_words();
                return end_with_sample(
                    inner, word, in_flight, started, verdict, finished, observer,
                );
            }
            if !raw.is_nothing() {
                inner.release(raw);
            }
            finished
        })
    }
}

/// Ends a call and gives the algorithm a sample of it.
///
/// Out of line, with every word by itself: a value of three words is passed by address, and for that address the caller
/// copied each permit of every bulkhead with loads wider than the stores before, which stalled it for 5 ns.
#[inline(never)]
fn end_with_sample(
    inner: &Inner,
    word: u64,
    in_flight: u64,
    started: Instant,
    verdict: Verdict,
    mut finished: Finished,
    observer: Option<&dyn Observer>,
) -> Finished {
    let raw = RawPermit::from_words(word, in_flight, started);
    let now = || finished.on(&inner.base.clock);
    inner.leave(raw, Ending::of(&verdict), now, observer);
    finished
}

impl Drop for Running<'_> {
    #[inline(always)]
    fn drop(&mut self) {
        // Reads one word instead of taking the permit: loads of recently written words would stall.
        if !self.raw.is_nothing() {
            self.abandon();
        }
    }
}

impl Running<'_> {
    /// Ends a call whose future was dropped or whose operation panicked.
    #[inline(never)]
    fn abandon(&mut self) {
        if let Some(raw) = self.raw.take() {
            self.inner.leave_in_drop(raw, self.inner.ending_of_drop());
        }
    }
}

impl std::fmt::Debug for Running<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Running")
            .field("cost", &self.raw.cost())
            .finish_non_exhaustive()
    }
}

pin_project! {
    /// The wait of a call that was not admitted immediately. Rejections also take this path, to keep the fast
    /// path small.
    pub struct Waiting<'a> {
        bulkhead: &'a Bulkhead,
        #[pin]
        wait: Wait<'a>,
    }
}

impl<'a> Entrance for Waiting<'a> {
    type Permit = Running<'a>;

    fn poll(
        self: Pin<&mut Self>,
        cx: &mut Context,
        reads_time: bool,
        observer: Option<&dyn Observer>,
        task: &mut TaskContext<'_>,
    ) -> Poll<Result<Running<'a>, Rejected>> {
        let this = self.project();
        let inner = &*this.bulkhead.inner;
        let request = Request {
            inner,
            partition: this.bulkhead.partition,
            reads_time,
        };
        // Before the acquisition: a clock that panics afterwards must not leak the permits.
        let mut running = Running {
            inner,
            raw: RawPermit::NOTHING,
        };
        Poll::Ready(
            match ready!(
                this.wait
                    .poll(request, cx, &mut running.raw, observer, task)
            ) {
                // Word by word: see `RawPermit::take`.
                Ok(()) => Ok(running.take()),
                Err(reason) => Err(inner.reject(reason, observer)),
            },
        )
    }
}

impl std::fmt::Debug for Waiting<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Waiting").finish_non_exhaustive()
    }
}
