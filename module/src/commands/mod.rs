//! One file a command, or a small family: its doc comment is its reference.

pub(crate) mod del;
pub(crate) mod flush;
pub(crate) mod get;
pub(crate) mod inspect;
pub(crate) mod invalidate;
#[cfg(feature = "panic-on-demand")]
pub(crate) mod panic;
pub(crate) mod replay;
pub(crate) mod set;
pub(crate) mod stats;
pub(crate) mod taginfo;
pub(crate) mod tagscan;
pub(crate) mod touch;

use crate::engine::{Database, Slot};
use crate::entry::{Entry, Handle};

/// The slot of an entry that can be seen; `None` if it is gone.
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
