//! The server's context: callbacks reply, replicate, notify and open keys through it.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::ffi::{CStr, CString, c_char, c_int, c_long};
use std::marker::PhantomData;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, AtomicUsize, Ordering};
use std::time::Duration;

use redis_module::{CallOptionsBuilder, CallResult, RedisValue, raw};
use smallvec::SmallVec;

use super::state::{CallsNothingBack, UnderLock};
use super::{Key, OK, OwnedStr, Place, Str, TYPE_NAME, guard, panic_point, propagation};
use crate::engine::Moment;
use crate::error::Error;

/// A function to be called later ([`Context::after`]).
struct Later {
    /// When it is due, on the monotonic clock.
    due_ms: u64,
    timer: raw::RedisModuleTimerID,
    run: Box<dyn FnOnce(&Context<'_>)>,
}

/// By number.
static LATER: UnderLock<BTreeMap<usize, Later>> = UnderLock::new(BTreeMap::new());

/// The server's context of the running callback.
#[derive(Debug)]
pub(crate) struct Context<'a> {
    raw: *mut raw::RedisModuleCtx,
    /// Whether a reply of several elements was begun, and how many announced elements are not sent yet.
    reply_begun: Cell<bool>,
    reply_owed: Cell<isize>,
    /// The server's flags for the running callback, which do not change. To ask costs more than to look a key up.
    flags: Cell<Option<u32>>,
    alive: PhantomData<&'a ()>,
}

/// How a key is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// To serve a read.
    Read,
    /// To look without counting as a use.
    Peek,
    /// To look without any effect: no use counted, no key expired (except on Redis 7.0), no miss reported.
    Look,
    /// To change it.
    Write,
    /// To change it without counting as a use. Also for a key whose hash slot went away and that is about to be
    /// removed.
    Upkeep,
}

/// Opening for writing neither counts nor reports misses.
const UNTOUCHED: u32 =
    raw::REDISMODULE_READ | raw::REDISMODULE_WRITE | raw::REDISMODULE_OPEN_KEY_NOTOUCH;
const SILENT: u32 = raw::REDISMODULE_OPEN_KEY_NOTOUCH
    | raw::REDISMODULE_OPEN_KEY_NONOTIFY
    | raw::REDISMODULE_OPEN_KEY_NOSTATS
    | raw::REDISMODULE_OPEN_KEY_NOEXPIRE;

/// The modes of opening a key that the server knows.
static KNOWN: AtomicU32 = AtomicU32::new(0);

/// Finds out whether the server can look at a key without any effect (Redis 7.2 and newer, Valkey), and whether it
/// hides keys of hash slots that went away (Redis 8.4 and newer).
pub(super) fn probe_modes() {
    // SAFETY: takes nothing; looked up because Redis 7.0 lacks it.
    let known = unsafe { raw::RedisModule_GetOpenKeyModesAll.map_or(0, |modes| modes() as u32) };
    KNOWN.store(known, Ordering::Relaxed);
}

/// For Valkey 9: entries may arrive with a hash slot that this node does not own yet. Other servers ignore this.
const HANDLE_ATOMIC_SLOT_MIGRATION: u32 = 1 << 5;

/// The options that the module sets.
static OPTIONS: AtomicU32 = AtomicU32::new(
    raw::REDISMODULE_OPTIONS_HANDLE_IO_ERRORS
        | raw::REDISMODULE_OPTIONS_HANDLE_REPL_ASYNC_LOAD
        | HANDLE_ATOMIC_SLOT_MIGRATION,
);

/// Sets the module's options. Some servers are not asked to serve old data while they load (`DESIGN.md`, Loading beside
/// what is served), also Redis 8.0 and 8.1, which end themselves if a primary is lost in the middle of a value.
pub(super) fn choose_options(ctx: &Context<'_>) {
    let valkey = ctx.version(c"valkey_version");
    let redis = ctx.version(c"redis_version").filter(|_| valkey.is_none());
    let stops = valkey.is_some_and(|it| it < (9, 0))
        || redis.is_some_and(|it| ((7, 1)..(8, 6)).contains(&it));
    STOPS_ON_NO_TOUCH.store(stops, Ordering::Relaxed);
    let asks_aside = valkey.is_some() || redis.is_some_and(|it| ((8, 1)..(8, 6)).contains(&it));
    FIRST_KEY_ONLY.store(asks_aside && ctx.is_cluster(), Ordering::Relaxed);
    if matches!(redis, Some((7, 0..4) | (8, 0 | 1))) {
        let option = raw::REDISMODULE_OPTIONS_HANDLE_REPL_ASYNC_LOAD;
        OPTIONS.fetch_and(!option, Ordering::Relaxed);
    }
    ctx.set_options(OPTIONS.load(Ordering::Relaxed));
}

/// These servers assume that a command runs when a client with CLIENT NO-TOUCH looks a key up: they stop if none does
/// (redis/redis#14415, valkey-io/valkey#2347).
static STOPS_ON_NO_TOUCH: AtomicBool = AtomicBool::new(false);

/// In a cluster, Valkey and Redis 8.2 ask a command for its keys on I/O threads, where that call corrupts the server's
/// state. There CACHE.MSET declares only its first key, and checks the others itself.
static FIRST_KEY_ONLY: AtomicBool = AtomicBool::new(false);

/// A reply of the server's own commands, kept and sent as it is, which costs less than a reply that a module makes.
/// Made once, by `load`.
struct Kept(AtomicPtr<raw::RedisModuleCallReply>);

static KEPT_OK: Kept = Kept(AtomicPtr::new(std::ptr::null_mut()));
static KEPT_HIT: Kept = Kept(AtomicPtr::new(std::ptr::null_mut()));

impl Kept {
    /// Keeps the server's reply if it is the expected one.
    fn keep(&self, reply: *mut raw::RedisModuleCallReply, expected: &[u8]) {
        let mut len = 0;
        // SAFETY: the reply is ours, or null, which both calls take. Its protocol text lives as long as the reply.
        unsafe {
            let proto = api!(RedisModule_CallReplyProto(reply, &raw mut len)).cast::<u8>();
            if !proto.is_null() && std::slice::from_raw_parts(proto, len) == expected {
                self.0.store(reply, Ordering::Relaxed);
            } else if !reply.is_null() {
                raw::free_call_reply(reply);
            }
        }
    }

    /// Sends the reply. Returns false if there is none to send.
    #[inline(always)]
    fn send(&self, ctx: &Context<'_>) -> bool {
        let reply = self.0.load(Ordering::Relaxed);
        // SAFETY: the context is alive, and so is the reply until [`release`].
        !reply.is_null() && unsafe { often!(RedisModule_ReplyWithCallReply(ctx.raw, reply)) } == 0
    }
}

/// Gets the replies to keep, from commands that do nothing. They refer to the context of the call, so the call uses one
/// that lives as long as they do.
pub(super) fn keep_replies() {
    let ctx = own();
    // SAFETY: the context is alive; "c" takes a C string.
    unsafe {
        let (unwatch, none) = (c"UNWATCH".as_ptr(), c"".as_ptr());
        let unwatched = api!(RedisModule_Call(ctx.raw, unwatch, none));
        KEPT_OK.keep(unwatched, b"+OK\r\n");
        let (echo, text) = (c"ECHO".as_ptr(), c"HIT".as_ptr());
        let echoed = api!(RedisModule_Call(ctx.raw, echo, c"c".as_ptr(), text));
        KEPT_HIT.keep(echoed, b"$3\r\nHIT\r\n");
    }
}

/// Frees the kept replies and the module's own context, before the server closes the module.
pub(super) fn release() {
    for kept in [&KEPT_OK, &KEPT_HIT] {
        let reply = kept.0.swap(std::ptr::null_mut(), Ordering::Relaxed);
        if !reply.is_null() {
            raw::free_call_reply(reply);
        }
    }
    let own = OWN.swap(std::ptr::null_mut(), Ordering::Relaxed);
    if !own.is_null() {
        // SAFETY: the context is ours, and nothing names it any more.
        unsafe { api!(RedisModule_FreeThreadSafeContext(own)) };
    }
}

/// A context of the module's own, made by `load`.
static OWN: AtomicPtr<raw::RedisModuleCtx> = AtomicPtr::new(std::ptr::null_mut());

pub(super) fn make_own(ctx: &Context<'_>) {
    // SAFETY: the context is alive, and that of this module.
    let own = unsafe { api!(RedisModule_GetDetachedThreadSafeContext(ctx.raw)) };
    OWN.store(own, Ordering::Relaxed);
}

/// Closes a key that was opened for writing and not changed. Otherwise the server would report a change.
pub(super) fn unreported(close: impl FnOnce()) {
    let (ctx, options) = (own(), OPTIONS.load(Ordering::Relaxed));
    ctx.set_options(options | raw::REDISMODULE_OPTION_NO_IMPLICIT_SIGNAL_MODIFIED);
    close();
    ctx.set_options(options);
}

const NAME_LEN: usize = raw::REDISMODULE_NODE_ID_LEN as usize;

/// The name of a node of a cluster: 40 hexadecimal digits.
pub(crate) type NodeName = [u8; NAME_LEN];

/// The module's own context, for work outside of any callback that has one.
pub(crate) fn own<'a>() -> Context<'a> {
    // SAFETY: made before the first callback of the module, and freed after the last one.
    unsafe { Context::from_raw(OWN.load(Ordering::Relaxed)) }
}

/// The parts of a replicated command.
pub(crate) type Parts<'s> = SmallVec<[Str<'s>; 16]>;

impl Context<'_> {
    /// # Safety
    /// The context must be the server's, and alive for the lifetime of the result.
    pub(crate) const unsafe fn from_raw(raw: *mut raw::RedisModuleCtx) -> Self {
        Self {
            raw,
            reply_begun: Cell::new(false),
            reply_owed: Cell::new(1),
            flags: Cell::new(None),
            alive: PhantomData,
        }
    }

    pub(crate) const fn as_raw(&self) -> *mut raw::RedisModuleCtx {
        self.raw
    }

    /// The database that the connection selected.
    pub(crate) fn db(&self) -> u32 {
        // SAFETY: the context is alive.
        unsafe { often!(RedisModule_GetSelectedDb(self.raw)) as u32 }
    }

    /// Selects a database for this context. Returns false, and does nothing, if there is no database with this number.
    /// Only for contexts that are not a client's.
    pub(crate) fn select(&self, db: u32) -> bool {
        // SAFETY: the context is alive; for an unknown number the call returns an error and changes nothing.
        let selected = unsafe { api!(RedisModule_SelectDb(self.raw, db as c_int)) };
        selected == OK
    }

    fn flags(&self) -> u32 {
        self.flags.get().unwrap_or_else(|| {
            // SAFETY: the context is alive.
            let flags = unsafe { api!(RedisModule_GetContextFlags(self.raw)) as u32 };
            self.flags.set(Some(flags));
            flags
        })
    }

    /// The flags that describe the server, not a context.
    pub(super) fn server_flags() -> u32 {
        // SAFETY: a context is optional.
        unsafe { api!(RedisModule_GetContextFlags(std::ptr::null_mut())) as u32 }
    }

    /// Whether this command comes from the primary, or from an append-only file that is being loaded. Its effect was
    /// decided before, so nothing is decided anew.
    pub(crate) fn is_replay(&self) -> bool {
        if propagation::is_alone() {
            return false;
        }
        // While a replica loads beside what it serves, commands come from clients.
        let loads = raw::REDISMODULE_CTX_FLAGS_LOADING | raw::REDISMODULE_CTX_FLAGS_ASYNC_LOADING;
        let flags = self.flags();
        flags & raw::REDISMODULE_CTX_FLAGS_REPLICATED != 0
            || flags & loads == raw::REDISMODULE_CTX_FLAGS_LOADING
    }

    /// Whether the server calls the command only to get its keys, by [`Context::key_at`].
    pub(crate) fn wants_keys(&self) -> bool {
        self.sdk().is_keys_position_request()
    }

    /// Names the argument at this position as a key whose value is replaced. The command's name is at 0.
    pub(crate) fn key_at(&self, position: usize) {
        let flags = raw::REDISMODULE_CMD_KEY_OW | raw::REDISMODULE_CMD_KEY_UPDATE;
        let (position, flags) = (position as c_int, flags as c_int);
        // SAFETY: the context is that of a command that is to name its keys.
        unsafe { api!(RedisModule_KeyAtPosWithFlags(self.raw, position, flags)) };
    }

    /// Whether the server knows only the first key of CACHE.MSET.
    pub(crate) fn knows_first_key_only() -> bool {
        FIRST_KEY_ONLY.load(Ordering::Relaxed)
    }

    /// The hash slot of a key. Not for Redis 7.0, which lacks the function.
    pub(crate) fn hash_slot(name: Str<'_>) -> u32 {
        // SAFETY: the name is alive.
        unsafe { api!(RedisModule_ClusterKeySlot(name.as_raw())) }
    }

    /// Whether this node may serve a command with all of these keys, also while their hash slot migrates.
    pub(crate) fn serves(&self, keys: &[&[u8]]) -> bool {
        let found = self.sdk().call("CACHE.EXISTS", keys); // The server checks the keys as those of a client's command.
        matches!(found, Ok(RedisValue::Integer(_)))
    }

    /// Whether the client of this context has a user. One of another module's call has none.
    pub(super) fn has_user(&self) -> bool {
        // SAFETY: the context is alive. There is no such command, so nothing runs and no reply comes. With "C" the server
        // looks for the user first.
        unsafe {
            api!(RedisModule_Call(
                self.raw,
                c"CACHE.NOTHING".as_ptr(),
                c"C".as_ptr()
            ))
        };
        let error = std::io::Error::last_os_error();
        error.raw_os_error() != Some(libc::ENOTSUP)
    }

    fn has_flags(&self, any: u32) -> bool {
        self.flags() & any != 0
    }

    /// Whether this server has a primary.
    pub(crate) fn is_replica(&self) -> bool {
        self.has_flags(raw::REDISMODULE_CTX_FLAGS_SLAVE)
    }

    /// Whether this command comes from another primary, with a hash slot that migrates to this node.
    pub(crate) fn is_import(&self) -> bool {
        self.has_flags(raw::REDISMODULE_CTX_FLAGS_REPLICATED) && propagation::decides()
    }

    /// The name of this node in its cluster, and of its primary if the cluster knows this node as a replica. The server
    /// itself behaves as a primary from its start until it follows one, also while it loads its file.
    pub(crate) fn cluster_names(&self) -> Option<(NodeName, Option<NodeName>)> {
        // The server's own name does not end in NUL.
        let (mut name, mut primary, mut flags) = ([0; NAME_LEN + 1], [0; NAME_LEN], 0);
        // SAFETY: the name has 40 bytes, or is null outside of a cluster; each output is null or has enough room.
        unsafe {
            let own: *const c_char = api!(RedisModule_GetMyClusterID());
            if own.is_null() {
                return None;
            }
            own.cast::<u8>()
                .copy_to_nonoverlapping(name.as_mut_ptr(), NAME_LEN);
            api!(RedisModule_GetClusterNodeInfo(
                self.raw,
                name.as_ptr().cast(),
                std::ptr::null_mut(),
                primary.as_mut_ptr().cast(),
                std::ptr::null_mut(),
                &raw mut flags
            ));
        }
        let is_replica = flags & raw::REDISMODULE_NODE_SLAVE as c_int != 0;
        let own = std::array::from_fn(|at| name[at]);
        Some((own, is_replica.then_some(primary)))
    }

    pub(crate) fn is_cluster(&self) -> bool {
        self.has_flags(raw::REDISMODULE_CTX_FLAGS_CLUSTER)
    }

    pub(crate) fn is_loading(&self) -> bool {
        self.has_flags(raw::REDISMODULE_CTX_FLAGS_LOADING)
    }

    pub(crate) fn is_script(&self) -> bool {
        self.has_flags(raw::REDISMODULE_CTX_FLAGS_LUA)
    }

    pub(crate) fn is_atomic_block(&self) -> bool {
        self.has_flags(raw::REDISMODULE_CTX_FLAGS_MULTI | raw::REDISMODULE_CTX_FLAGS_LUA)
    }

    /// Whether the client may be made to wait: not inside MULTI, scripts and calls of other modules.
    pub(crate) fn may_block(&self) -> bool {
        !self.is_atomic_block() && !self.has_flags(raw::REDISMODULE_CTX_FLAGS_DENY_BLOCKING)
    }

    /// The same context, as the type of the crate for modules.
    pub(super) const fn sdk(&self) -> redis_module::Context {
        redis_module::Context::new(self.raw)
    }

    /// A field of the server's INFO. The crate for modules would keep a reference to each field for good.
    pub(super) fn info(&self, section: &CStr, field: &CStr) -> Option<String> {
        // SAFETY: the context is alive. The field belongs to the fields that were asked for, and is copied before they
        // are freed, once.
        unsafe {
            let fields = api!(RedisModule_GetServerInfo(self.raw, section.as_ptr()));
            let found = api!(RedisModule_ServerInfoGetFieldC(fields, field.as_ptr()));
            let text =
                (!found.is_null()).then(|| CStr::from_ptr(found).to_string_lossy().into_owned());
            api!(RedisModule_FreeServerInfo(self.raw, fields));
            text
        }
    }

    /// Major and minor of a version that `INFO server` shows under this name.
    pub(crate) fn version(&self, field: &CStr) -> Option<(u32, u32)> {
        let text = self.info(c"server", field)?;
        let mut numbers = text.split('.').map(|number| number.parse().ok());
        numbers.next().flatten().zip(numbers.next().flatten())
    }

    /// The connection that this command or wait belongs to; a script has a number of its own.
    pub(crate) fn client_id(&self) -> u64 {
        // SAFETY: the context is alive.
        unsafe { api!(RedisModule_GetClientId(self.raw)) }
    }

    /// Whether a connection has CLIENT TRACKING on.
    pub(crate) fn is_tracking(client: u64) -> bool {
        Self::client_has(client, raw::REDISMODULE_CLIENTINFO_FLAG_TRACKING)
    }

    /// Whether a connection has begun a transaction that it has not ended.
    pub(super) fn is_in_transaction(client: u64) -> bool {
        Self::client_has(client, raw::REDISMODULE_CLIENTINFO_FLAG_MULTI)
    }

    fn client_has(client: u64, flag: u32) -> bool {
        Self::client_info(client).is_some_and(|info| info.flags & u64::from(flag) != 0)
    }

    /// A connection's flags and selected database; `None` if there is no such connection.
    pub(super) fn client_info(client: u64) -> Option<raw::RedisModuleClientInfo> {
        // SAFETY: a structure of numbers, of version 1, as `version` states. For an unknown client it stays unchanged.
        unsafe {
            let mut info: raw::RedisModuleClientInfo = std::mem::zeroed();
            info.version = 1;
            let found = api!(RedisModule_GetClientInfoById(
                (&raw mut info).cast(),
                client
            ));
            (found == OK).then_some(info)
        }
    }

    /// Runs a command without propagating it, and ignores its reply.
    pub(super) fn call(&self, command: &str, arguments: &[&[u8]]) {
        _ = self.sdk().call(command, arguments);
    }

    /// Outside of any command: propagates what is pending. Servers do so at the end of each command.
    pub(super) fn propagate(&self) {
        let propagates = CallOptionsBuilder::new().replicate().build();
        let none: &[&str] = &[];
        let _: CallResult<'_> = self.sdk().call_ext("CACHE.CLOCK", &propagates, none);
    }

    /// Whether keys can be looked up on behalf of this connection while none of its commands runs.
    pub(super) fn is_lookup_safe_for(&self, client: u64) -> bool {
        let touches = || {
            let words = ["LIST", "ID", &client.to_string()];
            let line = self.sdk().call("CLIENT", &words[..]).ok();
            let line = line.and_then(|line| String::try_from(line).ok())?;
            let flags = line.split(' ').find_map(|word| word.strip_prefix("flags="));
            Some(!flags.is_some_and(|flags| flags.contains('T')))
        };
        !Context::stops_on_no_touch() || touches() == Some(true)
    }

    /// Whether the server stops if a key is looked up for a client with CLIENT NO-TOUCH while no command runs.
    pub(super) fn stops_on_no_touch() -> bool {
        STOPS_ON_NO_TOUCH.load(Ordering::Relaxed)
    }

    /// Whether the server finds keys by their number when values stand between them, as it does for its own MSETEX
    /// (Redis 8.4 and newer, Valkey 9.1). Other servers take the number of keys for the number of arguments.
    pub(super) fn finds_numbered_pairs(&self) -> bool {
        let words = ["GETKEYS", "MSETEX", "2", "k", "v", "k", "v"];
        let found = self.sdk().call("COMMAND", &words);
        matches!(found, Ok(RedisValue::Array(keys)) if keys.len() == 2)
    }

    /// The cluster's current epoch, if this server is in a cluster. O(hash slots), some dozens of microseconds.
    pub(crate) fn cluster_epoch(&self) -> Option<u64> {
        if !self.is_cluster() {
            return None;
        }
        let reply = self.sdk().call("CLUSTER", &["INFO"]).ok()?;
        let text = String::try_from(reply).ok()?;
        let mut lines = text.lines();
        lines.find_map(|line| line.strip_prefix("cluster_current_epoch:")?.parse().ok())
    }

    /// The keys of a hash slot, in the context's database.
    pub(super) fn keys_in_slot(&self, slot: i64) -> Vec<OwnedStr> {
        let words = ["GETKEYSINSLOT", &slot.to_string(), &i32::MAX.to_string()];
        let names = self.sdk().call("CLUSTER", &words);
        names.map_or_else(|_| Vec::new(), strings)
    }

    /// A step of SCAN for the entries of the context's database: the next cursor, "0" after the last step, and some names.
    pub(super) fn scan(&self, cursor: &str) -> Option<(String, Vec<OwnedStr>)> {
        // SCAN removes expired keys, and this must be propagated.
        let propagated = CallOptionsBuilder::new().replicate().build();
        let words = [cursor.as_bytes(), b"TYPE", TYPE_NAME.to_bytes()];
        let reply: CallResult<'_> = self.sdk().call_ext("SCAN", &propagated, &words[..]);
        let RedisValue::Array(parts) = RedisValue::from(&reply) else {
            return None;
        };
        let [next, names] = parts.try_into().ok()?;
        Some((String::try_from(next).ok()?, strings(names)))
    }

    pub(crate) fn open(&self, name: Str<'_>, mode: Mode) -> Key {
        let mode = match mode {
            Mode::Read => raw::REDISMODULE_READ,
            Mode::Peek => raw::REDISMODULE_READ | raw::REDISMODULE_OPEN_KEY_NOTOUCH,
            Mode::Look if KNOWN.load(Ordering::Relaxed) & SILENT == SILENT => {
                raw::REDISMODULE_READ | SILENT
            }
            Mode::Look => UNTOUCHED,
            Mode::Write => raw::REDISMODULE_READ | raw::REDISMODULE_WRITE,
            Mode::Upkeep => {
                let trimmed = raw::REDISMODULE_OPEN_KEY_ACCESS_TRIMMED;
                UNTOUCHED | KNOWN.load(Ordering::Relaxed) & trimmed
            }
        };
        // SAFETY: context and name are alive; the key is closed by its drop, within the callback.
        unsafe {
            let key = often!(RedisModule_OpenKey(self.raw, name.as_raw(), mode as c_int));
            Key::from_raw(key, mode & raw::REDISMODULE_WRITE != 0)
        }
    }

    /// Whether a key that the index holds is not expired. Always true inside MULTI and scripts in a cluster: there,
    /// servers with a hash table per hash slot look for every key in the hash slot of the block's keys.
    pub(crate) fn exists(&self, name: Str<'_>) -> bool {
        // SAFETY: context and name are alive.
        (self.is_atomic_block() && self.is_cluster())
            || unsafe { api!(RedisModule_KeyExists(self.raw, name.as_raw())) == 1 }
    }

    fn set_options(&self, options: u32) {
        // SAFETY: the context is alive.
        unsafe { api!(RedisModule_SetModuleOptions(self.raw, options as c_int)) };
    }

    /// Sends a keyspace notification of the module's class.
    pub(crate) fn notify(&self, event: &CStr, name: Str<'_>) {
        self.notify_class(raw::REDISMODULE_NOTIFY_MODULE, event, name);
    }

    pub(super) fn notify_class(&self, class: c_int, event: &CStr, name: Str<'_>) {
        let (event, name) = (event.as_ptr(), name.as_raw());
        // SAFETY: context, event and name are alive.
        unsafe {
            often!(RedisModule_NotifyKeyspaceEvent(
                self.raw, class, event, name
            ))
        };
    }

    /// Publishes a message on a channel, to the clients of this server and of its cluster.
    pub(crate) fn publish(&self, channel: Str<'_>, message: Str<'_>) {
        let (channel, message) = (channel.as_raw(), message.as_raw());
        // SAFETY: context and strings are alive.
        unsafe { api!(RedisModule_PublishMessage(self.raw, channel, message)) };
    }

    // ---- replication ----

    /// Propagates the running command as it came.
    #[inline(always)]
    pub(crate) fn replicate_verbatim(&self) {
        // SAFETY: the context is alive.
        unsafe { often!(RedisModule_ReplicateVerbatim(self.raw)) };
    }

    /// Propagates another command instead.
    pub(crate) fn replicate(&self, command: &CStr, parts: &[Str<'_>]) {
        let (command, format) = (command.as_ptr(), c"v".as_ptr());
        let (strings, len) = (parts.as_ptr(), parts.len());
        // SAFETY: "v" takes an array of strings, which it only reads, and its length; all of them are alive.
        unsafe {
            api!(RedisModule_Replicate(
                self.raw, command, format, strings, len
            ))
        };
    }

    /// The same for words that are not strings of the server.
    pub(crate) fn replicate_words(&self, command: &str, words: &[&[u8]]) {
        raw::replicate(self.raw, command, words);
    }

    // ---- replies ----

    /// Counts an element of the reply, and those that it announces.
    #[inline(always)]
    fn replied(&self, announced: usize) {
        if announced > 0 {
            self.reply_begun.set(true);
        }
        self.reply_owed
            .set(self.reply_owed.get() + announced as isize - 1);
    }

    /// Ends a reply that broke off. No client may take it for a complete one: if a part was sent, the client is closed.
    /// If there is no client to close (in a script, or in a call of another module), the rest is filled with errors.
    #[cold]
    pub(super) fn end_reply(&self) {
        let owed = self.reply_owed.get();
        if owed <= 0 {
            return;
        }
        if self.reply_begun.get() && !self.is_replay() && self.close(self.client_id()) {
            return;
        }
        for _ in 0..owed {
            self.reply_error(&Error::Internal);
        }
    }

    /// Closes a client. Returns false if there is no client with this number.
    fn close(&self, client: u64) -> bool {
        // SAFETY: the context is alive. For a number that is no client's, the call returns an error. Numbers are not
        // reused.
        let deauthenticate = move |ctx: &Context<'_>| unsafe {
            api!(RedisModule_DeauthenticateAndCloseClient(ctx.raw, client))
        };
        let is_closed = deauthenticate(self) == OK;
        if is_closed {
            // It closes after its command. A client that gets its reply after a wait runs none, so this is repeated.
            self.after(1, move |ctx| _ = deauthenticate(ctx));
        }
        is_closed
    }

    /// Runs a function after this time, with a context that the server passes.
    pub(super) fn after(&self, ms: u64, run: impl FnOnce(&Context<'_>) + 'static) {
        static NUMBERS: AtomicUsize = AtomicUsize::new(0);
        let number = NUMBERS.fetch_add(1, Ordering::Relaxed);
        let what = Later {
            due_ms: monotonic_ms().saturating_add(ms),
            timer: self.start_timer(ms, number),
            run: Box::new(run),
        };
        LATER.0.borrow_mut().insert(number, what);
    }

    /// Starts all timers anew if one is late. The server's go by the time of day. If that is set back by an hour, a
    /// pending timer runs an hour late, and so do timers that are due after it if the time is set forward again.
    pub(super) fn run_overdue(&self) {
        const LATE_MS: u64 = 100;
        let now_ms = monotonic_ms();
        let mut later = LATER.0.borrow_mut();
        if !later.values().any(|what| what.due_ms + LATE_MS < now_ms) {
            return;
        }
        for what in later.values() {
            _ = self.sdk().stop_timer::<usize>(what.timer);
        }
        for (&number, what) in &mut *later {
            let left_ms = what.due_ms.saturating_sub(now_ms);
            what.timer = self.start_timer(left_ms, number);
        }
    }

    fn start_timer(&self, ms: u64, number: usize) -> raw::RedisModuleTimerID {
        fn on_timer(ctx: &redis_module::Context, number: usize) {
            // SAFETY: the server passes a live context.
            let ctx = unsafe { Context::from_raw(ctx.get_raw()) };
            let later = LATER.0.borrow_mut().remove(&number);
            if let Some(Later { run, .. }) = later {
                guard(Place::Other, (), || run(&ctx));
            }
        }
        let period = Duration::from_millis(ms);
        self.sdk().create_timer(period, on_timer, number)
    }

    #[cold]
    pub(crate) fn reply_error(&self, error: &Error) {
        self.replied(0);
        if *error == Error::WrongArity {
            // SAFETY: the context is that of a command.
            unsafe { api!(RedisModule_WrongArity(self.raw)) };
            return;
        }
        let text = CString::new(error.to_string()).unwrap_or_default();
        // SAFETY: the context is alive, and the text a C string.
        unsafe { api!(RedisModule_ReplyWithError(self.raw, text.as_ptr())) };
    }

    #[inline(always)]
    pub(crate) fn reply_ok(&self) {
        self.replied(0);
        if !KEPT_OK.send(self) {
            raw::reply_with_simple_string(self.raw, c"OK".as_ptr());
        }
    }

    /// Replies with the word for a fresh value.
    pub(crate) fn reply_hit(&self) {
        if KEPT_HIT.send(self) {
            self.replied(0);
        } else {
            self.reply_bytes(b"HIT");
        }
    }

    pub(crate) fn reply_null(&self) {
        self.replied(0);
        raw::reply_with_null(self.raw);
    }

    pub(crate) fn reply_integer(&self, number: i64) {
        self.replied(0);
        // SAFETY: the context is alive.
        unsafe { often!(RedisModule_ReplyWithLongLong(self.raw, number)) };
    }

    pub(crate) fn reply_double(&self, number: f64) {
        self.replied(0);
        raw::reply_with_double(self.raw, number);
    }

    pub(crate) fn reply_bytes(&self, bytes: &[u8]) {
        self.replied(0);
        let (start, len) = (bytes.as_ptr().cast(), bytes.len());
        // SAFETY: the context is alive, and the bytes are copied.
        unsafe { often!(RedisModule_ReplyWithStringBuffer(self.raw, start, len)) };
    }

    pub(crate) fn reply_array(&self, len: usize) {
        self.replied(len);
        // SAFETY: the context is alive.
        unsafe { often!(RedisModule_ReplyWithArray(self.raw, len as c_long)) };
        panic_point(Place::Reply);
    }

    /// An array of strings.
    #[inline(always)]
    pub(crate) fn reply_list<'b>(&self, strings: impl ExactSizeIterator<Item = &'b [u8]>) {
        self.reply_array(strings.len());
        strings.for_each(|string| self.reply_bytes(string));
    }

    /// Pairs of a map.
    pub(crate) fn reply_fields(&self, fields: &[(&str, u64)]) {
        for &(name, number) in fields {
            self.reply_bytes(name.as_bytes());
            self.reply_integer(number as i64);
        }
    }

    /// For replies from inside [`state::with`](super::state::with): no call that replies calls the module back.
    pub(crate) const fn sender(&self) -> CallsNothingBack<&Self> {
        CallsNothingBack::new(self)
    }

    /// A map of this many pairs; a flat array in RESP2.
    pub(crate) fn reply_map(&self, pairs: usize) {
        self.replied(2 * pairs);
        raw::reply_with_map(self.raw, pairs as i64);
        panic_point(Place::Reply);
    }
}

/// The strings in a reply.
fn strings(reply: RedisValue) -> Vec<OwnedStr> {
    let RedisValue::Array(parts) = reply else {
        return Vec::new();
    };
    let strings = parts.into_iter().filter_map(|part| match part {
        RedisValue::SimpleString(text) => Some(OwnedStr::new(text.as_bytes())),
        RedisValue::StringBuffer(bytes) => Some(OwnedStr::new(&bytes)),
        _ => None,
    });
    strings.collect()
}

/// The present, and how long this thread has run.
pub(super) fn moment() -> Moment {
    let read = |clock| {
        let mut time = libc::timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        // SAFETY: the structure is ours. Both clocks exist wherever the server runs; if not, the time stays 0.
        unsafe { libc::clock_gettime(clock, &raw mut time) };
        Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
    };
    Moment {
        wall: read(libc::CLOCK_MONOTONIC),
        ran: read(libc::CLOCK_THREAD_CPUTIME_ID),
    }
}

/// The time of the running command, unix ms, if the server has that call (Redis 7.2 and newer, Valkey).
pub(crate) fn command_time_ms() -> Option<u64> {
    // SAFETY: takes nothing; looked up because Redis 7.0 lacks it.
    unsafe { raw::RedisModule_CachedMicroseconds.map(|now| now() as u64 / 1000) }
}

/// The time, unix ms.
pub(crate) fn now_ms() -> u64 {
    // SAFETY: takes nothing.
    unsafe { often!(RedisModule_Milliseconds()) as u64 }
}

/// A clock that only goes forward, ms, for times that only this node uses.
pub(crate) fn monotonic_ms() -> u64 {
    // SAFETY: takes nothing.
    unsafe { api!(RedisModule_MonotonicMicroseconds()) / 1000 }
}

pub(crate) fn random() -> u64 {
    let mut bytes = [0; 8];
    // SAFETY: the call writes as many bytes as the array has.
    unsafe { api!(RedisModule_GetRandomBytes(bytes.as_mut_ptr(), bytes.len())) };
    u64::from_ne_bytes(bytes)
}
