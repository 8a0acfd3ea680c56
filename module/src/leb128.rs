//! Unsigned LEB128: seven bits per byte, the lowest first, the top bit set on all but the last.

/// The longest encoding of a `u64`.
pub(crate) const MAX: usize = 10;

/// Writes a number byte by byte.
#[inline]
pub(crate) fn write(mut number: u64, mut put: impl FnMut(u8)) {
    while number >= 0x80 {
        put(number as u8 | 0x80);
        number >>= 7;
    }
    put(number as u8);
}

/// Appends a number.
pub(crate) fn push(bytes: &mut Vec<u8>, number: u64) {
    write(number, |byte| bytes.push(byte));
}

/// The number of bytes that [`write()`] takes for a number.
pub(crate) const fn len(number: u64) -> usize {
    if number < 0x80 {
        return 1;
    }
    (70 - number.leading_zeros() as usize) / 7
}

/// Reads a number byte by byte; `None` if the bytes end early or do not fit 64 bits.
#[inline]
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

/// Takes a number from the front of `bytes`; `None` as [`read`], and then some of the bytes are gone.
pub(crate) fn take(bytes: &mut &[u8]) -> Option<u64> {
    read(|| {
        let (first, rest) = bytes.split_first()?;
        *bytes = rest;
        Some(*first)
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    #[test]
    fn a_number_above_64_bits_is_refused() {
        let ending = |last| [[0xff; 9].as_slice(), &[last]].concat();
        assert_eq!(super::take(&mut &ending(0)[..]), Some(u64::MAX >> 1));
        assert_eq!(super::take(&mut &ending(1)[..]), Some(u64::MAX));
        for last in [2, 3, 0x7f, 0xff] {
            assert_eq!(super::take(&mut &ending(last)[..]), None);
        }
    }

    proptest! {
        #[test]
        fn an_encoded_number_decodes_to_itself(number in any::<u64>(), shift in 0_u32..64) {
            let number = number >> shift;
            let mut bytes = Vec::new();
            super::push(&mut bytes, number);
            prop_assert_eq!(super::len(number), bytes.len());
            let mut rest = &bytes[..];
            prop_assert_eq!(super::take(&mut rest), Some(number));
            prop_assert!(rest.is_empty());
        }
    }
}
