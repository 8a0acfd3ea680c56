//! The commands that are compared, and the code that sends them.

use std::io::Result;
use std::time::{Duration, Instant};

use tagcache_tests::{RawClient, Rng, Server, call};

use crate::wire::{Expect, Tape, Wire};

/// Connections that send at the same time: while the replies of one are read, the commands of others wait at the
/// server, so that it never waits for the client.
const CONNECTIONS: usize = 8;

/// An hour: nothing expires during a measurement.
const TTL_MS: &[u8] = b"3600000";

/// The commands of a client on plain Redis to set a value with any number of tags, in the one round trip that a script
/// needs.
pub(crate) const LUA_SET: &str = "redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
for i = 2, #KEYS do redis.call('SADD', KEYS[i], KEYS[1]) end
return 1";

/// One variant of the work; each uses its own database, with the same keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// `SET PX`
    Native,
    /// `CACHE.SET PX`
    Untagged,
    /// `CACHE.SET PX TAGS 2`, both tags shared with other entries
    TwoTags,
    /// `EVALSHA`: `SET PX` and two `SADD`
    Lua,
    /// `CACHE.FETCH`, entries without tags
    Fetch,
    /// `CACHE.FETCH`, entries with two tags
    FetchTwoTags,
    /// `CACHE.GET`, entries with two tags, in a database with soft marks
    Marked,
}

impl Way {
    pub(crate) fn db(self) -> u32 {
        self as u32
    }

    pub(crate) fn set_name(self) -> &'static str {
        match self {
            Self::Native => "SET PX",
            Self::Untagged | Self::Fetch => "CACHE.SET PX",
            Self::TwoTags | Self::FetchTwoTags | Self::Marked => "CACHE.SET PX TAGS 2",
            Self::Lua => "Lua: SET PX + 2 SADD",
        }
    }

    pub(crate) fn get_name(self) -> &'static str {
        match self {
            Self::Native | Self::Lua => "GET",
            Self::Untagged => "CACHE.GET",
            Self::TwoTags => "CACHE.GET, entries with 2 tags",
            Self::Fetch => "CACHE.FETCH",
            Self::FetchTwoTags => "CACHE.FETCH, entries with 2 tags",
            Self::Marked => "CACHE.GET, entries with 2 tags, others stale",
        }
    }
}

/// 13 bytes.
pub(crate) fn key(number: usize) -> String {
    format!("key:{number:09}")
}

/// The two tags of a key: one of 1000 tenants and one of 64 kinds. With the 200,000 keys of the memory figures the
/// tables of native sets are then about three quarters full, neither their best case nor their worst.
pub(crate) fn shared_tags(number: usize) -> (String, String) {
    (
        format!("tenant:{:03}", number % 1000),
        format!("kind:{:02}", number % 64),
    )
}

/// 100 bytes, different for each key.
pub(crate) fn value(number: usize) -> String {
    format!("{number:0100}")
}

/// Loads the script for [`Way::Lua`].
pub(crate) fn load_script(server: &Server) -> Vec<u8> {
    call!(server.raw(), "SCRIPT", "LOAD", LUA_SET)
        .bytes()
        .to_vec()
}

/// `CACHE.SET` with a TTL.
pub(crate) fn push_cache_set(tape: &mut Tape, key: &[u8], value: &[u8], tags: &[&[u8]]) {
    let count = tags.len().to_string();
    let mut args = vec![b"CACHE.SET", key, value, b"PX", TTL_MS];
    if !tags.is_empty() {
        args.extend([b"TAGS", count.as_bytes()]);
        args.extend(tags);
    }
    tape.push(&args);
}

/// The commands of a client without a script on plain Redis: `SET`, and `SADD` per tag.
pub(crate) fn push_set_and_sadd(tape: &mut Tape, key: &[u8], value: &[u8], tags: &[&[u8]]) {
    tape.push(&[b"SET", key, value, b"PX", TTL_MS]);
    for tag in tags {
        tape.push(&[b"SADD", tag, key]);
    }
}

/// `SET`s of these keys.
pub(crate) fn sets(way: Way, script: &[u8], numbers: impl Iterator<Item = usize>) -> Tape {
    let mut tape = Tape::default();
    for number in numbers {
        let (key, value) = (key(number), value(number));
        let (key, value) = (key.as_bytes(), value.as_bytes());
        let (tenant, kind) = shared_tags(number);
        let (tenant, kind) = (tenant.as_bytes(), kind.as_bytes());
        match way {
            Way::Native => tape.push(&[b"SET", key, value, b"PX", TTL_MS]),
            Way::Untagged | Way::Fetch => push_cache_set(&mut tape, key, value, &[]),
            Way::TwoTags | Way::FetchTwoTags | Way::Marked => {
                push_cache_set(&mut tape, key, value, &[tenant, kind]);
            }
            Way::Lua => tape.push(&[b"EVALSHA", script, b"3", key, tenant, kind, value, TTL_MS]),
        }
    }
    tape
}

/// `GET`s of these keys.
pub(crate) fn gets(way: Way, numbers: impl Iterator<Item = usize>) -> Tape {
    let mut tape = Tape::default();
    for number in numbers {
        let command: &[u8] = match way {
            Way::Native | Way::Lua => b"GET",
            Way::Untagged | Way::TwoTags | Way::Marked => b"CACHE.GET",
            Way::Fetch | Way::FetchTwoTags => b"CACHE.FETCH",
        };
        tape.push(&[command, key(number).as_bytes()]);
    }
    tape
}

/// Keys chosen at random, the same for every way.
pub(crate) fn random_keys(keys: usize, count: usize, seed: u64) -> impl Iterator<Item = usize> {
    let mut rng = Rng::new(seed);
    (0..count).map(move |_| rng.below(keys))
}

/// The keys `0..count`, each once, in random order.
pub(crate) fn shuffled_keys(count: usize, seed: u64) -> Vec<usize> {
    let mut rng = Rng::new(seed);
    let mut keys: Vec<usize> = (0..count).collect();
    for last in (1..count).rev() {
        keys.swap(last, rng.below(last + 1));
    }
    keys
}

/// The result of a sample.
#[derive(Clone, Copy)]
pub(crate) struct Sample {
    /// Commands per second.
    pub(crate) rate: f64,
    /// Processor time of the server's main thread per command.
    pub(crate) cpu_us: f64,
    /// The share of time in which the server's main thread was busy: near 1 if the server is the bottleneck.
    pub(crate) busy: f64,
}

/// The end of a sample.
#[derive(Clone, Copy)]
pub(crate) enum Until {
    /// After that time; the tape is sent repeatedly.
    Elapsed(Duration),
    /// After each command of the tape was sent once.
    EndOfTape,
}

/// Connections of one way.
pub(crate) struct Driver {
    wires: Vec<Wire>,
    watch: RawClient,
}

impl Driver {
    pub(crate) fn connect(server: &Server, way: Way) -> Result<Self> {
        let wires = (0..CONNECTIONS).map(|_| Wire::connect(server.port(), way.db()));
        Ok(Self {
            wires: wires.collect::<Result<_>>()?,
            watch: server.raw(),
        })
    }

    /// Sends the tape, with `depth` commands per round trip on each connection.
    pub(crate) fn run(
        &mut self,
        tape: &Tape,
        depth: usize,
        until: Until,
        expect: Expect,
    ) -> Result<Sample> {
        let cpu_before = cpu_seconds(&mut self.watch);
        let start = Instant::now();
        // The number of replies that each connection waits for.
        let mut waiting = vec![0; self.wires.len()];
        let (mut next, mut sent) = (0, 0);
        loop {
            for (wire, waiting) in self.wires.iter_mut().zip(&mut waiting) {
                wire.receive(*waiting, expect)?;
                let last = (next + depth).min(tape.len());
                wire.send(tape.commands(next, last))?;
                *waiting = last - next;
                sent += *waiting;
                next = last;
                if next == tape.len() {
                    if matches!(until, Until::EndOfTape) {
                        break;
                    }
                    next = 0;
                }
            }
            match until {
                Until::Elapsed(time) if start.elapsed() >= time => break,
                Until::EndOfTape if next == tape.len() => break,
                _ => {}
            }
        }
        for (wire, waiting) in self.wires.iter_mut().zip(waiting) {
            wire.receive(waiting, expect)?;
        }
        let time = start.elapsed().as_secs_f64();
        let cpu = cpu_seconds(&mut self.watch) - cpu_before;
        let sent = sent as f64;
        Ok(Sample {
            rate: sent / time,
            cpu_us: cpu * 1e6 / sent,
            busy: cpu / time,
        })
    }
}

/// Processor time of the server's main thread so far.
pub(crate) fn cpu_seconds(client: &mut RawClient) -> f64 {
    let info = call!(client, "INFO", "cpu").text();
    ["used_cpu_user_main_thread:", "used_cpu_sys_main_thread:"]
        .iter()
        .filter_map(|name| info.lines().find_map(|line| line.strip_prefix(name)))
        .filter_map(|value| value.trim().parse::<f64>().ok())
        .sum()
}

/// Empties the server, and waits until all memory is released.
pub(crate) fn empty(client: &mut RawClient) {
    let reply = call!(client, "FLUSHALL", "SYNC");
    assert!(!reply.is_error(), "FLUSHALL: {reply:?}");
    settle(client);
}

/// Waits until the server's memory stays the same (tables shrink and grow step by step), and returns its size.
pub(crate) fn settle(client: &mut RawClient) -> i64 {
    let deadline = Instant::now() + Duration::from_secs(20);
    let mut last = used_memory(client);
    let mut same = 0;
    while same < 5 && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(60));
        let now = used_memory(client);
        // Buffers of connections change all the time.
        same = if (now - last).abs() <= 4096 {
            same + 1
        } else {
            0
        };
        last = now;
    }
    last
}

pub(crate) fn used_memory(client: &mut RawClient) -> i64 {
    let info = call!(client, "INFO", "memory").text();
    let value = info
        .lines()
        .find_map(|line| line.strip_prefix("used_memory:"));
    value
        .and_then(|value| value.trim().parse().ok())
        .expect("INFO memory says used_memory")
}
