//! Faults around an operation.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context as TaskContext, Poll, ready};

use pin_project_lite::pin_project;

use super::Chaos;
use super::inner::{BoxedBehavior, Inner};
use super::make::{MakeError, MakeResult};
use super::state::Fault;
use crate::blocking;
use crate::clock::{ClockHandle, Sleep};
use crate::event::{Event, Listener, Observer};
use crate::policy::{AtMostOnce, Context, Describe, LayerKind, Operation, Outcome, Policy, Run};
use crate::sync::lock;

impl<E, R> Policy for Chaos<E, R> {}

impl<E, R> AtMostOnce for Chaos<E, R> {}

impl<E, R> Describe for Chaos<E, R> {
    fn clock(&self) -> Option<ClockHandle> {
        Some(self.inner.base.clock.clone())
    }

    fn describe(&self, layers: &mut Vec<LayerKind>) {
        layers.push(LayerKind::Chaos);
    }
}

impl<'a, E, R, Op> Run<Op> for &'a Chaos<E, R>
where
    E: MakeError<Op::Error>,
    R: MakeResult<Op::Value, Op::Error>,
    Op: Operation,
{
    type Future = ChaosFuture<'a, Op>;

    fn run(self, op: Op, cx: Context) -> Self::Future {
        match self.inner.decide(&cx, op.listener().observer()) {
            None => ChaosFuture::Running {
                attempt: op.attempt(cx),
            },
            Some(fault) => self.inject(fault, op, cx),
        }
    }
}

impl<E, R> Chaos<E, R> {
    #[cold]
    fn inject<Op>(&self, fault: Fault, op: Op, cx: Context) -> ChaosFuture<'_, Op>
    where
        E: MakeError<Op::Error>,
        R: MakeResult<Op::Value, Op::Error>,
        Op: Operation,
    {
        let inner = &*self.inner;
        let result = match fault {
            Fault::Latency => {
                let latency = *lock(&inner.latency);
                let delay = latency.draw(inner.rng.unit());
                let sleep = inner.base.clock.sleep_until(inner.base.clock.now() + delay);
                return ChaosFuture::Delayed {
                    sleep,
                    op,
                    cx,
                    inner,
                };
            }
            Fault::Behavior => {
                let behavior = inner.behavior.as_ref();
                let behavior = behavior.map(|make| blocking::outside(|| make()));
                return match behavior {
                    Some(behavior) => ChaosFuture::Behaving {
                        behavior,
                        op,
                        cx,
                        inner,
                    },
                    None => ChaosFuture::Running {
                        attempt: op.attempt(cx),
                    },
                };
            }
            Fault::Error => blocking::outside(|| self.error.make()).map(Err),
            Fault::Result => blocking::outside(|| self.result.make()),
        };
        match result {
            Some(result) => ChaosFuture::Replaced {
                outcome: Some(Outcome::of(result)),
            },
            None => ChaosFuture::Running {
                attempt: op.attempt(cx),
            },
        }
    }
}

impl Inner {
    /// Decides which fault a call gets, and reports it.
    fn decide(&self, cx: &Context, listener: Option<&dyn Observer>) -> Option<Fault> {
        if !self.state.is_on() {
            return None;
        }
        if let Some(only) = &self.only {
            if !blocking::outside(|| only(cx)) {
                return None;
            }
        }
        let fault = self.state.decide(self.rng.unit())?;
        let event = Event::ChaosInjected {
            policy: self.base.name,
            pipeline: None,
            fault: fault.as_str(),
            sequence: 0,
        };
        self.base.report(event, listener);
        Some(fault)
    }
}

pin_project! {
    /// A run of a [`Chaos`].
    #[project = ChaosProj]
    #[must_use = "futures do nothing unless you `.await` or poll them"]
    pub enum ChaosFuture<'a, Op: Operation> {
        /// The call runs.
        Running {
            #[pin]
            attempt: Op::Attempt,
        },
        /// The call is delayed.
        Delayed {
            #[pin]
            sleep: Sleep,
            op: Op,
            cx: Context,
            inner: &'a Inner,
        },
        /// The user's function runs.
        Behaving {
            behavior: BoxedBehavior,
            op: Op,
            cx: Context,
            inner: &'a Inner,
        },
        /// The call is not made.
        Replaced {
            outcome: Option<Outcome<Op::Value, Op::Error>>,
        },
    }
}

impl<Op: Operation> Future for ChaosFuture<'_, Op> {
    type Output = Outcome<Op::Value, Op::Error>;

    fn poll(mut self: Pin<&mut Self>, task: &mut TaskContext<'_>) -> Poll<Self::Output> {
        loop {
            let (op, mut cx, inner) = match self.as_mut().project() {
                ChaosProj::Running { attempt } => return attempt.poll(task),
                ChaosProj::Replaced { outcome } => {
                    return outcome.take().map_or(Poll::Pending, Poll::Ready);
                }
                ChaosProj::Delayed {
                    sleep,
                    op,
                    cx,
                    inner,
                } => {
                    ready!(sleep.poll(task));
                    (*op, *cx, *inner)
                }
                ChaosProj::Behaving {
                    behavior,
                    op,
                    cx,
                    inner,
                } => {
                    ready!(behavior.as_mut().poll(task));
                    (*op, *cx, *inner)
                }
            };
            // Drops the behavior before the call is made, so the call does not run alongside it.
            self.set(ChaosFuture::Replaced { outcome: None });
            if Op::READS_TIME {
                cx.refresh(&inner.base.clock);
            }
            let attempt = op.attempt(cx);
            self.set(ChaosFuture::Running { attempt });
        }
    }
}

impl<Op: Operation> fmt::Debug for ChaosFuture<'_, Op> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Running { .. } => "Running",
            Self::Delayed { .. } => "Delayed",
            Self::Behaving { .. } => "Behaving",
            Self::Replaced { .. } => "Replaced",
        })
    }
}
