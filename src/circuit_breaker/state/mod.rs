//! Pure state: when a circuit opens and closes. Time is an argument.

mod half_open;
mod machine;
mod opening;
pub(super) mod packed_state;
mod phase;
mod rules;
mod success_average;
mod trip_rule;
mod window_set;

pub(super) use self::half_open::{HalfOpenRules, HalfOpenTimeout};
pub(super) use self::machine::{Admission, Machine};
pub(super) use self::opening::{BreakLength, PendingOpening};
pub(super) use self::packed_state::PackedState;
pub(super) use self::rules::Rules;
pub(super) use self::trip_rule::TripKind;
pub use self::trip_rule::{HalfOpen, Trip};
pub(super) use self::window_set::WindowSet;
