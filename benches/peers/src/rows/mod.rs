//! What is compared: one file for each pattern, one [`Row`] for each target of DESIGN section 8.
//!
//! To add a pattern: a file with a `pub fn rows() -> Vec<Row>`, and its name in [`all`]. Candidates
//! are made by [`crate::work`]: `blocking` for plain closures, `future` for async ones, `service`
//! for tower's; [`crate::work::leak`] keeps a handle alive so that futures may borrow it.

use crate::measure::Candidate;

mod build;
mod bulkhead;
mod circuit_breaker;
mod coalesce;
mod endpoints;
mod fallback;
mod growth;
mod hedge;
mod rate_limiter;
mod retry;
mod stack;
mod timeout;

/// The rows of every pattern, in the order of the report.
pub fn all() -> Vec<Row> {
    let patterns = [
        bulkhead::rows,
        circuit_breaker::rows,
        coalesce::rows,
        endpoints::rows,
        fallback::rows,
        hedge::rows,
        rate_limiter::rows,
        retry::rows,
        timeout::rows,
        stack::rows,
        growth::rows,
    ];
    patterns.into_iter().flat_map(|rows| rows()).collect()
}

pub use self::build::rows as build;
pub use self::growth::large;

/// One line of the report: ours against the peers on the same work.
pub struct Row {
    pub name: String,
    pub threads: usize,
    pub target: Target,
    pub contest: Contest,
    /// The peer to beat; the fastest when `None`.
    pub rival: Option<&'static str>,
}

/// What ours must reach.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Target {
    /// At most this times the peer's figure.
    Ratio(f64),
    /// At most this, whatever the peers do. The ratio is then our figure itself.
    AtMost(f64),
}

/// Where the figures come from.
pub enum Contest {
    /// Nanoseconds, measured in turns.
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
    /// Figures known already.
    Known {
        unit: &'static str,
        ours: f64,
        peers: Vec<(String, f64)>,
    },
}

/// What is taken off before comparing. It is measured in turns with the rest.
pub enum Floor {
    None,
    /// Off ours: a price the target leaves out.
    Ours(Candidate),
    /// Off both: only what they add to it counts.
    Both(Candidate),
}

impl Row {
    /// A race on `threads` threads: ours in at most `target` times the fastest peer's time.
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

    /// Allocations per call: ours makes none.
    pub fn no_allocations(name: &str, ours: Candidate, peers: Vec<Candidate>) -> Self {
        let contest = Contest::Allocations { ours, peers };
        Self::new(name, 1, Target::AtMost(0.0), contest)
    }

    /// Figures that need no measuring: sizes, counts.
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

    /// Takes `floor` off ours.
    pub fn beside(self, floor: Candidate) -> Self {
        self.floor(Floor::Ours(floor))
    }

    /// Takes `floor` off ours and off every peer: only what they add to it is compared.
    pub fn excess_over(self, floor: Candidate) -> Self {
        self.floor(Floor::Both(floor))
    }

    /// Compares with this peer, also where another is faster.
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
