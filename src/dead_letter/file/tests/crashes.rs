//! Simulates the end of the process, and power losses, at every operation and after any part of it.

use super::*;

/// An operation of a test on a log.
#[derive(Clone, Debug)]
enum Step {
    /// Stores this many letters at once.
    Store(u64),
    /// Changes the letter with this number, counted from the oldest.
    Change(usize, Change),
    Tidy,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let change = prop_oneof![
        4 => Just(Change::Delivered),
        1 => Just(Change::Discard),
        1 => Just(Change::Begin),
        1 => Just(Change::failed(Timestamp::from_micros(9), "down".into(), false)),
        1 => Just(Change::Park),
    ];
    let step = prop_oneof![
        2 => (1_u64..6).prop_map(Step::Store),
        5 => (0_usize..20, change).prop_map(|(at, change)| Step::Change(at, change)),
        2 => Just(Step::Tidy),
    ];
    prop::collection::vec(step, 1..40)
}

/// The results that the caller of a log has received.
#[derive(Clone, Debug, Default)]
struct Told {
    /// Letters that were acknowledged and not removed.
    kept: BTreeMap<u64, bool>,
    /// Letters whose removal was acknowledged.
    gone: Vec<u64>,
    /// Letters of a failed write or change, which may or may not be there.
    open: Vec<u64>,
}

fn play(log: &mut Log<SimDisk>, steps: &[Step]) -> Told {
    let (mut told, mut next) = (Told::default(), 1);
    for step in steps {
        match step {
            Step::Store(count) => {
                let letters: Vec<_> = (next..next + count).map(pending).collect();
                next += count;
                let numbers = letters.iter().map(|letter| letter.id.get());
                match log.commit(&letters) {
                    Ok(()) => told.kept.extend(numbers.map(|id| (id, false))),
                    Err(_) => told.open.extend(numbers),
                }
            }
            Step::Change(at, wanted) => {
                let Some(&id) = told.kept.keys().nth(*at) else {
                    continue;
                };
                match change(log, id, wanted.clone()) {
                    Ok(()) if wanted.removes() => {
                        told.kept.remove(&id);
                        told.gone.push(id);
                    }
                    Ok(()) if *wanted == Change::Park => {
                        told.kept.insert(id, true);
                    }
                    Ok(()) => {}
                    Err(_) => {
                        told.kept.remove(&id);
                        told.open.push(id);
                    }
                }
            }
            Step::Tidy => log.tidy(),
        }
    }
    told
}

/// Checks that every acknowledged letter is there once and unchanged, and that no removed letter is back.
fn check(disk: &SimDisk, told: &Told) {
    let mut log = open(disk);
    let found = readable(&mut log);
    for (id, parked) in &told.kept {
        let (request, _, is_parked) = found
            .get(id)
            .unwrap_or_else(|| panic!("letter {id} is lost"));
        assert_eq!(*request, format!("request {id}"));
        assert!(!parked || *is_parked, "letter {id} is not parked any more");
    }
    for id in found.keys() {
        assert!(!told.gone.contains(id), "letter {id} is back");
        assert!(
            told.kept.contains_key(id) || told.open.contains(id),
            "letter {id}"
        );
    }
    // No number is reused, and the log is writable.
    let largest = told
        .kept
        .keys()
        .chain(&told.gone)
        .max()
        .copied()
        .unwrap_or(0);
    assert!(log.next_id.get() > largest);
    let next = log.next_id.get();
    log.commit(&[pending(next)]).unwrap();
    assert!(ids(&mut open(disk)).contains(&next));
}

fn crash_at(operation: u64, part: usize) -> SimDisk {
    SimDisk::of(Sim {
        fails_at: Some((operation, part)),
        fails_for: u64::MAX,
        ..Sim::default()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Process kill: written data survives, synced or not.
    #[test]
    fn a_kill_at_any_operation_loses_nothing_acknowledged(
        steps in steps(),
        operation in 1_u64..80,
        part in 0_usize..600,
    ) {
        let disk = crash_at(operation, part);
        let mut log = open(&disk);
        let told = play(&mut log, &steps);
        let mut left = lock(&disk.0).clone();
        left.fails_at = None;
        check(&SimDisk::of(left), &told);
    }

    /// Power loss: data that was not synced survives in part.
    #[test]
    fn a_loss_of_power_at_any_operation_loses_nothing_acknowledged(
        steps in steps(),
        operation in 1_u64..80,
        part in 0_usize..600,
        names in any::<u64>(),
        unsafe_part in any::<prop::sample::Index>(),
    ) {
        let disk = crash_at(operation, part);
        let mut log = open(&disk);
        let told = play(&mut log, &steps);
        let left = lock(&disk.0).lose_power(names, |length| unsafe_part.index(length + 1));
        check(&SimDisk::of(left), &told);
    }

    /// A full disk, and a kill at any operation on it.
    #[test]
    fn a_kill_on_a_full_disk_loses_nothing_acknowledged(
        steps in steps(),
        capacity in 300_usize..4000,
        reserve_bytes in prop_oneof![Just(0_u64), Just(1), Just(300), Just(1500)],
        operation in prop_oneof![1 => Just(u64::MAX), 2 => 1_u64..120],
        part in 0_usize..600,
    ) {
        let disk = crash_at(operation, part);
        lock(&disk.0).capacity = Some(capacity);
        let settings = Settings { reserve_bytes, ..settings() };
        let mut log = Log::open(disk.clone(), settings).unwrap();
        let told = play(&mut log, &steps);
        if lock(&disk.0).operations < operation {
            let found = readable(&mut log);
            for id in told.kept.keys() {
                prop_assert!(found.contains_key(id), "letter {} is lost", id);
            }
        }
        drop(log);
        lock(&disk.0).fails_at = None;
        // It also opens on the full disk.
        readable(&mut Log::open(disk.copy(), settings).unwrap());
        lock(&disk.0).capacity = None;
        check(&disk, &told);
    }

    /// A loss of power on a full disk.
    #[test]
    fn a_loss_of_power_on_a_full_disk_loses_nothing_acknowledged(
        steps in steps(),
        capacity in 300_usize..4000,
        reserve_bytes in prop_oneof![Just(0_u64), Just(1), Just(300), Just(1500)],
        operation in prop_oneof![1 => Just(u64::MAX), 2 => 1_u64..120],
        part in 0_usize..600,
        names in any::<u64>(),
        unsafe_part in any::<prop::sample::Index>(),
    ) {
        let disk = crash_at(operation, part);
        lock(&disk.0).capacity = Some(capacity);
        let settings = Settings { reserve_bytes, ..settings() };
        let told = play(&mut Log::open(disk.clone(), settings).unwrap(), &steps);
        let left = lock(&disk.0).lose_power(names, |length| unsafe_part.index(length + 1));
        check(&SimDisk::of(left), &told);
    }

    /// A few operations fail, and the process continues.
    #[test]
    fn failed_operations_lose_only_their_own_letters(
        steps in steps(),
        operation in 1_u64..80,
        part in 0_usize..600,
        fails_for in 0_u64..3,
    ) {
        let disk = SimDisk::of(Sim {
            fails_at: Some((operation, part)),
            fails_for,
            ..Sim::default()
        });
        let mut log = open(&disk);
        let told = play(&mut log, &steps);
        let found = readable(&mut log);
        for id in told.kept.keys() {
            prop_assert!(found.contains_key(id), "letter {} is lost", id);
        }
        drop(log);
        lock(&disk.0).fails_at = None;
        check(&disk, &told);
    }
}

/// The smallest history that fills, empties, and rewrites segments, cut at every operation and at every byte of it.
#[test]
fn a_kill_at_every_byte_of_a_small_history_loses_nothing_acknowledged() {
    let mut steps = vec![Step::Store(3), Step::Store(3), Step::Store(3)];
    steps.extend([0, 0, 1, 2].map(|at| Step::Change(at, Change::Delivered)));
    steps.extend([
        Step::Tidy,
        Step::Tidy,
        Step::Change(0, Change::Park),
        Step::Store(1),
    ]);
    let whole = SimDisk::default();
    play(&mut open(&whole), &steps);
    let operations = lock(&whole.0).operations;
    assert!(operations > 20);
    for operation in 1..=operations {
        for part in (0..900).step_by(41) {
            let disk = crash_at(operation, part);
            let told = play(&mut open(&disk), &steps);
            let mut left = lock(&disk.0).clone();
            left.fails_at = None;
            check(&SimDisk::of(left), &told);
        }
    }
}
