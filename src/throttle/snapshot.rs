//! Snapshots of a throttle, and the combined load of several.

/// A snapshot of a throttle. Returned by [`Throttle::snapshot`](super::Throttle::snapshot).
#[cfg_attr(feature = "config", derive(serde::Serialize, serde::Deserialize))]
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct Snapshot {
    /// The name of the throttle.
    #[cfg_attr(feature = "config", serde(deserialize_with = "crate::forms::name"))]
    pub name: &'static std::primitive::str,
    /// Calls in the window, finished or in flight, and rejected ones with
    /// [`count_rejected`](super::ThrottleBuilder::count_rejected).
    pub calls: u64,
    /// Calls that succeeded.
    pub accepts: u64,
    /// Calls that failed, and rejected ones with [`count_rejected`](super::ThrottleBuilder::count_rejected).
    pub failures: u64,
    /// Calls in flight.
    pub in_flight: u64,
    /// [`calls`](Self::calls) per second, on average over the window.
    pub calls_per_second: f64,
    /// The probability that the next call is rejected, from 0 to 1.
    pub rejection_probability: f64,
    /// The highest possible probability.
    pub max_rejection: f64,
    /// Calls rejected since the throttle was built.
    pub rejected: u64,
    /// Calls that shadow mode admitted although they would have been rejected.
    pub would_reject: u64,
}

impl Snapshot {
    /// Returns the part that [`Load::combine`] takes.
    pub const fn load(&self) -> Load {
        Load {
            calls: self.calls,
            rejection_probability: self.rejection_probability,
            max_rejection: self.max_rejection,
        }
    }
}

/// The share of calls rejected by one throttle, or by several together.
///
/// A service that needs several dependencies for a request can combine the load of their throttles, and reject
/// requests on arrival that would be rejected later. From failsafe-go's prioritizer.
///
/// # Examples
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
    pub calls: u64,
    /// The probability that the next call is rejected, from 0 to 1.
    pub rejection_probability: f64,
    /// The highest possible probability.
    pub max_rejection: f64,
}

impl Load {
    /// Combines loads: the sum of the calls, the mean of the probabilities weighted by calls, and the
    /// lowest of the caps. All zero without loads.
    pub fn combine(loads: impl IntoIterator<Item = Self>) -> Self {
        let (mut calls, mut weight, mut rejected) = (0_u64, 0.0, 0.0);
        let mut lowest: Option<f64> = None;
        for load in loads {
            calls = calls.saturating_add(load.calls);
            weight += load.calls as f64;
            rejected += load.calls as f64 * load.rejection_probability;
            lowest = Some(lowest.map_or(load.max_rejection, |low| low.min(load.max_rejection)));
        }
        Self {
            calls,
            rejection_probability: if weight > 0.0 { rejected / weight } else { 0.0 },
            max_rejection: lowest.unwrap_or(0.0),
        }
    }
}
