//! The builder of file sinks.

use std::fs::{self, OpenOptions};
use std::path::PathBuf;
use std::time::Duration;

use super::super::error::{DeadLetterError, DeadLetterErrorKind};
use super::super::memory::check_limits;
use super::super::state::retention::{Limits, WhenFull};
use super::FileSink;
use super::disk::{OsDisk, io_error};
use super::log::{Log, Settings};
use crate::error::ConfigError;

/// Builds a [`FileSink`].
///
/// The defaults are in the table of the [module page](crate::dead_letter).
#[derive(Clone)]
#[must_use = "a builder does nothing until `open`"]
pub struct FileSinkBuilder {
    folder: PathBuf,
    settings: Settings,
    max_waiting: usize,
}

crate::debug::debug_settings!(FileSinkBuilder { folder, settings; max_waiting });

impl FileSink {
    /// Returns a builder of a sink in this folder, which is created if it does not exist. The folder must have no
    /// other use.
    pub fn builder(folder: impl Into<PathBuf>) -> FileSinkBuilder {
        FileSinkBuilder {
            folder: folder.into(),
            settings: Settings {
                limits: Limits {
                    max_letters: 1_000_000,
                    max_bytes: 1 << 30,
                    max_age: Duration::MAX,
                    when_full: WhenFull::Reject,
                },
                segment_bytes: 8 << 20,
                fill_bytes: 256 << 10,
                reserve_bytes: 256 << 10,
                sync: true,
            },
            max_waiting: 1 << 16,
        }
    }
}

impl FileSinkBuilder {
    /// Sets the largest number of letters. Each takes about 100 bytes of memory, and the
    /// error text of its last replay.
    pub const fn max_letters(mut self, letters: u64) -> Self {
        self.settings.limits.max_letters = letters;
        self
    }

    /// Sets the largest total size of the letters, in bytes. The files may take up to twice that plus one segment,
    /// because a segment is rewritten only when more than half of it is deleted letters.
    pub const fn max_bytes(mut self, bytes: u64) -> Self {
        self.settings.limits.max_bytes = bytes;
        self
    }

    /// Sets the largest age of a letter. Older letters are not returned, and are evicted when the next one is stored.
    pub const fn max_age(mut self, age: Duration) -> Self {
        self.settings.limits.max_age = age;
        self
    }

    /// Sets the behavior of a full queue. Default: [`WhenFull::Reject`].
    pub const fn when_full(mut self, when_full: WhenFull) -> Self {
        self.settings.limits.when_full = when_full;
        self
    }

    /// Sets the length at which a new segment file is begun, in bytes. Smaller files free space earlier.
    pub const fn segment_bytes(mut self, bytes: u64) -> Self {
        self.settings.segment_bytes = bytes;
        self
    }

    /// Sets whether a letter counts as stored only once it survives a power loss. With `false`, it survives only the
    /// end of the process, and needs no `fsync`.
    pub const fn fsync(mut self, fsync: bool) -> Self {
        self.settings.sync = fsync;
        self
    }

    /// Sets the largest number of letters that wait to be written. Further ones are rejected.
    pub const fn max_waiting(mut self, waiting: usize) -> Self {
        self.max_waiting = waiting;
        self
    }

    /// Opens the folder: reads its letters and starts the writer thread.
    ///
    /// Blocks until all letters have been read, about a second per gigabyte: call it at program start, or in
    /// `spawn_blocking`.
    ///
    /// # Errors
    ///
    /// [`DeadLetterErrorKind::Config`] when a setting is invalid,
    /// [`Locked`](DeadLetterErrorKind::Locked) when another sink has the folder open,
    /// [`Version`](DeadLetterErrorKind::Version) when a later version of this crate has written to it,
    /// and [`Io`](DeadLetterErrorKind::Io) or [`StorageFull`](DeadLetterErrorKind::StorageFull) when the
    /// system fails.
    pub fn open(self) -> Result<FileSink, DeadLetterError> {
        self.check()?;
        let lock = self.lock_folder()?;
        let log = Log::open(OsDisk::new(self.folder), self.settings)?;
        FileSink::start(log, self.max_waiting, lock)
    }

    fn check(&self) -> Result<(), ConfigError> {
        check_limits(&self.settings.limits)?;
        let error = |setting| ConfigError::new("dead_letter", setting, "must be at least 1");
        if self.settings.segment_bytes == 0 {
            return Err(error("segment_bytes"));
        }
        if self.max_waiting == 0 {
            return Err(error("max_waiting"));
        }
        Ok(())
    }

    /// Locks the folder for this sink. The operating system releases the lock when the process ends.
    fn lock_folder(&self) -> Result<FolderLock, DeadLetterError> {
        let path = self.folder.join("lock");
        let shown = self.folder.display();
        let failed = |error| io_error(&format!("open the folder {shown}"), error);
        let mut folder = fs::DirBuilder::new();
        let mut file = OpenOptions::new();
        file.write(true).create(true).truncate(false);
        // Only this user may read letters, because they contain requests.
        #[cfg(unix)]
        {
            use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
            folder.mode(0o700);
            file.mode(0o600);
        }
        folder
            .recursive(true)
            .create(&self.folder)
            .map_err(failed)?;
        let file = file.open(path).map_err(failed)?;
        match fs4::FileExt::try_lock(&file) {
            Ok(()) => Ok(FolderLock(file)),
            Err(fs4::TryLockError::WouldBlock) => {
                Err(DeadLetterError::new(DeadLetterErrorKind::Locked).during(shown.to_string()))
            }
            Err(fs4::TryLockError::Error(error)) => Err(failed(error)),
        }
    }
}

/// The lock of a folder. Dropping it unlocks the folder.
#[derive(Debug)]
struct FolderLock(fs::File);

impl Drop for FolderLock {
    fn drop(&mut self) {
        // Closing the file does not suffice: a child process has a copy of it from its fork to its exec.
        let _ = fs4::FileExt::unlock(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_unlocked_though_a_child_has_a_copy_of_its_lock() {
        let name = format!("backstop-lock-{}", std::process::id());
        let folder = std::env::temp_dir().join(name);
        let builder = FileSink::builder(&folder);
        let lock = builder.lock_folder().unwrap();
        let copy = lock.0.try_clone().unwrap();
        let second = builder.lock_folder().map(drop).unwrap_err();
        assert_eq!(second.kind(), DeadLetterErrorKind::Locked);
        drop(lock);
        let again = builder.lock_folder().map(drop);
        drop(copy);
        fs::remove_dir_all(&folder).unwrap();
        assert!(again.is_ok(), "{again:?}");
    }
}
