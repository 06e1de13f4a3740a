//! Changes on a full disk, so that letters can still be removed and their files deleted.
//!
//! First the reserve is used. Then the lines of removed letters are overwritten in place, which takes no space on most
//! file systems.

use std::io;

use super::super::state::letter::LetterId;
use super::disk::Disk;
use super::log::{Log, RESERVE, letters_name};

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

    /// Overwrites the lines of letters with empty ones, and syncs that.
    pub(super) fn overwrite(&mut self, segment: u64, letters: &[LetterId]) -> io::Result<()> {
        let name = letters_name(segment);
        for id in letters {
            if let Some(entry) = self.book.get(*id) {
                let (offset, bytes) = (entry.place.offset, entry.bytes);
                let empty = vec![b'\n'; usize::try_from(bytes).unwrap_or(0)];
                self.disk.write_at(&name, offset, &empty)?;
            }
        }
        if self.settings.sync {
            self.disk.sync(&name)?;
        }
        Ok(())
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
        let truncated = self.disk.truncate(&letters_name(number), 0).is_ok();
        if truncated {
            self.segments.update(number, |segment| {
                (segment.length, segment.allocated) = (0, 0);
            });
        }
        truncated
    }
}
