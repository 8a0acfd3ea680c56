//! Values that are read from the environment or a file and never shown.

use std::fmt;
use std::path::PathBuf;

use serde::Deserialize;
use serde::de::{self, Deserializer, MapAccess, Visitor};

/// The source of a value: `{env: NAME}`, `{file: PATH}` or, if it is no secret, the value itself.
#[derive(Clone, PartialEq, Eq)]
pub(super) enum Place {
    Value(String),
    Env(String),
    File(PathBuf),
}

/// A value that no message, log or debug output shows.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Secret(String);

impl Secret {
    pub(super) fn new(value: impl Into<String>) -> Self {
        Self(value.into())
    }

    /// The value, for the code that sends it.
    pub(super) fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

impl Place {
    /// Reads the value without the line break at its end.
    pub(super) fn read(&self, env: &dyn Fn(&str) -> Option<String>) -> Result<Secret, String> {
        let value = match self {
            Self::Value(value) => value.clone(),
            Self::Env(name) => {
                env(name).ok_or_else(|| format!("environment variable {name} is not set"))?
            }
            Self::File(path) => std::fs::read_to_string(path)
                .map_err(|error| format!("{}: {error}", path.display()))?,
        };
        let value = value.trim_end_matches(['\n', '\r']);
        if value.is_empty() {
            return Err(format!("{self:?} is empty"));
        }
        Ok(Secret::new(value))
    }
}

/// Shows the source, not the value.
impl fmt::Debug for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Value(_) => f.write_str("a literal value"),
            Self::Env(name) => write!(f, "environment variable {name}"),
            Self::File(path) => write!(f, "file {}", path.display()),
        }
    }
}

impl<'de> Deserialize<'de> for Place {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct PlaceVisitor;

        impl<'de> Visitor<'de> for PlaceVisitor {
            type Value = Place;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a text, {env: NAME} or {file: PATH}")
            }

            fn visit_str<E: de::Error>(self, value: &str) -> Result<Place, E> {
                Ok(Place::Value(value.to_owned()))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Place, A::Error> {
                let place = match map.next_key::<String>()?.as_deref() {
                    Some("env") => Place::Env(map.next_value()?),
                    Some("file") => Place::File(map.next_value()?),
                    Some(other) => return Err(de::Error::unknown_field(other, &["env", "file"])),
                    None => return Err(de::Error::missing_field("env or file")),
                };
                if let Some(other) = map.next_key::<String>()? {
                    return Err(de::Error::custom(format!(
                        "`{other}` beside the place of the value"
                    )));
                }
                Ok(place)
            }
        }

        deserializer.deserialize_any(PlaceVisitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secret_is_read_from_environment_or_file_and_never_printed() {
        let env = |name: &str| (name == "KEY").then(|| "s3cr3t\n".to_owned());
        let secret = Place::Env("KEY".into()).read(&env).unwrap();
        assert_eq!(secret.expose(), "s3cr3t");
        assert!(!format!("{secret:?}").contains("s3cr3t"));

        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        std::fs::write(&path, "from-file\r\n").unwrap();
        assert_eq!(
            Place::File(path.clone()).read(&env).unwrap().expose(),
            "from-file"
        );
        std::fs::write(&path, "\n").unwrap();
        assert!(
            Place::File(path)
                .read(&env)
                .unwrap_err()
                .ends_with("is empty")
        );
        let missing = Place::Env("OTHER".into()).read(&env).unwrap_err();
        assert_eq!(missing, "environment variable OTHER is not set");
        assert!(!format!("{:?}", Place::Value("s3cr3t".into())).contains("s3cr3t"));
    }
}
