//! Adaptive limits on a clock that goes back by an hour.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use backstop::bulkhead::limit::{
    Aimd, ConcurrencyLimit, Correlated, Gradient, Gradient2, Probe, Vegas, Windowed,
};
use backstop::{Bulkhead, Clock, Instant, Sleep};

use super::ms;

type Limit = Box<dyn ConcurrencyLimit>;

const HOUR: Duration = Duration::from_secs(3600);

const fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

fn algorithms() -> Vec<(&'static str, Limit)> {
    let probe = Probe::every(secs(5)).samples(5).jitter(0.0);
    let windowed = Windowed::builder().around(Aimd::builder().build().unwrap());
    vec![
        ("aimd", Box::new(Aimd::builder().build().unwrap())),
        ("gradient2", Box::new(Gradient2::builder().build().unwrap())),
        ("vegas", Box::new(Vegas::builder().build().unwrap())),
        (
            "gradient",
            Box::new(Gradient::builder().probe(probe).build().unwrap()),
        ),
        ("windowed aimd", Box::new(windowed.unwrap())),
        (
            "correlated",
            Box::new(Correlated::builder().build().unwrap()),
        ),
    ]
}

#[test]
fn limits_go_on_moving() {
    for (name, limit) in algorithms() {
        let clock = Settable::default();
        clock.set(2 * HOUR);
        let bulkhead = Bulkhead::builder().adaptive(limit).clock(clock.clone());
        let bulkhead = bulkhead.build().unwrap();
        // Five seconds of calls of 10 ms each, as many at once as there is room for.
        let run = |from: Duration, good: bool| {
            for call in 0..500 {
                clock.set(from + ms(10) * call);
                let permits: Vec<_> = (0..100)
                    .map_while(|_| bulkhead.try_acquire().ok())
                    .collect();
                clock.set(from + ms(10) * (call + 1));
                for permit in permits {
                    if good {
                        permit.success();
                    } else {
                        permit.overloaded();
                    }
                }
            }
            bulkhead.limit()
        };
        let high = run(2 * HOUR, true);
        let fallen = run(HOUR, false);
        assert!(fallen < high, "{name}: {high} {fallen}");
        let risen = run(secs(1), true);
        assert!(risen > fallen, "{name}: {fallen} {risen}");
    }
}

/// A clock that can be set.
#[derive(Clone, Debug, Default)]
struct Settable(Arc<AtomicU64>);

impl Settable {
    fn set(&self, at: Duration) {
        self.0.store(at.as_nanos() as u64, Ordering::SeqCst);
    }
}

impl Clock for Settable {
    fn now(&self) -> Instant {
        Instant::from_nanos(self.0.load(Ordering::SeqCst))
    }

    fn sleep_until(&self, _: Instant) -> Sleep {
        Sleep::never()
    }
}

/// How long a call took during which the clock went backwards is unknown. It must not pass for a call that
/// took no time, because no other call will ever be as quick.
#[test]
fn a_call_during_which_the_clock_went_back_is_no_measure() {
    let clock = Settable::default();
    let vegas = Vegas::builder().probe(None).initial(4).build().unwrap();
    let bulkhead = Bulkhead::builder()
        .adaptive(vegas)
        .clock(clock.clone())
        .build()
        .unwrap();
    clock.set(HOUR);
    let permit = bulkhead.try_acquire().unwrap();
    clock.set(secs(1));
    permit.success();
    for second in 1..20 {
        clock.set(secs(second));
        let permits: Vec<_> = (0..3).map_while(|_| bulkhead.try_acquire().ok()).collect();
        clock.set(secs(second) + ms(10));
        permits.into_iter().for_each(|permit| permit.success());
    }
    assert!(bulkhead.limit() > 4, "{}", bulkhead.limit());
}
