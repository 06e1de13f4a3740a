//! The text form of quotas.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use super::quota::{Algorithm, Quota};
use crate::error::ConfigError;

/// Units of time: nanoseconds and names. The first name is written.
const UNITS: [(u128, &[&str]); 7] = [
    (86_400_000_000_000, &["day", "d", "days"]),
    (3_600_000_000_000, &["h", "hour", "hours"]),
    (60_000_000_000, &["min", "m", "minute", "minutes"]),
    (1_000_000_000, &["s", "sec", "second", "seconds"]),
    (1_000_000, &["ms"]),
    (1_000, &["us", "µs"]),
    (1, &["ns"]),
];

struct Period(Duration);

impl fmt::Display for Period {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let nanos = self.0.as_nanos();
        for (unit, names) in UNITS {
            if nanos > 0 && nanos % unit == 0 {
                return match nanos / unit {
                    1 => f.write_str(names[0]),
                    count => write!(f, "{count}{}", names[0]),
                };
            }
        }
        f.write_str("0s")
    }
}

fn period(text: &str) -> Option<Duration> {
    let digits = text.find(|letter: char| !letter.is_ascii_digit())?;
    let (count, name) = text.split_at(digits);
    let count: u128 = match count {
        "" => 1,
        count => count.parse().ok()?,
    };
    let (unit, _) = UNITS
        .iter()
        .find(|(_, names)| names.contains(&name.trim_start()))?;
    let nanos = count.checked_mul(*unit)?;
    let seconds = u64::try_from(nanos / 1_000_000_000).ok()?;
    Some(Duration::new(seconds, (nanos % 1_000_000_000) as u32))
}

/// Parses digits without a sign.
fn number<T: FromStr>(text: &str) -> Option<T> {
    let is_plain = text.bytes().all(|letter| letter.is_ascii_digit());
    text.parse().ok().filter(|_| is_plain)
}

fn parse(text: &str) -> Option<Quota> {
    let mut parts = text.split(',').map(str::trim);
    let (tokens, every) = parts.next()?.split_once('/')?;
    let mut quota = Quota::new(number(tokens.trim_end())?, period(every.trim_start())?);
    let mut valued = Vec::new();
    for part in parts {
        let words: Vec<&str> = part.split_whitespace().collect();
        if matches!(words[..], ["burst" | "initial" | "leaky" | "warm", ..]) {
            if valued.contains(&words[0]) {
                return None;
            }
            valued.push(words[0]);
        }
        quota = match words[..] {
            ["burst", tokens] => quota.burst(number(tokens)?),
            ["initial", tokens] => quota.initial(number(tokens)?),
            ["leaky", "bucket", queue] => quota.leaky_bucket(number(queue)?),
            ["fixed", "window"] => quota.fixed_window(),
            ["fixed", "window", "from", "first"] => quota.fixed_window_from_first(),
            ["sliding", "log"] => quota.sliding_log(),
            ["sliding", "counter"] => quota.sliding_counter(),
            ["warm", "up", within, cold] => {
                quota.warm_up(period(within)?, number(cold.strip_prefix('x')?)?)
            }
            _ => return None,
        };
    }
    Some(quota)
}

#[cfg(feature = "config")]
impl Quota {
    /// Parses the text form without checking the quota, which the builder does.
    pub(crate) fn parse_unchecked(text: &str) -> Option<Self> {
        parse(text)
    }
}

/// Parses the text form described at [`Quota`], and rejects invalid quotas.
impl FromStr for Quota {
    type Err = ConfigError;

    fn from_str(text: &str) -> Result<Self, ConfigError> {
        let quota = parse(text).ok_or(ConfigError::new(
            "rate_limiter",
            "quota",
            "must be like `300/1s` or `10/min, burst 5`",
        ))?;
        quota.check("rate_limiter")?;
        Ok(quota)
    }
}

/// Writes the text form.
impl fmt::Display for Quota {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.tokens(), Period(self.period()))?;
        match self.algorithm() {
            Algorithm::TokenBucket => {}
            Algorithm::LeakyBucket => write!(f, ", leaky bucket {}", self.queue)?,
            algorithm => write!(f, ", {algorithm}")?,
        }
        if let Some(burst) = self.burst {
            write!(f, ", burst {burst}")?;
        }
        if let Some(initial) = self.initial {
            write!(f, ", initial {initial}")?;
        }
        if let Some((within, cold)) = self.warm_up {
            write!(f, ", warm up {} x{cold}", Period(within))?;
        }
        Ok(())
    }
}

/// Writes the text form, as in `Quota(10/min, burst 5)`.
impl fmt::Debug for Quota {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Quota({self})")
    }
}
