//! Priorities of calls.

use std::fmt;
use std::str::FromStr;

use crate::error::ConfigError;

/// The importance of a call: one of five classes, with 100 levels in each.
///
/// Under overload, calls of low priority are rejected first. Any level of a class is above all levels of the lower
/// classes.
///
/// # As text
///
/// [`Display`](fmt::Display) writes the class, and the level if it is not 0, such as `high` or `low:60`. Parsing
/// reads the same, so a priority can travel in a header.
///
/// # Examples
///
/// ```
/// use backstop::Priority;
///
/// assert!(Priority::HIGH > Priority::NORMAL.level(99));
/// assert!(Priority::LOW.level(60) > Priority::LOW);
///
/// let header = Priority::LOW.level(60).to_string();
/// assert_eq!(header, "low:60");
/// assert_eq!(header.parse(), Ok(Priority::LOW.level(60)));
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Priority(pub(crate) u16);

impl Priority {
    const LEVELS: u16 = 100;
    /// Names of the classes, lowest first.
    const CLASSES: [&'static str; 5] = ["lowest", "low", "normal", "high", "highest"];

    /// Prefetching and batch work.
    pub const LOWEST: Self = Self(0);
    /// Work that can be done later.
    pub const LOW: Self = Self(Self::LEVELS);
    /// The default.
    pub const NORMAL: Self = Self(2 * Self::LEVELS);
    /// A user waits for the result.
    pub const HIGH: Self = Self(3 * Self::LEVELS);
    /// Health checks and payments.
    pub const HIGHEST: Self = Self(4 * Self::LEVELS);

    /// Returns the same class at a level within it, from 0 (the default) to 99. Higher levels count as 99.
    #[must_use]
    pub const fn level(self, level: u8) -> Self {
        let level = if level as u16 >= Self::LEVELS {
            Self::LEVELS - 1
        } else {
            level as u16
        };
        Self(self.0 / Self::LEVELS * Self::LEVELS + level)
    }

    /// Returns the name of the class as a label: `lowest`, `low`, `normal`, `high`, or `highest`.
    pub const fn class(self) -> &'static str {
        Self::CLASSES[(self.0 / Self::LEVELS) as usize]
    }

    /// Returns the level within the class, from 0 to 99.
    pub const fn level_in_class(self) -> u8 {
        (self.0 % Self::LEVELS) as u8
    }

    /// Returns the priority as a number from 0 (lowest) to 499.
    pub const fn as_u16(self) -> u16 {
        self.0
    }
}

impl Default for Priority {
    fn default() -> Self {
        Self::NORMAL
    }
}

impl fmt::Display for Priority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.level_in_class() {
            0 => f.pad(self.class()),
            level => f.pad(&format!("{}:{level}", self.class())),
        }
    }
}

impl fmt::Debug for Priority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Parses `class` or `class:level`, such as `normal` or `high:42`.
impl FromStr for Priority {
    type Err = ConfigError;

    /// # Errors
    ///
    /// An unknown class, or a level that is not a number from 0 to 99.
    fn from_str(text: &str) -> Result<Self, ConfigError> {
        let parse = || {
            let (name, level) = text.split_once(':').unwrap_or((text, "0"));
            let class = Self::CLASSES.iter().position(|class| *class == name)?;
            // `u8` would accept a sign.
            let is_number = level.bytes().all(|digit| digit.is_ascii_digit());
            let level: u16 = level.parse().ok().filter(|_| is_number)?;
            (level < Self::LEVELS).then_some(Self(class as u16 * Self::LEVELS + level))
        };
        parse().ok_or(ConfigError::new(
            "priority",
            "text",
            "must be a class, such as `normal`, or a class and a level from 0 to 99, such as `high:42`",
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn priorities_order_by_class_then_level() {
        assert!(Priority::HIGHEST > Priority::HIGH.level(u8::MAX));
        assert_eq!(Priority::LOW.level(5).level(7), Priority::LOW.level(7));
        assert_eq!(Priority::LOW.level(100), Priority::LOW.level(99));
        assert_eq!(Priority::HIGHEST.level(200).as_u16(), 499);
        assert_eq!(Priority::default(), Priority::NORMAL);
    }

    #[test]
    fn every_priority_survives_a_header() {
        for number in 0..500 {
            let priority = Priority(number);
            assert_eq!(priority.to_string().parse(), Ok(priority));
            assert_eq!(format!("{priority:?}"), priority.to_string());
        }
        assert_eq!(Priority::HIGHEST.to_string(), "highest");
        assert_eq!(Priority::NORMAL.level(7).to_string(), "normal:7");
        assert_eq!(
            (
                Priority::HIGH.level(42).class(),
                Priority::HIGH.level(42).level_in_class()
            ),
            ("high", 42)
        );
        assert_eq!("low:0".parse(), Ok(Priority::LOW));
    }

    #[test]
    fn text_that_is_not_a_priority_is_an_error() {
        for text in [
            "", ":", "high:", "High", "urgent", "high:100", "high:-1", "high:+1", "high:1:2",
            "high: 1", "3",
        ] {
            let error = text.parse::<Priority>().unwrap_err();
            assert_eq!(error.policy(), "priority", "{text}");
        }
    }
}
