//! The files of one folder.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::PathBuf;

/// The operations that the log needs. A trait so that tests can fail each of them, and take away what
/// was not made safe.
pub(super) trait Disk: Send + 'static {
    /// The names and lengths of the files.
    fn list(&mut self) -> io::Result<Vec<(String, u64)>>;
    fn read(&mut self, name: &str) -> io::Result<Vec<u8>>;
    fn read_at(&mut self, name: &str, offset: u64, length: usize) -> io::Result<Vec<u8>>;
    /// Adds to the end of a file, which is created if need be. After an error any part may be there.
    fn append(&mut self, name: &str, bytes: &[u8]) -> io::Result<()>;
    fn truncate(&mut self, name: &str, length: u64) -> io::Result<()>;
    /// Makes the content of a file safe.
    fn sync(&mut self, name: &str) -> io::Result<()>;
    /// Makes created, renamed and removed names safe.
    fn sync_names(&mut self) -> io::Result<()>;
    fn rename(&mut self, from: &str, to: &str) -> io::Result<()>;
    fn remove(&mut self, name: &str) -> io::Result<()>;
}

/// A folder of the operating system.
#[derive(Debug)]
pub(super) struct OsDisk {
    folder: PathBuf,
    /// Open files. Few: the segment that is written to, and those that letters were read from.
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
            options.read(true).append(true).create(create);
            #[cfg(unix)]
            std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
            let file = options.open(self.folder.join(name))?;
            self.open.insert(name.to_owned(), file);
        }
        let file = self.open.get_mut(name);
        file.ok_or_else(|| io::ErrorKind::NotFound.into())
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
        self.file(name, true)?.write_all(bytes)
    }

    fn truncate(&mut self, name: &str, length: u64) -> io::Result<()> {
        self.file(name, false)?.set_len(length)
    }

    fn sync(&mut self, name: &str) -> io::Result<()> {
        self.file(name, false)?.sync_data()
    }

    fn sync_names(&mut self) -> io::Result<()> {
        // Other systems cannot open a folder, and need not.
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
