//! One file a command, or a small family: its doc comment is its reference.

pub(crate) mod del;
pub(crate) mod fetch;
pub(crate) mod flush;
pub(crate) mod get;
pub(crate) mod hits;
pub(crate) mod inspect;
pub(crate) mod invalidate;
pub(crate) mod invalidatewhere;
#[cfg(feature = "panic-on-demand")]
pub(crate) mod panic;
pub(crate) mod replay;
pub(crate) mod set;
pub(crate) mod stats;
pub(crate) mod taginfo;
pub(crate) mod tagscan;
pub(crate) mod tagtop;
pub(crate) mod top;
pub(crate) mod touch;

use crate::engine::{Database, Index, Slot};
use crate::entry::{Entry, Handle};
use crate::redis::Key;
use crate::redis::state::entry_in;

/// The slot of an entry that was not hard-invalidated; `None` if it is gone.
///
/// An entry that is not indexed is gone as well: no invalidation would reach it.
pub(crate) fn visible_slot(database: &Database<Handle>, entry: Entry<'_>) -> Option<Slot> {
    let slot = Slot(entry.slot()?);
    let index = &database.index;
    (!index.has_backlog() || !index.is_gone(slot)).then_some(slot)
}

/// As [`visible_slot`], and sure that the slot is this entry's. For all that changes the index: there, a slot of
/// another database would spoil it; a read would at most count a hit for another entry, and saves the look.
pub(crate) fn own_slot(database: &Database<Handle>, entry: Entry<'_>) -> Option<Slot> {
    let slot = Slot(entry.slot()?);
    database
        .index
        .holds(slot, entry.handle())
        .then(|| visible_slot(database, entry))?
}

/// What may be served of an entry that was not hard-invalidated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Freshness {
    Fresh,
    /// Only to those who ask for stale values as well.
    Stale,
    /// Its grace after a soft invalidation is over. The server removes it, since its time to live ended as well.
    Over,
}

/// How fresh the entry of an open key is. Time is asked for only where it matters.
pub(crate) fn freshness(
    index: &Index<Handle>,
    slot: Slot,
    key: &Key,
    entry: Entry<'_>,
    now_ms: impl FnOnce() -> u64,
) -> Freshness {
    let grace_ms = entry.grace_ms();
    if grace_ms == 0 {
        return Freshness::Fresh; // What would make it stale makes it gone.
    }
    let soft_since_ms = if index.has_soft() {
        index.soft_since_ms(slot)
    } else {
        None
    };
    if let Some(since_ms) = soft_since_ms {
        return if now_ms() < since_ms.saturating_add(grace_ms) {
            Freshness::Stale
        } else {
            Freshness::Over
        };
    }
    match key.deadline_ms() {
        Some(deadline) if deadline.saturating_sub(grace_ms) <= now_ms() => Freshness::Stale,
        _ => Freshness::Fresh,
    }
}

/// Whether an entry in a slot that is in use can be seen, as far as the index tells: it was not invalidated, or its grace
/// is not over.
pub(crate) fn is_visible(index: &Index<Handle>, slot: Slot, now_ms: u64) -> bool {
    if index.has_backlog() && index.is_gone(slot) {
        return false;
    }
    if !index.has_soft() {
        return true;
    }
    index
        .soft_since_ms(slot)
        .is_none_or(|since_ms| now_ms < since_ms.saturating_add(entry_in(index, slot).grace_ms()))
}

/// Milliseconds until an entry's logical expiry, 0 if that is past, -1 if there is none.
pub(crate) fn logical_pttl(key: &Key, entry: Entry<'_>, now_ms: u64) -> i64 {
    key.deadline_ms().map_or(-1, |deadline| {
        deadline
            .saturating_sub(entry.grace_ms())
            .saturating_sub(now_ms) as i64
    })
}
