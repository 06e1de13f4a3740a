//! The writer thread: takes all waiting commands and syncs them with one `fsync`.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use super::super::error::{DeadLetterError, DeadLetterErrorKind};
use super::super::state::book::Totals;
use super::super::state::letter::{Change, LetterId, Standing};
use super::super::state::timestamp::Timestamp;
use super::disk::{Disk, io_error};
use super::log::{Log, Pending, RawPage};
use super::mailbox::Reader;
use super::reply::Answerer;
use crate::event::LetterEvent;
use crate::sync::lock;

/// A command to the writer thread.
#[derive(Debug)]
pub(super) enum Command {
    Store(Pending, Answerer<()>),
    Change(LetterId, Change, Answerer<Option<Standing>>),
    Page {
        after: Option<LetterId>,
        max: usize,
        now: Timestamp,
        answer: Answerer<RawPage>,
    },
    Close(Answerer<()>),
}

/// State shared by the writer thread and the handles.
#[derive(Debug, Default)]
pub(super) struct WriterState {
    /// Commands that were sent and not yet answered.
    pub(super) waiting: AtomicUsize,
    pub(super) gauges: Mutex<Gauges>,
}

#[derive(Debug, Default)]
pub(super) struct Gauges {
    pub(super) totals: Totals,
    pub(super) segments: u64,
    pub(super) file_bytes: u64,
    /// Number of group commits.
    pub(super) commits: u64,
    pub(super) events: Vec<LetterEvent>,
}

impl WriterState {
    pub(super) fn publish<D: Disk>(&self, log: &mut Log<D>, commits: u64) {
        let mut gauges = lock(&self.gauges);
        gauges.totals = log.totals();
        gauges.segments = log.segments.len();
        gauges.file_bytes = log.segments.length();
        gauges.commits += commits;
        gauges.events.append(&mut log.events);
    }
}

/// The most commands in one batch, and the approximate bytes of letters at which a batch is full.
const MAX_COMMANDS: usize = 4096;
const MAX_BYTES: usize = 4 << 20;
/// Time that a batch waits for expected writers.
const LINGER: Duration = Duration::from_micros(500);

/// Runs until it is closed or all handles are dropped. Holds `folder_lock` until then.
pub(super) fn run<D: Disk, L>(
    mut log: Log<D>,
    commands: &Reader<Command>,
    writer: &WriterState,
    folder_lock: L,
) {
    let mut closing = Vec::new();
    let mut expected = 0;
    while closing.is_empty() {
        let Some(mut batch) = Batch::collect(commands, expected) else {
            break;
        };
        closing.append(&mut batch.closes);
        let writers = batch.process(&mut log, writer);
        // Without a sync there is nothing to share.
        expected = if log.settings.sync { writers } else { 0 };
    }
    log.trim();
    // Unlocks the folder before replying, so that a caller that reopens it succeeds.
    drop(log);
    drop(folder_lock);
    for answer in closing {
        answer.answer(Ok(()));
    }
}

/// The commands of one commit.
#[derive(Default)]
struct Batch {
    commands: usize,
    bytes: usize,
    letters: Vec<(Pending, Answerer<()>)>,
    changes: Vec<(LetterId, Change)>,
    changers: Vec<Answerer<Option<Standing>>>,
    reads: Vec<(Option<LetterId>, usize, Timestamp, Answerer<RawPage>)>,
    closes: Vec<Answerer<()>>,
}

impl Batch {
    /// Takes all waiting commands, at least one. Returns `None` once all handles are dropped.
    ///
    /// Writers that were answered together send their next letters within microseconds of each other. Without a short
    /// wait, the first letter would be synced alone and the others would wait for two syncs. So the batch waits for
    /// `expected` commands, the number of callers that waited when the last batch was answered.
    fn collect(commands: &Reader<Command>, expected: usize) -> Option<Self> {
        if !commands.wait(expected.min(MAX_COMMANDS), LINGER) {
            return None;
        }
        let mut batch = Self::default();
        while batch.commands < MAX_COMMANDS && batch.bytes < MAX_BYTES {
            let Some(command) = commands.next() else {
                break;
            };
            batch.add(command);
        }
        Some(batch)
    }

    fn add(&mut self, command: Command) {
        self.commands += 1;
        match command {
            Command::Store(letter, answer) => {
                self.bytes += letter.line.len();
                self.letters.push((letter, answer));
            }
            Command::Change(id, change, answer) => {
                self.changes.push((id, change));
                self.changers.push(answer);
            }
            Command::Page {
                after,
                max,
                now,
                answer,
            } => self.reads.push((after, max, now, answer)),
            Command::Close(answer) => self.closes.push(answer),
        }
    }

    /// Processes letters first, then changes, then reads, because callers wait for one kind before they send the next.
    /// Returns the number of callers that waited at the end, those of the next batch included.
    fn process<D: Disk>(self, log: &mut Log<D>, writer: &WriterState) -> usize {
        let commits = u64::from(!self.letters.is_empty());
        let (answers, stored) = store(log, self.letters);
        let changed = log.change(&self.changes);
        log.tidy();
        let reads: Vec<_> = self
            .reads
            .into_iter()
            .map(|(after, max, now, answer)| (log.page(after, max, now), answer))
            .collect();
        writer.publish(log, commits);
        // Relaxed: the count bounds the queue and publishes nothing.
        let waiting = writer.waiting.fetch_sub(self.commands, Ordering::Relaxed);
        // Replies last, because replying wakes other threads.
        for (answer, result) in answers.into_iter().zip(stored) {
            answer.answer(result);
        }
        for (answer, result) in self.changers.into_iter().zip(changed) {
            answer.answer(result);
        }
        for (page, answer) in reads {
            answer.answer(Ok(page));
        }
        waiting
    }
}

type Answers = (Vec<Answerer<()>>, Vec<Result<(), DeadLetterError>>);

/// Stores the letters that fit, all with one write.
fn store<D: Disk>(log: &mut Log<D>, letters: Vec<(Pending, Answerer<()>)>) -> Answers {
    if let Some(now) = letters.iter().map(|(letter, _)| letter.stored_at).max() {
        log.expire(now);
    }
    let (mut answers, mut results, mut accepted) = (Vec::new(), Vec::new(), Vec::new());
    let mut pending = (0, 0);
    for (letter, answer) in letters {
        let bytes = letter.line.len() as u64;
        answers.push(answer);
        if log.has_room(pending, bytes) {
            pending = (pending.0 + 1, pending.1 + bytes);
            accepted.push(letter);
            results.push(Ok(()));
        } else {
            let limits = log.settings.limits;
            results.push(Err(DeadLetterError::new(DeadLetterErrorKind::Full).during(
                format!(
                    "{} letters or {} bytes",
                    limits.max_letters, limits.max_bytes
                ),
            )));
        }
    }
    if let Err(error) = log.commit(&accepted) {
        let error = io_error("write letters", error);
        for result in results.iter_mut().filter(|result| result.is_ok()) {
            *result = Err(error.clone());
        }
    }
    (answers, results)
}
