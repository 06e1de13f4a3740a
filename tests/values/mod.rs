//! The ends of every number, and how to try them out on a setting.

use std::fmt::Debug;
use std::time::Duration;

use backstop::ConfigError;

pub(crate) const NUMBERS: [f64; 14] = [
    f64::NAN,
    f64::NEG_INFINITY,
    f64::MIN,
    -1.0,
    -0.0,
    0.0,
    f64::MIN_POSITIVE,
    f64::EPSILON,
    0.5,
    1.0,
    1.000_000_1,
    1e30,
    f64::MAX,
    f64::INFINITY,
];
pub(crate) const COUNTS: [u32; 6] = [0, 1, 2, 1000, u32::MAX - 1, u32::MAX];
pub(crate) const TIMES: [Duration; 8] = [
    Duration::ZERO,
    Duration::from_nanos(1),
    Duration::from_secs(1),
    Duration::from_secs(60),
    // One less than a clock can count, as much, and more.
    Duration::from_nanos(u64::MAX - 1),
    Duration::from_nanos(u64::MAX),
    Duration::from_secs(u64::MAX),
    Duration::MAX,
];

/// Builds something from each value, and uses what comes of it. `good` says which are accepted.
pub(crate) fn check<V: Copy + Debug, X>(
    setting: &str,
    values: &[V],
    good: impl Fn(V) -> bool,
    build: impl Fn(V) -> Result<X, ConfigError>,
    try_out: impl Fn(X),
) {
    for &value in values {
        match build(value) {
            Ok(built) => {
                assert!(good(value), "{setting} took {value:?}");
                try_out(built);
            }
            Err(error) => {
                assert!(!good(value), "{setting} rejected {value:?}: {error}");
                assert_eq!(error.setting(), setting, "{error}");
            }
        }
    }
}
