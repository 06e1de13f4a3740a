//! Delays that follow from latencies.

use super::*;

/// A hedge at a quantile, after calls that took so many nanoseconds.
fn after_calls(clock: &ManualClock, quantile: f64, calls: impl IntoIterator<Item = u64>) -> Hedge {
    let hedge = Hedge::builder().quantile(quantile).clock(clock.clone());
    let hedge = hedge.build().unwrap();
    for nanos in calls {
        clock
            .block_on(hedge.call(|| async {
                clock.sleep(Duration::from_nanos(nanos)).await;
                Ok::<_, ()>(())
            }))
            .unwrap();
    }
    hedge
}

#[test]
fn a_delay_follows_from_20_latencies_and_not_from_fewer() {
    let clock = ManualClock::new();
    let millis = |count| (1..=count).map(|millis| millis * 1_000_000);
    let hedge = after_calls(&clock, 0.95, millis(19));
    assert_eq!(
        (hedge.snapshot().delay, hedge.snapshot().samples),
        (None, 19)
    );
    assert_eq!(
        call!(&clock, &hedge, [Down(900)]),
        bad(Fault::Down(0), 900, &[0])
    );
    assert_eq!(call!(&clock, &hedge, [Good(900)]), good(0, 900, &[0]));

    let clock = ManualClock::new();
    let hedge = after_calls(&clock, 0.95, millis(20));
    assert_eq!(hedge.snapshot().delay, Some(ms(19)));
    assert_eq!(
        call!(&clock, &hedge, [Hang, Good(1)]),
        good(1, 20, &[0, 19])
    );
}

#[test]
fn latencies_are_exact_to_the_nanosecond() {
    let clock = ManualClock::new();
    let hedge = after_calls(&clock, 0.99, [10_000_003; 50]);
    assert_eq!(
        hedge.snapshot().delay,
        Some(Duration::from_nanos(10_000_003))
    );
}

#[test]
fn a_delay_is_not_shorter_than_the_shortest() {
    let clock = ManualClock::new();
    let hedge = after_calls(&clock, 0.5, [1000; 30]);
    assert_eq!(hedge.snapshot().delay, Some(ms(1)));
}

#[test]
fn latencies_are_forgotten_after_two_windows() {
    let clock = ManualClock::new();
    let hedge = after_calls(&clock, 0.5, [10_000_000; 30]);
    clock.advance(Duration::from_secs(30));
    assert_eq!(hedge.snapshot().samples, 30);
    assert!(hedge.snapshot().delay.is_some());
    clock.advance(Duration::from_secs(30));
    assert_eq!(
        (hedge.snapshot().samples, hedge.snapshot().delay),
        (0, None)
    );
    assert_eq!(call!(&clock, &hedge, [Good(900)]), good(0, 900, &[0]));
}

#[test]
fn losers_do_not_shorten_the_delay() {
    let clock = ManualClock::new();
    let hedge = after_calls(&clock, 0.1, [10_000_000; 100]);
    for _ in 0..50 {
        // Copies that are dropped at once, because the first one answers just after the delay.
        assert_eq!(
            call!(&clock, &hedge, [Good(11), Hang]),
            good(0, 11, &[0, 10])
        );
    }
    assert_eq!(hedge.snapshot().delay, Some(ms(10)));
    // Failures and cancelled calls do not either.
    for _ in 0..500 {
        let failed = hedge.call(|| async { Err::<(), _>(()) });
        assert!(clock.block_on(failed).is_err());
        let mut cancelled = Box::pin(hedge.call(pending::<Result<(), ()>>));
        let mut task = std::task::Context::from_waker(std::task::Waker::noop());
        assert!(cancelled.as_mut().poll(&mut task).is_pending());
    }
    assert_eq!(hedge.snapshot().delay, Some(ms(10)));
}

#[test]
fn calls_that_are_cut_off_from_outside_lengthen_the_delay() {
    let clock = ManualClock::new();
    let hedge = after_calls(&clock, 0.9, [10_000_000; 20]);
    let stack = (timeout(&clock, 100), &hedge);
    for _ in 0..20 {
        let _ = clock.block_on(stack.call(pending::<Result<(), ()>>));
    }
    // Half of the calls would have taken longer than 100 ms.
    assert!(
        hedge.snapshot().delay.unwrap() > ms(90),
        "{:?}",
        hedge.snapshot()
    );
}
