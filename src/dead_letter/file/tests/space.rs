//! Tests of what frees space on a full disk, and of what happens when there is space again.

use super::*;

/// Returns the log of a disk with letters in segments of a few letters each, and their number.
fn segments(reserve_bytes: u64) -> (SimDisk, Log<SimDisk>, Settings, u64) {
    let disk = SimDisk::default();
    let settings = Settings {
        reserve_bytes,
        ..settings()
    };
    let mut log = Log::open(disk.clone(), settings).unwrap();
    for id in 1..=20 {
        log.commit(&[pending(id)]).unwrap();
        log.tidy();
    }
    assert!(log.segments.len() > 3);
    (disk, log, settings, 20)
}

#[test]
fn a_file_that_cannot_be_deleted_does_not_keep_the_other_ones() {
    let (disk, log, settings, letters) = segments(300);
    drop(log);
    // More damaged bytes than the reserve has.
    let name = letters_name(1);
    let mut content = disk.content(&name);
    let line = content.iter().position(|byte| *byte == b'\n').unwrap() + 1;
    content.splice(line..line, [&[b'x'; 600][..], b"\n"].concat());
    disk.set(&name, &content);
    let mut log = Log::open(disk.clone(), settings).unwrap();
    disk.leave(0);
    for id in 1..=letters {
        change(&mut log, id, Change::Discard).unwrap();
    }
    log.tidy();
    assert!(!disk.names().contains(&letters_name(2)));
    // The others made room for the damaged bytes.
    log.tidy();
    assert!(!disk.names().contains(&name));
    assert_eq!(disk.content(DAMAGED).len(), 601);
}

#[test]
fn a_file_that_cannot_be_rewritten_does_not_keep_the_other_ones() {
    let (disk, mut log, _, letters) = segments(0);
    let kept: Vec<_> = (1..=letters).filter(|id| id % 4 == 1).collect();
    for id in 1..=letters {
        if !kept.contains(&id) {
            change(&mut log, id, Change::Discard).unwrap();
        }
    }
    let length = disk.content(&letters_name(2)).len();
    lock(&disk.0).unreadable = Some(letters_name(1));
    for _ in 0..10 {
        log.tidy();
    }
    assert!(disk.content(&letters_name(2)).len() < length);
    lock(&disk.0).unreadable = None;
    assert_eq!(ids(&mut log), kept);
}

#[test]
fn the_reserve_is_used_to_rewrite_a_file_of_few_letters() {
    for reserve_bytes in [100, 1500] {
        let (disk, mut log, settings, letters) = segments(reserve_bytes);
        let kept: Vec<_> = (1..=letters).filter(|id| id % 4 == 1).collect();
        for id in 1..=letters {
            if !kept.contains(&id) {
                change(&mut log, id, Change::Discard).unwrap();
            }
        }
        disk.leave(0);
        let before = disk.used();
        for _ in 0..10 {
            log.tidy();
        }
        assert_eq!(disk.used() < before - 1500, reserve_bytes > 1000);
        assert_eq!(disk.content("reserve.tmp").len() as u64, reserve_bytes);
        assert_eq!(ids(&mut Log::open(disk, settings).unwrap()), kept);
    }
}

#[test]
fn a_rewrite_that_does_not_fit_is_tried_again_once_it_may_fit() {
    let (disk, mut log, ..) = segments(0);
    // Only the first segment, from four letters to one.
    for id in 1..=3 {
        change(&mut log, id, Change::Discard).unwrap();
    }
    disk.leave(0);
    log.tidy();
    let failed = |log: &mut Log<SimDisk>| std::mem::take(&mut log.events).len();
    assert_eq!(failed(&mut log), 1);
    let before = lock(&disk.0).operations;
    for _ in 0..10 {
        log.tidy();
    }
    assert_eq!((failed(&mut log), lock(&disk.0).operations), (0, before));
    // There is room for another file.
    lock(&disk.0).capacity = None;
    log.torn = true;
    log.commit(&[pending(100)]).unwrap();
    let length = disk.content(&letters_name(1)).len();
    log.tidy();
    assert!(disk.content(&letters_name(1)).len() < length);
}

#[test]
fn damaged_lines_that_do_not_fit_are_not_copied_at_each_tidy() {
    let (disk, log, settings, letters) = segments(0);
    drop(log);
    let name = letters_name(1);
    let mut content = disk.content(&name);
    content[100] ^= 1;
    disk.set(&name, &content);
    let mut log = Log::open(disk.clone(), settings).unwrap();
    for id in (1..=letters).rev() {
        if id < 6 {
            disk.leave(0);
        }
        change(&mut log, id, Change::Discard).unwrap();
        log.tidy();
    }
    log.events.clear();
    let before = lock(&disk.0).operations;
    for _ in 0..10 {
        log.tidy();
    }
    assert_eq!((log.events.len(), lock(&disk.0).operations), (0, before));
    assert!(disk.names().contains(&name));
    // There is room for another file.
    lock(&disk.0).capacity = None;
    log.torn = true;
    log.commit(&[pending(100)]).unwrap();
    log.tidy();
    assert!(!disk.names().contains(&name));
    assert!(!disk.content(DAMAGED).is_empty());
}

#[test]
fn a_change_after_a_removal_that_failed_counts() {
    for error in [io::ErrorKind::Other, io::ErrorKind::StorageFull] {
        let (disk, mut log, settings, _) = segments(0);
        // The line is written but not synced.
        let operation = lock(&disk.0).operations + 2;
        {
            let mut sim = lock(&disk.0);
            sim.fails_at = Some((operation, 0));
            sim.fails_for = 1000;
            sim.error = Some(error);
        }
        change(&mut log, 1, Change::Discard).unwrap_err();
        lock(&disk.0).fails_at = None;
        change(&mut log, 1, Change::Park).unwrap();
        let stored = readable(&mut log);
        assert!(stored[&1].2);
        assert_eq!(readable(&mut Log::open(disk, settings).unwrap()), stored);
    }
}

#[test]
fn damaged_lines_survive_a_loss_of_power_after_their_file_was_deleted() {
    let (disk, log, settings, letters) = segments(0);
    drop(log);
    let name = letters_name(1);
    let mut content = disk.content(&name);
    content[100] ^= 1;
    lock(&disk.0).files.get_mut(&name).unwrap().content = content;
    let mut log = Log::open(disk.clone(), settings).unwrap();
    for id in 2..=letters {
        let _ = change(&mut log, id, Change::Discard);
    }
    disk.clone().sync_names().unwrap();
    // The sync of names after the file is deleted fails.
    for at in 1..6 {
        let disk = disk.copy();
        log.disk = disk.clone();
        {
            let mut sim = lock(&disk.0);
            sim.fails_at = Some((sim.operations + at, 0));
            sim.fails_for = u64::MAX;
        }
        log.tidy();
        log.segments.update(1, |segment| segment.damaged = true);
        // Any of the changes of names may be lost that are not synced.
        for names in 0..16 {
            let after = SimDisk::of(lock(&disk.0).lose_power(names, |_| 0));
            assert!(after.names().contains(&name) || !after.content(DAMAGED).is_empty());
        }
    }
}

#[test]
fn damaged_lines_of_before_are_not_removed_by_an_error() {
    let disk = SimDisk::default();
    let mut log = open(&disk);
    log.keep_damaged(b"old\n").unwrap();
    {
        let mut sim = lock(&disk.0);
        sim.unreadable = Some(DAMAGED.into());
        sim.fails_at = Some((sim.operations + 1, 2));
    }
    log.keep_damaged(b"new\n").unwrap_err();
    assert!(disk.content(DAMAGED).starts_with(b"old\n"));
}

#[test]
fn an_intact_line_that_is_not_a_letter_is_kept_when_its_file_is_deleted() {
    let (disk, log, settings, letters) = segments(0);
    drop(log);
    let name = letters_name(1);
    // A line of a change log, and a damaged one behind it.
    let mut content = disk.content(&name);
    let change_line = record::change(LetterId::new(1), &record::State::Kept(Default::default()));
    let line = content.iter().position(|byte| *byte == b'\n').unwrap() + 1;
    let foreign = [&change_line[..], b"xyz\n"].concat();
    content.splice(line..line, foreign.clone());
    disk.set(&name, &content);
    let mut log = Log::open(disk.clone(), settings).unwrap();
    assert!(log.events.contains(&LetterEvent::Damaged { lines: 2 }));
    for id in 1..=letters {
        change(&mut log, id, Change::Discard).unwrap();
    }
    log.tidy();
    assert!(!disk.names().contains(&name));
    assert_eq!(disk.content(DAMAGED), foreign);
}

#[test]
fn a_full_disk_without_a_reserve_opens_after_a_torn_write() {
    let (disk, log, settings, letters) = segments(0);
    let (number, _) = log.segments.active().unwrap();
    drop(log);
    let name = letters_name(number);
    let mut content = disk.content(&name);
    while content.ends_with(b"\n") {
        content.pop();
    }
    let torn = [&content, &b"\n"[..], &pending(99).line[..150], b"\n\n"].concat();
    disk.set(&name, &torn);
    disk.leave(0);
    let mut log = Log::open(disk.clone(), settings).unwrap();
    let stored: Vec<_> = (1..=letters).collect();
    assert_eq!(ids(&mut log), stored);
    // The torn write is neither lost nor written behind.
    log.commit(&[pending(100)]).unwrap_err();
    change(&mut log, 1, Change::Discard).unwrap();
    lock(&disk.0).capacity = None;
    log.commit(&[pending(101)]).unwrap();
    drop(log);
    let mut log = Log::open(disk.clone(), settings).unwrap();
    for id in ids(&mut log) {
        change(&mut log, id, Change::Discard).unwrap();
    }
    log.tidy();
    assert!(!disk.names().contains(&name));
    assert_eq!(
        disk.content(DAMAGED),
        [&pending(99).line[..150], b"\n"].concat()
    );
}

#[test]
fn a_letter_behind_a_torn_write_that_was_left_is_stored() {
    let (disk, log, settings, letters) = segments(0);
    let (number, _) = log.segments.active().unwrap();
    drop(log);
    let name = letters_name(number);
    let content = disk.content(&name);
    let content = content.trim_ascii_end();
    let torn = [content, b"\n", &pending(99).line[..150], b"\n\n\n\n"].concat();
    disk.set(&name, &torn);
    disk.leave(0);
    let settings = Settings {
        segment_bytes: 1 << 20,
        ..settings
    };
    let mut log = Log::open(disk.clone(), settings).unwrap();
    let failed = LetterEvent::MaintenanceFailed {
        error: io::ErrorKind::StorageFull,
    };
    assert!(log.events.contains(&failed));
    // Room for a letter in the same file.
    lock(&disk.0).capacity = None;
    log.commit(&[pending(100)]).unwrap();
    assert_eq!(log.segments.active().unwrap().0, number);
    let stored: Vec<_> = (1..=letters).chain([100]).collect();
    assert_eq!(ids(&mut log), stored);
    drop(log);
    let mut log = Log::open(disk.clone(), settings).unwrap();
    assert_eq!(ids(&mut log), stored);
    assert!(log.events.contains(&LetterEvent::Damaged { lines: 1 }));
}

#[test]
fn a_full_disk_opens_after_a_torn_change() {
    let (disk, mut log, settings, letters) = segments(0);
    change(&mut log, 1, Change::Park).unwrap();
    drop(log);
    let name = changes_name(1);
    disk.set(&name, &[&disk.content(&name), &b"{\"crc\n\n"[..]].concat());
    disk.leave(0);
    let mut log = Log::open(disk.clone(), settings).unwrap();
    assert_eq!(ids(&mut log).len() as u64, letters);
    lock(&disk.0).capacity = None;
    change(&mut log, 2, Change::Park).unwrap();
    let stored = readable(&mut log);
    assert!(stored[&1].2 && stored[&2].2);
    assert_eq!(readable(&mut Log::open(disk, settings).unwrap()), stored);
}

#[test]
fn after_all_letters_were_discarded_the_next_one_is_stored() {
    for (segment_bytes, reserve_bytes) in [(1 << 20, 0), (1 << 20, 1500), (700, 0), (700, 1500)] {
        let disk = SimDisk::default();
        lock(&disk.0).capacity = Some(6000);
        let settings = Settings {
            segment_bytes,
            reserve_bytes,
            ..settings()
        };
        let mut log = Log::open(disk.clone(), settings).unwrap();
        let mut next = 1;
        while log.commit(&[pending(next)]).is_ok() {
            log.tidy();
            next += 1;
        }
        for id in 1..next {
            change(&mut log, id, Change::Discard).unwrap();
            log.tidy();
        }
        for id in 200..204 {
            log.commit(&[pending(id)]).unwrap();
            log.tidy();
        }
        assert_eq!(ids(&mut log), [200, 201, 202, 203]);
        assert_eq!(
            ids(&mut Log::open(disk, settings).unwrap()),
            [200, 201, 202, 203]
        );
    }
}

#[test]
fn a_full_file_of_discarded_letters_does_not_reject_the_next_one() {
    let disk = SimDisk::default();
    let settings = Settings {
        segment_bytes: 1 << 20,
        ..settings()
    };
    let mut log = Log::open(disk.clone(), settings).unwrap();
    for id in 1..=5 {
        log.commit(&[pending(id)]).unwrap();
    }
    for id in 1..=5 {
        change(&mut log, id, Change::Discard).unwrap();
    }
    log.trim();
    disk.leave(0);
    log.commit(&[pending(6)]).unwrap();
    log.tidy();
    assert_eq!(ids(&mut log), [6]);
    assert_eq!(ids(&mut Log::open(disk, settings).unwrap()), [6]);
}
