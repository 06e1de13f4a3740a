#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]
#![deny(missing_docs)]

mod connection;
mod script;
mod store;

pub use self::store::{RedisStore, RedisStoreBuilder};
