//! Detection of changed files, without I/O in the rules.

use std::fs::Metadata;
use std::path::Path;
use std::time::SystemTime;

/// Identifies the content of a path: the file, its size, and its modification time.
///
/// Symbolic links are followed, so swapping a link, as Kubernetes does, changes the fingerprint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fingerprint {
    Missing,
    File {
        /// Device and inode numbers, where the system has them.
        identity: (u64, u64),
        size: u64,
        written: Option<SystemTime>,
    },
}

impl Fingerprint {
    pub(super) fn of(path: &Path) -> Self {
        match std::fs::metadata(path) {
            Ok(metadata) => Self::File {
                identity: identity(&metadata),
                size: metadata.len(),
                written: metadata.modified().ok(),
            },
            Err(_) => Self::Missing,
        }
    }
}

/// Returns the time of the last change of the file or of its attributes; `None` where the system has none. Programs
/// such as `cp -p` and `tar` restore the modification time, but cannot set this one. It is no part of the fingerprint,
/// because it also changes when the content does not.
pub(super) fn status_time(path: &Path) -> Option<(i64, i64)> {
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt;
        let metadata = std::fs::metadata(path).ok()?;
        Some((metadata.ctime(), metadata.ctime_nsec()))
    }
    #[cfg(not(unix))]
    {
        let _ = path;
        None
    }
}

#[cfg(unix)]
fn identity(metadata: &Metadata) -> (u64, u64) {
    use std::os::unix::fs::MetadataExt;
    (metadata.dev(), metadata.ino())
}

#[cfg(not(unix))]
fn identity(_: &Metadata) -> (u64, u64) {
    (0, 0)
}

/// Decides when to read a file: once it has changed, and then stayed the same between two checks. So a half-written
/// file is not read.
#[derive(Debug, Default)]
pub(super) struct ChangeDetector {
    changed: Option<Fingerprint>,
}

impl ChangeDetector {
    /// Returns whether to read the file. `seen` is its fingerprint when it was last read, and `now` the current one.
    pub(super) fn is_due(&mut self, seen: Option<Fingerprint>, now: Fingerprint) -> bool {
        if seen == Some(now) {
            self.changed = None;
            return false;
        }
        let is_at_rest = self.changed == Some(now);
        self.changed = Some(now);
        is_at_rest
    }

    /// Returns whether the file differs from what was last read.
    pub(super) const fn is_changing(&self) -> bool {
        self.changed.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(number: u64, size: u64) -> Fingerprint {
        Fingerprint::File {
            identity: (0, number),
            size,
            written: None,
        }
    }

    #[test]
    fn a_file_is_read_once_it_has_stayed_the_same() {
        let seen = Some(file(1, 10));
        let mut changes = ChangeDetector::default();
        assert!(!changes.is_due(seen, file(1, 10)));
        assert!(!changes.is_changing());
        // First truncated, then half written, then complete.
        for size in [0, 5, 11] {
            assert!(!changes.is_due(seen, file(1, size)));
            assert!(changes.is_changing());
        }
        assert!(changes.is_due(seen, file(1, 11)));
        assert!(!changes.is_due(Some(file(1, 11)), file(1, 11)));
        assert!(!changes.is_changing());
    }

    #[test]
    fn a_change_that_is_undone_is_not_read() {
        let seen = Some(file(1, 10));
        let mut changes = ChangeDetector::default();
        assert!(!changes.is_due(seen, Fingerprint::Missing));
        assert!(!changes.is_due(seen, file(1, 10)));
        assert!(!changes.is_due(seen, Fingerprint::Missing));
        assert!(changes.is_due(seen, Fingerprint::Missing));
    }
}
