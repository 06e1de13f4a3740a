//! Splits the bytes of a file into intact lines, damaged ones, and a torn tail.

use std::ops::Range;

use super::record::{START, is_intact};

/// The parts of a file.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Scan {
    /// The intact lines, without their line breaks.
    pub(crate) intact: Vec<Range<usize>>,
    /// Bytes that are not a record, such as a flipped bit or foreign data.
    pub(crate) damaged: Vec<Range<usize>>,
    /// End of the last complete record. Padding or a torn write follows.
    pub(crate) whole: usize,
    /// The torn write.
    pub(crate) torn: Range<usize>,
}

/// Splits a file into records. Empty lines are padding: files grow in large steps of line breaks, which later records
/// overwrite.
pub(crate) fn scan(bytes: &[u8]) -> Scan {
    let mut found = Scan::default();
    let mut begin = 0;
    for (at, _) in bytes.iter().enumerate().filter(|(_, byte)| **byte == b'\n') {
        if at > begin {
            found.line(bytes, begin..at);
            found.whole = at + 1;
        }
        begin = at + 1;
    }
    found.torn = begin..bytes.len();
    // Padding follows a torn write too, so its end looks like the end of a record.
    let is_followed_by_empty_lines = found.whole < begin;
    let last_intact = found.intact.last().map_or(0, |last| last.end + 1);
    if is_followed_by_empty_lines && last_intact < found.whole {
        let first_torn = found
            .damaged
            .partition_point(|piece| piece.start < last_intact);
        found.damaged.truncate(first_torn);
        found.torn = last_intact..if found.torn.is_empty() {
            found.whole - 1
        } else {
            bytes.len()
        };
        found.whole = last_intact;
    }
    found
}

impl Scan {
    fn line(&mut self, bytes: &[u8], range: Range<usize>) {
        if is_intact(&bytes[range.clone()]) {
            return self.intact.push(range);
        }
        // A damaged line break joins two records. Each begins with the prefix that only records have.
        let starts = bytes[range.clone()]
            .windows(START.len())
            .enumerate()
            .filter(|&(at, window)| at > 0 && window == START)
            .map(|(at, _)| range.start + at);
        let mut begin = range.start;
        for next in starts.chain([range.end + 1]) {
            let piece = begin..next - 1;
            if is_intact(&bytes[piece.clone()]) {
                self.intact.push(piece);
            } else {
                self.damaged.push(piece);
            }
            begin = next;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::letter::LetterId;
    use super::super::record::header;
    use super::*;
    use proptest::prelude::*;

    fn lines(count: u64) -> Vec<u8> {
        (0..count)
            .flat_map(|id| header(LetterId::new(id)))
            .collect()
    }

    #[test]
    fn every_prefix_loses_only_the_torn_line() {
        let bytes = lines(5);
        for cut in 0..=bytes.len() {
            let scan = scan(&bytes[..cut]);
            let whole = bytes[..cut].iter().filter(|byte| **byte == b'\n').count();
            assert_eq!(scan.intact.len(), whole);
            assert!(scan.damaged.is_empty());
        }
    }

    #[test]
    fn a_flipped_bit_costs_at_most_the_line_it_is_in() {
        let good = lines(4);
        for at in 0..good.len() {
            for bit in 0..8 {
                let mut bytes = good.clone();
                bytes[at] ^= 1 << bit;
                let found = scan(&bytes).intact.len();
                assert!(found >= 3, "byte {at}, bit {bit}: {found} lines left");
                // A damaged line break between two records loses neither of them.
                if good[at] == b'\n' && at + 1 < good.len() {
                    assert_eq!(found, 4, "byte {at}, bit {bit}");
                }
            }
        }
    }

    #[test]
    fn a_record_that_overwrote_padding_in_part_is_torn() {
        let (bytes, last) = (lines(3), lines(3).len() / 3);
        // A cut that removes only the line break leaves the record whole, because the padding consists of line breaks.
        for cut in 0..last - 1 {
            let mut part = bytes[..bytes.len() - last + cut].to_vec();
            let torn = bytes.len() - last..part.len();
            part.resize(bytes.len() + 20, b'\n');
            let found = scan(&part);
            assert_eq!((found.intact.len(), found.damaged.len()), (2, 0), "{cut}");
            assert_eq!(
                (found.whole, found.torn.len()),
                (bytes.len() - last, torn.len())
            );
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_covered_once(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let scan = scan(&bytes);
            prop_assert!(scan.whole <= bytes.len() && scan.torn.end <= bytes.len());
            prop_assert!(scan.torn.is_empty() || scan.torn.start >= scan.whole);
            for range in scan.intact.iter().chain(&scan.damaged) {
                prop_assert!(range.start <= range.end && range.end < scan.whole);
            }
        }
    }
}
