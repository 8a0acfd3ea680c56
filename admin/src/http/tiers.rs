//! The application's own two-tier cache behind the endpoint: a change there takes effect on all its servers.

use std::pin::Pin;

use serde_json::{Value, json};

use tagcache::Error;
use tagcache::{Cache, CacheStats};

type Dropped<'a> = Pin<Box<dyn Future<Output = Result<u64, Error>> + Send + 'a>>;

/// Whether an invalidation removes entries or makes them stale.
#[derive(Clone, Copy)]
pub(super) enum Invalidation {
    /// No value.
    Hard,
    /// A stale value, for the entry's grace.
    Soft,
}

/// A [`Cache`] with any codec.
pub(super) trait TwoTiers: Send + Sync {
    fn clear(&self) -> Dropped<'_>;
    /// Invalidates tags by their names on the servers.
    fn invalidate<'a>(&'a self, kind: Invalidation, names: &'a [String]) -> Dropped<'a>;
    fn stats(&self) -> CacheStats;
}

impl<C: Send + Sync + 'static> TwoTiers for Cache<C> {
    fn clear(&self) -> Dropped<'_> {
        Box::pin(self.clear())
    }

    fn invalidate<'a>(&'a self, kind: Invalidation, names: &'a [String]) -> Dropped<'a> {
        match kind {
            Invalidation::Hard => Box::pin(self.invalidate_server_tags(names)),
            Invalidation::Soft => Box::pin(self.revalidate_server_tags(names)),
        }
    }

    fn stats(&self) -> CacheStats {
        self.stats()
    }
}

/// The cache's counts and the state of its servers, for `raw`.
pub(super) fn figures(stats: &CacheStats) -> Value {
    let counts: serde_json::Map<String, Value> = stats
        .counts()
        .into_iter()
        .map(|(name, _, count)| (camel_case(name), count.into()))
        .collect();
    let servers: Vec<Value> = stats
        .servers
        .iter()
        .map(|server| {
            json!({
                "address": server.address,
                "state": camel_case(&format!("{:?}", server.state)),
                "connected": server.is_connected(),
                "seconds": server.since.as_secs_f64(),
                "connects": server.connects,
                "moduleVersion": server.module_version,
                "missedInvalidations": server.missed_invalidations,
                "lastError": server.last_error.as_ref().map(ToString::to_string),
            })
        })
        .collect();
    json!({"counts": counts, "servers": servers})
}

/// Converts `lease_waits` and `ReadOnly` to the form of JSON's fields.
fn camel_case(name: &str) -> String {
    let mut words = name.split('_');
    let first = words.next().unwrap_or_default();
    let mut camel = first[..1].to_ascii_lowercase() + &first[1..];
    for word in words {
        camel += &word[..1].to_ascii_uppercase();
        camel += &word[1..];
    }
    camel
}
