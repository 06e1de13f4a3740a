//! The word of permits, and the spares beside it, against plain counting.

use proptest::prelude::*;

use super::*;
use crate::striped::move_to;

#[test]
fn fields_do_not_touch_each_other() {
    let permits = Permits::new(u32::MAX, true);
    assert_eq!(permits.read().limit(), MAX_PERMITS);
    assert_eq!(permits.force(u32::MAX).cost(), MAX_PERMITS);
    assert_eq!(permits.force(1).cost(), 0, "the count is full");
    permits.somebody_waits();
    let old = permits.set_limit(0);
    assert!(old.limit() == MAX_PERMITS && old.waiting());
    let word = permits.read();
    assert_eq!((word.limit(), word.in_flight()), (1, MAX_PERMITS));
    permits.nobody_waits();
    assert!(!permits.give_back(MAX_PERMITS).waiting());
    assert_eq!(permits.read().in_flight(), 0);
}

#[test]
fn nobody_passes_those_who_wait() {
    let permits = Permits::new(2, true);
    permits.somebody_waits();
    assert!(permits.try_take(1, false).is_err());
    assert!(permits.try_take_one().is_err());
    assert!(permits.take_in_turn(1, false, false).is_ok());
    assert!(permits.take_in_turn(2, false, true).is_err());
    assert!(permits.read().waiting());
    assert!(permits.take_in_turn(1, false, true).is_ok());
    assert!(!permits.read().waiting(), "it was the last");
}

#[test]
fn one_permit_is_taken_while_there_is_room() {
    for limit in [1, 2, MAX_PERMITS] {
        let permits = Permits::new(limit, true);
        let out = permits.force(limit - 1).cost();
        assert_eq!(
            (out, permits.try_take_one().unwrap().into_words().1),
            (limit - 1, u64::from(limit))
        );
        for look in [false, true, true] {
            let (word, added) = permits.try_take_one().unwrap_err();
            assert_eq!((word.in_flight(), word.limit()), (limit, limit));
            assert_eq!(added, !look, "only the first adds before it looks");
        }
    }
}

#[test]
fn who_added_one_too_many_keeps_it_only_if_there_is_room_by_now() {
    for (limit, out, waiting, keeps) in [
        (1, 1, false, false),
        (2, 1, false, true),
        (2, 1, true, false),
        (MAX_PERMITS, MAX_PERMITS, false, false),
    ] {
        let permits = Permits::new(limit, true);
        permits.force(out);
        permits.word.0.fetch_add(1, Ordering::Relaxed);
        if waiting {
            permits.somebody_waits();
        }
        assert_eq!(permits.take_or_undo().is_ok(), keeps);
        assert_eq!(permits.read().in_flight(), out + u32::from(keeps));
        assert_eq!(permits.read().limit(), limit);
    }
}

#[test]
fn a_clamped_cost_takes_what_there_is() {
    let permits = Permits::new(3, true);
    assert!(permits.try_take(5, false).is_err());
    assert_eq!(permits.try_take(5, true).map(Taken::cost), Ok(3));
}

#[test]
fn a_permit_that_comes_back_is_left_for_the_thread_while_there_is_much_room() {
    let permits = Permits::of_two(8, 8);
    move_to(0);
    permits.try_take_one().unwrap();
    assert_eq!(permits.give_one_back(), None);
    assert_eq!((permits.read().in_flight(), permits.in_flight()), (1, 0));
    // The other thread does not see it.
    move_to(1);
    permits.try_take_one().unwrap();
    assert_eq!(permits.read().in_flight(), 2);
    move_to(0);
    permits.try_take_one().unwrap();
    assert_eq!((permits.read().in_flight(), permits.in_flight()), (2, 2));
    // Both parts together keep half of the limit.
    for _ in 0..2 {
        permits.force(1);
    }
    let left = (0..4).filter(|_| permits.give_one_back().is_none());
    assert_eq!(left.count(), 2);
    assert_eq!((permits.read().in_flight(), permits.in_flight()), (2, 0));
    permits.set_limit(16);
    permits.take_one_slowly(Added(false)).unwrap();
    permits.force(6);
    let left = (0..7).filter(|_| permits.give_one_back().is_none());
    assert_eq!(left.count(), 4, "half of the limit is more by now");
}

#[test]
fn spares_are_recalled_before_anybody_is_refused_waits_or_finds_another_limit() {
    type Act = fn(&Permits);
    let acts: [(Act, u32); 4] = [
        (|permits| assert!(permits.try_take(8, false).is_ok()), 8),
        (|permits| assert!(permits.try_take(9, false).is_err()), 0),
        (
            |permits| assert!(permits.somebody_waits().in_flight() == 0),
            0,
        ),
        (|permits| assert!(permits.set_limit(7).limit() == 8), 0),
    ];
    for (act, out) in acts {
        let permits = Permits::of_two(8, 8);
        for home in [0, 1] {
            move_to(home);
            permits.try_take_one().unwrap();
            permits.give_one_back();
        }
        assert_eq!((permits.read().in_flight(), permits.in_flight()), (2, 0));
        act(&permits);
        assert_eq!(
            (permits.read().in_flight(), permits.in_flight()),
            (out, out)
        );
        // And none are left until there is much room.
        permits.force(1);
        assert!(permits.give_one_back().is_some());
    }
}

#[test]
fn spares_are_kept_again_once_there_is_much_room() {
    move_to(0);
    let permits = Permits::of_two(8, 8);
    permits.force(8);
    permits.try_take_one().unwrap_err();
    for out in (0..8).rev() {
        assert!(permits.give_one_back().is_some(), "{out} out");
        let taken = permits.try_take_one().is_ok();
        assert!(taken, "{out} out");
        if out < 2 {
            assert_eq!(permits.give_one_back(), None);
            return;
        }
        assert!(permits.give_one_back().is_some());
    }
}

#[test]
fn where_no_spare_would_be_kept_nobody_opens_the_parts() {
    // Half of seven is less than one for each part.
    let permits = Permits::with_spares(8, Spares::of(4, 8));
    permits.set_limit(7);
    let turn = permits.spares.turn();
    for _ in 0..3 {
        permits.try_take_one().unwrap();
        assert!(permits.give_one_back().is_some());
    }
    assert!(permits.spares.closed_since(turn));
}

#[derive(Clone, Debug)]
enum Step {
    Take { home: usize, cost: u32 },
    GiveBack { home: usize, which: usize },
    Resize(u32),
    Wait,
    NobodyWaits,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0..3_usize, prop_oneof![5 => Just(1), 1 => 2..9_u32])
            .prop_map(|(home, cost)| Step::Take { home, cost }),
        6 => (0..3_usize, any::<usize>())
            .prop_map(|(home, which)| Step::GiveBack { home, which }),
        1 => (1..24_u32).prop_map(Step::Resize),
        1 => Just(Step::Wait),
        1 => Just(Step::NobodyWaits),
    ]
}

proptest! {
    /// Whoever looks from outside can't tell that spares are kept: a number that is out, a limit
    /// and a flag decide.
    #[test]
    fn spares_change_nothing_but_the_speed(
        limit in 1..24_u32,
        steps in proptest::collection::vec(step(), 1..200),
    ) {
        let permits = Permits::of_two(limit, limit);
        let (mut limit, mut out, mut waiting) = (limit, Vec::new(), false);
        for step in steps {
            let sum = out.iter().sum::<u32>();
            match step {
                Step::Take { home, cost } => {
                    move_to(home);
                    let taken = match cost {
                        1 => permits.try_take_one().ok(),
                        _ => permits.try_take(cost, false).ok(),
                    };
                    prop_assert_eq!(taken.is_some(), !waiting && sum + cost <= limit);
                    out.extend(taken.map(Taken::cost));
                }
                Step::GiveBack { home, which } if !out.is_empty() => {
                    move_to(home);
                    match out.swap_remove(which % out.len()) {
                        1 => {
                            let word = permits.give_one_back();
                            prop_assert!(!waiting || word.is_some_and(Word::waiting));
                        }
                        cost => prop_assert_eq!(permits.give_back(cost).waiting(), waiting),
                    }
                }
                Step::GiveBack { .. } => {}
                Step::Resize(to) => {
                    let before = permits.set_limit(to);
                    prop_assert_eq!((before.limit(), before.waiting()), (limit, waiting));
                    limit = to;
                }
                Step::Wait => {
                    prop_assert_eq!(permits.somebody_waits().in_flight(), sum);
                    waiting = true;
                }
                Step::NobodyWaits => {
                    permits.nobody_waits();
                    waiting = false;
                }
            }
            prop_assert_eq!(permits.in_flight(), out.iter().sum::<u32>());
            prop_assert_eq!(permits.read().limit(), limit);
            prop_assert_eq!(permits.read().waiting(), waiting);
        }
    }
}
