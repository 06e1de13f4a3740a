//! The methods of layers that make requests for attempts.

/// Defines the methods of a layer that set how the requests of attempts are made, and the options of calls.
///
/// The layer has a method `requests` that replaces [`Once`], and a method `map` that wraps the current way.
macro_rules! request_methods {
    ($layer:ident, [$($own:ident),*]) => {
        impl<$($own),*> $layer<$($own),*> {
            /// Clones the request for each attempt. For requests that are `Clone`, which those of axum are not: use
            /// [`by`](Self::by) or `replayable` for them.
            pub fn cloned(self) -> $layer<$($own,)* super::Cloned> {
                self.requests(super::Cloned)
            }

            /// Copies the request for each attempt with `copy`. It returns `None` for a request that cannot be
            /// copied, which then has only one attempt. For reqwest: `.by(reqwest::Request::try_clone)`.
            pub fn by<R, F: Fn(&R) -> Option<R>>(self, copy: F) -> $layer<$($own,)* super::By<F>> {
                self.requests(super::requests::By { copy })
            }

            /// Keeps up to `limit` bytes of the body of each request while it is sent, so that it can be sent again.
            /// The service gets a [`ReplayBody`](crate::http::ReplayBody).
            #[cfg(feature = "http")]
            pub fn replayable(self, limit: u64) -> $layer<$($own,)* super::Replayable> {
                self.requests(super::Replayable::new(limit))
            }
        }

        impl<$($own,)* C> $layer<$($own,)* C> {
            /// Sets call options by request: deadline, priority, cost, and whether the call is idempotent.
            ///
            /// For HTTP: `.options(|r: &Request<_>| http::call_options(r.method(), r.headers()))`. A second call
            /// replaces the first.
            pub fn options<R, F>(self, options: F) -> $layer<$($own,)* super::WithOptions<C, F>>
            where
                F: Fn(&R) -> crate::policy::CallOptions,
            {
                self.map(|inner| super::requests::WithOptions { inner, options })
            }

            /// Changes the request of each call once, before its options are read and its attempts are made. Suits an
            /// idempotency key, which all attempts share.
            pub fn on_call<R, F: Fn(&mut R)>(self, change: F) -> $layer<$($own,)* super::OnCall<C, F>> {
                self.map(|inner| super::requests::OnCall { inner, change })
            }

            /// Changes the request of each attempt. Suits the attempt number and the time left.
            pub fn on_attempt<R, F>(self, change: F) -> $layer<$($own,)* super::OnAttempt<C, F>>
            where
                F: Fn(&mut R, crate::policy::Attempt),
            {
                self.map(|inner| super::requests::OnAttempt { inner, change })
            }
        }
    };
}
pub(super) use request_methods;
