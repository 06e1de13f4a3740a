//! Tests of the log on a simulated disk that fails and loses data that was not synced.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use proptest::prelude::*;

use super::super::error::{DeadLetterError, DeadLetterErrorKind};
use super::super::state::letter::{Change, Letter, LetterId, NewLetter};
use super::super::state::record;
use super::super::state::retention::{Limits, WhenFull};
use super::super::state::timestamp::Timestamp;
use super::disk::Disk;
use super::log::{DAMAGED, Log, Pending, Settings, changes_name, letters_name};
use crate::event::LetterEvent;
use crate::sync::lock;

mod crashes;
mod damage;
mod full_disk;
mod histories;
mod space;

/// A disk in memory. Clones share the files: the log owns one clone, the test reads the other.
#[derive(Clone, Default)]
struct SimDisk(Arc<Mutex<Sim>>);

#[derive(Clone, Default)]
struct Sim {
    /// Files as a reader sees them.
    files: BTreeMap<String, File>,
    /// Names that survive a power loss, with the numbers of their files.
    safe_names: BTreeMap<String, u64>,
    /// Changes of names since the last sync of the directory, in order.
    pending_names: Vec<NameChange>,
    /// The synced content of each file.
    safe_content: BTreeMap<u64, Vec<u8>>,
    next_file: u64,
    /// Number of mutating operations so far.
    operations: u64,
    /// The operation that fails, and how many bytes of an `append` are written nevertheless.
    fails_at: Option<(u64, usize)>,
    /// Number of later operations that fail too; `u64::MAX` simulates the end of the process.
    fails_for: u64,
    error: Option<io::ErrorKind>,
    /// The most bytes of all files together.
    capacity: Option<usize>,
    /// The name of a file that cannot be read as a whole.
    unreadable: Option<String>,
}

#[derive(Clone)]
struct File {
    number: u64,
    content: Vec<u8>,
}

#[derive(Clone)]
enum NameChange {
    Create(String, u64),
    Rename(String, String, u64),
    Remove(String),
}

impl Sim {
    /// Counts an operation. If it fails, returns how much of it is done.
    fn step(&mut self) -> Result<(), (usize, io::Error)> {
        let error = || io::Error::from(self.error.unwrap_or(io::ErrorKind::Other));
        self.operations += 1;
        match self.fails_at {
            Some((at, part)) if self.operations == at => Err((part, error())),
            Some((at, _)) if self.operations > at && self.operations - at <= self.fails_for => {
                Err((0, error()))
            }
            _ => Ok(()),
        }
    }

    /// Returns the disk after a power loss. Of the pending changes of names, those whose bit is set in `names` are
    /// done. Of every file, `unsafe_part` determines how much of the unsynced content is there.
    fn lose_power(&self, names: u64, mut unsafe_part: impl FnMut(usize) -> usize) -> Self {
        let mut kept = self.safe_names.clone();
        for (at, change) in self.pending_names.iter().enumerate() {
            if names >> (at % 64) & 1 == 0 {
                continue;
            }
            match change {
                NameChange::Create(name, number) => {
                    kept.insert(name.clone(), *number);
                }
                NameChange::Rename(from, to, number) => {
                    kept.remove(from);
                    kept.insert(to.clone(), *number);
                }
                NameChange::Remove(name) => {
                    kept.remove(name);
                }
            }
        }
        let mut after = Self {
            next_file: self.next_file,
            ..Self::default()
        };
        for (name, number) in kept {
            let mut content = self.safe_content.get(&number).cloned().unwrap_or_default();
            let now = self.files.values().find(|file| file.number == number);
            // The first part is as written, the rest as last synced.
            if let Some(new) = now.map(|file| &file.content) {
                let part = unsafe_part(new.len());
                let rest = content.split_off(content.len().min(part));
                content = [&new[..part], &rest].concat();
            }
            after.safe_names.insert(name.clone(), number);
            after.safe_content.insert(number, content.clone());
            after.files.insert(name, File { number, content });
        }
        after
    }
}

impl Disk for SimDisk {
    fn list(&mut self) -> io::Result<Vec<(String, u64)>> {
        let sim = lock(&self.0);
        let list = sim.files.iter();
        Ok(list
            .map(|(name, file)| (name.clone(), file.content.len() as u64))
            .collect())
    }

    fn length(&mut self, name: &str) -> io::Result<u64> {
        Ok(self.content(name).len() as u64)
    }

    fn read(&mut self, name: &str) -> io::Result<Vec<u8>> {
        let sim = lock(&self.0);
        if sim.unreadable.as_deref() == Some(name) {
            return Err(io::ErrorKind::Other.into());
        }
        let file = sim.files.get(name).ok_or(io::ErrorKind::NotFound)?;
        Ok(file.content.clone())
    }

    fn read_at(&mut self, name: &str, offset: u64, length: usize) -> io::Result<Vec<u8>> {
        let content = self.content(name);
        let part = content.get(offset as usize..offset as usize + length);
        Ok(part.ok_or(io::ErrorKind::UnexpectedEof)?.to_vec())
    }

    fn append(&mut self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let length = self.content(name).len();
        self.write(name, length, bytes)
    }

    fn write_at(&mut self, name: &str, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.write(name, offset as usize, bytes)
    }

    fn truncate(&mut self, name: &str, length: u64) -> io::Result<()> {
        let mut sim = lock(&self.0);
        sim.step().map_err(|(_, error)| error)?;
        let file = sim.files.get_mut(name).ok_or(io::ErrorKind::NotFound)?;
        file.content.truncate(length as usize);
        let number = file.number;
        if let Some(safe) = sim.safe_content.get_mut(&number) {
            safe.truncate(length as usize);
        }
        Ok(())
    }

    fn sync(&mut self, name: &str) -> io::Result<()> {
        let mut sim = lock(&self.0);
        sim.step().map_err(|(_, error)| error)?;
        let file = sim.files.get(name).ok_or(io::ErrorKind::NotFound)?;
        let (number, content) = (file.number, file.content.clone());
        sim.safe_content.insert(number, content);
        Ok(())
    }

    fn sync_names(&mut self) -> io::Result<()> {
        let mut sim = lock(&self.0);
        sim.step().map_err(|(_, error)| error)?;
        let names = sim.files.iter();
        sim.safe_names = names
            .map(|(name, file)| (name.clone(), file.number))
            .collect();
        sim.pending_names.clear();
        Ok(())
    }

    fn rename(&mut self, from: &str, to: &str) -> io::Result<()> {
        let mut sim = lock(&self.0);
        sim.step().map_err(|(_, error)| error)?;
        let file = sim.files.remove(from).ok_or(io::ErrorKind::NotFound)?;
        let number = file.number;
        sim.files.insert(to.into(), file);
        sim.pending_names
            .push(NameChange::Rename(from.into(), to.into(), number));
        Ok(())
    }

    fn remove(&mut self, name: &str) -> io::Result<()> {
        let mut sim = lock(&self.0);
        if !sim.files.contains_key(name) {
            return Err(io::ErrorKind::NotFound.into());
        }
        sim.step().map_err(|(_, error)| error)?;
        sim.files.remove(name);
        sim.pending_names.push(NameChange::Remove(name.into()));
        Ok(())
    }
}

impl SimDisk {
    fn write(&self, name: &str, offset: usize, bytes: &[u8]) -> io::Result<()> {
        let mut sim = lock(&self.0);
        let (mut part, mut result) = match sim.step() {
            Ok(()) => (bytes.len(), Ok(())),
            Err((part, error)) => (part.min(bytes.len()), Err(error)),
        };
        if let Some(capacity) = sim.capacity {
            let used: usize = sim.files.values().map(|file| file.content.len()).sum();
            let length = sim.files.get(name).map_or(0, |file| file.content.len());
            let room = (capacity.saturating_sub(used) + length).saturating_sub(offset);
            if room < part {
                (part, result) = (room, Err(io::ErrorKind::StorageFull.into()));
            }
        }
        if result.is_err() && part == 0 {
            return result;
        }
        if !sim.files.contains_key(name) {
            sim.next_file += 1;
            let number = sim.next_file;
            let content = Vec::new();
            sim.files.insert(name.into(), File { number, content });
            sim.pending_names
                .push(NameChange::Create(name.into(), number));
        }
        let content = &mut sim.files.get_mut(name).unwrap().content;
        let end = offset + part;
        content.resize(content.len().max(end), 0);
        content[offset..end].copy_from_slice(&bytes[..part]);
        result
    }

    fn of(sim: Sim) -> Self {
        Self(Arc::new(Mutex::new(sim)))
    }

    fn set(&self, name: &str, content: &[u8]) {
        let mut sim = lock(&self.0);
        sim.next_file += 1;
        let number = sim.next_file;
        let content = content.to_vec();
        sim.files.insert(name.into(), File { number, content });
    }

    fn content(&self, name: &str) -> Vec<u8> {
        let sim = lock(&self.0);
        sim.files
            .get(name)
            .map(|file| file.content.clone())
            .unwrap_or_default()
    }

    fn names(&self) -> Vec<String> {
        lock(&self.0).files.keys().cloned().collect()
    }

    /// Returns the bytes of all files together.
    fn used(&self) -> usize {
        let names = self.names();
        names.iter().map(|name| self.content(name).len()).sum()
    }

    /// Fills the disk up to a number of free bytes.
    fn leave(&self, free: usize) {
        lock(&self.0).capacity = Some(self.used() + free);
    }

    /// Returns another disk with the same files.
    fn copy(&self) -> Self {
        Self::of(lock(&self.0).clone())
    }
}

fn settings() -> Settings {
    Settings {
        limits: Limits {
            max_letters: 1000,
            max_bytes: 1 << 20,
            max_age: Duration::MAX,
            when_full: WhenFull::Reject,
        },
        // Room for a few letters.
        segment_bytes: 1200,
        // More than one letter, less than two.
        fill_bytes: 500,
        reserve_bytes: 0,
        sync: true,
    }
}

fn open(disk: &SimDisk) -> Log<SimDisk> {
    Log::open(disk.clone(), settings()).unwrap()
}

fn pending(id: u64) -> Pending {
    let letter = NewLetter::new(format!("request {id}")).error("down");
    let letter = letter.seal(LetterId::new(id), Timestamp::from_micros(id), || {
        format!("key {id}")
    });
    Pending {
        id: letter.id(),
        stored_at: letter.stored_at(),
        line: record::encode(letter.content()).unwrap(),
    }
}

/// Returns the readable letters by number: the request, the replays, and whether it is parked.
fn readable(log: &mut Log<SimDisk>) -> BTreeMap<u64, (String, u32, bool)> {
    let page = log.page(None, usize::MAX, Timestamp::UNIX_EPOCH);
    assert_eq!((page.unreadable, page.next), (Vec::new(), None));
    let letters = page.letters.into_iter().map(|(id, standing, line)| {
        let letter: Letter<String> = record::decode(&line).unwrap();
        assert_eq!(letter.id(), id);
        (
            id.get(),
            (letter.request().clone(), standing.replays, standing.parked),
        )
    });
    letters.collect()
}

fn ids(log: &mut Log<SimDisk>) -> Vec<u64> {
    readable(log).into_keys().collect()
}

fn change(log: &mut Log<SimDisk>, id: u64, change: Change) -> Result<(), DeadLetterError> {
    let mut results = log.change(&[(LetterId::new(id), change)]);
    assert_eq!(results.len(), 1);
    results.remove(0).map(drop)
}
