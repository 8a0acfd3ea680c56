//! Unsigned LEB128: seven bits a byte, the lowest first, the top bit set on all but the last.

/// The longest encoding of a `u64`.
pub(crate) const MAX: usize = 10;

/// Writes `number` to the front of `out` and returns how many bytes it took.
pub(crate) fn write(mut number: u64, out: &mut [u8]) -> usize {
    let mut at = 0;
    while number >= 0x80 {
        out[at] = number as u8 | 0x80;
        number >>= 7;
        at += 1;
    }
    out[at] = number as u8;
    at + 1
}

/// How many bytes [`write`] takes for a number.
pub(crate) const fn len(number: u64) -> usize {
    (70 - (number | 1).leading_zeros() as usize) / 7
}

/// Reads a number byte by byte; `None` if the bytes end early or do not fit 64 bits.
pub(crate) fn read(mut next_byte: impl FnMut() -> Option<u8>) -> Option<u64> {
    let mut number = 0;
    for shift in (0..64).step_by(7) {
        let byte = next_byte()?;
        let bits = u64::from(byte & 0x7f);
        if bits << shift >> shift != bits {
            return None;
        }
        number |= bits << shift;
        if byte & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}

/// Takes a number from the front of `bytes`; `None` as [`read`].
pub(crate) fn take(bytes: &mut &[u8]) -> Option<u64> {
    let mut number = 0;
    for (at, &byte) in bytes.iter().take(MAX).enumerate() {
        number |= u64::from(byte & 0x7f) << (7 * at);
        if byte & 0x80 == 0 {
            *bytes = &bytes[at + 1..];
            return (at + 1 < MAX || byte < 2).then_some(number);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    #[test]
    fn ten_bytes_hold_no_more_than_64_bits() {
        let ending = |last| [[0xff; 9].as_slice(), &[last]].concat();
        assert_eq!(super::take(&mut &ending(0)[..]), Some(u64::MAX >> 1));
        assert_eq!(super::take(&mut &ending(1)[..]), Some(u64::MAX));
        for last in [2, 3, 0x7f, 0xff] {
            assert_eq!(super::take(&mut &ending(last)[..]), None);
        }
    }

    proptest! {
        #[test]
        fn a_number_comes_back(number in any::<u64>(), shift in 0_u32..64) {
            let number = number >> shift;
            let mut bytes = [0; super::MAX];
            let len = super::write(number, &mut bytes);
            prop_assert_eq!(super::len(number), len);
            let mut rest = &bytes[..len];
            prop_assert_eq!(super::take(&mut rest), Some(number));
            prop_assert!(rest.is_empty());
            let mut bytes = bytes.into_iter().take(len);
            prop_assert_eq!(super::read(|| bytes.next()), Some(number));
            prop_assert_eq!(bytes.next(), None);
        }

        #[test]
        fn both_ways_to_read_agree_on_any_bytes(bytes in proptest::collection::vec(prop_oneof![Just(0xff), any::<u8>()], 0..12)) {
            let mut one_by_one = bytes.iter().copied();
            prop_assert_eq!(super::take(&mut &bytes[..]), super::read(|| one_by_one.next()));
        }
    }
}
