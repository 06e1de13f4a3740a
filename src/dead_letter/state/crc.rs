//! CRC-32 as in zlib, gzip and PNG (IEEE 802.3, reflected).

/// `TABLES[n][b]` is the checksum of byte `b` and `n` zero bytes after it.
const TABLES: [[u32; 256]; 8] = {
    let mut tables = [[0; 256]; 8];
    let mut byte = 0;
    while byte < 256 {
        let mut crc = byte as u32;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 1 == 1 {
                crc >> 1 ^ 0xEDB8_8320
            } else {
                crc >> 1
            };
            bit += 1;
        }
        tables[0][byte] = crc;
        byte += 1;
    }
    let mut at = 0;
    while at < 7 * 256 {
        let (zeros, byte) = (at / 256, at % 256);
        let crc = tables[zeros][byte];
        tables[zeros + 1][byte] = tables[0][(crc & 0xFF) as usize] ^ crc >> 8;
        at += 1;
    }
    tables
};

/// Returns the checksum of `bytes`, computed eight at a time ("slicing by 8", Kounavis and Berry 2005).
pub(crate) fn crc32(bytes: &[u8]) -> u32 {
    let (mut crc, mut rest) = (u32::MAX, bytes);
    while let Some((eight, tail)) = rest.split_first_chunk() {
        let mixed = u64::from_le_bytes(*eight) ^ u64::from(crc);
        let at = |place: usize| TABLES[7 - place][(mixed >> (8 * place) & 0xFF) as usize];
        crc = at(0) ^ at(1) ^ at(2) ^ at(3) ^ at(4) ^ at(5) ^ at(6) ^ at(7);
        rest = tail;
    }
    !rest.iter().fold(crc, |crc, &byte| after(crc, byte))
}

/// Returns the state after one more byte.
const fn after(crc: u32, byte: u8) -> u32 {
    TABLES[0][((crc ^ byte as u32) & 0xFF) as usize] ^ crc >> 8
}

#[cfg(test)]
mod tests {
    use super::*;

    proptest::proptest! {
        #[test]
        fn eight_bytes_at_a_time_give_the_checksum_of_one_at_a_time(bytes: Vec<u8>) {
            let one_at_a_time = !bytes.iter().fold(u32::MAX, |crc, &byte| after(crc, byte));
            proptest::prop_assert_eq!(crc32(&bytes), one_at_a_time);
        }
    }

    #[test]
    fn check_values_of_the_standard() {
        assert_eq!(crc32(b""), 0);
        assert_eq!(crc32(b"123456789"), 0xCBF4_3926);
        assert_eq!(
            crc32(b"The quick brown fox jumps over the lazy dog"),
            0x414F_A339
        );
    }
}
