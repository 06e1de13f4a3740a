//! Random histories of a disk that is full at times, against a model.

use super::*;

/// A step of a random history.
#[derive(Clone, Debug)]
enum Step {
    Store(u64),
    Change(Vec<(usize, Change)>),
    Tidy,
    /// Sets the free space; `None` is no limit.
    Free(Option<usize>),
    /// Lets a later operation fail, and some after it.
    Fail(u64, usize, u64, io::ErrorKind),
    /// Ends the process without closing the log, and opens it again.
    Kill,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let change = prop_oneof![
        4 => Just(Change::Delivered),
        2 => Just(Change::Discard),
        1 => Just(Change::Begin),
        1 => Just(Change::failed(Timestamp::from_micros(9), "down".into(), false)),
        1 => Just(Change::Park),
        1 => Just(Change::Unpark),
    ];
    let kind = prop_oneof![Just(io::ErrorKind::Other), Just(io::ErrorKind::StorageFull)];
    let step = prop_oneof![
        4 => (1_u64..5).prop_map(Step::Store),
        6 => prop::collection::vec((0_usize..12, change), 1..5).prop_map(Step::Change),
        6 => Just(Step::Tidy),
        2 => prop::option::weighted(0.8, 0_usize..1500).prop_map(Step::Free),
        1 => (1_u64..6, 0_usize..400, 0_u64..3, kind)
            .prop_map(|(at, part, times, kind)| Step::Fail(at, part, times, kind)),
        1 => Just(Step::Kill),
    ];
    prop::collection::vec(step, 1..60)
}

/// The states that a letter may have.
#[derive(Clone, Copy, Debug, Default)]
struct Known {
    /// Whether it is stored; `None` if a write or removal failed.
    stored: Option<bool>,
    parked: Option<bool>,
}

#[derive(Default)]
struct Model(BTreeMap<u64, Known>);

impl Model {
    /// Checks a log against the model, which learns what was uncertain.
    fn check(&mut self, log: &mut Log<SimDisk>) {
        let found = readable(log);
        for (id, (request, _, parked)) in &found {
            assert_eq!(*request, format!("request {id}"));
            let known = self
                .0
                .get_mut(id)
                .unwrap_or_else(|| panic!("letter {id} was never stored"));
            assert_ne!(known.stored, Some(false), "letter {id} is back");
            assert!(
                known.parked.is_none_or(|known| known == *parked),
                "letter {id}"
            );
            *known = Known {
                stored: Some(true),
                parked: Some(*parked),
            };
        }
        for (id, known) in &mut self.0 {
            if !found.contains_key(id) {
                assert_ne!(known.stored, Some(true), "letter {id} is lost");
                known.stored = Some(false);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Space goes and returns, operations fail, and the process is killed and started again.
    #[test]
    fn a_random_history_agrees_with_a_model(
        steps in steps(),
        reserve_bytes in prop_oneof![Just(0_u64), Just(1), Just(300), Just(1500)],
        segment_bytes in prop_oneof![Just(700_u64), Just(1200), Just(1 << 20)],
    ) {
        let disk = SimDisk::default();
        let settings = Settings { reserve_bytes, segment_bytes, ..settings() };
        let mut log = Log::open(disk.clone(), settings).unwrap();
        let (mut model, mut next) = (Model::default(), 1);
        for step in steps {
            match step {
                Step::Store(count) => {
                    let letters: Vec<_> = (next..next + count).map(pending).collect();
                    let stored = log.commit(&letters);
                    for id in next..next + count {
                        let stored = stored.is_ok().then_some(true);
                        model.0.insert(id, Known { stored, parked: Some(false) });
                    }
                    next += count;
                }
                Step::Change(changes) => {
                    let numbers: Vec<_> = ids(&mut log);
                    let changes: Vec<_> = changes
                        .into_iter()
                        .filter_map(|(at, change)| Some((LetterId::new(*numbers.get(at)?), change)))
                        .collect();
                    let answers = log.change(&changes);
                    for ((id, change), answer) in changes.iter().zip(answers) {
                        let known = model.0.get_mut(&id.get()).unwrap();
                        if matches!(answer, Ok(Some(_))) && !change.removes() {
                            // An earlier removal that failed no longer counts.
                            known.stored = Some(true);
                        }
                        match (answer, change) {
                            (Ok(None), _) => {}
                            (Ok(Some(_)), change) if change.removes() => known.stored = Some(false),
                            (Ok(Some(_)), Change::Park) => known.parked = Some(true),
                            (Ok(Some(_)), Change::Unpark) => known.parked = Some(false),
                            (Ok(Some(standing)), _) => known.parked = Some(standing.parked),
                            (Err(_), change) if change.removes() => known.stored = None,
                            (Err(_), _) => known.parked = None,
                        }
                    }
                }
                Step::Tidy => log.tidy(),
                Step::Free(free) => {
                    let free = free.map(|free| disk.used() + free);
                    lock(&disk.0).capacity = free;
                }
                Step::Fail(at, part, times, kind) => {
                    let mut sim = lock(&disk.0);
                    sim.fails_at = Some((sim.operations + at, part));
                    sim.fails_for = times;
                    sim.error = Some(kind);
                }
                Step::Kill => {
                    drop(log);
                    lock(&disk.0).fails_at = None;
                    // Without space it opens, too.
                    log = Log::open(disk.clone(), settings).unwrap();
                    model.check(&mut log);
                    for id in model.0.keys() {
                        prop_assert!(log.next_id.get() > *id || model.0[id].stored != Some(true));
                    }
                    next = next.max(log.next_id.get());
                }
            }
        }
        {
            let mut sim = lock(&disk.0);
            (sim.fails_at, sim.capacity) = (None, None);
        }
        // There is space again, so letters can be stored and removed, and their files deleted.
        model.check(&mut Log::open(disk.copy(), settings).unwrap());
        log = Log::open(disk.clone(), settings).unwrap();
        log.commit(&[pending(next)]).unwrap();
        log.tidy();
        for id in ids(&mut log) {
            change(&mut log, id, Change::Delivered).unwrap();
            log.tidy();
        }
        let letters = disk.names().into_iter().filter(|name| name.starts_with("letters-"));
        prop_assert_eq!(letters.count(), 1);
        prop_assert_eq!(disk.content("reserve.tmp").len() as u64, reserve_bytes);
        prop_assert!(ids(&mut Log::open(disk, settings).unwrap()).is_empty());
    }
}
