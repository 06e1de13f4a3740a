//! A fast keyed hash, which takes a nanosecond. Attackers cannot choose colliding keys.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hash, Hasher};

/// The secret key of one limiter's hash.
#[derive(Debug)]
pub(super) struct Secret {
    start: u64,
    factor: u64,
}

impl Secret {
    pub(super) fn new() -> Self {
        let random = RandomState::new();
        Self {
            start: random.hash_one(0_u64),
            factor: random.hash_one(1_u64) | 1,
        }
    }

    #[inline]
    pub(super) fn hash<Q: Hash + ?Sized>(&self, key: &Q) -> u64 {
        let mut hasher = Folding {
            state: self.start,
            factor: self.factor,
        };
        key.hash(&mut hasher);
        hasher.finish()
    }
}

/// Multiplies each word into the state and folds the upper half of the product onto the lower.
struct Folding {
    state: u64,
    factor: u64,
}

impl Folding {
    #[inline]
    fn fold(a: u64, b: u64) -> u64 {
        let product = u128::from(a) * u128::from(b);
        (product as u64) ^ ((product >> 64) as u64)
    }

    #[inline]
    fn word(&mut self, word: u64) {
        self.state = Self::fold(self.state ^ word, self.factor);
    }
}

impl Hasher for Folding {
    #[inline]
    fn finish(&self) -> u64 {
        // Folds once more, because otherwise the last word would be multiplied by a guessable number.
        Self::fold(
            self.state,
            self.factor.rotate_left(32) ^ 0x9e37_79b9_7f4a_7c15,
        )
    }

    fn write(&mut self, bytes: &[u8]) {
        let mut words = bytes.chunks_exact(8);
        for word in &mut words {
            let mut whole = [0; 8];
            whole.copy_from_slice(word);
            self.word(u64::from_le_bytes(whole));
        }
        let rest = words.remainder();
        let mut last = [0; 8];
        last[..rest.len()].copy_from_slice(rest);
        // Includes the length, so that trailing zeros count.
        self.word(u64::from_le_bytes(last) ^ ((bytes.len() as u64) << 56));
    }

    #[inline]
    fn write_u8(&mut self, value: u8) {
        self.word(value.into());
    }

    #[inline]
    fn write_u16(&mut self, value: u16) {
        self.word(value.into());
    }

    #[inline]
    fn write_u32(&mut self, value: u32) {
        self.word(value.into());
    }

    #[inline]
    fn write_u64(&mut self, value: u64) {
        self.word(value);
    }

    #[inline]
    fn write_usize(&mut self, value: usize) {
        self.word(value as u64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counting_keys_spread_evenly() {
        let secret = Secret::new();
        for shift in [0, 4, 32] {
            let mut shards = [0_u32; 128];
            let mut low = [0_u32; 128];
            for key in 0..128_000_u64 {
                let hash = secret.hash(&(key << shift));
                shards[(hash >> 57) as usize] += 1;
                low[(hash & 127) as usize] += 1;
            }
            for count in shards.into_iter().chain(low) {
                assert!((600..1400).contains(&count), "{shift}: {count}");
            }
        }
    }

    #[test]
    fn strings_that_differ_in_length_or_order_differ() {
        let secret = Secret::new();
        let keys = [
            "",
            "a",
            "a\0",
            "ab",
            "ba",
            "12345678",
            "123456781",
            "87654321",
        ];
        let mut hashes: Vec<_> = keys.iter().map(|key| secret.hash(*key)).collect();
        hashes.sort_unstable();
        hashes.dedup();
        assert_eq!(hashes.len(), keys.len());
    }
}
