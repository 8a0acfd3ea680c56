//! The operations of one task of a process, and their records.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tagcache::{Cache, Entry, Error};
use tagcache_tests::Rng;

use super::{
    KEYS, PROCESSES, STOP, Slow, TAGS, Task, Without, key_name, number_of, tag_names, value_of,
};
use crate::log::{Event, Record, Span, Time, now};
use crate::naive::Naive;

pub(super) struct Worker {
    pub(super) task: Task,
    pub(super) cache: Cache<Slow>,
    pub(super) naive: Option<Naive>,
    pub(super) rng: Rng,
    pub(super) values: Arc<AtomicU64>,
    pub(super) records: Vec<Record>,
}

impl Worker {
    pub(super) async fn work(mut self) -> Vec<Record> {
        while !self.task.dir.join(STOP).exists() {
            self.step().await;
            // Leaves half of the machine to the servers.
            tokio::time::sleep(Duration::from_millis(3)).await;
        }
        self.records
    }

    /// Requests a key whose value has just expired, at the same moment as others do, repeatedly.
    pub(super) async fn load_expired_keys(mut self) -> Vec<Record> {
        const EVERY: Time = 250_000_000;
        // This many keys, so that a key comes again half a second after its end.
        const MET: Time = 8;
        const TTL: Duration = Duration::from_millis(1500);
        while !self.task.dir.join(STOP).exists() {
            let next = now() / EVERY + 1;
            tokio::time::sleep(Duration::from_nanos((next * EVERY).saturating_sub(now()))).await;
            self.load(KEYS as u32 + (next % MET) as u32, 1, TTL).await;
        }
        self.records
    }

    fn note(&mut self, start: Time, done: bool, event: Event) {
        let span = Span { start, end: now() };
        self.records.push(Record {
            process: self.task.number,
            span,
            done,
            event,
        });
    }

    fn key(&mut self, changes: bool) -> u32 {
        let late = matches!(self.task.without, Without::Haste | Without::Order);
        // Few keys, so that many reads are in flight while keys change.
        let keys = if late { KEYS / 4 } else { KEYS };
        if changes && late {
            // A process must drop changes of others only because it is notified: its own writes must not do that by
            // accident.
            let own = self.task.number as usize - 1;
            (self.rng.below(keys / PROCESSES as usize) * PROCESSES as usize + own) as u32
        } else {
            self.rng.below(keys) as u32
        }
    }

    async fn step(&mut self) {
        let late = matches!(self.task.without, Without::Haste | Without::Order);
        let act = if late && self.rng.one_in(12) {
            940 + self.rng.below(60)
        } else {
            self.rng.below(1000)
        };
        let tags =
            1 << self.rng.below(TAGS) | u32::from(self.rng.one_in(2)) << self.rng.below(TAGS);
        // Few values live briefly enough to expire in flight.
        let ttl = if self.rng.one_in(5) {
            Duration::from_millis(30 + self.rng.below(300) as u64)
        } else {
            Duration::from_secs(60)
        };
        match act {
            0..850 => self.read().await,
            850..940 if self.naive.is_none() => self.read_many().await,
            940..960 => self.write(tags, ttl).await,
            960..994 => {
                let key = self.key(true);
                self.load(key, tags, ttl).await;
            }
            994..997 => {
                let key = self.key(true);
                let start = now();
                let done = self.cache.remove(&key_name(key)).await.is_ok();
                self.note(start, done, Event::Remove { key });
            }
            997..999 => {
                let start = now();
                // No entry has a grace, so the soft form takes them away as well.
                let done = if self.rng.one_in(3) {
                    self.cache.revalidate_tags(tag_names(tags)).await.is_ok()
                } else {
                    self.cache.invalidate_tags(tag_names(tags)).await.is_ok()
                };
                self.note(start, done, Event::Invalidate { tags });
            }
            _ if self.rng.one_in(50) => {
                let start = now();
                let done = self.cache.clear().await.is_ok();
                self.note(start, done, Event::Flush);
            }
            _ => {}
        }
    }

    async fn read(&mut self) {
        let key = self.key(false);
        let start = now();
        let read: Result<Option<String>, Error> = match &self.naive {
            Some(naive) => Ok(naive.get(&key_name(key)).await),
            None => self.cache.get(&key_name(key)).await,
        };
        self.note_read(start, key, read);
    }

    fn note_read(&mut self, start: Time, key: u32, read: Result<Option<String>, Error>) {
        let done = read.is_ok();
        let value = read.ok().flatten().as_deref().map(number_of);
        let event = Event::Read {
            key,
            value,
            loading: false,
        };
        self.note(start, done, event);
    }

    async fn read_many(&mut self) {
        let keys: Vec<u32> = (0..5).map(|_| self.key(false)).collect();
        let names: Vec<String> = keys.iter().map(|key| key_name(*key)).collect();
        let start = now();
        let read: Result<Vec<Option<String>>, Error> = self.cache.get_many(names).await;
        match read {
            Ok(values) => {
                for (key, value) in keys.into_iter().zip(values) {
                    self.note_read(start, key, Ok(value));
                }
            }
            Err(error) => self.note_read(start, keys[0], Err(error)),
        }
    }

    async fn write(&mut self, tags: u32, ttl: Duration) {
        let key = self.key(true);
        let value = self.values.fetch_add(1, Ordering::SeqCst);
        let entry = Entry::ttl(ttl).tags(tag_names(tags));
        let start = now();
        let done = self
            .cache
            .set(&key_name(key), &value_of(value), entry)
            .await
            .is_ok();
        let event = Event::Write {
            key,
            value,
            tags,
            ttl: ttl.as_nanos() as Time,
        };
        self.note(start, done, event);
    }

    async fn load(&mut self, key: u32, tags: u32, ttl: Duration) {
        let value = self.values.fetch_add(1, Ordering::SeqCst);
        let entry = Entry::ttl(ttl).tags(tag_names(tags));
        let ran = Arc::new(Mutex::new(0));
        let takes = self.load_takes();
        let loader = {
            let ran = Arc::clone(&ran);
            move || async move {
                *ran.lock().expect("nothing panics while it is held") = now();
                tokio::time::sleep(takes).await;
                Ok::<_, String>(value_of(value))
            }
        };
        let name = key_name(key);
        let (before, start) = (self.uncoordinated_events(), now());
        let loaded: Result<String, Error> = if self.task.without == Without::Leases {
            if let Ok(Some(found)) = self.cache.get(&name).await {
                Ok(found)
            } else {
                let loaded = loader().await.expect("a loader that does not fail");
                self.cache.set(&name, &loaded, entry).await.map(|()| loaded)
            }
        } else {
            self.cache.get_or_load(&name, entry, loader).await
        };
        let ran = *ran.lock().expect("nothing panics while it is held");
        let alone = self.uncoordinated_events() != before;
        let done = loaded.is_ok();
        if ran > 0 || !done {
            // Reads by others show whether this value was stored or refused. If it was stored, that was before this
            // ended.
            let event = Event::Load {
                key,
                value,
                tags,
                ttl: ttl.as_nanos() as Time,
                ran,
                alone,
            };
            self.note(start, done, event);
        }
        if let Ok(loaded) = loaded {
            let event = Event::Read {
                key,
                value: Some(number_of(&loaded)),
                loading: true,
            };
            self.note(start, true, event);
        }
    }

    /// Some loads take long enough for their tags to be invalidated meanwhile, a few long enough for their lease to be
    /// renewed, perhaps by a server that did not grant it.
    fn load_takes(&mut self) -> Duration {
        Duration::from_millis(if self.task.without == Without::Leases {
            300
        } else if self.rng.one_in(40) {
            550 + self.rng.below(1000) as u64
        } else if self.rng.one_in(8) {
            self.rng.below(150) as u64
        } else {
            2
        })
    }

    /// Counts of events that make a process load without knowing of others.
    fn uncoordinated_events(&self) -> u64 {
        let stats = self.cache.stats();
        stats.loads_unstored + stats.server_errors + stats.connections_lost + stats.set_failures
    }
}
