//! What a cache does on its own from time to time: hits go to the server, counts to the `metrics` facade, and what
//! has expired is swept out of the local tier.

use std::sync::{Arc, Weak};
use std::time::Duration;

use crate::remote::command;

use super::core::Core;

/// The most entries whose hits are reported at a time; the rest waits for the next time.
const MAX_REPORTED: usize = 10_000;
/// In one command.
const BATCH: usize = 500;
const SWEEP: Duration = Duration::from_secs(30);
#[cfg(feature = "metrics")]
const PUBLISH: Duration = Duration::from_secs(1);

/// Starts the tasks; they end with the last clone of the cache.
pub(crate) fn start(core: &Arc<Core>) {
    let hits_interval = core.options.hits_interval;
    if !hits_interval.is_zero() {
        tokio::spawn(every(
            hits_interval,
            Arc::downgrade(core),
            async |core: Arc<Core>| {
                report_hits(&core).await;
            },
        ));
    }
    tokio::spawn(every(
        SWEEP,
        Arc::downgrade(core),
        async |core: Arc<Core>| {
            core.coherence.tier().cache().run_cleanup();
        },
    ));
    #[cfg(feature = "metrics")]
    tokio::spawn(every(
        PUBLISH,
        Arc::downgrade(core),
        async |core: Arc<Core>| publish(&core),
    ));
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

/// Reports all hits that have not been.
pub(crate) async fn report_all_hits(core: &Core) {
    while !core.options.hits_interval.is_zero() && report_hits(core).await > 0 {}
}

/// Reports the hits of some entries: of how many.
async fn report_hits(core: &Core) -> usize {
    let hits = core.coherence.tier().cache().take_hits(MAX_REPORTED);
    let named: Vec<(String, u64)> = hits
        .into_iter()
        .map(|(key, hits)| (core.name(&key), hits))
        .collect();
    // In a cluster the keys of one command must share a slot.
    let batch = if core.remote.is_cluster() { 1 } else { BATCH };
    let commands = named.chunks(batch).map(|counts| {
        let counts = counts.iter().map(|(key, hits)| (key.as_str(), *hits));
        command::hits(counts)
    });
    let keys = named.chunks(batch).map(|counts| counts[0].0.as_str());
    let answers = core.remote.send_each(keys.zip(commands).collect()).await;
    for (counts, answer) in named.chunks(batch).zip(answers) {
        let sum = counts.iter().map(|(_, hits)| hits).sum();
        match answer {
            Ok(_) => core.counters.hits_reported.add(sum),
            Err(_) => core.counters.hits_unreported.add(sum),
        }
    }
    named.len()
}

#[cfg(feature = "metrics")]
fn publish(core: &Core) {
    core.counters
        .each(|name, count| metrics::counter!(name).absolute(count));
    let local = core.coherence.tier().cache().stats();
    metrics::counter!("tagcache_local_hits_total").absolute(local.hits);
    metrics::counter!("tagcache_local_misses_total").absolute(local.misses);
    metrics::counter!("tagcache_local_evictions_total").absolute(local.evictions);
    metrics::gauge!("tagcache_local_entries").set(local.entries as f64);
    metrics::gauge!("tagcache_local_bytes").set(local.bytes as f64);
    crate::observe::servers(&core.remote.status());
}
