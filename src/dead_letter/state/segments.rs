//! The segments of a queue: how full they are, and which to delete or rewrite.

use std::collections::BTreeMap;

/// The segments of a queue, by number. The last one is written to.
#[derive(Debug, Default)]
pub(crate) struct Segments {
    segments: BTreeMap<u64, Segment>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Segment {
    /// Length of its lines, in bytes.
    pub(crate) length: u64,
    /// Length of its file, padding included, in bytes.
    pub(crate) allocated: u64,
    /// Number of letters in it that are kept.
    pub(crate) letters: u64,
    /// Size of those letters, in bytes.
    pub(crate) bytes: u64,
    /// Whether the name of its change log is synced.
    pub(crate) named: bool,
    /// Whether its change log may end in a torn write.
    pub(crate) ragged: bool,
    /// Whether it has damaged lines, which are copied before they are deleted.
    pub(crate) damaged: bool,
    /// Size of its letters when it could not be deleted or rewritten, in bytes.
    pub(crate) failed: Option<u64>,
}

impl Segment {
    /// Returns whether to delete or rewrite it has not failed, or needs much less space than when it failed.
    fn is_due(&self) -> bool {
        self.failed.is_none_or(|bytes| self.bytes < bytes / 2)
    }
}

impl Segments {
    pub(crate) fn add(&mut self, number: u64, segment: Segment) {
        self.segments.insert(number, segment);
    }

    pub(crate) fn remove(&mut self, number: u64) {
        self.segments.remove(&number);
    }

    /// Returns the segment that is written to.
    pub(crate) fn active(&self) -> Option<(u64, Segment)> {
        self.segments
            .last_key_value()
            .map(|(&number, &segment)| (number, segment))
    }

    pub(crate) fn get(&self, number: u64) -> Option<Segment> {
        self.segments.get(&number).copied()
    }

    /// Counts a kept letter of this size that the file contains.
    pub(crate) fn keep(&mut self, number: u64, bytes: u64) {
        self.update(number, |segment| {
            segment.letters += 1;
            segment.bytes += bytes;
        });
    }

    /// Removes from the counts a letter of this size that was removed.
    pub(crate) fn forget(&mut self, number: u64, bytes: u64) {
        self.update(number, |segment| {
            segment.letters = segment.letters.saturating_sub(1);
            segment.bytes = segment.bytes.saturating_sub(bytes);
        });
    }

    /// Updates the totals of a segment.
    pub(crate) fn update(&mut self, number: u64, change: impl FnOnce(&mut Segment)) {
        if let Some(segment) = self.segments.get_mut(&number) {
            change(segment);
        }
    }

    /// Records that a segment could not be deleted or rewritten. It is tried again once that may succeed.
    pub(crate) fn failed(&mut self, number: u64) {
        self.update(number, |segment| segment.failed = Some(segment.bytes));
    }

    /// Lets all segments be tried again, because there may be more space.
    pub(crate) fn try_again(&mut self) {
        for segment in self.segments.values_mut() {
            segment.failed = None;
        }
    }

    /// Returns the inactive segments without letters.
    pub(crate) fn finished(&self) -> Vec<u64> {
        let finished = self.inactive().filter(|(_, segment)| segment.letters == 0);
        finished.map(|(number, _)| number).collect()
    }

    /// Returns an inactive segment with letters of which more than half is removed ones.
    pub(crate) fn wasteful(&self) -> Option<u64> {
        self.inactive()
            .find(|(_, segment)| segment.letters > 0 && segment.bytes < segment.length / 2)
            .map(|(number, _)| number)
    }

    /// Returns the segments that are not written to, without those that would fail again.
    fn inactive(&self) -> impl Iterator<Item = (u64, Segment)> {
        let active = self.active().map(|(number, _)| number);
        self.segments
            .iter()
            .filter(move |&(&number, segment)| Some(number) != active && segment.is_due())
            .map(|(&number, &segment)| (number, segment))
    }

    pub(crate) fn len(&self) -> u64 {
        self.segments.len() as u64
    }

    /// Returns the bytes of the lines of all segments.
    pub(crate) fn length(&self) -> u64 {
        self.segments.values().map(|segment| segment.length).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns one segment, of 100 bytes and without letters.
    fn with_one() -> Segments {
        let mut segments = Segments::default();
        segments.add(
            1,
            Segment {
                length: 100,
                ..Segment::default()
            },
        );
        segments
    }

    #[test]
    fn the_active_segment_is_neither_deleted_nor_rewritten() {
        let mut segments = with_one();
        assert_eq!((segments.finished(), segments.wasteful()), (vec![], None));
        segments.add(2, Segment::default());
        assert_eq!((segments.finished(), segments.wasteful()), (vec![1], None));
    }

    #[test]
    fn a_segment_is_wasteful_below_half() {
        let mut segments = with_one();
        segments.add(2, Segment::default());
        segments.keep(1, 30);
        segments.keep(1, 20);
        assert_eq!(segments.wasteful(), None);
        segments.forget(1, 20);
        assert_eq!(segments.wasteful(), Some(1));
        assert!(segments.finished().is_empty());
    }

    #[test]
    fn a_segment_that_failed_is_tried_again_with_half_of_its_letters() {
        let mut segments = with_one();
        segments.add(2, Segment::default());
        for bytes in [20, 10, 9] {
            segments.keep(1, bytes);
        }
        segments.failed(1);
        segments.forget(1, 10);
        assert_eq!(segments.wasteful(), None);
        segments.forget(1, 20);
        assert_eq!(segments.wasteful(), Some(1));
        segments.failed(1);
        assert_eq!(segments.wasteful(), None);
        segments.try_again();
        assert_eq!(segments.wasteful(), Some(1));
        // Without letters it is always tried, unless that failed.
        segments.failed(1);
        segments.forget(1, 9);
        assert_eq!(segments.finished(), [1]);
        segments.failed(1);
        assert!(segments.finished().is_empty());
    }
}
