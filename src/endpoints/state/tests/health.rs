//! Ejections, probes, and checks.

use proptest::prelude::*;

use super::*;

proptest! {
    /// A priority always keeps a node, and the number of ejected nodes never exceeds its limit.
    #[test]
    fn ejections_leave_enough_nodes(
        priorities in prop::collection::vec(0_u32..3, 1..25),
        max_ejected in 0.0..=1.0_f64,
        steps in prop::collection::vec((0_usize..25, 0_u64..60, any::<bool>()), 1..80),
    ) {
        let mut machine = Machine::new(Rules { max_ejected, ..rules() }, Instant::ORIGIN);
        for priority in &priorities {
            machine.insert(Record::new(1.0, *priority, 0, None));
        }
        let allowed = ((max_ejected * priorities.len() as f64) as usize).max(1);
        let mut now = Instant::ORIGIN;
        for (node, pause, is_good) in steps {
            now += pause as u32 * SECOND;
            let index = (node % priorities.len()) as u32;
            match standing(&machine, index) {
                Standing::Returning => drop(end_probe(&mut machine, index, is_good, now)),
                _ => drop(eject_failing(&mut machine, index, now)),
            }
            advance(&mut machine, now);
            let ejected = machine.iter().filter(|(_, record)| record.standing != Standing::Admitted);
            prop_assert!(ejected.count() <= allowed);
            for priority in &priorities {
                let mut left = machine.iter().filter(|(_, record)| {
                    record.priority == *priority && record.is_available(now)
                });
                prop_assert!(left.next().is_some());
            }
        }
    }
}

#[test]
fn ejections_grow_and_shrink_by_one_interval_at_a_time() {
    // From gRFC A50: the multiplier grows with each ejection, and decreases with each interval without one.
    let mut machine = machine(10, rules());
    let mut lengths = Vec::new();
    let mut now = at(0);
    for _ in 0..12 {
        let Some(Change::Ejected { length, .. }) = eject_failing(&mut machine, 0, now) else {
            panic!("not ejected");
        };
        lengths.push(length.as_secs());
        now += length;
        advance(&mut machine, now);
        assert_eq!(
            standing(&machine, 0),
            Standing::Returning,
            "at the nanosecond"
        );
        assert_eq!(
            end_probe(&mut machine, 0, true, now),
            Some(Change::Returned { index: 0 })
        );
    }
    assert_eq!(
        lengths,
        [30, 60, 90, 120, 150, 180, 210, 240, 270, 300, 300, 300]
    );

    // The interval of the last ejection does not reduce the multiplier; each later one does.
    let times = |machine: &Machine| machine.get(0).unwrap().times;
    assert_eq!(times(&machine), 12);
    let mut seen = Vec::new();
    for _ in 0..14 {
        now += 10 * SECOND;
        advance(&mut machine, now);
        seen.push(times(&machine));
    }
    assert_eq!(seen, [11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0, 0, 0]);
}

#[test]
fn an_ejection_ends_with_its_time_and_a_failed_probe_renews_it() {
    let mut machine = machine(10, rules());
    eject_failing(&mut machine, 3, at(1));
    assert_eq!(standing(&machine, 3), Standing::Ejected { until: at(31) });
    advance(&mut machine, Instant::from_nanos(at(31).as_nanos() - 1));
    assert_eq!(standing(&machine, 3), Standing::Ejected { until: at(31) });
    advance(&mut machine, at(31));
    assert_eq!(standing(&machine, 3), Standing::Returning);
    let change = end_probe(&mut machine, 3, false, at(32));
    let expected = Change::Ejected {
        index: 3,
        cause: EjectionCause::ProbeFailed,
        length: 60 * SECOND,
        times: 2,
    };
    assert_eq!(change, Some(expected));
}

#[test]
fn jitter_lengthens_ejections() {
    let mut machine = machine(
        10,
        Rules {
            jitter: 0.5,
            ..rules()
        },
    );
    let stats = stats(&machine, 0);
    let change = machine.eject_failing(0, &stats, stats.epoch(), at(0), 0.5);
    assert!(matches!(change, Some(Change::Ejected { length, .. }) if length == SECOND * 75 / 2));
}

#[test]
fn results_of_an_earlier_epoch_or_another_node_change_nothing() {
    let mut machine = machine(10, rules());
    let stats = stats(&machine, 0);
    let epoch = stats.epoch();
    eject_failing(&mut machine, 0, at(0));
    advance(&mut machine, at(30));
    assert_eq!(machine.end_probe(0, &stats, epoch, true, at(30), 0.0), None);
    end_probe(&mut machine, 0, true, at(30));
    assert_eq!(
        machine.eject_failing(0, &stats, epoch, at(31), 0.0),
        None,
        "a late failure"
    );
    // The index has been reused for another node.
    machine.records[0] = Some(Record::new(1.0, 0, 0, None));
    assert_eq!(machine.eject_failing(0, &stats, 0, at(31), 0.0), None);
    assert_eq!(machine.park(0, &stats, SECOND, at(31)), None);
}

#[test]
fn a_success_rate_far_below_the_mean_ejects() {
    // Nine at 99 %, one at 90 %: mean 98.1, deviation 2.7, so the threshold is 92.97 %.
    let eject = |good, failed, nodes| {
        let mut machine = machine(nodes, rules());
        (1..nodes as u32).for_each(|index| count(&machine, index, 99, 1));
        count(&machine, 0, good, failed);
        advance(&mut machine, at(10))
    };
    let causes = |changes: Vec<Change>| -> Vec<(u32, EjectionCause)> {
        let cause = |change| match change {
            Change::Ejected { index, cause, .. } => (index, cause),
            other => panic!("{other:?}"),
        };
        changes.into_iter().map(cause).collect()
    };
    assert_eq!(causes(eject(90, 10, 10)), [(0, EjectionCause::SuccessRate)]);
    assert_eq!(causes(eject(99, 1, 10)), [], "all are equal");
    assert_eq!(causes(eject(89, 10, 10)), [], "99 calls are too few");
    assert_eq!(causes(eject(90, 10, 4)), [], "four nodes are too few");
    assert_eq!(
        causes(eject(7, 43, 10)),
        [(0, EjectionCause::FailureShare)],
        "86 %"
    );
    assert_eq!(causes(eject(8, 42, 10)), [], "84 %");
    assert_eq!(causes(eject(6, 43, 10)), [], "49 calls are too few");
}

#[test]
fn what_is_not_ejected_says_why() {
    let reason = |change| match change {
        Some(Change::NotEjected { reason, .. }) => reason,
        other => panic!("{other:?}"),
    };
    assert_eq!(
        reason(eject_failing(&mut machine(1, rules()), 0, at(0))),
        Unenforced::LastAvailable
    );
    let mut two = machine(
        2,
        Rules {
            max_ejected: 1.0,
            ..rules()
        },
    );
    assert!(matches!(
        eject_failing(&mut two, 0, at(0)),
        Some(Change::Ejected { .. })
    ));
    assert_eq!(
        reason(eject_failing(&mut two, 1, at(0))),
        Unenforced::LastAvailable
    );
    let mut ten = machine(10, rules());
    eject_failing(&mut ten, 0, at(0));
    assert_eq!(
        reason(eject_failing(&mut ten, 1, at(0))),
        Unenforced::MaxEjected
    );
    let mut shadow = machine(
        10,
        Rules {
            shadow: true,
            ..rules()
        },
    );
    assert_eq!(
        reason(eject_failing(&mut shadow, 0, at(0))),
        Unenforced::Shadow
    );
    assert_eq!(standing(&shadow, 0), Standing::Admitted);
}

#[test]
fn a_node_changes_its_health_after_consecutive_checks() {
    let mut machine = machine(3, rules());
    let mut check = |is_good| !machine.checked(0, is_good, at(1)).is_empty();
    let results = [
        false, false, true, false, false, false, true, false, true, true,
    ];
    let changed = results.map(&mut check);
    let expected = [
        false, false, false, false, false, true, false, false, false, true,
    ];
    assert_eq!(changed, expected);
}

#[test]
fn checks_with_different_results_are_not_in_a_row() {
    let mut machine = machine(3, rules());
    assert!(eject_failing(&mut machine, 0, at(0)).is_some());
    for is_good in [false, false, true, false, false, true] {
        assert_eq!(machine.checked(0, is_good, at(1)), []);
    }
    assert_eq!(
        machine.checked(0, true, at(1)),
        [Change::Returned { index: 0 }]
    );
}

#[test]
fn a_sweep_at_the_end_of_the_clocks_range_counts_no_interval() {
    let mut machine = machine(3, rules());
    let end = Instant::FAR_FUTURE;
    advance(&mut machine, end);
    assert!(eject_failing(&mut machine, 0, end).is_some());
    // Back before the next sweep.
    machine.checked(0, true, end);
    assert_eq!(
        machine.checked(0, true, end),
        [Change::Returned { index: 0 }]
    );
    assert_eq!(advance(&mut machine, end), []);
    assert_eq!(machine.get(0).map(|record| record.times), Some(1));
}

#[test]
fn good_checks_end_an_ejection() {
    let mut machine = machine(3, rules());
    eject_failing(&mut machine, 0, at(0));
    assert_eq!(machine.checked(0, true, at(1)), []);
    assert_eq!(
        machine.checked(0, true, at(2)),
        [Change::Returned { index: 0 }]
    );
    assert_eq!(standing(&machine, 0), Standing::Admitted);
}

#[test]
fn idle_intervals_count_as_intervals_without_an_ejection() {
    let mut machine = machine(10, rules());
    let mut now = at(0);
    for _ in 0..8 {
        eject_failing(&mut machine, 0, now);
        now += 300 * SECOND;
        advance(&mut machine, now);
        end_probe(&mut machine, 0, true, now);
    }
    advance(&mut machine, now + 10 * SECOND);
    let times = |machine: &Machine| machine.get(0).unwrap().times;
    let before = times(&machine);
    // No call for 35 s, which is three and a half intervals.
    advance(&mut machine, now + 45 * SECOND);
    assert_eq!(times(&machine), before - 3);
}

#[test]
fn equal_nodes_are_not_outliers_at_any_deviation() {
    // Rounding makes the mean of equal rates differ from the rates.
    for deviations in [1e-9, 0.1, 0.5, 0.9, 1.9] {
        for failed in 0..100 {
            let rule = SuccessRate {
                deviations,
                min_calls: 100,
                min_nodes: 5,
            };
            let rules = Rules {
                success_rate: Some(rule),
                failure_share: None,
                ..rules()
            };
            let mut machine = machine(13, rules);
            (0..13).for_each(|index| count(&machine, index, 1000 - failed, failed));
            assert_eq!(advance(&mut machine, at(10)), [], "{deviations} {failed}");
        }
    }
}
