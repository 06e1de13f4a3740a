//! Fairness between the users of one class.

use std::cell::RefCell;
use std::time::Duration;

use backstop::load_shedder::{UserFairness, UserFairnessBuilder};
use backstop::{CallOptions, ManualClock, Policy, Priority};

use super::ms;
use super::overload::Overload;
use super::server::open_loop;

fn fairness(clock: &ManualClock, max_users: usize, half_life: Duration) -> UserFairness {
    let builder = UserFairness::builder()
        .max_users(max_users)
        .half_life(half_life);
    builder.clock(clock.clone()).build().unwrap()
}

/// Twice the capacity, and nine in ten calls of one user.
#[test]
fn a_user_with_many_calls_does_not_starve_the_others() {
    for users in [2, 10] {
        let overload = Overload::new(|builder| builder);
        let clock = overload.clock.clone();
        let fairness = self::fairness(&clock, 1000, Duration::from_secs(10));
        let rate = 2.0 * overload.server.capacity();
        let (served, of) = (RefCell::new([0_u32; 2]), RefCell::new([0_u32; 2]));
        let results = open_loop(&clock, rate, Duration::from_secs(8), |number| {
            let user = match number % 10 {
                0 => 1 + number / 10 % (users - 1),
                _ => 0,
            };
            let is_light = usize::from(user > 0);
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
                of.borrow_mut()[is_light] += counts;
                served.borrow_mut()[is_light] += if good { counts } else { 0 };
                good
            }
        });
        let goodput = results.latencies.len() as f64 / results.offered as f64 * 2.0;
        let (served, of) = (served.into_inner(), of.into_inner());
        let [heavy, light] = [0, 1].map(|kind| f64::from(served[kind]) / f64::from(of[kind]));
        assert!(goodput > 0.9, "{users} users: {goodput} of the capacity");
        assert!(light > 0.98, "{users} users: {light} of the light");
        // Half of all calls fit the capacity. A tenth of all are the others', so four in nine of the heavy user's.
        assert!(
            (0.4..0.5).contains(&heavy),
            "{users} users: {heavy} of the heavy"
        );
    }
}

/// After ten half-lives, a thousandth of the usage is left, still more than that of the others.
#[test]
fn an_evicted_user_leaves_no_usage_behind() {
    let clock = ManualClock::new();
    let second = Duration::from_secs(1);
    let fairness = self::fairness(&clock, 3, second);
    fairness.charge("gone", 1e6);
    clock.advance(10 * second);
    fairness.charge("heavy", 9.0);
    fairness.charge("light", 1.0);
    // The table is full, so the inactive user is evicted.
    fairness.charge("new", 2.0);
    assert_eq!(fairness.users(), 3);
    let level = |user| fairness.priority(Priority::NORMAL, user).as_u16() % 100;
    assert_eq!((level("heavy"), level("new"), level("light")), (22, 99, 99));
}

#[test]
fn heavy_users_have_the_lowest_levels_of_a_class() {
    let clock = ManualClock::new();
    let fairness = self::fairness(&clock, 100, Duration::from_secs(10));
    for call in 0..100 {
        let user = if call % 10 == 0 { "light" } else { "heavy" };
        fairness.charge(user, 1.0);
    }
    let of = |user| fairness.priority(Priority::NORMAL, user);
    assert!(of("heavy") < of("light"));
    assert_eq!(of("new"), Priority::NORMAL.level(99));
    assert!(of("heavy") >= Priority::NORMAL && of("light") < Priority::HIGH);
    // Old usage decays.
    clock.advance(Duration::from_secs(200));
    fairness.charge("light", 1.0);
    assert!(of("heavy") > of("light"));
    // Memory is bounded.
    for user in 0..10_000_u32 {
        fairness.charge(user, 1.0);
    }
    assert_eq!(fairness.users(), 100);
    clock.advance(Duration::from_secs(1000));
    fairness.charge("late", 1.0);
    assert_eq!(fairness.users(), 1, "inactive users are evicted");
    for amount in [f64::NAN, f64::INFINITY, -1.0, 0.0, f64::MAX, f64::MAX] {
        fairness.charge("odd", amount);
        fairness.priority(Priority::HIGH, "odd");
    }
    let setting = |builder: UserFairnessBuilder| builder.build().unwrap_err().setting();
    assert_eq!(setting(UserFairness::builder().max_users(0)), "max_users");
    assert_eq!(
        setting(UserFairness::builder().half_life(ms(0))),
        "half_life"
    );
}

#[test]
fn usage_beyond_the_range_of_floats_counts_as_the_most() {
    let minute = Duration::from_secs(60);
    let fairness = self::fairness(&ManualClock::new(), 10, minute);
    for _ in 0..10 {
        fairness.charge("heavy", f64::MAX);
    }
    fairness.charge("light", 1.0);
    let heavy = fairness.priority(Priority::NORMAL, "heavy");
    assert!(heavy < fairness.priority(Priority::NORMAL, "light"));
}

#[test]
fn users_beyond_the_largest_number_are_treated_as_average() {
    let clock = ManualClock::new();
    let fairness = fairness(&clock, 2, Duration::from_secs(10));
    fairness.charge(1, 1.0);
    assert_eq!(
        fairness.priority(Priority::NORMAL, 3),
        Priority::NORMAL.level(99)
    );
    fairness.charge(2, 1.0);
    assert_eq!(
        fairness.priority(Priority::NORMAL, 3),
        Priority::NORMAL.level(50)
    );
}
