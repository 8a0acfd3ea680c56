//! The effect of each operation on the model, and its possible replies.

use tagcache_tests::Reply;
use tagcache_tests::fetch::fetched;

use crate::WRONGTYPE;
use crate::model::{Database, Entry, Key, State};
use crate::natively::native;
use crate::operation::{Condition, DATABASES, Dumped, Operation, Time};

/// All databases, the selected one, and payloads for later.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) databases: Vec<Database>,
    pub(crate) selected: usize,
    pub(crate) dumps: Vec<Dumped>,
}

pub(crate) fn refused(reply: &Reply, words: &str) -> bool {
    // A script adds the place of the error.
    reply.error().is_some_and(|error| error.starts_with(words))
}

impl World {
    pub(crate) fn new() -> Self {
        let databases = (0..DATABASES).map(|_| Database::new()).collect();
        Self {
            databases,
            selected: 0,
            dumps: Vec::new(),
        }
    }

    pub(crate) fn database(&mut self) -> &mut Database {
        &mut self.databases[self.selected]
    }

    /// Compares the reply with the model, and applies the operation to the model.
    pub(crate) fn apply(&mut self, operation: &Operation, reply: &Reply) {
        let right = self.try_apply(operation, reply);
        assert!(
            right,
            "db {}: {operation:?} must not answer {reply:?}",
            self.selected
        );
    }

    fn try_apply(&mut self, operation: &Operation, reply: &Reply) -> bool {
        self.databases
            .iter_mut()
            .for_each(|database| database.now += 1);
        match operation {
            Operation::Select(database) => self.selected = *database,
            Operation::SwapDb(a, b) => self.databases.swap(*a, *b),
            Operation::FlushAll(_) => self.databases.iter_mut().for_each(Database::flush),
            Operation::Reload => {}
            Operation::FlushDb(_) => self.database().flush(),
            Operation::Copy { .. } | Operation::Move(..) => {
                return self.between_databases(operation, reply);
            }
            Operation::Dump(key) => return self.dump(key, reply),
            Operation::Restore { key, dump, replace } => {
                return self.restore(key, dump, *replace, reply);
            }
            Operation::Inspect(key) => {
                self.inspect(key, reply);
                return true;
            }
            _ => return in_database(self.database(), operation, reply),
        }
        *reply == Reply::ok()
    }

    fn between_databases(&mut self, operation: &Operation, reply: &Reply) -> bool {
        let (from, to, database, replace, moves) = match operation {
            Operation::Copy {
                from,
                to,
                database,
                replace,
            } => {
                let database = database.unwrap_or(self.selected);
                (from, to, database, *replace, false)
            }
            Operation::Move(key, database) => (key, key, *database, false, true),
            _ => unreachable!("only these two reach here"),
        };
        if database == self.selected && from == to {
            return refused(reply, "ERR source and destination objects are the same");
        }
        let source = self.database();
        let (value, gone) = (source.keys.get(from).cloned(), source.unsure(from));
        let target = &self.databases[database];
        let occupied = target.keys.contains_key(to) && !replace;
        let done = *reply == Reply::Int(1);
        let right = match (&value, occupied) {
            (Some(_), false) if target.unsure(to) && !replace => done || *reply == Reply::Int(0),
            (Some(_), false) => done,
            (_, true) => *reply == Reply::Int(0) || gone && reply.is_error(),
            (None, false) if gone => done || *reply == Reply::Int(0) || reply.is_error(),
            (None, false) => *reply == Reply::Int(0),
        };
        if !right || !done {
            return right;
        }
        if moves {
            self.database().remove(from);
        }
        match value {
            Some(Key::Entry(entry)) => {
                let hits = if moves { entry.hits } else { None };
                let (entry, target) = (Entry { hits, ..entry }, &mut self.databases[database]);
                if database == self.selected {
                    target.put(to, Key::Entry(entry));
                } else {
                    target.arrive(to, entry);
                }
            }
            Some(other) => self.databases[database].put(to, other),
            None => self.databases[database].lose(to),
        }
        true
    }

    fn dump(&mut self, key: &[u8], reply: &Reply) -> bool {
        let database = self.database();
        let (entry, other, gone) = (
            database.entry(key).cloned(),
            database.other(key),
            database.unsure(key),
        );
        if let (Reply::Bulk(payload), None) = (reply, other) {
            self.dumps.push(Dumped {
                payload: payload.clone(),
                entry: entry.clone(),
            });
            if self.dumps.len() > 50 {
                self.dumps.remove(0);
            }
        }
        let is_bulk = matches!(reply, Reply::Bulk(_));
        if entry.is_some() || other.is_some() {
            is_bulk
        } else {
            reply.is_null() || gone && is_bulk
        }
    }

    fn restore(&mut self, key: &[u8], dump: &Dumped, replace: bool, reply: &Reply) -> bool {
        let database = self.database();
        let busy = refused(reply, "BUSYKEY");
        if !replace && database.keys.contains_key(key) {
            return busy;
        }
        if *reply != Reply::ok() {
            return busy && !replace && database.unsure(key);
        }
        let Some(entry) = &dump.entry else {
            database.lose(key);
            return true;
        };
        let entry = Entry {
            expires: Some(false),
            ..entry.clone()
        };
        database.arrive(key, entry);
        true
    }

    fn inspect(&mut self, key: &[u8], reply: &Reply) {
        let at = format!("db {}", self.selected);
        self.database().check_inspected(key, reply, &at);
    }
}

/// Operations of one database.
fn in_database(database: &mut Database, operation: &Operation, reply: &Reply) -> bool {
    match operation {
        Operation::Set {
            key,
            entry,
            time,
            condition,
        } => set(database, key, entry, *time, *condition, reply),
        Operation::Get(key) if database.other(key).is_some() => refused(reply, WRONGTYPE),
        Operation::Get(key) => read(database, key) == *reply,
        Operation::Mget(keys) => {
            let values = keys.iter().map(|key| read(database, key)).collect();
            Reply::Array(values) == *reply
        }
        Operation::Fetch(key) if database.other(key).is_some() => refused(reply, WRONGTYPE),
        Operation::Fetch(key) => fetch(database, key, reply),
        Operation::CacheDel(keys) => {
            if keys.iter().any(|key| database.other(key).is_some()) {
                return refused(reply, WRONGTYPE);
            }
            let removed = keys
                .iter()
                .filter(|key| database.keys.remove(*key).is_some())
                .count();
            *reply == Reply::Int(removed as i64)
        }
        Operation::Touch(key, _) if database.other(key).is_some() => refused(reply, WRONGTYPE),
        Operation::Touch(key, time) => {
            let known = i64::from(database.entry(key).is_some());
            if *time == Time::Past {
                database.expire(key);
            } else if let Some(entry) = database.entry_mut(key) {
                entry.expires = Some(*time == Time::Far);
            }
            *reply == Reply::Int(known)
        }
        // An expired entry counts until the server removes it.
        Operation::Invalidate(tags) => {
            let expired = database.expired.len() as i64;
            let dropped = database.invalidate(tags);
            counted(operation, reply, dropped, expired * tags.len() as i64)
        }
        Operation::Revalidate(tags) => {
            let expired = database.expired.len() as i64;
            let dropped = database.revalidate(tags);
            counted(operation, reply, dropped, expired * tags.len() as i64)
        }
        Operation::InvalidateWhere(what) => {
            let expired = database.expired.len() as i64;
            let dropped = database.invalidate_where(what);
            counted(operation, reply, dropped, expired)
        }
        Operation::CacheFlush => {
            let expired = database.expired.len() as i64;
            let flushed = database.flush_entries();
            counted(operation, reply, flushed, expired)
        }
        _ => native(database, operation, reply),
    }
}

/// Whether the reply is this number, or up to `more` above it.
fn counted(operation: &Operation, reply: &Reply, least: i64, more: i64) -> bool {
    let most = least + more;
    let right = matches!(reply, Reply::Int(n) if (least..=most).contains(n));
    assert!(
        right,
        "{operation:?}: {reply:?}, expected {least} to {most}"
    );
    right
}

fn fetch(database: &mut Database, key: &[u8], reply: &Reply) -> bool {
    let answer = fetched(reply);
    let Some(entry) = database.entry_mut(key) else {
        return answer.is_miss();
    };
    if entry.state == State::Fresh {
        entry.hits = entry.hits.map(|hits| hits + 1);
        let right = entry
            .expires
            .is_none_or(|expires| expires == (answer.pttl >= 0));
        return right && answer.is_hit(&entry.value) && answer.tags == entry.tags;
    }
    // The contract does not define whether serving a stale value counts as a hit.
    entry.hits = None;
    answer.is_stale(&entry.value) && answer.token == 0 && answer.tags == entry.tags
}

fn read(database: &mut Database, key: &[u8]) -> Reply {
    let fresh = database
        .entry_mut(key)
        .filter(|entry| entry.state != State::Stale);
    fresh.map_or(Reply::Null, |entry| {
        entry.hits = entry.hits.map(|hits| hits + 1);
        Reply::bulk(&entry.value)
    })
}

fn set(
    database: &mut Database,
    key: &[u8],
    entry: &Entry,
    time: Time,
    condition: Condition,
    reply: &Reply,
) -> bool {
    if database.other(key).is_some() {
        return refused(reply, WRONGTYPE);
    }
    let old = database.entry(key);
    let met = match condition {
        Condition::Always => true,
        Condition::Absent => old.is_none_or(|old| old.state == State::Stale),
        Condition::Present => old.is_some_and(|old| old.state == State::Fresh),
    };
    if !met {
        return reply.is_null();
    }
    let hits = old.map_or(Some(0), |old| old.hits);
    let expires = match time {
        Time::Keep => old.map_or(Some(false), |old| old.expires),
        _ => Some(time == Time::Far),
    };
    // Without its own grace, the new value keeps the old one's grace together with its time.
    let grace = entry.grace || time == Time::Keep && old.is_some_and(|old| old.grace);
    let written = database.now;
    if time == Time::Past {
        database.remove(key);
        database.expired.insert(key.to_vec());
    } else {
        database.put(
            key,
            Key::Entry(Entry {
                expires,
                grace,
                hits,
                written,
                ..entry.clone()
            }),
        );
    }
    *reply == Reply::ok()
}
