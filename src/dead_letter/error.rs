//! Errors of storing, reading, and changing letters.

use std::error::Error as StdError;
use std::fmt;
use std::sync::Arc;

/// An error of a dead letter queue.
///
/// `Display` writes one line: what failed, and where. The system's own error is the
/// [`source`](StdError::source).
#[derive(Clone)]
pub struct DeadLetterError {
    kind: DeadLetterErrorKind,
    /// The action that failed, and its object.
    context: String,
    source: Option<Arc<dyn StdError + Send + Sync>>,
}

/// The kind of a [`DeadLetterError`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum DeadLetterErrorKind {
    /// The queue is full.
    Full,
    /// The disk, or its quota, is full.
    StorageFull,
    /// Too many letters wait to be written: the storage does not keep up.
    Overloaded,
    /// Another queue, perhaps of another process, has the folder open.
    Locked,
    /// A later version of the library has written the file.
    Version,
    /// The request cannot be written as JSON.
    Encode,
    /// The letter cannot be read: it is damaged, or its request is of another type.
    Unreadable,
    /// The storage failed in another way.
    Io,
    /// The deadline came before the sink had answered. The letter may still be stored.
    Unconfirmed,
    /// The queue is closed, or the receiver of its letters was dropped.
    Closed,
    /// The sink only passes letters on, so they cannot be read.
    WriteOnly,
    /// A replay of this queue is running already.
    ReplayRunning,
    /// A setting is invalid.
    Config,
    /// A sink of your own failed.
    Sink,
}

impl DeadLetterErrorKind {
    /// Returns the kind as an identifier for logs and metrics, such as `storage_full`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::StorageFull => "storage_full",
            Self::Overloaded => "overloaded",
            Self::Locked => "locked",
            Self::Version => "version",
            Self::Encode => "encode",
            Self::Unreadable => "unreadable",
            Self::Io => "io",
            Self::Unconfirmed => "unconfirmed",
            Self::Closed => "closed",
            Self::WriteOnly => "write_only",
            Self::ReplayRunning => "replay_running",
            Self::Config => "config",
            Self::Sink => "sink",
        }
    }

    const fn text(self) -> &'static str {
        match self {
            Self::Full => "the queue is full",
            Self::StorageFull => "the storage is full",
            Self::Overloaded => "too many letters wait to be written",
            Self::Locked => "another queue has the folder open",
            Self::Version => "a later version has written the file",
            Self::Encode => "the request cannot be written",
            Self::Unreadable => "the letter cannot be read",
            Self::Io => "the storage failed",
            Self::Unconfirmed => "not confirmed before the deadline",
            Self::Closed => "the queue is closed",
            Self::WriteOnly => "the sink cannot be read",
            Self::ReplayRunning => "a replay is running",
            Self::Config => "a setting is invalid",
            Self::Sink => "the sink failed",
        }
    }
}

impl DeadLetterError {
    /// Creates an error of this kind, for sinks of your own.
    pub const fn new(kind: DeadLetterErrorKind) -> Self {
        Self {
            kind,
            context: String::new(),
            source: None,
        }
    }

    /// Creates an error of a sink of your own.
    pub fn sink(source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        Self::new(DeadLetterErrorKind::Sink).because(source)
    }

    /// Returns the error with the action that failed.
    #[must_use]
    pub fn during(mut self, context: impl Into<String>) -> Self {
        self.context = context.into();
        self
    }

    /// Returns the error with its cause.
    #[must_use]
    pub fn because(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.source = Some(Arc::from(source.into()));
        self
    }

    /// Returns the kind of the error.
    pub const fn kind(&self) -> DeadLetterErrorKind {
        self.kind
    }

    /// Returns the action that failed. Empty if the kind is clear enough.
    pub fn context(&self) -> &str {
        &self.context
    }
}

impl From<DeadLetterErrorKind> for DeadLetterError {
    fn from(kind: DeadLetterErrorKind) -> Self {
        Self::new(kind)
    }
}

impl From<crate::error::ConfigError> for DeadLetterError {
    fn from(error: crate::error::ConfigError) -> Self {
        Self::new(DeadLetterErrorKind::Config)
            .during(error.to_string())
            .because(error)
    }
}

impl fmt::Display for DeadLetterError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.kind.text())?;
        if !self.context.is_empty() {
            write!(f, ": {}", self.context)?;
        }
        Ok(())
    }
}

impl fmt::Debug for DeadLetterError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DeadLetterError")
            .field("kind", &self.kind)
            .field("context", &self.context)
            .field("source", &self.source)
            .finish()
    }
}

impl StdError for DeadLetterError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source.as_deref().map(|source| source as &dyn StdError)
    }
}
