//! A clock that is set back by an hour: nothing may stand still until it is right again.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use backstop::bulkhead::limit::{
    Aimd, ConcurrencyLimit, Correlated, Gradient, Gradient2, Probe, Sample, Vegas, Windowed,
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
    let decaying = Vegas::builder().probe(None).decay(secs(5));
    let windowed = Windowed::builder().around(Aimd::builder().build().unwrap());
    vec![
        ("aimd", Box::new(Aimd::builder().build().unwrap())),
        ("gradient2", Box::new(Gradient2::builder().build().unwrap())),
        ("vegas", Box::new(Vegas::builder().build().unwrap())),
        ("vegas, decaying", Box::new(decaying.build().unwrap())),
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

/// A hundred calls a second from `from` on, all permits out, each as `change` makes it.
fn feed(limit: &mut Limit, from: Duration, length: Duration, change: impl Fn(&mut Sample)) {
    for hundredth in 1..=length.as_millis() as u32 / 10 {
        let now = Instant::ORIGIN + from + ms(10) * hundredth;
        let mut sample = Sample::new(now, ms(10), limit.limit());
        sample.full = true;
        change(&mut sample);
        limit.on_sample(&sample);
    }
}

#[test]
fn limits_go_on_moving() {
    let good = |_: &mut Sample| {};
    let bad = |sample: &mut Sample| sample.overloaded = true;
    let mut stand_still = Vec::new();
    for (name, mut limit) in algorithms() {
        feed(&mut limit, HOUR, secs(20), good);
        let high = limit.limit();
        feed(&mut limit, secs(1), secs(60), bad);
        let fallen = limit.limit();
        feed(&mut limit, 2 * HOUR, secs(20), bad);
        let low = limit.limit();
        feed(&mut limit, secs(1), secs(60), good);
        let risen = limit.limit();
        if fallen >= high || risen <= low {
            stand_still.push((name, [high, fallen, low, risen]));
        }
    }
    assert!(stand_still.is_empty(), "{stand_still:?}");
}

/// An overload is regarded once per round trip, whatever the latencies say.
#[test]
fn overloads_go_on_to_shrink_a_limit_that_latencies_do_not_move() {
    let mut gradient2: Limit = Box::new(Gradient2::builder().build().unwrap());
    let bad = |sample: &mut Sample| sample.overloaded = true;
    feed(&mut gradient2, HOUR, ms(50), bad);
    let before = gradient2.limit();
    feed(&mut gradient2, secs(1), ms(50), bad);
    assert!(gradient2.limit() < before, "{before}");
}

/// A probe lets only a few calls through; it must end, and the next one must come.
#[test]
fn probes_end_and_come_again() {
    let probe = Probe::every(secs(60)).samples(500).jitter(0.0);
    let probing: [(&str, Limit); 2] = [
        (
            "vegas",
            Box::new(Vegas::builder().probe(probe).build().unwrap()),
        ),
        (
            "gradient",
            Box::new(Gradient::builder().probe(probe).min(10).build().unwrap()),
        ),
    ];
    for (name, mut limit) in probing {
        // How many probes begin in so many seconds, and whether one is under way then.
        let probes = |limit: &mut Limit, from: Duration, seconds| {
            let (mut probes, mut probing) = (0, limit.limit() <= 3);
            for second in 0..seconds {
                feed(limit, from + secs(second), secs(1), |_| {});
                let before = std::mem::replace(&mut probing, limit.limit() <= 3);
                probes += u32::from(probing && !before);
            }
            (probes, probing)
        };
        // Set back in the middle of a probe of 5 s, and between two.
        let mut time = HOUR;
        while !probes(&mut limit, time, 1).1 {
            time += secs(1);
        }
        assert_eq!(probes(&mut limit, secs(1), 10), (0, false), "{name}");
        assert_eq!(probes(&mut limit, HOUR, 30), (1, false), "{name}");
        let put_off = probes(&mut limit, secs(1), 58);
        assert_eq!(put_off, (0, false), "{name}");
        assert_eq!(probes(&mut limit, secs(59), 10).0, 1, "{name}");
    }
}

/// What was the smallest latency before is forgotten in its time.
#[test]
fn a_smallest_latency_decays() {
    let mut vegas = Vegas::builder().probe(None).decay(secs(5)).build().unwrap();
    let mut feed = |from: Duration, latency| {
        for tenth in 0..100 {
            let now = Instant::ORIGIN + from + ms(100) * tenth;
            vegas.on_sample(&Sample::new(now, latency, 1));
        }
        vegas.baseline()
    };
    assert_eq!(feed(HOUR, ms(10)), Some(ms(10)));
    assert_eq!(feed(secs(1), ms(20)), Some(ms(20)));
}

/// The limit stays below a multiple of what was in flight within the last ten seconds.
#[test]
fn a_peak_in_flight_is_forgotten() {
    let window = Windowed::builder().window(ms(1), ms(1)).min_samples(1);
    let correlated = Correlated::builder()
        .window(window)
        .max_limit_factor(2.0, 0.0, 2.0)
        .max_limit_stabilization(secs(10));
    let mut limit: Limit = Box::new(correlated.build().unwrap());
    feed(&mut limit, HOUR, secs(20), |_| {});
    assert!(limit.limit() > 100);
    feed(&mut limit, secs(1), secs(20), |sample| sample.in_flight = 5);
    assert_eq!(limit.limit(), 10);
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

/// A call during which the clock is set back has taken nobody knows how long. It must not pass for one
/// that took no time, which no other call will ever be as quick as.
#[test]
fn a_call_that_ends_before_it_began_is_no_measure() {
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
