//! The sampler. Candidates take turns in short samples, so a disturbance of the machine affects all of them.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use crate::alloc;

/// A candidate to measure: a loop around one operation.
#[derive(Clone)]
pub struct Candidate {
    pub name: String,
    repeat: Arc<dyn Fn(u64) + Send + Sync>,
}

impl Candidate {
    /// `repeat(n)` runs the operation `n` times on the calling thread. Racing threads share it, and with it its
    /// captures.
    pub fn new(name: impl Into<String>, repeat: impl Fn(u64) + Send + Sync + 'static) -> Self {
        Self {
            name: name.into(),
            repeat: Arc::new(repeat),
        }
    }

    /// Runs the operation that many times on the calling thread.
    pub fn run(&self, operations: u64) {
        (self.repeat)(operations);
    }
}

/// How long to measure.
#[derive(Clone, Copy, Debug)]
pub struct Effort {
    pub rounds: usize,
    pub sample: Duration,
}

impl Effort {
    pub const FULL: Self = Self {
        rounds: 31,
        sample: Duration::from_millis(8),
    };
    /// Rough figures, to see that a row works.
    pub const QUICK: Self = Self {
        rounds: 7,
        sample: Duration::from_millis(2),
    };
}

/// Nanoseconds per operation and thread, one figure for each round.
#[derive(Clone, Debug)]
pub struct Measured {
    pub rounds: Vec<f64>,
}

/// A median between its quartiles.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spread {
    pub low: f64,
    pub median: f64,
    pub high: f64,
}

impl Spread {
    /// Computes the spread of at least one figure.
    pub fn of(figures: impl IntoIterator<Item = f64>) -> Self {
        let mut sorted: Vec<f64> = figures.into_iter().collect();
        sorted.sort_by(f64::total_cmp);
        let at = |share: f64| sorted[((sorted.len() - 1) as f64 * share).round() as usize];
        Self {
            low: at(0.25),
            median: at(0.5),
            high: at(0.75),
        }
    }

    /// Returns the spread of a figure that was counted, not measured.
    pub const fn exact(figure: f64) -> Self {
        Self {
            low: figure,
            median: figure,
            high: figure,
        }
    }
}

/// Measures all candidates on `threads` pinned threads, interleaved. Returns results in the same order.
///
/// Several threads all use the same candidate, the worst case of contention.
pub fn interleave(candidates: &[Candidate], threads: usize, effort: Effort) -> Vec<Measured> {
    thread::scope(|scope| {
        let team = Team::new(scope, threads);
        let shares: Vec<u64> = candidates
            .iter()
            .map(|candidate| team.calibrate(candidate, effort.sample))
            .collect();
        let mut measured = vec![Measured { rounds: vec![] }; candidates.len()];
        for round in 0..effort.rounds {
            for place in order(round, candidates.len()) {
                let nanos = team.sample(&candidates[place], shares[place]);
                measured[place].rounds.push(nanos);
            }
        }
        measured
    })
}

/// Returns the allocations of one operation once warm.
pub fn allocations(candidate: &Candidate) -> f64 {
    const OPERATIONS: u64 = 1000;
    let of = |operations| {
        let before = alloc::count();
        (candidate.repeat)(operations);
        alloc::count() - before
    };
    of(OPERATIONS);
    // Allocations of the loop itself, such as a waker, do not count.
    let around = of(0);
    of(OPERATIONS).saturating_sub(around) as f64 / OPERATIONS as f64
}

/// Returns the order of the candidates in a round. Every other round is reversed, so that no candidate always
/// follows the same one.
fn order(round: usize, candidates: usize) -> impl Iterator<Item = usize> {
    (0..candidates).map(move |place| match round % 2 {
        0 => place,
        _ => candidates - 1 - place,
    })
}

/// Pinned threads that wait for work.
struct Team {
    jobs: Vec<mpsc::Sender<Job>>,
    results: mpsc::Receiver<f64>,
}

struct Job {
    candidate: Candidate,
    operations: u64,
    race: Arc<Race>,
}

/// Starts and stops threads together.
struct Race {
    missing: AtomicUsize,
    over: AtomicBool,
}

/// Number of chunks of a sample; between two chunks, a thread checks whether the race is over.
const CHUNKS: u64 = 32;

impl Team {
    fn new<'scope>(scope: &'scope thread::Scope<'scope, '_>, threads: usize) -> Self {
        let (done, results) = mpsc::channel();
        let cores = core_affinity::get_core_ids().unwrap_or_default();
        let jobs = (0..threads)
            .map(|index| {
                let (sender, jobs) = mpsc::channel::<Job>();
                let done = done.clone();
                let core = cores.get(index % cores.len().max(1)).copied();
                scope.spawn(move || {
                    if let Some(core) = core {
                        core_affinity::set_for_current(core);
                    }
                    for job in jobs {
                        if done.send(job.run()).is_err() {
                            return;
                        }
                    }
                });
                sender
            })
            .collect();
        Self { jobs, results }
    }

    /// Takes one sample: the mean of the threads' figures.
    fn sample(&self, candidate: &Candidate, operations: u64) -> f64 {
        let race = Arc::new(Race {
            missing: AtomicUsize::new(self.jobs.len()),
            over: AtomicBool::new(false),
        });
        for worker in &self.jobs {
            let job = Job {
                candidate: candidate.clone(),
                operations,
                race: race.clone(),
            };
            worker.send(job).expect("the worker waits for work");
        }
        let total: f64 = self.results.iter().take(self.jobs.len()).sum();
        total / self.jobs.len() as f64
    }

    /// Returns how many operations a thread runs in about `sample`. Warms the candidate up.
    fn calibrate(&self, candidate: &Candidate, sample: Duration) -> u64 {
        share(sample.as_nanos() as f64, |operations| {
            self.sample(candidate, operations)
        })
    }
}

/// Returns how many operations take about `goal` nanoseconds. `sample(n)` returns the time of one operation among
/// `n`.
fn share(goal: f64, mut sample: impl FnMut(u64) -> f64) -> u64 {
    let mut operations = CHUNKS;
    loop {
        let mut each = sample(operations);
        // A disturbance only makes a sample slower. A single slow sample must not end the calibration with too few
        // operations, so it is repeated.
        for _ in 0..2 {
            if each * operations as f64 >= goal / 8.0 {
                each = each.min(sample(operations));
            }
        }
        let each = each.max(0.01);
        if each * operations as f64 >= goal / 8.0 {
            return ((goal / each) as u64).max(CHUNKS);
        }
        operations *= 4;
    }
}

impl Job {
    /// Runs the operations. Returns nanoseconds per operation.
    fn run(self) -> f64 {
        let chunk = (self.operations / CHUNKS).max(1);
        self.race.missing.fetch_sub(1, Ordering::AcqRel);
        while self.race.missing.load(Ordering::Acquire) > 0 {
            std::hint::spin_loop();
        }
        let mut operations = 0;
        let start = Instant::now();
        // The first thread to finish ends the race, so that no thread runs without contention.
        while operations < self.operations && !self.race.over.load(Ordering::Relaxed) {
            (self.candidate.repeat)(chunk);
            operations += chunk;
        }
        self.race.over.store(true, Ordering::Relaxed);
        start.elapsed().as_nanos() as f64 / operations.max(1) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;
    use std::sync::Mutex;

    const TINY: Effort = Effort {
        rounds: 4,
        sample: Duration::from_micros(50),
    };

    #[test]
    fn every_other_round_is_reversed() {
        assert_eq!(order(0, 3).collect::<Vec<_>>(), [0, 1, 2]);
        assert_eq!(order(1, 3).collect::<Vec<_>>(), [2, 1, 0]);
        assert_eq!(order(2, 3).collect::<Vec<_>>(), [0, 1, 2]);
    }

    #[test]
    fn a_spread_is_median_and_quartiles() {
        let spread = Spread::of([5.0, 1.0, 4.0, 2.0, 3.0]);
        assert_eq!((spread.low, spread.median, spread.high), (2.0, 3.0, 4.0));
        assert_eq!(Spread::of([7.0]), Spread::exact(7.0));
    }

    #[test]
    fn a_disturbed_sample_does_not_make_a_share_too_small() {
        for disturbed in 0..12 {
            let mut samples = 0;
            let operations = share(8e6, |_| {
                samples += 1;
                match samples - 1 == disturbed {
                    true => 1e6,
                    false => 10.0,
                }
            });
            assert_eq!(operations, 800_000, "sample {disturbed}");
        }
        // A slow operation runs a few times only.
        assert_eq!(share(8e6, |_| 1e7), CHUNKS);
        assert_eq!(share(8e6, |_| 0.0), 800_000_000);
    }

    #[test]
    fn candidates_take_turns_and_each_gets_every_round() {
        let turns = Arc::new(Mutex::new(Vec::new()));
        let candidate = |name: &'static str| {
            let turns = turns.clone();
            Candidate::new(name, move |_| {
                let mut turns = turns.lock().unwrap();
                if turns.last() != Some(&name) {
                    turns.push(name);
                }
                drop(turns);
                thread::yield_now();
            })
        };
        let measured = interleave(&[candidate("a"), candidate("b")], 1, TINY);
        for measured in &measured {
            assert_eq!(measured.rounds.len(), TINY.rounds);
        }
        // Calibration a, b; then ab ba ab ba.
        assert_eq!(*turns.lock().unwrap(), ["a", "b", "a", "b", "a", "b", "a"]);
    }

    #[test]
    fn as_many_threads_as_asked_for_do_the_work() {
        let seen = Arc::new(Mutex::new(HashSet::new()));
        let threads = seen.clone();
        let candidate = Candidate::new("candidate", move |_| {
            threads.lock().unwrap().insert(thread::current().id());
        });
        interleave(&[candidate], 2, TINY);
        assert_eq!(seen.lock().unwrap().len(), 2);
    }

    #[test]
    fn allocations_are_those_of_the_operation() {
        let none = Candidate::new("none", |_| drop(std::hint::black_box(Box::new(1))));
        assert_eq!(allocations(&none), 0.0);
        let two = Candidate::new("two", |operations| {
            for _ in 0..operations {
                drop(std::hint::black_box((Box::new(1), Box::new(2))));
            }
        });
        assert_eq!(allocations(&two), 2.0);
    }
}
