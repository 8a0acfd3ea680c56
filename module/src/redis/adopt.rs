//! Taking an entry into the index that came into the keyspace by other ways than CACHE.SET: an RDB load, RESTORE,
//! RENAME, MOVE, COPY. The server announces each by an event, after the key is there.

use super::barrier::log;
use super::context::{Context, Mode, now_ms};
use super::key::Kind;
use super::reclaim;
use super::sizes;
use super::state;
use super::string::{OwnedStr, Str};
use crate::entry::{NewEntry, Parts};

/// How an entry came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Arrival {
    /// From an RDB file.
    Loaded,
    /// By RESTORE, MIGRATE or a cluster moving its slot.
    Restored,
    /// Within this server: RENAME, MOVE, COPY.
    Moved,
}

/// An entry that arrives by RESTORE is refused if one of its tags was invalidated here so short a time ago: the
/// invalidation may have reached this node before the key did.
const ARRIVAL_GUARD_MS: u64 = 5_000;

/// Indexes the entry under this key, if it holds one that is not indexed yet.
pub(crate) fn adopt(ctx: &Context<'_>, name: Str<'_>, arrival: Arrival) {
    // A copy, because the "loaded" event passes a name that lies on the server's stack, and opening a key retains it.
    let name = OwnedStr::new(name.bytes());
    let name = name.as_str();
    let mut key = ctx.open(name, Mode::Upkeep);
    let Kind::Entry(entry) = key.kind() else {
        return;
    };
    if entry.slot().is_some() {
        return;
    }
    let Some(db) = key.db() else { return };
    let tags: Option<Vec<Vec<u8>>> = if entry.is_marked_gone() {
        None
    } else if let Some(tags) = entry.carried_tags() {
        Some(tags.into_iter().map(<[u8]>::to_vec).collect())
    } else {
        // RENAME and MOVE: the object that `unlink` has just seen.
        state::with(|state| {
            let parked = &state.parked;
            (parked.entry == Some(entry.handle())).then(|| parked.tags())
        })
    };
    let Some(tags) = tags else {
        if !entry.is_marked_gone() {
            log(
                c"warning",
                "an entry arrived without its tags; it is dropped, since no invalidation would reach it",
            );
        }
        key.delete();
        return;
    };

    // The key's name is part of the entry, so it is built anew.
    let deadline = key.deadline_ms();
    let hits = entry.carried_hits();
    let parts = Parts {
        key: name.bytes(),
        value: entry.value(),
        created_ms: entry.created_ms(),
        has_ttl: deadline.is_some(),
    };
    let adopted = NewEntry::new(parts);
    let entry = adopted.as_entry();
    let bytes = sizes::cost(entry);
    let too_late = arrival == Arrival::Restored && is_refused(ctx, db, name, &tags);
    state::with(|state| {
        // Where an entry of this name was a moment ago (RENAME, COPY, RESTORE over it), a scan of a tag that both carry
        // must not miss it: it goes to the same place, or above.
        let place = state.parked.vacated(db, name.bytes());
        let index = &mut state.database(db).index;
        let slot = if too_late {
            index.insert_gone(entry.handle(), bytes)
        } else {
            let tags: Vec<&[u8]> = tags.iter().map(Vec::as_slice).collect();
            index.insert_near(place, entry.handle(), &tags, bytes, hits)
        };
        entry.set_indexed(slot.0);
        state.parked.clear();
    });
    key.replace(adopted);
    drop(key);
    if too_late {
        reclaim::arm(ctx);
    }
}

/// Whether an entry that arrives by RESTORE came too late. A primary decides, and says so in front of the RESTORE; its
/// replicas, and a log that is being loaded, do as it said, whatever their own clocks say.
fn is_refused(ctx: &Context<'_>, db: u32, name: Str<'_>, tags: &[Vec<u8>]) -> bool {
    if ctx.is_replica() || ctx.is_loading() {
        let refused = state::with(|state| state.refused.take());
        return refused.is_some_and(|(refused_db, key)| refused_db == db && key == name.bytes());
    }
    let too_late = invalidated_lately(db, tags);
    if too_late {
        let word = OwnedStr::new(b"REFUSE");
        ctx.replicate(c"CACHE.REPLAY", &[word.as_str(), name]);
    }
    too_late
}

fn invalidated_lately(db: u32, tags: &[Vec<u8>]) -> bool {
    let now = now_ms();
    state::with(|state| {
        let index = &state.database(db).index;
        tags.iter().any(|tag| {
            index.tag_info(tag).is_some_and(|info| {
                info.last_invalidated_ms > 0 && info.last_invalidated_ms + ARRIVAL_GUARD_MS > now
            })
        })
    })
}
