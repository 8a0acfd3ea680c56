//! DUMP payloads: split, and joined again with a valid footer.

/// CRC64 as Redis computes it: the Jones polynomial, reflected, start 0, no final xor.
pub fn crc64(bytes: &[u8]) -> u64 {
    const POLYNOMIAL_REFLECTED: u64 = 0x95ac_9329_ac4b_c9b5;
    bytes.iter().fold(0, |crc, &byte| {
        (0..8).fold(crc ^ u64::from(byte), |crc, _| {
            if crc & 1 == 1 {
                (crc >> 1) ^ POLYNOMIAL_REFLECTED
            } else {
                crc >> 1
            }
        })
    })
}

/// The bytes before the footer (RDB version in 2 bytes, CRC64 in 8).
///
/// # Panics
/// Panics if `payload` is too short to hold a footer.
pub fn body(payload: &[u8]) -> &[u8] {
    &payload[..payload.len() - 10]
}

/// A body with the RDB version of `original` and a correct CRC64.
///
/// # Panics
/// Panics if `original` is too short to hold a footer.
pub fn with_footer(body: &[u8], original: &[u8]) -> Vec<u8> {
    let mut payload = body.to_vec();
    payload.extend_from_slice(&original[original.len() - 10..original.len() - 8]);
    let crc = crc64(&payload);
    payload.extend_from_slice(&crc.to_le_bytes());
    payload
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crc64_matches_the_checksum_of_redis() {
        assert_eq!(crc64(b"123456789"), 0xe9c6_d914_c4b8_d9ca);
    }
}
