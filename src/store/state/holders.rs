//! The permits held by instances.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crate::instant::Instant;

/// The permits of one bulkhead by instance, with their expiry.
#[derive(Clone, Debug, Default)]
pub(crate) struct Holders {
    instances: BTreeMap<Arc<str>, Holder>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Holder {
    permits: u64,
    until: Instant,
    /// The number of the last request.
    number: u64,
}

impl Holders {
    /// Executes a request.
    pub(crate) fn hold(&mut self, now: Instant, hold: &Hold) -> Held {
        self.expire(now);
        let before = self.instances.remove(&hold.instance);
        let others: u64 = self.instances.values().map(|holder| holder.permits).sum();
        let free = hold.limit.saturating_sub(others);
        let holder = before.unwrap_or_default();
        let after = match hold.number < holder.number {
            // Late: a later request has been executed.
            true => holder,
            false => Holder {
                permits: hold.permits.min(free).max(hold.in_use.min(holder.permits)),
                until: now + hold.ttl,
                number: hold.number,
            },
        };
        let permits = after.permits;
        if permits > 0 || hold.permits > 0 {
            self.instances.insert(hold.instance.clone(), after);
        }
        let instances = self.instances.len() as u64;
        Held::new(permits, free.saturating_sub(permits), instances)
    }

    fn expire(&mut self, now: Instant) {
        self.instances.retain(|_, holder| holder.until > now);
    }

    /// Returns whether no instance holds permits.
    pub(crate) fn is_empty(&mut self, now: Instant) -> bool {
        self.expire(now);
        self.instances.is_empty()
    }
}

/// A request to hold permits.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Hold {
    /// The key of the bulkhead.
    pub key: Arc<str>,
    /// The requesting instance.
    pub instance: Arc<str>,
    /// Permits of all instances together.
    pub limit: u64,
    /// Permits that the instance wants to hold from now on, including those it holds already.
    pub permits: u64,
    /// Permits of calls in flight, which the instance cannot give up.
    pub in_use: u64,
    /// Time after which the permits expire unless the instance renews them.
    pub ttl: Duration,
    /// The number of the request, greater than those of the instance's requests before. A connection that breaks may
    /// deliver an earlier request late.
    pub number: u64,
}

impl Hold {
    /// Returns a request for permits, none of which are in use.
    pub const fn new(
        key: Arc<str>,
        instance: Arc<str>,
        limit: u64,
        permits: u64,
        ttl: Duration,
    ) -> Self {
        Self {
            key,
            instance,
            limit,
            permits,
            in_use: 0,
            ttl,
            number: 0,
        }
    }
}

/// The answer to a [`Hold`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Held {
    /// Permits that the instance holds from now on.
    pub permits: u64,
    /// Permits that no instance holds.
    pub free: u64,
    /// Number of instances that hold or request permits.
    pub instances: u64,
}

impl Held {
    /// Returns an answer.
    pub const fn new(permits: u64, free: u64, instances: u64) -> Self {
        Self {
            permits,
            free,
            instances,
        }
    }
}
