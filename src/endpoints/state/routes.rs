//! Where calls may go, and the pick of one node.
//!
//! Immutable: a change of any node makes new routes. Picks read them, and the counters of a few nodes.

use std::sync::Arc;

use super::health::{Machine, Record, Standing};
use super::latency::Decay;
use super::priority::{Level, Share, spread};
use super::rendezvous;
use super::rules::{MAX_CHOICES, Strategy};
use super::slow_start::SlowStart;
use super::vitals::Vitals;
use crate::instant::{Instant, nanos};
use crate::rng::{Stream, mix};

/// A node that calls may go to.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) vitals: Arc<Vitals>,
    pub(crate) slot: u32,
    pub(crate) number: u32,
    weight: f64,
    /// One over the weight.
    per_weight: f64,
    /// Of the name.
    hash: u64,
    /// Since when it is new, if it gets fewer calls for that.
    new_since: Option<Instant>,
}

impl Entry {
    fn of(slot: u32, record: &Record, is_slow: bool) -> Self {
        Self {
            vitals: record.vitals.clone(),
            slot,
            number: record.number,
            weight: record.weight,
            per_weight: record.weight.recip(),
            hash: record.hash,
            new_since: record.new_since.filter(|_| is_slow),
        }
    }

    /// The bit of a node among those that a call has tried. Nodes from the 33rd on share bits.
    pub(crate) const fn bit(slot: u32) -> u32 {
        1 << (slot % 32)
    }

    /// What calls are compared by: latency × (calls in flight + 1) / weight.
    #[inline]
    fn cost(&self, latency: f64) -> f64 {
        latency * (f64::from(self.vitals.in_flight()) + 1.0) * self.per_weight
    }

    const fn is_tried(&self, tried: u32) -> bool {
        tried & Self::bit(self.slot) != 0
    }
}

/// The nodes of one priority that calls may go to.
#[derive(Debug)]
pub(crate) struct Tier {
    pub(crate) priority: u32,
    pub(crate) share: Share,
    entries: Vec<Entry>,
    /// Some entries get fewer calls than the others.
    has_new: bool,
    /// Sums of the weights up to each entry; empty if all weights are equal.
    sums: Vec<f64>,
}

/// The nodes that calls may go to, by priority.
#[derive(Debug)]
pub(crate) struct Routes {
    pub(crate) tiers: Vec<Tier>,
    /// Nodes that wait for a probe.
    probes: Vec<Entry>,
    /// There is one priority with at least two nodes, none of them new, and none waits for a probe.
    is_plain: bool,
    /// How long a probe may take before another call may be the probe, in nanoseconds.
    lease: u64,
    slow_start: SlowStart,
}

/// A call that needs a node.
#[derive(Clone, Debug)]
pub(crate) struct Ask {
    pub(crate) now: Instant,
    pub(crate) decay: Decay,
    pub(crate) strategy: Strategy,
    /// The hash of the key, if the call sticks to the node of its key.
    pub(crate) key: Option<u64>,
    /// Nodes that the call has tried, as bits.
    pub(crate) tried: u32,
    /// Number of the call, for round robin.
    pub(crate) turn: u64,
    pub(crate) chance: Stream,
}

/// A node that was picked.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Picked<'a> {
    pub(crate) entry: &'a Entry,
    pub(crate) is_probe: bool,
}

impl Routes {
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
        let probes: Vec<Entry> = members
            .iter()
            .filter(|(_, record)| record.standing == Standing::Returning && record.is_fit(now))
            .map(|(slot, record)| Entry::of(*slot, record, false))
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
    pub(crate) fn pick(&self, ask: &mut Ask) -> Option<Picked<'_>> {
        let is_plain = ask.tried == 0 && ask.key.is_none();
        match &*self.tiers {
            [tier] if self.is_plain && is_plain && ask.strategy == Strategy::LeastLoaded(2) => {
                let entry = tier.better_of_two(ask);
                let is_probe = false;
                Some(Picked { entry, is_probe })
            }
            _ => self.pick_any(ask),
        }
    }

    /// As [`pick`](Self::pick), for all nodes and calls. Out of line: its arrays would cost most picks.
    #[inline(never)]
    fn pick_any(&self, ask: &mut Ask) -> Option<Picked<'_>> {
        if !self.probes.is_empty() {
            if let Some(entry) = self.claim_probe(ask) {
                return Some(Picked {
                    entry,
                    is_probe: true,
                });
            }
        }
        let tier = self.tier(ask)?;
        let entry = match ask.tried {
            0 => tier.pick(ask, self.slow_start),
            _ => self.pick_untried(tier, ask),
        };
        let is_probe = false;
        entry.map(|entry| Picked { entry, is_probe })
    }

    #[cold]
    fn claim_probe(&self, ask: &Ask) -> Option<&Entry> {
        self.probes.iter().find(|entry| {
            !entry.is_tried(ask.tried) && entry.vitals.claim_probe(ask.now, self.lease)
        })
    }

    /// The tier that the call belongs to.
    #[inline]
    fn tier(&self, ask: &mut Ask) -> Option<&Tier> {
        match &*self.tiers {
            [tier] if tier.share.percent > 0 => return Some(tier),
            _ => {}
        }
        // The calls of a key stay in one tier as long as the shares are the same.
        let mut left = match ask.key {
            Some(key) => Stream::from_bits(mix(!key)).below(100) as u32,
            None => ask.chance.below(100) as u32,
        };
        self.tiers.iter().find(|tier| {
            let is_it = left < tier.share.percent;
            left = left.wrapping_sub(tier.share.percent);
            is_it
        })
    }

    /// Picks a node that the call has not tried: of its tier, or else of the most preferred one that has
    /// any. If the call has tried all of them, it tries one again.
    #[cold]
    fn pick_untried<'a>(&'a self, tier: &'a Tier, ask: &mut Ask) -> Option<&'a Entry> {
        let others = self.tiers.iter();
        for tier in std::iter::once(tier).chain(others) {
            if tier.entries.iter().any(|entry| !entry.is_tried(ask.tried)) {
                return tier.pick(ask, self.slow_start);
            }
        }
        ask.tried = 0;
        tier.pick(ask, self.slow_start)
    }
}

impl Tier {
    fn new(
        machine: &Machine,
        group: &[(u32, &Record)],
        level: Level,
        share: Share,
        now: Instant,
    ) -> Self {
        let takes = |record: &Record| share.panics || record.is_available(now);
        let members = || group.iter().filter(|(_, record)| takes(record));
        let is_new = |record: &Record| {
            let since = record.new_since;
            since.is_some_and(|since| machine.rules.slow_start.share(since, now) < 1.0)
        };
        let new = members().filter(|(_, record)| is_new(record)).count();
        let has_new = !share.panics && machine.warms_up(new, level.available);
        let entries: Vec<Entry> = members()
            .map(|(slot, record)| Entry::of(*slot, record, has_new))
            .collect();
        let is_even = entries
            .windows(2)
            .all(|pair| pair[0].weight == pair[1].weight);
        let mut sum = 0.0;
        let sums = entries.iter().map(|entry| {
            sum += entry.weight;
            sum
        });
        Self {
            priority: group.first().map_or(0, |(_, record)| record.priority),
            share,
            sums: if is_even { Vec::new() } else { sums.collect() },
            entries,
            has_new,
        }
    }

    /// Picks one of the nodes that the call has not tried, or any if it has tried all.
    #[inline]
    fn pick(&self, ask: &mut Ask, slow_start: SlowStart) -> Option<&Entry> {
        if let Some(key) = ask.key {
            return self.highest_score(key, ask.tried);
        }
        match ask.strategy {
            Strategy::LeastLoaded(choices) => self.least_loaded(choices, ask, slow_start),
            Strategy::RoundRobin => self.next_in_turn(ask, slow_start),
        }
    }

    /// Whether a new node takes this call: with the probability that is its share.
    #[inline]
    fn takes(&self, entry: &Entry, ask: &mut Ask, slow_start: SlowStart) -> bool {
        match entry.new_since {
            Some(since) if self.has_new => ask.chance.unit() < slow_start.share(since, ask.now),
            _ => true,
        }
    }

    /// The best of a few random nodes, by latency × (calls in flight + 1) / weight.
    #[inline]
    fn least_loaded(&self, choices: usize, ask: &mut Ask, slow_start: SlowStart) -> Option<&Entry> {
        let mut drawn = [0_usize; MAX_CHOICES];
        let drawn = self.draw(choices, &mut drawn, ask, slow_start);
        if let [only] = drawn {
            return self.entries.get(*only);
        }
        let mut latencies = [0.0_f64; MAX_CHOICES];
        let mut fastest = f64::INFINITY;
        for (latency, at) in latencies.iter_mut().zip(drawn) {
            if let Some(known) = self.entries[*at].vitals.latency.at(ask.now, ask.decay) {
                *latency = known;
                fastest = fastest.min(known);
            }
        }
        // A node without samples counts as the fastest it is compared with: its calls in flight keep it
        // from getting all calls at once.
        let unknown = if fastest.is_finite() { fastest } else { 1.0 };
        let (mut best, mut least) = (*drawn.first()?, f64::INFINITY);
        for (latency, at) in latencies.iter().zip(drawn) {
            let entry = &self.entries[*at];
            let latency = if *latency > 0.0 { *latency } else { unknown };
            let cost = entry.cost(latency);
            // Of equal ones the first, which is any of them: they were drawn in random order.
            if cost < least {
                (best, least) = (*at, cost);
            }
        }
        self.entries.get(best)
    }

    /// As [`least_loaded`](Self::least_loaded) with two choices, for most calls: no loops, no arrays.
    #[inline]
    fn better_of_two(&self, ask: &mut Ask) -> &Entry {
        let (first, second) = ask.chance.two_below(self.entries.len());
        let (first, second) = (&self.entries[first], &self.entries[second]);
        let latency = |entry: &Entry| entry.vitals.latency.at(ask.now, ask.decay);
        let latencies = match (latency(first), latency(second)) {
            (None, None) => (1.0, 1.0),
            (Some(known), None) | (None, Some(known)) => (known, known),
            (Some(first), Some(second)) => (first, second),
        };
        // Of equal ones the first, which is any of them.
        match second.cost(latencies.1) < first.cost(latencies.0) {
            true => second,
            false => first,
        }
    }

    /// Draws up to `choices` different nodes that the call has not tried.
    #[inline]
    fn draw<'d>(
        &self,
        choices: usize,
        drawn: &'d mut [usize; MAX_CHOICES],
        ask: &mut Ask,
        slow_start: SlowStart,
    ) -> &'d [usize] {
        let total = self.entries.len();
        let choices = choices.min(total);
        let mut count = 0;
        // Floyd's algorithm: as many draws as nodes, each set equally likely.
        for last in total - choices..total {
            let at = ask.chance.below(last + 1);
            let at = if drawn[..count].contains(&at) {
                last
            } else {
                at
            };
            drawn[count] = at;
            count += 1;
        }
        if choices > 1 {
            // The algorithm favors late nodes for late places.
            let first = ask.chance.below(choices);
            drawn.swap(0, first);
        }
        if ask.tried == 0 && !self.has_new {
            return &drawn[..count];
        }
        self.redraw(count, drawn, ask, slow_start)
    }

    /// Keeps those of the first `count` nodes drawn that take the call; if none does, draws from all that
    /// it has not tried.
    #[cold]
    fn redraw<'d>(
        &self,
        count: usize,
        drawn: &'d mut [usize; MAX_CHOICES],
        ask: &mut Ask,
        slow_start: SlowStart,
    ) -> &'d [usize] {
        let mut kept = 0;
        for place in 0..count {
            let entry = &self.entries[drawn[place]];
            if !entry.is_tried(ask.tried) && self.takes(entry, ask, slow_start) {
                drawn[kept] = drawn[place];
                kept += 1;
            }
        }
        if kept > 0 {
            return &drawn[..kept];
        }
        // Reservoir sampling. Old nodes first, so that a new one gets its share and no more.
        for may_be_new in [false, true] {
            let mut seen = 0;
            for (at, entry) in self.entries.iter().enumerate() {
                let is_new = self.has_new && entry.new_since.is_some();
                if entry.is_tried(ask.tried) || is_new && !may_be_new {
                    continue;
                }
                let place = if seen < count {
                    seen
                } else {
                    ask.chance.below(seen + 1)
                };
                if place < count {
                    drawn[place] = at;
                }
                seen += 1;
            }
            if seen > 0 {
                return &drawn[..seen.min(count)];
            }
        }
        &drawn[..count]
    }

    /// The next node in turn. With unequal weights, each comes as often as its weight says, evenly spread.
    fn next_in_turn(&self, ask: &mut Ask, slow_start: SlowStart) -> Option<&Entry> {
        let total = self.entries.len();
        if total == 0 {
            return None;
        }
        let start = match self.sums.last() {
            None => (ask.turn % total as u64) as usize,
            Some(sum) => {
                // Multiples of the golden ratio fall evenly on the sum of the weights.
                let turn = ask.turn.wrapping_mul(0x9e37_79b9_7f4a_7c15);
                let point = (turn >> 11) as f64 / (1_u64 << 53) as f64 * sum;
                self.sums
                    .partition_point(|sum| *sum <= point)
                    .min(total - 1)
            }
        };
        let in_turn = || (0..total).map(|step| &self.entries[(start + step) % total]);
        let tried = ask.tried;
        let untried = || in_turn().filter(move |entry| !entry.is_tried(tried));
        let taken = untried().find(|entry| self.takes(entry, ask, slow_start));
        taken
            .or_else(|| untried().next())
            .or_else(|| in_turn().next())
    }

    /// The node of a key.
    fn highest_score(&self, key: u64, tried: u32) -> Option<&Entry> {
        let untried = || self.entries.iter().filter(|entry| !entry.is_tried(tried));
        if self.sums.is_empty() {
            // All weights are equal: the same order, without logarithms.
            let draw = |entry: &&Entry| rendezvous::draw(key, entry.hash);
            let best = untried().max_by_key(draw);
            return best.or_else(|| self.entries.iter().max_by_key(draw));
        }
        let score = |entry: &Entry| rendezvous::score(key, entry.hash, entry.weight);
        let higher = |a: &(f64, &Entry), b: &(f64, &Entry)| a.0.total_cmp(&b.0);
        let best = untried().map(|entry| (score(entry), entry)).max_by(higher);
        let any = || {
            self.entries
                .iter()
                .map(|entry| (score(entry), entry))
                .max_by(higher)
        };
        best.or_else(any).map(|(_, entry)| entry)
    }
}
