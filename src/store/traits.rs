//! The traits that stores implement.

use std::sync::Arc;

use super::reply::Reply;
use super::state::ballot::{Tally, Vote};
use super::state::holders::{Held, Hold};
use super::state::take::{Take, Taken};

/// A store of token buckets.
pub trait Store: Send + Sync {
    /// Takes tokens out of one bucket or several, all or nothing, and replies with one answer for each.
    ///
    /// Each bucket is that of [`Take::key`], no two of which are the same; new ones are full. In this order, on the
    /// store's own clock:
    ///
    /// 1. Tokens refill at the rate of [`Take::quota`], up to its burst. If the clock went backwards, none do, and the
    ///    bucket's time becomes the current one.
    /// 2. [`Take::give_back`] is credited, less what has refilled since it was taken, up to the burst.
    /// 3. [`Take::spent`] is debited, down to an empty bucket.
    /// 4. If each bucket of the request holds [`Take::at_least`], each grants what it holds, up to
    ///    [`Take::ask`]. Otherwise none grants anything. Steps 1 to 3 happen anyway.
    ///
    /// A bucket that is full again may be forgotten. Must not block.
    fn take(&self, takes: Vec<Take>, reply: Reply<Vec<Taken>>);
}

impl<S: Store + ?Sized> Store for Arc<S> {
    fn take(&self, takes: Vec<Take>, reply: Reply<Vec<Taken>>) {
        (**self).take(takes, reply);
    }
}

/// A store of permits that instances hold for a limited time.
pub trait PermitStore: Send + Sync {
    /// Sets how many permits an instance holds for the next [`Hold::ttl`], and replies with the result.
    ///
    /// First, the permits of instances whose time is over become free. Then the instance holds [`Hold::permits`], or as
    /// many of them as the others leave of [`Hold::limit`], but never fewer than [`Hold::in_use`], as long as it held
    /// those before. A request with a smaller [`Hold::number`] than one that was executed changes nothing. Must not
    /// block.
    fn hold(&self, hold: Hold, reply: Reply<Held>);
}

impl<S: PermitStore + ?Sized> PermitStore for Arc<S> {
    fn hold(&self, hold: Hold, reply: Reply<Held>) {
        (**self).hold(hold, reply);
    }
}

/// A store of votes that expire.
pub trait VoteStore: Send + Sync {
    /// Sets the vote of an instance for the next [`Vote::ttl`], and replies with the votes of the others. Must not
    /// block.
    fn vote(&self, vote: Vote, reply: Reply<Tally>);
}

impl<S: VoteStore + ?Sized> VoteStore for Arc<S> {
    fn vote(&self, vote: Vote, reply: Reply<Tally>) {
        (**self).vote(vote, reply);
    }
}
