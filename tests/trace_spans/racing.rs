//! Rejections of racing threads.

use std::sync::Barrier;
use std::thread;

use backstop::tracing::EventLog;
use backstop::{ManualClock, Quota, RateLimiter};
use tracing::dispatcher;

use crate::subscriber::Recorded;

#[test]
fn each_of_racing_rejections_is_in_one_summary() {
    const THREADS: usize = 4;
    const ROUNDS: usize = 2000;
    let recorded = Recorded::during(|| {
        let dispatch = dispatcher::get_default(Clone::clone);
        let barrier = Barrier::new(THREADS);
        let clock = ManualClock::new();
        // In each round, the first rejections of a log race.
        let limiters: Vec<_> = (0..ROUNDS)
            .map(|_| {
                let limiter = RateLimiter::builder()
                    .quota(Quota::per_minute(1))
                    .observer(EventLog::new().clock(clock.clone()))
                    .clock(clock.clone())
                    .build()
                    .unwrap();
                limiter.try_acquire().unwrap();
                limiter
            })
            .collect();
        thread::scope(|scope| {
            for _ in 0..THREADS {
                scope.spawn(|| {
                    dispatcher::with_default(&dispatch, || {
                        for limiter in &limiters {
                            barrier.wait();
                            limiter.try_acquire().unwrap_err();
                        }
                    });
                });
            }
        });
        // Dropping the logs writes the rest.
    });
    let lines = recorded.lines();
    let counts = lines.iter().map(|line| {
        let count = line.rsplit_once("count=");
        count.map_or(1, |(_, count)| count.parse().unwrap())
    });
    assert_eq!(counts.sum::<usize>(), THREADS * ROUNDS);
}
