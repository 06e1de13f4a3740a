//! The queue from the handles to the writer thread.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::sync::lock;

/// A queue whose reader sleeps until as many commands have arrived as it expects.
///
/// A channel wakes its reader for each command: with eight writers, eight context switches per commit, which take as
/// long as the sync.
#[derive(Debug)]
pub(super) struct Mailbox<T> {
    state: Mutex<State<T>>,
    enough: Condvar,
}

#[derive(Debug)]
struct State<T> {
    commands: VecDeque<T>,
    /// Whether no further commands are accepted, apart from last ones.
    closed: bool,
    /// Whether the reader was dropped.
    ended: bool,
    /// The length at which the reader is woken. `usize::MAX` while it is awake.
    wake_at: usize,
}

impl<T> State<T> {
    fn lacks(&self, expected: usize) -> bool {
        self.commands.len() < expected && !self.closed
    }
}

impl<T> Mailbox<T> {
    /// Returns a mailbox and its reader.
    pub(super) fn new() -> (Arc<Self>, Reader<T>) {
        let mailbox = Arc::new(Self {
            state: Mutex::new(State {
                commands: VecDeque::new(),
                closed: false,
                ended: false,
                wake_at: usize::MAX,
            }),
            enough: Condvar::new(),
        });
        (mailbox.clone(), Reader(mailbox))
    }

    /// Sends a command. Returns it if the mailbox is closed.
    pub(super) fn send(&self, command: T) -> Option<T> {
        let mut state = lock(&self.state);
        if state.closed {
            return Some(command);
        }
        state.commands.push_back(command);
        if state.commands.len() >= state.wake_at {
            self.wake(state);
        }
        None
    }

    /// Sends a last command, if there is one, and closes the mailbox. Returns the command if the reader was dropped.
    /// The reader still receives earlier commands. Of several last commands, it may drop all but the first one.
    pub(super) fn close(&self, last: Option<T>) -> Option<T> {
        let mut state = lock(&self.state);
        if state.ended {
            return last;
        }
        state.commands.extend(last);
        state.closed = true;
        self.wake(state);
        None
    }

    fn wake(&self, mut state: MutexGuard<'_, State<T>>) {
        state.wake_at = usize::MAX;
        // Unlocks before waking, so that the reader does not wake only to wait for the lock.
        drop(state);
        self.enough.notify_one();
    }
}

/// The reading end. Dropping it closes the mailbox and drops the commands in it.
#[derive(Debug)]
pub(super) struct Reader<T>(Arc<Mailbox<T>>);

impl<T> Reader<T> {
    /// Waits until there is a command, and at most `linger` until there are as many as `expected`. Returns `false` if
    /// there are none and never will be.
    pub(super) fn wait(&self, expected: usize, linger: Duration) -> bool {
        let mailbox = &*self.0;
        let mut state = lock(&mailbox.state);
        if state.lacks(expected) {
            state.wake_at = expected;
            let waited = mailbox
                .enough
                .wait_timeout_while(state, linger, |state| state.lacks(expected));
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        state.wake_at = 1;
        let waited = mailbox.enough.wait_while(state, |state| state.lacks(1));
        state = waited.unwrap_or_else(PoisonError::into_inner);
        state.wake_at = usize::MAX;
        !state.commands.is_empty()
    }

    /// Takes the oldest command.
    pub(super) fn next(&self) -> Option<T> {
        lock(&self.0.state).commands.pop_front()
    }
}

impl<T> Drop for Reader<T> {
    fn drop(&mut self) {
        let mut state = lock(&self.0.state);
        (state.closed, state.ended) = (true, true);
        let commands = std::mem::take(&mut state.commands);
        // Dropped outside the lock, because replies wake user code.
        drop(state);
        drop(commands);
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    const LONG: Duration = Duration::from_secs(3600);

    fn taken<T>(reader: &Reader<T>) -> Vec<T> {
        std::iter::from_fn(|| reader.next()).collect()
    }

    #[test]
    fn the_reader_is_woken_by_the_last_command_that_it_expects() {
        let (mailbox, reader) = Mailbox::new();
        let reader = thread::spawn(move || {
            assert!(reader.wait(3, LONG));
            taken(&reader)
        });
        while lock(&mailbox.state).wake_at != 3 {
            thread::yield_now();
        }
        for command in 1..=2 {
            assert_eq!(mailbox.send(command), None);
            assert_eq!(lock(&mailbox.state).wake_at, 3);
        }
        assert_eq!(mailbox.send(3), None);
        assert_eq!(reader.join().unwrap(), [1, 2, 3]);
    }

    #[test]
    fn fewer_commands_than_expected_are_taken_after_the_linger() {
        let (mailbox, reader) = Mailbox::new();
        mailbox.send(1);
        assert!(reader.wait(2, Duration::ZERO));
        assert_eq!(taken(&reader), [1]);
    }

    #[test]
    fn after_the_linger_any_command_wakes_the_reader() {
        let (mailbox, reader) = Mailbox::new();
        let reader = thread::spawn(move || {
            assert!(reader.wait(8, Duration::ZERO));
            taken(&reader)
        });
        while lock(&mailbox.state).wake_at != 1 {
            thread::yield_now();
        }
        mailbox.send(1);
        assert_eq!(reader.join().unwrap(), [1]);
    }

    #[test]
    fn a_closed_mailbox_is_read_to_its_end() {
        let (mailbox, reader) = Mailbox::new();
        mailbox.send(1);
        assert_eq!(mailbox.close(Some(2)), None);
        assert_eq!((mailbox.send(3), mailbox.close(Some(4))), (Some(3), None));
        assert!(reader.wait(8, LONG));
        assert_eq!(taken(&reader), [1, 2, 4]);
        assert!(!reader.wait(8, LONG));
        drop(reader);
        assert_eq!(mailbox.close(Some(5)), Some(5));
    }

    #[test]
    fn a_reader_that_is_dropped_drops_what_was_sent() {
        let (mailbox, reader) = Mailbox::new();
        let command = Arc::new(());
        mailbox.send(command.clone());
        drop(reader);
        assert_eq!(Arc::strong_count(&command), 1);
        assert!(mailbox.send(command).is_some());
    }

    #[test]
    fn racing_commands_are_taken_once_and_all() {
        let (mailbox, reader) = Mailbox::new();
        let mut commands = Vec::new();
        thread::scope(|scope| {
            for thread in 0..4 {
                let mailbox = &mailbox;
                scope.spawn(move || {
                    for number in 0..1000 {
                        mailbox.send(thread * 1000 + number);
                    }
                });
            }
            while commands.len() < 4000 {
                assert!(reader.wait(4, Duration::from_micros(10)));
                commands.extend(taken(&reader));
            }
        });
        commands.sort_unstable();
        assert_eq!(commands, (0..4000).collect::<Vec<_>>());
    }
}
