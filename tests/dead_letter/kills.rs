//! A process that is killed while it writes, and while it replays.
//!
//! The test runs itself once more as a child. `DEAD_LETTER_ROUNDS` sets how often it is killed.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};

use backstop::dead_letter::{DeadLetterQueue, FileSink, Filter, NewLetter};
use backstop::{BlockingClock, ManualClock};

use crate::Folder;

const FOLDER: &str = "DEAD_LETTER_CHILD_FOLDER";
const WRITERS: usize = 8;
const IN_FLIGHT: usize = 4;

fn rounds() -> u64 {
    let rounds = std::env::var("DEAD_LETTER_ROUNDS");
    rounds.map_or(20, |rounds| rounds.parse().unwrap())
}

fn open(folder: &str) -> DeadLetterQueue<String> {
    // Small segments, so that kills hit their beginnings and ends.
    let sink = FileSink::builder(folder)
        .segment_bytes(10_000)
        .open()
        .unwrap();
    let queue = DeadLetterQueue::builder().sink(sink).clock(BlockingClock);
    queue.max_replays(1_000_000).build().unwrap()
}

/// Runs a test of this file as a child until it has printed so many lines, and kills it. Returns all
/// lines that it printed.
fn kill_after(test: &str, folder: &Folder, lines: usize) -> Vec<String> {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            test,
            "--ignored",
            "--nocapture",
            "--test-threads=1",
        ])
        .env(FOLDER, &folder.0)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut output = BufReader::new(child.stdout.take().unwrap());
    let (mut printed, mut line) = (Vec::new(), String::new());
    loop {
        line.clear();
        // What was printed before the kill is still in the pipe.
        if output.read_line(&mut line).unwrap() == 0 {
            break;
        }
        // The harness prints the name of the test on the same line as the first one.
        if let Some((_, said)) = line
            .strip_suffix('\n')
            .and_then(|line| line.split_once("> "))
        {
            printed.push(said.to_owned());
            if printed.len() == lines {
                child.kill().unwrap();
            }
        }
    }
    child.wait().unwrap();
    printed
}

/// Bypasses the capture of the test harness. One write for each line.
fn say(line: &str) {
    let _ = std::io::stdout()
        .lock()
        .write_all(format!("> {line}\n").as_bytes());
}

#[test]
#[ignore = "the child of another test"]
fn child_that_writes() {
    let Ok(folder) = std::env::var(FOLDER) else {
        return;
    };
    let queue = open(&folder);
    let begin = queue.snapshot().letters;
    std::thread::scope(|scope| {
        for writer in 0..WRITERS {
            let queue = &queue;
            scope.spawn(move || {
                for number in 0.. {
                    let request = format!("{begin}/{writer}/{number}");
                    queue
                        .push_blocking(NewLetter::new(request.clone()))
                        .unwrap();
                    say(&request);
                }
            });
        }
    });
}

#[test]
fn a_kill_loses_nothing_acknowledged_and_leaves_no_half_letter() {
    let folder = Folder::new("kills");
    let mut acknowledged = BTreeSet::new();
    for round in 0..rounds() {
        let lines = 10 + (round * 37 % 200) as usize;
        acknowledged.extend(kill_after("kills::child_that_writes", &folder, lines));
        let queue = open(folder.0.to_str().unwrap());
        let page = ManualClock::new()
            .block_on(queue.peek(&Filter::new(), usize::MAX))
            .unwrap();
        assert_eq!((page.unreadable.len(), queue.snapshot().damaged), (0, 0));
        let found: BTreeSet<_> = page
            .letters
            .iter()
            .map(|letter| letter.request().clone())
            .collect();
        assert_eq!(found.len(), page.letters.len(), "a letter is there twice");
        let lost: Vec<_> = acknowledged.difference(&found).collect();
        assert!(lost.is_empty(), "round {round}: {lost:?}");
        // Unacknowledged ones: no more than the writers had in flight, in each round.
        let more = found.len() - acknowledged.len();
        assert!(more <= WRITERS * (round as usize + 1), "{more}");
    }
}

#[test]
#[ignore = "the child of another test"]
fn child_that_replays() {
    let Ok(folder) = std::env::var(FOLDER) else {
        return;
    };
    let queue = open(&folder);
    let replay = queue.replay().rate(f64::INFINITY).max_concurrent(IN_FLIGHT);
    let run = replay.run(|letter| {
        say(letter.request());
        async { Ok::<_, &str>(()) }
    });
    ManualClock::new().block_on(run).unwrap();
}

#[test]
fn a_kill_in_the_middle_of_a_replay_repeats_at_most_what_was_in_flight() {
    let folder = Folder::new("kills-replay");
    let (letters, clock) = (3000, ManualClock::new());
    let queue = open(folder.0.to_str().unwrap());
    let pushes = (0..letters).map(|n| queue.push(NewLetter::new(format!("{n}"))));
    clock
        .block_on(futures::future::try_join_all(pushes))
        .unwrap();
    drop(queue);
    let mut sent = BTreeMap::<String, u32>::new();
    let mut kills = 0;
    loop {
        let lines = kill_after("kills::child_that_replays", &folder, 100 + kills * 7 % 60);
        if lines.is_empty() {
            break;
        }
        for letter in lines {
            *sent.entry(letter).or_default() += 1;
        }
        kills += 1;
        assert!(kills < 200);
    }
    assert!(kills > 5);
    // All went out, and what went out twice was in flight at a kill.
    assert_eq!(sent.len(), letters);
    let repeated: u32 = sent.values().map(|times| times - 1).sum();
    assert!(
        repeated as usize <= kills * IN_FLIGHT,
        "{repeated} after {kills} kills"
    );
    assert_eq!(open(folder.0.to_str().unwrap()).snapshot().letters, 0);
}
