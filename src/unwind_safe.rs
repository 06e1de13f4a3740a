//! Handles may be used in `catch_unwind`, and after it.
//!
//! Their settings contain clocks, observers, and hooks of users, which the compiler cannot check. But no user code runs
//! under a lock, and a panic in any of it leaves counts, permits, and states consistent.

use std::panic::{RefUnwindSafe, UnwindSafe};

macro_rules! unwind_safe {
    ($([$($generic:ident)*] $handle:ty $(where $inner:ident)?;)*) => {$(
        impl<$($generic),*> UnwindSafe for $handle $(where $inner: RefUnwindSafe)? {}
        impl<$($generic),*> RefUnwindSafe for $handle $(where $inner: RefUnwindSafe)? {}
    )*};
}

unwind_safe! {
    [] crate::Bulkhead;
    [] crate::CircuitBreaker;
    [] crate::CircuitVotes;
    [] crate::ClockHandle;
    [] crate::Hedge;
    [] crate::LoadShedder;
    [] crate::RateLimiter;
    [] crate::Retry;
    [] crate::RetryBudget;
    [] crate::SharedBulkhead;
    [] crate::SharedRateLimiter;
    [] crate::Standard;
    [] crate::Throttle;
    [] crate::Timeout;
    [T E] crate::BoxPolicy<T, E>;
    [K T E] crate::Coalesce<K, T, E>;
    [R] crate::DeadLetterQueue<R>;
    [N] crate::Endpoints<N> where N;
    [K P] crate::Keyed<K, P> where P;
    [K] crate::KeyedRateLimiter<K>;
    [P] crate::Pipeline<P> where P;
    [K] crate::SharedKeyedRateLimiter<K>;
    [T] crate::Stale<T> where T;
}
