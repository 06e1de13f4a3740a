//! One rate limit for several processes, each of which is simulated by a limiter of its own on one store.

mod costs;
mod flapping;
mod fleet;
mod leases;
mod ledger;
mod model;
mod outages;
mod settings;
mod shards;
mod user_code;
mod waiting;
#[path = "../watchdog/mod.rs"]
mod watchdog;
