//! Wakers that run code when they are dropped, for tests.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::{Context, Wake, Waker};

struct OnDrop<F: Fn()>(F, Arc<AtomicU32>);

impl<F: Fn() + Send + Sync> Wake for OnDrop<F> {
    fn wake(self: Arc<Self>) {}
}

impl<F: Fn()> Drop for OnDrop<F> {
    fn drop(&mut self) {
        self.1.fetch_add(1, Ordering::Relaxed);
        (self.0)();
    }
}

/// Makes `timer`, which never fires, replace its waker, and then drops it. `code` runs in the drop of both wakers.
pub(super) fn drop_wakers(
    timer: impl Future<Output = ()>,
    code: impl Fn() + Clone + Send + Sync + 'static,
) {
    let dropped = Arc::new(AtomicU32::new(0));
    let mut timer = Box::pin(timer);
    for replaced in [0, 1] {
        let waker = Waker::from(Arc::new(OnDrop(code.clone(), dropped.clone())));
        let poll = timer.as_mut().poll(&mut Context::from_waker(&waker));
        assert!(poll.is_pending());
        drop(waker);
        assert_eq!(dropped.load(Ordering::Relaxed), replaced);
    }
    drop(timer);
    assert_eq!(dropped.load(Ordering::Relaxed), 2);
}
