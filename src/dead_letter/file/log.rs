//! The log: segments of letters, each with a log of the changes to its letters.
//!
//! | file | holds |
//! |---|---|
//! | `letters-00000001.jsonl` | a header, then letters. The segment with the greatest number is written to |
//! | `changes-00000001.jsonl` | the changes to the letters of that segment. The last line about a letter counts |
//! | `damaged.log` | damaged lines of segments that were deleted |
//! | `rewrite.tmp` | a rewrite that was not finished. Deleted when the log is opened |
//! | `reserve.tmp` | space for changes on a full disk. Deleted when it is needed, and filled again when there is room |
//!
//! A segment without letters is deleted together with its changes. A segment of which more than half is deleted
//! letters is rewritten to a new file and renamed. A crash at any point of either leaves a log that opens.

use std::collections::BTreeMap;
use std::io;

use super::super::error::DeadLetterError;
use super::super::state::book::{Book, Changed, Entry, Evicted, Totals};
use super::super::state::letter::{Change, LetterId, Standing};
use super::super::state::record::{self, Gone, State, is_intact};
use super::super::state::retention::Limits;
use super::super::state::segments::{Segment, Segments};
use super::super::state::timestamp::Timestamp;
use super::disk::{Disk, io_error, is_full};
use crate::event::LetterEvent;

/// Position of the line of a letter.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    pub(super) segment: u64,
    pub(super) offset: u64,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Settings {
    pub(super) limits: Limits,
    /// Length in bytes above which a new segment is begun.
    pub(super) segment_bytes: u64,
    /// Files grow by this much at once. `fdatasync` is 2 to 4 times as fast when it overwrites allocated bytes, because
    /// the file system need not write its journal.
    pub(super) fill_bytes: u64,
    /// Length in bytes of the file that is deleted when the disk is full, so that changes can be written.
    pub(super) reserve_bytes: u64,
    /// Whether writes are synced, so that they survive a power loss and not only a process kill.
    pub(super) sync: bool,
}

/// A letter to be written.
#[derive(Clone, Debug)]
pub(super) struct Pending {
    pub(super) id: LetterId,
    pub(super) stored_at: Timestamp,
    pub(super) line: Vec<u8>,
}

pub(super) struct Log<D> {
    pub(super) disk: D,
    pub(super) settings: Settings,
    pub(super) book: Book<Place>,
    pub(super) segments: Segments,
    /// Greater than the number of any letter that was ever written.
    pub(super) next_id: LetterId,
    pub(super) events: Vec<LetterEvent>,
    /// Set after a failed write: the content of the file is unknown, so the next letter begins a new segment.
    pub(super) torn: bool,
    /// Length in bytes of the reserve.
    pub(super) reserve: u64,
}

/// The lines of letters, as they are in the files.
#[derive(Debug, Default)]
pub(super) struct RawPage {
    pub(super) letters: Vec<(LetterId, Standing, Vec<u8>)>,
    pub(super) unreadable: Vec<LetterId>,
    pub(super) next: Option<LetterId>,
}

pub(super) fn letters_name(segment: u64) -> String {
    format!("letters-{segment:08}.jsonl")
}

pub(super) fn changes_name(segment: u64) -> String {
    format!("changes-{segment:08}.jsonl")
}

pub(super) const DAMAGED: &str = "damaged.log";
pub(super) const TEMPORARY: &str = "rewrite.tmp";
pub(super) const RESERVE: &str = "reserve.tmp";

impl<D: Disk> Log<D> {
    pub(super) fn totals(&self) -> Totals {
        self.book.totals()
    }

    /// Returns whether a letter of this many bytes, with those `pending`, is within the limits.
    pub(super) fn has_room(&self, pending: (u64, u64), bytes: u64) -> bool {
        self.book.has_room(pending, bytes)
    }

    /// Evicts the letters that are too old.
    pub(super) fn expire(&mut self, now: Timestamp) {
        let evicted = self.book.expire(now);
        self.evict(evicted);
    }

    /// Writes and syncs letters: all of them, or none.
    pub(super) fn commit(&mut self, letters: &[Pending]) -> io::Result<()> {
        if letters.is_empty() {
            return Ok(());
        }
        let lines: Vec<_> = letters.iter().map(|letter| &*letter.line).collect();
        let bytes = lines.concat();
        let mut written = self.append_letters(&bytes);
        if is_full(&written) && self.empty_active() {
            written = self.append_letters(&bytes);
        }
        let Place {
            segment,
            mut offset,
        } = written?;
        for letter in letters {
            let bytes = letter.line.len() as u64;
            let entry = Entry {
                place: Place { segment, offset },
                bytes,
                stored_at: letter.stored_at,
                standing: Standing::default(),
            };
            self.book.insert(letter.id, entry);
            self.segments.keep(segment, bytes);
            self.next_id = self
                .next_id
                .max(LetterId::new(letter.id.get().saturating_add(1)));
            offset += bytes;
        }
        self.segments
            .update(segment, |segment| segment.length = offset);
        let evicted = self.book.overflow();
        self.evict(evicted);
        Ok(())
    }

    /// Appends lines to the active segment, and syncs them. Returns their position.
    fn append_letters(&mut self, lines: &[u8]) -> io::Result<Place> {
        let segment = self.segment_to_write()?;
        let name = letters_name(segment);
        let offset = self.segments.get(segment).unwrap_or_default().length;
        let mut written = self.write(segment, lines);
        if written.is_ok() && self.settings.sync {
            written = self.disk.sync(&name);
        }
        if let Err(error) = written {
            // After a failed fsync, the kernel may have dropped the dirty pages: nothing after them in this file
            // can be trusted.
            self.torn = true;
            let _ = self.disk.truncate(&name, offset);
            return Err(error);
        }
        Ok(Place { segment, offset })
    }

    /// Appends lines to a segment.
    fn write(&mut self, number: u64, lines: &[u8]) -> io::Result<()> {
        let name = letters_name(number);
        let segment = self.segments.get(number).unwrap_or_default();
        let end = segment.length + lines.len() as u64;
        if end <= segment.allocated {
            return self.disk.write_at(&name, segment.length, lines);
        }
        let step = self.settings.fill_bytes.min(self.settings.segment_bytes);
        let mut allocated = end.checked_next_multiple_of(step.max(1));
        let mut filled = lines.to_vec();
        filled.resize(
            lines.len() + (allocated.unwrap_or(end) - end) as usize,
            b'\n',
        );
        let mut written = self.disk.write_at(&name, segment.length, &filled);
        if written.is_err() && filled.len() > lines.len() {
            // The disk may have room for the lines without the padding.
            self.disk.truncate(&name, segment.length)?;
            allocated = None;
            written = self.disk.write_at(&name, segment.length, lines);
        }
        self.segments.update(number, |segment| {
            segment.allocated = allocated.unwrap_or(end);
        });
        written
    }

    /// Truncates the padding of the active segment.
    pub(super) fn trim(&mut self) {
        let Some((number, segment)) = self.segments.active() else {
            return;
        };
        let name = letters_name(number);
        if !self.torn && segment.allocated > segment.length {
            // If it fails, the next opening of the log trims the file.
            let trimmed = self.disk.truncate(&name, segment.length);
            self.segments.update(number, |segment| {
                if trimmed.is_ok() {
                    segment.allocated = segment.length;
                }
            });
        }
    }

    /// Returns the number of the active segment; begins a new one if necessary.
    fn segment_to_write(&mut self) -> io::Result<u64> {
        let last = self.segments.active();
        if let Some((number, segment)) = last {
            if !self.torn && segment.length < self.settings.segment_bytes {
                return Ok(number);
            }
        }
        self.trim();
        let number = last.map_or(Some(1), |(number, _)| number.checked_add(1));
        let number = number.ok_or_else(|| io::Error::other("no number is left for a file"))?;
        let name = letters_name(number);
        let header = record::header(self.next_id);
        let mut begun = self.begin_file(&name, &header);
        if is_full(&begun) && self.empty_active() {
            begun = self.begin_file(&name, &header);
        }
        if begun.is_err() {
            // A part of it takes space, too.
            let _ = self.remove(&name);
        }
        begun?;
        let length = header.len() as u64;
        self.segments.add(
            number,
            Segment {
                length,
                allocated: length,
                ..Segment::default()
            },
        );
        self.torn = false;
        // There was room for a file.
        self.segments.try_again();
        Ok(number)
    }

    fn begin_file(&mut self, name: &str, header: &[u8]) -> io::Result<()> {
        // Removes what a failed attempt left behind.
        self.remove(name)?;
        self.disk.append(name, header)?;
        if self.settings.sync {
            self.disk.sync(name)?;
            self.disk.sync_names()?;
        }
        Ok(())
    }

    /// Changes letters and syncs the changes, except for replays that begin: a loss of power then loses the count
    /// of that replay. Returns the states of the letters.
    pub(super) fn change(&mut self, changes: &[(LetterId, Change)]) -> Vec<ChangeResult> {
        let mut lines = BTreeMap::<u64, Lines>::new();
        // States of letters after the earlier changes of this batch.
        let mut standings = BTreeMap::<LetterId, Option<Standing>>::new();
        let mut answers = Vec::with_capacity(changes.len());
        for (at, (id, change)) in changes.iter().enumerate() {
            let Some(entry) = self.book.get(*id) else {
                answers.push(Ok(None));
                continue;
            };
            let before = standings.get(id).cloned();
            let Some(before) = before.unwrap_or_else(|| Some(entry.standing.clone())) else {
                answers.push(Ok(None));
                continue;
            };
            let after = before.after(change);
            let state = match change {
                Change::Delivered => State::Gone(Gone::Delivered),
                Change::Discard => State::Gone(Gone::Discarded),
                _ => State::Kept(after.clone()),
            };
            let lines = lines.entry(entry.place.segment).or_default();
            lines.bytes.extend(record::change(*id, &state));
            if change.removes() {
                lines.removed.push((entry.place.offset, entry.bytes));
            }
            lines.changes.push(at);
            lines.must_sync |= !matches!(change, Change::Begin | Change::NotExecuted);
            standings.insert(*id, (!change.removes()).then(|| after.clone()));
            answers.push(Ok(Some(after)));
        }
        for (segment, lines) in lines {
            let written = self.append_changes(segment, &lines);
            let is_full = is_full(&written);
            let failed = |error| io_error("write a change", error);
            let error = written.map_err(failed).err();
            let removal_error = match is_full {
                true => self.overwrite(segment, &lines).map_err(failed).err(),
                false => error.clone(),
            };
            for at in lines.changes {
                let (id, change) = &changes[at];
                let error = match change.removes() {
                    true => &removal_error,
                    false => &error,
                };
                if let Some(error) = error {
                    answers[at] = Err(error.clone());
                    if !is_full || !change.removes() || self.is_readable(*id) {
                        continue;
                    }
                }
                if let Changed::Gone(entry) = self.book.change(*id, change) {
                    self.segments.forget(entry.place.segment, entry.bytes);
                }
            }
        }
        answers
    }

    fn append_changes(&mut self, number: u64, lines: &Lines) -> io::Result<()> {
        let name = changes_name(number);
        let mut segment = self.segments.get(number).unwrap_or_default();
        let mut written = self.write_changes(&name, segment, lines);
        if is_full(&written) {
            segment.ragged = self.cut_partial_line(&name).is_err();
            if self.use_reserve() {
                written = self.write_changes(&name, segment, lines);
            }
        }
        let is_ragged = match is_full(&written) {
            true => self.cut_partial_line(&name).is_err(),
            false => written.is_err(),
        };
        let is_safe = written.is_ok() && self.settings.sync && lines.must_sync;
        self.segments.update(number, |segment| {
            segment.ragged = is_ragged;
            segment.named |= is_safe;
        });
        written
    }

    fn write_changes(&mut self, name: &str, segment: Segment, lines: &Lines) -> io::Result<()> {
        if segment.ragged {
            // The next record must not be appended to a partial one.
            self.disk.append(name, b"\n")?;
        }
        self.disk.append(name, &lines.bytes)?;
        if self.settings.sync && lines.must_sync {
            self.disk.sync(name)?;
            if !segment.named {
                self.disk.sync_names()?;
            }
        }
        Ok(())
    }

    /// Records evictions without a sync. If they are lost, the letters are evicted again after the log is opened.
    pub(super) fn evict(&mut self, evicted: Evicted<Place>) {
        let mut lines = BTreeMap::<u64, Lines>::new();
        for (id, entry, cause) in evicted {
            self.segments.forget(entry.place.segment, entry.bytes);
            self.events.push(LetterEvent::evicted(id.get(), cause));
            let lines = lines.entry(entry.place.segment).or_default();
            lines.removed.push((entry.place.offset, entry.bytes));
            lines
                .bytes
                .extend(record::change(id, &State::Gone(Gone::Evicted)));
        }
        for (segment, lines) in lines {
            let mut written = self.append_changes(segment, &lines);
            if is_full(&written) {
                written = self.overwrite(segment, &lines);
            }
            if let Err(error) = written {
                self.events.push(LetterEvent::MaintenanceFailed {
                    error: error.kind(),
                });
            }
        }
    }

    /// Reads letters after `after`: at most `max`, and no more than a megabyte or so at once.
    pub(super) fn page(&mut self, after: Option<LetterId>, max: usize, now: Timestamp) -> RawPage {
        const BYTES: u64 = 1 << 20;
        let mut page = RawPage::default();
        let mut bytes = 0;
        let mut chosen = Vec::new();
        let mut rest = self.book.after(after, now);
        for (id, entry) in rest.by_ref().take(max) {
            chosen.push((id, entry.clone()));
            bytes += entry.bytes;
            if bytes >= BYTES {
                break;
            }
        }
        if rest.next().is_some() {
            page.next = chosen.last().map(|(id, _)| *id);
        }
        drop(rest);
        for (id, entry) in chosen {
            let name = letters_name(entry.place.segment);
            let length = usize::try_from(entry.bytes - 1).unwrap_or(usize::MAX);
            match self.disk.read_at(&name, entry.place.offset, length) {
                Ok(line) if is_intact(&line) => page.letters.push((id, entry.standing, line)),
                _ => page.unreadable.push(id),
            }
        }
        page
    }
}

/// Lines for one change log.
#[derive(Debug, Default)]
pub(super) struct Lines {
    bytes: Vec<u8>,
    pub(super) must_sync: bool,
    /// The offsets and lengths of the letters that they remove.
    pub(super) removed: Vec<(u64, u64)>,
    /// The indexes of the changes that they record.
    changes: Vec<usize>,
}

/// The state of a changed letter; `None` if there is no such letter.
pub(super) type ChangeResult = Result<Option<Standing>, DeadLetterError>;
