//! Selects a client's own database again after a COPY, on servers that do not do so.
//!
//! `DESIGN.md` (What the server's API does) has the reason. The servers are Valkey 8.1, 9.0 and 9.1 until 9.1.2
//! (valkey-io/valkey#4024). A filter looks before the commands: at each COPY, and at the commands that decide in which
//! database a COPY of a transaction or script will run. No filter sees the commands of an append-only file, so the
//! file contains the database before each COPY (CACHE.REPLAY SELECTED).

use std::collections::{HashMap, VecDeque};

use redis_module::raw;

use super::filter::{self, Command, Filter};
use super::{Context, Str, own, propagation, state};
use crate::args::parse_i64;
use crate::engine::Seeded;
use crate::native::word;

/// The commands that the filter has seen, that have not run yet, and that decide a COPY's database.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    clients: HashMap<u64, Client, Seeded>,
    /// The client that began a script or a transaction last, and the database that a script has selected since.
    caller: u64,
    chosen: Option<u32>,
    /// The database of the client that sent the last DEBUG.
    debugging: Option<u32>,
}

/// The commands of one client.
#[derive(Debug, Default)]
struct Client {
    /// The database that the last SELECT of its transaction chooses.
    chosen: Option<u32>,
    /// Each COPY that has not run yet: the address of its new key's name, which its event passes on, and the database
    /// that it runs in. Kept per client, since a command may wait (for the end of CLIENT PAUSE) while others run.
    copies: VecDeque<(usize, u32)>,
}

impl Seen {
    /// Takes the database in which a COPY to a key of this name began. Forgets earlier COPYs, which copied nothing.
    fn take(&mut self, client: u64, name: usize) -> Option<u32> {
        let copies = &mut self.clients.get_mut(&client)?.copies;
        while let Some((new, db)) = copies.pop_front() {
            if new == name {
                return Some(db);
            }
        }
        None
    }

    /// A client has disconnected.
    pub(super) fn forget(&mut self, client: u64) {
        self.clients.remove(&client);
    }
}

/// Installs the filter if the server needs it.
pub(super) fn watch(ctx: &Context<'_>) {
    const AFFECTED: [&str; 4] = ["8.1.", "9.0.", "9.1.0", "9.1.1"];
    let version = ctx.info(c"server", c"valkey_version");
    if version.is_some_and(|version| AFFECTED.iter().any(|begin| version.starts_with(begin))) {
        // The filter stays as long as the module.
        filter::register::<Copies>(ctx, raw::REDISMODULE_CMDFILTER_NOSELF);
    }
}

const COPY: u64 = word(b"copy");
const SELECT: u64 = word(b"select");
const MULTI: u64 = word(b"multi");
const DEBUG: u64 = word(b"debug");
/// Commands that run other commands.
const EXEC: u64 = word(b"exec");
const EVAL: u64 = word(b"eval");
const EVALSHA: u64 = word(b"evalsha");
const FCALL: u64 = word(b"fcall");

struct Copies;

impl Filter for Copies {
    fn look(command: &Command<'_>) {
        let name = command.name.bytes();
        if !(4..=7).contains(&name.len()) {
            return; // GET and SET.
        }
        let name = word(name);
        if let COPY | SELECT | MULTI | DEBUG | EXEC | EVAL | EVALSHA | FCALL = name {
            look(command, name);
        }
    }
}

fn look(command: &Command<'_>, name: u64) {
    let Some(client) = command.client() else {
        return;
    };
    let info = Context::client_info(client);
    let is_queued = info
        .is_some_and(|info| info.flags & u64::from(raw::REDISMODULE_CLIENTINFO_FLAG_MULTI) != 0);
    // The server has no information about a script's own client.
    let runs_script = Context::server_flags() & raw::REDISMODULE_CTX_FLAGS_LUA != 0;
    let is_script = runs_script && info.is_none();
    let asked = if is_script {
        Context::client_info(state::with(|state| state.copies.caller))
    } else {
        info
    };
    let selected = asked.map(|info| u32::from(info.db));
    let number = command.arg(1).and_then(|number| parse_i64(number.bytes()));
    let number = number.and_then(|number| u32::try_from(number).ok());
    let number = number.filter(|&db| name == SELECT && own().select(db));
    let new = command.arg(2).map(|new| new.as_raw() as usize);
    state::with(|state| {
        let seen = &mut state.copies;
        match name {
            MULTI if !is_queued => seen.forget(client),
            DEBUG => seen.debugging = selected,
            SELECT if is_queued => {
                let of_client = seen.clients.entry(client).or_default();
                of_client.chosen = number.or(of_client.chosen);
            }
            SELECT if is_script => seen.chosen = number.or(seen.chosen),
            MULTI | SELECT => {}
            COPY => {
                let script = seen.chosen.filter(|_| is_script);
                let of_client = seen.clients.entry(client).or_default();
                if !is_queued {
                    *of_client = Client::default();
                }
                let db = of_client.chosen.or(script).or(selected);
                of_client.copies.extend(new.zip(db));
            }
            _ if runs_script => {} // BUSY: commands of other clients are refused meanwhile.
            _ => (seen.caller, seen.chosen) = (client, None),
        }
    });
}

/// The database in which the COPY of this event began, unless the key is in that database now.
pub(super) fn begun_in(ctx: &Context<'_>, name: Str<'_>) -> Option<u32> {
    let (client, address) = (ctx.client_id(), name.as_raw() as usize);
    let from = state::with(|state| state.copies.take(client, address))?;
    if from == ctx.db() {
        return None;
    }
    if propagation::may_announce() {
        let ctx = own();
        ctx.select(from);
        ctx.replicate_words("CACHE.REPLAY", &[b"SELECTED"]);
    }
    Some(from)
}

/// DEBUG RELOAD selects the database of each loaded key on the client's connection.
pub(super) fn loaded() {
    if let Some(db) = state::with(|state| state.copies.debugging.take()) {
        let ctx = own();
        ctx.select(db);
        filter::select_again(&ctx);
    }
}
