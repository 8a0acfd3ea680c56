//! Random writes, for tests that compare only their outcome on two nodes.

use crate::args;
use crate::resp::RawClient;
use crate::rng::Rng;

/// The number of keys that the writes use in each database.
pub const KEYS: usize = 400;
/// Databases that the writes go to.
pub const DATABASES: [u32; 3] = [0, 1, 2];

/// Times that do not end while a test runs, unix ms and ms.
const FAR: i64 = 99_999_999_999_999;
const GRACE: i64 = 1_000_000_000;

/// One write, native or of the module; every kind that can affect an entry is included.
pub fn any_write(rng: &mut Rng) -> Vec<Vec<u8>> {
    let key = format!("key{}", rng.below(KEYS));
    let other = format!("key{}", rng.below(KEYS));
    let (tag, more) = (
        format!("tag{}", rng.below(8)),
        format!("tag{}", rng.below(8)),
    );
    let value = rng.next_u64();
    match rng.below(63) {
        0..8 => args!["CACHE.SET", key, value, "TAGS", 2, tag, more],
        8..10 => args!["CACHE.SET", key, value, "EX", 100_000, "TAGS", 1, tag],
        10 => args!["CACHE.SET", key, value, "PXAT", FAR, "NX", "TAGS", 1, tag],
        11 => args!["CACHE.SET", key, value, "KEEPTTL", "XX", "TAGS", 1, tag],
        12 => args!["CACHE.SET", key, value, "TAGS", rng.below(2), "held"],
        13 => args!["CACHE.SET", key, value, "PXAT", 1, "TAGS", 1, tag],
        14 => args!["CACHE.DEL", key],
        15 => args!["CACHE.TOUCH", key, "PX", 100_000_000],
        16 => args!["CACHE.TOUCH", key, "PERSIST"],
        17 => args!["CACHE.TOUCH", key, "PXAT", 1],
        18..20 => args!["CACHE.INVALIDATE", tag],
        20 => args!["CACHE.INVALIDATE", tag, more, tag],
        21 if rng.one_in(20) => args!["CACHE.FLUSH"],
        22 => args!["DEL", key, other],
        23 => args!["UNLINK", key],
        24 => args!["RENAME", key, other],
        25 => args!["RENAMENX", key, other],
        26 => args!["COPY", key, other, "REPLACE"],
        27 => args!["COPY", key, other, "DB", rng.below(DATABASES.len())],
        28 => args!["MOVE", key, rng.below(DATABASES.len())],
        29 => args!["SET", key, value, "XX"],
        30 => args!["SETNX", key, value],
        31 => args!["LPUSH", key, value],
        32 => args!["SADD", key, value],
        33 => args!["EXPIRE", key, 100_000],
        34 => args!["PEXPIREAT", key, 1],
        35 => args!["PERSIST", key],
        36 => args!["GETDEL", key],
        37 if rng.one_in(30) => args!["SWAPDB", rng.below(3), rng.below(3)],
        38 if rng.one_in(60) => args!["FLUSHDB"],
        39 => args!["APPEND", key, value],
        40 => args!["INCR", key],
        41..43 => args!["SELECT", rng.below(DATABASES.len())],
        43 => args![
            "EVAL",
            "return redis.pcall('CACHE.SET', KEYS[1], ARGV[1], 'TAGS', 1, 'tag1')",
            1,
            key,
            value
        ],
        44..46 => args![
            "CACHE.SET",
            key,
            value,
            "GRACE",
            GRACE,
            "TAGS",
            2,
            tag,
            more
        ],
        46 => args![
            "CACHE.SET",
            key,
            value,
            "PX",
            1,
            "GRACE",
            GRACE,
            "TAGS",
            1,
            tag
        ],
        47 => args![
            "CACHE.SET",
            key,
            value,
            "KEEPTTL",
            "GRACE",
            GRACE,
            "TAGS",
            1,
            tag
        ],
        48 => args!["CACHE.TOUCH", key, "PX", GRACE, "GRACE", GRACE],
        49..51 => args!["CACHE.REVALIDATE", tag],
        51 => args!["CACHE.REVALIDATE", tag, more, tag],
        52 => args![
            "CACHE.INVALIDATEWHERE",
            "ALL",
            1,
            tag,
            "ANY",
            1,
            more,
            "SOFT"
        ],
        53 => args!["CACHE.INVALIDATEWHERE", "ALL", 2, tag, more],
        54..63 => any_write_of_many(rng, [key, other], [tag, more]),
        _ => args!["CACHE.FETCH", key, "LEASE", 5],
    }
}

/// One write of several keys, of tags without their values, or of holds. Holds outlast the test: an entry that ended
/// during the test would end at another moment on each node.
fn any_write_of_many(rng: &mut Rng, keys: [String; 2], tags: [String; 2]) -> Vec<Vec<u8>> {
    let ([key, other], [tag, more]) = (keys, tags);
    let value = rng.next_u64();
    match rng.below(9) {
        0 => args![
            "CACHE.INVALIDATEWHERE",
            "ANY",
            1,
            tag,
            "SOFT",
            "GRACE",
            GRACE / 2
        ],
        1..3 => args![
            "CACHE.MSET",
            2,
            key,
            value,
            other,
            value,
            "GRACE",
            GRACE,
            "TAGS",
            1,
            tag
        ],
        3 => args!["CACHE.MSET", 2, key, value, other, value, "NX", "PXAT", FAR],
        4 => args!["CACHE.SET", key, value, "KEEPTAGS", "KEEPTTL"],
        5 => args!["CACHE.RETAG", key, "TAGS", 2, tag, more],
        6 => args!["CACHE.RETAG", key, "TAGS", 0],
        7 => args!["CACHE.GETDEL", key],
        _ => args!["CACHE.HOLD", GRACE + rng.below(1000) as i64, "held"],
    }
}

/// Sends this many writes in pipelines, some of them in transactions; some are refused.
pub fn write(client: &mut RawClient, rng: &mut Rng, count: usize) {
    let mut left = count;
    while left > 0 {
        let size = (1 + rng.below(100)).min(left);
        let mut commands: Vec<_> = (0..size).map(|_| any_write(rng)).collect();
        if rng.one_in(4) {
            commands.insert(0, args!["MULTI"]);
            commands.push(args!["EXEC"]);
        }
        client.pipeline(&commands);
        left -= size;
    }
}
