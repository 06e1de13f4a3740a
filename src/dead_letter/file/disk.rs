//! The files of one folder.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::PathBuf;

use super::super::error::{DeadLetterError, DeadLetterErrorKind};

/// File operations of the log. A trait, so that tests can inject faults and lose what was not synced.
pub(super) trait Disk: Send + 'static {
    /// Returns the names of the files and their lengths in bytes.
    fn list(&mut self) -> io::Result<Vec<(String, u64)>>;
    /// Returns the length of a file in bytes; zero if it does not exist.
    fn length(&mut self, name: &str) -> io::Result<u64>;
    fn read(&mut self, name: &str) -> io::Result<Vec<u8>>;
    fn read_at(&mut self, name: &str, offset: u64, length: usize) -> io::Result<Vec<u8>>;
    /// Appends to a file, which is created if it does not exist. After an error, any part may have been written.
    fn append(&mut self, name: &str, bytes: &[u8]) -> io::Result<()>;
    /// Writes at an offset, possibly beyond the end. After an error, any part may have been written.
    fn write_at(&mut self, name: &str, offset: u64, bytes: &[u8]) -> io::Result<()>;
    fn truncate(&mut self, name: &str, length: u64) -> io::Result<()>;
    /// Syncs the content of a file.
    fn sync(&mut self, name: &str) -> io::Result<()>;
    /// Syncs the folder: created, renamed, and removed names.
    fn sync_names(&mut self) -> io::Result<()>;
    fn rename(&mut self, from: &str, to: &str) -> io::Result<()>;
    fn remove(&mut self, name: &str) -> io::Result<()>;
}

/// Returns whether an operation failed because there is no space.
pub(super) fn is_full<T>(result: &io::Result<T>) -> bool {
    use io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
    let kind = result.as_ref().err().map(io::Error::kind);
    matches!(kind, Some(StorageFull | QuotaExceeded | FileTooLarge))
}

/// Returns an I/O error with the action that failed.
pub(super) fn io_error(action: &str, error: io::Error) -> DeadLetterError {
    let kind = match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => {
            DeadLetterErrorKind::StorageFull
        }
        _ => DeadLetterErrorKind::Io,
    };
    DeadLetterError::new(kind)
        .during(format!("{action}: {error}"))
        .because(error)
}

/// A folder of the operating system.
#[derive(Debug)]
pub(super) struct OsDisk {
    folder: PathBuf,
    /// Open files: the active segment, and those that were read recently.
    open: HashMap<String, File>,
}

impl OsDisk {
    const MAX_OPEN: usize = 16;

    pub(super) fn new(folder: PathBuf) -> Self {
        Self {
            folder,
            open: HashMap::new(),
        }
    }

    fn file(&mut self, name: &str, create: bool) -> io::Result<&mut File> {
        if !self.open.contains_key(name) {
            if self.open.len() >= Self::MAX_OPEN {
                self.open.clear();
            }
            let mut options = OpenOptions::new();
            options.read(true).write(true).create(create);
            #[cfg(unix)]
            std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
            let file = options.open(self.folder.join(name))?;
            self.open.insert(name.to_owned(), file);
        }
        let file = self.open.get_mut(name);
        file.ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    /// Returns a file to write to. Another process may have removed it: what is written to it then would be lost. It
    /// stays open for reads, unless it is created again.
    fn file_to_write(&mut self, name: &str, create: bool) -> io::Result<&mut File> {
        #[cfg(unix)]
        {
            use std::os::unix::fs::MetadataExt;
            let is_removed = self.file(name, create)?.metadata()?.nlink() == 0;
            match (is_removed, create) {
                (true, true) => self.open.remove(name),
                (true, false) => return Err(io::ErrorKind::NotFound.into()),
                (false, _) => None,
            };
        }
        self.file(name, create)
    }
}

impl Disk for OsDisk {
    fn list(&mut self) -> io::Result<Vec<(String, u64)>> {
        let mut files = Vec::new();
        for entry in fs::read_dir(&self.folder)? {
            let entry = entry?;
            if let (Ok(name), true) = (
                entry.file_name().into_string(),
                entry.file_type()?.is_file(),
            ) {
                files.push((name, entry.metadata()?.len()));
            }
        }
        Ok(files)
    }

    fn length(&mut self, name: &str) -> io::Result<u64> {
        match fs::metadata(self.folder.join(name)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(0),
            found => Ok(found?.len()),
        }
    }

    fn read(&mut self, name: &str) -> io::Result<Vec<u8>> {
        fs::read(self.folder.join(name))
    }

    fn read_at(&mut self, name: &str, offset: u64, length: usize) -> io::Result<Vec<u8>> {
        let file = self.file(name, false)?;
        file.seek(SeekFrom::Start(offset))?;
        let mut bytes = vec![0; length];
        file.read_exact(&mut bytes)?;
        Ok(bytes)
    }

    fn append(&mut self, name: &str, bytes: &[u8]) -> io::Result<()> {
        // No other process writes: the folder is locked.
        let file = self.file_to_write(name, true)?;
        file.seek(SeekFrom::End(0))?;
        file.write_all(bytes)
    }

    fn write_at(&mut self, name: &str, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let file = self.file_to_write(name, false)?;
        file.seek(SeekFrom::Start(offset))?;
        file.write_all(bytes)
    }

    fn truncate(&mut self, name: &str, length: u64) -> io::Result<()> {
        self.file(name, false)?.set_len(length)
    }

    fn sync(&mut self, name: &str) -> io::Result<()> {
        self.file(name, false)?.sync_data()
    }

    fn sync_names(&mut self) -> io::Result<()> {
        // Other systems cannot open a folder, and need no sync of names.
        #[cfg(unix)]
        File::open(&self.folder)?.sync_all()?;
        Ok(())
    }

    fn rename(&mut self, from: &str, to: &str) -> io::Result<()> {
        self.open.remove(from);
        self.open.remove(to);
        fs::rename(self.folder.join(from), self.folder.join(to))
    }

    fn remove(&mut self, name: &str) -> io::Result<()> {
        self.open.remove(name);
        fs::remove_file(self.folder.join(name))
    }
}
