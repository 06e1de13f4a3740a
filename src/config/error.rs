//! Errors of settings: all mistakes of a file, each with path and value.

use std::error::Error as StdError;
use std::{fmt, io};

/// One mistake in settings.
///
/// `Display` writes one line, such as `clients.github.retry.max_attempts: must be at least 1, is 0`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    pub(super) path: String,
    pub(super) value: Option<String>,
    pub(super) rule: String,
}

impl Problem {
    /// Returns the keys that lead to the value, with dots between them.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Returns the value as given, on one line. `None` if it is missing.
    pub fn value(&self) -> Option<&str> {
        self.value.as_deref()
    }

    /// Returns the violated rule, as the rest of a sentence that begins with the path.
    pub fn rule(&self) -> &str {
        &self.rule
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        f.write_str(&self.rule)?;
        match &self.value {
            Some(value) => write!(f, ", is {value}"),
            None => Ok(()),
        }
    }
}

/// All mistakes in settings. `Display` writes one line for each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SettingsError {
    pub(super) problems: Vec<Problem>,
}

impl SettingsError {
    /// Returns the mistakes, at least one.
    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }
}

impl fmt::Display for SettingsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.problems.iter().enumerate() {
            let line = if index > 0 { "\n" } else { "" };
            write!(f, "{line}{problem}")?;
        }
        Ok(())
    }
}

impl StdError for SettingsError {}

/// The reason why a file was not applied. The former settings stay in force.
#[derive(Debug)]
#[non_exhaustive]
pub enum LoadError {
    /// The file could not be read.
    Read(io::Error),
    /// The text cannot be parsed.
    Parse(Box<dyn StdError + Send + Sync>),
    /// Some settings are wrong.
    Settings(SettingsError),
}

impl LoadError {
    /// Returns the mistakes in the settings. Empty if the file could not be read or parsed.
    pub fn problems(&self) -> &[Problem] {
        match self {
            Self::Settings(error) => error.problems(),
            _ => &[],
        }
    }
}

impl LoadError {
    /// Returns a copy. Foreign errors are not `Clone`, so only their kind and text are copied.
    pub(super) fn copied(&self) -> Self {
        match self {
            Self::Read(error) => Self::Read(io::Error::new(error.kind(), error.to_string())),
            Self::Parse(error) => Self::Parse(error.to_string().into()),
            Self::Settings(error) => Self::Settings(error.clone()),
        }
    }
}

impl fmt::Display for LoadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Read(error) => write!(f, "cannot be read: {error}"),
            Self::Parse(error) => write!(f, "cannot be parsed: {error}"),
            Self::Settings(error) => error.fmt(f),
        }
    }
}

impl StdError for LoadError {}

impl From<SettingsError> for LoadError {
    fn from(error: SettingsError) -> Self {
        Self::Settings(error)
    }
}
