//! The common part of CACHE.SET and CACHE.MSET: whether an entry may be written, and with which tags and times.

use crate::args::{Cursor, TagLimits, Ttl, Word, set_once, with_grace};
use crate::commands::tags_of;
use crate::engine::{Database, Facts, Freshness, Softness, kept_stamp_ms};
use crate::entry::{Entry, Handle, Parts};
use crate::error::Error;
use crate::record::{MAX_SPAN_MS, MAX_TIME_MS};
use crate::redis::context;
use crate::redis::key::Deadline;
use crate::redis::state::State;
use crate::redis::store::{self, Content, Lateness};
use crate::redis::{
    Args, Context, Held, Key, OwnedStr, Str, access, cluster, monotonic_ms, now_ms, options,
    propagation, state, waiting,
};

/// How a value is to be written, according to the arguments.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Options<'a> {
    pub(super) ttl: Option<Ttl>,
    pub(super) grace_ms: Option<u64>,
    /// XX (true): only where an entry is fresh. NX (false): only where none is.
    pub(super) where_fresh: Option<bool>,
    /// The lease under which the value was loaded.
    pub(super) token: Option<i64>,
    pub(super) tags: &'a [&'a [u8]],
    /// Where the tags stand among the arguments.
    pub(super) tags_at: usize,
    pub(super) keeps_tags: bool,
    pub(super) logged: Option<Logged>,
    /// When the write happens, and when the entry expires logically: [`decide_times`].
    pub(super) now_ms: u64,
    pub(super) expires_ms: Option<u64>,
}

/// Options that only a replication stream or a log contains.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Logged {
    /// When it was written first.
    created_ms: Option<u64>,
    hits: Option<u32>,
    soft_since_ms: Option<u64>,
    /// The key holds a gone entry that receivers do not have.
    pub(super) is_gone: bool,
}

impl Logged {
    /// Whether there are more options than the time of the write.
    pub(super) fn is_of_one_key(self) -> bool {
        self.hits.is_some() || self.soft_since_ms.is_some() || self.is_gone
    }
}

impl<'a> Options<'a> {
    /// A value that only a stream or a log contains; `None` where a client sent the command.
    fn said<T>(&self, what: fn(&Logged) -> Option<T>) -> Option<T> {
        self.logged.as_ref().and_then(what)
    }

    /// Reads the options, the last of `count` arguments. In place: they are too large to be moved at every command.
    #[inline(always)]
    pub(super) fn read(
        &mut self,
        mut cursor: Cursor<'a>,
        count: usize,
        limits: impl Fn() -> TagLimits,
    ) -> Result<(), Error> {
        let mut tags = None;
        while let Some(word) = cursor.next_option() {
            if let Some(ttl) = Ttl::parse(word, &mut cursor)? {
                set_once(&mut self.ttl, ttl)?;
            } else if word.is(b"TAGS") {
                let given = cursor.next_stored_tags(limits())?;
                self.tags_at = count - cursor.left() - given.len();
                set_once(&mut tags, given)?;
            } else {
                cursor = self.read_other(word, cursor)?;
            }
        }
        if tags.is_some() && self.keeps_tags {
            return Err(Error::Syntax);
        }
        self.tags = tags.unwrap_or_default();
        Ok(())
    }

    /// Reads an option other than a time or tags, which are the most frequent. Returns the cursor by value, so that
    /// callers need not keep it in memory.
    #[cold]
    fn read_other(&mut self, word: Word, mut cursor: Cursor<'a>) -> Result<Cursor<'a>, Error> {
        let set = if word.is(b"KEEPTTL") {
            set_once(&mut self.ttl, Ttl::Keep)
        } else if word.is(b"NX") {
            set_once(&mut self.where_fresh, false)
        } else if word.is(b"XX") {
            set_once(&mut self.where_fresh, true)
        } else if word.is(b"KEEPTAGS") && !self.keeps_tags {
            self.keeps_tags = true;
            Ok(())
        } else if word.is(b"GRACE") {
            set_once(&mut self.grace_ms, cursor.next_in(0..=MAX_TIME_MS)?)
        } else if word.is(b"LEASE") {
            set_once(&mut self.token, cursor.next_i64()?)
        } else {
            let logged = self.logged.get_or_insert_default();
            if word.is(b"CREATED") {
                set_once(&mut logged.created_ms, cursor.next_in(0..=MAX_TIME_MS)?)
            } else if word.is(b"HITS") {
                let hits = cursor.next_in(0..=u32::MAX.into())?;
                set_once(&mut logged.hits, hits as u32)
            } else if word.is(b"GONE") {
                logged.is_gone = true;
                Ok(())
            } else if word.is(b"SOFT") {
                set_once(&mut logged.soft_since_ms, cursor.next_in(1..=MAX_TIME_MS)?)
            } else {
                Err(Error::Syntax)
            }
        };
        set.map(|()| cursor)
    }
}

/// The limits of tags. Tags from a primary or a log were accepted there.
pub(super) fn limits(ctx: &Context<'_>) -> TagLimits {
    if ctx.is_replay() {
        TagLimits::WIDEST
    } else {
        state::with(|state| TagLimits::of(&state.config))
    }
}

/// Decides the times, and checks that the caller may use its options.
#[inline(always)]
pub(super) fn decide_times(
    ctx: &Context<'_>,
    asked: &mut Options<'_>,
    command: &'static str,
) -> Result<(), Error> {
    if asked.logged.is_some() && !access::may_replay(ctx) {
        return Err(Error::Syntax);
    }
    // An entry of a file from an earlier version may have a longer grace, and is written to logs with it.
    if asked.grace_ms.is_some_and(|ms| ms > MAX_SPAN_MS)
        && !ctx.is_replay()
        && asked.logged.is_none()
    {
        return Err(Error::NotAnInteger);
    }
    let now_ms = now_ms();
    let expires_ms = match asked.ttl {
        Some(ttl) => ttl.deadline_ms(now_ms, command)?,
        // Times from a primary or a log are complete: this node's own default must not be added.
        None if ctx.is_replay() || asked.logged.is_some() => None,
        None => {
            let default_ttl_ms = state::with(|state| state.config.default_ttl_ms);
            (default_ttl_ms > 0).then(|| now_ms + default_ttl_ms)
        }
    };
    if let Some(grace_ms) = asked.grace_ms {
        with_grace(expires_ms, grace_ms, command)?;
    }
    (asked.now_ms, asked.expires_ms) = (now_ms, expires_ms);
    Ok(())
}

#[derive(Debug, Clone, Copy)]
#[allow(clippy::struct_field_names, reason = "the unit is a part of each name")]
pub(super) struct Written {
    created_ms: u64,
    expires_ms: Option<u64>,
    grace_ms: u64,
    /// Whether the database may have leases, and gone entries. Mostly it has neither.
    has_leases: bool,
    pub(super) has_backlog: bool,
}

/// Puts the entry of this key and value into keyspace and index. Returns `None`, and does nothing, where it may not be
/// written. O(tags).
pub(super) fn store(
    ctx: &Context<'_>,
    db: u32,
    key: &mut Key,
    name: Str<'_>,
    value: &[u8],
    asked: &Options<'_>,
) -> Option<Written> {
    let (tags, now_ms) = (asked.tags, asked.now_ms);
    if asked.token.is_some() {
        cluster::end_if_slots_moved(ctx);
    }
    let is_replay = ctx.is_replay();
    let origin = asked.said(|said| said.created_ms).map(|at_ms| Origin {
        at_ms,
        // Another node's hash slot, or a log, unless it is this node's own primary or log.
        is_foreign: ctx.is_import() || !is_replay,
        is_in_cluster: ctx.is_cluster(),
        is_coming: propagation::is_coming(name.bytes()),
    });
    let mut is_fresh = false;
    let stored = store::put(db, key, name, |state, held| {
        let database = state.database(db);
        let found = held.map(|held| store::found_in(&database.index, held, || now_ms));
        let (slot, freshness) = found.unwrap_or((None, Freshness::Gone));
        if asked.where_fresh.is_some() || asked.token.is_some() {
            is_fresh = freshness == Freshness::Fresh;
            if !is_allowed(database, name, asked, freshness) {
                return None;
            }
        }
        let (mut expires_ms, mut grace_ms) = (asked.expires_ms, asked.grace_ms.unwrap_or(0));
        if asked.ttl == Some(Ttl::Keep) && freshness != Freshness::Gone {
            (expires_ms, grace_ms) = kept_times(held, asked);
        }
        if !is_replay {
            let until_ms = database.history.held_until_ms(tags.iter().copied(), now_ms);
            if let Some(until_ms) = until_ms {
                (expires_ms, grace_ms) = bounded(expires_ms, grace_ms, until_ms, None);
            }
        }
        // Only a kept expiry can exceed what the server accepts.
        let deadline_ms = expires_ms.map(|ms| (ms + grace_ms).min(i64::MAX as u64));
        database.counters.sets += 1;
        let has_leases = !database.leases.is_empty();
        let has_backlog =
            database.index.has_backlog() || asked.said(|said| said.soft_since_ms).is_some();
        let (created_ms, is_foreign, lateness) = if let Some(origin) = origin {
            stamp(state, db, asked, origin)
        } else {
            let stamps = state.stamps_at(now_ms, monotonic_ms);
            (stamps.of_write(now_ms), false, Lateness::InTime)
        };
        let content = Content {
            parts: Parts {
                value,
                created_ms,
                has_ttl: deadline_ms.is_some(),
                grace_ms,
            },
            tags,
            deadline_ms,
            facts: Facts {
                hits: asked.said(|said| said.hits).unwrap_or(0),
                softness: asked.said(|said| said.soft_since_ms).map(Softness::since),
                is_foreign,
                ..Facts::default()
            },
        };
        let written = Written {
            created_ms,
            expires_ms,
            grace_ms,
            has_leases,
            has_backlog,
        };
        Some((content, slot, (written, lateness)))
    });
    if stored.is_none() && asked.token.is_some() {
        waiting::refused(ctx, db, name, is_fresh);
    }
    let (written, lateness) = stored?;
    match lateness {
        Lateness::InTime => {}
        Lateness::Doubtful => store::doubt(db, key),
        Lateness::TooLate => store::refuse(ctx, db, key, name),
    }
    Some(written)
}

/// The tags that KEEPTAGS keeps: those of a visible entry.
#[cold]
pub(super) fn kept_tags(db: u32, key: &Key, asked: &Options<'_>) -> Vec<Vec<u8>> {
    let found = store::look(db, key, || asked.now_ms);
    found.map_or_else(Vec::new, |found| tags_of(db, found.slot))
}

/// Limits the logical expiry and the grace of a visible entry to what CACHE.HOLD allows its tags. If the entry is stale
/// by a soft invalidation, its grace becomes no longer than before. Times from a primary or a log are limited already.
/// O(tags) while a hold lasts.
pub(super) fn within_holds(
    ctx: &Context<'_>,
    db: u32,
    entry: Entry<'_>,
    expires_ms: Option<u64>,
    grace_ms: u64,
    now_ms: u64,
) -> (Option<u64>, u64) {
    let Some(slot) = entry.slot().filter(|_| !ctx.is_replay()) else {
        return (expires_ms, grace_ms);
    };
    state::with(|state| {
        let Database { index, history, .. } = state.database(db);
        let until_ms = history.held_until_ms(index.tags(slot), now_ms);
        let since_ms = index.marks.softness(slot).map(|softness| softness.since_ms);
        // Nodes that loaded the entry do not know the mark's limit, only when the entry ends by its grace.
        let grace_ms = since_ms.map_or(grace_ms, |_| grace_ms.min(entry.grace_ms()));
        until_ms.map_or((expires_ms, grace_ms), |until_ms| {
            bounded(expires_ms, grace_ms, until_ms, since_ms)
        })
    })
}

/// Limits a logical expiry and a grace so that both are over by `until_ms`. An entry that is stale by a soft
/// invalidation lives only for the rest of its grace. So its grace is limited, and its expiry only as far as the grace
/// after it requires.
#[inline(never)]
fn bounded(
    expires_ms: Option<u64>,
    grace_ms: u64,
    until_ms: u64,
    soft_since_ms: Option<u64>,
) -> (Option<u64>, u64) {
    if let Some(since_ms) = soft_since_ms {
        let grace_ms = grace_ms.min(until_ms.saturating_sub(since_ms));
        let latest_ms = until_ms.saturating_sub(grace_ms);
        let expires_ms = expires_ms.unwrap_or(u64::MAX).min(latest_ms);
        return (Some(expires_ms), grace_ms);
    }
    let expires_ms = expires_ms.map_or(until_ms, |ms| ms.min(until_ms));
    (Some(expires_ms), grace_ms.min(until_ms - expires_ms))
}

/// Whether the write may happen. If it may not, its lease is over.
#[inline(never)]
fn is_allowed(
    database: &mut Database<Handle>,
    name: Str<'_>,
    asked: &Options<'_>,
    freshness: Freshness,
) -> bool {
    let is_fresh = freshness == Freshness::Fresh;
    let is_met = asked.where_fresh.is_none_or(|wanted| wanted == is_fresh);
    let Some(token) = asked.token else {
        return is_met;
    };
    // KEEPTAGS needs the tags of a visible entry. Those of a gone one are not known, and one may have been invalidated.
    let known = freshness != Freshness::Gone || !asked.keeps_tags;
    let (key, tags) = (name.bytes(), known.then(|| asked.tags.iter().copied()));
    database.decide_write(key, token as u64, tags, is_met, monotonic_ms())
}

/// The times that KEEPTTL keeps, with the new grace if one was given.
#[cold]
fn kept_times(held: Option<Held<'_>>, asked: &Options<'_>) -> (Option<u64>, u64) {
    let expires_ms = held.and_then(|(entry, deadline)| kept_expiry(deadline, entry));
    let grace_ms = asked.grace_ms.or(held.map(|(entry, _)| entry.grace_ms()));
    (expires_ms, grace_ms.unwrap_or(0))
}

/// The logical expiry of the entry of an open key.
pub(super) fn kept_expiry(deadline: Deadline<'_>, entry: Entry<'_>) -> Option<u64> {
    // After a native EXPIRE to less than the grace, the difference is negative; 0 could not be sent to a replica.
    let deadline_ms = deadline.ms();
    deadline_ms.map(|ms| ms.saturating_sub(entry.grace_ms()).max(1))
}

/// Where an entry was written, for a command that carries the time of the write.
#[derive(Debug, Clone, Copy)]
struct Origin {
    at_ms: u64,
    is_foreign: bool,
    is_in_cluster: bool,
    /// It comes with a hash slot that migrates to here. On a replica, its primary has marked it as foreign.
    is_coming: bool,
}

/// Returns when an entry was written, whether by another clock, and whether one of its tags was invalidated here since
/// then. An entry from a primary or a log may have come there with a hash slot, and have been refused.
#[inline(never)]
fn stamp(state: &mut State, db: u32, asked: &Options<'_>, origin: Origin) -> (u64, bool, Lateness) {
    let (at_ms, is_foreign, is_coming) = (origin.at_ms, origin.is_foreign, origin.is_coming);
    let now_ms = asked.now_ms;
    if !(is_foreign || is_coming) {
        state.stamps.follow(at_ms);
    }
    let stamps = state.stamps_at(now_ms, monotonic_ms);
    let now_ms = stamps.now_ms(now_ms);
    let latest_ms = if is_foreign { now_ms } else { u64::MAX / 2 };
    let since_ms = stamps.written_since_ms(at_ms, is_foreign, latest_ms);
    let (tags, history) = (asked.tags.iter().copied(), &state.database(db).history);
    let is_stale = asked.said(|said| said.soft_since_ms).is_some();
    let is_too_late = || history.of_arriving(tags, since_ms).is_too_late(is_stale);
    let lateness = match is_foreign {
        _ if !(is_foreign || origin.is_in_cluster) || !is_too_late() => Lateness::InTime,
        true => Lateness::TooLate,
        false => Lateness::Doubtful,
    };
    if !(is_foreign || is_coming) {
        return (at_ms, false, lateness);
    }
    let kept_ms = kept_stamp_ms(at_ms, now_ms);
    if is_coming {
        state.stamps.follow_foreign(kept_ms); // As for an entry that arrives at a replica.
    }
    (kept_ms, true, lateness)
}

/// After [`store()`]: ends the key's lease, and reports the change to the clients that wait for the key, watch it, or
/// track it.
#[inline(always)]
pub(super) fn announce(ctx: &Context<'_>, db: u32, key: Key, name: Str<'_>, written: &Written) {
    // Each waiting client is in the line of a lease.
    if written.has_leases {
        waiting::written(ctx, db, name);
        waiting::serve_trackers(db, name);
    }
    key.close_modified();
    ctx.notify(c"cache.set", name);
}

/// Whether the command is propagated as it came.
#[inline(always)]
pub(super) fn goes_verbatim(ctx: &Context<'_>) -> bool {
    propagation::is_alone() || ctx.is_replay()
}

/// Propagates what happened as CACHE.SET: this key and value, then the other arguments with absolute times.
pub(super) fn replicate(
    ctx: &Context<'_>,
    entry: &[Str<'_>],
    args: Args<'_>,
    asked: &Options<'_>,
    written: &Written,
) {
    let mut owned = options(&[
        (b"PXAT", written.expires_ms),
        (b"GRACE", Some(written.grace_ms).filter(|&ms| ms > 0)),
        (b"CREATED", Some(written.created_ms)),
        (b"HITS", asked.said(|said| said.hits).map(u64::from)),
        (b"SOFT", asked.said(|said| said.soft_since_ms)),
        // Last, before the tags themselves.
        (b"TAGS", asked.keeps_tags.then_some(asked.tags.len() as u64)),
    ]);
    if asked.keeps_tags {
        owned.extend(asked.tags.iter().map(|tag| OwnedStr::new(tag)));
    }
    let mut all: context::Parts<'_> = entry.into();
    all.extend(owned.iter().map(OwnedStr::as_str));
    if !asked.keeps_tags && !asked.tags.is_empty() {
        // The word and the count stand before the tags.
        let given = args.iter().skip(asked.tags_at - 2);
        all.extend(given.take(asked.tags.len() + 2));
    }
    ctx.replicate(c"CACHE.SET", &all);
}
