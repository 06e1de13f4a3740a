//! The votes of instances about one circuit.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crate::instant::Instant;

/// The votes on a circuit, by instance, with their expiry.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ballot {
    votes: BTreeMap<Arc<str>, (bool, Instant)>,
}

impl Ballot {
    /// Records a vote and counts those of the other instances.
    pub(crate) fn vote(&mut self, now: Instant, vote: &Vote) -> Tally {
        self.votes.retain(|_, (_, until)| *until > now);
        self.votes.remove(&vote.instance);
        let open = self.votes.values().filter(|(open, _)| *open).count();
        let tally = Tally::new(self.votes.len() as u64, open as u64);
        if vote.counts {
            let stands = (vote.open, now + vote.ttl);
            self.votes.insert(vote.instance.clone(), stands);
        }
        tally
    }

    /// Returns whether all votes have expired.
    pub(crate) fn is_empty(&mut self, now: Instant) -> bool {
        self.votes.retain(|_, (_, until)| *until > now);
        self.votes.is_empty()
    }
}

/// The vote of one instance.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Vote {
    /// The key of the circuit.
    pub key: Arc<str>,
    /// The voting instance.
    pub instance: Arc<str>,
    /// Whether its circuit is open.
    pub open: bool,
    /// Whether the instance has enough traffic for its vote to count.
    pub counts: bool,
    /// The time for which the vote counts.
    pub ttl: Duration,
}

impl Vote {
    /// Returns a vote of an instance with enough traffic for it to count.
    pub const fn new(key: Arc<str>, instance: Arc<str>, open: bool, ttl: Duration) -> Self {
        Self {
            key,
            instance,
            open,
            counts: true,
            ttl,
        }
    }
}

/// The votes of the other instances.
#[cfg_attr(feature = "config", derive(serde::Serialize, serde::Deserialize))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Tally {
    /// Number of instances whose vote counts.
    pub voters: u64,
    /// Number of those with an open circuit.
    pub open: u64,
}

impl Tally {
    /// Returns a tally.
    pub const fn new(voters: u64, open: u64) -> Self {
        Self { voters, open }
    }
}
