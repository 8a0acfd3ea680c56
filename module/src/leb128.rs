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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_number_comes_back(number in any::<u64>(), shift in 0_u32..64) {
            let number = number >> shift;
            let mut bytes = [0; super::MAX];
            let len = super::write(number, &mut bytes);
            let mut bytes = bytes.into_iter().take(len);
            prop_assert_eq!(super::read(|| bytes.next()), Some(number));
            prop_assert_eq!(bytes.next(), None);
        }
    }
}
