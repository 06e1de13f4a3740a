//! Letters into a channel.

use std::fmt;

use tokio::sync::mpsc::Sender;
use tokio::sync::mpsc::error::TrySendError;

use super::error::DeadLetterErrorKind;
use super::sink::{Sink, SinkFuture};
use super::state::letter::Letter;

/// Passes letters on through a tokio channel, and keeps none.
///
/// A letter counts as stored once it is in the channel.
///
/// # Example
///
/// ```
/// use backstop::dead_letter::{ChannelSink, DeadLetterQueue, NewLetter};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let (sender, mut letters) = tokio::sync::mpsc::channel(100);
/// let queue = DeadLetterQueue::builder().sink(ChannelSink::new(sender)).build()?;
/// queue.push(NewLetter::new("POST /pay").reason("timed_out")).await?;
/// assert_eq!(letters.recv().await.unwrap().reason(), "timed_out");
/// # Ok(())
/// # }
/// ```
pub struct ChannelSink<R> {
    sender: Sender<Letter<R>>,
    waits: bool,
}

impl<R> ChannelSink<R> {
    /// Returns a sink that rejects letters while the channel is full.
    pub const fn new(sender: Sender<Letter<R>>) -> Self {
        Self {
            sender,
            waits: false,
        }
    }

    /// Returns a sink that waits for room in the channel, until the deadline of the task.
    pub const fn waiting(sender: Sender<Letter<R>>) -> Self {
        Self {
            sender,
            waits: true,
        }
    }
}

impl<R: Send + Sync> Sink<R> for ChannelSink<R> {
    fn store(&self, letter: Letter<R>) -> SinkFuture<'_, ()> {
        Box::pin(async move {
            if self.waits {
                return self
                    .sender
                    .send(letter)
                    .await
                    .map_err(|_| DeadLetterErrorKind::Closed.into());
            }
            self.sender.try_send(letter).map_err(|error| match error {
                TrySendError::Full(_) => DeadLetterErrorKind::Full.into(),
                TrySendError::Closed(_) => DeadLetterErrorKind::Closed.into(),
            })
        })
    }
}

impl<R> fmt::Debug for ChannelSink<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ChannelSink")
            .field("capacity", &self.sender.capacity())
            .field("waits", &self.waits)
            .finish()
    }
}
