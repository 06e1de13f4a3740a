//! Rendezvous hashing: each key belongs to the node with the highest score for it.

use std::hash::{Hash, Hasher};

use crate::rng::mix;

/// Hashes a key or a name, equally in every process that runs the same version of this crate on the same
/// architecture.
pub(crate) fn hash_of<K: Hash + ?Sized>(key: &K) -> u64 {
    let mut hasher = Fnv(0xcbf2_9ce4_8422_2325);
    key.hash(&mut hasher);
    mix(hasher.0)
}

/// FNV-1a. The hasher of the standard library may change from release to release.
struct Fnv(u64);

impl Hasher for Fnv {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3);
        }
    }
}

/// Returns the score of a node for a key. Each node has the highest score of all for a share of the keys that is
/// proportional to its weight ("Weighted Distributed Hash Tables", Schindelhauer and Schomaker 2005).
pub(crate) fn score(key: u64, node: u64, weight: f64) -> f64 {
    const SCALE: f64 = 1.0 / (1_u64 << 53) as f64;
    // Within (0, 1), so the logarithm is finite and not zero.
    let unit = (draw(key, node) as f64 + 0.5) * SCALE;
    weight / -unit.ln()
}

/// Returns a number of 53 bits that orders nodes of equal weight as [`score`] does.
pub(crate) const fn draw(key: u64, node: u64) -> u64 {
    mix(key ^ node) >> 11
}
