//! The overhead of each policy, and of a stack: around an operation that is ready immediately, and around one
//! that is pending once.
//!
//! ```text
//! cargo bench --all-features                      everything, two minutes
//! cargo bench --all-features -- 'fast/pending'    one group
//! ```
//!
//! `bare` in each group is the operation itself; the difference is the cost of the policy. `benches/peers`
//! measures other crates on the same work.

use std::future::{Future, ready};
use std::hint::black_box;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use backstop::{
    Classify, ClockHandle, Error, Event, Pipeline, Policy, Retry, RetryBudget, Timeout, TokioClock,
    Verdict,
};
use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion, criterion_group, criterion_main};

/// A call whose result the optimizer cannot predict, as with a real call.
struct PendingOnce {
    value: u64,
    polled: bool,
}

impl Future for PendingOnce {
    type Output = Result<u64, ()>;

    #[inline(never)]
    fn poll(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Self::Output> {
        if self.polled {
            return Poll::Ready(Ok(self.value));
        }
        self.polled = true;
        Poll::Pending
    }
}

fn pending_once() -> PendingOnce {
    PendingOnce {
        value: 1,
        polled: false,
    }
}

/// Polls until ready, without waiting for a wake-up.
#[inline(always)]
fn finish<Fut: Future>(future: Fut) -> Fut::Output {
    let mut future = pin!(future);
    let mut cx = Context::from_waker(Waker::noop());
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut cx) {
            return output;
        }
    }
}

/// A macro, because the bounds of a function would overflow on a type that is not yet inferred.
macro_rules! bench {
    ($group:expr, $name:expr, $operation:expr, $policy:expr) => {
        let policy = $policy;
        $group.bench_function($name, |b| {
            b.iter(|| finish(black_box(policy).call($operation)));
        });
    };
}

type Group<'a> = BenchmarkGroup<'a, WallTime>;

/// Measures every policy around `operation`.
fn policies<F, Fut>(group: &mut Group<'_>, clock: &ClockHandle, operation: F)
where
    F: Fn() -> Fut + Copy,
    Fut: Future<Output = Result<u64, ()>>,
{
    let minute = Duration::from_secs(60);
    let timeout = |limit| {
        let builder = Timeout::builder().after(limit).clock(clock.clone());
        builder.build().expect("it has a limit")
    };
    let retry = || Retry::builder().clock(clock.clone());
    let plain_retry = retry().build().expect("the defaults are valid");
    let budget = RetryBudget::percentage().clock(clock.clone()).build();
    let budgeted = retry().budget(budget.expect("the defaults are valid"));
    let budgeted = budgeted.build().expect("the defaults are valid");
    let classify = Classify::by(|result: Result<&u64, &Error<()>>| match result {
        Ok(_) => Verdict::success(),
        Err(_) => Verdict::transient(),
    });
    let errors = Classify::errors(|(): &()| Verdict::permanent());
    let stack = (
        timeout(2 * minute),
        plain_retry.clone(),
        timeout(minute),
        classify,
    );

    group.bench_function("bare", |b| b.iter(|| finish(black_box(operation)())));
    bench!(group, "timeout", operation, &timeout(minute));
    bench!(group, "retry", operation, &plain_retry);
    bench!(group, "retry with a budget", operation, &budgeted);
    bench!(group, "classify", operation, &classify);
    bench!(group, "classify errors", operation, &errors);
    bench!(group, "none", operation, &None::<Timeout>);
    bench!(group, "some timeout", operation, &Some(timeout(minute)));
    let nested = (timeout(2 * minute), timeout(minute));
    bench!(group, "two timeouts", operation, &nested);
    bench!(group, "stack", operation, &stack);
    let pipeline = Pipeline::new(&stack).with_name("stack");
    bench!(group, "stack in a pipeline", operation, &pipeline);
    let observed = pipeline.clone().observer(|event: &Event| {
        black_box(event);
    });
    bench!(group, "stack in an observed pipeline", operation, &observed);
    group.bench_function("stack, reported", |b| {
        b.iter(|| finish(black_box(&stack).call_reported(operation)));
    });
    group.bench_function("stack, boxed", |b| {
        b.iter(|| finish(Box::pin(black_box(&stack).call(operation))));
    });
}

fn overhead(criterion: &mut Criterion) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_time()
        .build()
        .expect("a runtime");
    let _entered = runtime.enter();
    let clocks: &[(&str, ClockHandle)] = &[
        ("tokio", TokioClock.into()),
        #[cfg(feature = "fast-clock")]
        ("fast", backstop::FastClock::new().into()),
    ];
    for (name, clock) in clocks {
        let mut group = criterion.benchmark_group(format!("{name}/ready"));
        policies(&mut group, clock, || ready(Ok(1)));
        group.finish();
        let mut group = criterion.benchmark_group(format!("{name}/pending"));
        policies(&mut group, clock, pending_once);
        group.finish();
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(1))
        .without_plots();
    targets = overhead
}
criterion_main!(benches);
