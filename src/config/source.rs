//! The file of a registry.

use std::error::Error as StdError;
use std::fs::{self, File};
use std::hash::{DefaultHasher, Hasher};
use std::io::{self, ErrorKind, Read};
use std::path::PathBuf;

use super::error::LoadError;
use super::fingerprint::{Fingerprint, status_time};
use super::value::Value;

/// The longest file that is read.
const MAX_BYTES: u64 = 16 << 20;

type Parse = dyn Fn(&str) -> Result<Value, Box<dyn StdError + Send + Sync>> + Send + Sync;

/// A file and its format.
pub(super) struct Source {
    path: PathBuf,
    parse: Box<Parse>,
}

impl Source {
    pub(super) fn new<E: Into<Box<dyn StdError + Send + Sync>>>(
        path: PathBuf,
        parse: impl Fn(&str) -> Result<Value, E> + Send + Sync + 'static,
    ) -> Self {
        Self {
            path,
            parse: Box::new(move |text| parse(text).map_err(Into::into)),
        }
    }

    pub(super) fn fingerprint(&self) -> Fingerprint {
        Fingerprint::of(&self.path)
    }

    pub(super) fn status_time(&self) -> Option<(i64, i64)> {
        status_time(&self.path)
    }

    /// Reads the text of the file. A device, a pipe, and a file without an end are errors, because reading them may not
    /// end.
    pub(super) fn read(&self) -> io::Result<String> {
        // Checked before the file is opened: opening a pipe waits for its writer.
        let metadata = fs::metadata(&self.path)?;
        if !metadata.is_file() {
            let error = "must be a regular file";
            return Err(io::Error::new(ErrorKind::InvalidInput, error));
        }
        let mut bytes = Vec::new();
        if metadata.len() <= MAX_BYTES {
            let file = File::open(&self.path)?;
            file.take(MAX_BYTES + 1).read_to_end(&mut bytes)?;
        }
        if metadata.len().max(bytes.len() as u64) > MAX_BYTES {
            let error = "must not be longer than 16 MiB";
            return Err(io::Error::new(ErrorKind::FileTooLarge, error));
        }
        String::from_utf8(bytes).map_err(|error| io::Error::new(ErrorKind::InvalidData, error))
    }

    pub(super) fn parse(&self, text: &str) -> Result<Value, LoadError> {
        // Not every parser skips a byte order mark.
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        (self.parse)(text).map_err(LoadError::Parse)
    }

    /// Returns an error with the path.
    pub(super) fn named(&self, error: &io::Error) -> io::Error {
        let text = format!("{}: {error}", self.path.display());
        io::Error::new(error.kind(), text)
    }
}

/// A file as it was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) fingerprint: Fingerprint,
    /// Hash of the text.
    text: u64,
}

impl Seen {
    pub(super) fn new(fingerprint: Fingerprint, text: &str) -> Self {
        let mut hasher = DefaultHasher::new();
        hasher.write(text.as_bytes());
        Self {
            fingerprint,
            text: hasher.finish(),
        }
    }
}

/// How often a file that changes while it is read is read.
const MOST_CHANGES: u32 = 100;

/// Repeats `read`, which returns `None` if the file changed meanwhile. `None` if it changed each time.
pub(super) fn until_at_rest<T>(mut read: impl FnMut() -> Option<T>) -> Option<T> {
    (0..MOST_CHANGES).find_map(|_| read())
}

/// Decides when to read a file once more that has the fingerprint with which it was read: a second later, because a
/// change of equal size within one tick of the file system's clock does not change the fingerprint, and after each change
/// of its status, because programs can restore the modification time.
#[derive(Debug, Default)]
pub(super) struct SecondLook {
    /// The file, and whether it was read once more.
    last: Option<(Seen, bool)>,
    status: Option<(i64, i64)>,
}

impl SecondLook {
    /// Returns whether to read the file, at a check a second after the one before. `status` is the time of the last
    /// change of its status.
    pub(super) fn is_due(&mut self, seen: Seen, status: Option<(i64, i64)>) -> bool {
        let is_changed = std::mem::replace(&mut self.status, status) != status;
        match &mut self.last {
            Some((last, is_done)) if *last == seen => {
                !std::mem::replace(is_done, true) || is_changed
            }
            _ => {
                self.last = Some((seen, false));
                false
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_text_has_one_second_look() {
        let (one, other) = (Fingerprint::Missing, Fingerprint::Missing);
        let (one, other) = (Seen::new(one, "a"), Seen::new(other, "b"));
        let mut look = SecondLook::default();
        let due = [one, one, one, other, other, one].map(|seen| look.is_due(seen, None));
        assert_eq!(due, [false, true, false, false, true, false]);
    }

    #[test]
    fn each_change_of_the_status_has_a_look() {
        let seen = Seen::new(Fingerprint::Missing, "a");
        let mut look = SecondLook::default();
        let times = [1, 1, 1, 2, 2, 3, 3];
        let due = times.map(|time| look.is_due(seen, Some((time, 0))));
        assert_eq!(due, [false, true, false, true, false, true, false]);
    }

    #[test]
    fn a_file_that_changes_all_the_time_is_given_up() {
        let mut reads = 0;
        let read = until_at_rest(|| {
            reads += 1;
            None::<()>
        });
        assert_eq!((read, reads), (None, MOST_CHANGES));
        let mut changes = [None, None, Some(3)].into_iter();
        assert_eq!(until_at_rest(|| changes.next().flatten()), Some(3));
    }
}
