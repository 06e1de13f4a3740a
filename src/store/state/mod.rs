//! The pure part of stores: what a request does to a bucket, to permits and to votes.

pub(super) mod ballot;
pub(super) mod bucket;
pub(super) mod holders;
pub(super) mod take;
