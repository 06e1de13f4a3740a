//! A server with a slow tail: the tail is cut, and the extra load is what was asked for.

use std::pin::pin;

use futures::future::{Either, select};
use futures::stream::{FuturesUnordered, StreamExt};

use super::*;

/// SplitMix64, in `[0, 1)`.
struct Random(u64);

impl Random {
    fn unit(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ z >> 31) >> 11) as f64 / (1_u64 << 53) as f64
    }
}

/// The latency of an answer, in milliseconds: 8 to 12, or of some shape with the same median.
type Shape = fn(f64) -> f64;

const FLAT: Shape = |unit| 8.0 + 4.0 * unit;
const LONG: Shape = |unit| 7.0 - 4.33 * (1.0 - unit).ln();

/// Answers 1 % of the requests 100 times slower, and all of them while it is slow.
struct Server<'a> {
    clock: &'a ManualClock,
    random: RefCell<Random>,
    shape: Shape,
    is_slow: Cell<bool>,
}

impl Server<'_> {
    async fn answer(&self) -> Result<(), ()> {
        let latency = {
            let mut random = self.random.borrow_mut();
            let latency = (self.shape)(random.unit());
            let is_slow = random.unit() < 0.01 || self.is_slow.get();
            if is_slow { latency * 100.0 } else { latency }
        };
        self.clock
            .sleep(Duration::from_secs_f64(latency / 1000.0))
            .await;
        Ok(())
    }
}

/// Makes 500 calls a second for some seconds. Returns their latencies, sorted, and the extra load.
fn run(server: &Server<'_>, hedge: &Hedge, seconds: u32) -> (Vec<Duration>, f64) {
    let clock = server.clock;
    let before = hedge.snapshot();
    let took = RefCell::new(Vec::new());
    clock.block_on(async {
        let mut calls = FuturesUnordered::new();
        for _ in 0..seconds * 500 {
            calls.push(async {
                let start = elapsed(clock);
                hedge.call(|| server.answer()).await.unwrap();
                took.borrow_mut().push(elapsed(clock) - start);
            });
            let mut gap = pin!(clock.sleep(ms(2)));
            loop {
                match select(gap.as_mut(), calls.next()).await {
                    Either::Left(_) => break,
                    Either::Right((Some(()), _)) => {}
                    Either::Right((None, _)) => {
                        gap.as_mut().await;
                        break;
                    }
                }
            }
        }
        while calls.next().await.is_some() {}
    });
    let mut took = took.into_inner();
    took.sort_unstable();
    let after = hedge.snapshot();
    let load = (after.launched - before.launched) as f64 / (after.calls - before.calls) as f64;
    (took, load)
}

#[test]
fn the_tail_is_cut_for_the_extra_load_that_was_asked_for_also_while_everything_is_slow() {
    for (shape, seed) in [(FLAT, 1), (FLAT, 2), (LONG, 3)] {
        let clock = ManualClock::new();
        let server = Server {
            clock: &clock,
            random: RefCell::new(Random(seed)),
            shape,
            is_slow: Cell::new(false),
        };
        let hedge = Hedge::builder().max_extra_load(0.02).clock(clock.clone());
        let hedge = hedge.build().unwrap();
        // Until both windows are full.
        let _ = run(&server, &hedge, 60);

        let (took, load) = run(&server, &hedge, 60);
        let fast = ms(10);
        let delay = hedge.snapshot().delay.unwrap();
        let p99 = took[took.len() * 99 / 100];
        assert!(p99 <= 2 * fast + delay, "p99 {p99:?}, delay {delay:?}");
        assert!((0.018..=0.022).contains(&load), "extra load {load}");
        // Without copies it is 800 ms or more.
        let tail = took[took.len() * 995 / 1000];
        assert!(tail <= ms(100), "p99.5 {tail:?}");

        server.is_slow.set(true);
        let (_, load) = run(&server, &hedge, 60);
        assert!(
            (0.018..=0.022).contains(&load),
            "extra load while slow {load}"
        );

        server.is_slow.set(false);
        let _ = run(&server, &hedge, 60);
        let (took, load) = run(&server, &hedge, 60);
        assert!(took[took.len() * 99 / 100] <= 2 * fast + delay);
        assert!(
            (0.018..=0.022).contains(&load),
            "extra load afterwards {load}"
        );
    }
}

#[test]
fn a_server_without_a_tail_gets_no_more_load_than_was_asked_for() {
    let clock = ManualClock::new();
    let server = Server {
        clock: &clock,
        random: RefCell::new(Random(4)),
        shape: |_| 10.0,
        is_slow: Cell::new(false),
    };
    let hedge = Hedge::builder().max_extra_load(0.02).clock(clock.clone());
    let hedge = hedge.build().unwrap();
    let (_, load) = run(&server, &hedge, 30);
    // All fast answers take equally long: only the slow ones are copied.
    assert!((0.007..0.013).contains(&load), "{load}");
}
