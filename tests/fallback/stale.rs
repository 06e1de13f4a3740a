//! The last good value.

use super::watchdog::within_a_minute;
use super::*;
use backstop::keyed::{Evictable, Overflow};
use backstop::{Keyed, MaybeStale, Stale};

fn stale(clock: &ManualClock, seconds: u64) -> Stale<u64> {
    let stale = Stale::builder().max_age(Duration::from_secs(seconds));
    stale.clock(clock.clone()).build().unwrap()
}

/// Makes a call that succeeds with a value or fails. Returns the value and its age in seconds.
macro_rules! call {
    ($clock:expr, $policy:expr, $result:expr) => {{
        let result: Result<u64, Fault> = $result;
        let result = $clock.block_on($policy.call(|| async { result.map(MaybeStale::from) }));
        result.map(|value| (*value, value.age().map(|age| age.as_secs())))
    }};
}

#[test]
fn the_last_good_value_replaces_errors_up_to_its_age() {
    let clock = ManualClock::new();
    let stale = stale(&clock, 60);
    assert_eq!(
        call!(clock, stale, Err(Fault::Down)),
        Err(Error::Operation(Fault::Down))
    );
    assert_eq!(call!(clock, stale, Ok(1)), Ok((1, None)));
    clock.advance(Duration::from_secs(10));
    assert_eq!(call!(clock, stale, Err(Fault::Down)), Ok((1, Some(10))));
    // Serving it does not refresh it.
    clock.advance(Duration::from_secs(50));
    assert_eq!(call!(clock, stale, Err(Fault::Down)), Ok((1, Some(60))));
    assert!(stale.get().is_some());
    clock.advance(Duration::from_nanos(1));
    assert_eq!(
        call!(clock, stale, Err(Fault::Down)),
        Err(Error::Operation(Fault::Down))
    );
    assert!(stale.get().is_none());
    // A success does.
    assert_eq!(call!(clock, stale, Ok(2)), Ok((2, None)));
    clock.advance(Duration::from_secs(60));
    assert_eq!(call!(clock, stale, Err(Fault::Down)), Ok((2, Some(60))));
    let seen = stale.snapshot();
    assert_eq!((seen.refreshed, seen.used, seen.missed), (2, 3, 2));
    assert_eq!(
        (seen.name, seen.age),
        ("stale", Some(Duration::from_secs(60)))
    );
}

#[test]
fn what_is_replaced_follows_the_same_rule_as_for_fallbacks() {
    let clock = ManualClock::new();
    let stale = stale(&clock, 60);
    let stack = (&stale, Classify::errors(verdict));
    assert_eq!(call!(clock, stack, Ok(1)), Ok((1, None)));
    let forbidden = call!(clock, stack, Err(Fault::Forbidden));
    assert_eq!(forbidden, Err(Error::Operation(Fault::Forbidden)));
    let (limit, hang) = (timeout(&clock, 1000), || async {
        std::future::pending::<Result<MaybeStale<u64>, Fault>>().await
    });
    let late = clock.block_on((&stale, limit).call(hang)).unwrap();
    assert_eq!(late.age(), Some(ms(1000)));

    let builder = || Stale::<u64>::builder().max_age(ms(60)).clock(clock.clone());
    for (stale, served) in [
        (builder().on_errors(false), false),
        (builder().on_timeouts(false).on_rejections(false), true),
        (builder().on_permanent(true), true),
    ] {
        let stale = stale.build().unwrap();
        stale.set(7);
        assert_eq!(call!(clock, stale, Err(Fault::Down)).is_ok(), served);
    }
}

#[test]
fn a_value_that_is_bad_or_stale_itself_is_not_remembered() {
    let clock = ManualClock::new();
    let stale = stale(&clock, 60);
    let bad = Classify::by(|_: Result<&MaybeStale<u64>, &Error<Fault>>| Verdict::failure());
    assert_eq!(call!(clock, (&stale, bad), Ok(1)), Ok((1, None)));
    assert!(stale.get().is_none());
    // One that an inner policy has served.
    let inner = self::stale(&clock, 60);
    inner.set(5);
    assert_eq!(
        call!(clock, (&stale, &inner), Err(Fault::Down)),
        Ok((5, Some(0)))
    );
    assert!(stale.get().is_none());
}

#[test]
fn a_value_can_be_set_and_forgotten() {
    let clock = ManualClock::new();
    let stale = stale(&clock, 60);
    stale.set(2);
    assert_eq!(**stale.get().unwrap().value(), 2);
    stale.clear();
    assert!(stale.get().is_none() && stale.snapshot().age.is_none());
    assert!(call!(clock, stale, Err(Fault::Down)).is_err());
}

#[test]
fn a_value_is_shared_and_not_cloned() {
    struct NotClone;
    let clock = ManualClock::new();
    let stale = Stale::<NotClone>::builder()
        .max_age(Duration::MAX)
        .clock(clock.clone());
    let stale = stale.build().unwrap();
    let value = Arc::new(NotClone);
    let call = stale.call(|| async { Ok::<_, ()>(MaybeStale::fresh(value.clone())) });
    assert!(!clock.block_on(call).unwrap().is_stale());
    clock.advance(Duration::from_secs(u64::MAX / 2));
    let served = clock.block_on(stale.call(|| async { Err::<MaybeStale<NotClone>, _>(()) }));
    let served = served.unwrap();
    assert!(served.is_stale() && Arc::ptr_eq(&served.clone().into_value(), &value));
}

#[test]
fn values_are_dropped_outside_the_lock() {
    within_a_minute(|| {
        /// Looks at the policy when it is dropped.
        struct Looks(Stale<Self>, Arc<Mutex<u32>>);
        impl Drop for Looks {
            fn drop(&mut self) {
                let _ = self.0.snapshot();
                *self.1.lock().unwrap() += 1;
            }
        }
        let clock = ManualClock::new();
        let stale = Stale::<Looks>::builder()
            .max_age(Duration::MAX)
            .clock(clock);
        let (stale, dropped) = (stale.build().unwrap(), Arc::new(Mutex::new(0)));
        for _ in 0..3 {
            stale.set(Looks(stale.clone(), dropped.clone()));
        }
        stale.clear();
        assert_eq!(*dropped.lock().unwrap(), 3);
    });
}

#[test]
fn a_value_of_each_key_is_evicted_when_it_is_too_old() {
    let clock = ManualClock::new();
    let template = Stale::<u64>::builder()
        .max_age(ms(100))
        .clock(clock.clone());
    let keys = Keyed::<u64, _>::try_new(move || template.clone().build()).unwrap();
    keys.get(&1).set(7);
    clock.advance(ms(100));
    keys.evict_idle();
    assert_eq!(keys.len(), 1);
    assert_eq!(keys.get(&1).evictable_in(), None, "there is another handle");
    clock.advance(Duration::from_nanos(1));
    keys.evict_idle();
    assert_eq!(keys.len(), 0);
    let ever = Stale::<u64>::builder()
        .max_age(Duration::MAX)
        .clock(clock.clone());
    let ever = ever.build().unwrap();
    assert_eq!(ever.evictable_in(), Some(Duration::ZERO));
    ever.set(1);
    assert_eq!(ever.evictable_in(), None);
    assert_eq!(Fallback::value(7).evictable_in(), Some(Duration::ZERO));
}

#[test]
fn an_observer_gets_an_event_for_each_stale_value() {
    let (clock, heard) = (ManualClock::new(), Arc::new(Mutex::new(Vec::new())));
    let observer = {
        let heard = heard.clone();
        move |event: &Event| {
            if let Event::ServedStale { .. } = event {
                heard.lock().unwrap().push(event.to_string());
            }
        }
    };
    let stale = stale(&clock, 60);
    stale.set(7);
    clock.advance(Duration::from_secs(3));
    let pipeline = Pipeline::new(stale).observer(observer);
    assert_eq!(call!(clock, pipeline, Err(Fault::Down)), Ok((7, Some(3))));
    assert_eq!(
        *heard.lock().unwrap(),
        ["stale: returned a value of 3s ago for a call that failed"]
    );
}

#[test]
fn an_age_must_be_given() {
    let missing = Stale::<u64>::builder().build().unwrap_err();
    assert_eq!((missing.policy(), missing.setting()), ("stale", "max_age"));
    let zero = Stale::builder()
        .max_age(Duration::ZERO)
        .clock(ManualClock::new());
    let zero = zero.name("zero").build().unwrap();
    zero.set(1);
    assert_eq!(zero.name(), "zero");
    assert_eq!(*zero.get().unwrap(), 1, "of this very instant");
    assert!(format!("{:?} {zero:?}", Stale::<u64>::builder()).contains("zero"));
}

#[test]
fn keys_beyond_the_bound_do_not_get_each_others_values() {
    let clock = ManualClock::new();
    for overflow in [Overflow::Shared, Overflow::Reject, Overflow::Evict] {
        let template = Stale::<u64>::builder()
            .max_age(ms(100))
            .clock(clock.clone());
        let builder = template.clone();
        let single = Keyed::<u64, _>::try_builder(move || builder.clone().build());
        let single = single.max_keys(1).overflow(overflow).build().unwrap();
        let builder = template.clone();
        let stacks = Keyed::<u64, _>::builder(move |_: &u64| {
            let stack = (builder.clone().build().unwrap(), None::<Retry>);
            Arc::new(Pipeline::new(Some(stack)))
        });
        let stacks = stacks.max_keys(1).overflow(overflow).build().unwrap();
        let _in_use = (single.get(&0), stacks.get(&0));

        for key in 1..3 {
            assert_eq!(call!(clock, single.get(&key), Ok(key)), Ok((key, None)));
            assert_eq!(call!(clock, stacks.get(&key), Ok(key)), Ok((key, None)));
        }
        single.get(&4).set(4);
        let down = Err(Error::Operation(Fault::Down));
        assert_eq!(
            call!(clock, single.get(&3), Err(Fault::Down)),
            down,
            "{overflow:?}"
        );
        assert_eq!(
            call!(clock, stacks.get(&3), Err(Fault::Down)),
            down,
            "{overflow:?}"
        );
    }

    // A template that returns clones of one handle shares its value on purpose.
    let one = stale(&clock, 60);
    let clones = one.clone();
    let keys = Keyed::<u64, _>::builder(move |_: &u64| clones.clone());
    let keys = keys.max_keys(1).build().unwrap();
    let _in_use = (keys.get(&0), keys.get(&1));
    keys.get(&2).set(7);
    assert_eq!(call!(clock, one, Err(Fault::Down)), Ok((7, Some(0))));
}
