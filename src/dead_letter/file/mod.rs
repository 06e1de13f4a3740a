//! A sink that stores letters in files.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::error::{DeadLetterError, DeadLetterErrorKind};
use super::sink::{Changed, Page, Sink, SinkFuture, Store};
use super::state::book::Totals;
use super::state::letter::{Change, Letter, LetterId};
use super::state::record;
use super::state::timestamp::Timestamp;
use crate::event::LetterEvent;
use crate::sync::lock;

mod config;
mod disk;
mod full_disk;
mod log;
mod mailbox;
mod open;
mod reply;
#[cfg(test)]
mod tests;
mod tidy;
mod writer;

pub use self::config::FileSinkBuilder;

use self::disk::Disk;
use self::log::{Log, Pending};
use self::mailbox::Mailbox;
use self::reply::{Answerer, Reply, reply};
use self::writer::{Command, WriterState};

/// Keeps letters in files of JSON lines that survive a crash of the process and a power loss.
///
/// A dedicated thread reads and writes, so no method blocks. It writes all waiting letters with one `fsync` (group
/// commit), so many writers cost little more than one. After that a letter counts as stored. Once
/// [`push`](super::DeadLetterQueue::push) has been polled, its letter is written even if the future is dropped; only
/// the confirmation is lost.
///
/// Requests are serialized with serde. Only the current user can read the files.
///
/// Handles share all state. Dropping the last one blocks until all commands given to it have been processed;
/// [`DeadLetterQueue::close`](super::DeadLetterQueue::close) does that without blocking.
///
/// Under tokio's paused clock, waiting for the thread appears as idleness, so timers fire early.
#[derive(Clone)]
pub struct FileSink {
    shared: Arc<Shared>,
}

struct Shared {
    commands: Arc<Mailbox<Command>>,
    writer: Arc<WriterState>,
    next_id: AtomicU64,
    max_waiting: usize,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// The files of a [`FileSink`] at one moment.
///
/// It has no name, because a sink belongs to one queue, whose [`Snapshot`](super::Snapshot) has the name.
#[cfg_attr(feature = "config", derive(serde::Serialize, serde::Deserialize))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct FileSnapshot {
    /// Number of stored letters, and their size in bytes.
    pub totals: Totals,
    /// Number of segments.
    pub segments: u64,
    /// Their total length in bytes, including removed letters.
    pub file_bytes: u64,
    /// Number of group commits: each writes and syncs all letters that waited.
    pub commits: u64,
    /// Number of letters, changes, and reads that wait for the writer thread.
    pub waiting: usize,
}

impl FileSink {
    fn start<D: Disk, L: Send + 'static>(
        mut log: Log<D>,
        max_waiting: usize,
        folder_lock: L,
    ) -> Result<Self, DeadLetterError> {
        let writer = Arc::new(WriterState::default());
        writer.publish(&mut log, 0);
        let next_id = AtomicU64::new(log.next_id.get());
        let (commands, reader) = Mailbox::new();
        let thread = thread::Builder::new().name("dead-letters".into()).spawn({
            let writer = writer.clone();
            move || writer::run(log, &reader, &writer, folder_lock)
        });
        let thread = thread.map_err(|error| disk::io_error("start the thread", error))?;
        Ok(Self {
            shared: Arc::new(Shared {
                commands,
                writer,
                next_id,
                max_waiting,
                thread: Mutex::new(Some(thread)),
            }),
        })
    }

    /// Returns the files at this moment.
    pub fn snapshot(&self) -> FileSnapshot {
        let writer = &*self.shared.writer;
        let gauges = lock(&writer.gauges);
        FileSnapshot {
            totals: gauges.totals,
            segments: gauges.segments,
            file_bytes: gauges.file_bytes,
            commits: gauges.commits,
            waiting: writer.waiting.load(Ordering::Relaxed),
        }
    }

    /// Sends a command to the writer thread. Dropping the reply does not cancel it.
    fn send<T>(&self, command: impl FnOnce(Answerer<T>) -> Command) -> Reply<T> {
        let (answer, reply) = reply();
        let waiting = &self.shared.writer.waiting;
        waiting.fetch_add(1, Ordering::Relaxed);
        if let Some(unsent) = self.shared.commands.send(command(answer)) {
            waiting.fetch_sub(1, Ordering::Relaxed);
            // The sink is closed. Dropping the command reports that through its reply.
            drop(unsent);
        }
        reply
    }

    fn store_line(&self, letter: Pending) -> Result<Reply<()>, DeadLetterError> {
        if self.shared.writer.waiting.load(Ordering::Relaxed) >= self.shared.max_waiting {
            return Err(DeadLetterErrorKind::Overloaded.into());
        }
        Ok(self.send(|answer| Command::Store(letter, answer)))
    }
}

impl<R> Sink<R> for FileSink
where
    R: Serialize + DeserializeOwned + Send + Sync,
{
    fn store(&self, letter: Letter<R>) -> SinkFuture<'_, ()> {
        let encoded = record::encode(letter.content());
        let encoded = encoded.map_err(|error| {
            DeadLetterError::new(DeadLetterErrorKind::Encode)
                .during(error.to_string())
                .because(error)
        });
        let reply = encoded.and_then(|line| {
            self.store_line(Pending {
                id: letter.id(),
                stored_at: letter.stored_at(),
                line,
            })
        });
        Box::pin(async { reply?.await })
    }

    fn kept(&self) -> Option<&dyn Store<R>> {
        Some(self)
    }

    fn take_events(&self) -> Vec<LetterEvent> {
        std::mem::take(&mut lock(&self.shared.writer.gauges).events)
    }

    fn close(&self) -> SinkFuture<'_, ()> {
        let (answer, reply) = reply();
        let waiting = &self.shared.writer.waiting;
        waiting.fetch_add(1, Ordering::Relaxed);
        let unsent = self.shared.commands.close(Some(Command::Close(answer)));
        if unsent.is_some() {
            waiting.fetch_sub(1, Ordering::Relaxed);
        }
        Box::pin(async move {
            // The sink is closed already, or another call closed it and this one has waited for that.
            let is_closed = |error: &DeadLetterError| error.kind() == DeadLetterErrorKind::Closed;
            match unsent {
                Some(_) => Ok(()),
                None => reply.await.or_else(|error| match is_closed(&error) {
                    true => Ok(()),
                    false => Err(error),
                }),
            }
        })
    }
}

impl<R> Store<R> for FileSink
where
    R: Serialize + DeserializeOwned + Send + Sync,
{
    fn next_id(&self) -> LetterId {
        // Relaxed: a number publishes nothing.
        LetterId::new(self.shared.next_id.fetch_add(1, Ordering::Relaxed))
    }

    fn page(&self, after: Option<LetterId>, max: usize, now: Timestamp) -> SinkFuture<'_, Page<R>> {
        let reply = self.send(|answer| Command::Page {
            after,
            max,
            now,
            answer,
        });
        Box::pin(async {
            let raw = reply.await?;
            let mut page = Page::new(Vec::with_capacity(raw.letters.len()));
            page.unreadable = raw.unreadable;
            page.next = raw.next;
            for (id, standing, line) in raw.letters {
                match record::decode(&line) {
                    Ok(letter) => page.letters.push(letter.with(standing)),
                    Err(_) => page.unreadable.push(id),
                }
            }
            Ok(page)
        })
    }

    fn change(&self, id: LetterId, change: Change) -> SinkFuture<'_, Option<Changed>> {
        let reply = self.send(|answer| Command::Change(id, change, answer));
        Box::pin(async {
            let standing = reply.await?;
            Ok(standing.map(|standing| Changed::new(standing.replays, standing.parked)))
        })
    }

    fn totals(&self) -> Totals {
        lock(&self.shared.writer.gauges).totals
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        // The thread ends once it has processed all messages.
        self.commands.close(None);
        let Some(thread) = lock(&self.thread).take() else {
            return;
        };
        // The last handle may be dropped on the writer thread itself, by a waker, and a thread must not join itself.
        if thread.thread().id() != thread::current().id() {
            let _ = thread.join();
        }
    }
}

impl fmt::Debug for FileSink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("FileSink").field(&self.snapshot()).finish()
    }
}
