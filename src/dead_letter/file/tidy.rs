//! Deletes segments without letters, and rewrites those that are mostly removed letters.

use std::io;
use std::ops::Range;

use super::super::state::letter::Standing;
use super::super::state::record::{self, State};
use super::super::state::scan::scan;
use super::disk::{Disk, is_full};
use super::log::{Log, TEMPORARY, changes_name, letters_name};
use crate::event::LetterEvent;

impl<D: Disk> Log<D> {
    /// Deletes segments without letters, and rewrites one that is mostly deleted letters.
    pub(super) fn tidy(&mut self) {
        let deleted = self.delete_finished();
        let rewritten = self.rewrite_wasteful();
        if let Err(error) = deleted.and(rewritten) {
            self.events.push(LetterEvent::MaintenanceFailed {
                error: error.kind(),
            });
        }
        self.fill_reserve();
    }

    /// Deletes all segments without letters that it can. Returns the first error.
    fn delete_finished(&mut self) -> io::Result<()> {
        let mut result = Ok(());
        for number in self.segments.finished() {
            result = result.and(self.delete(number));
        }
        result
    }

    fn delete(&mut self, number: u64) -> io::Result<()> {
        let rescued = self.rescue_damaged(number);
        if rescued.is_err() {
            // It reads the whole file and uses the reserve.
            self.segments.failed(number);
        }
        rescued?;
        // Synced first: without the changes, deleted letters would come back.
        self.remove(&letters_name(number))?;
        if self.settings.sync {
            self.disk.sync_names()?;
        }
        self.remove(&changes_name(number))?;
        self.segments.remove(number);
        self.segments.try_again();
        Ok(())
    }

    pub(super) fn remove(&mut self, name: &str) -> io::Result<()> {
        match self.disk.remove(name) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    fn rewrite_wasteful(&mut self) -> io::Result<()> {
        let Some(number) = self.segments.wasteful() else {
            return Ok(());
        };
        let rewritten = self.rewrite(number);
        match rewritten {
            Ok(()) => self.segments.try_again(),
            // The next call tries another one.
            Err(_) => self.segments.failed(number),
        }
        rewritten
    }

    fn rewrite(&mut self, number: u64) -> io::Result<()> {
        self.rescue_damaged(number)?;
        let old = self.disk.read(&letters_name(number))?;
        let mut letters = record::header(self.next_id);
        let mut changes = Vec::new();
        let mut moved = Vec::new();
        for (id, entry) in self.book.all() {
            if entry.place.segment != number {
                continue;
            }
            let begin = entry.place.offset as usize;
            let line = old.get(begin..begin + entry.bytes as usize);
            let line = line.ok_or(io::ErrorKind::UnexpectedEof)?;
            moved.push((id, letters.len() as u64));
            letters.extend_from_slice(line);
            if entry.standing != Standing::default() {
                changes.extend(record::change(id, &State::Kept(entry.standing.clone())));
            }
        }
        let mut replaced = self.replace(&letters_name(number), &letters);
        // The reserve is filled again with the space of the old file.
        if is_full(&replaced) && letters.len() as u64 <= self.reserve && self.use_reserve() {
            replaced = self.replace(&letters_name(number), &letters);
        }
        replaced?;
        // The rename has succeeded: from here on, offsets refer to the new file.
        for (id, offset) in moved {
            if let Some(place) = self.book.place_mut(id) {
                place.offset = offset;
            }
        }
        let length = letters.len() as u64;
        self.segments
            .update(number, |segment| segment.length = length);
        // Synced before the old changes are deleted: without them, the old letters would come back.
        self.disk.sync_names()?;
        self.replace(&changes_name(number), &changes)?;
        self.segments.update(number, |segment| {
            (segment.named, segment.ragged) = (false, false);
        });
        Ok(())
    }

    /// Replaces the content of a file atomically.
    fn replace(&mut self, name: &str, bytes: &[u8]) -> io::Result<()> {
        self.remove(TEMPORARY)?;
        let written = self.disk.append(TEMPORARY, bytes);
        // Synced regardless of the settings, because a file system may reorder the rename before the write.
        let written = written.and_then(|()| self.disk.sync(TEMPORARY));
        let replaced = written.and_then(|()| self.disk.rename(TEMPORARY, name));
        if replaced.is_err() {
            // On a full disk it takes the space that changes need.
            let _ = self.remove(TEMPORARY);
        }
        replaced
    }

    /// Copies the damaged lines of a segment that is about to be deleted or rewritten.
    fn rescue_damaged(&mut self, number: u64) -> io::Result<()> {
        let segment = self.segments.get(number).unwrap_or_default();
        if !segment.damaged {
            return Ok(());
        }
        let mut bytes = self.disk.read(&letters_name(number))?;
        // Padding may follow, after which a damaged line would look like a torn write.
        bytes.truncate(usize::try_from(segment.length).unwrap_or(usize::MAX));
        let found = scan(&bytes);
        let mut damaged = found.damaged;
        let is_unusable = |range: &Range<usize>| record::head(&bytes[range.clone()]).is_err();
        damaged.extend(found.intact.into_iter().filter(is_unusable));
        damaged.sort_unstable_by_key(|range| range.start);
        let mut lines = Vec::new();
        for range in damaged {
            lines.extend_from_slice(&bytes[range]);
            lines.push(b'\n');
        }
        self.keep_damaged(&lines)?;
        self.segments
            .update(number, |segment| segment.damaged = false);
        Ok(())
    }
}
