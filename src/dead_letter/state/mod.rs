//! Pure state machines: letters, their line format, and the index of stored letters. Time is an argument.

pub(super) mod book;
#[cfg(feature = "dead-letter-file")]
pub(super) mod crc;
pub(super) mod filter;
pub(super) mod groups;
pub(super) mod letter;
pub(super) mod pacer;
pub(super) mod progress;
#[cfg(feature = "dead-letter-file")]
pub(super) mod record;
pub(super) mod retention;
#[cfg(feature = "dead-letter-file")]
pub(super) mod scan;
#[cfg(feature = "dead-letter-file")]
pub(super) mod segments;
pub(super) mod timestamp;
