//! Periodic tasks of a cache: they report hits to the server and counts to the `metrics` facade, and sweep expired
//! entries out of the local tier.

use std::sync::{Arc, Weak};
use std::time::Duration;

use crate::local::LocalCache;
use crate::remote::command;

use super::core::Core;
use super::portions::portions;

/// The most entries whose hits are reported at a time; the others wait for the next time.
const MAX_REPORTED: usize = 10_000;
const BATCH: usize = 500;
/// Keys in flight at a time.
const PORTION: usize = 2000;
/// Bytes of a key's report besides the key.
const HEAD: usize = 32;
const SWEEP: Duration = Duration::from_secs(30);
#[cfg(feature = "metrics")]
const PUBLISH: Duration = Duration::from_secs(1);

/// Starts the tasks; they end with the last clone of the cache.
pub(crate) fn start(core: &Arc<Core>) {
    let (hits, weak) = (core.options.hits_interval, || Arc::downgrade(core));
    if !hits.is_zero() {
        tokio::spawn(every(hits, weak(), async |core| {
            _ = report_hits(&core).await;
        }));
    }
    tokio::spawn(every(SWEEP, weak(), async |core| sweep(&core.local).await));
    #[cfg(feature = "metrics")]
    tokio::spawn(every(PUBLISH, weak(), async |core| publish(&core)));
}

async fn every<F: Future<Output = ()>>(
    interval: Duration,
    core: Weak<Core>,
    act: impl Fn(Arc<Core>) -> F,
) {
    loop {
        tokio::time::sleep(interval).await;
        let Some(core) = core.upgrade() else { return };
        act(core).await;
    }
}

/// Sweeps on a blocking thread, to hold up no other task: a million entries take half a second, and dropping a value
/// runs code of the application.
async fn sweep<V: ?Sized + Send + Sync + 'static>(cache: &LocalCache<V>) {
    let cache = cache.clone();
    // It fails only if a value's Drop panics, and that panic has been reported.
    let _ = tokio::task::spawn_blocking(move || cache.run_cleanup()).await;
}

/// Reports the hits of some entries; returns how many entries.
pub(crate) async fn report_hits(core: &Core) -> usize {
    let hits = core.local.take_hits(MAX_REPORTED);
    let named: Vec<(String, u64)> = hits
        .into_iter()
        .map(|(key, hits)| (core.name(&key), hits))
        .collect();
    // In a cluster the keys of one command must share a slot.
    let batch = if core.remote.is_cluster() { 1 } else { BATCH };
    for portion in portions(&named, PORTION, |(key, _)| key.len() + HEAD) {
        let commands = portion.chunks(batch).map(|counts| {
            let counts_of = counts.iter().map(|(key, hits)| (key.as_str(), *hits));
            (counts[0].0.as_str(), command::hits(counts_of))
        });
        let answers = core.remote.send_each(commands.collect()).await;
        for (counts, answer) in portion.chunks(batch).zip(answers) {
            let sum = counts.iter().map(|(_, hits)| hits).sum();
            match answer {
                Ok(_) => core.counters.hits_reported.add(sum),
                Err(_) => core.counters.hits_unreported.add(sum),
            }
        }
    }
    named.len()
}

#[cfg(feature = "metrics")]
fn publish(core: &Core) {
    let namespace = core.options.prefix.strip_suffix(':');
    let name = core.options.name.as_deref().or(namespace);
    let name = name.unwrap_or_default();
    let stats = core.stats();
    for (counter, _, count) in stats.counts() {
        let counter = format!("tagcache_client_{counter}_total");
        metrics::counter!(counter, "cache" => name.to_owned()).absolute(count);
    }
    let local = stats.local;
    for (counter, count) in [
        ("tagcache_local_hits_total", local.hits),
        ("tagcache_local_misses_total", local.misses),
        ("tagcache_local_evictions_total", local.evictions),
    ] {
        metrics::counter!(counter, "cache" => name.to_owned()).absolute(count);
    }
    metrics::gauge!("tagcache_local_entries", "cache" => name.to_owned()).set(local.entries as f64);
    metrics::gauge!("tagcache_local_bytes", "cache" => name.to_owned()).set(local.bytes as f64);
    for server in stats.servers {
        crate::observe::connected(&server.address, server.is_connected());
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::thread::{self, ThreadId};

    use super::*;

    #[tokio::test]
    async fn sweep_drops_values_on_another_thread() {
        struct Drops(Arc<Mutex<Option<ThreadId>>>);
        impl Drop for Drops {
            fn drop(&mut self) {
                *self.0.lock().unwrap() = Some(thread::current().id());
            }
        }
        let dropped_on = Arc::default();
        let cache = LocalCache::new(10);
        cache.set(
            "key",
            Drops(Arc::clone(&dropped_on)),
            Duration::MAX,
            ["tag"],
        );
        cache.invalidate_tag("tag");
        sweep(&cache).await;
        let dropped_on = dropped_on.lock().unwrap().expect("it is swept");
        assert_ne!(dropped_on, thread::current().id());
    }
}
