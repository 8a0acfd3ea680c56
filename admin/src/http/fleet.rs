//! Every instance publishes its figures into the server, as an entry with a tag and a TTL: the dashboard and
//! `redis-cli` show all of them, and an instance that ended disappears by itself.
//!
//! ```text
//! CACHE.TAGSCAN tagcache:instances 0
//! CACHE.GET tagcache:instance:web-1
//! ```

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use redis::RedisResult;
use serde::{Deserialize, Deserializer, Serialize};

use crate::memory::{Event, MemoryMonitor, Server, Snapshot, Status};

/// The tag of all instances' entries.
pub(super) const TAG: &str = "tagcache:instances";
/// The prefix of an instance's key.
pub(super) const KEY: &str = "tagcache:instance:";
/// At most this many instances are listed.
pub(super) const MAX_INSTANCES: usize = 1000;
/// Minimum time between two reports, however often samples are taken.
const SHORTEST: Duration = Duration::from_secs(5);
/// Minutes of history in a report.
const MINUTES: usize = 60;
const MINUTE: Duration = Duration::from_secs(60);

/// The report of one instance.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Instance {
    /// The instance's name.
    pub instance: String,
    /// The instance's state. A state that a later version added reads as a warning, because it may not be healthy.
    #[serde(deserialize_with = "known_status")]
    pub status: Status,
    /// Heap used in percent of its total.
    pub heap_percent: Option<f64>,
    /// Heap used, bytes.
    pub heap_used: Option<u64>,
    /// Resident memory, bytes.
    pub rss: Option<u64>,
    /// Whether the growth of its memory looks like a leak.
    #[serde(default)]
    pub leak_suspected: bool,
    /// Entries of its local tier.
    pub local_entries: Option<u64>,
    /// Reads that are hits in either tier, in percent.
    pub hit_rate: Option<f64>,
    /// Seconds since the instance started.
    #[serde(default)]
    pub uptime_seconds: f64,
    /// RFC 3339, UTC, by its own clock.
    #[serde(default)]
    pub at: String,
    /// Version of this crate.
    #[serde(default)]
    pub version: String,
    /// Heap used in percent over the last hour, one figure per minute, the latest last.
    #[serde(default)]
    pub recent: Vec<Option<f64>>,
}

fn known_status<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Status, D::Error> {
    let text = String::deserialize(deserializer)?;
    let known = [Status::Healthy, Status::Warning, Status::Critical];
    let status = known.into_iter().find(|status| status.as_str() == text);
    Ok(status.unwrap_or(Status::Warning))
}

/// Publishes an instance's figures; made by [`Fleet::join`].
#[derive(Debug)]
pub struct Fleet;

impl Fleet {
    /// Publishes the monitor's figures under this name from now on, at most every 5 s, for as long as the monitor runs.
    /// The entry lives for three intervals. If the server does not reply, the next sample tries again. Each instance
    /// needs a name of its own: if two share one, the list shows the one that published last.
    pub fn join(monitor: &MemoryMonitor, server: Server, instance: &str) {
        let interval = monitor.interval().max(SHORTEST);
        let instance = instance.to_owned();
        let mut recent = Recent::default();
        recent.add(monitor.snapshot().heap_percent());
        publish(&server, &instance, &monitor.snapshot(), &recent, interval);
        let published = Mutex::new((None::<Instant>, recent));
        monitor.on_event(move |event| {
            let Event::Sample(snapshot) = event else {
                return;
            };
            let mut published = published.lock().unwrap_or_else(PoisonError::into_inner);
            let (last, recent) = &mut *published;
            recent.add(snapshot.heap_percent());
            if last.is_none_or(|last| last.elapsed() >= interval) {
                *last = Some(Instant::now());
                publish(&server, &instance, snapshot, recent, interval);
            }
        });
    }

    /// All instances with a current report, by name.
    ///
    /// # Errors
    /// When the server does not reply or has no module.
    pub fn instances(server: &Server) -> RedisResult<Vec<Instance>> {
        instances(server)
    }
}

/// One figure per minute: the first sample of each minute.
#[derive(Default)]
struct Recent {
    figures: VecDeque<Option<f64>>,
    since: Option<Instant>,
}

impl Recent {
    fn add(&mut self, figure: Option<f64>) {
        if self.since.is_some_and(|since| since.elapsed() < MINUTE) {
            return;
        }
        self.since = Some(Instant::now());
        if self.figures.len() == MINUTES {
            self.figures.pop_front();
        }
        // Every request for the list reads all instances' figures, so they have no more digits than the page shows.
        let rounded = figure.map(|figure| (figure * 10.0).round() / 10.0);
        self.figures.push_back(rounded);
    }
}

fn publish(server: &Server, name: &str, snapshot: &Snapshot, recent: &Recent, interval: Duration) {
    let memory = &snapshot.latest.memory;
    let instance = Instance {
        instance: name.to_owned(),
        status: snapshot.status,
        heap_percent: snapshot.heap_percent(),
        heap_used: memory.heap_used,
        rss: memory.rss,
        leak_suspected: snapshot.leak_suspected,
        local_entries: snapshot.latest.local.map(|local| local.entries),
        hit_rate: snapshot.rates.hit_rate,
        uptime_seconds: snapshot.uptime.as_secs_f64(),
        at: humantime::format_rfc3339_millis(snapshot.latest.at).to_string(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        recent: recent.figures.iter().copied().collect(),
    };
    let Ok(value) = serde_json::to_vec(&instance) else {
        return;
    };
    let key = format!("{KEY}{name}");
    let ttl = (interval * 3).as_millis().to_string();
    let args: [&[u8]; 7] = [
        key.as_bytes(),
        &value,
        b"PX",
        ttl.as_bytes(),
        b"TAGS",
        b"1",
        TAG.as_bytes(),
    ];
    // If a report cannot be sent, the next sample sends one.
    let _ = server.command::<()>("CACHE.SET", &args);
}

pub(super) fn instances(server: &Server) -> RedisResult<Vec<Instance>> {
    let mut keys: Vec<Vec<u8>> = Vec::new();
    let mut cursor = b"0".to_vec();
    loop {
        let args: [&[u8]; 4] = [TAG.as_bytes(), &cursor, b"COUNT", b"100"];
        let (next, found): (Vec<u8>, Vec<Vec<u8>>) = server.command("CACHE.TAGSCAN", &args)?;
        keys.extend(found);
        cursor = next;
        if cursor == b"0" || keys.len() >= MAX_INSTANCES {
            break;
        }
    }
    // A scan may return a key twice.
    keys.sort_unstable();
    keys.dedup();
    keys.truncate(MAX_INSTANCES);
    if keys.is_empty() {
        return Ok(Vec::new());
    }
    let args: Vec<&[u8]> = keys.iter().map(Vec::as_slice).collect();
    let values: Vec<Option<Vec<u8>>> = server.command("CACHE.MGET", &args)?;
    server.forget_hits(values.iter().flatten().count() as u64);
    let parsed = values
        .into_iter()
        .flatten()
        .filter_map(|value| serde_json::from_slice(&value).ok());
    let mut instances: Vec<Instance> = parsed.collect();
    instances.sort_by(|a, b| a.instance.cmp(&b.instance));
    Ok(instances)
}
