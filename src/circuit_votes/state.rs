//! Pure rules for a circuit that follows the votes of others.

use crate::event::{State, Transition};
use crate::store::Tally;

/// The rules for following the other circuits.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Rules {
    /// The share of the voters that open circuits must exceed.
    pub(crate) quorum: f64,
    pub(crate) min_votes: u64,
    pub(crate) follows: Follow,
    /// The failure rate at which a quorum opens the circuit.
    pub(crate) failure_rate: f64,
}

/// The effect of a quorum of open circuits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Follow {
    /// Opens with less evidence of its own: half as many calls, of which half as many failed.
    #[default]
    Sooner,
    /// Opens at once, without evidence of its own.
    AtOnce,
}

impl Rules {
    /// Returns whether enough of the other circuits are open.
    pub(crate) fn is_quorum(&self, tally: Tally) -> bool {
        tally.open >= self.min_votes && tally.open as f64 > self.quorum * tally.voters as f64
    }

    /// Returns whether the calls of a circuit suffice to open it with a quorum: `calls`, of which `failures` failed,
    /// in its window. Its own rules need `min_calls`.
    pub(crate) fn is_evidence(&self, calls: u64, failures: u64, min_calls: u64) -> bool {
        let enough = calls >= min_calls.div_ceil(2).max(1);
        enough && failures as f64 >= self.failure_rate * calls as f64
    }

    /// Returns whether a closed circuit opens.
    pub(crate) fn opens(&self, tally: Tally, has_evidence: bool) -> bool {
        self.is_quorum(tally) && (has_evidence || self.follows == Follow::AtOnce)
    }
}

/// Whether a circuit is open only because others are. Such a circuit does not vote: circuits that open because of each
/// other's votes would stay open for good.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Following {
    /// The number of the change that opened it.
    opened: Option<u64>,
}

impl Following {
    /// Records that the circuit opened because of others, by the change of this number or one before.
    pub(crate) const fn opened(&mut self, generation: u64) {
        self.opened = Some(generation);
    }

    /// Records a change. A circuit that was in another state meanwhile, or has opened again after probes, no longer
    /// follows others.
    pub(crate) fn note(&mut self, change: &Transition) {
        let is_new = self.opened.is_some_and(|opened| change.generation > opened);
        let failed = change.from == State::HalfOpen && change.to == State::Open;
        // An isolated circuit may be open underneath.
        let keeps = |state| matches!(state, State::Open | State::HalfOpen | State::Isolated);
        let was_left = !keeps(change.from) || !keeps(change.to);
        if is_new && (was_left || failed) {
            self.opened = None;
        }
    }

    pub(crate) const fn is_active(&self) -> bool {
        self.opened.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULES: Rules = Rules {
        quorum: 0.5,
        min_votes: 2,
        follows: Follow::Sooner,
        failure_rate: 0.25,
    };

    #[test]
    fn a_quorum_is_more_than_half_of_the_voters_and_two_at_least() {
        assert!(!RULES.is_quorum(Tally::new(1, 1)));
        assert!(RULES.is_quorum(Tally::new(2, 2)));
        assert!(RULES.is_quorum(Tally::new(3, 2)));
        assert!(!RULES.is_quorum(Tally::new(4, 2)));
        assert!(!RULES.is_quorum(Tally::new(0, 0)));
    }

    #[test]
    fn with_a_quorum_half_of_the_evidence_suffices_and_none_does_not() {
        let quorum = Tally::new(3, 2);
        assert!(RULES.is_evidence(10, 3, 20));
        assert!(!RULES.is_evidence(9, 9, 20));
        assert!(!RULES.is_evidence(100, 24, 20));
        assert!(!RULES.is_evidence(0, 0, 0));
        assert!(RULES.opens(quorum, true));
        assert!(!RULES.opens(quorum, false));
        assert!(!RULES.opens(Tally::new(4, 2), true));
        let at_once = Rules {
            follows: Follow::AtOnce,
            ..RULES
        };
        assert!(at_once.opens(quorum, false));
    }
}
