//! The pure part: when a circuit opens and closes. Time is an argument.

mod average;
mod machine;
mod rules;
mod tally;
mod trial;
pub(super) mod word;

pub(super) use self::machine::{Admission, Break, Due, Machine};
pub(super) use self::rules::Plan;
pub(super) use self::tally::Tally;
pub(super) use self::trial::HalfOpenRules;
