//! The crate's own local tiers, as the monitor sees them.

use super::figures::{LocalFigures, LocalTier};
use crate::local::{EntryInfo, LocalCache};

/// Entries that are searched for the most read ones: a bound on the cost of listing them.
const LOOKED_AT: usize = 1000;

impl<V: ?Sized + Send + Sync + 'static> LocalTier for LocalCache<V> {
    fn figures(&self) -> LocalFigures {
        let stats = self.stats();
        LocalFigures {
            entries: stats.entries as u64,
            bytes: Some(stats.bytes),
            hits: stats.hits,
            misses: stats.misses,
            server_hits: None,
            evictions: stats.evictions,
            invalidated: stats.invalidated,
            longest_cleanup_us: Some(stats.longest_cleanup.as_micros() as u64),
        }
    }

    fn entries(&self, limit: usize) -> Vec<EntryInfo> {
        let mut found = self.entries(LOOKED_AT.max(limit));
        found.sort_by(|a, b| b.hits.cmp(&a.hits).then_with(|| a.key.cmp(&b.key)));
        found.truncate(limit);
        found
    }

    fn drop_all(&self) {
        self.invalidate_all();
    }

    fn drop_tagged(&self, tags: &[String]) {
        self.invalidate_tags(tags);
    }
}

/// The local tier in front of the servers. Tags are the servers' names, with the namespace.
#[cfg(feature = "remote")]
impl<C: Send + Sync + 'static> LocalTier for crate::Cache<C> {
    fn figures(&self) -> LocalFigures {
        let stats = self.stats();
        let hits = stats.server_hits + stats.negative_hits + stats.stale_served;
        LocalFigures {
            server_hits: Some(hits),
            ..self.local().figures()
        }
    }

    fn entries(&self, limit: usize) -> Vec<EntryInfo> {
        LocalTier::entries(self.local(), limit)
    }

    fn drop_all(&self) {
        self.local().drop_all();
    }

    fn drop_tagged(&self, tags: &[String]) {
        self.local().drop_tagged(tags);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn local_cache_reports_figures_and_can_be_cleared() {
        let cache = LocalCache::new(100);
        cache.set("a", 1, Duration::from_secs(60), ["red"]);
        cache.set("b", 2, Duration::from_secs(60), ["blue"]);
        cache.get("b");
        cache.get("none");
        let tier: &dyn LocalTier = &cache;
        let figures = tier.figures();
        assert_eq!((figures.entries, figures.hits, figures.misses), (2, 1, 1));
        let entries = tier.entries(1);
        assert_eq!((entries[0].key.as_str(), entries.len()), ("b", 1));
        assert_eq!(entries[0].tags, ["blue"]);
        tier.drop_tagged(&["red".to_owned(), "none".to_owned()]);
        assert_eq!(
            (cache.get("a"), cache.get("b").as_deref()),
            (None, Some(&2))
        );
        tier.drop_all();
        assert_eq!(cache.get("b"), None);
    }
}
