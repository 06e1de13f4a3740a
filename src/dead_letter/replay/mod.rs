//! Replays: letters are sent again, at a limited rate.

use std::fmt::{self, Display};
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use super::error::DeadLetterError;
use super::inner::Inner;
use super::sink::PAGE;
use super::state::filter::Filter;
use super::state::letter::{Letter, LetterId};
use super::state::progress::{Attempted, Progress, ReplayEnd, Rules, RunState};
use crate::error::{ConfigError, Error};

mod run;

/// A replay of the letters of a queue, oldest first. Returned by
/// [`DeadLetterQueue::replay`](super::DeadLetterQueue::replay).
///
/// The defaults are in the table of the [module page](super).
#[must_use = "a replay does nothing until `run`"]
pub struct Replay<R> {
    inner: Arc<Inner<R>>,
    filter: Filter<R>,
    rate: f64,
    max_concurrent: usize,
    limit: u64,
    stop_after: u32,
    wait_for_circuit: bool,
    on_progress: Option<Box<OnProgress>>,
}

type OnProgress = dyn FnMut(&Progress) + Send;

/// The result of a replay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ReplayReport {
    /// Number of letters by result: delivered, failed, and so on.
    pub progress: Progress,
    /// Why it ended.
    pub end: ReplayEnd,
    /// Duration of the replay.
    pub elapsed: Duration,
    /// The wait that the policy asked for when it rejected the last replay.
    pub retry_after: Option<Duration>,
}

/// The plan of a replay, from a dry run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ReplayPlan {
    /// Number of letters that would be replayed.
    pub letters: u64,
    /// Number of letters without a replay left, which would be parked.
    pub spent: u64,
    /// Number of letters that cannot be read, among those that the filter asks for by number.
    pub unreadable: u64,
    /// The first letter that would be replayed.
    pub first: Option<LetterId>,
    /// The last letter that would be replayed.
    pub last: Option<LetterId>,
    /// The shortest possible duration, at the rate of the replay.
    pub takes: Duration,
}

impl<R: Send + Sync + 'static> Replay<R> {
    pub(super) fn new(inner: Arc<Inner<R>>) -> Self {
        Self {
            inner,
            filter: Filter::new(),
            rate: 10.0,
            max_concurrent: 1,
            limit: u64::MAX,
            stop_after: 10,
            wait_for_circuit: false,
            on_progress: None,
        }
    }

    /// Sets the rate in letters per second, fractions included. [`f64::INFINITY`] means no bound.
    pub const fn rate(mut self, letters_per_second: f64) -> Self {
        self.rate = letters_per_second;
        self
    }

    /// Sets the largest number of letters in flight, from 1 to 1024. With 1, letters are sent in order. Letters in
    /// flight when the process is killed are sent again by the next replay.
    pub const fn max_concurrent(mut self, letters: usize) -> Self {
        self.max_concurrent = letters;
        self
    }

    /// Selects the letters to replay. Parked letters are never replayed: [`unpark`](super::DeadLetterQueue::unpark)
    /// them first.
    pub fn filter(mut self, filter: Filter<R>) -> Self {
        self.filter = filter;
        self
    }

    /// Sets the largest number of letters to replay. Default: no limit.
    pub const fn limit(mut self, letters: u64) -> Self {
        self.limit = letters;
        self
    }

    /// Sets the number of consecutive failures, rejections included, that ends the replay. `u32::MAX`: no limit.
    /// Rejections by an open circuit that the replay [waits for](Self::wait_for_circuit) do not count.
    pub const fn stop_after(mut self, failures: u32) -> Self {
        self.stop_after = failures;
        self
    }

    /// Sets whether a letter rejected by an open circuit is tried again once the circuit may admit it. Otherwise such
    /// a rejection ends the run.
    pub const fn wait_for_circuit(mut self, wait: bool) -> Self {
        self.wait_for_circuit = wait;
        self
    }

    /// Sets a callback that receives the progress after each letter.
    pub fn on_progress(mut self, callback: impl FnMut(&Progress) + Send + 'static) -> Self {
        self.on_progress = Some(Box::new(callback));
        self
    }

    /// Replays the letters. `attempt` sends a letter, and its result decides what happens to it.
    ///
    /// After a success, the letter is removed. After a failure, it is kept for another run, or parked if it has no
    /// replay left. A replay is counted before it begins, so a letter that crashes the process is parked in the end.
    /// Letters stored during the run are left for the next one.
    ///
    /// # Errors
    ///
    /// [`ReplayRunning`](super::DeadLetterErrorKind::ReplayRunning) when a replay of this queue is running,
    /// [`Config`](super::DeadLetterErrorKind::Config) when a setting is invalid, and errors of the sink. Failed
    /// attempts are not errors of the run.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future ends the run. Letters in flight are kept, with that replay counted.
    pub async fn run<F, Fut, T, E>(self, attempt: F) -> Result<ReplayReport, DeadLetterError>
    where
        F: FnMut(Letter<R>) -> Fut,
        Fut: Future<Output = Result<T, E>>,
        E: Display,
    {
        self.drive(attempt, |result| match result {
            Ok(_) => Attempted::Delivered,
            Err(error) => Attempted::Failed(error.to_string()),
        })
        .await
    }

    /// Like [`run`](Self::run), for attempts that are calls through policies. A letter that a policy rejects was not
    /// executed, so no replay is counted. It is tried again after the time that the policy states.
    ///
    /// # Errors
    ///
    /// As for [`run`](Self::run).
    pub async fn run_calls<F, Fut, T, E>(self, attempt: F) -> Result<ReplayReport, DeadLetterError>
    where
        F: FnMut(Letter<R>) -> Fut,
        Fut: Future<Output = Result<T, Error<E>>>,
        E: Display,
    {
        self.drive(attempt, |result| attempted_of(&result)).await
    }

    /// Computes the plan of a run without sending anything.
    ///
    /// # Errors
    ///
    /// When the sink cannot be read or a setting is invalid.
    pub async fn dry_run(self) -> Result<ReplayPlan, DeadLetterError> {
        self.check()?;
        let store = self.inner.store()?;
        let now = self.inner.now();
        let run_state = RunState::new(self.rules());
        let mut plan = ReplayPlan {
            letters: 0,
            spent: 0,
            unreadable: 0,
            first: None,
            last: None,
            takes: Duration::ZERO,
        };
        let mut after = self.filter.begins_after();
        'pages: loop {
            let page = store.page(after, PAGE, now).await?;
            let unreadable = page.unreadable.iter();
            let unreadable = unreadable.filter(|id| **id <= self.filter.ends_with());
            plan.unreadable += unreadable.count() as u64;
            for letter in page.letters {
                if letter.id() > self.filter.ends_with() || plan.letters + plan.spent >= self.limit
                {
                    break 'pages;
                }
                if letter.is_parked() || !self.filter.matches(&letter, now) {
                    continue;
                }
                if run_state.is_spent(letter.replays()) {
                    plan.spent += 1;
                    continue;
                }
                plan.letters += 1;
                plan.first = plan.first.or(Some(letter.id()));
                plan.last = Some(letter.id());
            }
            after = self.filter.continues_after(page.next);
            if after.is_none() {
                break;
            }
        }
        let gaps = plan.letters.saturating_sub(1) as f64;
        plan.takes = Duration::try_from_secs_f64(gaps / self.rate).unwrap_or(Duration::MAX);
        Ok(plan)
    }

    fn rules(&self) -> Rules {
        Rules {
            stop_after: self.stop_after,
            limit: self.limit,
            wait_for_circuit: self.wait_for_circuit,
            max_replays: self.inner.max_replays,
        }
    }

    fn check(&self) -> Result<(), ConfigError> {
        let error = |setting, problem| Err(ConfigError::new("replay", setting, problem));
        if self.rate.is_nan() || self.rate <= 0.0 {
            return error("rate", "must be more than 0");
        }
        if !(1..=1024).contains(&self.max_concurrent) {
            return error("max_concurrent", "must be from 1 to 1024");
        }
        if self.stop_after == 0 {
            return error("stop_after", "must be at least 1");
        }
        if self.filter.wants_parked() {
            return error(
                "filter",
                "must not ask for parked letters: unpark them first",
            );
        }
        Ok(())
    }
}

/// Converts the result of a call through policies to the result of a replay.
pub(super) fn attempted_of<T, E: Display>(result: &Result<T, Error<E>>) -> Attempted {
    match result {
        Ok(_) => Attempted::Delivered,
        Err(Error::Operation(error)) => Attempted::Failed(error.to_string()),
        Err(Error::TimedOut(error)) => Attempted::Failed(error.to_string()),
        Err(Error::Rejected(error)) => Attempted::NotExecuted(error.reason(), error.retry_after()),
    }
}

impl<R> fmt::Debug for Replay<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Replay")
            .field("queue", &self.inner.name)
            .field("filter", &self.filter)
            .field("rate", &self.rate)
            .field("max_concurrent", &self.max_concurrent)
            .field("limit", &self.limit)
            .field("stop_after", &self.stop_after)
            .field("wait_for_circuit", &self.wait_for_circuit)
            .finish_non_exhaustive()
    }
}
