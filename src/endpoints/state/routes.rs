//! Routes: the nodes that take calls, by priority.
//!
//! Immutable: a change of any node makes new routes. Picks read them, and the counters of a few nodes.

use super::health::Machine;
use super::priority::{Level, spread};
use super::record::{Record, Standing};
use super::rendezvous;
use super::rules::Strategy;
use super::slow_start::SlowStart;
use super::tier::{Entry, PickRequest, Tier};
use super::tried::TriedNodes;
use crate::instant::{Instant, nanos};
use crate::rng::{Stream, mix};

/// The nodes that take calls, by priority.
#[derive(Debug)]
pub(crate) struct Routes {
    pub(crate) tiers: Vec<Tier>,
    /// Nodes that wait for a probe, with their priorities.
    probes: Vec<(u32, Entry)>,
    /// Whether the fast path applies: one priority with at least two nodes, no slow start, and no probe.
    is_plain: bool,
    /// Lease of a probe, in nanoseconds: after it, another call may be the probe.
    lease: u64,
    slow_start: SlowStart,
}

/// A node that was picked.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Picked<'a> {
    pub(crate) entry: &'a Entry,
    pub(crate) is_probe: bool,
}

impl Routes {
    /// Routes to no node.
    #[cfg(all(test, not(backstop_loom)))]
    pub(crate) fn empty() -> Self {
        Self {
            tiers: Vec::new(),
            probes: Vec::new(),
            is_plain: false,
            lease: 0,
            slow_start: SlowStart::new(std::time::Duration::ZERO, 0.0, 1.0),
        }
    }

    pub(crate) fn new(machine: &Machine, now: Instant) -> Self {
        let mut members: Vec<(u32, &Record)> = machine
            .iter()
            .filter(|(_, record)| record.is_member())
            .collect();
        members.sort_by_key(|(_, record)| record.priority);
        let groups: Vec<&[(u32, &Record)]> = members
            .chunk_by(|(_, a), (_, b)| a.priority == b.priority)
            .collect();
        let available = |group: &[(u32, &Record)]| {
            let available = group.iter().filter(|(_, record)| record.is_available(now));
            available.count()
        };
        let levels: Vec<Level> = groups
            .iter()
            .map(|group| Level {
                available: available(group),
                total: group.len(),
            })
            .collect();
        let rules = &machine.rules;
        let shares = spread(&levels, rules.overprovisioning, rules.panic_threshold);
        let tiers = groups.iter().zip(&levels).zip(shares);
        let tiers: Vec<Tier> = tiers
            .map(|((group, level), share)| Tier::new(machine, group, *level, share, now))
            .collect();
        let probes: Vec<(u32, Entry)> = members
            .iter()
            .filter(|(_, record)| record.standing == Standing::Returning && record.is_fit(now))
            .map(|(index, record)| (record.priority, Entry::of(*index, record, false)))
            .collect();
        let is_plain = match &*tiers {
            [tier] => tier.share.percent > 0 && tier.entries.len() >= 2 && !tier.has_new,
            _ => false,
        };
        Self {
            is_plain: is_plain && probes.is_empty(),
            tiers,
            probes,
            lease: nanos(rules.base_ejection),
            slow_start: rules.slow_start,
        }
    }

    /// Picks a node. `None` if no node takes calls.
    #[inline]
    pub(crate) fn pick(&self, request: &mut PickRequest) -> Option<Picked<'_>> {
        let is_plain = request.tried.is_empty() && request.key.is_none();
        match &*self.tiers {
            [tier] if self.is_plain && is_plain && request.strategy == Strategy::LeastLoaded(2) => {
                let entry = tier.better_of_two(request);
                let is_probe = false;
                Some(Picked { entry, is_probe })
            }
            _ => self.pick_any(request),
        }
    }

    /// The slow path of [`pick`](Self::pick). Out of line, because its arrays would slow down the fast path.
    #[inline(never)]
    fn pick_any(&self, request: &mut PickRequest) -> Option<Picked<'_>> {
        let tier = self.tier(request);
        if !self.probes.is_empty() {
            if let Some(entry) = self.claim_probe(tier, request) {
                return Some(Picked {
                    entry,
                    is_probe: true,
                });
            }
        }
        let tier = tier?;
        let entry = match request.tried.is_empty() {
            true => tier.pick(request, self.slow_start),
            false => self.pick_untried(tier, request),
        };
        let is_probe = false;
        entry.map(|entry| Picked { entry, is_probe })
    }

    #[cold]
    fn claim_probe(&self, tier: Option<&Tier>, request: &PickRequest) -> Option<&Entry> {
        let entries = self.probes.iter().filter(|(priority, entry)| {
            !entry.is_tried(request.tried) && is_node_of_key(*priority, entry, tier, request)
        });
        let claim = |entry: &&Entry| entry.stats.claim_probe(request.now, self.lease);
        entries.map(|(_, entry)| entry).find(claim)
    }

    /// Returns the tier of the call.
    #[inline]
    fn tier(&self, request: &mut PickRequest) -> Option<&Tier> {
        match &*self.tiers {
            [tier] if tier.share.percent > 0 => return Some(tier),
            _ => {}
        }
        // The calls of a key stay in one tier as long as the shares are the same.
        let mut left = match request.key {
            Some(key) => Stream::from_bits(mix(!key)).below(100) as u32,
            None => request.random.below(100) as u32,
        };
        self.tiers.iter().find(|tier| {
            let is_it = left < tier.share.percent;
            left = left.wrapping_sub(tier.share.percent);
            is_it
        })
    }

    /// Picks a node that the call has not tried, from its own tier, or otherwise from the most preferred tier with such
    /// a node. If the call has tried all nodes, picks one of its own tier again.
    #[cold]
    fn pick_untried<'a>(&'a self, tier: &'a Tier, request: &mut PickRequest) -> Option<&'a Entry> {
        let others = self.tiers.iter();
        for tier in std::iter::once(tier).chain(others) {
            if tier
                .entries
                .iter()
                .any(|entry| !entry.is_tried(request.tried))
            {
                return tier.pick(request, self.slow_start);
            }
        }
        request.tried = TriedNodes::NONE;
        tier.pick(request, self.slow_start)
    }
}

/// Returns whether a call may probe this node. A call with a key may do so only if the key will belong to the node.
fn is_node_of_key(
    priority: u32,
    entry: &Entry,
    tier: Option<&Tier>,
    request: &PickRequest,
) -> bool {
    let (Some(key), Some(tier)) = (request.key, tier) else {
        return true;
    };
    let score = |entry: &Entry| rendezvous::score(key, entry.hash, entry.weight);
    let current = tier.highest_score(key, request.tried);
    priority <= tier.priority && current.is_none_or(|current| score(entry) > score(current))
}
