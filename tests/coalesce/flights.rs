//! Leaders, waiting calls, and promotion.

use super::*;
use backstop::Keyed;
use futures::stream::{FuturesUnordered, StreamExt};

#[test]
fn calls_with_one_key_share_an_execution_and_others_do_not() {
    let clock = ManualClock::new();
    let (coalesce, executed) = (coalesce(&clock), Cell::new(0));
    let call = async |key: u64| {
        let load = || async {
            executed.set(executed.get() + 1);
            clock.sleep(ms(10)).await;
            Ok(key * 100 + executed.get())
        };
        coalesce.get(&key).call(load).await
    };
    let all = clock.block_on(async { futures::join!(call(1), call(2), call(1), call(1)) });
    assert_eq!((all.0, all.1), (Ok(102), Ok(202)));
    assert_eq!((all.2, all.3), (all.0, all.0));
    assert_eq!(executed.get(), 2);
    // Nothing is remembered.
    assert_eq!(clock.block_on(call(1)), Ok(103));
    let seen = coalesce.snapshot();
    assert_eq!((seen.executed, seen.shared, seen.promoted), (3, 2, 0));
    assert_eq!((seen.flights, seen.waiting), (0, 0));
}

#[test]
fn errors_and_rejections_are_shared() {
    let clock = ManualClock::new();
    let coalesce = coalesce(&clock);
    let fail = || async {
        clock.sleep(ms(10)).await;
        Err("down")
    };
    let one = coalesce.get(&1);
    let both = clock.block_on(async { futures::join!(one.call(fail), one.call(fail)) });
    assert_eq!(
        both,
        (Err(Error::Operation("down")), Err(Error::Operation("down")))
    );

    // The limit of an inner timeout is that of the execution.
    let limit = Timeout::builder()
        .after(ms(5))
        .clock(clock.clone())
        .build()
        .unwrap();
    let stack = (one, &limit);
    let both = clock.block_on(async { futures::join!(stack.call(fail), stack.call(fail)) });
    assert!(both.0.unwrap_err().is_timeout() && both.1.unwrap_err().is_timeout());

    // What cannot be cloned goes into an `Arc`.
    let files = Coalesce::<String, (), Arc<std::io::Error>>::builder().clock(clock.clone());
    let files = files.build().unwrap();
    let read = || async {
        clock.sleep(ms(10)).await;
        Err(Arc::new(std::io::Error::other("gone")))
    };
    let file = files.get("a.txt");
    let (a, b) = clock.block_on(async { futures::join!(file.call(read), file.call(read)) });
    let (a, b) = (
        a.unwrap_err().into_operation(),
        b.unwrap_err().into_operation(),
    );
    assert!(Arc::ptr_eq(&a.unwrap(), &b.unwrap()));
}

#[test]
fn a_waiting_call_is_polled_a_constant_number_of_times() {
    let clock = ManualClock::new();
    let coalesce = coalesce(&clock);
    let polls = Cell::new(0);
    let load = || {
        let mut left = 1000;
        // A leader that is polled a thousand times.
        std::future::poll_fn(move |cx| match left {
            0 => Poll::Ready(Ok(7)),
            _ => {
                left -= 1;
                cx.waker().wake_by_ref();
                Poll::Pending
            }
        })
    };
    let one = coalesce.get(&1);
    clock.block_on(async {
        let mut calls = FuturesUnordered::new();
        for number in 0..100 {
            let mut call = Box::pin(one.call(load));
            let polls = &polls;
            calls.push(std::future::poll_fn(move |cx| {
                polls.set(polls.get() + u32::from(number > 0));
                call.as_mut().poll(cx)
            }));
        }
        while let Some(result) = calls.next().await {
            assert_eq!(result, Ok(7));
        }
    });
    assert_eq!(coalesce.snapshot().executed, 1);
    assert_eq!(polls.get(), 2 * 99, "once to register, once for the result");
}

#[test]
fn a_waiting_call_takes_over_from_a_leader_that_is_dropped() {
    let clock = ManualClock::new();
    let (coalesce, executed) = (coalesce(&clock), Cell::new(0));
    let load = |number: u64| {
        let (clock, executed) = (&clock, &executed);
        move || {
            executed.set(executed.get() + 1);
            async move {
                clock.sleep(ms(10)).await;
                Ok(number)
            }
        }
    };
    let one = coalesce.get(&1);
    let mut leader = Box::pin(one.call(load(1)));
    let (mut second, mut third) = (Box::pin(one.call(load(2))), Box::pin(one.call(load(3))));
    assert!(poll(leader.as_mut()).is_pending());
    let woken: [Arc<Woken>; 2] = Default::default();
    let [w2, w3] = woken.clone().map(Waker::from);
    assert!(
        second
            .as_mut()
            .poll(&mut Context::from_waker(&w2))
            .is_pending()
    );
    assert!(
        third
            .as_mut()
            .poll(&mut Context::from_waker(&w3))
            .is_pending()
    );
    drop(leader);
    // The one that arrived first, and no other.
    assert_eq!((woken[0].count(), woken[1].count()), (1, 0));
    assert!(poll(third.as_mut()).is_pending());
    assert_eq!(executed.get(), 1);
    let both = clock.block_on(async { futures::join!(third, second) });
    assert_eq!(both, (Ok(2), Ok(2)));
    assert_eq!((executed.get(), coalesce.snapshot().promoted), (2, 1));
}

#[test]
fn a_promotion_that_is_not_taken_passes_on() {
    let clock = ManualClock::new();
    let coalesce = coalesce(&clock);
    let load = || async {
        clock.sleep(ms(10)).await;
        Ok(7)
    };
    let one = coalesce.get(&1);
    let mut calls: Vec<_> = (0..4).map(|_| Box::pin(one.call(load))).collect();
    for call in &mut calls {
        assert!(poll(call.as_mut()).is_pending());
    }
    let last = calls.pop().unwrap();
    for call in calls {
        // The leader, and then those that are promoted and never polled again.
        drop(call);
        let seen = coalesce.snapshot();
        assert_eq!(seen.flights, 1);
    }
    assert_eq!(clock.block_on(last), Ok(7));
    let seen = coalesce.snapshot();
    assert_eq!((seen.flights, seen.waiting, seen.executed), (0, 0, 2));
}

#[test]
fn a_result_that_is_due_to_the_deadline_of_the_leader_is_not_shared() {
    let clock = ManualClock::new();
    let coalesce = coalesce(&clock);
    let limit = |millis| {
        let limit = Timeout::builder().after(ms(millis)).clock(clock.clone());
        limit.build().unwrap()
    };
    let load = || async {
        clock.sleep(ms(50)).await;
        Ok(7)
    };
    // The timeout inside notices the deadline of the one outside, at 20 ms.
    let impatient = (limit(20), coalesce.get(&1), limit(1000));
    let patient = (limit(500), coalesce.get(&1), limit(1000));
    let both = clock.block_on(async { futures::join!(impatient.call(load), patient.call(load)) });
    assert!(both.0.unwrap_err().is_timeout());
    assert_eq!(both.1, Ok(7));
    assert_eq!(coalesce.snapshot().promoted, 1);
}

#[test]
fn a_waiting_call_has_a_deadline_of_its_own() {
    let clock = ManualClock::new();
    let coalesce = coalesce(&clock);
    let limit = Timeout::builder()
        .after(ms(5))
        .clock(clock.clone())
        .build()
        .unwrap();
    let load = || async {
        clock.sleep(ms(50)).await;
        Ok(7)
    };
    let (one, hasty) = (coalesce.get(&1), (&limit, coalesce.get(&1)));
    let both = clock.block_on(async { futures::join!(one.call(load), hasty.call(load)) });
    assert_eq!(both.0, Ok(7));
    assert!(both.1.unwrap_err().is_timeout());
    assert_eq!(
        (coalesce.snapshot().executed, coalesce.snapshot().waiting),
        (1, 0)
    );
}

#[test]
fn at_most_one_execution_of_a_key_runs_at_a_time() {
    let coalesce = Coalesce::<u64, u64, ()>::builder().clock(backstop::BlockingClock);
    let coalesce = coalesce.build().unwrap();
    let (running, executed) = (AtomicU32::new(0), AtomicU32::new(0));
    std::thread::scope(|scope| {
        for caller in 0..16 {
            let (coalesce, running, executed) = (&coalesce, &running, &executed);
            scope.spawn(move || {
                for round in 0..500 {
                    let result = coalesce.get(&1).call_blocking(|| {
                        assert_eq!(running.fetch_add(1, Ordering::SeqCst), 0, "two at a time");
                        executed.fetch_add(1, Ordering::SeqCst);
                        std::thread::yield_now();
                        running.fetch_sub(1, Ordering::SeqCst);
                        Ok(caller * 1000 + round)
                    });
                    assert!(result.is_ok());
                }
            });
        }
    });
    let seen = coalesce.snapshot();
    assert_eq!(seen.executed + seen.shared, 16 * 500);
    assert_eq!(seen.executed, u64::from(executed.into_inner()));
    assert_eq!((seen.flights, seen.waiting), (0, 0));
}

#[test]
fn an_observer_gets_events_for_shared_results_and_promotions() {
    let (clock, heard) = (ManualClock::new(), Arc::new(Mutex::new(Vec::new())));
    let coalesce = Coalesce::<u64, u64, ()>::builder()
        .name("users")
        .clock(clock.clone());
    let coalesce = coalesce.build().unwrap();
    let observer = {
        let heard = heard.clone();
        move |event: &Event| {
            if event.policy() == "users" {
                heard.lock().unwrap().push(event.to_string());
            }
        }
    };
    let pipeline = Pipeline::new(coalesce.get(&1)).observer(observer);
    let load = || async {
        clock.sleep(ms(10)).await;
        Ok(7)
    };
    let (mut leader, mut second) = (Box::pin(pipeline.call(load)), Box::pin(pipeline.call(load)));
    let mut third = Box::pin(pipeline.call(load));
    assert!(poll(leader.as_mut()).is_pending());
    assert!(poll(second.as_mut()).is_pending());
    assert!(poll(third.as_mut()).is_pending());
    drop(leader);
    let both = clock.block_on(async { futures::join!(second, third) });
    assert_eq!(both, (Ok(7), Ok(7)));
    assert_eq!(
        *heard.lock().unwrap(),
        [
            "users: a waiting call took over the execution",
            "users: shared the result of another call after 10ms",
        ]
    );
    assert_eq!(coalesce.name(), "users");
    assert!(format!("{coalesce:?} {:?}", coalesce.get(&1)).contains("users"));
}

/// Admits calls of a high priority whose cost is below ten.
pub(crate) struct Strict;

impl Guard for Strict {
    type Permit = ();

    fn enter(&self, cx: &mut backstop::Context) -> Result<(), Rejected> {
        match cx.priority() >= Priority::HIGH && cx.cost() < 10 {
            true => Ok(()),
            false => Err(Rejected::new("strict", Reason::Shed)),
        }
    }

    fn exit<T, E>(&self, (): (), _: &mut backstop::Outcome<T, E>) {}
}

/// Lets calls with these priorities and costs share a flight, whose leader, the first one, waits in a bulkhead before it
/// is rejected. Returns which ones were admitted, and how often the operation or its rejection was executed.
fn admitted<const N: usize>(calls: [(Priority, u32); N]) -> ([bool; N], u64) {
    let clock = ManualClock::new();
    let coalesce = coalesce(&clock);
    let bulkhead = backstop::Bulkhead::builder()
        .max_concurrent(100)
        .max_waiting(9);
    let bulkhead = bulkhead.clock(clock.clone()).build().unwrap();
    let held = bulkhead.try_acquire_n(100).unwrap();
    let stack = Pipeline::new((coalesce.get(&1), &bulkhead, Guarded(Strict)));
    let pipelines = calls.map(|(priority, cost)| {
        let options = CallOptions::new().priority(priority).cost(cost);
        stack.with(options)
    });
    let mut flights = pipelines
        .each_ref()
        .map(|call| Box::pin(call.call(|| async { Ok(7) })));
    for flight in &mut flights {
        assert!(poll(flight.as_mut()).is_pending());
    }
    drop(held);
    let results = clock.block_on(futures::future::join_all(flights));
    let results: Vec<bool> = results.iter().map(Result::is_ok).collect();
    (results.try_into().unwrap(), coalesce.snapshot().executed)
}

#[test]
fn a_call_on_better_terms_does_not_share_the_rejection_of_its_leader() {
    let (low, high) = ((Priority::LOW, 1), (Priority::HIGH, 1));
    assert_eq!(admitted([low, high]), ([false, true], 2));
    let cheap = admitted([(Priority::HIGH, 10), high]);
    assert_eq!(cheap, ([false, true], 2));
    // The one that takes over also executes for those that would have been rejected.
    assert_eq!(admitted([low, low, high]), ([false, true, true], 2));
    // Calls on equal terms share the rejection.
    assert_eq!(admitted([low, low, low]), ([false; 3], 1));
}

#[test]
fn a_policy_is_evictable_when_no_call_is_in_flight_and_nothing_else_holds_it() {
    use backstop::keyed::Evictable;

    let clock = ManualClock::new();
    let policy = coalesce(&clock);
    assert!(policy.is_evictable());
    let one = policy.get(&1);
    let mut call = Box::pin(one.call(std::future::pending::<Result<u64, &'static str>>));
    assert!(poll(call.as_mut()).is_pending());
    assert_eq!(policy.evictable_in(), None);
    drop(call);
    let other = policy.clone();
    assert_eq!(policy.evictable_in(), None);
    drop(other);
    assert!(policy.is_evictable());
}

#[test]
fn tenants_beyond_the_bound_of_a_keyed_set_do_not_get_each_others_results() {
    let clock = ManualClock::new();
    let template = Coalesce::<String, u32, ()>::builder().clock(clock.clone());
    let tenants = Keyed::<u32, _>::try_builder(move || template.clone().build());
    let tenants = tenants.max_keys(1).build().unwrap();
    let _in_use = tenants.get(&0);
    let home = async |tenant: u32| {
        let pages = tenants.get(&tenant);
        let load = || async {
            clock.sleep(ms(10)).await;
            Ok::<_, ()>(tenant)
        };
        pages.get("/home").call(load).await
    };
    let both = clock.block_on(async { futures::join!(home(1), home(2)) });
    assert_eq!(both, (Ok(1), Ok(2)));
    // Calls of one tenant that has an entry are coalesced.
    clock
        .block_on(async { futures::join!(home(0), home(0)) })
        .0
        .unwrap();
    assert_eq!(tenants.get(&0).snapshot().shared, 1);
    assert_eq!(
        (
            tenants.get(&1).snapshot().executed,
            tenants.get(&1).snapshot().shared
        ),
        (2, 0)
    );
}
