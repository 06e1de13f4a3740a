//! Tests with a disk that has a capacity: what a full one still takes.

use super::*;

/// Returns a full disk, its log, and the number of letters in it.
fn full_disk(segment_bytes: u64, reserve_bytes: u64) -> (SimDisk, Log<SimDisk>, Settings, u64) {
    let disk = SimDisk::default();
    lock(&disk.0).capacity = Some(4000);
    let settings = Settings {
        segment_bytes,
        reserve_bytes,
        ..settings()
    };
    let mut log = Log::open(disk.clone(), settings).unwrap();
    for id in 1..100 {
        let stored = log.commit(&[pending(id)]);
        log.tidy();
        if stored.is_err() {
            return (disk, log, settings, id - 1);
        }
    }
    panic!("the disk has room for all letters");
}

#[test]
fn a_full_disk_takes_changes_and_then_letters_again() {
    // All letters in one segment, and a few in each. With a reserve for all changes, for some, and for none.
    let cases = [1 << 20, 700].map(|segment| [1500, 200, 1].map(|reserve| (segment, reserve)));
    for (segment_bytes, reserve_bytes) in cases.into_iter().flatten() {
        let (disk, mut log, settings, letters) = full_disk(segment_bytes, reserve_bytes);
        assert!(letters > 5);
        for id in 1..=letters {
            change(&mut log, id, Change::Discard).unwrap();
            log.tidy();
        }
        assert!(ids(&mut log).is_empty());
        for id in 200..204 {
            log.commit(&[pending(id)]).unwrap();
            log.tidy();
        }
        let stored = ids(&mut log);
        assert_eq!(stored, [200, 201, 202, 203]);
        let mut log = Log::open(disk, settings).unwrap();
        assert_eq!(ids(&mut log), stored);
        assert_eq!(log.events, []);
    }
}

#[test]
fn letters_that_are_removed_from_a_full_disk_stay_away() {
    for reserve_bytes in [1500, 200, 1] {
        let (disk, mut log, settings, letters) = full_disk(1 << 20, reserve_bytes);
        for id in 1..letters {
            change(&mut log, id, Change::Delivered).unwrap();
            log.tidy();
            let mut log = Log::open(disk.copy(), settings).unwrap();
            assert_eq!(ids(&mut log), (id + 1..=letters).collect::<Vec<_>>());
            assert_eq!(log.events, []);
            assert_eq!(log.next_id, LetterId::new(letters + 1));
        }
    }
}

#[test]
fn a_full_disk_that_was_opened_again_takes_changes() {
    let (disk, log, settings, letters) = full_disk(1 << 20, 1500);
    drop(log);
    let mut log = Log::open(disk.clone(), settings).unwrap();
    for id in 1..=letters {
        change(&mut log, id, Change::Begin).unwrap();
        log.tidy();
        change(&mut log, id, Change::Delivered).unwrap();
        log.tidy();
    }
    assert!(ids(&mut Log::open(disk, settings).unwrap()).is_empty());
}

#[test]
fn letters_do_not_use_the_reserve_for_changes() {
    let (disk, mut log, ..) = full_disk(1 << 20, 1500);
    for id in 300..400 {
        let _ = log.commit(&[pending(id)]);
        log.tidy();
    }
    assert!(disk.content("reserve.tmp").len() >= 1500);
    change(&mut log, 1, Change::Park).unwrap();
}

#[test]
fn a_full_disk_does_not_lose_changes_that_keep_their_letters() {
    let (disk, mut log, settings, letters) = full_disk(1 << 20, 1);
    lock(&disk.0).capacity = Some(0);
    let error = change(&mut log, 1, Change::Park).unwrap_err();
    assert_eq!(error.kind(), DeadLetterErrorKind::StorageFull);
    assert!(readable(&mut log).values().all(|(_, _, parked)| !parked));
    assert_eq!(
        readable(&mut Log::open(disk, settings).unwrap()).len(),
        letters as usize
    );
}

#[test]
fn letters_removed_from_a_full_disk_stay_away_after_a_loss_of_power() {
    let (disk, mut log, settings, letters) = full_disk(1 << 20, 1);
    lock(&disk.0).capacity = Some(0);
    change(&mut log, 1, Change::Discard).unwrap();
    let after = lock(&disk.0).lose_power(0, |_| 0);
    let stored = ids(&mut Log::open(SimDisk::of(after), settings).unwrap());
    assert_eq!(stored, (2..=letters).collect::<Vec<_>>());
}

#[test]
fn the_reserve_does_not_grow_when_the_log_is_opened() {
    let disk = SimDisk::default();
    let settings = Settings {
        reserve_bytes: 5000,
        ..settings()
    };
    for id in 1..4 {
        let mut log = Log::open(disk.clone(), settings).unwrap();
        log.commit(&[pending(id)]).unwrap();
        log.tidy();
        assert_eq!(disk.content("reserve.tmp").len(), 5000);
    }
}

#[test]
fn a_segment_that_was_emptied_for_another_is_not_written_to() {
    let (disk, mut log, settings, letters) = full_disk(1 << 20, 1);
    for id in 1..=letters {
        change(&mut log, id, Change::Discard).unwrap();
    }
    // As if the segment had been full: the next letter begins another one.
    log.settings.segment_bytes = 1;
    log.torn = false;
    lock(&disk.0).capacity = Some(0);
    log.commit(&[pending(100)]).unwrap_err();
    log.settings.segment_bytes = settings.segment_bytes;
    lock(&disk.0).capacity = Some(4000);
    log.commit(&[pending(101)]).unwrap();
    assert_eq!(ids(&mut log), [101]);
    assert_eq!(ids(&mut Log::open(disk, settings).unwrap()), [101]);
}

#[test]
fn a_segment_with_damaged_lines_is_not_emptied_before_they_are_copied() {
    let (disk, mut log, _, letters) = full_disk(1 << 20, 1);
    for id in 1..=letters {
        change(&mut log, id, Change::Discard).unwrap();
    }
    log.segments.update(1, |segment| segment.damaged = true);
    lock(&disk.0).capacity = Some(0);
    log.commit(&[pending(100)]).unwrap_err();
    assert!(!disk.content(&letters_name(1)).is_empty());
}

#[test]
fn numbers_of_letters_removed_from_a_full_disk_are_not_used_again() {
    let (disk, mut log, settings, letters) = full_disk(1 << 20, 1);
    lock(&disk.0).capacity = Some(0);
    for id in (1..=letters).rev() {
        change(&mut log, id, Change::Discard).unwrap();
        let log = Log::open(disk.copy(), settings).unwrap();
        assert_eq!(log.next_id, LetterId::new(letters + 1));
        assert_eq!(log.events, []);
    }
    // The active segment is emptied for the next one, which does not fit nevertheless.
    log.commit(&[pending(letters + 1)]).unwrap_err();
    let log = Log::open(disk, settings).unwrap();
    assert_eq!(log.next_id, LetterId::new(letters + 1));
    assert_eq!(log.events, []);
}

#[test]
fn on_a_full_disk_each_change_of_a_batch_fails_alone() {
    for segment_bytes in [1 << 20, 700] {
        let (disk, mut log, settings, letters) = full_disk(segment_bytes, 1);
        lock(&disk.0).capacity = Some(0);
        let changes = [
            (LetterId::new(1), Change::Discard),
            (LetterId::new(2), Change::Begin),
            (LetterId::new(letters), Change::Park),
            (LetterId::new(3), Change::Delivered),
        ];
        let failed: Vec<_> = log.change(&changes).iter().map(Result::is_err).collect();
        assert_eq!(failed, [false, true, true, false]);
        let stored = readable(&mut log);
        assert!(
            stored
                .values()
                .all(|(_, replays, parked)| *replays == 0 && !parked)
        );
        assert!(stored.keys().all(|id| ![1, 3].contains(id)));
        assert_eq!(stored.len() as u64, letters - 2);
        assert_eq!(readable(&mut Log::open(disk, settings).unwrap()), stored);
    }
}

#[test]
fn letters_evicted_from_a_full_disk_stay_away() {
    let (disk, mut log, settings, letters) = full_disk(1 << 20, 1);
    lock(&disk.0).capacity = Some(0);
    log.expire(Timestamp::from_micros(0));
    log.book = {
        let limits = Limits {
            max_letters: letters - 3,
            when_full: WhenFull::EvictOldest,
            ..settings.limits
        };
        let mut book = super::super::super::state::book::Book::new(limits);
        for (id, entry) in log.book.all() {
            book.insert(id, entry.clone());
        }
        book
    };
    let evicted = log.book.overflow();
    log.evict(evicted);
    let stored: Vec<_> = (4..=letters).collect();
    assert_eq!(ids(&mut log), stored);
    assert_eq!(ids(&mut Log::open(disk, settings).unwrap()), stored);
}

#[test]
fn a_full_disk_opens_after_a_torn_write() {
    // A torn write before padding is copied to another file before it is removed.
    let (disk, log, settings, letters) = full_disk(1 << 20, 300);
    drop(log);
    let name = letters_name(1);
    let torn = [
        &disk.content(&name)[..],
        &pending(99).line[..100],
        b"\n\n\n",
    ]
    .concat();
    disk.set(&name, &torn);
    disk.leave(0);
    let mut log = Log::open(disk.clone(), settings).unwrap();
    assert_eq!(ids(&mut log).len() as u64, letters);
    assert_eq!(disk.content(DAMAGED).len(), 101);
}

#[test]
fn a_rewrite_that_does_not_fit_leaves_the_free_space() {
    let disk = SimDisk::default();
    let settings = Settings {
        segment_bytes: 4000,
        ..settings()
    };
    let mut log = Log::open(disk.clone(), settings).unwrap();
    for id in 1..20 {
        log.commit(&[pending(id)]).unwrap();
    }
    for id in 1..10 {
        change(&mut log, id, Change::Delivered).unwrap();
    }
    assert!(log.segments.wasteful().is_some());
    disk.leave(200);
    log.tidy();
    assert!(!disk.names().contains(&"rewrite.tmp".into()));
    change(&mut log, 12, Change::Park).unwrap();
}

#[test]
fn damaged_lines_of_a_finished_segment_are_copied_on_a_full_disk() {
    let (disk, mut log, settings, letters) = full_disk(700, 300);
    drop(log);
    let name = letters_name(1);
    let mut content = disk.content(&name);
    content[100] ^= 1;
    disk.set(&name, &content);
    log = Log::open(disk.clone(), settings).unwrap();
    for id in 1..=letters {
        let _ = change(&mut log, id, Change::Discard);
        log.tidy();
    }
    assert!(!disk.names().contains(&name));
    assert!(!disk.content(DAMAGED).is_empty());
}

#[test]
fn the_reserve_keeps_its_length_when_it_does_not_fit() {
    let (disk, mut log, ..) = full_disk(1 << 20, 5000);
    log.use_reserve();
    for free in [100, 300, 200, 400] {
        disk.leave(free);
        log.tidy();
    }
    lock(&disk.0).capacity = None;
    log.tidy();
    assert_eq!(disk.content("reserve.tmp").len(), 5000);
}
