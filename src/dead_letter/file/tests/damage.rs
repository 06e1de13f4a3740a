//! Tests with files that another program has changed, and with full disks.

use std::sync::atomic::Ordering;

use super::super::FileSink;
use super::*;

/// Returns the disk of a log with nine letters in three segments.
fn nine() -> SimDisk {
    let disk = SimDisk::default();
    let mut log = open(&disk);
    for batch in [[1, 2, 3], [4, 5, 6], [7, 8, 9]] {
        log.commit(&batch.map(pending)).unwrap();
        // Each batch is more than half a segment.
        log.commit(&[]).unwrap();
    }
    log.trim();
    assert!(disk.names().len() >= 2, "{:?}", disk.names());
    disk
}

#[test]
fn every_prefix_of_a_file_opens_and_loses_only_its_tail() {
    let disk = nine();
    let names = disk.names();
    let last = names.last().unwrap();
    let content = disk.content(last);
    let before = ids(&mut open(&disk.copy()));
    for cut in 0..=content.len() {
        let copy = disk.copy();
        copy.set(last, &content[..cut]);
        let mut log = open(&copy);
        let found = ids(&mut log);
        assert_eq!(found, before[..found.len()], "cut at {cut}");
        let torn = content[..cut]
            .iter()
            .rev()
            .take_while(|byte| **byte != b'\n')
            .count();
        let warned = log
            .events
            .contains(&LetterEvent::TornTail { bytes: torn as u64 });
        assert_eq!(warned, torn > 0, "cut at {cut}");
        // The torn write is gone from the file, so the next letter starts a new line.
        log.commit(&[pending(100)]).unwrap();
        assert_eq!(ids(&mut open(&copy)).last(), Some(&100));
    }
}

#[test]
fn a_flipped_bit_costs_at_most_one_letter() {
    let disk = nine();
    for name in disk.names() {
        let content = disk.content(&name);
        for at in 0..content.len() {
            let copy = disk.copy();
            let mut flipped = content.clone();
            flipped[at] ^= 4;
            copy.set(&name, &flipped);
            let found = ids(&mut open(&copy));
            assert!(found.len() >= 8, "{name}, byte {at}: {found:?}");
        }
    }
}

#[test]
fn a_damaged_line_is_reported_and_rescued_before_its_file_is_deleted() {
    let disk = nine();
    let name = letters_name(1);
    let mut content = disk.content(&name);
    let at = content
        .windows(9)
        .position(|part| part == b"request 2")
        .unwrap();
    content[at] = b'X';
    disk.set(&name, &content);
    let mut log = open(&disk);
    assert!(log.events.contains(&LetterEvent::Damaged { lines: 1 }));
    for id in ids(&mut log) {
        change(&mut log, id, Change::Delivered).unwrap();
    }
    log.tidy();
    assert!(!disk.names().contains(&name));
    let rescued = String::from_utf8(disk.content(DAMAGED)).unwrap();
    assert!(rescued.contains("Xequest 2") && !rescued.contains("request 1"));
    // Opening ignores the name, because it is not a letter file.
    assert!(open(&disk).events.is_empty());
}

#[test]
fn a_damaged_change_is_reported_and_leaves_its_letter_as_it_was() {
    let disk = SimDisk::default();
    let mut log = open(&disk);
    log.commit(&[1, 2].map(pending)).unwrap();
    change(&mut log, 1, Change::Delivered).unwrap();
    change(&mut log, 2, Change::Park).unwrap();
    let name = changes_name(1);
    let mut content = disk.content(&name);
    let at = content.windows(9).position(|part| part == b"delivered");
    content[at.unwrap()] = b'X';
    disk.set(&name, &content);
    let mut log = open(&disk);
    assert_eq!(log.events, [LetterEvent::Damaged { lines: 1 }]);
    let request = |id: u64| format!("request {id}");
    let expected = BTreeMap::from([(1, (request(1), 0, false)), (2, (request(2), 0, true))]);
    assert_eq!(readable(&mut log), expected);
}

#[test]
fn a_letter_that_is_damaged_after_opening_is_listed_as_unreadable() {
    let disk = nine();
    let mut log = open(&disk);
    let name = letters_name(1);
    let mut content = disk.content(&name);
    let at = content
        .windows(9)
        .position(|part| part == b"request 2")
        .unwrap();
    content[at] = b'X';
    disk.set(&name, &content);
    let page = log.page(None, 100, Timestamp::UNIX_EPOCH);
    assert_eq!(page.unreadable, [LetterId::new(2)]);
    assert_eq!(page.letters.len(), 8);
}

#[test]
fn a_later_version_is_rejected_and_left_alone() {
    let disk = nine();
    let content = disk.content(&letters_name(1));
    let line = content.split(|byte| *byte == b'\n').nth(1).unwrap();
    let line = String::from_utf8(line.to_vec()).unwrap();
    let rest = line[18..].replace("\"v\":1", "\"v\":2");
    let crc = super::super::super::state::crc::crc32(rest.as_bytes());
    disk.set(
        &letters_name(9),
        format!("{{\"crc\":\"{crc:08x}\",{rest}\nhalf a line").as_bytes(),
    );
    // Nor is anything else repaired.
    let padded = [&content, &b"\n\n"[..]].concat();
    disk.set(&letters_name(1), &padded);
    disk.set(&changes_name(7), b"");
    let look = || -> Vec<_> {
        let names = disk.names().into_iter();
        names.map(|name| (disk.content(&name), name)).collect()
    };
    let before = look();
    let error = Log::open(disk.clone(), settings()).err().unwrap();
    assert_eq!(error.kind(), DeadLetterErrorKind::Version);
    assert_eq!(
        error.context(),
        "letters-00000009.jsonl is of version 2, known is 1"
    );
    assert_eq!(look(), before);
}

#[test]
fn a_full_disk_rejects_letters_and_takes_them_again_when_there_is_room() {
    let disk = SimDisk::default();
    let mut log = open(&disk);
    log.commit(&[pending(1)]).unwrap();
    {
        let mut sim = lock(&disk.0);
        // Fails the padded write and its truncation, so that the write without padding is next.
        sim.fails_at = Some((sim.operations + 1, 100));
        sim.fails_for = 2;
        sim.error = Some(io::ErrorKind::StorageFull);
    }
    let error = log.commit(&[pending(2)]).unwrap_err();
    let error = super::super::disk::io_error("write letters", error);
    assert_eq!(error.kind(), DeadLetterErrorKind::StorageFull);
    assert_eq!(ids(&mut log), [1]);
    log.commit(&[pending(3)]).unwrap();
    assert_eq!(ids(&mut log), [1, 3]);
    assert_eq!(ids(&mut open(&disk)), [1, 3]);
}

#[test]
fn a_full_disk_does_not_accumulate_empty_files() {
    let disk = SimDisk::default();
    let mut log = open(&disk);
    log.commit(&[pending(1)]).unwrap();
    for id in 2..50 {
        let operations = lock(&disk.0).operations;
        lock(&disk.0).fails_at = Some((operations + 1, 30));
        lock(&disk.0).fails_for = 2;
        log.commit(&[pending(id)]).unwrap_err();
    }
    assert!(disk.names().len() <= 2, "{:?}", disk.names());
}

#[test]
fn a_torn_change_does_not_corrupt_the_next_one() {
    let disk = SimDisk::default();
    let mut log = open(&disk);
    log.commit(&[1, 2, 3].map(pending)).unwrap();
    let operations = lock(&disk.0).operations;
    lock(&disk.0).fails_at = Some((operations + 1, 20));
    change(&mut log, 1, Change::Delivered).unwrap_err();
    change(&mut log, 2, Change::Delivered).unwrap();
    assert_eq!(ids(&mut log), [1, 3]);
    assert_eq!(ids(&mut open(&disk)), [1, 3]);
}

#[test]
fn segments_are_rewritten_and_deleted_as_their_letters_are_removed() {
    let disk = nine();
    let mut log = open(&disk);
    let first = disk.content(&letters_name(1)).len();
    let kept = ids(&mut log)[0];
    change(&mut log, kept, Change::Begin).unwrap();
    change(&mut log, kept, Change::Park).unwrap();
    for id in ids(&mut log).into_iter().filter(|id| *id != kept) {
        change(&mut log, id, Change::Delivered).unwrap();
    }
    log.tidy();
    assert!(disk.content(&letters_name(1)).len() < first / 2);
    // The state of the letter has survived, in fewer lines.
    let changes = disk.content(&changes_name(1));
    assert_eq!(changes.iter().filter(|byte| **byte == b'\n').count(), 1);
    let expected = BTreeMap::from([(kept, (format!("request {kept}"), 1, true))]);
    assert_eq!(readable(&mut log), expected);
    assert_eq!(readable(&mut open(&disk)), expected);
    change(&mut log, kept, Change::Delivered).unwrap();
    log.tidy();
    // The active segment stays, and so does the next number.
    assert_eq!(log.segments.len(), 1);
    assert!(open(&disk).next_id > LetterId::new(9));
}

#[test]
fn the_oldest_are_evicted_and_stay_away() {
    let evicting = |max_letters, max_bytes| Settings {
        limits: Limits {
            max_letters,
            max_bytes,
            max_age: Duration::from_micros(100),
            when_full: WhenFull::EvictOldest,
        },
        ..settings()
    };
    let disk = SimDisk::default();
    let mut log = Log::open(disk.clone(), evicting(3, u64::MAX)).unwrap();
    for id in 1..=5 {
        log.commit(&[pending(id)]).unwrap();
    }
    assert_eq!(ids(&mut log), [3, 4, 5]);
    assert_eq!(ids(&mut open(&disk)), [3, 4, 5]);
    // Letter 3 was stored at 3 µs.
    log.expire(Timestamp::from_micros(102));
    assert_eq!(ids(&mut log), [3, 4, 5]);
    log.expire(Timestamp::from_micros(103));
    assert_eq!(ids(&mut log), [4, 5]);
    // Opening it with smaller limits evicts the rest.
    let bytes = pending(5).line.len() as u64;
    let mut log = Log::open(disk.clone(), evicting(3, bytes)).unwrap();
    assert_eq!(ids(&mut log), [5]);
}

#[test]
fn a_letter_that_fits_is_stored_where_the_padding_does_not() {
    let disk = SimDisk::default();
    let mut log = open(&disk);
    log.commit(&[pending(1)]).unwrap();
    // The write fails with padding, and succeeds without it.
    let operations = lock(&disk.0).operations;
    lock(&disk.0).fails_at = Some((operations + 1, 300));
    log.commit(&[2, 3].map(pending)).unwrap();
    assert_eq!(ids(&mut log), [1, 2, 3]);
    log.commit(&[pending(4)]).unwrap();
    assert_eq!(ids(&mut open(&disk)), [1, 2, 3, 4]);
}

#[test]
fn the_padding_is_removed_when_the_log_is_closed_or_opened() {
    let disk = SimDisk::default();
    let mut log = open(&disk);
    log.commit(&[pending(1)]).unwrap();
    let name = letters_name(1);
    assert_eq!(disk.content(&name).len(), 500);
    log.trim();
    assert!(disk.content(&name).ends_with(&pending(1).line));
    // After a crash, they are removed when the log is opened, and do not count as damage.
    log.commit(&[pending(2)]).unwrap();
    drop(log);
    assert!(disk.content(&name).ends_with(b"\n\n"));
    let log = open(&disk);
    assert_eq!(log.events, []);
    assert!(disk.content(&name).ends_with(&pending(2).line));
}

#[test]
fn a_record_damaged_before_padding_is_rescued() {
    let disk = SimDisk::default();
    let mut log = open(&disk);
    log.commit(&[pending(1)]).unwrap();
    drop(log);
    let name = letters_name(1);
    let mut content = disk.content(&name);
    let at = content
        .windows(9)
        .position(|part| part == b"request 1")
        .unwrap();
    content[at] = b'X';
    disk.set(&name, &content);
    let log = open(&disk);
    assert!(matches!(log.events[..], [LetterEvent::TornTail { .. }]));
    assert!(
        String::from_utf8(disk.content(DAMAGED))
            .unwrap()
            .contains("Xequest 1")
    );
}

#[test]
fn files_of_others_are_left_alone() {
    let disk = nine();
    for name in ["notes.txt", "letters-1.jsonl", "letters-x.jsonl", "lock"] {
        disk.set(name, b"mine");
    }
    let mut log = open(&disk);
    assert_eq!(ids(&mut log).len(), 9);
    assert!(log.events.is_empty());
    assert_eq!(disk.content("letters-1.jsonl"), b"mine");
}

#[test]
fn numbers_are_not_used_again_after_all_letters_were_removed() {
    let disk = nine();
    let mut log = open(&disk);
    for id in 1..=9 {
        change(&mut log, id, Change::Delivered).unwrap();
    }
    assert_eq!(log.next_id, LetterId::new(10));
    log.commit(&[pending(10)]).unwrap();
    assert_eq!(log.next_id, LetterId::new(11));
    change(&mut log, 10, Change::Delivered).unwrap();
    log.tidy();
    assert!(ids(&mut open(&disk)).is_empty());
    assert_eq!(open(&disk).next_id, LetterId::new(11));
}

#[test]
fn a_file_that_has_reached_its_length_takes_no_more_letters() {
    let disk = SimDisk::default();
    let mut log = open(&disk);
    log.commit(&[pending(1)]).unwrap();
    log.trim();
    let length = disk.content(&letters_name(1)).len() as u64;
    for (segment_bytes, name) in [(length + 1, 1), (length, 2)] {
        let settings = Settings {
            segment_bytes,
            ..settings()
        };
        let disk = disk.copy();
        let mut log = Log::open(disk.clone(), settings).unwrap();
        log.commit(&[pending(2)]).unwrap();
        let content = String::from_utf8(disk.content(&letters_name(name))).unwrap();
        assert!(content.contains("request 2"), "{segment_bytes}");
    }
}

#[test]
fn an_eviction_that_cannot_be_written_is_reported() {
    let disk = nine();
    let mut log = open(&disk);
    let evicted = log.book.remove(LetterId::new(1)).unwrap();
    {
        let mut sim = lock(&disk.0);
        sim.fails_at = Some((sim.operations + 1, 0));
        // Neither the change can be written, nor the letter overwritten.
        sim.fails_for = 10;
        sim.error = Some(io::ErrorKind::StorageFull);
    }
    log.events.clear();
    let cause = crate::event::Eviction::Count;
    log.evict(vec![(LetterId::new(1), evicted, cause)]);
    let failed = |event: &LetterEvent| matches!(event, LetterEvent::MaintenanceFailed { .. });
    assert_eq!(log.events.iter().filter(|event| failed(event)).count(), 1);
}

#[test]
fn a_file_that_could_not_be_deleted_is_deleted_later() {
    let disk = nine();
    let mut log = open(&disk);
    for id in 1..=9 {
        change(&mut log, id, Change::Delivered).unwrap();
    }
    let names = disk.names().len();
    {
        let mut sim = lock(&disk.0);
        (sim.fails_at, sim.fails_for) = (Some((sim.operations + 1, 0)), 100);
    }
    log.events.clear();
    log.tidy();
    let failed = |event: &LetterEvent| matches!(event, LetterEvent::MaintenanceFailed { .. });
    assert_eq!(log.events.iter().filter(|event| failed(event)).count(), 1);
    assert_eq!(disk.names().len(), names);
    lock(&disk.0).fails_at = None;
    log.events.clear();
    log.tidy();
    assert!(disk.names().len() < names, "{:?}", disk.names());
    assert!(!log.events.iter().any(failed));
    assert!(ids(&mut open(&disk)).is_empty());
}

#[test]
fn no_more_letters_wait_than_may() {
    let sink = FileSink::start(open(&SimDisk::default()), 2, ()).unwrap();
    let waiting = &sink.shared.writer.waiting;
    // Simulates a thread that has not processed them yet.
    waiting.store(2, Ordering::Relaxed);
    let refused = sink.store_line(pending(1)).map(drop).unwrap_err();
    assert_eq!(refused.kind(), DeadLetterErrorKind::Overloaded);
    waiting.store(1, Ordering::Relaxed);
    assert!(sink.store_line(pending(1)).is_ok());
}

#[test]
fn the_number_of_a_damaged_letter_that_was_removed_is_not_used_again() {
    let disk = nine();
    let mut log = open(&disk);
    change(&mut log, 9, Change::Delivered).unwrap();
    drop(log);
    let name = disk.names().pop().unwrap();
    let content = disk.content(&name);
    let damaged = String::from_utf8(content).unwrap();
    disk.set(&name, damaged.replace("request 9", "request X").as_bytes());
    // Otherwise the letter would be gone once the log is opened again.
    let mut log = open(&disk);
    assert_eq!(log.next_id, LetterId::new(10));
    log.commit(&[pending(10)]).unwrap();
    assert_eq!(ids(&mut open(&disk)), [1, 2, 3, 4, 5, 6, 7, 8, 10]);
}
