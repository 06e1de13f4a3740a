//! The operations that are measured, and the loops that drive them.

use std::fmt;
use std::future::Future;
use std::hint::black_box;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, OnceLock};
use std::task::{Context, Poll, Wake, Waker};

use tokio::runtime::Runtime;
use tower::Service;

use crate::measure::Candidate;

/// The operation's error. It never occurs: the rows measure the success path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Failure;

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("failure")
    }
}

impl std::error::Error for Failure {}

/// An operation that is ready immediately. The optimizer can inline it.
pub fn ready() -> std::future::Ready<Result<u64, Failure>> {
    std::future::ready(Ok(1))
}

/// An operation that is pending once, like a real call, and opaque to the optimizer. Its future is 16 bytes.
pub fn pending_once() -> PendingOnce {
    PendingOnce {
        value: 1,
        polled: false,
    }
}

/// The future of [`pending_once`].
pub struct PendingOnce {
    value: u64,
    polled: bool,
}

impl Future for PendingOnce {
    type Output = Result<u64, Failure>;

    #[inline(never)]
    fn poll(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Self::Output> {
        if self.polled {
            return Poll::Ready(Ok(self.value));
        }
        self.polled = true;
        Poll::Pending
    }
}

/// Leaks a value, so that futures may borrow it.
pub fn leak<T>(value: T) -> &'static T {
    Box::leak(Box::new(value))
}

/// Returns a candidate that repeats `operation`.
pub fn blocking<R>(name: &str, operation: impl Fn() -> R + Send + Sync + 'static) -> Candidate {
    Candidate::new(name, move |operations| {
        for _ in 0..operations {
            black_box(operation());
        }
    })
}

/// Returns a candidate that repeatedly creates a future and polls it until ready.
pub fn future<Fut: Future>(
    name: &str,
    make: impl Fn() -> Fut + Send + Sync + 'static,
) -> Candidate {
    Candidate::new(name, move |operations| {
        in_a_task(|cx| {
            for _ in 0..operations {
                black_box(finish(make(), cx));
            }
        });
    })
}

/// Returns a candidate that repeatedly calls a tower service. Each thread has a clone of it.
pub fn service<S>(name: &str, service: S) -> Candidate
where
    S: Service<()> + Clone + Send + 'static,
{
    // Some services are not `Sync`.
    let service = Mutex::new(service);
    Candidate::new(name, move |operations| {
        let mut service = service
            .lock()
            .expect("nothing panics while it is held")
            .clone();
        in_a_task(|cx| {
            for _ in 0..operations {
                while service.poll_ready(cx).is_pending() {}
                let _ = black_box(finish(service.call(()), cx));
            }
        });
    })
}

/// As [`service`], for a service that cannot be cloned. For rows on one thread.
pub fn sole_service<S>(name: &str, service: S) -> Candidate
where
    S: Service<()> + Send + 'static,
{
    let service = Mutex::new(service);
    Candidate::new(name, move |operations| {
        let mut service = service.lock().expect("nothing panics while it is held");
        in_a_task(|cx| {
            for _ in 0..operations {
                while service.poll_ready(cx).is_pending() {}
                let _ = black_box(finish(service.call(()), cx));
            }
        });
    })
}

/// Polls a future until it is ready, without waiting for a wake-up.
#[inline(always)]
fn finish<Fut: Future>(future: Fut, cx: &mut Context<'_>) -> Fut::Output {
    let mut future = pin!(future);
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(cx) {
            return output;
        }
    }
}

/// Runs `work` like a task of the shared runtime: the runtime is entered, and the waker is reference counted, so
/// that storing it has its cost.
///
/// All threads share one multi-thread runtime, as in most programs, so its timer wheel is shared and with two
/// threads its lock is contended. Polling is by hand, so that a sample measures the candidate and not the
/// scheduler.
fn in_a_task(work: impl FnOnce(&mut Context<'_>)) {
    let _entered = enter();
    let waker = Waker::from(Arc::new(Task));
    work(&mut Context::from_waker(&waker));
}

/// Enters the shared runtime.
pub fn enter() -> tokio::runtime::EnterGuard<'static> {
    runtime().enter()
}

struct Task;

impl Wake for Task {
    fn wake(self: Arc<Self>) {}
}

fn runtime() -> &'static Runtime {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    RUNTIME.get_or_init(|| {
        tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_time()
            .build()
            .expect("a runtime")
    })
}
