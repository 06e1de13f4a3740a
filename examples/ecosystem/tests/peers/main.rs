//! Statements of docs/migrate about other libraries. Uses real time, but no test fails on a slow machine.

mod breakers;
mod layers;
mod limiters;
mod requests;
mod retries;
