//! The quotas of a table whose keys have not all the same.

use super::super::state::{Gcra, Quota};

/// A quota and its rules.
#[derive(Clone, Debug)]
pub(super) struct Tier {
    pub(super) quota: Quota,
    pub(super) gcra: Gcra,
}

impl Tier {
    pub(super) fn new(quota: Quota) -> Self {
        Self {
            quota,
            gcra: quota.gcra(0),
        }
    }
}

/// The tiers in use, and which of them the key at each place has.
#[derive(Debug)]
pub(super) struct Tiers {
    list: Vec<Counted>,
    /// By place. Places without a key have any.
    of: Vec<u32>,
}

#[derive(Debug)]
struct Counted {
    tier: Tier,
    keys: usize,
}

impl Tiers {
    /// For a table of so many places, whose keys have all had the same tier so far.
    pub(super) fn new(tier: Tier, places: usize, keys: usize) -> Self {
        Self {
            list: vec![Counted { tier, keys }],
            of: vec![0; places],
        }
    }

    #[inline]
    pub(super) fn at(&self, place: usize) -> &Tier {
        &self.list[self.of[place] as usize].tier
    }

    /// A key with this quota comes to a place.
    pub(super) fn join(&mut self, place: usize, quota: &Quota) {
        let same = self.list.iter().position(|used| used.tier.quota == *quota);
        let number = same.unwrap_or_else(|| {
            let new = Counted {
                tier: Tier::new(*quota),
                keys: 0,
            };
            // A tier that nobody has any more makes room for it.
            match self.list.iter().position(|used| used.keys == 0) {
                Some(free) => {
                    self.list[free] = new;
                    free
                }
                None => {
                    self.list.push(new);
                    self.list.len() - 1
                }
            }
        });
        self.list[number].keys += 1;
        self.of[place] = number as u32;
    }

    /// The key at a place leaves.
    pub(super) fn leave(&mut self, place: usize) {
        self.list[self.of[place] as usize].keys -= 1;
    }

    /// All keys that have one tier have another one from now on.
    pub(super) fn replace(&mut self, old: &Quota, new: &Tier) {
        for used in &mut self.list {
            if used.tier.quota == *old {
                used.tier = new.clone();
            }
        }
    }

    /// Forgets the places, of which there are so many from now on. Returns the tiers by the old ones.
    pub(super) fn forget_places(&mut self, places: usize) -> Vec<u32> {
        std::mem::replace(&mut self.of, vec![0; places])
    }

    /// Says which tier the key at a place has, as [`forget_places`](Self::forget_places) returned it.
    pub(super) fn put(&mut self, place: usize, tier: u32) {
        self.of[place] = tier;
    }
}
