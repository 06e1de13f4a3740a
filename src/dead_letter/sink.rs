//! The traits of sinks and stores.

use std::future::Future;
use std::pin::Pin;

use super::error::DeadLetterError;
use super::state::book::Totals;
use super::state::letter::{Change, Letter, LetterId};
use super::state::timestamp::Timestamp;
use crate::event::LetterEvent;

/// The future that methods of a sink return.
pub type SinkFuture<'a, T> = Pin<Box<dyn Future<Output = Result<T, DeadLetterError>> + Send + 'a>>;

/// Number of letters per page.
pub(super) const PAGE: usize = 256;

/// The destination of the letters of a queue.
///
/// A sink that only passes letters on implements [`store`](Self::store). A sink that keeps them also implements
/// [`Store`] and returns itself from [`kept`](Self::kept), so that letters can be read, counted, discarded, and
/// replayed.
///
/// # Example
///
/// ```
/// use backstop::dead_letter::{DeadLetterQueue, Letter, NewLetter, Sink, SinkFuture};
/// use backstop::ManualClock;
///
/// /// Writes letters to the standard error.
/// struct Print;
///
/// impl Sink<String> for Print {
///     fn store(&self, letter: Letter<String>) -> SinkFuture<'_, ()> {
///         Box::pin(async move {
///             eprintln!("{letter:?}");
///             Ok(())
///         })
///     }
/// }
///
/// let clock = ManualClock::new();
/// let queue = DeadLetterQueue::builder().sink(Print).clock(clock.clone()).build()?;
/// clock.block_on(queue.push(NewLetter::new("POST /pay".to_string()))).unwrap();
/// # Ok::<(), backstop::ConfigError>(())
/// ```
pub trait Sink<R>: Send + Sync {
    /// Stores a letter. Completes once the letter is as durable as this sink can make it.
    ///
    /// # Errors
    ///
    /// When it is not stored. [`DeadLetterError::sink`] wraps an error of your own.
    fn store(&self, letter: Letter<R>) -> SinkFuture<'_, ()>;

    /// Returns the store of this sink; `None` if the sink only passes letters on.
    fn kept(&self) -> Option<&dyn Store<R>> {
        None
    }

    /// Takes the events since the last call, for the observer of the queue. Called after each operation.
    fn take_events(&self) -> Vec<LetterEvent> {
        Vec::new()
    }

    /// Completes once all stored letters are as durable as the sink can make them. Letters stored afterwards may be
    /// rejected.
    ///
    /// # Errors
    ///
    /// An error if a letter could not be synced.
    fn close(&self) -> SinkFuture<'_, ()> {
        Box::pin(async { Ok(()) })
    }
}

/// A sink that keeps its letters.
pub trait Store<R>: Sink<R> {
    /// Returns a number for a new letter, larger than all earlier ones, including those of earlier processes.
    fn next_id(&self) -> LetterId;

    /// Returns up to `max` letters after `after`, oldest first, without those that are too old at `now`.
    ///
    /// # Errors
    ///
    /// When nothing can be read. Individual unreadable letters are listed in the page.
    fn page(&self, after: Option<LetterId>, max: usize, now: Timestamp) -> SinkFuture<'_, Page<R>>;

    /// Changes a letter. Completes once the change is durable. Returns the new state of the letter; `None` if it does
    /// not exist.
    ///
    /// # Errors
    ///
    /// When the change may not be durable.
    fn change(&self, id: LetterId, change: Change) -> SinkFuture<'_, Option<Changed>>;

    /// Returns the totals of the stored letters.
    fn totals(&self) -> Totals;
}

/// The state of a letter after a change.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Changed {
    /// Number of replays of the letter.
    pub replays: u32,
    /// Whether it is parked.
    pub parked: bool,
}

impl Changed {
    /// Returns the state of a letter. Use it in sinks of your own.
    pub const fn new(replays: u32, parked: bool) -> Self {
        Self { replays, parked }
    }
}

/// Some of the letters of a store, oldest first.
#[derive(Debug)]
#[non_exhaustive]
pub struct Page<R> {
    /// The letters.
    pub letters: Vec<Letter<R>>,
    /// Letters that exist but cannot be read: damaged, or with requests of another type.
    pub unreadable: Vec<LetterId>,
    /// The letter after which the next page begins; `None` on the last page.
    pub next: Option<LetterId>,
}

impl<R> Page<R> {
    /// Creates the last page, with these letters.
    pub const fn new(letters: Vec<Letter<R>>) -> Self {
        Self {
            letters,
            unreadable: Vec::new(),
            next: None,
        }
    }
}
