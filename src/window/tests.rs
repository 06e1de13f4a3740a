use std::collections::VecDeque;
use std::sync::Arc;
use std::thread;

use proptest::prelude::*;

use super::*;
use crate::instant::Instant;

const SLOW: Tracks = Tracks {
    slow: true,
    durations: false,
};
const ALL: Tracks = Tracks {
    slow: true,
    durations: true,
};

const fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

const fn at(millis: u64) -> Instant {
    Instant::from_nanos(millis * 1_000_000)
}

fn good() -> Sample {
    Sample::default()
}

fn failed() -> Sample {
    Sample {
        failed: true,
        ..good()
    }
}

/// Counts of a list of calls, the obvious way.
fn naive<'a>(calls: impl IntoIterator<Item = &'a Sample>, tracks: Tracks) -> Counts {
    let mut counts = Counts::default();
    for call in calls {
        let slow = call.slow && tracks.slow;
        counts.calls += 1;
        counts.failures += u64::from(call.failed);
        counts.slow += u64::from(slow);
        counts.slow_failures += u64::from(slow && call.failed);
        if tracks.durations {
            counts.took += Duration::from_nanos(call.took);
        }
    }
    counts
}

fn samples() -> impl Strategy<Value = Sample> {
    // Mostly good ones, so that windows become clean again.
    (0..10_u8, 0..10_u8, 0..5_000_u64).prop_map(|(failed, slow, millis)| Sample {
        failed: failed == 0,
        slow: slow == 0,
        took: millis * 1_000_000,
    })
}

fn tracks() -> impl Strategy<Value = Tracks> {
    (any::<bool>(), any::<bool>()).prop_map(|(slow, durations)| Tracks { slow, durations })
}

proptest! {
    #[test]
    fn a_count_window_is_the_last_n_calls(
        size in prop_oneof![1..=4_u32, 27..=29_u32, 55..=57_u32, 60..=70_u32, 120..=200_u32],
        tracks in tracks(),
        calls in proptest::collection::vec(samples(), 0..700),
    ) {
        let window = CountWindow::new(size, tracks);
        let mut model = VecDeque::new();
        for call in calls {
            model.push_back(call);
            model.drain(..model.len().saturating_sub(size as usize));
            let expected = naive(&model, tracks);
            prop_assert_eq!(window.record(call), expected);
            prop_assert_eq!(window.counts(), expected);
            prop_assert_eq!(window.recounted(), expected);
        }
        window.clear();
        prop_assert_eq!(window.counts(), Counts::default());
    }

    /// The short way of a good call, through which most go, is the long one.
    #[test]
    fn a_good_call_is_a_good_call(
        size in prop_oneof![1..=4_u32, 55..=57_u32, 60..=70_u32, 120..=200_u32],
        ring in any::<bool>(),
        calls in proptest::collection::vec(any::<u8>(), 0..700),
    ) {
        let window = match ring {
            true => CountWindow::ring(size, Tracks::default()),
            false => CountWindow::new(size, Tracks::default()),
        };
        let mut model = VecDeque::new();
        for call in calls {
            let call = if call < 20 { failed() } else { good() };
            let was_full = model.len() == size as usize;
            model.push_back(call);
            model.drain(..model.len().saturating_sub(size as usize));
            let expected = naive(&model, Tracks::default());
            if call == good() {
                let counts = window.after_good(window.push_good());
                prop_assert_eq!(counts, (!was_full).then_some(expected));
            } else {
                prop_assert_eq!(window.push(call), Some(expected));
            }
            prop_assert_eq!(window.counts(), expected);
            prop_assert_eq!(window.recounted(), expected);
            let is_settled = model.len() == size as usize && expected.failures == 0;
            prop_assert_eq!(window.is_settled(), is_settled);
        }
    }

    #[test]
    fn a_time_window_is_the_last_slices(
        slices in 1..12_u32,
        slice in 1..50_u64,
        start in prop_oneof![Just(0_u64), 1..1_000_000_u64],
        tracks in tracks(),
        steps in proptest::collection::vec((0..80_u64, samples()), 0..300),
    ) {
        let window = TimeWindow::new(ms(slice) * slices, slices, true, tracks);
        let mut model = Vec::new();
        let mut now = start;
        for (pause, call) in steps {
            // A third of the calls come at once, and now and then everything runs out.
            now += match pause {
                0..=30 => 0,
                79 => slice * u64::from(slices) * 3,
                pause => pause,
            };
            window.record(call, at(now));
            model.push((now / slice, call));
            let newest = now / slice;
            let live = model
                .iter()
                .filter(|(epoch, _)| epoch + u64::from(slices) > newest)
                .map(|(_, call)| call);
            let expected = naive(live, tracks);
            prop_assert_eq!(window.counts(at(now)), expected);
            let marked = expected.failures + expected.slow > 0;
            prop_assert_eq!(window.is_clean(at(now)), !marked);
        }
    }
}

proptest! {
    #[test]
    fn slices_that_begin_with_a_call_are_a_row_of_them(
        slices in 1..12_u32,
        slice in 1..50_u64,
        start in 0..1_000_000_u64,
        tracks in tracks(),
        steps in proptest::collection::vec((0..90_u64, samples()), 0..300),
    ) {
        let window = TimeWindow::new(ms(slice) * slices, slices, false, tracks);
        // The calls and the place in the row of their slice; when the newest began, and its place.
        let mut model: Vec<(u64, Sample)> = Vec::new();
        let (mut began, mut newest) = (start, 0);
        let mut now = start;
        let live = |model: &[(u64, Sample)], newest: u64| {
            let is_live = |(place, _): &&(u64, Sample)| place + u64::from(slices) > newest;
            naive(model.iter().filter(is_live).map(|(_, call)| call), tracks)
        };
        for (pause, call) in steps {
            now += match pause {
                0..=30 => 0,
                80.. => slice * u64::from(slices) + pause - 80,
                pause => pause,
            };
            if model.is_empty() {
                began = now;
            }
            // Who looks moves nothing.
            let passed = (now - began) / slice;
            prop_assert_eq!(window.counts(at(now)), live(&model, newest + passed));

            window.record(call, at(now));
            newest += passed;
            began = match passed >= u64::from(slices) {
                true => now,
                false => began + passed * slice,
            };
            model.push((newest, call));
            let expected = live(&model, newest);
            prop_assert_eq!(window.counts(at(now)), expected);
            let marked = expected.failures + expected.slow > 0;
            prop_assert_eq!(window.is_clean(at(now)), !marked);
        }
    }
}

#[test]
fn a_good_call_into_a_full_clean_window_writes_nothing() {
    for size in [5, 56, 100] {
        let window = CountWindow::new(size, Tracks::default());
        for _ in 0..size {
            window.record(good());
        }
        let before = format!("{window:?}");
        for _ in 0..1000 {
            assert_eq!(window.record(good()).calls, u64::from(size));
        }
        assert_eq!(format!("{window:?}"), before);
    }
}

#[test]
fn pitfall_21_the_memory_of_a_window_does_not_depend_on_the_traffic() {
    let window = TimeWindow::new(Duration::from_secs(60), 10, true, ALL);
    let words = window.words_in_use();
    for call in 0..200_000_u64 {
        window.record(failed(), Instant::from_nanos(call * 20_000));
    }
    assert_eq!(window.words_in_use(), words);
    // Five for each slice, one more for every other thread's good calls, and a gap between them.
    assert_eq!(words, 50 + 10 + 8);
    assert_eq!(window.counts(at(4_000)).calls, 200_000);
}

#[test]
fn a_late_thread_never_brings_an_old_slice_back() {
    let window = TimeWindow::new(ms(100), 10, true, Tracks::default());
    window.record(failed(), at(1_000));
    // Its reading is from just before: it counts now, and what is there stays.
    window.record(failed(), at(990));
    assert_eq!(window.counts(at(1_000)).failures, 2);
    // From the slice whose place the present one has taken.
    window.record(failed(), at(905));
    assert_eq!(window.counts(at(1_000)).failures, 3);
    assert_eq!(window.counts(at(905)).failures, 3);
    assert_eq!(window.counts(at(1_100)).failures, 0);
}

#[test]
fn slices_may_begin_with_the_first_call() {
    let window = TimeWindow::new(ms(200), 1, false, Tracks::default());
    assert_eq!(window.counts(at(150)).calls, 0);
    window.record(failed(), at(150));
    window.record(failed(), at(349));
    assert_eq!(window.counts(at(349)).calls, 2);
    assert_eq!(window.counts(at(350)).calls, 0);
    window.clear();
    window.record(failed(), at(400));
    assert_eq!(window.counts(at(599)).calls, 1);
    // It has run empty, and begins anew with the next call, not with a look at it.
    assert_eq!(window.counts(at(650)).calls, 0);
    window.record(failed(), at(701));
    window.record(failed(), at(900));
    assert_eq!(window.counts(at(900)).calls, 2);
    assert_eq!(window.counts(at(901)).calls, 0);
}

#[test]
fn a_window_that_was_cleared_is_clean() {
    for aligned in [true, false] {
        let window = TimeWindow::new(ms(100), 10, aligned, SLOW);
        window.record(failed(), at(1000));
        assert!(!window.is_clean(at(1000)));
        window.clear();
        assert!(window.is_clean(at(1000)));
        window.record(good(), at(1005));
        assert!(window.is_clean(at(1005)));
    }
}

#[test]
fn tags_that_come_round_do_not_bring_old_calls_back() {
    // Slices of 100 µs: tags of 32 bits come round after five days, those of 24 after half an hour.
    let slice = 100_000_u64;
    let window = TimeWindow::new(Duration::from_micros(1_000), 10, true, ALL);
    let mut call = failed();
    call.slow = true;
    call.took = 1_000_000;
    for turn in [1_u64 << 24, 1 << 31, 1 << 32, (1 << 32) + (1 << 31)] {
        let window = TimeWindow::new(Duration::from_micros(1_000), 10, true, ALL);
        window.record(call, Instant::from_nanos(5 * slice));
        let later = Instant::from_nanos((5 + turn) * slice);
        window.record(good(), later);
        assert_eq!(window.counts(later), naive(&[good()], ALL), "{turn}");
        window.record(call, later);
        assert_eq!(window.counts(later), naive(&[good(), call], ALL), "{turn}");
    }
    // A slow failure once, then good calls for more than a turn of the shorter tag.
    window.record(call, Instant::from_nanos(5 * slice));
    let mut epoch = 5;
    while epoch < (1 << 24) + 5 {
        epoch += 9;
        window.record(good(), Instant::from_nanos(epoch * slice));
    }
    let now = Instant::from_nanos(epoch * slice);
    assert_eq!(window.counts(now).slow_failures, 0);
    assert_eq!(window.counts(now).took, Duration::ZERO);
}

#[test]
fn extreme_settings_and_times_are_harmless() {
    for window in [Duration::ZERO, Duration::from_nanos(1), Duration::MAX] {
        for slices in [0, 1, 10, u32::MAX] {
            let window = TimeWindow::new(window, slices, true, ALL);
            let times = [0, 1, u64::MAX / 2, u64::MAX - 1, u64::MAX, u64::MAX];
            for nanos in times.into_iter().map(Instant::from_nanos) {
                let mut call = failed();
                call.took = u64::MAX;
                window.record(call, nanos);
                assert!(window.counts(nanos).failures >= 1);
                assert!(!window.is_clean(nanos));
            }
            assert!(window.counts(Instant::ORIGIN).calls <= 6);
        }
    }
    for size in [0, 1] {
        let window = CountWindow::new(size, ALL);
        window.record(good());
        assert_eq!(window.record(failed()).calls, 1);
    }
}

/// As their homes are: of each two threads one counts into each half.
#[test]
fn good_calls_of_all_threads_are_one_number() {
    let window = TimeWindow::new(ms(10), 1, true, SLOW);
    for now in [5, 5, 7, 15] {
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| window.record(good(), at(now)));
            }
        });
    }
    assert_eq!(window.counts(at(15)).calls, 4);
    assert_eq!(window.counts(at(20)).calls, 0);
    window.clear();
    assert_eq!(window.counts(at(15)).calls, 0);
}

/// Many threads, then rest: the counters equal the content.
#[test]
fn windows_are_exact_at_rest() {
    const THREADS: u64 = 4;
    const CALLS: u64 = 20_000;
    for size in [20, 50, 128, 1000] {
        for tracks in [Tracks::default(), SLOW, ALL] {
            let counted = Arc::new(CountWindow::new(size, tracks));
            let timed = Arc::new(TimeWindow::new(ms(1_000_000), 4, true, tracks));
            let threads: Vec<_> = (0..THREADS)
                .map(|thread| {
                    let (counted, timed) = (counted.clone(), timed.clone());
                    thread::spawn(move || {
                        for call in 0..CALLS {
                            let sample = Sample {
                                failed: (call + thread) % 3 == 0,
                                slow: call % 5 == 0,
                                took: call * 1_000,
                            };
                            counted.record(sample);
                            timed.record(sample, at(call));
                        }
                    })
                })
                .collect();
            for thread in threads {
                thread.join().unwrap();
            }
            assert_eq!(counted.counts(), counted.recounted());
            assert_eq!(counted.counts().calls, u64::from(size));
            // All threads were in the first slice of the window.
            let expected: u64 = (0..THREADS)
                .map(|thread| (0..CALLS).filter(|call| (call + thread) % 3 == 0).count() as u64)
                .sum();
            let counts = timed.counts(at(CALLS));
            assert_eq!((counts.calls, counts.failures), (THREADS * CALLS, expected));
        }
    }
}

#[test]
fn a_call_can_be_amended_while_its_slice_is_in_the_window() {
    let window = TimeWindow::new(ms(100), 10, true, SLOW);
    let pending = Sample {
        slow: true,
        ..good()
    };
    let seen = |now: u64| {
        let counts = window.counts(at(now));
        (counts.calls, counts.failures, counts.slow)
    };
    let first = window.record_into(pending, at(5));
    let second = window.record_into(pending, at(15));
    let third = window.record_into(pending, at(15));
    assert_eq!(seen(20), (3, 0, 3));
    assert_eq!(window.slow_in_latest(0, at(20)), 0);
    assert_eq!(window.slow_in_latest(1, at(20)), 2);
    assert_eq!(window.slow_in_latest(u64::MAX, at(20)), 3);
    window.amend(second, pending, Some(failed()));
    window.amend(third, pending, None);
    assert_eq!(seen(20), (2, 1, 1));
    window.amend(first, pending, Some(good()));
    assert_eq!(seen(99), (2, 1, 0));
    // Each leaves with the slice it began in.
    assert_eq!(seen(100), (1, 1, 0));
    assert_eq!(seen(110), (0, 0, 0));

    // Too late: the slice has left, and its place is another one's.
    let late = window.record_into(pending, at(105));
    window.record(pending, at(205));
    window.amend(late, pending, None);
    assert_eq!(seen(205), (1, 0, 1));
    // Nor is anything taken that is not there.
    let gone = window.record_into(pending, at(206));
    window.clear();
    window.amend(gone, pending, None);
    assert_eq!(seen(206), (0, 0, 0));
}
