use std::collections::VecDeque;
use std::thread;

use proptest::prelude::*;

use super::*;
use crate::instant::Instant;
use crate::sync::{AtomicU64, Ordering};

/// A window of calls with its `dirty` word.
#[derive(Debug)]
struct Calls {
    dirty: AtomicU64,
    window: CountWindow,
}

impl Calls {
    fn new(size: u32, durations: bool) -> Self {
        Self {
            dirty: AtomicU64::new(COUNTS_SUCCESSES),
            window: CountWindow::new(size, durations, true),
        }
    }

    fn record(&self, sample: Sample) -> bool {
        self.window.record(&self.dirty, sample)
    }

    fn counts(&self) -> Counts {
        self.window.counts()
    }

    fn recounted(&self) -> Counts {
        self.window.recounted(&self.dirty)
    }

    fn skips_successes(&self) -> bool {
        self.dirty.load(Ordering::Relaxed) == 0
    }

    fn clear(&self) {
        self.window.clear(&self.dirty);
    }
}

/// Kinds of a [`TimeWindow`] in these tests.
const CALLS: usize = 0;
const BAD: usize = 1;

const fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

const fn at(millis: u64) -> Instant {
    Instant::from_nanos(millis * 1_000_000)
}

fn success() -> Sample {
    Sample::SUCCESS
}

fn failed() -> Sample {
    Sample::new(true, false, 0)
}

/// Counts a list of calls naively.
fn naive<'a>(calls: impl IntoIterator<Item = &'a Sample>, durations: bool) -> Counts {
    let mut counts = Counts::default();
    for call in calls {
        counts.calls += 1;
        counts.failures += u64::from(call.is_failure());
        counts.slow += u64::from(call.is_slow());
        counts.slow_failures += u64::from(call.is_slow() && call.is_failure());
        if durations {
            counts.total_duration += Duration::from_nanos(call.duration);
        }
    }
    counts
}

fn samples() -> impl Strategy<Value = Sample> {
    // Mostly successes, so that windows become clean again.
    (0..10_u8, 0..10_u8, 0..5_000_u64)
        .prop_map(|(failed, slow, millis)| Sample::new(failed == 0, slow == 0, millis * 1_000_000))
}

/// Records into a time window as the breaker does.
fn record(window: &TimeWindow, is_bad: bool, now: u64) {
    window.advance(at(now));
    window.add(CALLS, 1);
    if is_bad {
        window.add(BAD, 1);
    }
}

/// Returns the numbers of calls and of bad calls.
fn seen(window: &TimeWindow, now: u64) -> (u64, u64) {
    let sums = window.sums_at(at(now));
    (sums[CALLS], sums[BAD])
}

fn window(slice: u64, slices: u32) -> TimeWindow {
    TimeWindow::new(ms(slice) * slices, slices, true, 2)
}

proptest! {
    #[test]
    fn a_count_window_is_the_last_n_calls(
        size in prop_oneof![1..=4_u32, 31..=33_u32, 60..=70_u32, 120..=200_u32],
        durations in any::<bool>(),
        calls in proptest::collection::vec(samples(), 0..700),
        cleared in proptest::option::of(0..700_usize),
    ) {
        let window = Calls::new(size, durations);
        let mut model = VecDeque::new();
        for (index, call) in calls.into_iter().enumerate() {
            if cleared == Some(index) {
                window.clear();
                prop_assert_eq!(window.counts(), Counts::default());
                prop_assert_eq!(window.recounted(), Counts::default());
                model.clear();
            }
            let was_full = model.len() == size as usize;
            let is_bad = !call.is_success();
            model.push_back(call);
            model.drain(..model.len().saturating_sub(size as usize));
            let expected = naive(&model, durations);
            prop_assert_eq!(window.record(call), is_bad || !was_full);
            prop_assert_eq!(window.counts(), expected);
            prop_assert_eq!(window.recounted(), expected);
            let is_clean =
                model.len() == size as usize && expected.failures + expected.slow == 0;
            prop_assert_eq!(window.skips_successes(), is_clean && !durations);
        }
    }

    #[test]
    fn a_time_window_is_the_last_slices(
        slices in 1..12_u32,
        slice in 1..50_u64,
        start in prop_oneof![Just(0_u64), 1..1_000_000_u64],
        aligned in any::<bool>(),
        steps in proptest::collection::vec((0..90_u64, 0..20_u8), 0..300),
    ) {
        let length = slice * u64::from(slices);
        let window = TimeWindow::new(ms(length), slices, aligned, 2);
        // When the slice of each call began, and whether the call was bad.
        let mut model: Vec<(u64, bool)> = Vec::new();
        let mut began = None;
        let mut now = start;
        for (pause, kind) in steps {
            // A third of the calls arrive together, and sometimes the whole window expires.
            now += match pause {
                0..=30 => 0,
                89 => length * 3,
                80.. => length + pause - 80,
                pause => pause,
            };
            let live = |model: &[(u64, bool)]| {
                let live = model.iter().filter(|(began, _)| now < began + length);
                let bad = live.clone().filter(|(_, is_bad)| *is_bad).count() as u64;
                (live.count() as u64, bad)
            };
            // Reading changes nothing.
            prop_assert_eq!(seen(&window, now), live(&model));
            if kind == 19 {
                window.clear();
                model.clear();
                began = None;
                prop_assert_eq!(seen(&window, now), (0, 0));
                continue;
            }
            let begins = match began {
                _ if aligned => now - now % slice,
                Some(began) if now < began + length => began + (now - began) / slice * slice,
                _ => now,
            };
            began = Some(begins);
            model.push((begins, kind < 5));
            record(&window, kind < 5, now);
            prop_assert_eq!(seen(&window, now), live(&model));
            let sums = window.sums();
            prop_assert_eq!((sums[CALLS], sums[BAD]), live(&model));
            for before in 0..u64::from(slices) + 2 {
                let latest = model.iter().filter(|(began, _)| {
                    now < began + (before + 1) * slice && now < began + length
                });
                let sums = window.sums_of_latest(before, at(now));
                prop_assert_eq!(sums[CALLS], latest.count() as u64);
            }
        }
    }
}

#[test]
fn a_success_into_a_window_full_of_successes_writes_nothing() {
    for size in [5, 56, 100] {
        let window = Calls::new(size, false);
        for _ in 0..size {
            window.record(success());
        }
        let before = format!("{window:?}");
        for _ in 0..1000 {
            assert!(!window.record(success()));
        }
        assert_eq!(window.counts().calls, u64::from(size));
        assert_eq!(format!("{window:?}"), before);
    }
}

#[test]
fn the_memory_of_a_time_window_does_not_depend_on_the_number_of_calls() {
    let window = TimeWindow::new(Duration::from_secs(60), 10, true, 5);
    let words = window.words_in_use();
    for call in 0..200_000_u64 {
        window.advance(Instant::from_nanos(call * 20_000));
        window.add(CALLS, 1);
    }
    assert_eq!(window.words_in_use(), words);
    // Six words for each of ten slices and two spare ones.
    assert_eq!(words, 12 * 6);
    assert_eq!(window.sums_at(at(4_000))[CALLS], 200_000);
}

#[test]
fn a_late_thread_never_brings_an_old_slice_back() {
    let window = window(10, 10);
    record(&window, true, 1_000);
    // A late reading counts into the newest slice.
    record(&window, true, 990);
    assert_eq!(seen(&window, 1_000), (2, 2));
    // So does a reading from a slice that has expired.
    record(&window, true, 905);
    assert_eq!(seen(&window, 1_000), (3, 3));
    assert_eq!(seen(&window, 905), (3, 3));
    assert_eq!(seen(&window, 1_100), (0, 0));
}

#[test]
fn unaligned_slices_begin_with_the_first_call() {
    let window = TimeWindow::new(ms(200), 1, false, 2);
    assert_eq!(seen(&window, 150), (0, 0));
    record(&window, true, 150);
    record(&window, true, 349);
    assert_eq!(seen(&window, 349), (2, 2));
    assert_eq!(seen(&window, 350), (0, 0));
    window.clear();
    record(&window, true, 400);
    assert_eq!(seen(&window, 599), (1, 1));
    // The window has run empty. It restarts with the next call, not when it is read.
    assert_eq!(seen(&window, 650), (0, 0));
    record(&window, true, 701);
    record(&window, true, 900);
    assert_eq!(seen(&window, 900), (2, 2));
    assert_eq!(seen(&window, 901), (0, 0));
}

#[test]
fn extreme_settings_and_times_are_harmless() {
    for length in [Duration::ZERO, Duration::from_nanos(1), Duration::MAX] {
        for slices in [0, 1, 10, u32::MAX] {
            for aligned in [true, false] {
                let window = TimeWindow::new(length, slices, aligned, 2);
                let times = [0, 1, u64::MAX / 2, u64::MAX - 1, u64::MAX, u64::MAX];
                for now in times.into_iter().map(Instant::from_nanos) {
                    window.advance(now);
                    window.add(BAD, 1);
                    assert!(window.sums()[BAD] >= 1);
                    assert!(window.sums_at(now)[BAD] >= 1);
                }
                assert!(window.sums_at(Instant::ORIGIN)[BAD] <= 6);
            }
        }
    }
    for size in [0, 1] {
        let window = Calls::new(size, true);
        window.record(success());
        window.record(failed());
        assert_eq!(window.counts().calls, 1);
    }
}

#[test]
fn calls_of_all_threads_add_up() {
    let window = window(10, 1);
    for now in [5, 5, 7, 15] {
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| record(&window, false, now));
            }
        });
    }
    assert_eq!(seen(&window, 15), (4, 0));
    assert_eq!(seen(&window, 20), (0, 0));
    window.clear();
    assert_eq!(seen(&window, 15), (0, 0));
}

#[test]
fn windows_are_exact_while_no_call_is_recorded() {
    const THREADS: u64 = 4;
    const CALLS: u64 = 20_000;
    for size in [20, 50, 128, 1000] {
        for durations in [true, false] {
            let counted = Calls::new(size, durations);
            let timed = TimeWindow::new(ms(1_000_000), 4, true, 2);
            thread::scope(|scope| {
                for thread in 0..THREADS {
                    let (counted, timed) = (&counted, &timed);
                    scope.spawn(move || {
                        for call in 0..CALLS {
                            let failed = (call + thread) % 3 == 0;
                            let sample = Sample::new(failed, call % 5 == 0, call * 1_000);
                            counted.record(sample);
                            record(timed, failed, call);
                            if call % 5_000 == thread {
                                counted.clear();
                            }
                        }
                    });
                }
            });
            assert_eq!(counted.counts(), counted.recounted());
            // All calls are in the window.
            let expected: u64 = (0..THREADS)
                .map(|thread| (0..CALLS).filter(|call| (call + thread) % 3 == 0).count() as u64)
                .sum();
            assert_eq!(seen(&timed, CALLS), (THREADS * CALLS, expected));
        }
    }
}

#[test]
fn a_result_counts_into_the_slice_in_which_its_call_began() {
    let window = window(10, 10);
    let add = |now: u64| {
        window.advance(at(now));
        let slice = window.newest();
        window.add(CALLS, 1);
        slice
    };
    let first = add(5);
    let second = add(15);
    add(15);
    assert_eq!(seen(&window, 20), (3, 0));
    window.advance(at(35));
    window.add_to(second, BAD);
    assert_eq!(seen(&window, 40), (3, 1));
    window.add_to(first, BAD);
    assert_eq!(seen(&window, 99), (3, 2));
    // Each expires with the slice in which it began.
    assert_eq!(seen(&window, 100), (2, 1));
    assert_eq!(seen(&window, 110), (0, 0));
    // The slice has expired.
    window.advance(at(105));
    window.add_to(first, BAD);
    assert_eq!(seen(&window, 105), (2, 1));
    window.clear();
    window.add_to(second, BAD);
    assert_eq!(seen(&window, 105), (0, 0));
}
