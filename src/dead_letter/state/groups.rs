//! Counts of letters by group.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use super::letter::Letter;
use super::timestamp::Timestamp;

/// The criterion that groups letters.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum GroupBy {
    /// The reason.
    Reason,
    /// The text of the error that the letter was stored with.
    Error,
    /// The key.
    Key,
    /// The value of the tag of this name.
    Tag(String),
}

/// A group of letters.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Group {
    /// The common value; empty for letters without a key or tag.
    pub name: String,
    /// Number of letters, parked ones included.
    pub letters: u64,
    /// Number of parked letters among them.
    pub parked: u64,
    /// When the oldest was stored.
    pub oldest: Timestamp,
    /// When the newest was stored.
    pub newest: Timestamp,
}

/// The groups counted so far.
#[derive(Debug)]
pub(crate) struct Groups {
    by: GroupBy,
    groups: BTreeMap<String, Group>,
}

impl Groups {
    pub(crate) const fn new(by: GroupBy) -> Self {
        Self {
            by,
            groups: BTreeMap::new(),
        }
    }

    pub(crate) fn add<R>(&mut self, letter: &Letter<R>) {
        let name = match &self.by {
            GroupBy::Reason => letter.reason(),
            GroupBy::Error => letter.error(),
            GroupBy::Key => letter.key().unwrap_or_default(),
            GroupBy::Tag(tag) => letter.tag(tag).unwrap_or_default(),
        };
        let at = letter.stored_at();
        // Most letters belong to an existing group, so the name is allocated only for a new one.
        if !self.groups.contains_key(name) {
            let group = Group {
                name: name.to_owned(),
                letters: 0,
                parked: 0,
                oldest: at,
                newest: at,
            };
            self.groups.insert(name.to_owned(), group);
        }
        if let Some(group) = self.groups.get_mut(name) {
            group.letters += 1;
            group.parked += u64::from(letter.is_parked());
            group.oldest = group.oldest.min(at);
            group.newest = group.newest.max(at);
        }
    }

    /// Returns the groups, the largest first, ties ordered by name.
    pub(crate) fn into_sorted(self) -> Vec<Group> {
        let mut groups: Vec<_> = self.groups.into_values().collect();
        groups.sort_by_key(|group| Reverse(group.letters));
        groups
    }
}
