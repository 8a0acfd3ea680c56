//! A server's own figures.

use std::collections::BTreeMap;

use redis::Value;

use crate::remote::Error;

/// The figures of `CACHE.STATS`, by the names of the command contract.
#[derive(Clone, Debug, PartialEq)]
pub struct ServerFigures(BTreeMap<String, f64>);

impl ServerFigures {
    pub(super) fn read(node: &str, answer: &Value) -> Result<Self, Error> {
        redis::from_redis_value_ref(answer)
            .map(Self)
            .map_err(|_| Error::unexpected(node, "CACHE.STATS", answer))
    }

    /// A figure, such as `entries` or `hit_rate`; `None` if the server's module does not have it.
    pub fn get(&self, name: &str) -> Option<f64> {
        self.0.get(name).copied()
    }

    /// All figures with their names, in the order of the names.
    pub fn iter(&self) -> impl Iterator<Item = (&str, f64)> {
        self.0.iter().map(|(name, figure)| (name.as_str(), *figure))
    }
}
