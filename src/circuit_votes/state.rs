//! Pure rules for a circuit that follows the votes of others.

use crate::store::Tally;

/// The rules for following the other circuits.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Rules {
    /// The share of the voters that open circuits must exceed.
    pub(crate) quorum: f64,
    pub(crate) min_votes: u64,
    pub(crate) follows: Follow,
    /// The failure rate from which on a quorum opens the circuit.
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

    /// Returns whether a closed circuit opens. `calls` and `failures` are the counts of its window; `min_calls` is
    /// what its own rules need.
    pub(crate) fn opens(&self, tally: Tally, calls: u64, failures: u64, min_calls: u64) -> bool {
        if !self.is_quorum(tally) {
            return false;
        }
        match self.follows {
            Follow::AtOnce => true,
            Follow::Sooner => {
                let enough = calls >= min_calls.div_ceil(2).max(1);
                enough && failures as f64 >= self.failure_rate * calls as f64
            }
        }
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
        assert!(RULES.opens(quorum, 10, 3, 20));
        assert!(!RULES.opens(quorum, 9, 9, 20));
        assert!(!RULES.opens(quorum, 100, 24, 20));
        assert!(!RULES.opens(quorum, 0, 0, 0));
        assert!(!RULES.opens(Tally::new(4, 2), 10, 10, 20));
        let at_once = Rules {
            follows: Follow::AtOnce,
            ..RULES
        };
        assert!(at_once.opens(quorum, 0, 0, 20));
    }
}
