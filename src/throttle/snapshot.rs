//! A look at a throttle, and at several.

/// What a throttle was like at one moment. Made by [`Throttle::snapshot`](super::Throttle::snapshot).
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct ThrottleSnapshot {
    /// Calls in the window: those that ended and those in flight, and refused ones where
    /// [`count_refused`](super::ThrottleBuilder::count_refused) says so.
    pub requests: u64,
    /// Those that ended well.
    pub accepts: u64,
    /// Those that ended badly, and refused ones where they count.
    pub failures: u64,
    /// Those that have not ended.
    pub pending: u64,
    /// Calls in the window per second of its length.
    pub requests_per_second: f64,
    /// The probability that the next call is refused, from 0 to 1.
    pub rejection_probability: f64,
    /// The highest that probability can be.
    pub max_rejection: f64,
    /// Calls refused since the throttle was built; in shadow mode, those that would have been.
    pub rejected: u64,
}

impl ThrottleSnapshot {
    /// What [`Load::combine`] takes.
    pub const fn load(&self) -> Load {
        Load {
            requests: self.requests,
            rejection_probability: self.rejection_probability,
            max_rejection: self.max_rejection,
        }
    }
}

/// How much of the traffic is refused, by one throttle or by several together.
///
/// A service that needs several dependencies for one request can look at all their throttles as
/// one, and shed at its own door what would be refused behind it. From failsafe-go's prioritizer.
///
/// # Example
///
/// ```
/// use backstop::throttle::Load;
/// use backstop::{ManualClock, Throttle};
///
/// let build = || Throttle::builder().clock(ManualClock::new()).build();
/// let (users, orders) = (build()?, build()?);
/// let load = Load::combine([&users, &orders].map(|throttle| throttle.snapshot().load()));
/// assert_eq!(load.rejection_probability, 0.0);
/// # Ok::<(), backstop::ConfigError>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Load {
    /// Calls in the window.
    pub requests: u64,
    /// The probability that the next call is refused, from 0 to 1.
    pub rejection_probability: f64,
    /// The highest that probability can be.
    pub max_rejection: f64,
}

impl Load {
    /// Several as one: the sum of the requests, the mean of the probabilities weighted by requests,
    /// and the lowest of the caps. All zero when there is none.
    pub fn combine(loads: impl IntoIterator<Item = Self>) -> Self {
        let (mut requests, mut weight, mut refused) = (0_u64, 0.0, 0.0);
        let mut lowest: Option<f64> = None;
        for load in loads {
            requests = requests.saturating_add(load.requests);
            weight += load.requests as f64;
            refused += load.requests as f64 * load.rejection_probability;
            lowest = Some(lowest.map_or(load.max_rejection, |low| low.min(load.max_rejection)));
        }
        Self {
            requests,
            rejection_probability: if weight > 0.0 { refused / weight } else { 0.0 },
            max_rejection: lowest.unwrap_or(0.0),
        }
    }
}
