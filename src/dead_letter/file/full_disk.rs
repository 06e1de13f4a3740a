//! Changes on a full disk, so that letters can still be removed and their files deleted.
//!
//! First the reserve is used, also to rewrite a file of few letters. Then the lines of removed letters are overwritten in
//! place, which takes no space on most file systems.

use std::io;

use super::super::state::letter::LetterId;
use super::super::state::record::{self, is_intact};
use super::disk::{Disk, is_full};
use super::log::{DAMAGED, Lines, Log, RESERVE, letters_name};

impl<D: Disk> Log<D> {
    /// Deletes the reserve. Returns whether that may have freed space.
    pub(super) fn use_reserve(&mut self) -> bool {
        self.reserve = 0;
        self.settings.reserve_bytes > 0 && self.disk.remove(RESERVE).is_ok()
    }

    /// Fills the reserve as far as the disk has room.
    pub(super) fn fill_reserve(&mut self) {
        // In small steps, so that the last free bytes are used, too.
        const STEP: u64 = 4096;
        // A folder without letters needs none.
        if self.segments.active().is_none() {
            return;
        }
        // An append that failed may have left a part of the first step.
        if self.reserve == 0 && self.settings.reserve_bytes > 0 && self.remove(RESERVE).is_err() {
            return;
        }
        while self.reserve < self.settings.reserve_bytes {
            let step = STEP.min(self.settings.reserve_bytes - self.reserve);
            let bytes = vec![b'\n'; step as usize];
            let written = match self.reserve {
                0 => self.disk.append(RESERVE, &bytes),
                end => self.disk.write_at(RESERVE, end, &bytes),
            };
            if written.is_err() {
                break;
            }
            self.reserve += step;
        }
    }

    /// Removes what a failed append left of its last line, so that it does not count as damage.
    pub(super) fn cut_partial_line(&mut self, name: &str) -> io::Result<()> {
        let bytes = self.disk.read(name)?;
        let end = bytes.iter().rposition(|byte| *byte == b'\n');
        let end = end.map_or(0, |at| at + 1);
        self.disk.truncate(name, end as u64)
    }

    /// Copies damaged bytes to a file of their own, if necessary with the space of the reserve.
    pub(super) fn keep_damaged(&mut self, bytes: &[u8]) -> io::Result<()> {
        let mut kept = self.append_damaged(bytes);
        if is_full(&kept) && self.use_reserve() {
            kept = self.append_damaged(bytes);
        }
        kept
    }

    fn append_damaged(&mut self, bytes: &[u8]) -> io::Result<()> {
        let before = self.disk.length(DAMAGED)?;
        let written = self.disk.append(DAMAGED, bytes);
        let written = written.and_then(|()| self.disk.sync(DAMAGED));
        // Synced regardless of the settings: without its name, the copy would be lost with the original.
        let written = written.and_then(|()| self.disk.sync_names());
        if written.is_err() {
            // Otherwise each attempt would add a part.
            let _ = self.disk.truncate(DAMAGED, before);
        }
        written
    }

    /// Overwrites the lines of removed letters, and syncs that. Each keeps the next number, because the last line of a
    /// log may be among them.
    pub(super) fn overwrite(&mut self, segment: u64, lines: &Lines) -> io::Result<()> {
        let name = letters_name(segment);
        for (offset, bytes) in &lines.removed {
            let mut line = record::header(self.next_id);
            line.resize(usize::try_from(*bytes).unwrap_or(0), b'\n');
            self.disk.write_at(&name, *offset, &line)?;
        }
        if self.settings.sync && lines.must_sync && !lines.removed.is_empty() {
            self.disk.sync(&name)?;
        }
        Ok(())
    }

    /// Returns whether the line of a letter is as it was written.
    pub(super) fn is_readable(&mut self, id: LetterId) -> bool {
        let Some(entry) = self.book.get(id) else {
            return false;
        };
        let (place, length) = (entry.place, usize::try_from(entry.bytes - 1));
        let name = letters_name(place.segment);
        let line = self.disk.read_at(&name, place.offset, length.unwrap_or(0));
        line.is_ok_and(|line| is_intact(&line))
    }

    /// Truncates the active segment if its letters are gone, to make room for the next one. Returns whether it did.
    pub(super) fn empty_active(&mut self) -> bool {
        let Some((number, segment)) = self.segments.active() else {
            return false;
        };
        if segment.letters > 0 || segment.damaged {
            return false;
        }
        self.torn = true;
        let emptied = self.empty(&letters_name(number));
        if let Ok(length) = emptied {
            self.segments.update(number, |segment| {
                (segment.length, segment.allocated) = (length, length);
            });
        }
        emptied.is_ok()
    }

    /// Truncates a segment to its first line and one with the next number, which is written before: a process that ends
    /// in between must not use numbers again. Returns the length of both.
    fn empty(&mut self, name: &str) -> io::Result<u64> {
        let bytes = self.disk.read(name)?;
        let first = bytes.iter().position(|byte| *byte == b'\n');
        let first = first.map_or(0, |at| at + 1);
        let mut next = record::header(self.next_id);
        let end = first + next.len();
        if end >= bytes.len() {
            return Err(io::ErrorKind::StorageFull.into());
        }
        // Up to the end of the line there, so that the rest of it is not damage.
        let rest = bytes[end..].iter().position(|byte| *byte == b'\n');
        next.resize(next.len() + rest.unwrap_or(0), b'\n');
        self.disk.write_at(name, first as u64, &next)?;
        if self.settings.sync {
            self.disk.sync(name)?;
        }
        self.disk.truncate(name, end as u64)?;
        Ok(end as u64)
    }
}
