//! What docs/migrate says of other libraries. Real time passes here, but no test fails if more of it does.

mod breakers;
mod layers;
mod limiters;
mod requests;
mod retries;
