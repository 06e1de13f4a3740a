//! The comparisons: one file per pattern, one [`Row`] per target.
//!
//! To add a pattern, add a file with `pub fn rows() -> Vec<Row>` and its name in [`all`]. [`crate::work`] creates
//! candidates: `blocking` for plain closures, `future` for async ones, `service` for tower's.
//! [`crate::work::leak`] keeps a handle alive so that futures may borrow it.

use crate::measure::Candidate;

mod build;
mod bulkhead;
mod circuit_breaker;
mod coalesce;
mod endpoints;
mod fallback;
mod growth;
mod hedge;
mod observability;
mod rate_limiter;
mod retry;
mod stack;
mod standard;
mod timeout;

/// Returns the rows of every pattern, in the order of the report.
pub fn all() -> Vec<Row> {
    let patterns = [
        bulkhead::rows,
        circuit_breaker::rows,
        coalesce::rows,
        endpoints::rows,
        fallback::rows,
        hedge::rows,
        observability::rows,
        rate_limiter::rows,
        retry::rows,
        timeout::rows,
        stack::rows,
        standard::rows,
        growth::rows,
    ];
    patterns.into_iter().flat_map(|rows| rows()).collect()
}

pub use self::build::rows as build;
pub use self::growth::large;

/// One row of the report: ours against the peers on the same work.
pub struct Row {
    pub name: String,
    pub threads: usize,
    pub target: Target,
    pub contest: Contest,
    /// The peer to beat; the fastest when `None`.
    pub rival: Option<&'static str>,
}

/// The target for ours.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Target {
    /// At most this times the peer's figure.
    Ratio(f64),
    /// At most this, independent of the peers. The ratio is then our figure itself.
    AtMost(f64),
}

/// The source of the figures.
pub enum Contest {
    /// Nanoseconds, measured interleaved.
    Time {
        ours: Candidate,
        peers: Vec<Candidate>,
        floor: Floor,
    },
    /// Allocations per operation.
    Allocations {
        ours: Candidate,
        peers: Vec<Candidate>,
    },
    /// Figures that are already known.
    Known {
        unit: &'static str,
        ours: f64,
        peers: Vec<(String, f64)>,
    },
}

/// A cost to subtract before comparing, measured interleaved with the candidates.
pub enum Floor {
    None,
    /// From ours: a cost that the target excludes.
    Ours(Candidate),
    /// From both: only the overhead over it counts.
    Both(Candidate),
}

impl Row {
    /// Returns a race on `threads` threads: ours within `target` times the fastest peer's time.
    pub fn race(
        name: &str,
        threads: usize,
        target: f64,
        ours: Candidate,
        peers: Vec<Candidate>,
    ) -> Self {
        let contest = Contest::Time {
            ours,
            peers,
            floor: Floor::None,
        };
        Self::new(name, threads, Target::Ratio(target), contest)
    }

    /// Returns a comparison of allocations per call: ours makes none.
    pub fn no_allocations(name: &str, ours: Candidate, peers: Vec<Candidate>) -> Self {
        Self::allocations(name, Target::AtMost(0.0), ours, peers)
    }

    /// Returns a comparison of allocations per call.
    pub fn allocations(name: &str, target: Target, ours: Candidate, peers: Vec<Candidate>) -> Self {
        Self::new(name, 1, target, Contest::Allocations { ours, peers })
    }

    /// Returns a comparison of figures that need no measuring: sizes, counts.
    pub fn known<'a>(
        name: &str,
        unit: &'static str,
        target: Target,
        ours: f64,
        peers: impl IntoIterator<Item = (&'a str, f64)>,
    ) -> Self {
        let peers = peers
            .into_iter()
            .map(|(name, figure)| (name.to_owned(), figure))
            .collect();
        let contest = Contest::Known { unit, ours, peers };
        Self::new(name, 1, target, contest)
    }

    /// Subtracts `floor` from ours.
    pub fn beside(self, floor: Candidate) -> Self {
        self.floor(Floor::Ours(floor))
    }

    /// Subtracts `floor` from ours and from every peer, to compare only the overhead.
    pub fn excess_over(self, floor: Candidate) -> Self {
        self.floor(Floor::Both(floor))
    }

    /// Compares with this peer, even if another is faster.
    pub fn against(mut self, rival: &'static str) -> Self {
        self.rival = Some(rival);
        self
    }

    fn new(name: &str, threads: usize, target: Target, contest: Contest) -> Self {
        Self {
            name: name.to_owned(),
            threads,
            target,
            contest,
            rival: None,
        }
    }

    fn floor(mut self, new: Floor) -> Self {
        match &mut self.contest {
            Contest::Time { floor, .. } => *floor = new,
            _ => panic!("{}: only times have a floor", self.name),
        }
        self
    }
}
