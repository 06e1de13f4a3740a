//! Splits the bytes of a file into intact lines, damaged ones, and a torn tail.

use std::ops::Range;

use super::record::{START, is_intact};

/// What the bytes of a file are.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Scan {
    /// The intact lines, without their line breaks.
    pub(crate) intact: Vec<Range<usize>>,
    /// Bytes that are no record: a changed bit, or what another program wrote.
    pub(crate) damaged: Vec<Range<usize>>,
    /// Where the last line break is: after it is a write that was cut off.
    pub(crate) whole: usize,
}

pub(crate) fn scan(bytes: &[u8]) -> Scan {
    let mut found = Scan::default();
    for (at, _) in bytes.iter().enumerate().filter(|(_, byte)| **byte == b'\n') {
        found.line(bytes, found.whole..at);
        found.whole = at + 1;
    }
    found
}

impl Scan {
    fn line(&mut self, bytes: &[u8], range: Range<usize>) {
        if range.is_empty() {
            return;
        }
        if is_intact(&bytes[range.clone()]) {
            return self.intact.push(range);
        }
        // A line break that was damaged joins two lines: each begins as only lines do, with one byte
        // in place of the line break before it.
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
                // A damaged line break inside costs none.
                if good[at] == b'\n' && at + 1 < good.len() {
                    assert_eq!(found, 4, "byte {at}, bit {bit}");
                }
            }
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_covered_once(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let scan = scan(&bytes);
            prop_assert!(scan.whole <= bytes.len());
            for range in scan.intact.iter().chain(&scan.damaged) {
                prop_assert!(range.start <= range.end && range.end < scan.whole);
            }
        }
    }
}
