//! Taking an entry into the index that came into the keyspace by other ways than CACHE.SET: an RDB load, RESTORE,
//! RENAME, MOVE, COPY. The server announces each by an event, after the key is there.

use super::barrier::log;
use super::context::{Context, Mode, now_ms};
use super::key::Kind;
use super::reclaim;
use super::sizes;
use super::state::{self, Decision};
use super::string::{OwnedStr, Str};
use super::waiting;
use crate::engine::Incoming;
use crate::entry::{Carried, NewEntry, Parts};

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
    let carried: Option<Carried<Vec<u8>>> = if entry.is_marked_gone() {
        None
    } else if let Some(carried) = entry.carried() {
        Some(carried.to_owned())
    } else {
        // RENAME and MOVE: the object that `unlink` has just seen.
        state::with(|state| {
            let parked = &state.parked;
            (parked.entry == Some(entry.handle())).then(|| parked.carried())
        })
    };
    let Some(carried) = carried else {
        if !entry.is_marked_gone() {
            log(
                c"warning",
                "an entry arrived without its tags; it is dropped, since no invalidation would reach it",
            );
        }
        key.delete();
        return;
    };

    let decision = if arrival == Arrival::Restored {
        decision(ctx, db, name, &carried)
    } else {
        None
    };
    let soft_since_ms = match decision {
        Some(Decision::StaleSince(ms)) => Some(ms),
        _ => carried.soft_since_ms,
    };
    let is_gone = match decision {
        Some(Decision::Gone) => true,
        // Without a grace there is nothing between fresh and gone.
        _ => soft_since_ms.is_some() && entry.grace_ms() == 0,
    };

    // The key's name is part of the entry, so it is built anew.
    let adopted = NewEntry::new(Parts {
        key: name.bytes(),
        value: entry.value(),
        created_ms: entry.created_ms(),
        has_ttl: key.deadline_ms().is_some(),
        grace_ms: entry.grace_ms(),
    });
    let hits = entry.carried_hits();
    let entry = adopted.as_entry();
    let bytes = sizes::cost(entry);
    let tags: Vec<&[u8]> = carried.tags.iter().map(Vec::as_slice).collect();
    state::with(|state| {
        // Where an entry of this name was a moment ago (RENAME, COPY, RESTORE over it), a scan of a tag that both carry
        // must not miss it: it goes to the same place, or above.
        let place = state.parked.vacated(db, name.bytes());
        let index = &mut state.database(db).index;
        let slot = if is_gone {
            index.insert_gone(entry.handle(), bytes)
        } else {
            let incoming = Incoming {
                entry: entry.handle(),
                tags: &tags,
                bytes,
                hits,
                has_grace: entry.grace_ms() > 0,
                soft_since_ms,
            };
            index.insert_near(place, incoming)
        };
        entry.set_indexed(slot.0);
        state.parked.clear();
    });
    key.replace(adopted);
    drop(key);
    waiting::written(ctx, db, name);
    if is_gone || soft_since_ms.is_some() {
        reclaim::arm(ctx);
    }
}

/// What becomes of an entry that arrives by RESTORE, if one of its tags was invalidated just before. A primary decides,
/// and says so in front of the RESTORE; its replicas, and a log that is being loaded, do as it said, whatever their own
/// clocks say.
fn decision(
    ctx: &Context<'_>,
    db: u32,
    name: Str<'_>,
    carried: &Carried<Vec<u8>>,
) -> Option<Decision> {
    if ctx.is_replica() || ctx.is_loading() {
        let (decided_db, key, decision) = state::with(|state| state.decided.take())?;
        return (decided_db == db && key == name.bytes()).then_some(decision);
    }
    let decision = decide(db, carried)?;
    let mut words = vec![OwnedStr::new(b"REFUSE"), OwnedStr::new(name.bytes())];
    if let Decision::StaleSince(ms) = decision {
        words.push(OwnedStr::from_number(ms as i64));
    }
    let parts: Vec<Str<'_>> = words.iter().map(OwnedStr::as_str).collect();
    ctx.replicate(c"CACHE.REPLAY", &parts);
    Some(decision)
}

fn decide(db: u32, carried: &Carried<Vec<u8>>) -> Option<Decision> {
    let now = now_ms();
    let is_recent = |ms: u64| ms > 0 && ms + ARRIVAL_GUARD_MS > now;
    let tags = carried.tags.iter().map(Vec::as_slice);
    let (hard_ms, soft_ms) =
        state::with(|state| state.database(db).index.last_invalidated_ms(tags));
    if is_recent(hard_ms) {
        Some(Decision::Gone)
    } else if is_recent(soft_ms) && carried.soft_since_ms.is_none() {
        Some(Decision::StaleSince(soft_ms))
    } else {
        // What is stale already was so before, or because of the same invalidation.
        None
    }
}
