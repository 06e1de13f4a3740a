//! How important a call is.

/// How important a call is: one of five classes, with 100 levels inside each.
///
/// Under overload the lowest go first. A higher class beats any level of a lower one.
///
/// # Example
///
/// ```
/// use backstop::Priority;
///
/// assert!(Priority::HIGH > Priority::NORMAL.level(99));
/// assert!(Priority::LOW.level(60) > Priority::LOW);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Priority(pub(crate) u16);

impl Priority {
    const LEVELS: u16 = 100;

    /// Dropped first: prefetching, batch work.
    pub const LOWEST: Self = Self(0);
    /// Work that may come later.
    pub const LOW: Self = Self(Self::LEVELS);
    /// The default.
    pub const NORMAL: Self = Self(2 * Self::LEVELS);
    /// Somebody waits for it.
    pub const HIGH: Self = Self(3 * Self::LEVELS);
    /// Dropped last: health checks, payments.
    pub const HIGHEST: Self = Self(4 * Self::LEVELS);

    /// The same class at a level inside it: 0 (the default) to 99. Higher levels count as 99.
    #[must_use]
    pub const fn level(self, level: u8) -> Self {
        let level = if level as u16 >= Self::LEVELS {
            Self::LEVELS - 1
        } else {
            level as u16
        };
        Self(self.0 / Self::LEVELS * Self::LEVELS + level)
    }

    /// The priority as a number from 0 (lowest) to 499.
    pub const fn as_u16(self) -> u16 {
        self.0
    }
}

impl Default for Priority {
    fn default() -> Self {
        Self::NORMAL
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn priorities_order_by_class_then_level() {
        assert!(Priority::HIGHEST > Priority::HIGH.level(u8::MAX));
        assert_eq!(Priority::LOW.level(5).level(7), Priority::LOW.level(7));
        assert_eq!(Priority::HIGHEST.level(200).as_u16(), 499);
        assert_eq!(Priority::default(), Priority::NORMAL);
    }
}
