//! Numbers in the texts of events.

use std::fmt;

/// A number with its noun, in the singular and in the plural.
pub(super) struct Count<N>(
    pub(super) N,
    pub(super) &'static str,
    pub(super) &'static str,
);

impl<N: fmt::Display + PartialEq + From<u8>> fmt::Display for Count<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(number, one, many) = self;
        let noun = if *number == N::from(1) { one } else { many };
        write!(f, "{number} {noun}")
    }
}
