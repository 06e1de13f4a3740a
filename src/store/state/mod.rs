//! Pure state machines of stores: the effect of a request on a bucket, on permits, and on votes.

pub(super) mod ballot;
pub(super) mod bucket;
pub(super) mod holders;
pub(super) mod take;
