//! One random operation: its command, and which entries it selects.

use tagcache_tests::{Rng, args};

use crate::model::{Bytes, Entry, State};

/// The grace of entries that have one: longer than any test, and short compared with the time since 1970.
const GRACE_MS: i64 = 1_000_000_000;

pub(crate) const DATABASES: usize = 3;
pub(crate) const KEYS: usize = 1500;
/// The first tag is on most entries.
pub(crate) const TAGS: usize = 12;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Time {
    None,
    Far,
    Past,
    Keep,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Condition {
    Always,
    Absent,
    Present,
}

#[derive(Clone, Debug)]
pub(crate) enum Operation {
    Set {
        key: Bytes,
        entry: Entry,
        time: Time,
        condition: Condition,
    },
    Get(Bytes),
    Mget(Vec<Bytes>),
    Fetch(Bytes),
    CacheDel(Vec<Bytes>),
    Touch(Bytes, Time),
    Invalidate(Vec<Bytes>),
    Revalidate(Vec<Bytes>),
    InvalidateWhere(Where),
    CacheFlush,
    Inspect(Bytes),
    Del(&'static str, Bytes),
    Expire(Bytes, Time),
    Persist(Bytes),
    Rename(Bytes, Bytes),
    RenameNx(Bytes, Bytes),
    Copy {
        from: Bytes,
        to: Bytes,
        /// The database, if it is not the selected one.
        database: Option<usize>,
        replace: bool,
    },
    Move(Bytes, usize),
    SwapDb(usize, usize),
    FlushDb(&'static str),
    FlushAll(&'static str),
    Dump(Bytes),
    Restore {
        key: Bytes,
        dump: Dumped,
        replace: bool,
    },
    NativeSet(Bytes),
    SetNx(Bytes),
    Lpush(Bytes),
    Sunionstore(Bytes),
    GetDel(Bytes),
    Reload,
    Select(usize),
}

/// The clauses of CACHE.INVALIDATEWHERE; an empty list selects by nothing.
#[derive(Clone, Debug)]
pub(crate) struct Where {
    pub(crate) all: Vec<Bytes>,
    none: Vec<Bytes>,
    pub(crate) soft: bool,
}

impl Where {
    fn any(rng: &mut Rng) -> Self {
        let one = |rng: &mut Rng| tag(1 + rng.below(TAGS - 1));
        Self {
            all: vec![one(rng), one(rng)],
            none: if rng.one_in(2) {
                vec![one(rng)]
            } else {
                Vec::new()
            },
            soft: rng.one_in(2),
        }
    }

    pub(crate) fn meets(&self, entry: &Entry) -> bool {
        self.all.iter().all(|tag| entry.tags.contains(tag))
            && !self.none.iter().any(|tag| entry.tags.contains(tag))
    }
}

/// A payload and the entry in it; none if the entry was gone.
#[derive(Clone, Debug)]
pub(crate) struct Dumped {
    pub(crate) payload: Bytes,
    pub(crate) entry: Option<Entry>,
}

pub(crate) fn any_key(rng: &mut Rng) -> Bytes {
    format!("key{}", rng.below(KEYS)).into_bytes()
}

pub(crate) fn tag(number: usize) -> Bytes {
    format!("tag{number}").into_bytes()
}

fn any_entry(rng: &mut Rng) -> Entry {
    let mut tags = Vec::new();
    if !rng.one_in(3) {
        tags.push(tag(0));
    }
    for _ in 0..rng.below(4) {
        let tag = tag(1 + rng.below(TAGS - 1));
        if !tags.contains(&tag) {
            tags.push(tag);
        }
    }
    let len = rng.below(60);
    Entry {
        written: 0,
        value: rng.bytes(len),
        tags,
        expires: Some(false),
        grace: rng.one_in(3),
        state: State::Fresh,
        hits: Some(0),
    }
}

impl Operation {
    /// An operation; common ones are the most frequent.
    pub(crate) fn any(rng: &mut Rng, dumps: &[Dumped]) -> Self {
        let key = any_key(rng);
        match rng.below(1000) {
            0..300 => Self::any_set(rng),
            300..400 => Self::Get(key),
            400..410 => Self::Mget((0..5).map(|_| any_key(rng)).collect()),
            410..420 => Self::Fetch(key),
            420..460 => Self::CacheDel((0..=rng.below(3)).map(|_| any_key(rng)).collect()),
            460..480 => Self::Touch(key, rng.pick(&[Time::Far, Time::None, Time::Past])),
            480..486 => Self::Invalidate(
                (0..=rng.below(2))
                    .map(|_| tag(1 + rng.below(TAGS - 1)))
                    .collect(),
            ),
            486..488 => Self::Invalidate(vec![tag(0), tag(rng.below(TAGS + 2))]),
            488 if rng.one_in(4) => Self::CacheFlush,
            489..494 => Self::Revalidate(
                (0..=rng.below(2))
                    .map(|_| tag(1 + rng.below(TAGS - 1)))
                    .collect(),
            ),
            494 => Self::Revalidate(vec![tag(0), tag(rng.below(TAGS + 2))]),
            495..500 => Self::InvalidateWhere(Where::any(rng)),
            506..546 => Self::Del(rng.pick(&["DEL", "UNLINK"]), key),
            546..576 => Self::Expire(key, rng.pick(&[Time::Far, Time::Past])),
            576..596 => Self::Persist(key),
            596..646 => Self::Rename(key, any_key(rng)),
            646..676 => Self::RenameNx(key, any_key(rng)),
            676..736 => {
                let database = Some(rng.below(DATABASES));
                Self::Copy {
                    from: key,
                    to: any_key(rng),
                    database,
                    replace: rng.one_in(2),
                }
            }
            736..766 => Self::Move(key, rng.below(DATABASES)),
            766..769 => Self::SwapDb(rng.below(DATABASES), rng.below(DATABASES)),
            769 if rng.one_in(4) => Self::FlushDb(rng.pick(&["SYNC", "ASYNC"])),
            770..800 => Self::Dump(key),
            800..840 if !dumps.is_empty() => Self::Restore {
                key,
                dump: rng.pick(dumps),
                replace: rng.one_in(2),
            },
            840..865 => Self::NativeSet(key),
            865..885 => Self::SetNx(key),
            885..900 => Self::Lpush(key),
            900..915 => Self::Sunionstore(key),
            915..930 => Self::GetDel(key),
            930..931 => Self::Reload,
            931..990 => Self::Select(rng.below(DATABASES)),
            990 if rng.one_in(10) => Self::FlushAll(rng.pick(&["SYNC", "ASYNC"])),
            _ => Self::Inspect(key),
        }
    }

    /// A CACHE.SET that mostly stores a value.
    pub(crate) fn any_set(rng: &mut Rng) -> Self {
        let time = rng.pick(&[
            Time::None,
            Time::None,
            Time::Far,
            Time::Far,
            Time::Keep,
            Time::Past,
        ]);
        let condition = rng.pick(&[
            Condition::Always,
            Condition::Always,
            Condition::Absent,
            Condition::Present,
        ]);
        Self::Set {
            key: any_key(rng),
            entry: any_entry(rng),
            time,
            condition,
        }
    }

    /// Whether it may occur in a transaction or a script.
    pub(crate) fn may_be_nested(&self) -> bool {
        !matches!(self, Self::Reload | Self::Select(_) | Self::Inspect(_))
    }

    pub(crate) fn to_args(&self) -> Vec<Bytes> {
        const FAR: i64 = 99_999_999_999_999;
        match self {
            Self::Set {
                key,
                entry,
                time,
                condition,
            } => {
                let mut set = args!["CACHE.SET", key, entry.value];
                match time {
                    Time::None => {}
                    Time::Far => set.extend(args!["PXAT", FAR]),
                    Time::Past => set.extend(args!["PXAT", 1]),
                    Time::Keep => set.extend(args!["KEEPTTL"]),
                }
                if entry.grace {
                    set.extend(args!["GRACE", GRACE_MS]);
                }
                match condition {
                    Condition::Always => {}
                    Condition::Absent => set.extend(args!["NX"]),
                    Condition::Present => set.extend(args!["XX"]),
                }
                if !entry.tags.is_empty() {
                    set.extend(args!["TAGS", entry.tags.len()]);
                    set.extend(entry.tags.iter().cloned());
                }
                set
            }
            Self::Get(key) => args!["CACHE.GET", key],
            Self::Mget(keys) => [args!["CACHE.MGET"], keys.clone()].concat(),
            Self::CacheDel(keys) => [args!["CACHE.DEL"], keys.clone()].concat(),
            Self::Touch(key, Time::None) => args!["CACHE.TOUCH", key, "PERSIST"],
            Self::Touch(key, Time::Past) => args!["CACHE.TOUCH", key, "PXAT", 1],
            Self::Touch(key, _) => args!["CACHE.TOUCH", key, "PXAT", FAR],
            Self::Invalidate(tags) => [args!["CACHE.INVALIDATE"], tags.clone()].concat(),
            Self::Revalidate(tags) => [args!["CACHE.REVALIDATE"], tags.clone()].concat(),
            Self::InvalidateWhere(what) => {
                let mut command = args!["CACHE.INVALIDATEWHERE", "ALL", what.all.len()];
                command.extend(what.all.iter().cloned());
                if !what.none.is_empty() {
                    command.extend(args!["NONE", what.none.len()]);
                    command.extend(what.none.iter().cloned());
                }
                command.extend(what.soft.then(|| b"SOFT".to_vec()));
                command
            }
            Self::Fetch(key) => args!["CACHE.FETCH", key],
            Self::CacheFlush => args!["CACHE.FLUSH"],
            Self::Inspect(key) => args!["CACHE.INSPECT", key],
            Self::Del(command, key) => args![command, key],
            Self::Expire(key, Time::Past) => args!["PEXPIREAT", key, 1],
            Self::Expire(key, _) => args!["PEXPIREAT", key, FAR],
            Self::Persist(key) => args!["PERSIST", key],
            Self::Rename(from, to) => args!["RENAME", from, to],
            Self::RenameNx(from, to) => args!["RENAMENX", from, to],
            Self::Copy {
                from,
                to,
                database,
                replace,
            } => {
                let mut copy = args!["COPY", from, to];
                copy.extend(
                    database
                        .map(|number| args!["DB", number])
                        .into_iter()
                        .flatten(),
                );
                copy.extend(replace.then(|| b"REPLACE".to_vec()));
                copy
            }
            Self::Move(key, database) => args!["MOVE", key, database],
            Self::SwapDb(a, b) => args!["SWAPDB", a, b],
            Self::FlushDb(mode) => args!["FLUSHDB", mode],
            Self::FlushAll(mode) => args!["FLUSHALL", mode],
            Self::Dump(key) => args!["DUMP", key],
            Self::Restore { key, dump, replace } => {
                let mut restore = args!["RESTORE", key, 0, dump.payload];
                restore.extend(replace.then(|| b"REPLACE".to_vec()));
                restore
            }
            Self::NativeSet(key) => args!["SET", key, "native"],
            Self::SetNx(key) => args!["SETNX", key, "native"],
            Self::Lpush(key) => args!["LPUSH", key, "native"],
            Self::Sunionstore(key) => args!["SUNIONSTORE", key, "seed"],
            Self::GetDel(key) => args!["GETDEL", key],
            Self::Reload => args!["DEBUG", "RELOAD"],
            Self::Select(database) => args!["SELECT", database],
        }
    }
}
