//! Distribution of calls over priorities.

/// Nodes of one priority.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Level {
    /// Nodes that take calls.
    pub(crate) available: usize,
    /// All nodes except the drained ones.
    pub(crate) total: usize,
}

/// The share of calls that a level gets, and to which of its nodes they go.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Share {
    /// Percent of the calls.
    pub(crate) percent: u32,
    /// Too few nodes are available: calls go to all of them.
    pub(crate) panics: bool,
}

/// Spreads calls over levels, the most preferred one first, as Envoy does ("Priority levels" and "Panic
/// threshold" in its documentation).
///
/// The health of a level is the percentage of its nodes that are available, times `overprovisioning`, and
/// at most 100. A level gets its health in percent of the calls, and the next one what is left. If the sum
/// is below 100, healths are scaled up to it, and levels with less than `panic_threshold` of their nodes
/// available panic.
pub(crate) fn spread(levels: &[Level], overprovisioning: f64, panic_threshold: f64) -> Vec<Share> {
    let healths: Vec<u32> = levels
        .iter()
        .map(|level| health(*level, overprovisioning))
        .collect();
    let total = healths.iter().sum::<u32>().min(100);
    let mut shares = vec![Share::default(); levels.len()];
    if total < 100 {
        for (level, share) in levels.iter().zip(&mut shares) {
            let threshold = panic_threshold * level.total as f64;
            share.panics = (level.available as f64) < threshold;
        }
    }
    if total == 0 {
        // All healths round down to zero, even with one available node among several hundred. All calls go to the most
        // preferred level that panics, or else to the first with an available node.
        let panics = shares.iter().position(|share| share.panics);
        let first = panics.or_else(|| levels.iter().position(|level| level.available > 0));
        if let Some(first) = first {
            shares[first].percent = 100;
        }
        return shares;
    }
    let mut left = 100;
    for (health, share) in healths.iter().zip(&mut shares) {
        // Rounded, as in Envoy's tables.
        share.percent = ((health * 100 + total / 2) / total).min(left);
        left -= share.percent;
    }
    // The first priority in use gets the percents lost to rounding.
    if let Some(first) = shares.iter_mut().find(|share| share.percent > 0) {
        first.percent += left;
    }
    shares
}

fn health(level: Level, overprovisioning: f64) -> u32 {
    if level.total == 0 {
        return 0;
    }
    // Rounds down to whole percents. The small addition keeps 1.4 × 100 × 5 / 7 at 100.
    let health = overprovisioning * 100.0 * level.available as f64 / level.total as f64;
    (health + 1e-9).min(100.0) as u32
}
