//! Each policy alone, tuples, and wrappers.

use std::rc::Rc;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use backstop::policy::Guarded;
use backstop::{
    Bulkhead, CallOptions, CircuitBreaker, Event, Hedge, Keyed, Pipeline, Policy, Retry, Timeout,
};

use super::{
    Admit, KEYS, MINUTE, Plain, breaker, bulkhead, endpoints, hedge, limiter, retry, shedder,
    standard, throttle, timeout,
};

#[tokio::test(start_paused = true)]
async fn every_policy_alone() {
    spawned_once![
        timeout(),
        Timeout::after_with(|cx| cx.attempt() * MINUTE),
        (endpoints(),),
        Some(endpoints()),
        throttle(),
        breaker(),
        limiter(),
        KEYS.get(&7),
        Keyed::new(|_: &u64| breaker()).get(&7),
        bulkhead(),
        Bulkhead::new(25),
        shedder(),
        Guarded(Admit),
        Plain,
        (),
    ];
    spawned![
        retry(),
        hedge(),
        Hedge::builder().after(Duration::ZERO).build().unwrap(),
        standard(),
        Arc::new(standard()),
        (standard(), timeout()),
        Keyed::new(|_: &u64| standard()).get(&7),
        Pipeline::new(standard()).observer(|_: &Event| {}),
    ];
}

#[tokio::test(start_paused = true)]
async fn tuples_of_2_5_8_and_12() {
    let (t, b, l) = (timeout(), breaker(), limiter());
    let (h, p, s) = (bulkhead(), throttle(), shedder());
    spawned_once![
        (t.clone(), b.clone()),
        (t.clone(), b.clone(), l.clone(), h.clone(), t.clone()),
    ];
    let r = retry();
    spawned![
        (r.clone(), t.clone()),
        (t.clone(), r.clone(), b.clone(), l.clone(), h.clone()),
        (
            t.clone(),
            r.clone(),
            p.clone(),
            b.clone(),
            l.clone(),
            h.clone(),
            s.clone(),
            t.clone()
        ),
        (
            s.clone(),
            t.clone(),
            r.clone(),
            p.clone(),
            b.clone(),
            l.clone(),
            h.clone(),
            t.clone(),
            r.clone(),
            Guarded(Admit),
            Plain,
            t.clone(),
        ),
    ];
}

#[tokio::test(start_paused = true)]
async fn wrappers() {
    static STACK: LazyLock<(Timeout, Retry, CircuitBreaker)> =
        LazyLock::new(|| (timeout(), retry(), breaker()));
    static PIPELINE: LazyLock<Pipeline<(Timeout, Retry)>> =
        LazyLock::new(|| Pipeline::new((timeout(), retry())).observer(|_: &Event| {}));
    spawned_once![
        Some(timeout()),
        None::<Timeout>,
        Arc::new(breaker()),
        Arc::new(Some((timeout(), bulkhead()))),
        Box::new(breaker()),
        (Box::new(timeout()), Box::new(bulkhead())),
        Pipeline::new((timeout(), limiter())),
        Pipeline::new(bulkhead()).observer(|_: &Event| {}),
    ];
    spawned![
        Some(retry()),
        None::<Retry>,
        &*STACK,
        Arc::new((timeout(), retry())),
        Box::new((timeout(), retry())),
        (
            (timeout(), (retry(), breaker())),
            (timeout(), Some(limiter()))
        ),
        (&*STACK, Arc::new(retry()), Some(timeout()), None::<Retry>),
        Pipeline::new((timeout(), retry())),
        Arc::new(Pipeline::new(retry()).observer(|_: &Event| {})),
        &*PIPELINE,
        PIPELINE.with(CallOptions::new().idempotent(false).deadline(MINUTE)),
        PIPELINE.around((breaker(), KEYS.get(&7))),
        PIPELINE.with(CallOptions::new().cost(2)).around(timeout()),
        (&*PIPELINE, breaker()),
    ];
}

#[tokio::test(start_paused = true)]
async fn an_operation_that_cannot_be_sent_runs_on_a_local_executor() {
    let stack = Rc::new((timeout(), retry(), breaker(), bulkhead(), Guarded(Admit)));
    let local = tokio::task::LocalSet::new();
    let answer = local.run_until(async move {
        let count = Rc::new(std::cell::Cell::new(0));
        let task = tokio::task::spawn_local(async move {
            let call = stack.call(|| async {
                tokio::task::yield_now().await;
                count.set(count.get() + 1);
                match count.get() {
                    1..3 => Err(Rc::new("not yet")),
                    _ => Ok(Rc::clone(&count)),
                }
            });
            let calls = call.await.map(|count| count.get());
            let body = Rc::new(());
            let once = (Rc::new(timeout()), bulkhead());
            let sent = once
                .call_once(|| async move { Ok::<_, Rc<()>>(body) })
                .await;
            assert!(sent.is_ok());
            calls
        });
        task.await.unwrap()
    });
    assert_eq!(answer.await, Ok(3));
}
