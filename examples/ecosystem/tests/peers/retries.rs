use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBuilder};
use backstop::{Backoff, Jitter};

const fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

#[test]
fn defaults_of_backon() {
    let delays: Vec<_> = ExponentialBuilder::default().build().collect();
    assert_eq!(delays, [ms(1000), ms(2000), ms(4000)]);
}

#[test]
fn jitter_of_backon_is_our_equal_jitter_of_twice_the_delay() {
    let theirs = ExponentialBuilder::default().with_jitter();
    let ours = Backoff::exponential(ms(2000)).jitter(Jitter::Equal);
    for seed in 0..1000 {
        let first = theirs.with_jitter_seed(seed).build().next().unwrap();
        assert!((ms(1000)..=ms(2000)).contains(&first), "{first:?}");
        let first = ours.delays(seed).next().unwrap();
        assert!((ms(1000)..=ms(2000)).contains(&first), "{first:?}");
    }
}

#[test]
fn the_base_of_tokio_retry_is_its_factor() {
    use tokio_retry::strategy::ExponentialBackoff;
    let delays: Vec<_> = ExponentialBackoff::from_millis(10).take(3).collect();
    let ours = Backoff::exponential(ms(10))
        .factor(10.0)
        .jitter(Jitter::None);
    assert_eq!(delays, [1, 2, 3].map(|n| ours.delay(n)));
    let seconds: Vec<_> = ExponentialBackoff::from_millis(2)
        .factor(1000)
        .take(3)
        .collect();
    let ours = Backoff::exponential(ms(2000)).jitter(Jitter::None);
    assert_eq!(seconds, [1, 2, 3].map(|n| ours.delay(n)));
    assert_eq!(ExponentialBackoff::from_millis(1).count_to(10_000), 10_000);
}

trait CountTo: Iterator + Sized {
    /// Counts the items, up to a bound.
    fn count_to(self, most: usize) -> usize {
        self.take(most).count()
    }
}

impl<I: Iterator> CountTo for I {}

#[test]
fn jitter_of_tokio_retry_is_full() {
    let drawn: Vec<_> = (0..1000)
        .map(|_| tokio_retry::strategy::jitter(ms(1000)))
        .collect();
    assert!(drawn.iter().all(|delay| *delay <= ms(1000)));
    assert!(drawn.iter().any(|delay| *delay < ms(100)));
}

#[test]
fn defaults_of_backoff() {
    let backoff = backoff::ExponentialBackoff::default();
    assert_eq!(backoff.initial_interval, ms(500));
    assert_eq!(backoff.multiplier, 1.5);
    assert_eq!(backoff.randomization_factor, 0.5);
    assert_eq!(backoff.max_interval, ms(60_000));
    assert_eq!(backoff.max_elapsed_time, Some(ms(15 * 60_000)));
}

#[tokio::test(start_paused = true)]
async fn backoff_waits_as_long_as_a_server_says() {
    let start = tokio::time::Instant::now();
    let calls = std::cell::Cell::new(0);
    let operation = || {
        calls.set(calls.get() + 1);
        let first = calls.get() == 1;
        async move {
            match first {
                true => Err(backoff::Error::retry_after((), ms(3_600_000))),
                false => Ok(()),
            }
        }
    };
    let result = backoff::future::retry(backoff::ExponentialBackoff::default(), operation);
    assert_eq!(result.await, Ok(()));
    assert!(start.elapsed() >= ms(3_600_000));
}
