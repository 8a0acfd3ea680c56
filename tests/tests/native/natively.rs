//! The effect of native commands on the model.

use tagcache_tests::Reply;

use crate::WRONGTYPE;
use crate::model::{Database, Key};
use crate::operation::{Operation, Time};
use crate::world::refused;

/// Compares the reply of a native command with the model, and applies the command to the model.
pub(crate) fn native(database: &mut Database, operation: &Operation, reply: &Reply) -> bool {
    let int = |n: i64| *reply == Reply::Int(n);
    match operation {
        Operation::Del(_, key) => {
            let (known, unsure) = (database.keys.contains_key(key), database.unsure(key));
            database.remove(key);
            int(i64::from(known)) || unsure && int(1)
        }
        Operation::Expire(key, time) => {
            let (known, unsure) = (database.keys.contains_key(key), database.unsure(key));
            if *time == Time::Past {
                database.keys.remove(key);
            } else if let Some(entry) = database.entry_mut(key) {
                entry.expires = Some(true);
            }
            int(i64::from(known)) || unsure && int(1)
        }
        Operation::Persist(key) => {
            if database.unsure(key) || database.other(key).is_some() {
                return int(0) || int(1);
            }
            let Some(entry) = database.entry_mut(key) else {
                return int(0);
            };
            match entry.expires.replace(false) {
                Some(expired) => int(i64::from(expired)),
                None => int(0) || int(1),
            }
        }
        Operation::Rename(from, to) => {
            let done = *reply == Reply::ok();
            let known = database.keys.contains_key(from);
            let right = if known {
                done
            } else {
                refused(reply, "ERR no such key") || done && database.unsure(from)
            };
            if right && done {
                rename(database, from, to);
            }
            right
        }
        Operation::RenameNx(from, to) => {
            let done = int(1);
            let (known, gone) = (database.keys.contains_key(from), database.unsure(from));
            let occupied = database.keys.contains_key(to);
            let no_source = refused(reply, "ERR no such key");
            let right = match (known, occupied) {
                (true, true) => int(0),
                (true, false) => done || int(0) && database.unsure(to),
                (false, true) => no_source || gone && int(0),
                (false, false) => no_source || gone && (done || int(0)),
            };
            if right && done {
                rename(database, from, to);
            }
            right
        }
        Operation::NativeSet(key) => {
            database.put(key, Key::Other("string"));
            *reply == Reply::ok()
        }
        Operation::SetNx(key) => {
            let (known, unsure) = (database.keys.contains_key(key), database.unsure(key));
            if int(1) {
                database.put(key, Key::Other("string"));
                return !known;
            }
            int(0) && (known || unsure)
        }
        Operation::Lpush(key) => {
            let pushed = matches!(reply, Reply::Int(1..));
            match database.keys.get(key) {
                Some(Key::Other("list")) => pushed,
                Some(_) => refused(reply, WRONGTYPE),
                None if pushed => {
                    database.put(key, Key::Other("list"));
                    true
                }
                None => database.unsure(key) && refused(reply, WRONGTYPE),
            }
        }
        Operation::Sunionstore(key) => {
            database.remove(key);
            if int(1) {
                database.put(key, Key::Other("set"));
            }
            // The seed is gone once its database was flushed.
            int(1) || int(0)
        }
        Operation::GetDel(key) => match database.keys.get(key) {
            Some(Key::Other("string")) => {
                database.remove(key);
                *reply == Reply::bulk("native")
            }
            Some(_) => refused(reply, WRONGTYPE),
            None => reply.is_null() || database.unsure(key) && refused(reply, WRONGTYPE),
        },
        _ => unreachable!("{operation:?} is not of one database"),
    }
}

fn rename(database: &mut Database, from: &[u8], to: &[u8]) {
    if from == to {
        return;
    }
    match database.remove(from) {
        Some(value) => database.put(to, value),
        None => database.lose(to),
    }
}
