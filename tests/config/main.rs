//! Settings from files: their mistakes, formats, reloads, and schema.

#![cfg(all(feature = "config", feature = "tokio"))]

mod broken;
mod formats;
#[cfg(unix)]
mod kept_times;
mod long;
mod reload;
#[cfg(feature = "schema")]
mod schema;
mod snapshots;
mod under_load;
#[path = "../watchdog/mod.rs"]
mod watchdog;
mod watched;

use backstop::ManualClock;
use backstop::config::{Registry, Value};

/// Parses TOML.
fn toml(text: &str) -> Value {
    toml::from_str(text).unwrap()
}

/// Builds the clients of a TOML file on a manual clock.
fn registry(text: &str) -> Registry {
    let builder = Registry::builder().clock(ManualClock::new());
    builder.build(&toml(text)).unwrap()
}
