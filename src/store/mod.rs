//! Stores shared by the processes of a fleet: the interface of shared limits to Redis, a database, or memory.
//!
//! [`SharedRateLimiter`](crate::SharedRateLimiter), [`SharedBulkhead`](crate::SharedBulkhead) and
//! [`CircuitVotes`](crate::CircuitVotes) work on any store. `backstop-redis` has one for Redis and Valkey;
//! [`MemoryStore`] is for tests, and for programs of a single process.
//!
//! # A store of your own
//!
//! A store answers through a [`Reply`], at any time and on any thread, and must not block the caller. Stores on tokio
//! spawn a task and send the reply from there:
//!
//! ```
//! use backstop::store::{Reply, Store, StoreError, Take, Taken};
//!
//! struct Database {
//!     runtime: tokio::runtime::Handle,
//! }
//!
//! async fn take_all_or_nothing(takes: Vec<Take>) -> Result<Vec<Taken>, StoreError> {
//!     // One transaction over the rows of `takes`.
//! #   let _ = takes;
//!     Err(StoreError::new("not connected"))
//! }
//!
//! impl Store for Database {
//!     fn take(&self, takes: Vec<Take>, reply: Reply<Vec<Taken>>) {
//!         self.runtime.spawn(async move { reply.send(take_all_or_nothing(takes).await) });
//!     }
//! }
//! ```
//!
//! Timeouts, retries and what happens while a store does not answer are up to the limits, not to the store.

mod error;
mod memory;
mod reply;
mod state;
mod traits;

pub use self::error::StoreError;
pub use self::memory::{Fault, MemoryStore};
pub use self::reply::Reply;
pub use self::state::ballot::{Tally, Vote};
pub use self::state::holders::{Held, Hold};
pub use self::state::take::{StoreTime, Take, Taken};
pub use self::traits::{PermitStore, Store, VoteStore};
