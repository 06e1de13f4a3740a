//! Filters of letters.

use std::fmt;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use super::letter::{Letter, LetterId};
use super::timestamp::Timestamp;

/// Selects the letters that meet all its conditions.
///
/// # Example
///
/// ```
/// use std::time::Duration;
/// use backstop::dead_letter::Filter;
///
/// let stale_payments = Filter::<String>::new()
///     .reason("timed_out")
///     .tag("route", "/pay")
///     .older_than(Duration::from_secs(3600));
/// # let _ = stale_payments;
/// ```
pub struct Filter<R> {
    reason: Option<String>,
    key: Option<String>,
    tags: Vec<(String, String)>,
    error: Option<String>,
    older_than: Option<Duration>,
    newer_than: Option<Duration>,
    ids: RangeInclusive<u64>,
    max_replays: u32,
    parked: Option<bool>,
    matching: Option<Arc<Predicate<R>>>,
}

type Predicate<R> = dyn Fn(&Letter<R>) -> bool + Send + Sync;

impl<R> Filter<R> {
    /// Returns a filter that matches all letters.
    pub fn new() -> Self {
        Self {
            reason: None,
            key: None,
            tags: Vec::new(),
            error: None,
            older_than: None,
            newer_than: None,
            ids: 0..=u64::MAX,
            max_replays: u32::MAX,
            parked: None,
            matching: None,
        }
    }

    /// Requires this reason.
    #[must_use]
    pub fn reason(mut self, reason: impl Into<String>) -> Self {
        self.reason = Some(reason.into());
        self
    }

    /// Requires this key.
    #[must_use]
    pub fn key(mut self, key: impl Into<String>) -> Self {
        self.key = Some(key.into());
        self
    }

    /// Requires this tag. Can be called several times.
    #[must_use]
    pub fn tag(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.tags.push((name.into(), value.into()));
        self
    }

    /// Requires that the error message, or that of the last replay, contains `text`.
    #[must_use]
    pub fn error_contains(mut self, text: impl Into<String>) -> Self {
        self.error = Some(text.into());
        self
    }

    /// Requires an age of at least `age`.
    #[must_use]
    pub const fn older_than(mut self, age: Duration) -> Self {
        self.older_than = Some(age);
        self
    }

    /// Requires an age below `age`.
    #[must_use]
    pub const fn newer_than(mut self, age: Duration) -> Self {
        self.newer_than = Some(age);
        self
    }

    /// Requires a number from `first` to `last`, both included.
    #[must_use]
    pub const fn ids(mut self, first: LetterId, last: LetterId) -> Self {
        self.ids = first.get()..=last.get();
        self
    }

    /// Requires at most this many replays.
    #[must_use]
    pub const fn max_replays(mut self, replays: u32) -> Self {
        self.max_replays = replays;
        self
    }

    /// Requires that the letter is parked, or that it is not.
    #[must_use]
    pub const fn parked(mut self, parked: bool) -> Self {
        self.parked = Some(parked);
        self
    }

    /// Requires that `matches` returns true. It is called only if the other conditions are met.
    #[must_use]
    pub fn matching(
        mut self,
        matches: impl Fn(&Letter<R>) -> bool + Send + Sync + 'static,
    ) -> Self {
        self.matching = Some(Arc::new(matches));
        self
    }

    /// Returns whether the letter meets all conditions at the time `now`.
    pub fn matches(&self, letter: &Letter<R>, now: Timestamp) -> bool {
        let age = now.saturating_duration_since(letter.stored_at());
        let is = |wanted: &Option<String>, value: Option<&str>| {
            wanted.is_none() || wanted.as_deref() == value
        };
        let says = |text: &String| {
            let replay = letter.last_replay();
            letter.error().contains(text) || replay.is_some_and(|last| last.error.contains(text))
        };
        self.ids.contains(&letter.id().get())
            && letter.replays() <= self.max_replays
            && self
                .parked
                .is_none_or(|parked| parked == letter.is_parked())
            && self.older_than.is_none_or(|limit| age >= limit)
            && self.newer_than.is_none_or(|limit| age < limit)
            && is(&self.reason, Some(letter.reason()))
            && is(&self.key, letter.key())
            && self
                .tags
                .iter()
                .all(|(name, value)| letter.tag(name) == Some(value))
            && self.error.as_ref().is_none_or(says)
            && self.matching.as_ref().is_none_or(|matches| matches(letter))
    }

    /// Returns whether only parked letters can match.
    pub(crate) fn wants_parked(&self) -> bool {
        self.parked == Some(true)
    }

    /// Returns the letter after which the first match may be.
    pub(crate) fn begins_after(&self) -> Option<LetterId> {
        self.ids.start().checked_sub(1).map(LetterId::new)
    }

    /// Returns an upper bound on the number of letters that match.
    pub(crate) fn wanted_ids(&self) -> usize {
        let wanted = self.ids.end().saturating_sub(*self.ids.start());
        usize::try_from(wanted)
            .unwrap_or(usize::MAX)
            .saturating_add(1)
    }

    /// Returns the letter after which the next page begins; `None` if no letter of that page can match.
    pub(crate) fn continues_after(&self, next: Option<LetterId>) -> Option<LetterId> {
        next.filter(|next| *next < self.ends_with())
    }

    /// Returns the last letter that can match.
    pub(crate) fn ends_with(&self) -> LetterId {
        LetterId::new(*self.ids.end())
    }
}

impl<R> Default for Filter<R> {
    fn default() -> Self {
        Self::new()
    }
}

impl<R> Clone for Filter<R> {
    fn clone(&self) -> Self {
        Self {
            reason: self.reason.clone(),
            key: self.key.clone(),
            tags: self.tags.clone(),
            error: self.error.clone(),
            ids: self.ids.clone(),
            matching: self.matching.clone(),
            ..*self
        }
    }
}

impl<R> fmt::Debug for Filter<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Filter")
            .field("reason", &self.reason)
            .field("key", &self.key)
            .field("tags", &self.tags)
            .field("error_contains", &self.error)
            .field("older_than", &self.older_than)
            .field("newer_than", &self.newer_than)
            .field("ids", &self.ids)
            .field("max_replays", &self.max_replays)
            .field("parked", &self.parked)
            .field("matching", &self.matching.is_some())
            .finish()
    }
}
