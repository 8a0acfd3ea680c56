//! What a callback may ask of the server: replies, replication, notifications, keys.

use std::cell::Cell;
use std::ffi::{CStr, CString, c_int, c_void};
use std::marker::PhantomData;
use std::sync::atomic::{AtomicPtr, AtomicU32, Ordering};
use std::time::Duration;

use redis_module::raw;
use smallvec::SmallVec;

use super::barrier::{Place, panic_point};
use super::key::Key;
use super::string::Str;
use crate::engine::Moment;
use crate::error::Error;

/// The server's context of the callback that runs.
#[derive(Debug)]
pub(crate) struct Context<'a> {
    raw: *mut raw::RedisModuleCtx,
    /// Whether part of the reply was sent, and how many elements were announced and not sent yet.
    reply_begun: Cell<bool>,
    reply_owed: Cell<isize>,
    /// What the server says of the callback that runs. It does not change meanwhile, and costs more than looking a key up.
    flags: Cell<Option<u32>>,
    alive: PhantomData<&'a ()>,
}

/// How a key is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// To answer a read.
    Read,
    /// To look, without counting as a use.
    Peek,
    /// To look without any effect: no use counted, nothing expired (where the server can, Redis 7.0 cannot), a miss not
    /// reported.
    Look,
    /// To change it.
    Write,
    /// To change it without counting as a use; also a key whose slot went away and that is about to be removed.
    Upkeep,
}

/// [`Mode::Look`], as the server takes it. Opening for writing neither counts nor reports misses.
static LOOK: AtomicU32 = AtomicU32::new(
    raw::REDISMODULE_READ | raw::REDISMODULE_WRITE | raw::REDISMODULE_OPEN_KEY_NOTOUCH,
);

/// [`Mode::Upkeep`], as the server takes it.
static UPKEEP: AtomicU32 = AtomicU32::new(
    raw::REDISMODULE_READ | raw::REDISMODULE_WRITE | raw::REDISMODULE_OPEN_KEY_NOTOUCH,
);

/// Finds out whether the server can look at a key without any effect (Redis 7.2 and newer, Valkey), and whether it hides
/// keys of slots that went away (Redis 8.4 and newer).
pub(super) fn probe_modes() {
    let silent = raw::REDISMODULE_OPEN_KEY_NOTOUCH
        | raw::REDISMODULE_OPEN_KEY_NONOTIFY
        | raw::REDISMODULE_OPEN_KEY_NOSTATS
        | raw::REDISMODULE_OPEN_KEY_NOEXPIRE;
    // SAFETY: takes nothing; looked up because Redis 7.0 lacks it.
    let known = unsafe { raw::RedisModule_GetOpenKeyModesAll.map_or(0, |modes| modes() as u32) };
    if known & silent == silent {
        LOOK.store(raw::REDISMODULE_READ | silent, Ordering::Relaxed);
    }
    UPKEEP.fetch_or(
        known & raw::REDISMODULE_OPEN_KEY_ACCESS_TRIMMED,
        Ordering::Relaxed,
    );
}

/// For Valkey 9: entries may arrive with a slot that this node does not own yet. Other servers do not look at it.
const HANDLE_ATOMIC_SLOT_MIGRATION: u32 = 1 << 5;

/// How the module wants to be treated by the server.
static OPTIONS: AtomicU32 = AtomicU32::new(
    raw::REDISMODULE_OPTIONS_HANDLE_IO_ERRORS
        | raw::REDISMODULE_OPTIONS_HANDLE_REPL_ASYNC_LOAD
        | raw::REDISMODULE_OPTION_NO_IMPLICIT_SIGNAL_MODIFIED
        | HANDLE_ATOMIC_SLOT_MIGRATION,
);

/// Sets how the module wants to be treated. Redis 8.0 and 8.1 end themselves where a primary is lost while the header of a
/// module's value is read from it, so they are not asked to serve old data meanwhile: then they load from a file.
pub(super) fn choose_options(ctx: &Context<'_>) {
    if matches!(ctx.version("redis_version"), Some((8, 0 | 1))) {
        let option = raw::REDISMODULE_OPTIONS_HANDLE_REPL_ASYNC_LOAD;
        OPTIONS.fetch_and(!option, Ordering::Relaxed);
    }
    ctx.set_options(OPTIONS.load(Ordering::Relaxed));
}

/// A reply of the server's own that is sent again and again, as it is: for a reply that a module gives in parts or as text,
/// the server makes a string first, or writes each part by itself. Made once, by `load`.
struct Kept {
    reply: AtomicPtr<raw::RedisModuleCallReply>,
    proto: &'static [u8],
}

static OK: Kept = Kept::new(b"+OK\r\n");
static HIT: Kept = Kept::new(b"$3\r\nHIT\r\n");

impl Kept {
    const fn new(proto: &'static [u8]) -> Self {
        Self {
            reply: AtomicPtr::new(std::ptr::null_mut()),
            proto,
        }
    }

    /// Keeps what the server replied, unless that is something else.
    fn keep(&self, reply: *mut raw::RedisModuleCallReply) {
        let mut len = 0;
        // SAFETY: the reply is ours, or null, which both calls take; the protocol lives as long as it.
        unsafe {
            let proto = api!(RedisModule_CallReplyProto(reply, &raw mut len)).cast::<u8>();
            if !proto.is_null() && std::slice::from_raw_parts(proto, len) == self.proto {
                self.reply.store(reply, Ordering::Relaxed);
            } else if !reply.is_null() {
                api!(RedisModule_FreeCallReply(reply));
            }
        }
    }

    /// Sends it. False if it was not to be had.
    fn send(&self, ctx: &Context<'_>) -> bool {
        let reply = self.reply.load(Ordering::Relaxed);
        // SAFETY: the context is alive, and the reply is never freed.
        !reply.is_null() && unsafe { api!(RedisModule_ReplyWithCallReply(ctx.raw, reply)) } == 0
    }
}

/// Has the server give the replies that are kept, by commands that do nothing.
pub(super) fn keep_replies(ctx: &Context<'_>) {
    // SAFETY: the context is alive; "c" takes a C string.
    unsafe {
        OK.keep(api!(RedisModule_Call(
            ctx.raw,
            c"UNWATCH".as_ptr(),
            c"".as_ptr()
        )));
        let (echo, text) = (c"ECHO".as_ptr(), c"HIT".as_ptr());
        HIT.keep(api!(RedisModule_Call(ctx.raw, echo, c"c".as_ptr(), text)));
    }
}

/// A part of a replicated command.
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
        unsafe { api!(RedisModule_GetSelectedDb(self.raw)) as u32 }
    }

    /// Selects a database for this context. Only for contexts that are not a client's.
    pub(crate) fn select(&self, db: u32) {
        // SAFETY: the context is alive; an unknown number is answered with an error and changes nothing.
        unsafe { api!(RedisModule_SelectDb(self.raw, db as c_int)) };
    }

    fn flags(&self) -> u32 {
        self.flags.get().unwrap_or_else(|| {
            // SAFETY: the context is alive.
            let flags = unsafe { api!(RedisModule_GetContextFlags(self.raw)) as u32 };
            self.flags.set(Some(flags));
            flags
        })
    }

    /// The flags that are the server's, whatever the context.
    pub(super) fn server_flags() -> u32 {
        // SAFETY: a context is optional.
        unsafe { api!(RedisModule_GetContextFlags(std::ptr::null_mut())) as u32 }
    }

    /// Whether this is a command from the primary, or from an append-only file that is being loaded: what it says
    /// happened already, so nothing is decided anew.
    pub(crate) fn is_replay(&self) -> bool {
        // While a replica loads beside what it serves, commands come from clients.
        let loads = raw::REDISMODULE_CTX_FLAGS_LOADING | raw::REDISMODULE_CTX_FLAGS_ASYNC_LOADING;
        let flags = self.flags();
        flags & raw::REDISMODULE_CTX_FLAGS_REPLICATED != 0
            || flags & loads == raw::REDISMODULE_CTX_FLAGS_LOADING
    }

    /// Whether the command is only to name its keys, by [`Context::key_at`].
    pub(crate) fn wants_keys(&self) -> bool {
        // SAFETY: the context is alive.
        unsafe { api!(RedisModule_IsKeysPositionRequest(self.raw)) != 0 }
    }

    /// The argument at this place is a key whose value is replaced. The command's name is at 0.
    pub(crate) fn key_at(&self, position: usize) {
        let flags = raw::REDISMODULE_CMD_KEY_OW | raw::REDISMODULE_CMD_KEY_UPDATE;
        // SAFETY: the context is that of a command that is to name its keys.
        unsafe {
            api!(RedisModule_KeyAtPosWithFlags(
                self.raw,
                position as c_int,
                flags as c_int
            ));
        };
    }

    /// Whether this server has a primary.
    pub(crate) fn is_replica(&self) -> bool {
        self.flags() & raw::REDISMODULE_CTX_FLAGS_SLAVE != 0
    }

    /// Whether this server has a primary, or an append-only file.
    pub(crate) fn is_replica_or_logs(&self) -> bool {
        self.flags() & (raw::REDISMODULE_CTX_FLAGS_SLAVE | raw::REDISMODULE_CTX_FLAGS_AOF) != 0
    }

    /// Whether this comes from another primary whose slot migrates to this one.
    pub(crate) fn is_import(&self) -> bool {
        let here = raw::REDISMODULE_CTX_FLAGS_SLAVE | raw::REDISMODULE_CTX_FLAGS_LOADING;
        self.flags() & (raw::REDISMODULE_CTX_FLAGS_REPLICATED | here)
            == raw::REDISMODULE_CTX_FLAGS_REPLICATED
    }

    /// Whether this server is in a cluster.
    pub(crate) fn is_cluster(&self) -> bool {
        self.flags() & raw::REDISMODULE_CTX_FLAGS_CLUSTER != 0
    }

    /// Whether the server is loading its data.
    pub(crate) fn is_loading(&self) -> bool {
        self.flags() & raw::REDISMODULE_CTX_FLAGS_LOADING != 0
    }

    /// Whether this runs inside a script or function.
    pub(crate) fn is_script(&self) -> bool {
        self.flags() & raw::REDISMODULE_CTX_FLAGS_LUA != 0
    }

    /// Whether this runs inside MULTI or a script.
    pub(crate) fn is_atomic_block(&self) -> bool {
        self.flags() & (raw::REDISMODULE_CTX_FLAGS_MULTI | raw::REDISMODULE_CTX_FLAGS_LUA) != 0
    }

    /// Major and minor of a version that `INFO server` shows under this name.
    pub(crate) fn version(&self, field: &str) -> Option<(u32, u32)> {
        let field = CString::new(field).ok()?;
        // SAFETY: the context is alive; section and field are C strings. The information is freed, once, and with it the
        // text, which is read before.
        unsafe {
            let info = api!(RedisModule_GetServerInfo(self.raw, c"server".as_ptr()));
            let text = api!(RedisModule_ServerInfoGetFieldC(info, field.as_ptr()));
            let version = if text.is_null() {
                None
            } else {
                let text = CStr::from_ptr(text).to_string_lossy();
                let mut numbers = text.split('.').map(|number| number.parse().ok());
                numbers.next().flatten().zip(numbers.next().flatten())
            };
            api!(RedisModule_FreeServerInfo(self.raw, info));
            version
        }
    }

    /// A number of the server's INFO. `None` if it is not there.
    pub(super) fn info_number(&self, section: &CStr, field: &CStr) -> Option<u64> {
        let mut error = 0;
        // SAFETY: the context is alive; section and field are C strings. The information is freed, once.
        unsafe {
            let info = api!(RedisModule_GetServerInfo(self.raw, section.as_ptr()));
            let number = api!(RedisModule_ServerInfoGetFieldUnsigned(
                info,
                field.as_ptr(),
                &raw mut error
            ));
            api!(RedisModule_FreeServerInfo(self.raw, info));
            (error == 0).then_some(number)
        }
    }

    /// The connection that this command or wait belongs to; a script has a number of its own.
    pub(crate) fn client_id(&self) -> u64 {
        // SAFETY: the context is alive.
        unsafe { api!(RedisModule_GetClientId(self.raw)) }
    }

    /// Whether a connection has CLIENT TRACKING on.
    pub(crate) fn is_tracking(client: u64) -> bool {
        let mut info = raw::RedisModuleClientInfo {
            version: 1,
            flags: 0,
            id: 0,
            addr: [0; 46],
            port: 0,
            db: 0,
        };
        // SAFETY: the struct is of version 1, as it says. An unknown client leaves it as it is.
        unsafe {
            api!(RedisModule_GetClientInfoById(
                (&raw mut info).cast(),
                client
            ))
        };
        info.flags & u64::from(raw::REDISMODULE_CLIENTINFO_FLAG_TRACKING) != 0
    }

    /// Reads a key without any effect, so that it is tracked for the client that is being served.
    pub(crate) fn read_on_behalf(&self, name: Str<'_>) {
        // SAFETY: "s" takes a string; the reply is freed, null is taken.
        unsafe {
            let reply = api!(RedisModule_Call(
                self.raw,
                c"cache.inspect".as_ptr(),
                c"s".as_ptr(),
                name.as_raw()
            ));
            if !reply.is_null() {
                api!(RedisModule_FreeCallReply(reply));
            }
        }
    }

    /// The cluster's current epoch, if this server is in a cluster. O(slots), some dozens of microseconds.
    pub(crate) fn cluster_epoch(&self) -> Option<u64> {
        if self.flags() & raw::REDISMODULE_CTX_FLAGS_CLUSTER == 0 {
            return None;
        }
        // SAFETY: the context is alive; "c" takes a C string. The text lives as long as the reply, which is freed, once.
        unsafe {
            let reply = api!(RedisModule_Call(
                self.raw,
                c"CLUSTER".as_ptr(),
                c"c".as_ptr(),
                c"INFO".as_ptr()
            ));
            if reply.is_null() {
                return None;
            }
            let mut len = 0;
            let text = api!(RedisModule_CallReplyStringPtr(reply, &raw mut len));
            let epoch = if text.is_null() {
                None
            } else {
                let text = std::slice::from_raw_parts(text.cast::<u8>(), len);
                String::from_utf8_lossy(text)
                    .lines()
                    .find_map(|line| line.strip_prefix("cluster_current_epoch:")?.parse().ok())
            };
            api!(RedisModule_FreeCallReply(reply));
            epoch
        }
    }

    /// Whether the client may be made to wait: not inside MULTI, scripts and calls of other modules.
    pub(crate) fn may_block(&self) -> bool {
        let deny = raw::REDISMODULE_CTX_FLAGS_DENY_BLOCKING
            | raw::REDISMODULE_CTX_FLAGS_MULTI
            | raw::REDISMODULE_CTX_FLAGS_LUA;
        self.flags() & deny == 0
    }

    pub(crate) fn open(&self, name: Str<'_>, mode: Mode) -> Key {
        let mode = match mode {
            Mode::Read => raw::REDISMODULE_READ,
            Mode::Peek => raw::REDISMODULE_READ | raw::REDISMODULE_OPEN_KEY_NOTOUCH,
            Mode::Look => LOOK.load(Ordering::Relaxed),
            Mode::Write => raw::REDISMODULE_READ | raw::REDISMODULE_WRITE,
            Mode::Upkeep => UPKEEP.load(Ordering::Relaxed),
        };
        // SAFETY: context and name are alive; the key is closed by its drop, within the callback.
        unsafe {
            Key::from_raw(api!(RedisModule_OpenKey(
                self.raw,
                name.as_raw(),
                mode as c_int
            )))
        }
    }

    /// Whether a key that the index holds is not expired. Taken for a yes inside MULTI and scripts in a cluster: there,
    /// servers with a hash table per slot look for every key in the slot of the block's keys.
    pub(crate) fn exists(&self, name: Str<'_>) -> bool {
        // SAFETY: context and name are alive.
        (self.is_atomic_block() && self.is_cluster())
            || unsafe { api!(RedisModule_KeyExists(self.raw, name.as_raw())) == 1 }
    }

    /// Closes a key that was changed, and reports the change to WATCH and CLIENT TRACKING.
    ///
    /// The server does that by itself where a module does not opt out. `RM_SignalModifiedKey` is no way: on Redis 8.6 it
    /// looks the key up, which deletes it if it has expired, and that is propagated before the command that wrote it.
    pub(crate) fn close_modified(&self, key: Key) {
        let options = OPTIONS.load(Ordering::Relaxed);
        self.set_options(options & !raw::REDISMODULE_OPTION_NO_IMPLICIT_SIGNAL_MODIFIED);
        drop(key);
        self.set_options(options);
    }

    /// Sets the options of the module.
    fn set_options(&self, options: u32) {
        // SAFETY: the context is alive.
        unsafe { api!(RedisModule_SetModuleOptions(self.raw, options as c_int)) };
    }

    /// Sends a keyspace notification of the module's class.
    pub(crate) fn notify(&self, event: &CStr, name: Str<'_>) {
        // SAFETY: context, event and name are alive.
        unsafe {
            api!(RedisModule_NotifyKeyspaceEvent(
                self.raw,
                raw::REDISMODULE_NOTIFY_MODULE,
                event.as_ptr(),
                name.as_raw()
            ))
        };
    }

    /// Publishes a message on a channel, to the clients of this server and of its cluster.
    pub(crate) fn publish(&self, channel: Str<'_>, message: Str<'_>) {
        // SAFETY: context and strings are alive.
        unsafe {
            api!(RedisModule_PublishMessage(
                self.raw,
                channel.as_raw(),
                message.as_raw()
            ))
        };
    }

    // ---- replication ----

    /// Sends the command that runs to replicas and append-only file as it came.
    pub(crate) fn replicate_verbatim(&self) {
        // SAFETY: the context is that of a command.
        unsafe { api!(RedisModule_ReplicateVerbatim(self.raw)) };
    }

    /// Sends another command instead.
    pub(crate) fn replicate(&self, command: &CStr, parts: &[Str<'_>]) {
        let mut parts: SmallVec<[*mut raw::RedisModuleString; 16]> =
            parts.iter().map(|part| part.as_raw()).collect();
        // SAFETY: "v" takes an array of strings and its length; all of them are alive.
        unsafe {
            api!(RedisModule_Replicate(
                self.raw,
                command.as_ptr(),
                c"v".as_ptr(),
                parts.as_mut_ptr(),
                parts.len()
            ))
        };
    }

    // ---- replies ----

    /// Counts an element of the reply, and those that it announces.
    fn replied(&self, announced: usize) {
        self.reply_begun.set(true);
        self.reply_owed
            .set(self.reply_owed.get() + announced as isize - 1);
    }

    /// Ends a reply that broke off. Nobody may take it for a whole one, so the client is closed if part of it is on its
    /// way; where there is none to close (in a script, or in a call of another module), the rest is filled with errors.
    pub(super) fn end_reply(&self) {
        let owed = self.reply_owed.get();
        if owed <= 0 {
            return;
        }
        if self.reply_begun.get() && !self.is_replay() {
            // SAFETY: the context is alive.
            let client = unsafe { api!(RedisModule_GetClientId(self.raw)) };
            if self.close(client) {
                return;
            }
        }
        for _ in 0..owed {
            self.reply_error(&Error::Internal);
        }
    }

    /// Closes a client. False if there is none of this number.
    fn close(&self, client: u64) -> bool {
        // SAFETY: the context is alive. A number that is not a client's is answered with an error. A client is closed
        // when its command is done, but one that is answered after a wait is in no command: the timer closes it.
        unsafe {
            let closed = api!(RedisModule_DeauthenticateAndCloseClient(self.raw, client));
            if closed != raw::REDISMODULE_OK as c_int {
                return false;
            }
            api!(RedisModule_CreateTimer(
                self.raw,
                1,
                Some(close_later),
                client as usize as *mut c_void
            ));
        }
        true
    }

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

    pub(crate) fn reply_ok(&self) {
        self.replied(0);
        if !OK.send(self) {
            // SAFETY: as above.
            unsafe { api!(RedisModule_ReplyWithSimpleString(self.raw, c"OK".as_ptr())) };
        }
    }

    /// The word of a fresh value.
    pub(crate) fn reply_hit(&self) {
        if HIT.send(self) {
            self.replied(0);
        } else {
            self.reply_bytes(b"HIT");
        }
    }

    pub(crate) fn reply_null(&self) {
        self.replied(0);
        // SAFETY: the context is alive.
        unsafe { api!(RedisModule_ReplyWithNull(self.raw)) };
    }

    pub(crate) fn reply_integer(&self, number: i64) {
        self.replied(0);
        // SAFETY: the context is alive.
        unsafe { api!(RedisModule_ReplyWithLongLong(self.raw, number)) };
    }

    pub(crate) fn reply_double(&self, number: f64) {
        self.replied(0);
        // SAFETY: the context is alive.
        unsafe { api!(RedisModule_ReplyWithDouble(self.raw, number)) };
    }

    pub(crate) fn reply_bytes(&self, bytes: &[u8]) {
        self.replied(0);
        // SAFETY: the context is alive; the bytes are copied.
        unsafe {
            api!(RedisModule_ReplyWithStringBuffer(
                self.raw,
                bytes.as_ptr().cast(),
                bytes.len()
            ))
        };
    }

    pub(crate) fn reply_array(&self, len: usize) {
        self.replied(len);
        // SAFETY: the context is alive.
        unsafe { api!(RedisModule_ReplyWithArray(self.raw, len as i64)) };
        panic_point(Place::Reply);
    }

    /// Replies from inside [`state::with`](super::state::with).
    pub(crate) const fn sender(&self) -> Sender<'_> {
        Sender(self)
    }

    /// A map of this many pairs; a flat array in RESP2.
    pub(crate) fn reply_map(&self, pairs: usize) {
        self.replied(2 * pairs);
        // SAFETY: the context is alive.
        unsafe { api!(RedisModule_ReplyWithMap(self.raw, pairs as i64)) };
        panic_point(Place::Reply);
    }
}

/// Sends a reply: no call that does so calls the module back.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sender<'c>(&'c Context<'c>);

// SAFETY: used on the server's main thread only. The bound of `state::with` keeps out what may call the module back.
unsafe impl Send for Sender<'_> {}
// SAFETY: as above.
unsafe impl Sync for Sender<'_> {}

impl Sender<'_> {
    pub(crate) fn array(self, len: usize) {
        self.0.reply_array(len);
    }

    pub(crate) fn bytes(self, bytes: &[u8]) {
        self.0.reply_bytes(bytes);
    }
}

unsafe extern "C" fn close_later(ctx: *mut raw::RedisModuleCtx, client: *mut c_void) {
    // SAFETY: the server passes a live context. The number is never another client's.
    unsafe {
        api!(RedisModule_DeauthenticateAndCloseClient(
            ctx,
            client as usize as u64
        ))
    };
}

/// Now, and how long this thread ran until now.
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

/// The time that the running command goes by, unix ms, where the server has that call (Redis 7.2 and newer, Valkey).
pub(crate) fn command_time_ms() -> Option<u64> {
    // SAFETY: takes nothing; looked up because Redis 7.0 lacks it.
    unsafe { raw::RedisModule_CachedMicroseconds.map(|now| now() as u64 / 1000) }
}

/// The time, unix ms.
pub(crate) fn now_ms() -> u64 {
    // SAFETY: takes nothing.
    unsafe { api!(RedisModule_Milliseconds()) as u64 }
}

/// A clock that only goes forward, ms: for what concerns this node alone.
pub(crate) fn monotonic_ms() -> u64 {
    // SAFETY: takes nothing.
    unsafe { api!(RedisModule_MonotonicMicroseconds()) / 1000 }
}

/// A random number.
pub(crate) fn random() -> u64 {
    let mut bytes = [0; 8];
    // SAFETY: writes as many bytes as there are.
    unsafe { api!(RedisModule_GetRandomBytes(bytes.as_mut_ptr(), bytes.len())) };
    u64::from_ne_bytes(bytes)
}
