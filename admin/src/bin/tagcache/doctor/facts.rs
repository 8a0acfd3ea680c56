//! Reads the facts that the checks need from a server, without changing anything there.

use std::collections::HashMap;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use redis::{ErrorKind, RedisError, RedisResult};
use tagcache_admin::memory::Server;

use crate::args::At;
use crate::look::version_among;
use crate::output::Failure;

/// The settings that are read.
const SETTINGS: [&str; 7] = [
    "save",
    "appendonly",
    "appendfsync",
    "maxmemory-policy",
    "client-output-buffer-limit",
    "tagcache.after-restart",
    "tagcache.default-ttl-ms",
];
/// Commands that an application's cache sends, with arguments that every check of syntax passes.
const APPLICATION: [&[&str]; 11] = [
    &["ping"],
    &["client", "tracking", "on"],
    &["cache.fetch", "key"],
    &["cache.set", "key", "value"],
    &["cache.del", "key"],
    &["cache.touch", "key", "persist"],
    &["cache.release", "key", "1"],
    &["cache.hits", "key", "1"],
    &["cache.invalidate", "tag"],
    &["cache.revalidate", "tag"],
    &["cache.clock"],
];
/// Commands that this program sends.
const PROGRAM: [&[&str]; 9] = [
    &["info"],
    &["dbsize"],
    &["config", "get", "maxmemory"],
    &["cache.stats"],
    &["cache.top"],
    &["cache.tagtop"],
    &["cache.taginfo", "tag"],
    &["cache.tagscan", "tag", "0"],
    &["cache.inspect", "key"],
];
/// Time between the two reads of the backlog.
const PAUSE: Duration = Duration::from_millis(500);

pub(super) type Named = HashMap<String, String>;

pub(super) struct Facts {
    /// INFO; empty if the user may not run it.
    pub(super) info: Named,
    /// Memory of the server's container in bytes, if it was given.
    pub(super) container: Option<u64>,
    pub(super) module: Module,
    /// `CONFIG GET`, if the user may run it.
    pub(super) config: Option<Named>,
    /// `CACHE.STATS`, if the module is loaded and the user may run it.
    pub(super) stats: Option<Named>,
    /// Dropped entries whose memory is not reclaimed, now and a moment later.
    pub(super) backlog: (u64, u64),
    /// Tags that no entry carries, if all tags could be read.
    pub(super) empty_tags: Option<Vec<Vec<u8>>>,
    pub(super) user: User,
    /// The server's clock minus this machine's.
    pub(super) clock: Option<Skew>,
    pub(super) replicas: Vec<Replica>,
}

/// The module in the list of modules.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Module {
    Version(String),
    Missing,
    /// The user may not list modules, or the server cannot be reached.
    Unknown(String),
}

/// A user, and the commands that it may not run.
pub(super) struct User {
    pub(super) name: String,
    /// Whether `--user` named it; otherwise it is the user that doctor connects as.
    pub(super) named: bool,
    /// Commands that it may not run; `None` if the server cannot report them.
    pub(super) refused: Option<Refused>,
}

#[derive(Default)]
pub(super) struct Refused {
    pub(super) application: Vec<String>,
    pub(super) program: Vec<String>,
    /// The channel of invalidations.
    pub(super) channel: Option<String>,
}

/// A difference between clocks, in milliseconds, and its margin of error.
#[derive(Clone, Copy, Debug)]
pub(super) struct Skew {
    pub(super) ms: i64,
    pub(super) margin_ms: i64,
}

pub(super) struct Replica {
    pub(super) address: String,
    pub(super) online: bool,
    pub(super) module: Module,
    pub(super) clock: Option<Skew>,
}

impl Facts {
    pub(super) fn gather(server: &Server, at: &At, user: Option<&str>) -> Result<Self, Failure> {
        let info = allowed(server.command::<String>("INFO", &[b"everything"]))?;
        let mut module = match &info {
            Some(info) => module_in(info),
            None => Module::Unknown("the user may not run INFO".into()),
        };
        let stats = match server.command::<Named>("CACHE.STATS", &[]) {
            Ok(stats) => Some(stats),
            Err(error) if refused(&error) => None,
            Err(error)
                if error.kind() == ErrorKind::Server(redis::ServerErrorKind::ResponseError) =>
            {
                module = Module::Missing;
                None
            }
            Err(error) => return Err(error.into()),
        };
        let backlog = backlog(server, stats.as_ref());
        let info = info.map(|info| parse(&info)).unwrap_or_default();
        let replicas = replicas(server, &info);
        let settings: Vec<&[u8]> = SETTINGS.iter().map(|name| name.as_bytes()).collect();
        let settings = [&[b"GET".as_slice()], settings.as_slice()].concat();
        Ok(Self {
            container: at.memory_limit,
            module,
            config: allowed(server.command("CONFIG", &settings))?,
            backlog,
            empty_tags: empty_tags(server, stats.as_ref()),
            stats,
            user: user_of(server, user)?,
            clock: skew(server),
            replicas,
            info,
        })
    }
}

/// The reply, or `None` if the user may not run the command; an unreachable server is an error.
fn allowed<T>(reply: RedisResult<T>) -> Result<Option<T>, Failure> {
    match reply {
        Ok(reply) => Ok(Some(reply)),
        Err(error) if refused(&error) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn refused(error: &RedisError) -> bool {
    error.code() == Some("NOPERM")
}

fn module_in(info: &str) -> Module {
    version_among(info).map_or(Module::Missing, Module::Version)
}

fn parse(info: &str) -> Named {
    let field = |line: &str| {
        let (name, value) = line.split_once(':')?;
        Some((name.to_owned(), value.trim_end().to_owned()))
    };
    info.lines().filter_map(field).collect()
}

pub(super) fn number(facts: &Named, name: &str) -> Option<f64> {
    facts.get(name)?.parse().ok()
}

fn backlog(server: &Server, stats: Option<&Named>) -> (u64, u64) {
    let of = |stats: &Named| number(stats, "reclaim_backlog").map_or(0, |n| n as u64);
    let first = stats.map_or(0, of);
    if first == 0 {
        return (0, 0);
    }
    std::thread::sleep(PAUSE);
    let later = server.command::<Named>("CACHE.STATS", &[]);
    (first, later.as_ref().map_or(first, of))
}

fn empty_tags(server: &Server, stats: Option<&Named>) -> Option<Vec<Vec<u8>>> {
    /// The maximum that CACHE.TAGTOP lists.
    const LIMIT: f64 = 10_000.0;
    if number(stats?, "tags")? > LIMIT {
        return None;
    }
    let args: [&[u8]; 4] = [b"BY", b"ENTRIES", b"LIMIT", b"10000"];
    let tags: Vec<(Vec<u8>, u64, u64)> = server.command("CACHE.TAGTOP", &args).ok()?;
    let empty = tags.into_iter().filter(|(_, entries, _)| *entries == 0);
    Some(empty.map(|(tag, ..)| tag).collect())
}

fn user_of(server: &Server, named: Option<&str>) -> Result<User, Failure> {
    let name = match named {
        Some(name) => name.to_owned(),
        None => allowed(server.command("ACL", &[b"WHOAMI"]))?.unwrap_or_else(|| "this user".into()),
    };
    let refused = match named_refused(server, &name) {
        Ok(refused) => Some(refused),
        Err(error) if refused(&error) => None,
        // For example, the user does not exist.
        Err(error) => return Err(error.into()),
    };
    Ok(User {
        name,
        named: named.is_some(),
        refused,
    })
}

/// Asks the server which commands it would refuse this user; none of them runs.
fn named_refused(server: &Server, user: &str) -> RedisResult<Refused> {
    let dry_run = |command: &[&str]| -> RedisResult<String> {
        let words = ["DRYRUN", user].into_iter().chain(command.iter().copied());
        let words: Vec<&[u8]> = words.map(str::as_bytes).collect();
        server.command("ACL", &words)
    };
    let refused = |commands: &[&[&str]]| -> RedisResult<Vec<String>> {
        let mut refused = Vec::new();
        for command in commands {
            // A key that does not match the user's patterns is no finding: doctor does not know which keys the user
            // needs. A command that this server does not have is an error.
            match dry_run(command) {
                Ok(answer) if answer.contains("to run") => {
                    let subcommands = ["client", "config"].contains(&command[0]);
                    let words = if subcommands { 2 } else { 1 };
                    refused.push(command[..words].join("|"));
                }
                Err(error) if error.code() == Some("NOPERM") || error.is_io_error() => {
                    return Err(error);
                }
                Ok(_) | Err(_) => {}
            }
        }
        Ok(refused)
    };
    let channel = format!("__cache@{}__:invalidate", server.database());
    let answer = dry_run(&["subscribe", &channel])?;
    Ok(Refused {
        application: refused(&APPLICATION)?,
        program: refused(&PROGRAM)?,
        channel: (answer != "OK").then_some(channel),
    })
}

fn skew(server: &Server) -> Option<Skew> {
    let unix_ms = |time: SystemTime| {
        time.duration_since(UNIX_EPOCH)
            .map(|d| d.as_millis() as i64)
    };
    let start = Instant::now();
    let before = unix_ms(SystemTime::now()).ok()?;
    let (seconds, micros): (i64, i64) = server.command("TIME", &[]).ok()?;
    let took = start.elapsed().as_millis() as i64;
    // The server read its clock at some time between request and reply.
    Some(Skew {
        ms: seconds * 1000 + micros / 1000 - before - took / 2,
        margin_ms: took / 2 + 1,
    })
}

/// Each replica's own view of itself; read with this server's user and password.
fn replicas(server: &Server, info: &Named) -> Vec<Replica> {
    let of = |i: u32| {
        let line = info.get(&format!("slave{i}"))?;
        let fields: HashMap<&str, &str> =
            line.split(',').filter_map(|f| f.split_once('=')).collect();
        let (ip, port) = (*fields.get("ip")?, fields.get("port")?.parse().ok()?);
        let replica = server.at(ip, port).ok()?;
        let module = match replica.command::<String>("INFO", &[b"modules"]) {
            Ok(info) => module_in(&info),
            Err(error) => Module::Unknown(Failure::server_message(&error)),
        };
        Some(Replica {
            address: format!("{ip}:{port}"),
            online: fields.get("state") == Some(&"online"),
            clock: skew(&replica),
            module,
        })
    };
    (0..).map_while(of).collect()
}
