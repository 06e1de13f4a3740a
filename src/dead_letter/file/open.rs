//! Opens a log: reads its files, and repairs them after a crash.

use std::collections::BTreeMap;
use std::io;

use super::super::error::{DeadLetterError, DeadLetterErrorKind};
use super::super::state::book::{Book, Entry};
use super::super::state::letter::{LetterId, Standing};
use super::super::state::record::{self, Head, State, Unusable};
use super::super::state::scan::{Scan, scan};
use super::super::state::segments::{Segment, Segments};
use super::disk::{Disk, io_error, is_full};
use super::log::{Log, Place, RESERVE, Settings, TEMPORARY, changes_name, letters_name};
use crate::event::LetterEvent;

impl<D: Disk> Log<D> {
    pub(super) fn open(disk: D, settings: Settings) -> Result<Self, DeadLetterError> {
        let mut log = Self {
            disk,
            settings,
            book: Book::new(settings.limits),
            segments: Segments::default(),
            next_id: LetterId::new(1),
            events: Vec::new(),
            torn: false,
            reserve: 0,
        };
        let files = log
            .disk
            .list()
            .map_err(|e| io_error("list the folder", e))?;
        let files: BTreeMap<_, _> = files.into_iter().collect();
        log.reserve = files.get(RESERVE).copied().unwrap_or(0);
        let mut numbers: Vec<_> = files
            .keys()
            .filter_map(|name| number("letters-", name))
            .collect();
        numbers.sort_unstable();
        let mut repairs = Vec::new();
        for &segment in &numbers {
            repairs.extend(log.read_letters(segment)?);
        }
        for name in files.keys() {
            match number("changes-", name) {
                Some(segment) if log.segments.get(segment).is_some() => {
                    repairs.extend(log.read_changes(segment)?);
                }
                // Left by a crash after the letters were deleted and before their changes were.
                Some(_) => repairs.push(Repair::Remove(name.clone())),
                None if name == TEMPORARY => repairs.push(Repair::Remove(name.clone())),
                None => {}
            }
        }
        // Nothing changes before all files are read, so that those of a later version are left as they are.
        for repair in repairs {
            log.repair(repair)?;
        }
        let evicted = log.book.overflow();
        log.evict(evicted);
        log.tidy();
        Ok(log)
    }

    fn read_letters(&mut self, segment: u64) -> Result<Option<Repair>, DeadLetterError> {
        let name = letters_name(segment);
        let (bytes, mut found) = self.read_lines(&name)?;
        let length = found.whole as u64;
        self.segments.add(
            segment,
            Segment {
                length,
                allocated: length,
                ..Segment::default()
            },
        );
        for range in std::mem::take(&mut found.intact) {
            match record::head(&bytes[range.clone()]) {
                Ok(Head::Header { next_id }) => self.next_id = self.next_id.max(next_id),
                Ok(Head::Letter { id, stored_at }) => {
                    let entry = Entry {
                        place: Place {
                            segment,
                            offset: range.start as u64,
                        },
                        bytes: range.len() as u64 + 1,
                        stored_at,
                        standing: Standing::default(),
                    };
                    self.segments.keep(segment, entry.bytes);
                    if let Some(old) = self.book.insert(id, entry) {
                        self.segments.forget(old.place.segment, old.bytes);
                    }
                    self.skip_id(id);
                }
                Err(Unusable::Version(version)) => return Err(later_version(&name, version)),
                Err(Unusable::Unknown) => found.damaged.push(range),
            }
        }
        let damaged = !found.damaged.is_empty();
        self.segments
            .update(segment, |segment| segment.damaged = damaged);
        self.report_damage(&found);
        Ok(Repair::of(name, &bytes, &found))
    }

    /// Uses no number up to this one for another letter.
    fn skip_id(&mut self, id: LetterId) {
        let next = LetterId::new(id.get().saturating_add(1));
        self.next_id = self.next_id.max(next);
    }

    fn read_changes(&mut self, segment: u64) -> Result<Option<Repair>, DeadLetterError> {
        let name = changes_name(segment);
        let (bytes, mut found) = self.read_lines(&name)?;
        let mut states = BTreeMap::new();
        for range in std::mem::take(&mut found.intact) {
            match record::read_change(&bytes[range.clone()]) {
                Ok((id, state)) => {
                    // The letter may be damaged. A new letter of its number would meet the same end.
                    self.skip_id(id);
                    let here = |entry: &Entry<Place>| entry.place.segment == segment;
                    if self.book.get(id).is_some_and(here) {
                        states.insert(id, state);
                    }
                }
                Err(Unusable::Version(version)) => return Err(later_version(&name, version)),
                Err(Unusable::Unknown) => found.damaged.push(range),
            }
        }
        // Only now, because a removal that failed may have left its line before that of a later change.
        for (id, state) in states {
            match state {
                State::Kept(standing) => self.book.set_standing(id, standing),
                State::Gone(_) => {
                    if let Some(entry) = self.book.remove(id) {
                        self.segments.forget(segment, entry.bytes);
                    }
                }
            }
        }
        self.report_damage(&found);
        Ok(Repair::of(name, &bytes, &found))
    }

    fn read_lines(&mut self, name: &str) -> Result<(Vec<u8>, Scan), DeadLetterError> {
        let bytes = self.disk.read(name);
        let bytes = bytes.map_err(|e| io_error(&format!("read {name}"), e))?;
        let found = scan(&bytes);
        if !found.torn.is_empty() {
            self.events.push(LetterEvent::TornTail {
                bytes: found.torn.len() as u64,
            });
        }
        Ok((bytes, found))
    }

    fn repair(&mut self, repair: Repair) -> Result<(), DeadLetterError> {
        match repair {
            Repair::Remove(name) => {
                let removed = self.disk.remove(&name);
                removed.map_err(|e| io_error(&format!("remove {name}"), e))
            }
            Repair::Truncate {
                name,
                length,
                rescued,
            } => {
                let failed = |error| io_error(&format!("cut off the torn end of {name}"), error);
                if !rescued.is_empty() {
                    let mut kept = self.keep_damaged(&rescued);
                    if is_full(&kept) {
                        // The padding takes space. One byte of it stays: without it, the end would be a torn write.
                        let end = length + rescued.len() as u64;
                        self.disk.truncate(&name, end + 1).map_err(failed)?;
                        kept = self.keep_damaged(&rescued);
                        if is_full(&kept) {
                            self.leave_torn(&name, end);
                            return Ok(());
                        }
                    }
                    kept.map_err(failed)?;
                }
                self.disk.truncate(&name, length).map_err(failed)
            }
        }
    }

    /// Leaves a torn write in its file as damaged lines, because there is no space for a copy. One byte of padding
    /// follows.
    fn leave_torn(&mut self, name: &str, end: u64) {
        self.events.push(LetterEvent::MaintenanceFailed {
            error: io::ErrorKind::StorageFull,
        });
        // A change log is appended to, and deleted with its letters.
        if let Some(segment) = number("letters-", name) {
            self.segments.update(segment, |segment| {
                (segment.length, segment.allocated) = (end, end + 1);
                segment.damaged = true;
            });
        }
    }

    fn report_damage(&mut self, found: &Scan) {
        if !found.damaged.is_empty() {
            self.events.push(LetterEvent::Damaged {
                lines: found.damaged.len() as u64,
            });
        }
    }
}

/// A change of a file after a crash.
enum Repair {
    /// Removes a file that a crash has left behind.
    Remove(String),
    /// Truncates the padding, and a torn write, which was never acknowledged.
    Truncate {
        name: String,
        length: u64,
        /// Bytes to keep in another file.
        rescued: Vec<u8>,
    },
}

impl Repair {
    /// Returns the repair of a file with this content, if it needs one.
    fn of(name: String, bytes: &[u8], found: &Scan) -> Option<Self> {
        // Almost always a torn write. A damaged record at the end looks the same, so it is kept.
        let is_rescued = found.torn.end < bytes.len() && !found.torn.is_empty();
        let rescued = is_rescued.then(|| bytes[found.torn.start..=found.torn.end].to_vec());
        (found.whole < bytes.len()).then(|| Self::Truncate {
            name,
            length: found.whole as u64,
            rescued: rescued.unwrap_or_default(),
        })
    }
}

fn later_version(name: &str, version: u32) -> DeadLetterError {
    DeadLetterError::new(DeadLetterErrorKind::Version).during(format!(
        "{name} is of version {version}, known is {}",
        record::VERSION
    ))
}

/// Returns the number in the name of a file.
fn number(prefix: &str, name: &str) -> Option<u64> {
    let digits = name.strip_prefix(prefix)?.strip_suffix(".jsonl")?;
    let number = digits.parse().ok()?;
    // Accepts only names in our format: `letters-1.jsonl` is a foreign file.
    (format!("{number:08}") == digits).then_some(number)
}
