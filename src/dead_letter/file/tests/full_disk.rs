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
        // The first may find the old file full.
        let _ = log.commit(&[pending(200)]);
        log.tidy();
        for id in 201..204 {
            log.commit(&[pending(id)]).unwrap();
            log.tidy();
        }
        let stored = ids(&mut log);
        assert!(stored.ends_with(&[201, 202, 203]), "{stored:?}");
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
    assert_eq!(error.kind(), io::ErrorKind::StorageFull);
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
