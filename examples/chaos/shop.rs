//! The shop, the price service, and the calls of a day.

use std::time::Duration;

use backstop::chaos::Switch;
use backstop::{
    Backoff, BoxPolicy, Chaos, Clock, ConfigError, ManualClock, Quota, Retry, Standard,
};
use futures::future::join_all;

const CALLS: u32 = 4000;
/// Interval between two pages.
const EVERY: Duration = Duration::from_millis(10);
/// Time that the service takes for a price.
const PRICE: Duration = Duration::from_millis(20);

/// A client under test.
#[derive(Clone, Copy)]
pub(crate) enum Client {
    Retry,
    Standard,
}

impl Client {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Retry => "retry",
            Self::Standard => "standard",
        }
    }
}

/// The calls of one day.
pub(crate) struct Day {
    /// Sorted.
    latencies: Vec<Duration>,
    good: usize,
    requests: u64,
}

impl Day {
    pub(crate) fn good(&self) -> f64 {
        self.good as f64 / self.latencies.len() as f64
    }

    pub(crate) fn quantile(&self, quantile: f64) -> Duration {
        let last = self.latencies.len() - 1;
        self.latencies[(last as f64 * quantile) as usize]
    }

    pub(crate) fn requests_per_call(&self) -> f64 {
        self.requests as f64 / self.latencies.len() as f64
    }
}

/// The price was not returned.
#[derive(Debug)]
struct NoPrice;

/// Makes the calls of a day. `inject` turns faults on at the start.
pub(crate) fn day(
    client: Client,
    inject: impl FnOnce(&Switch) -> Result<(), ConfigError>,
) -> Result<Day, ConfigError> {
    let clock = ManualClock::new();
    let chaos = Chaos::builder()
        .error(0.0, || NoPrice)
        // In production, begin with a small share of the calls.
        .max_share(1.0)
        .seed(1)
        .clock(clock.clone())
        .build()?;
    inject(&chaos.switch())?;
    let attempts = chaos.switch();
    let backoff = Backoff::exponential(Duration::from_millis(20));
    let retry = Retry::builder().backoff(backoff).seed(1);
    let policy = match client {
        Client::Retry => BoxPolicy::new((retry.clock(clock.clone()).build()?, chaos)),
        Client::Standard => {
            let standard = Standard::builder()
                .name("prices")
                .quota(Quota::per_second(200).burst(50))
                .total_timeout(Duration::from_secs(2))
                .retry(retry)
                .attempt_timeout(Duration::from_millis(200))
                .clock(clock.clone());
            BoxPolicy::new((standard.build()?, chaos))
        }
    };
    let mut day = calls(&clock, &policy);
    // Replaced calls would have been requests too.
    day.requests = attempts.snapshot().calls;
    Ok(day)
}

/// Calls the service through `policy`, at a fixed rate.
fn calls(clock: &ManualClock, policy: &BoxPolicy<u32, NoPrice>) -> Day {
    let price = || async {
        clock.sleep(PRICE).await;
        Ok::<_, NoPrice>(42)
    };
    let calls = (0..CALLS).map(|number| async move {
        clock.sleep(EVERY * number).await;
        let start = clock.now();
        let result = policy.call(price).await;
        (result.is_ok(), clock.now().saturating_duration_since(start))
    });
    let ended = clock.block_on(join_all(calls));
    let mut latencies: Vec<_> = ended.iter().map(|(_, took)| *took).collect();
    latencies.sort();
    Day {
        latencies,
        good: ended.iter().filter(|(good, _)| *good).count(),
        requests: 0,
    }
}
