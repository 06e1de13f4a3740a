//! Selects the errors that are replaced.

use crate::error::Error;
use crate::verdict::{Health, Verdict};

/// Kinds of errors that are replaced.
#[derive(Clone, Copy, Debug)]
pub(super) struct When {
    pub(super) errors: bool,
    pub(super) timeouts: bool,
    pub(super) rejections: bool,
    /// Errors of the operation although the dependency is healthy.
    pub(super) permanent: bool,
}

impl When {
    pub(super) const DEFAULT: Self = Self {
        errors: true,
        timeouts: true,
        rejections: true,
        permanent: false,
    };

    /// Returns whether an error with this verdict is replaced.
    pub(super) fn applies<E>(self, error: &Error<E>, verdict: &Verdict) -> bool {
        match error {
            Error::Operation(_) => {
                match verdict.health() == Health::Unhealthy || verdict.is_retryable() {
                    true => self.errors,
                    false => self.permanent,
                }
            }
            Error::TimedOut(_) => self.timeouts,
            Error::Rejected(_) => self.rejections,
        }
    }
}

/// The setters of the field `when`.
macro_rules! when_setters {
    () => {
        /// Sets whether errors of the operation are replaced if the dependency is at fault, or if they are worth a
        /// retry. Default `true`.
        #[must_use = "it returns the changed value"]
        pub const fn on_errors(mut self, replaced: bool) -> Self {
            self.when.errors = replaced;
            self
        }

        /// Sets whether timeouts are replaced. Default `true`.
        #[must_use = "it returns the changed value"]
        pub const fn on_timeouts(mut self, replaced: bool) -> Self {
            self.when.timeouts = replaced;
            self
        }

        /// Sets whether rejections are replaced, such as those of an open circuit. Default `true`.
        #[must_use = "it returns the changed value"]
        pub const fn on_rejections(mut self, replaced: bool) -> Self {
            self.when.rejections = replaced;
            self
        }

        /// Sets whether errors of the operation are replaced although the dependency is healthy: errors of the caller
        /// ([`Verdict::permanent`](crate::Verdict::permanent)), and errors to be ignored. Default `false`.
        #[must_use = "it returns the changed value"]
        pub const fn on_permanent(mut self, replaced: bool) -> Self {
            self.when.permanent = replaced;
            self
        }
    };
}
pub(super) use when_setters;

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::error::{Reason, Rejected, TimedOut};

    #[test]
    fn each_kind_of_error_has_its_switch() {
        let operation = || Error::Operation(());
        let timed_out = Error::TimedOut(TimedOut::new("x", Duration::ZERO));
        let cut_off = Error::TimedOut(TimedOut::by_deadline(Duration::ZERO));
        let rejected: Error<()> = Rejected::new("x", Reason::CircuitOpen).into();
        let of = |error: &Error<()>| Verdict::default_for(Err::<&(), _>(error));
        let (transient, failure) = (Verdict::transient(), Verdict::failure());
        let (permanent, ignore) = (Verdict::permanent(), Verdict::ignore());

        let usual = When::DEFAULT;
        for (error, verdict, replaced) in [
            (&operation(), transient, true),
            (&operation(), failure, true),
            (&operation(), Verdict::throttled(None), true),
            (&operation(), permanent, false),
            (&operation(), ignore, false),
            (&timed_out, of(&timed_out), true),
            (&cut_off, of(&cut_off), true),
            (&rejected, of(&rejected), true),
        ] {
            assert_eq!(
                usual.applies(error, &verdict),
                replaced,
                "{error:?} {verdict:?}"
            );
            let asked = When {
                permanent: true,
                ..usual
            };
            assert!(asked.applies(error, &verdict));
        }
        let errors = When {
            errors: false,
            permanent: true,
            ..usual
        };
        assert!(
            !errors.applies(&operation(), &transient) && errors.applies(&timed_out, &transient)
        );
        let timeouts = When {
            timeouts: false,
            ..usual
        };
        assert!(!timeouts.applies(&timed_out, &transient) && timeouts.applies(&rejected, &ignore));
        let rejections = When {
            rejections: false,
            ..usual
        };
        assert!(!rejections.applies(&rejected, &ignore) && rejections.applies(&timed_out, &ignore));
    }
}
