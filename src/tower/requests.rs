//! Requests for further attempts: copies, new ones, or none.

use std::fmt;

use crate::policy::{Attempt, CallOptions};

/// Makes the requests for the attempts of a call, and the call's options.
///
/// [`Once`], [`Cloned`], [`By`], and `Replayable` implement it; few programs need another implementation.
///
/// All methods are called outside locks.
pub trait Requests<R> {
    /// The type of request that the service takes.
    type Request;

    /// The data from which the requests of further attempts are made.
    type Kept;

    /// Changes the request of a call, before its options are read.
    fn prepare(&self, request: &mut R) {
        let _ = request;
    }

    /// Returns the options of a call.
    fn options(&self, request: &R) -> CallOptions {
        let _ = request;
        CallOptions::new()
    }

    /// Converts the request into the data for its attempts.
    fn keep(&self, request: R) -> Self::Kept;

    /// Returns whether more than one attempt can be made.
    fn is_repeatable(&self, kept: &Self::Kept) -> bool;

    /// Returns the request of the next attempt, and what is kept for those after it. Without a request, the
    /// attempt is rejected with [`Reason::NotRepeatable`](crate::Reason::NotRepeatable).
    fn take(&self, kept: Self::Kept) -> (Option<Self::Request>, Option<Self::Kept>);

    /// Changes the request of an attempt before it is sent.
    fn before_attempt(&self, request: &mut Self::Request, attempt: Attempt) {
        let _ = (request, attempt);
    }
}

/// Sends each request once, whatever its type. The call is not repeatable, so retries and hedges make one attempt.
#[derive(Clone, Copy, Debug, Default)]
pub struct Once;

impl<R> Requests<R> for Once {
    type Request = R;
    type Kept = R;

    fn keep(&self, request: R) -> R {
        request
    }

    fn is_repeatable(&self, _: &R) -> bool {
        false
    }

    fn take(&self, kept: R) -> (Option<R>, Option<R>) {
        (Some(kept), None)
    }
}

/// Clones the request for each attempt.
#[derive(Clone, Copy, Debug, Default)]
pub struct Cloned;

impl<R: Clone> Requests<R> for Cloned {
    type Request = R;
    type Kept = R;

    fn keep(&self, request: R) -> R {
        request
    }

    fn is_repeatable(&self, _: &R) -> bool {
        true
    }

    fn take(&self, kept: R) -> (Option<R>, Option<R>) {
        (Some(kept.clone()), Some(kept))
    }
}

/// Copies the request with a function, which returns `None` for a request that cannot be copied. Returned by
/// [`PolicyLayer::by`](super::PolicyLayer::by).
#[derive(Clone, Copy)]
pub struct By<F> {
    pub(super) copy: F,
}

/// The requests kept by [`By`].
#[derive(Debug)]
pub struct Copies<R> {
    /// The request of the first attempt, until it starts.
    first: Option<R>,
    /// A copy from which later attempts are copied.
    spare: Option<R>,
}

impl<R, F: Fn(&R) -> Option<R>> Requests<R> for By<F> {
    type Request = R;
    type Kept = Copies<R>;

    fn keep(&self, request: R) -> Copies<R> {
        Copies {
            spare: (self.copy)(&request),
            first: Some(request),
        }
    }

    fn is_repeatable(&self, kept: &Copies<R>) -> bool {
        kept.spare.is_some()
    }

    fn take(&self, kept: Copies<R>) -> (Option<R>, Option<Copies<R>>) {
        let (request, spare) = match (kept.first, kept.spare) {
            (Some(first), spare) => (Some(first), spare),
            (None, Some(spare)) => match (self.copy)(&spare) {
                Some(copy) => (Some(copy), Some(spare)),
                // If it cannot be copied again, the spare itself is sent: the last attempt.
                None => (Some(spare), None),
            },
            (None, None) => (None, None),
        };
        let kept = spare.map(|spare| Copies {
            first: None,
            spare: Some(spare),
        });
        (request, kept)
    }
}

/// Delegates the methods that a wrapper does not change to the inner implementation.
macro_rules! delegate {
    ($($method:ident)*) => {
        type Request = C::Request;
        type Kept = C::Kept;

        fn keep(&self, request: R) -> C::Kept {
            self.inner.keep(request)
        }

        fn is_repeatable(&self, kept: &C::Kept) -> bool {
            self.inner.is_repeatable(kept)
        }

        fn take(&self, kept: C::Kept) -> (Option<C::Request>, Option<C::Kept>) {
            self.inner.take(kept)
        }

        $(delegate!(@ $method);)*
    };
    (@ prepare) => {
        fn prepare(&self, request: &mut R) {
            self.inner.prepare(request);
        }
    };
    (@ options) => {
        fn options(&self, request: &R) -> CallOptions {
            self.inner.options(request)
        }
    };
    (@ before_attempt) => {
        fn before_attempt(&self, request: &mut C::Request, attempt: Attempt) {
            self.inner.before_attempt(request, attempt);
        }
    };
}

/// Sets options of calls. Returned by [`PolicyLayer::options`](super::PolicyLayer::options).
#[derive(Clone, Copy)]
pub struct WithOptions<C, F> {
    pub(super) inner: C,
    pub(super) options: F,
}

impl<R, C, F> Requests<R> for WithOptions<C, F>
where
    C: Requests<R>,
    F: Fn(&R) -> CallOptions,
{
    delegate!(prepare before_attempt);

    fn options(&self, request: &R) -> CallOptions {
        (self.options)(request)
    }
}

/// Changes the request of each call. Returned by [`PolicyLayer::on_call`](super::PolicyLayer::on_call).
#[derive(Clone, Copy)]
pub struct OnCall<C, F> {
    pub(super) inner: C,
    pub(super) change: F,
}

impl<R, C, F> Requests<R> for OnCall<C, F>
where
    C: Requests<R>,
    F: Fn(&mut R),
{
    delegate!(options before_attempt);

    fn prepare(&self, request: &mut R) {
        self.inner.prepare(request);
        (self.change)(request);
    }
}

/// Changes the request of each attempt. Returned by [`PolicyLayer::on_attempt`](super::PolicyLayer::on_attempt).
#[derive(Clone, Copy)]
pub struct OnAttempt<C, F> {
    pub(super) inner: C,
    pub(super) change: F,
}

impl<R, C, F> Requests<R> for OnAttempt<C, F>
where
    C: Requests<R>,
    F: Fn(&mut C::Request, Attempt),
{
    delegate!(prepare options);

    fn before_attempt(&self, request: &mut C::Request, attempt: Attempt) {
        self.inner.before_attempt(request, attempt);
        (self.change)(request, attempt);
    }
}

macro_rules! opaque {
    ($($name:ident<$($parameter:ident),*>)*) => {$(
        impl<$($parameter),*> fmt::Debug for $name<$($parameter),*> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.debug_struct(stringify!($name)).finish_non_exhaustive()
            }
        }
    )*};
}

opaque! { By<F> WithOptions<C, F> OnCall<C, F> OnAttempt<C, F> }
