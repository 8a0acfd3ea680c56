//! The frame around an encoded value on the server, for values that need one.
//!
//! Most values are stored as the codec wrote them. A framed value begins with four bytes that neither UTF-8 text nor
//! `MessagePack` begins with, and a kind.

use std::borrow::Cow;

use super::codec::CodecError;

const MAGIC: &[u8; 4] = b"\xc1tc1";
/// Known to be absent; no payload.
const NEGATIVE: u8 = b'N';
/// The payload is a value that itself begins with the magic bytes.
const RAW: u8 = b'R';
/// The payload is an LZ4 block behind its uncompressed length (4 bytes, little-endian).
#[cfg(feature = "compression")]
const COMPRESSED: u8 = b'Z';
/// A greater length before a block is rejected: the bytes may come from anywhere.
#[cfg(feature = "compression")]
const MAX_LEN: usize = 512 << 20;

/// Returns the bytes to store for a value, or for its known absence. A value of at least `compress_from` bytes is
/// compressed if that makes it smaller.
#[cfg_attr(not(feature = "compression"), allow(unused_variables))]
pub(crate) fn wrap(encoded: Option<Vec<u8>>, compress_from: Option<usize>) -> Vec<u8> {
    let Some(encoded) = encoded else {
        return framed(NEGATIVE, &[]);
    };
    #[cfg(feature = "compression")]
    if compress_from.is_some_and(|len| encoded.len() >= len) {
        let packed = lz4_flex::compress_prepend_size(&encoded);
        if packed.len() + MAGIC.len() < encoded.len() {
            return framed(COMPRESSED, &packed);
        }
    }
    if encoded.starts_with(MAGIC) {
        return framed(RAW, &encoded);
    }
    encoded
}

/// Returns the encoded value in stored bytes, `None` for a known absence.
pub(crate) fn unwrap(stored: &[u8]) -> Result<Option<Cow<'_, [u8]>>, CodecError> {
    let Some(rest) = stored.strip_prefix(MAGIC) else {
        return Ok(Some(Cow::Borrowed(stored)));
    };
    match rest {
        [NEGATIVE] => Ok(None),
        [RAW, payload @ ..] => Ok(Some(Cow::Borrowed(payload))),
        #[cfg(feature = "compression")]
        [COMPRESSED, payload @ ..] => {
            let claimed = payload
                .first_chunk::<4>()
                .map(|len| u32::from_le_bytes(*len) as usize);
            // LZ4 cannot make more than 255 bytes out of one.
            let possible = (payload.len() * 255).min(MAX_LEN);
            if claimed.is_none_or(|len| len > possible) {
                return Err("a compressed value claims a length that it cannot have".into());
            }
            let value = lz4_flex::decompress_size_prepended(payload)?;
            Ok(Some(Cow::Owned(value)))
        }
        #[cfg(not(feature = "compression"))]
        [b'Z', ..] => Err("the value is compressed: enable the feature `compression`".into()),
        _ => Err("the value was written by a newer version of this crate".into()),
    }
}

fn framed(kind: u8, payload: &[u8]) -> Vec<u8> {
    let mut stored = Vec::with_capacity(MAGIC.len() + 1 + payload.len());
    stored.extend_from_slice(MAGIC);
    stored.push(kind);
    stored.extend_from_slice(payload);
    stored
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn plain_values_are_stored_unchanged() {
        assert_eq!(wrap(Some(b"{}".to_vec()), None), b"{}");
        assert_eq!(unwrap(b"{}").unwrap().as_deref(), Some(b"{}".as_slice()));
    }

    #[test]
    fn absence_differs_from_every_value() {
        let absent = wrap(None, None);
        assert!(unwrap(&absent).unwrap().is_none());
        let impostor = wrap(Some(absent.clone()), None);
        assert_eq!(
            unwrap(&impostor).unwrap().as_deref(),
            Some(absent.as_slice())
        );
    }

    #[test]
    fn invalid_frames_are_errors() {
        for lie in [
            b"\xc1tc1".as_slice(),
            b"\xc1tc1?",
            b"\xc1tc1N.",
            b"\xc1tc1Z",
            b"\xc1tc1Z\xff\xff\xff\xff.",
        ] {
            assert!(unwrap(lie).is_err(), "{lie:?}");
        }
    }

    #[cfg(feature = "compression")]
    #[test]
    fn large_values_are_compressed_if_they_get_smaller() {
        let text = "the same again and ".repeat(100).into_bytes();
        let stored = wrap(Some(text.clone()), Some(1000));
        assert!(
            stored.len() < text.len() / 4,
            "{} of {}",
            stored.len(),
            text.len()
        );
        assert_eq!(unwrap(&stored).unwrap().as_deref(), Some(text.as_slice()));
        assert_eq!(wrap(Some(text.clone()), Some(text.len() + 1)), text);
        let mut rng = fastrand::Rng::with_seed(1);
        let noise: Vec<u8> = (0..2000).map(|_| rng.u8(..)).collect();
        assert!(wrap(Some(noise.clone()), Some(1)) == noise);
    }

    proptest! {
        #[test]
        fn any_bytes_survive_a_round_trip(value: Vec<u8>, magic: bool) {
            let value = if magic { [MAGIC.as_slice(), &value].concat() } else { value };
            for compression in [
                None,
                #[cfg(feature = "compression")]
                Some(0),
            ] {
                let stored = wrap(Some(value.clone()), compression);
                let back = unwrap(&stored).unwrap();
                prop_assert_eq!(back.as_deref(), Some(value.as_slice()));
            }
        }

        #[test]
        fn any_stored_bytes_are_read_or_refused(stored: Vec<u8>, kind: u8) {
            let _ = unwrap(&stored);
            let _ = unwrap(&framed(kind, &stored));
        }
    }
}
