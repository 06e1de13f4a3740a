//! The assignment of calls to buckets, for sources whose buckets begin with a call.
//!
//! In those sources a bucket begins with the first call after the end of the last bucket; our slices are
//! contiguous. Differences caused by that are not expressible; [`Buckets`] detects when they may occur.

/// The buckets of a source, with their calls.
pub(crate) struct Buckets {
    rule: Rule,
    length: u128,
    /// The start of the first of our slices.
    origin: Option<u128>,
    held: Vec<Bucket>,
}

enum Rule {
    /// A bucket expires when it began this long ago. Our slices begin with the first call into an empty window.
    Expire(u128),
    /// A bucket expires when there are more than this many, at any age. Our slices and the first bucket begin with
    /// the scenario.
    Ring(usize),
}

struct Bucket {
    began: u128,
    calls: u64,
    failures: u64,
}

impl Buckets {
    /// The reason for differences, for the report.
    pub(crate) const REASON: &str = "buckets that begin with their first call";

    pub(crate) const fn expiring(length: u128, after: u128) -> Self {
        Self::new(Rule::Expire(after), length, None)
    }

    pub(crate) const fn ring(length: u128, count: usize) -> Self {
        Self::new(Rule::Ring(count), length, Some(0))
    }

    const fn new(rule: Rule, length: u128, origin: Option<u128>) -> Self {
        Self {
            rule,
            length,
            origin,
            held: Vec::new(),
        }
    }

    pub(crate) fn clear(&mut self) {
        self.held.clear();
        if let Rule::Expire(_) = self.rule {
            self.origin = None;
        }
    }

    /// Opens the bucket of `now` if there is none, and drops expired buckets.
    pub(crate) fn advance(&mut self, now: u128) {
        if let Rule::Expire(after) = self.rule {
            self.held
                .retain(|bucket| now.saturating_sub(bucket.began) < after);
            if self.held.is_empty() {
                self.origin = Some(now);
            }
        }
        let is_over = |last: &Bucket| now.saturating_sub(last.began) >= self.length;
        if self.held.last().is_none_or(is_over) {
            let began = match self.rule {
                Rule::Ring(_) if self.held.is_empty() && now < self.length => 0,
                _ => now,
            };
            self.held.push(Bucket {
                began,
                calls: 0,
                failures: 0,
            });
        }
        if let Rule::Ring(count) = self.rule {
            let surplus = self.held.len().saturating_sub(count);
            self.held.drain(..surplus);
        }
    }

    /// Counts a call that ends now.
    pub(crate) fn record(&mut self, now: u128, failed: bool) {
        self.advance(now);
        if let Some(bucket) = self.held.last_mut() {
            bucket.calls += 1;
            bucket.failures += u64::from(failed);
        }
    }

    /// Returns whether a window of even slices holds other calls, because the buckets are not even.
    pub(crate) fn differ(&self, calls: u64, failures: u64) -> bool {
        let sum = |count: fn(&Bucket) -> u64| self.held.iter().map(count).sum::<u64>();
        let same = (calls, failures) == (sum(|bucket| bucket.calls), sum(|bucket| bucket.failures));
        !same && !self.are_even()
    }

    fn are_even(&self) -> bool {
        let origin = self.origin.unwrap_or(0);
        let on_grid = |bucket: &Bucket| (bucket.began - origin) % self.length.max(1) == 0;
        let follow = |pair: &[Bucket]| pair[1].began - pair[0].began == self.length;
        self.held.iter().all(on_grid)
            && match self.rule {
                Rule::Expire(_) => true,
                // After a gap they keep buckets that are too old.
                Rule::Ring(_) => self.held.windows(2).all(follow),
            }
    }
}
