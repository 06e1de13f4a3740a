//! Hedges around an operation that answers before a copy is due: what every call pays.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use backstop::{FastClock, Hedge, Policy, TokioClock};

use super::Row;
use crate::measure::Candidate;
use crate::work::{Failure, blocking, future, leak, pending_once, ready, sole_service};

/// Longer than any call here takes.
const DELAY: Duration = Duration::from_secs(2);
const WINDOW: Duration = Duration::from_secs(30);
const QUANTILE: f64 = 0.95;
const MIN_CALLS: u32 = 20;

pub fn rows() -> Vec<Row> {
    let sound = "the settings are sound";
    let fixed = Hedge::builder().after(DELAY);
    let fixed_tokio = leak(fixed.clone().clock(TokioClock).build().expect(sound));
    let fixed_fast = leak(fixed.clock(FastClock::new()).build().expect(sound));
    let by_latency = Hedge::builder()
        .quantile(QUANTILE)
        .min_delay(DELAY)
        .window(WINDOW);
    let by_latency = leak(by_latency.clock(FastClock::new()).build().expect(sound));
    vec![
        Row::race(
            "hedge, fixed delay, ready, fast clock",
            1,
            1.0,
            future("fixed delay", || fixed_fast.call(ready)),
            vec![future("by hand", || by_hand(ready))],
        ),
        // As for timeouts, the reading of the clock is not compared: a layer outside shares it.
        Row::race(
            "hedge, fixed delay, ready, tokio clock, beside the clock read",
            1,
            1.0,
            future("fixed delay", || fixed_tokio.call(ready)),
            vec![future("by hand", || by_hand(ready))],
        )
        .beside(blocking("clock read", || backstop::Clock::now(&TokioClock))),
        Row::race(
            "hedge, fixed delay, pending once, fast clock",
            1,
            1.0,
            future("fixed delay", || fixed_fast.call(pending_once)),
            vec![future("by hand", || by_hand(pending_once))],
        ),
        Row::race(
            "hedge, fixed delay, pending once, tokio clock",
            1,
            1.05,
            future("fixed delay", || fixed_tokio.call(pending_once)),
            vec![future("by hand", || by_hand(pending_once))],
        ),
        Row::race(
            "hedge, at a quantile, ready",
            1,
            1.0,
            future("quantile", || by_latency.call(ready)),
            vec![tower(ready)],
        ),
        Row::race(
            "hedge, at a quantile, pending once",
            1,
            1.0,
            future("quantile", || by_latency.call(pending_once)),
            vec![tower(pending_once)],
        ),
        Row::no_allocations(
            "hedge, allocations without a copy",
            future("quantile", || by_latency.call(pending_once)),
            vec![
                tower(pending_once),
                future("by hand", || by_hand(pending_once)),
            ],
        ),
    ]
}

/// A select over two copies, the second one after a delay, that arms its timer only when it has to.
async fn by_hand<Fut>(operation: impl Fn() -> Fut) -> Result<u64, Failure>
where
    Fut: Future<Output = Result<u64, Failure>>,
{
    let mut first = pin!(operation());
    if let Ok(answer) = tokio::time::timeout(DELAY, first.as_mut()).await {
        return answer;
    }
    let mut second = pin!(operation());
    poll_fn(|cx| match first.as_mut().poll(cx) {
        Poll::Pending => second.as_mut().poll(cx),
        answer => answer,
    })
    .await
}

#[derive(Clone)]
struct Always;

impl tower::hedge::Policy<()> for Always {
    fn clone_request(&self, (): &()) -> Option<()> {
        Some(())
    }

    fn can_retry(&self, (): &()) -> bool {
        true
    }
}

/// Its delay is 2 s too, from latencies that it was given.
fn tower<Fut>(operation: fn() -> Fut) -> Candidate
where
    Fut: Future<Output = Result<u64, Failure>> + Send + 'static,
{
    let service = tower::service_fn(move |()| operation());
    let latencies = [DELAY.as_millis() as u64; MIN_CALLS as usize];
    let (calls, quantile) = (MIN_CALLS.into(), QUANTILE as f32);
    sole_service(
        "tower",
        tower::hedge::Hedge::new_with_mock_latencies(
            service, Always, calls, quantile, WINDOW, &latencies,
        ),
    )
}
