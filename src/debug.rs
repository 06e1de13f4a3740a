//! `Debug` of settings: prints the largest value, which means no limit, as `unlimited`.

use std::fmt;
use std::time::Duration;

/// A setting whose largest value means no limit.
pub(crate) trait Limit {
    /// Writes the value, or `unlimited`.
    fn write(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result;
}

/// Prints a limit in `Debug`.
pub(crate) struct DebugLimit<'a, T>(pub(crate) &'a T);

impl<T: Limit> fmt::Debug for DebugLimit<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.write(f)
    }
}

macro_rules! limits {
    ($($type:ty)+) => {$(
        impl Limit for $type {
            fn write(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                match *self {
                    <$type>::MAX => f.write_str("unlimited"),
                    ref value => fmt::Debug::fmt(value, f),
                }
            }
        }
    )+};
}

limits!(Duration u64 usize);

impl<T: Limit> Limit for Option<T> {
    fn write(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Some(limit) => f.debug_tuple("Some").field(&DebugLimit(limit)).finish(),
            None => f.write_str("None"),
        }
    }
}

impl<T: Limit> Limit for (T, T) {
    fn write(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (first, second) = (DebugLimit(&self.0), DebugLimit(&self.1));
        f.debug_tuple("").field(&first).field(&second).finish()
    }
}

/// Implements `Debug` for settings. Fields after the semicolon are limits.
macro_rules! debug_settings {
    ($name:ident { $($field:ident),*; $($limit:ident),+ }) => {
        impl std::fmt::Debug for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.debug_struct(stringify!($name))
                    $(.field(stringify!($field), &self.$field))*
                    $(.field(stringify!($limit), &$crate::debug::DebugLimit(&self.$limit)))+
                    .finish()
            }
        }
    };
}
pub(crate) use debug_settings;
