//! How values become bytes.

use serde::Serialize;
use serde::de::DeserializeOwned;

pub(crate) type CodecError = Box<dyn std::error::Error + Send + Sync>;

/// Turns values of type `T` into bytes and back.
///
/// All processes that read a key must use the same codec. You can implement it for your own formats:
///
/// ```
/// use std::error::Error;
///
/// use tagcache::Codec;
///
/// /// Numbers as eight bytes.
/// #[derive(Clone, Copy, Debug)]
/// struct BigEndian;
///
/// impl Codec<u64> for BigEndian {
///     fn encode(&self, value: &u64) -> Result<Vec<u8>, Box<dyn Error + Send + Sync>> {
///         Ok(value.to_be_bytes().to_vec())
///     }
///
///     fn decode(&self, bytes: &[u8]) -> Result<u64, Box<dyn Error + Send + Sync>> {
///         Ok(u64::from_be_bytes(bytes.try_into()?))
///     }
/// }
/// ```
pub trait Codec<T>: Clone + Send + Sync + 'static {
    /// The bytes of a value.
    ///
    /// # Errors
    /// When the value has no representation, such as a map with keys that are no strings in JSON.
    fn encode(&self, value: &T) -> Result<Vec<u8>, Box<dyn std::error::Error + Send + Sync>>;

    /// The value that the bytes encode.
    ///
    /// # Errors
    /// When the bytes are not an encoding that [`Self::encode`] writes for this type.
    fn decode(&self, bytes: &[u8]) -> Result<T, Box<dyn std::error::Error + Send + Sync>>;
}

/// JSON by serde: the default. Other languages can read it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Json;

impl<T: Serialize + DeserializeOwned> Codec<T> for Json {
    fn encode(&self, value: &T) -> Result<Vec<u8>, CodecError> {
        let encoded = serde_json::to_vec(value)?;
        // JSON has no NaN and no infinity: serde_json writes null for them and cannot read a number from it. A null may
        // also be valid, so decoding is tried.
        if encoded.windows(4).any(|bytes| bytes == b"null") {
            serde_json::from_slice::<T>(&encoded).map_err(|error| {
                format!("it cannot be read back from JSON, which has no NaN or infinity: {error}")
            })?;
        }
        Ok(encoded)
    }

    fn decode(&self, bytes: &[u8]) -> Result<T, CodecError> {
        Ok(serde_json::from_slice(bytes)?)
    }
}

/// `MessagePack` by serde, with field names: smaller and faster than JSON, and as tolerant of added fields.
#[cfg(feature = "msgpack")]
#[derive(Clone, Copy, Debug, Default)]
pub struct MessagePack;

#[cfg(feature = "msgpack")]
impl<T: Serialize + DeserializeOwned> Codec<T> for MessagePack {
    fn encode(&self, value: &T) -> Result<Vec<u8>, CodecError> {
        Ok(rmp_serde::to_vec_named(value)?)
    }

    fn decode(&self, bytes: &[u8]) -> Result<T, CodecError> {
        Ok(rmp_serde::from_slice(bytes)?)
    }
}

/// Bytes as they are: `Vec<u8>`, `Arc<[u8]>`, `String`, and every other type that converts from bytes and lends them.
#[derive(Clone, Copy, Debug, Default)]
pub struct Bytes;

impl<T: AsRef<[u8]> + TryFrom<Vec<u8>, Error: Into<CodecError>>> Codec<T> for Bytes {
    fn encode(&self, value: &T) -> Result<Vec<u8>, CodecError> {
        Ok(value.as_ref().to_vec())
    }

    fn decode(&self, bytes: &[u8]) -> Result<T, CodecError> {
        bytes.to_vec().try_into().map_err(Into::into)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nan_and_infinity_are_refused_when_encoding_json() {
        for odd in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
            assert!(Json.encode(&odd).is_err(), "{odd}");
            assert!(Json.encode(&vec![Some(1.0), Some(2.0)]).is_ok());
            assert!(
                Json.encode(&[("a", vec![odd])].map(|(k, v)| (k.to_owned(), v)).to_vec())
                    .is_err()
            );
        }
        assert!(Json.encode(&None::<f64>).is_ok());
        assert!(Json.encode(&"null".to_owned()).is_ok());
        assert!(Json.encode(&serde_json::json!({"a": null})).is_ok());
    }
}
