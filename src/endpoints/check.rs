//! Active health checks.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use super::Endpoints;
use super::inner::Effect;
use super::node::{Node, NodeEntry};
use crate::clock::Sleep;
use crate::instant::Instant;

/// The most checks in flight at once.
const AT_ONCE: usize = 32;

impl<N> Endpoints<N> {
    /// Checks the health of all nodes while the returned future runs: each once in every `interval`, up to
    /// 32 at a time.
    ///
    /// A node whose check fails [`unhealthy_after`](super::EndpointsBuilder::unhealthy_after) times in a row
    /// takes no calls until it succeeds [`healthy_after`](super::EndpointsBuilder::healthy_after) times in
    /// a row. As many successes end an ejection without a probe. A check that takes longer than the
    /// interval has failed; if more than 32 checks hang, a round takes longer than the interval. Drained nodes
    /// are not checked. The shortest interval is 1 ms.
    ///
    /// Spawn the future, or poll it alongside other work. When the last such future is dropped, the results of
    /// the checks are discarded: unhealthy nodes take calls again, with a slow start.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future drops the running checks. A panic in a check propagates to the task that polls the
    /// future.
    ///
    /// # Example
    ///
    /// ```
    /// use std::time::Duration;
    /// use backstop::endpoints::{Endpoint, Endpoints};
    ///
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)]
    /// # async fn main() -> Result<(), backstop::ConfigError> {
    /// let nodes = [Endpoint::new("a", true), Endpoint::new("b", false)];
    /// let endpoints = Endpoints::builder().nodes(nodes).build()?;
    /// let checker = endpoints.clone();
    /// tokio::spawn(async move {
    ///     let second = Duration::from_secs(1);
    ///     checker.check_with(second, |node| async move { if *node { Ok(()) } else { Err("down") } }).await;
    /// });
    ///
    /// tokio::time::sleep(Duration::from_secs(5)).await;
    /// assert_eq!(endpoints.try_acquire().unwrap().node().name(), "a");
    /// # Ok(())
    /// # }
    /// ```
    pub async fn check_with<F, Fut, T, E>(&self, interval: Duration, check: F)
    where
        F: Fn(Node<N>) -> Fut,
        Fut: Future<Output = Result<T, E>>,
    {
        let interval = interval.max(Duration::from_millis(1));
        let clock = &self.inner.base.clock;
        let _checker = Checker::new(self);
        loop {
            let begun = clock.now();
            let mut waiting = self.checkable().into_iter();
            let mut running = Vec::new();
            poll_fn(|task| {
                loop {
                    while running.len() < AT_ONCE {
                        let Some(member) = waiting.next() else { break };
                        let future = Box::pin(check(Node {
                            member: member.clone(),
                        }));
                        let sleep = Box::pin(clock.sleep_until(clock.now() + interval));
                        running.push(Check {
                            member,
                            future,
                            sleep,
                        });
                    }
                    let ended = poll_ended(&mut running, task);
                    for (member, is_good) in &ended {
                        self.checked(member, *is_good);
                    }
                    match (ended.is_empty(), running.is_empty()) {
                        (true, true) => return Poll::Ready(()),
                        (true, false) => return Poll::Pending,
                        (false, _) => {}
                    }
                }
            })
            .await;
            clock.sleep_until(begun + interval).await;
        }
    }

    fn checkable(&self) -> Vec<Arc<NodeEntry<N>>> {
        let core = self.inner.core();
        let records = core.machine.iter().filter(|(_, record)| record.is_member());
        records
            .filter_map(|(index, _)| core.member(index).cloned())
            .collect()
    }

    fn checked(&self, member: &NodeEntry<N>, is_good: bool) {
        let now = self.inner.base.clock.now();
        self.inner.change(now, None, |core| {
            let index = member.address.index;
            match core.member(index) {
                Some(current) if current.address == member.address => {
                    Effect::of(core.machine.checked(index, is_good, now))
                }
                _ => Effect::Nothing,
            }
        });
    }
}

/// A running check.
struct Check<N, Fut> {
    member: Arc<NodeEntry<N>>,
    future: Pin<Box<Fut>>,
    sleep: Pin<Box<Sleep>>,
}

/// Polls the running checks. Removes and returns those that have ended, with whether they succeeded.
fn poll_ended<N, Fut, T, E>(
    running: &mut Vec<Check<N, Fut>>,
    task: &mut Context<'_>,
) -> Vec<(Arc<NodeEntry<N>>, bool)>
where
    Fut: Future<Output = Result<T, E>>,
{
    let mut ended = Vec::new();
    let mut at = 0;
    while let Some(check) = running.get_mut(at) {
        let is_good = match check.future.as_mut().poll(task) {
            Poll::Ready(result) => result.is_ok(),
            Poll::Pending if check.sleep.as_mut().poll(task).is_ready() => false,
            Poll::Pending => {
                at += 1;
                continue;
            }
        };
        ended.push((running.swap_remove(at).member, is_good));
    }
    ended
}

/// Counts a health checker until it is dropped.
struct Checker<'a, N> {
    endpoints: &'a Endpoints<N>,
}

impl<'a, N> Checker<'a, N> {
    fn new(endpoints: &'a Endpoints<N>) -> Self {
        endpoints.inner.core().checkers += 1;
        Self { endpoints }
    }
}

impl<N> Drop for Checker<'_, N> {
    fn drop(&mut self) {
        let inner = &self.endpoints.inner;
        let change = |now| {
            inner.change(now, None, |core| {
                core.checkers -= 1;
                match core.checkers {
                    0 => Effect::of(core.machine.forget_checks(now)),
                    _ => Effect::Nothing,
                }
            });
        };
        inner.base.at_now_or(Instant::ORIGIN, change);
    }
}
