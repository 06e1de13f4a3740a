//! The pure part: when a circuit opens and closes. Time is an argument.

mod admission;
mod average;
mod machine;
mod rules;
mod tally;
mod trial;
mod trip;
pub(super) mod word;

pub(super) use self::admission::{Admission, BreakLength, Due};
pub(super) use self::machine::Machine;
pub(super) use self::rules::Rules;
pub(super) use self::tally::Tally;
pub(super) use self::trial::{AfterHalfOpen, HalfOpenRules};
pub(super) use self::trip::TripKind;
pub use self::trip::{HalfOpen, Trip};
