//! Timeouts, deadlines, clocks, and times in rejections.

use std::future::{pending, ready};
use std::time::Duration;

use super::values::{COUNTS, TIMES};
use backstop::{
    CallOptions, Clock, Instant, ManualClock, Pipeline, Policy, Priority, Reason, Rejected,
    Timeout, deadline,
};

use super::{clocks, ends};

#[test]
fn timeouts() {
    let missing = Timeout::builder().clock(ManualClock::new()).build();
    assert_eq!(missing.unwrap_err().setting(), "after");

    for limit in TIMES {
        for clock in clocks() {
            let builder = || Timeout::builder().clock(clock.clone());
            let fixed = builder().after(limit).build().unwrap();
            let computed = builder().after_with(move |_| limit).build().unwrap();
            let ready = |policy: &Timeout| clock.block_on(policy.call(|| ready(Ok::<_, ()>(1))));
            // Also with no time at all.
            assert_eq!((ready(&fixed), ready(&computed)), (Ok(1), Ok(1)));

            let fires = clock.now() + limit < Instant::FAR_FUTURE;
            let call = (fixed.clone(), fixed);
            let call = call.call(pending::<Result<(), ()>>);
            assert_eq!(ends(&clock, call), fires, "{limit:?}");
        }
        for clock in clocks() {
            let computed = Timeout::builder().after_with(move |_| limit);
            let computed = computed.clock(clock.clone()).build().unwrap();
            let fires = clock.now() + limit < Instant::FAR_FUTURE;
            assert_eq!(
                ends(&clock, computed.call(pending::<Result<(), ()>>)),
                fires,
                "{limit:?}"
            );
        }
    }
}

#[test]
fn deadlines_and_options_of_a_call() {
    for (within, clock) in TIMES
        .into_iter()
        .flat_map(|time| clocks().map(|clock| (time, clock)))
    {
        let start = clock.now();
        let timeout = Timeout::builder().after(Duration::MAX).clock(clock.clone());
        let pipeline = Pipeline::new(timeout.build().unwrap());
        let has = match start + within {
            Instant::FAR_FUTURE => Ok(None),
            // Nothing is started when there is no time for it.
            at if at == start => Err(Reason::DeadlineTooClose),
            at => Ok(Some(at.saturating_duration_since(start))),
        };
        let mut options = CallOptions::new().deadline(within);
        for count in COUNTS {
            options = options
                .cost(count)
                .priority(Priority::HIGHEST.level(u8::MAX));
            let left = pipeline.with(options);
            let left = left.call_with(|attempt| {
                assert_eq!(attempt.cost(), count);
                ready(Ok::<_, ()>(attempt.remaining()))
            });
            assert_eq!(clock.block_on(left).map_err(|e| e.reason().unwrap()), has);
        }
        let left = pipeline.call_with(|attempt| ready(Ok::<_, ()>(attempt.remaining())));
        let left = clock.block_on(deadline::scope_on(clock.clone(), within, left));
        assert_eq!(left.map_err(|e| e.reason().unwrap()), has);
    }
}

#[test]
fn clocks_and_instants() {
    for (time, clock) in TIMES
        .into_iter()
        .flat_map(|time| clocks().map(|clock| (time, clock)))
    {
        let at = clock.now() + time;
        assert!(at >= clock.now());
        assert_eq!(Instant::FAR_FUTURE + time, Instant::FAR_FUTURE);
        assert_eq!(
            clock.now().saturating_duration_since(at + time),
            Duration::ZERO
        );
        let never = at == Instant::FAR_FUTURE;
        assert_eq!(ends(&clock, clock.sleep(time)), !never, "{time:?}");
        assert_eq!(clock.sleepers(), 0);
    }
}

#[test]
fn rejections() {
    for time in TIMES {
        let rejected = Rejected::new("limiter", Reason::RateLimited).with_retry_after(time);
        match rejected.retry_after() {
            None => assert!(time >= Duration::from_nanos(u64::MAX)),
            Some(told) if time < Duration::from_secs(18 * 365 * 86_400) => assert_eq!(told, time),
            // Rounded up, by less than a unit.
            Some(told) => {
                assert!(time < Duration::from_nanos(u64::MAX));
                assert!(told >= time && told - time < Duration::from_nanos(1024));
            }
        }
        assert!(
            rejected
                .to_string()
                .starts_with("rejected by limiter: rate limited")
        );
    }
}
