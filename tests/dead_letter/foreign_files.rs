//! Folders and files that other programs have changed or written.

use std::fs;

use backstop::ManualClock;
use backstop::dead_letter::{DeadLetterErrorKind, DeadLetterQueue, Filter, NewLetter};

use crate::files::{open, sink};
use crate::{Folder, builder, id, ids, push};

#[cfg(unix)]
#[test]
fn a_letter_is_not_stored_in_a_file_that_was_removed() {
    let (clock, folder) = (ManualClock::new(), Folder::new("removed"));
    let queue = open(&folder, &clock);
    clock.block_on(async {
        push(&queue, 2).await.unwrap();
        queue.park(id(1)).await.unwrap();
        fs::remove_file(folder.0.join("letters-00000001.jsonl")).unwrap();
        let error = push(&queue, 1).await.unwrap_err();
        assert_eq!(error.kind(), DeadLetterErrorKind::Io);
        // The next one is in a new file. The first ones can be read until the file is closed.
        let stored = queue.push(NewLetter::new("y".into())).await.unwrap();
        assert_eq!(ids(&queue).await.len(), 3);
        drop(queue);
        let queue = open(&folder, &clock);
        assert_eq!(ids(&queue).await, [stored.get()]);

        fs::remove_dir_all(&folder.0).unwrap();
        for _ in 0..3 {
            let error = push(&queue, 1).await.unwrap_err();
            assert_eq!(error.kind(), DeadLetterErrorKind::Io);
            let error = queue.park(stored).await.unwrap_err();
            assert_eq!(error.kind(), DeadLetterErrorKind::Io);
        }
    });
}

#[test]
fn temporary_files_of_others_are_left_alone() {
    let (clock, folder) = (ManualClock::new(), Folder::new("temporary"));
    drop(open(&folder, &clock));
    for name in ["mine.tmp", "rewrite.tmp"] {
        fs::write(folder.0.join(name), "half").unwrap();
    }
    drop(open(&folder, &clock));
    assert_eq!(folder.files(), ["lock", "mine.tmp"]);
}

#[test]
fn without_a_number_for_another_file_letters_are_rejected() {
    let (clock, folder) = (ManualClock::new(), Folder::new("last-number"));
    fs::create_dir(&folder.0).unwrap();
    let last = format!("letters-{}.jsonl", u64::MAX);
    fs::write(folder.0.join(last), "").unwrap();
    let queue = builder(&clock)
        .sink(sink(&folder).segment_bytes(1).open().unwrap())
        .build()
        .unwrap();
    clock.block_on(async {
        push(&queue, 1).await.unwrap();
        let error = push(&queue, 1).await.unwrap_err();
        assert_eq!(
            error.to_string(),
            "the storage failed: write letters: no number is left for a file"
        );
        assert_eq!(ids(&queue).await, [1]);
    });
}

#[test]
fn unreadable_letters_are_listed_in_one_page_each() {
    let (clock, folder) = (ManualClock::new(), Folder::new("pages"));
    let numbers = |folder: &Folder| {
        let sink = sink(folder).open().unwrap();
        let numbers = DeadLetterQueue::<u32>::builder().sink(sink);
        numbers.clock(clock.clone()).build().unwrap()
    };
    clock.block_on(async {
        push(&open(&folder, &clock), 3).await.unwrap();
        for number in 4..=6 {
            let pushed = numbers(&folder).push(NewLetter::new(number)).await;
            pushed.unwrap();
        }
        let queue = open(&folder, &clock);
        push(&queue, 3).await.unwrap();
        let (mut letters, mut unreadable, mut from) = (Vec::new(), Vec::new(), 0);
        loop {
            let filter = Filter::new().ids(id(from), id(u64::MAX));
            let page = queue.peek(&filter, 2).await.unwrap();
            letters.extend(page.letters.iter().map(|letter| letter.id().get()));
            unreadable.extend(page.unreadable.iter().map(|id| id.get()));
            let Some(next) = page.next else { break };
            from = next.get() + 1;
        }
        assert_eq!(letters, [1, 2, 3, 7, 8, 9]);
        assert_eq!(unreadable, [4, 5, 6]);
    });
}
