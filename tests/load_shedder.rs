//! The load shedder as its users see it, against a simulated server in virtual time.

#[path = "../examples/overload/server.rs"]
mod server;

use std::cell::{Cell, RefCell};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use backstop::load_shedder::{LoadShedderBuilder, SharedCut, UserFairness};
use backstop::{
    Bulkhead, CallOptions, Clock, Event, Instant, LoadShedder, ManualClock, Pipeline, Policy,
    Priority, Reason, Sleep, Timeout,
};

use futures::future::join_all;

use server::{Server, open_loop};

const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn on(clock: &ManualClock) -> LoadShedderBuilder {
    LoadShedder::builder().clock(clock.clone()).seed(1)
}

/// A signal that a test sets, in hundredths.
fn signal() -> (Arc<AtomicU32>, impl Fn() -> f64 + Send + Sync + 'static) {
    let value = Arc::new(AtomicU32::new(0));
    let read = value.clone();
    (value, move || {
        f64::from(read.load(Ordering::SeqCst)) / 100.0
    })
}

/// Offers one call a millisecond; who is admitted, as a share, by the priorities in turn.
fn admitted<const N: usize>(
    shedder: &LoadShedder,
    clock: &ManualClock,
    priorities: [Priority; N],
    calls: usize,
) -> [f64; N] {
    let mut counts = [0_u32; N];
    for call in 0..calls {
        clock.advance(ms(1));
        counts[call % N] += u32::from(shedder.admit(priorities[call % N]).is_ok());
    }
    counts.map(|count| f64::from(count) * N as f64 / calls as f64)
}

#[test]
fn the_lowest_go_first_and_nobody_goes_without_overload() {
    let clock = ManualClock::new();
    let (load, read) = signal();
    let shedder = on(&clock).signal(0.8, read).build().unwrap();
    let priorities = [Priority::LOW, Priority::HIGH];
    load.store(79, Ordering::SeqCst);
    assert_eq!(admitted(&shedder, &clock, priorities, 1000), [1.0, 1.0]);
    load.store(80, Ordering::SeqCst);
    // Half a second of overload: up to 25 % of all, which is half of the low ones.
    let [low, high] = admitted(&shedder, &clock, priorities, 500);
    assert!(low < 0.9 && high == 1.0, "{low} {high}");
    let [low, high] = admitted(&shedder, &clock, priorities, 500);
    assert!(low < 0.3 && high > 0.95, "{low} {high}");
    // For good: at most nine in ten.
    let [low, high] = admitted(&shedder, &clock, priorities, 4000);
    let [low, high] = [low, high].map(|share| (share * 100.0).round());
    assert!(low == 0.0 && (15.0..35.0).contains(&high), "{low} {high}");
    assert!((shedder.snapshot().shed_rate - 0.9).abs() < 1e-9);
}

#[test]
fn the_priority_of_a_single_call_sheds_no_other_ones() {
    let clock = ManualClock::new();
    let shedder = on(&clock).signal(0.5, || 1.0).build().unwrap();
    assert!(shedder.admit(Priority::HIGHEST).is_ok());
    clock.advance(ms(100));
    // The share is 5 % by now, and only the level of one call is known.
    let shed = (0..99).filter(|_| shedder.admit(Priority::LOW).is_err());
    assert_eq!(shed.count(), 0);
    clock.advance(ms(100));
    let shed = (0..1000).filter(|_| shedder.admit(Priority::LOW).is_err());
    assert!((100..200).contains(&shed.count()), "15 %");
}

#[test]
fn priorities_that_change_between_two_updates_shed_no_more_than_the_largest_share() {
    let clock = ManualClock::new();
    let shedder = on(&clock).signal(0.5, || 1.0).build().unwrap();
    for _ in 0..500 {
        clock.advance(ms(1));
        let _ = shedder.admit(Priority::HIGH);
    }
    let shed = (0..100).filter(|_| shedder.admit(Priority::LOW).is_err());
    assert!(shed.count() <= 90);
}

#[test]
fn check_reports_a_shedder_outside_the_bulkhead_in_which_calls_wait() {
    let clock = ManualClock::new();
    let queue = || {
        let bulkhead = backstop::Bulkhead::builder().max_concurrent(1).queue(9);
        bulkhead.clock(clock.clone()).build().unwrap()
    };
    let by_delay = || on(&clock).build().unwrap();
    let by_signal = on(&clock).signal(0.5, || 0.0).build().unwrap();
    let found = Pipeline::new((by_delay(), queue())).check();
    assert_eq!(found.len(), 1);
    assert!(found[0].to_string().contains("put it inside the bulkhead"));
    assert!(Pipeline::new((queue(), by_delay())).check().is_empty());
    assert!(Pipeline::new((by_signal, queue())).check().is_empty());
}

#[test]
fn shedding_cools_off_before_it_ends() {
    let clock = ManualClock::new();
    let (load, read) = signal();
    let shedder = on(&clock)
        .signal(0.8, read)
        .cool_off(ms(2000))
        .build()
        .unwrap();
    load.store(100, Ordering::SeqCst);
    admitted(&shedder, &clock, [Priority::NORMAL], 1000);
    let rate = shedder.snapshot().shed_rate;
    assert!(rate > 0.4);
    load.store(0, Ordering::SeqCst);
    admitted(&shedder, &clock, [Priority::NORMAL], 1800);
    assert!((shedder.snapshot().shed_rate - rate).abs() < 1e-9);
    admitted(&shedder, &clock, [Priority::NORMAL], 10_000);
    assert_eq!(admitted(&shedder, &clock, [Priority::NORMAL], 1000), [1.0]);
}

/// A server of 2000 calls a second with a line in front, behind a shedder. One call in four is
/// important; callers give up after 100 ms.
struct Overload {
    clock: ManualClock,
    server: Server,
    shedder: LoadShedder,
    stack: Pipeline<(Timeout, Bulkhead, LoadShedder)>,
}

/// What came of a load.
struct Came {
    /// As a share of the capacity.
    goodput: f64,
    /// The share of the important calls that were answered in time.
    important: f64,
    /// The share to shed, every 50 ms.
    rates: Vec<f64>,
    p99: Duration,
}

impl Overload {
    fn new(builder: impl Fn(LoadShedderBuilder) -> LoadShedderBuilder) -> Self {
        let clock = ManualClock::new();
        let server = Server::new(&clock, 20, ms(10));
        let shedder = builder(on(&clock)).build().unwrap();
        let bulkhead = Bulkhead::builder().max_concurrent(20).queue(10_000);
        let timeout = Timeout::builder().after(ms(100)).clock(clock.clone());
        let stack = Pipeline::new((
            timeout.build().unwrap(),
            bulkhead.clock(clock.clone()).build().unwrap(),
            shedder.clone(),
        ));
        Self {
            clock,
            server,
            shedder,
            stack,
        }
    }

    /// Offers a multiple of the capacity. The first fifth is warm-up.
    fn offer(&self, load: f64, seconds: u64) -> Came {
        let rate = load * self.server.capacity();
        let length = Duration::from_secs(seconds);
        let (good_ones, all) = (Cell::new(0_u32), Cell::new(0_u32));
        let rates = RefCell::new(Vec::new());
        let warm_up = (rate * length.as_secs_f64() / 5.0) as usize;
        let every = (rate / 20.0) as usize;
        let mut results = open_loop(&self.clock, rate, length, |number| {
            if number % every == 0 {
                rates.borrow_mut().push(self.shedder.snapshot().shed_rate);
            }
            let high = number % 4 == 0;
            let priority = if high { Priority::HIGH } else { Priority::LOW };
            let call = self.stack.with(CallOptions::new().priority(priority));
            let counts = u32::from(high && number >= warm_up);
            let (good_ones, all) = (&good_ones, &all);
            async move {
                let work = || async {
                    self.server.handle().await;
                    Ok::<_, ()>(())
                };
                let good = call.call(work).await.is_ok();
                all.set(all.get() + counts);
                good_ones.set(good_ones.get() + if good { counts } else { 0 });
                good
            }
        });
        Came {
            goodput: results.latencies.len() as f64 / results.offered as f64 * load,
            important: f64::from(good_ones.get()) / f64::from(all.get()),
            rates: rates.into_inner(),
            p99: results.p99(),
        }
    }
}

#[test]
fn overload_costs_the_unimportant_and_nothing_of_the_capacity() {
    type Settings = fn(LoadShedderBuilder) -> LoadShedderBuilder;
    let settings: [(&str, &[f64], Settings); 3] = [
        ("defaults", &[1.2, 2.0, 3.0], |builder| builder),
        ("quick", &[2.0, 3.0], |builder| {
            builder.cool_off(ms(200)).update_interval(ms(50))
        }),
        // At three times the capacity it takes seconds to work off what has piled up before the
        // first update.
        ("seldom", &[1.2, 2.0], |builder| {
            builder.update_interval(ms(200))
        }),
    ];
    for (name, loads, builder) in settings {
        for &load in loads {
            let came = Overload::new(builder).offer(load, 10);
            let Came {
                goodput, important, ..
            } = came;
            // Without a shedder everybody waits until they give up: nothing is left of the capacity.
            assert!(goodput > 0.9, "{name}, {load}: {goodput} of the capacity");
            assert!(
                important > 0.98,
                "{name}, {load}: {important} of the important"
            );
            assert!(came.p99 <= ms(100));
        }
    }
}

#[test]
fn nobody_is_shed_without_overload() {
    for load in [0.1, 0.5, 0.9, 1.0] {
        let overload = Overload::new(|builder| builder);
        let came = overload.offer(load, 5);
        assert_eq!(overload.shedder.snapshot().shed, 0, "{load}");
        assert!(came.rates.iter().all(|rate| *rate == 0.0));
        assert!(
            (came.goodput - load).abs() < 0.01,
            "{load}: {}",
            came.goodput
        );
    }
}

#[test]
fn the_share_to_shed_settles_and_does_not_swing() {
    for load in [1.2, 2.0, 3.0] {
        let came = Overload::new(|builder| builder).offer(load, 15);
        // After three seconds.
        let rates = &came.rates[60..];
        let fits = 1.0 - 1.0 / load;
        let mean = rates.iter().sum::<f64>() / rates.len() as f64;
        assert!((mean - fits).abs() < 0.03, "{load}: {mean}, not {fits}");
        for rate in rates {
            assert!((rate - fits).abs() < 0.12, "{load}: {rate}, not {fits}");
        }
        let way: f64 = rates.windows(2).map(|pair| (pair[1] - pair[0]).abs()).sum();
        let updates = rates.len() as f64 / 2.0;
        assert!(way / updates < 0.03, "{load}: {} an update", way / updates);
    }
}

#[test]
fn shedding_ends_with_the_overload_and_begins_again_with_it() {
    let overload = Overload::new(|builder| builder);
    for load in [2.0, 3.0] {
        assert!(overload.offer(load, 5).goodput > 0.9);
        assert!(overload.shedder.snapshot().shed_rate > 0.4);
        // Three cool-offs.
        overload.offer(0.5, 3);
        assert_eq!(overload.shedder.snapshot().shed_rate, 0.0);
        let shed = overload.shedder.snapshot().shed;
        let calm = overload.offer(0.9, 3);
        assert!((calm.goodput - 0.9).abs() < 0.01);
        assert_eq!(overload.shedder.snapshot().shed, shed);
    }
}

#[test]
fn a_burst_that_drains_sheds_nobody() {
    let overload = Overload::new(|builder| builder);
    for _ in 0..20 {
        // 100 calls at once are 50 ms of work.
        let work = || async {
            overload.server.handle().await;
            Ok::<_, ()>(())
        };
        let calls = (0..100).map(|_| overload.stack.call(work));
        let results = overload.clock.block_on(join_all(calls));
        assert!(results.iter().all(Result::is_ok));
        overload.clock.advance(ms(150));
    }
    assert_eq!(overload.shedder.snapshot().shed, 0);
}

#[test]
fn one_seed_makes_one_run() {
    let run = |seed| {
        let overload = Overload::new(|builder| builder.seed(seed));
        let came = overload.offer(2.0, 3);
        (overload.shedder.snapshot().shed, came.rates)
    };
    assert_eq!(run(7), run(7));
    assert_ne!(run(7), run(8));
}

/// Where the shedder is the first to read the clock, the time in line is in what it sees all the same.
#[test]
fn the_wait_in_a_bulkhead_outside_counts() {
    let clock = ManualClock::new();
    let bulkhead = Bulkhead::builder().max_concurrent(1).queue(1);
    let shedder = on(&clock).build().unwrap();
    let stack = (bulkhead.clock(clock.clone()).build().unwrap(), &shedder);
    let work = || async {
        clock.sleep(ms(8)).await;
        Ok::<_, ()>(())
    };
    let calls = join_all((0..2).map(|_| stack.call(work)));
    assert!(clock.block_on(calls).iter().all(Result::is_ok));
    // The second waited for 8 ms, and 10 ms are tolerated.
    assert_eq!(shedder.snapshot().load, 0.8);
}

#[test]
fn those_who_share_a_cut_shed_the_same_callers() {
    let clock = ManualClock::new();
    let (load, read) = signal();
    let cut = SharedCut::new();
    let busy = on(&clock)
        .signal(0.5, read)
        .cut(cut.clone())
        .build()
        .unwrap();
    let idle = on(&clock)
        .signal(0.5, || 0.0)
        .cut(cut.clone())
        .build()
        .unwrap();
    load.store(100, Ordering::SeqCst);
    let mut shed = [0, 0];
    for call in 0..4000_u32 {
        clock.advance(ms(1));
        let priority = if call % 2 == 0 {
            Priority::LOW
        } else {
            Priority::HIGH
        };
        shed[0] += u32::from(busy.admit(priority).is_err());
        shed[1] += u32::from(idle.admit(priority).is_err());
    }
    assert!(
        shed[0] > 0 && shed[0].abs_diff(shed[1]) < shed[0] / 5,
        "{shed:?}"
    );
    assert_eq!(busy.snapshot().cut, idle.snapshot().cut);
    // Half of the calls want nothing shed.
    assert!((busy.snapshot().shed_rate - 0.9).abs() < 1e-9);
    assert!(f64::from(shed[0]) < 4000.0 * 0.5);
    // One that is gone has no say.
    drop(busy);
    admitted(&idle, &clock, [Priority::LOW], 100);
    assert_eq!(admitted(&idle, &clock, [Priority::LOW], 1000), [1.0]);
}

/// The windows of a pause were calm ones.
#[test]
fn who_comes_after_a_pause_is_not_shed_for_what_was_before() {
    let clock = ManualClock::new();
    let (load, read) = signal();
    let shedder = on(&clock).signal(0.8, read).build().unwrap();
    load.store(100, Ordering::SeqCst);
    admitted(&shedder, &clock, [Priority::LOWEST], 4000);
    assert!((shedder.snapshot().shed_rate - 0.9).abs() < 1e-9);
    load.store(0, Ordering::SeqCst);
    clock.advance(Duration::from_secs(60));
    assert_eq!(admitted(&shedder, &clock, [Priority::LOWEST], 100), [1.0]);
    // A pause shorter than the cool-off changes nothing.
    load.store(100, Ordering::SeqCst);
    admitted(&shedder, &clock, [Priority::LOWEST], 4000);
    load.store(0, Ordering::SeqCst);
    clock.advance(ms(800));
    admitted(&shedder, &clock, [Priority::LOWEST], 50);
    assert!((shedder.snapshot().shed_rate - 0.9).abs() < 1e-9);
}

/// A signal that comes and goes faster than the cool-off is an overload.
#[test]
fn a_signal_that_flaps_does_not_make_the_cut_flap() {
    let clock = ManualClock::new();
    let (load, read) = signal();
    let shedder = on(&clock).signal(0.8, read).build().unwrap();
    let mut before = 0.0;
    for half in 0..40 {
        load.store(100 * (half % 2), Ordering::SeqCst);
        admitted(&shedder, &clock, [Priority::NORMAL], 500);
        let rate = shedder.snapshot().shed_rate;
        assert!(rate >= before, "{before} to {rate}");
        before = rate;
    }
    assert!((before - 0.9).abs() < 1e-9);
}

/// It wanted nine in ten shed when its last call came, and would say so for ever.
#[test]
fn nobody_is_shed_for_the_sake_of_one_that_has_no_more_calls() {
    let clock = ManualClock::new();
    let cut = SharedCut::new();
    let member = |load: f64| {
        let shedder = on(&clock).signal(0.5, move || load).cut(cut.clone());
        shedder.build().unwrap()
    };
    let (busy, idle) = (member(1.0), member(0.0));
    for _ in 0..4000 {
        clock.advance(ms(1));
        let _ = busy.admit(Priority::LOW);
        let _ = idle.admit(Priority::LOW);
    }
    let [some] = admitted(&idle, &clock, [Priority::LOW], 500);
    assert!(some < 0.7, "{some}");
    // The cool-off is a second.
    admitted(&idle, &clock, [Priority::LOW], 1000);
    assert_eq!(admitted(&idle, &clock, [Priority::LOW], 1000), [1.0]);
}

/// However often it updates.
#[test]
fn one_that_updates_seldom_has_no_more_say() {
    let clock = ManualClock::new();
    let cut = SharedCut::new();
    let seldom = on(&clock)
        .signal(0.5, || 1.0)
        .update_interval(ms(1000))
        .cut(cut.clone());
    let (seldom, often) = (
        seldom.build().unwrap(),
        on(&clock).signal(0.5, || 0.0).cut(cut).build().unwrap(),
    );
    let mut shed = 0;
    for call in 0..40_000 {
        clock.advance(ms(1));
        let _ = seldom.admit(Priority::LOW);
        let refused = often.admit(Priority::LOW).is_err();
        shed += u32::from(refused && call >= 30_000);
    }
    // Half of the calls want nine in ten shed, the other half none.
    assert!((4000..5000).contains(&shed), "{shed}");
}

/// Who only looks on does nothing to the others: neither its overload nor its calls.
#[test]
fn a_shadow_has_no_say_in_what_others_shed() {
    let clock = ManualClock::new();
    let cut = SharedCut::new();
    let member = |load: f64, shadow| {
        let shedder = on(&clock).signal(0.5, move || load).shadow(shadow);
        shedder.cut(cut.clone()).build().unwrap()
    };
    // It joins before the shadow does.
    let (live, shadow) = (member(0.0, false), member(1.0, true));
    for _ in 0..5000 {
        clock.advance(ms(1));
        assert!(live.admit(Priority::LOW).is_ok());
        assert!(shadow.admit(Priority::LOW).is_ok());
    }
    // But it says what would be if it were none.
    assert!(shadow.snapshot().would_shed > 1000);
    assert!(shadow.snapshot().cut > 0 && live.snapshot().cut == 0);
    drop((live, shadow));

    // The shadow's unimportant calls do not take the place of those that have to go.
    let (live, shadow) = (member(1.0, false), member(0.0, true));
    let mut shed = 0;
    for call in 0..10_000 {
        clock.advance(ms(1));
        let _ = shadow.admit(Priority::LOWEST);
        let refused = live.admit(Priority::HIGH).is_err();
        shed += u32::from(refused && call >= 5000);
    }
    assert!((4300..4700).contains(&shed), "{shed}");
}

/// Twice the capacity, nine in ten calls of one user: what the others get, and what is left for it.
#[test]
fn one_user_with_many_calls_starves_nobody() {
    for users in [2, 10] {
        let overload = Overload::new(|builder| builder);
        let clock = overload.clock.clone();
        let fairness = UserFairness::new(1000, Duration::from_secs(10), clock.clone()).unwrap();
        let rate = 2.0 * overload.server.capacity();
        let (served, of) = (RefCell::new([0_u32; 2]), RefCell::new([0_u32; 2]));
        let results = open_loop(&clock, rate, Duration::from_secs(8), |number| {
            let user = match number % 10 {
                0 => 1 + number / 10 % (users - 1),
                _ => 0,
            };
            let is_modest = usize::from(user > 0);
            let priority = fairness.priority(Priority::NORMAL, user);
            let call = overload.stack.with(CallOptions::new().priority(priority));
            let counts = u32::from(number > 2 * rate as usize);
            let (served, of, fairness, server) = (&served, &of, &fairness, &overload.server);
            async move {
                let work = || async {
                    fairness.charge(user, 1.0);
                    server.handle().await;
                    Ok::<_, ()>(())
                };
                let good = call.call(work).await.is_ok();
                of.borrow_mut()[is_modest] += counts;
                served.borrow_mut()[is_modest] += if good { counts } else { 0 };
                good
            }
        });
        let goodput = results.latencies.len() as f64 / results.offered as f64 * 2.0;
        let (served, of) = (served.into_inner(), of.into_inner());
        let [greedy, modest] = [0, 1].map(|kind| f64::from(served[kind]) / f64::from(of[kind]));
        assert!(goodput > 0.9, "{users} users: {goodput} of the capacity");
        assert!(modest > 0.98, "{users} users: {modest} of the modest");
        // Half of all calls fit: a tenth is the others', so four of nine of his.
        assert!(
            (0.4..0.5).contains(&greedy),
            "{users} users: {greedy} of the greedy"
        );
    }
}

/// A thousandth of what a heavy user used is more than what others use.
#[test]
fn who_is_forgotten_leaves_no_usage_behind() {
    let clock = ManualClock::new();
    let second = Duration::from_secs(1);
    let fairness = UserFairness::new(3, second, clock.clone()).unwrap();
    fairness.charge("gone", 1e6);
    clock.advance(10 * second);
    fairness.charge("greedy", 9.0);
    fairness.charge("modest", 1.0);
    // There is no room, so the quiet one makes some.
    fairness.charge("new", 2.0);
    assert_eq!(fairness.users(), 3);
    let level = |user| fairness.priority(Priority::NORMAL, user).as_u16() % 100;
    assert_eq!(
        (level("greedy"), level("new"), level("modest")),
        (22, 99, 99)
    );
}

#[test]
fn the_heavy_users_of_a_class_go_first() {
    let clock = ManualClock::new();
    let fairness = UserFairness::new(100, Duration::from_secs(10), clock.clone()).unwrap();
    for call in 0..100 {
        let user = if call % 10 == 0 { "modest" } else { "greedy" };
        fairness.charge(user, 1.0);
    }
    let of = |user| fairness.priority(Priority::NORMAL, user);
    assert!(of("greedy") < of("modest"));
    assert_eq!(of("new"), Priority::NORMAL.level(99));
    assert!(of("greedy") >= Priority::NORMAL && of("modest") < Priority::HIGH);
    // What was used long ago is forgotten.
    clock.advance(Duration::from_secs(200));
    fairness.charge("modest", 1.0);
    assert!(of("greedy") > of("modest"));
    // In bounded memory.
    for user in 0..10_000_u32 {
        fairness.charge(user, 1.0);
    }
    assert_eq!(fairness.users(), 100);
    clock.advance(Duration::from_secs(1000));
    fairness.charge("late", 1.0);
    assert_eq!(fairness.users(), 1, "the quiet ones make room");
    for amount in [f64::NAN, f64::INFINITY, -1.0, 0.0, f64::MAX, f64::MAX] {
        fairness.charge("odd", amount);
        fairness.priority(Priority::HIGH, "odd");
    }
    assert!(UserFairness::new(0, ms(1), clock.clone()).is_err());
    assert!(UserFairness::new(1, ms(0), clock).is_err());
}

#[test]
fn shadow_counts_and_observers_hear() {
    let clock = ManualClock::new();
    let heard = Arc::new(Mutex::new(Vec::new()));
    let log = heard.clone();
    let observer = move |event: &Event| log.lock().unwrap().push(event.kind());
    let shadow = on(&clock)
        .signal(0.5, || 1.0)
        .shadow(true)
        .observer(observer)
        .build()
        .unwrap();
    assert_eq!(admitted(&shadow, &clock, [Priority::LOW], 2000), [1.0]);
    let would_shed = shadow.snapshot().would_shed;
    assert!(would_shed > 500);
    let heard = heard.lock().unwrap();
    assert!(heard.len() as u64 == would_shed && heard.iter().all(|kind| *kind == "would_reject"));

    let shedder = on(&clock)
        .signal(0.5, || 1.0)
        .max_shed(1.0)
        .name("door")
        .build()
        .unwrap();
    admitted(&shedder, &clock, [Priority::LOW], 3000);
    let error = clock
        .block_on(shedder.call(|| async { Ok::<_, ()>(()) }))
        .unwrap_err();
    assert_eq!(error.reason(), Some(Reason::Shed));
    assert_eq!(
        error.map(|()| "").to_string(),
        "rejected by door: load shed"
    );
}

#[test]
fn the_queue_delay_can_be_retuned() {
    let clock = ManualClock::new();
    let shedder = on(&clock).build().unwrap();
    for (target, interval, fails) in [
        (110, 100, true),
        (20, 100, false),
        (20, 5, true),
        (0, 5, true),
        (10, 200, false),
    ] {
        let result = shedder.set_queue_delay(ms(target), ms(interval));
        assert_eq!(result.is_err(), fails, "{target} {interval}");
    }
    shedder.observe_delay(ms(10));
    assert_eq!(shedder.snapshot().load, 0.5);
    let signalled = on(&clock).signal(0.5, || 0.0).build().unwrap();
    assert!(signalled.set_queue_delay(ms(5), ms(100)).is_err());
}

#[test]
fn settings_without_meaning_are_refused_and_extreme_ones_saturate() {
    let table: Vec<(&str, LoadShedderBuilder)> = vec![
        (
            "queue_delay",
            LoadShedder::builder().queue_delay(ms(0), ms(1)),
        ),
        (
            "queue_delay",
            LoadShedder::builder().queue_delay(ms(2), ms(1)),
        ),
        ("signal", LoadShedder::builder().signal(f64::NAN, || 0.0)),
        ("signal", LoadShedder::builder().signal(0.0, || 0.0)),
        ("signal", LoadShedder::builder().signal(1.1, || 0.0)),
        (
            "signal",
            LoadShedder::builder()
                .signal(0.5, || 0.0)
                .queue_delay(ms(5), ms(100)),
        ),
        ("max_shed", LoadShedder::builder().max_shed(0.0)),
        ("max_shed", LoadShedder::builder().max_shed(f64::INFINITY)),
        (
            "update_interval",
            LoadShedder::builder().update_interval(ms(0)),
        ),
    ];
    for (setting, builder) in table {
        assert_eq!(builder.build().unwrap_err().setting(), setting);
    }
    let clock = ManualClock::new();
    let long = on(&clock)
        .queue_delay(Duration::MAX / 2, Duration::MAX)
        .cool_off(Duration::MAX)
        .update_interval(Duration::MAX)
        .build()
        .unwrap();
    long.observe_delay(Duration::MAX);
    assert!(long.admit(Priority::LOWEST).is_ok());
    let odd = on(&clock).signal(1.0, || f64::NAN).build().unwrap();
    assert_eq!(admitted(&odd, &clock, [Priority::LOWEST], 1000), [1.0]);
    assert!(clock.now().as_nanos() > 0);
}

#[test]
fn usage_beyond_all_numbers_is_still_the_most() {
    let minute = Duration::from_secs(60);
    let fairness = UserFairness::new(10, minute, ManualClock::new()).unwrap();
    for _ in 0..10 {
        fairness.charge("greedy", f64::MAX);
    }
    fairness.charge("modest", 1.0);
    let greedy = fairness.priority(Priority::NORMAL, "greedy");
    assert!(greedy < fairness.priority(Priority::NORMAL, "modest"));
}

/// A clock that can be set.
#[derive(Clone, Debug, Default)]
struct Settable(Arc<AtomicU64>);

impl Settable {
    fn set(&self, at: Duration) {
        self.0.store(at.as_nanos() as u64, Ordering::SeqCst);
    }

    fn advance(&self, by: Duration) {
        self.0.fetch_add(by.as_nanos() as u64, Ordering::SeqCst);
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

const HOUR: Duration = Duration::from_secs(3600);

#[test]
fn a_clock_that_is_set_back_neither_ends_the_shedding_nor_keeps_it() {
    for by_signal in [true, false] {
        let clock = Settable::default();
        let (load, read) = signal();
        let builder = LoadShedder::builder().clock(clock.clone());
        let builder = if by_signal {
            builder.signal(0.5, read)
        } else {
            builder
        };
        let shedder = builder.build().unwrap();
        // The smallest share that was shed.
        let run = |from: Duration, seconds: u64, overloaded: bool| {
            load.store(100 * u32::from(overloaded), Ordering::SeqCst);
            clock.set(from);
            let mut smallest = 1.0_f64;
            for _ in 0..seconds * 100 {
                clock.advance(ms(10));
                shedder.observe_delay(ms(if overloaded { 50 } else { 0 }));
                let _ = shedder.admit(Priority::NORMAL);
                smallest = smallest.min(shedder.snapshot().shed_rate);
            }
            smallest
        };
        run(HOUR, 60, true);
        // The overload goes on.
        assert!(run(Duration::ZERO, 60, true) > 0.5);
        // Nothing is forgotten at once, but it is over after its time.
        run(HOUR, 60, true);
        assert!(run(Duration::ZERO, 1, false) > 0.5);
        run(Duration::from_secs(1), 120, false);
        assert_eq!(shedder.snapshot().shed_rate, 0.0);
    }
}
