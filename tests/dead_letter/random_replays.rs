//! Random histories of replays against a model: letters are discarded, parked, unparked, and stored meanwhile.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::time::Duration;

use backstop::dead_letter::{Filter, Letter, NewLetter};
use backstop::{Error, ManualClock, Reason, Rejected};

use crate::{Queue, builder, id};

const MAX_REPLAYS: u32 = 3;

/// A letter as it has to be.
#[derive(Debug, Default)]
struct Expected {
    parked: bool,
    replays: u32,
    in_flight: bool,
}

/// What the attempts of a run share.
struct History {
    seed: u64,
    queue: Queue,
    clock: ManualClock,
    random: RefCell<u64>,
    letters: RefCell<BTreeMap<u64, Expected>>,
    /// Attempts that were delivered, failed, and were rejected.
    ends: RefCell<[u64; 3]>,
}

impl History {
    /// Returns a number below `bound` (xorshift).
    fn random(&self, bound: u64) -> u64 {
        let mut random = self.random.borrow_mut();
        *random ^= *random << 13;
        *random ^= *random >> 7;
        *random ^= *random << 17;
        *random % bound
    }

    async fn push(&self) {
        let id = self.queue.push(NewLetter::new("x".into())).await.unwrap();
        let mut letters = self.letters.borrow_mut();
        letters.insert(id.get(), Expected::default());
    }

    /// Checks that a letter may be sent.
    fn begin(&self, letter: &Letter<String>) {
        let (seed, id) = (self.seed, letter.id());
        let mut letters = self.letters.borrow_mut();
        let expected = letters.get_mut(&id.get());
        let expected = expected.unwrap_or_else(|| panic!("seed {seed}: {id} was discarded"));
        assert!(!expected.parked, "seed {seed}: {id} is parked");
        assert!(
            !expected.in_flight,
            "seed {seed}: {id} is sent twice at once"
        );
        expected.in_flight = true;
        expected.replays += 1;
        assert_eq!(letter.replays(), expected.replays, "seed {seed}: {id}");
        assert!(expected.replays <= MAX_REPLAYS, "seed {seed}: {id}");
    }

    /// Changes some letter.
    async fn disturb(&self, own: u64) {
        let other = 1 + self.random(24);
        let exists = self.letters.borrow().contains_key(&other);
        let found = match self.random(5) {
            0 => {
                let found = self.queue.discard(id(other)).await.unwrap();
                self.letters.borrow_mut().remove(&other);
                found
            }
            1 => {
                let found = self.queue.park(id(other)).await.unwrap();
                let mut letters = self.letters.borrow_mut();
                letters
                    .entry(other)
                    .and_modify(|letter| letter.parked = true);
                found
            }
            2 if other != own => {
                let found = self.queue.unpark(id(other)).await.unwrap();
                let mut letters = self.letters.borrow_mut();
                letters
                    .entry(other)
                    .and_modify(|letter| (letter.parked, letter.replays) = (false, 0));
                found
            }
            3 => return self.push().await,
            _ => return,
        };
        assert_eq!(found, exists, "seed {}", self.seed);
    }

    async fn attempt(&self, letter: Letter<String>) -> Result<(), Error<&'static str>> {
        self.begin(&letter);
        let pause = Duration::from_millis(self.random(3) * 3);
        self.clock.sleep(pause).await;
        let own = letter.id().get();
        self.disturb(own).await;
        let end = self.random(4);
        let mut letters = self.letters.borrow_mut();
        let expected = letters.get_mut(&own);
        let (at, result) = match end {
            0 => (0, Ok(())),
            1 => {
                let rejected = Rejected::new("x", Reason::RateLimited);
                (2, Err(rejected.into()))
            }
            _ => (1, Err(Error::Operation("down"))),
        };
        if let Some(expected) = expected {
            expected.in_flight = false;
            match &result {
                Ok(()) => drop(letters.remove(&own)),
                Err(Error::Rejected(_)) => expected.replays = expected.replays.saturating_sub(1),
                Err(_) => expected.parked |= letter.replays() >= MAX_REPLAYS,
            }
        }
        self.ends.borrow_mut()[at] += 1;
        result
    }

    async fn run(&self) {
        let limit = match self.random(3) {
            0 => self.random(12),
            _ => u64::MAX,
        };
        let run = self.queue.replay().rate(1000.0).limit(limit);
        let run = run.max_concurrent(1 + self.random(4) as usize);
        let run = run.stop_after(u32::MAX);
        let report = run.run_calls(|letter| self.attempt(letter)).await.unwrap();
        let progress = report.progress;
        let ends = [progress.delivered, progress.failed, progress.rejected];
        assert_eq!(ends, self.ends.take(), "seed {}", self.seed);
        assert!(ends[0] + ends[1] <= limit, "seed {}", self.seed);
        assert_eq!(progress.in_flight, 0, "seed {}", self.seed);

        let page = self.queue.peek(&Filter::new(), usize::MAX).await.unwrap();
        let found = page.letters.iter();
        let found = found.map(|letter| (letter.id().get(), letter.is_parked(), letter.replays()));
        let letters = self.letters.borrow();
        let expected = letters.iter();
        let expected = expected.map(|(&id, letter)| (id, letter.parked, letter.replays));
        let expected: Vec<_> = expected.collect();
        assert_eq!(found.collect::<Vec<_>>(), expected, "seed {}", self.seed);
        let parked = expected.iter().filter(|(_, parked, _)| *parked).count();
        let snapshot = self.queue.snapshot();
        let counts = (snapshot.letters, snapshot.parked);
        assert_eq!(counts, (expected.len() as u64, parked as u64));
    }
}

#[test]
fn random_changes_during_replays_agree_with_a_model() {
    for seed in 1..300 {
        let clock = ManualClock::new();
        let queue = builder(&clock).max_replays(MAX_REPLAYS).build().unwrap();
        let history = History {
            seed,
            queue,
            clock: clock.clone(),
            random: RefCell::new(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15)),
            letters: RefCell::default(),
            ends: RefCell::default(),
        };
        clock.block_on(async {
            for _ in 0..20 {
                history.push().await;
            }
            for _ in 0..4 {
                history.run().await;
            }
        });
    }
}
