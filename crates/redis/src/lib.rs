#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]
#![deny(missing_docs)]

mod connection;
mod script;
#[cfg(feature = "config")]
mod settings;
mod store;

#[cfg(feature = "config")]
pub use self::settings::RedisStoreSettings;
pub use self::store::{RedisStore, RedisStoreBuilder};
