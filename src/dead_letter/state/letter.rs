//! Letters: requests that could not be delivered, with the reason and the replays.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt::{self, Display};
use std::sync::Arc;

use super::timestamp::Timestamp;
use crate::error::Error;

/// The number of a letter in its queue. Later letters have larger numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LetterId(u64);

impl LetterId {
    /// Returns the letter with this number.
    pub const fn new(number: u64) -> Self {
        Self(number)
    }

    /// Returns the number.
    pub const fn get(self) -> u64 {
        self.0
    }
}

impl Display for LetterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A letter to be stored: the request and what is known about its failure.
///
/// Missing fields are filled in when the letter is stored: the times with the current time, the idempotency key with
/// a random one.
///
/// # Example
///
/// ```
/// use backstop::Error;
/// use backstop::dead_letter::NewLetter;
///
/// let error: Error<&str> = Error::Operation("connection reset");
/// let letter = NewLetter::of_error("POST /pay", &error)
///     .attempts(3)
///     .key("customer-7")
///     .tag("route", "/pay");
/// assert_eq!((&*letter.reason, &*letter.error), ("failed", "connection reset"));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct NewLetter<R> {
    /// The request.
    pub request: R,
    /// The reason of the failure, as an identifier such as `timed_out` or `circuit_open`.
    pub reason: Cow<'static, str>,
    /// The text of the error.
    pub error: String,
    /// Number of attempts.
    pub attempts: u32,
    /// When the first attempt failed.
    pub first_failed_at: Option<Timestamp>,
    /// When the last attempt failed.
    pub last_failed_at: Option<Timestamp>,
    /// The subject of the request: a customer, an order, a host.
    pub key: Option<String>,
    /// Further labels for filters, by name.
    pub tags: BTreeMap<String, String>,
    /// The key that is sent with every replay, so that the receiver can recognize repetitions. If the failed attempts
    /// were sent with one, use that.
    pub idempotency_key: Option<String>,
}

impl<R> NewLetter<R> {
    /// Returns a letter with the reason `failed` and no error message.
    pub fn new(request: R) -> Self {
        Self {
            request,
            reason: Cow::Borrowed("failed"),
            error: String::new(),
            attempts: 0,
            first_failed_at: None,
            last_failed_at: None,
            key: None,
            tags: BTreeMap::new(),
            idempotency_key: None,
        }
    }

    /// Returns a letter for a call that ended with `error`. The reason is `failed`, `timed_out`, or the
    /// identifier of the rejection, such as `circuit_open`; the text is that of the operation's own
    /// error, or of the policy's.
    pub fn of_error<E: Display>(request: R, error: &Error<E>) -> Self {
        let letter = Self::new(request);
        match error {
            Error::Operation(own) => letter.error(own),
            Error::TimedOut(timed_out) => letter.reason("timed_out").error(timed_out),
            Error::Rejected(rejected) => letter.reason(rejected.reason().as_str()).error(rejected),
        }
    }

    /// Sets the reason, as an identifier such as `timed_out`.
    #[must_use]
    pub fn reason(mut self, reason: impl Into<Cow<'static, str>>) -> Self {
        self.reason = reason.into();
        self
    }

    /// Sets the error message.
    #[must_use]
    pub fn error(mut self, error: impl Display) -> Self {
        self.error = error.to_string();
        self
    }

    /// Sets the number of attempts.
    #[must_use]
    pub const fn attempts(mut self, attempts: u32) -> Self {
        self.attempts = attempts;
        self
    }

    /// Sets when the first attempt failed. Default: when the letter is stored.
    #[must_use]
    pub fn first_failed_at(mut self, time: impl Into<Timestamp>) -> Self {
        self.first_failed_at = Some(time.into());
        self
    }

    /// Sets when the last attempt failed. Default: when the letter is stored.
    #[must_use]
    pub fn last_failed_at(mut self, time: impl Into<Timestamp>) -> Self {
        self.last_failed_at = Some(time.into());
        self
    }

    /// Sets the key: the subject of the request, such as an order.
    #[must_use]
    pub fn key(mut self, key: impl Into<String>) -> Self {
        self.key = Some(key.into());
        self
    }

    /// Sets a tag. Replaces a tag of the same name.
    #[must_use]
    pub fn tag(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.tags.insert(name.into(), value.into());
        self
    }

    /// Sets the key that is sent with every replay.
    #[must_use]
    pub fn idempotency_key(mut self, key: impl Into<String>) -> Self {
        self.idempotency_key = Some(key.into());
        self
    }

    /// Completes the letter for storage: fills in what is missing.
    pub(crate) fn seal(
        self,
        id: LetterId,
        now: Timestamp,
        key: impl FnOnce() -> String,
    ) -> Letter<R> {
        let last_failed_at = self.last_failed_at.unwrap_or(now);
        Letter {
            content: Arc::new(Content {
                id,
                reason: self.reason,
                error: self.error,
                attempts: self.attempts,
                first_failed_at: self.first_failed_at.unwrap_or(last_failed_at),
                last_failed_at,
                stored_at: now,
                key: self.key,
                tags: self.tags,
                idempotency_key: self.idempotency_key.unwrap_or_else(key),
                request: self.request,
            }),
            standing: Standing::default(),
        }
    }
}

/// A stored letter: the request, the reason of the failure, and its replays.
///
/// Cheap to clone: clones share the request. It is not updated after it was read.
pub struct Letter<R> {
    content: Arc<Content<R>>,
    standing: Standing,
}

/// The immutable part of a letter.
pub(crate) struct Content<R> {
    pub(crate) id: LetterId,
    pub(crate) reason: Cow<'static, str>,
    pub(crate) error: String,
    pub(crate) attempts: u32,
    pub(crate) first_failed_at: Timestamp,
    pub(crate) last_failed_at: Timestamp,
    pub(crate) stored_at: Timestamp,
    pub(crate) key: Option<String>,
    pub(crate) tags: BTreeMap<String, String>,
    pub(crate) idempotency_key: String,
    pub(crate) request: R,
}

/// The mutable part of a letter, changed by replays.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Standing {
    /// Number of replays begun, not counting those that were not executed.
    pub(crate) replays: u32,
    pub(crate) parked: bool,
    pub(crate) last_replay: Option<Box<FailedReplay>>,
}

/// The last failed replay of a letter.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct FailedReplay {
    /// When it failed.
    pub at: Timestamp,
    /// The text of the error.
    pub error: String,
}

impl<R> Letter<R> {
    #[cfg(feature = "dead-letter-file")]
    pub(crate) fn of_content(content: Content<R>) -> Self {
        Self {
            content: Arc::new(content),
            standing: Standing::default(),
        }
    }

    #[cfg(feature = "dead-letter-file")]
    pub(crate) fn content(&self) -> &Content<R> {
        &self.content
    }

    /// Returns the letter with its current standing.
    pub(crate) fn with(mut self, standing: Standing) -> Self {
        self.standing = standing;
        self
    }

    /// Sets the count of replays.
    pub(crate) fn count(&mut self, replays: u32) {
        self.standing.replays = replays;
    }

    /// Returns the number of the letter in its queue.
    pub fn id(&self) -> LetterId {
        self.content.id
    }

    /// Returns the request.
    pub fn request(&self) -> &R {
        &self.content.request
    }

    /// Returns the reason of the failure, as an identifier such as `timed_out`.
    pub fn reason(&self) -> &str {
        &self.content.reason
    }

    /// Returns the error message that the letter was stored with.
    pub fn error(&self) -> &str {
        &self.content.error
    }

    /// Returns the number of attempts before the letter was stored.
    pub fn attempts(&self) -> u32 {
        self.content.attempts
    }

    /// Returns the time at which the first attempt failed.
    pub fn first_failed_at(&self) -> Timestamp {
        self.content.first_failed_at
    }

    /// Returns the time at which the last attempt failed before the letter was stored.
    pub fn last_failed_at(&self) -> Timestamp {
        self.content.last_failed_at
    }

    /// Returns the time at which the letter was stored. Its age counts from then.
    pub fn stored_at(&self) -> Timestamp {
        self.content.stored_at
    }

    /// Returns the key: the subject of the request, such as an order.
    pub fn key(&self) -> Option<&str> {
        self.content.key.as_deref()
    }

    /// Returns the value of a tag.
    pub fn tag(&self, name: &str) -> Option<&str> {
        self.content.tags.get(name).map(String::as_str)
    }

    /// Returns all tags.
    pub fn tags(&self) -> &BTreeMap<String, String> {
        &self.content.tags
    }

    /// Returns the key to send with every replay. It never changes, so that the receiver can recognize repetitions.
    pub fn idempotency_key(&self) -> &str {
        &self.content.idempotency_key
    }

    /// Returns the number of replays begun so far, including the current one, but not those rejected before they were
    /// executed.
    pub fn replays(&self) -> u32 {
        self.standing.replays
    }

    /// Returns whether the letter has no replay left, or was parked manually. Parked letters are kept and not
    /// replayed.
    pub fn is_parked(&self) -> bool {
        self.standing.parked
    }

    /// Returns the last failed replay; `None` if none has failed.
    pub fn last_replay(&self) -> Option<&FailedReplay> {
        self.standing.last_replay.as_deref()
    }
}

impl<R> Clone for Letter<R> {
    fn clone(&self) -> Self {
        Self {
            content: self.content.clone(),
            standing: self.standing.clone(),
        }
    }
}

/// Omits the request, which may be confidential.
impl<R> fmt::Debug for Letter<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Letter")
            .field("id", &self.id())
            .field("reason", &self.reason())
            .field("error", &self.error())
            .field("attempts", &self.attempts())
            .field("first_failed_at", &self.first_failed_at())
            .field("last_failed_at", &self.last_failed_at())
            .field("stored_at", &self.stored_at())
            .field("key", &self.key())
            .field("tags", self.tags())
            .field("idempotency_key", &self.idempotency_key())
            .field("replays", &self.replays())
            .field("parked", &self.is_parked())
            .field("last_replay", &self.last_replay())
            .finish_non_exhaustive()
    }
}

/// A change to a stored letter.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Change {
    /// A replay begins, and is counted, unless the letter is parked. The change need not survive a power loss.
    Begin,
    /// The current replay was not executed, and is not counted.
    NotExecuted,
    /// The replay failed.
    #[non_exhaustive]
    Failed {
        /// The time of the failure.
        at: Timestamp,
        /// The text of the error.
        error: String,
        /// Whether it was the last replay, so that the letter is parked.
        park: bool,
    },
    /// The replay succeeded: the letter is removed.
    Delivered,
    /// The letter is discarded manually.
    Discard,
    /// The letter is kept, and not replayed.
    Park,
    /// The letter is replayed again, with its count back at zero.
    Unpark,
}

impl Change {
    pub(crate) const fn failed(at: Timestamp, error: String, park: bool) -> Self {
        Self::Failed { at, error, park }
    }

    /// Returns whether the change removes the letter.
    pub const fn removes(&self) -> bool {
        matches!(self, Self::Delivered | Self::Discard)
    }
}

impl Standing {
    /// Returns the standing after `change`, which must not remove the letter.
    pub(crate) fn after(mut self, change: &Change) -> Self {
        match change {
            // Parked after the run had read it: the run does not send it.
            Change::Begin if self.parked => {}
            Change::Begin => self.replays = self.replays.saturating_add(1),
            Change::NotExecuted => self.replays = self.replays.saturating_sub(1),
            Change::Failed { at, error, park } => {
                self.last_replay = Some(Box::new(FailedReplay {
                    at: *at,
                    error: error.clone(),
                }));
                self.parked |= park;
            }
            Change::Park => self.parked = true,
            Change::Unpark => (self.parked, self.replays) = (false, 0),
            Change::Delivered | Change::Discard => {}
        }
        self
    }
}
