//! The nodes of one priority, and the pick of one of them.

use std::sync::Arc;

use super::health::Machine;
use super::latency::Decay;
use super::priority::{Level, Share};
use super::record::Record;
use super::rendezvous;
use super::rules::{MAX_CHOICES, Strategy};
use super::slow_start::SlowStart;
use super::stats::NodeStats;
use super::tried::TriedNodes;
use crate::instant::Instant;
use crate::rng::{Stream, unit};

/// A node that takes calls.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) stats: Arc<NodeStats>,
    pub(crate) index: u32,
    pub(super) weight: f64,
    /// `1 / weight`.
    per_weight: f64,
    /// The hash of the name.
    pub(super) hash: u64,
    /// Start of its slow start, if that applies.
    new_since: Option<Instant>,
}

impl Entry {
    pub(super) fn of(index: u32, record: &Record, is_slow: bool) -> Self {
        Self {
            stats: record.stats.clone(),
            index,
            weight: record.weight,
            per_weight: record.weight.recip(),
            hash: record.hash,
            new_since: record.new_since.filter(|_| is_slow),
        }
    }

    /// Returns the cost by which nodes are compared: latency × (calls in flight + 1) / weight.
    #[inline]
    fn cost(&self, latency: f64) -> f64 {
        latency * (f64::from(self.stats.in_flight()) + 1.0) * self.per_weight
    }

    pub(super) const fn is_tried(&self, tried: TriedNodes) -> bool {
        tried.contains(self.index)
    }
}

/// The nodes of one priority that take calls.
#[derive(Debug)]
pub(crate) struct Tier {
    pub(crate) priority: u32,
    pub(crate) share: Share,
    pub(super) entries: Vec<Entry>,
    /// Whether slow start applies to some entries.
    pub(super) has_new: bool,
    /// Sums of the weights up to each entry; empty if all weights are equal.
    sums: Vec<f64>,
}

/// A call that needs a node.
#[derive(Clone, Debug)]
pub(crate) struct PickRequest {
    pub(crate) now: Instant,
    pub(crate) decay: Decay,
    pub(crate) strategy: Strategy,
    /// The hash of the key, if the call sticks to the node of its key.
    pub(crate) key: Option<u64>,
    /// Nodes that the call has tried.
    pub(crate) tried: TriedNodes,
    /// Number of the call, for round robin.
    pub(crate) turn: u64,
    pub(crate) random: Stream,
}

impl Tier {
    pub(super) fn new(
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
            .map(|(index, record)| Entry::of(*index, record, has_new))
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
    pub(super) fn pick(&self, request: &mut PickRequest, slow_start: SlowStart) -> Option<&Entry> {
        if let Some(key) = request.key {
            return self.highest_score(key, request.tried);
        }
        match request.strategy {
            Strategy::LeastLoaded(choices) => self.least_loaded(choices, request, slow_start),
            Strategy::RoundRobin => self.next_in_turn(request, slow_start),
        }
    }

    /// Returns whether a node takes this call. In slow start, it does with the probability that is its share.
    #[inline]
    fn takes(&self, entry: &Entry, request: &mut PickRequest, slow_start: SlowStart) -> bool {
        match entry.new_since {
            Some(since) if self.has_new => {
                request.random.unit() < slow_start.share(since, request.now)
            }
            _ => true,
        }
    }

    /// Returns the best of a few random nodes, by latency × (calls in flight + 1) / weight.
    #[inline]
    fn least_loaded(
        &self,
        choices: usize,
        request: &mut PickRequest,
        slow_start: SlowStart,
    ) -> Option<&Entry> {
        let mut drawn = [0_usize; MAX_CHOICES];
        let drawn = self.draw(choices, &mut drawn, request, slow_start);
        if let [only] = drawn {
            return self.entries.get(*only);
        }
        let mut latencies = [0.0_f64; MAX_CHOICES];
        let mut fastest = f64::INFINITY;
        for (latency, at) in latencies.iter_mut().zip(drawn) {
            if let Some(known) = self.entries[*at]
                .stats
                .latency
                .at(request.now, request.decay)
            {
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
            // Ties go to the first candidate, a random one, because candidates were drawn in random order.
            if cost < least {
                (best, least) = (*at, cost);
            }
        }
        self.entries.get(best)
    }

    /// Fast path of [`least_loaded`](Self::least_loaded), for two choices: no loops, no arrays.
    #[inline]
    pub(super) fn better_of_two(&self, request: &mut PickRequest) -> &Entry {
        let (first, second) = request.random.two_below(self.entries.len());
        let (first, second) = (&self.entries[first], &self.entries[second]);
        let latency = |entry: &Entry| entry.stats.latency.at(request.now, request.decay);
        let latencies = match (latency(first), latency(second)) {
            (None, None) => (1.0, 1.0),
            (Some(known), None) | (None, Some(known)) => (known, known),
            (Some(first), Some(second)) => (first, second),
        };
        // Ties go to the first candidate, a random one.
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
        request: &mut PickRequest,
        slow_start: SlowStart,
    ) -> &'d [usize] {
        let total = self.entries.len();
        let choices = choices.min(total);
        let mut count = 0;
        if choices == 1 {
            drawn[0] = self.any(&mut request.random);
            count = 1;
        }
        // Floyd's algorithm: as many draws as nodes, each set equally likely.
        for last in total - choices + count..total {
            let at = request.random.below(last + 1);
            let at = if drawn[..count].contains(&at) {
                last
            } else {
                at
            };
            drawn[count] = at;
            count += 1;
        }
        if request.tried.is_empty() && !self.has_new {
            return shuffled(&mut drawn[..count], &mut request.random);
        }
        self.redraw(count, drawn, request, slow_start)
    }

    /// Keeps those of the first `count` drawn nodes that take the call. If none does, draws from all nodes that the
    /// call has not tried.
    #[cold]
    fn redraw<'d>(
        &self,
        count: usize,
        drawn: &'d mut [usize; MAX_CHOICES],
        request: &mut PickRequest,
        slow_start: SlowStart,
    ) -> &'d [usize] {
        let mut kept = 0;
        for place in 0..count {
            let entry = &self.entries[drawn[place]];
            if !entry.is_tried(request.tried) && self.takes(entry, request, slow_start) {
                drawn[kept] = drawn[place];
                kept += 1;
            }
        }
        if kept > 0 {
            return shuffled(&mut drawn[..kept], &mut request.random);
        }
        // Reservoir sampling (algorithm R). Nodes in slow start last, so that they get no more than their share.
        for may_be_new in [false, true] {
            let mut seen = 0;
            for (at, entry) in self.entries.iter().enumerate() {
                let is_new = self.has_new && entry.new_since.is_some();
                if entry.is_tried(request.tried) || is_new && !may_be_new {
                    continue;
                }
                let place = if seen < count {
                    seen
                } else {
                    request.random.below(seen + 1)
                };
                if place < count {
                    drawn[place] = at;
                }
                seen += 1;
            }
            if seen > 0 {
                return shuffled(&mut drawn[..seen.min(count)], &mut request.random);
            }
        }
        &drawn[..count]
    }

    /// Returns the next node in turn. With unequal weights, the turns of a node are proportional to its weight and
    /// evenly spread.
    fn next_in_turn(&self, request: &mut PickRequest, slow_start: SlowStart) -> Option<&Entry> {
        let total = self.entries.len();
        if total == 0 {
            return None;
        }
        let start = match self.sums.is_empty() {
            true => (request.turn % total as u64) as usize,
            // Multiples of the golden ratio are spread evenly.
            false => self.at(unit(request.turn.wrapping_mul(0x9e37_79b9_7f4a_7c15))),
        };
        let first = &self.entries[start];
        if !first.is_tried(request.tried) && self.takes(first, request, slow_start) {
            return Some(first);
        }
        // A random one: the next node in turn would get the calls of this one in addition to its own.
        for _ in 0..4 {
            let entry = &self.entries[self.any(&mut request.random)];
            if !entry.is_tried(request.tried) && self.takes(entry, request, slow_start) {
                return Some(entry);
            }
        }
        let in_turn = || (0..total).map(|step| &self.entries[(start + step) % total]);
        let tried = request.tried;
        let untried = || in_turn().filter(move |entry| !entry.is_tried(tried));
        let taken = untried().find(|entry| self.takes(entry, request, slow_start));
        taken
            .or_else(|| untried().next())
            .or_else(|| in_turn().next())
    }

    /// Draws an entry, by weight.
    fn any(&self, random: &mut Stream) -> usize {
        match self.sums.is_empty() {
            true => random.below(self.entries.len()),
            false => self.at(random.unit()),
        }
    }

    /// Returns the entry at this part, in `[0, 1)`, of the sum of the weights.
    fn at(&self, part: f64) -> usize {
        let point = part * self.sums.last().copied().unwrap_or_default();
        let at = self.sums.partition_point(|sum| *sum <= point);
        at.min(self.entries.len() - 1)
    }

    /// Returns the node of a key.
    pub(super) fn highest_score(&self, key: u64, tried: TriedNodes) -> Option<&Entry> {
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

/// Shuffles drawn nodes (Fisher and Yates). The draws favor some nodes for the first positions, and the first of equally
/// good nodes is picked.
#[inline]
fn shuffled<'d>(drawn: &'d mut [usize], random: &mut Stream) -> &'d [usize] {
    for place in (1..drawn.len()).rev() {
        drawn.swap(place, random.below(place + 1));
    }
    drawn
}
