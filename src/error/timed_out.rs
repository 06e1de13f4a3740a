//! Timeouts as errors.

use std::error::Error as StdError;
use std::fmt;
use std::time::Duration;

use crate::instant::{Rounded, nanos};

/// A timeout: the policy that cut the operation off, and its limit.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct TimedOut {
    policy: &'static str,
    /// In nanoseconds, and [`OUTER`](Self::OUTER). One word, so that results stay small.
    limit: u64,
}

impl TimedOut {
    /// Marks a limit that an outer layer or the caller set, not the layer that noticed it.
    const OUTER: u64 = 1 << 63;

    /// Returns a timeout of the policy named `policy`, after `limit`, for policies of your own.
    pub const fn new(policy: &'static str, limit: Duration) -> Self {
        let limit = nanos(limit);
        Self {
            policy,
            limit: if limit < Self::OUTER {
                limit
            } else {
                Self::OUTER - 1
            },
        }
    }

    /// Returns a timeout by a deadline that was set outside of the layer that noticed it, `limit` after its
    /// start. If a policy of the stack has set the deadline, it replaces this by a timeout of its own.
    pub const fn by_deadline(limit: Duration) -> Self {
        let mut timed_out = Self::new("deadline", limit);
        timed_out.limit |= Self::OUTER;
        timed_out
    }

    /// Returns whether the deadline was set outside of the layers that the error has passed so far. Then it
    /// says nothing about the dependency, and no time is left for another attempt.
    pub const fn is_by_deadline(&self) -> bool {
        self.limit & Self::OUTER != 0
    }

    /// Returns the name of the policy that set the limit; `deadline` if no policy of the stack did.
    pub const fn policy(&self) -> &'static str {
        self.policy
    }

    /// Returns how much time the operation had: the policy's own limit, or what the deadline left of it.
    pub const fn limit(&self) -> Duration {
        Duration::from_nanos(self.limit & !Self::OUTER)
    }
}

impl fmt::Debug for TimedOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TimedOut")
            .field("policy", &self.policy)
            .field("limit", &self.limit())
            .field("is_by_deadline", &self.is_by_deadline())
            .finish()
    }
}

impl fmt::Display for TimedOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "timed out by {} after {}",
            self.policy,
            Rounded(self.limit())
        )
    }
}

impl StdError for TimedOut {}
