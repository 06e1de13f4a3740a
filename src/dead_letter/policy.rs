//! Replays through a policy.

use std::fmt::{self, Display};
use std::future::Future;
use std::pin::Pin;
use std::task::{Context as TaskContext, Poll};

use pin_project_lite::pin_project;

use super::error::DeadLetterError;
use super::replay::{Replay, ReplayReport, attempted_of};
use super::state::letter::Letter;

use crate::policy::operation::{Attempts, forward_attempts};
use crate::policy::{Context, Operation, Outcome, Run};

impl<R: Send + Sync + 'static> Replay<R> {
    /// Sends the letters through `policy`. Each letter is one call, with as many attempts as the policy makes.
    pub const fn through<P>(self, policy: &P) -> ReplayThrough<'_, R, P> {
        ReplayThrough {
            replay: self,
            policy,
        }
    }
}

/// A replay through a policy. Returned by [`Replay::through`].
#[must_use = "a replay does nothing until `run`"]
pub struct ReplayThrough<'p, R, P> {
    replay: Replay<R>,
    policy: &'p P,
}

impl<'p, R: Send + Sync + 'static, P> ReplayThrough<'p, R, P> {
    /// Replays the letters. `send` makes one attempt to send a letter. A letter that the policy rejects was not
    /// executed, as in [`Replay::run_calls`].
    ///
    /// # Errors
    ///
    /// As for [`Replay::run`].
    ///
    /// # Cancel safety
    ///
    /// As for [`Replay::run`].
    pub async fn run<F, Fut, T, E>(self, send: F) -> Result<ReplayReport, DeadLetterError>
    where
        F: Fn(Letter<R>) -> Fut,
        Fut: Future<Output = Result<T, E>>,
        E: Display,
        for<'a> &'p P: Run<Resend<'a, R, F>>,
    {
        let (send, policy) = (&send, self.policy);
        let call = |letter: Letter<R>| async move {
            let attempts = Attempts::new();
            let resend = Resend {
                letter: &letter,
                attempts: &attempts,
                send,
            };
            policy.run(resend, Context::new()).await.result
        };
        self.replay
            .drive(call, |result| attempted_of(&result))
            .await
    }
}

impl<R, P> fmt::Debug for ReplayThrough<'_, R, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReplayThrough")
            .field("replay", &self.replay)
            .finish_non_exhaustive()
    }
}

/// The operation of [`Replay::through`]: one letter, and the closure that sends it.
pub struct Resend<'a, R, F> {
    letter: &'a Letter<R>,
    attempts: &'a Attempts,
    send: &'a F,
}

// Derived implementations would require `R: Copy`.
impl<R, F> Clone for Resend<'_, R, F> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<R, F> Copy for Resend<'_, R, F> {}

impl<R, F> fmt::Debug for Resend<'_, R, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Resend")
            .field("letter", &self.letter)
            .finish_non_exhaustive()
    }
}

impl<R, F, Fut, T, E> Operation for Resend<'_, R, F>
where
    F: Fn(Letter<R>) -> Fut,
    Fut: Future<Output = Result<T, E>>,
{
    type Value = T;
    type Error = E;
    type Attempt = Sending<Fut>;
    type Listener = ();
    const READS_TIME: bool = false;

    fn attempt(self, _: Context) -> Sending<Fut> {
        self.attempts.start();
        Sending {
            sent: (self.send)(self.letter.clone()),
        }
    }

    fn listener(self) {}

    forward_attempts!(attempts);
}

pin_project! {
    /// One attempt to send a letter.
    #[derive(Debug)]
    #[must_use = "futures do nothing unless you `.await` or poll them"]
    pub struct Sending<Fut> {
        #[pin]
        sent: Fut,
    }
}

impl<Fut, T, E> Future for Sending<Fut>
where
    Fut: Future<Output = Result<T, E>>,
{
    type Output = Outcome<T, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<Outcome<T, E>> {
        self.project().sent.poll(cx).map(Outcome::of)
    }
}
