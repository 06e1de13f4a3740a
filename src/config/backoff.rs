//! Settings of backoffs.

use std::time::Duration;

use super::scope::Scope;
use super::section::section;
use super::setting::{Setting, expected, identifiers};
use super::value::Value;
use crate::backoff::{Backoff, Jitter};

/// The shape of a [`Backoff`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum BackoffKind {
    /// No delay.
    None,
    /// A constant `delay`.
    Fixed,
    /// Grows from `initial` by `step`.
    Linear,
    /// Grows from `initial` by `factor`.
    Exponential,
    /// Grows from `initial` in proportion to the Fibonacci numbers.
    Fibonacci,
}

identifiers! {
    BackoffKind: Self::None, Self::Fixed, Self::Linear, Self::Exponential, Self::Fibonacci => |kind| match kind {
        BackoffKind::None => "none",
        BackoffKind::Fixed => "fixed",
        BackoffKind::Linear => "linear",
        BackoffKind::Exponential => "exponential",
        BackoffKind::Fibonacci => "fibonacci",
    };
}

const JITTERS: [&str; 5] = ["none", "full", "equal", "decorrelated", "decorrelated_v2"];

impl Setting for Jitter {
    fn read(value: &Value, at: &mut Scope) -> Option<Self> {
        if let Value::Text(text) = value {
            match text.as_str() {
                "none" => return Some(Self::None),
                "full" => return Some(Self::Full),
                "equal" => return Some(Self::Equal),
                "decorrelated" => return Some(Self::Decorrelated),
                "decorrelated_v2" => return Some(Self::DecorrelatedV2),
                _ => {}
            }
        }
        if let (Value::Table(entries), Some(fraction)) = (value, value.get("plus_minus")) {
            if entries.len() == 1 {
                let fraction = at.at("plus_minus", |at| f64::read(fraction, at));
                return fraction.map(Self::PlusMinus);
            }
        }
        let rule = format!(
            "must be one of {}, or a table such as {{ plus_minus = 0.2 }}",
            JITTERS.join(", ")
        );
        expected(rule, value, at)
    }

    fn write(&self) -> Value {
        let text = match self {
            Self::None => JITTERS[0],
            Self::Full => JITTERS[1],
            Self::Equal => JITTERS[2],
            Self::Decorrelated => JITTERS[3],
            Self::DecorrelatedV2 => JITTERS[4],
            Self::PlusMinus(fraction) => {
                return Value::Table(vec![("plus_minus".into(), fraction.write())]);
            }
        };
        Value::Text(text.into())
    }

    #[cfg(feature = "schema")]
    fn schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
        let plus_minus = super::schema::single("plus_minus", f64::schema(generator));
        schemars::json_schema!({ "anyOf": [{ "type": "string", "enum": JITTERS }, plus_minus] })
    }
}

section! {
    /// Settings of a [`Backoff`]. A missing key has its value in the default of the setting, if that is of the same
    /// kind.
    BackoffSettings, aliases [("base", "initial"), ("cap", "max")], over(BackoffSettings::shown) => {
        /// The shape: `none`, `fixed`, `linear`, `exponential`, or `fibonacci`.
        kind: BackoffKind,
        /// The delay of a fixed backoff.
        delay: Duration,
        /// The first delay of a growing backoff.
        initial: Duration,
        /// The increment of a linear backoff.
        step: Duration,
        /// The factor of an exponential backoff, at least 1.
        factor: f64,
        /// The longest delay, jitter included.
        max: Duration,
        /// The jitter: `none`, `full`, `equal`, `decorrelated`, `decorrelated_v2`, or `{ plus_minus = 0.2 }`.
        jitter: Jitter,
    }
}

impl BackoffSettings {
    /// Returns the default settings of [`Backoff::exponential`].
    pub(super) fn exponential(initial: Duration) -> Self {
        Self {
            kind: Some(BackoffKind::Exponential),
            initial: Some(initial),
            factor: Some(2.0),
            max: Some(Duration::from_secs(20)),
            jitter: Some(Jitter::Full),
            ..Self::default()
        }
    }

    /// Fills missing settings from `default`, if that is of the same kind.
    fn filled(self, default: Self) -> Self {
        if self.kind.is_some() && self.kind != default.kind {
            return self;
        }
        Self {
            kind: self.kind.or(default.kind),
            delay: self.delay.or(default.delay),
            initial: self.initial.or(default.initial),
            step: self.step.or(default.step),
            factor: self.factor.or(default.factor),
            // Left unset: without a maximum, `Backoff` does not cap the first delay.
            max: self.max,
            jitter: self.jitter.or(default.jitter),
        }
    }

    /// Returns the effective settings. `default` is the builder's default.
    fn shown(self, default: Self) -> Self {
        let max = default.max;
        let shown = self.filled(default);
        let preset = match shown.kind {
            Some(BackoffKind::Linear | BackoffKind::Exponential | BackoffKind::Fibonacci) => {
                max.max(shown.initial)
            }
            _ => None,
        };
        Self {
            max: shown.max.or(preset),
            ..shown
        }
    }

    /// Builds the backoff. `default` is the builder's default.
    pub(super) fn build(self, default: Self, at: &mut Scope) -> Option<Backoff> {
        let before = at.len();
        let settings = self.filled(default);
        let kind = settings.kind.unwrap_or(BackoffKind::Exponential);
        let keys: &[&str] = match kind {
            BackoffKind::None => &[],
            BackoffKind::Fixed => &["delay", "max", "jitter"],
            BackoffKind::Linear => &["initial", "step", "max", "jitter"],
            BackoffKind::Exponential => &["initial", "factor", "max", "jitter"],
            BackoffKind::Fibonacci => &["initial", "max", "jitter"],
        };
        let Value::Table(entries) = settings.write() else {
            return None;
        };
        for (key, value) in &entries {
            if key != "kind" && !keys.contains(&key.as_str()) {
                let rule = format!("does not apply to a backoff of kind {}", kind.write());
                at.at(key, |at| at.report(rule, Some(value)));
            }
        }
        let mut needed = |key: &str, duration: Option<Duration>| {
            if duration.is_none() {
                let rule = format!("must be given for a backoff of kind {}", kind.write());
                at.at(key, |at| at.report(rule, None));
            }
            duration.unwrap_or_default()
        };
        let mut backoff = match kind {
            BackoffKind::None => Backoff::NONE,
            BackoffKind::Fixed => Backoff::fixed(needed("delay", settings.delay)),
            BackoffKind::Linear => {
                let initial = needed("initial", settings.initial);
                Backoff::linear(initial, needed("step", settings.step))
            }
            BackoffKind::Exponential => Backoff::exponential(needed("initial", settings.initial)),
            BackoffKind::Fibonacci => Backoff::fibonacci(needed("initial", settings.initial)),
        };
        if let Some(factor) = settings.factor {
            backoff = backoff.factor(factor);
        }
        if let Some(max) = settings.max {
            backoff = backoff.max(max);
        }
        if let Some(jitter) = settings.jitter {
            backoff = backoff.jitter(jitter);
        }
        (at.len() == before).then_some(backoff)
    }
}
