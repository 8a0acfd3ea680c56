//! The keys that native commands name, for the filter of `redis/filter.rs`.

/// The arguments of a command that are keys for which it matters whether they are gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Keys {
    None,
    First,
    /// The first one, unless everything after the value is a time.
    Set,
    /// The keys that are left in the slots that the command announces.
    Slots,
    /// None, but it may change CLIENT NO-TOUCH.
    Client,
    /// The server must be queried, which costs more than the look at a key.
    Unknown,
}

/// The keys of a command, from its name.
///
/// A look at a key costs a quarter of a GET. So keys are skipped where a gone entry can do no harm: in the module's own
/// commands, which recognise it; in reads of strings, which never return it; and in commands that only check whether a
/// key exists or when it expires, remove it, or overwrite it whatever it holds, which have the same effect on all
/// nodes.
pub(crate) fn keys(name: &[u8]) -> Keys {
    if name.len() > 8 {
        let is_own = name[..6].eq_ignore_ascii_case(b"cache.");
        return if is_own { Keys::None } else { Keys::Unknown };
    }
    macro_rules! table {
        ($($keys:ident: $($name:literal)+;)+) => {{
            let given = word(name);
            $(if $(given == const { word($name) })||+ {
                return Keys::$keys;
            })+
        }};
    }
    table! {
        None: b"get" b"mget" b"strlen" b"getrange" b"exists" b"ttl" b"pttl" b"type" b"touch" b"expire" b"pexpire"
            b"persist" b"del" b"unlink" b"setex" b"psetex" b"mset";
        Set: b"set";
        First: b"incr" b"decr" b"incrby" b"decrby" b"setnx" b"getset" b"getdel" b"getex" b"append" b"dump" b"hget" b"hset" b"hmget" b"hgetall" b"hdel" b"hincrby" b"hexists" b"hlen"
            b"lpush" b"rpush" b"lpop" b"rpop" b"lrange" b"llen" b"sadd" b"srem" b"scard" b"smembers"
            b"zadd" b"zrem" b"zscore" b"zrange" b"zcard" b"zincrby" b"xadd";
        Slots: b"cluster";
        Client: b"client" b"exec";
        None: b"ping" b"echo" b"select" b"multi" b"discard" b"publish" b"info" b"time" b"auth" b"hello"
            b"config" b"scan" b"dbsize" b"wait" b"replconf";
    }
    Keys::Unknown
}

/// Whether a word of SET precedes a lifetime of the value.
pub(crate) fn is_time(given: &[u8]) -> bool {
    let times = const { [word(b"px"), word(b"ex"), word(b"pxat"), word(b"exat")] };
    times.contains(&word(given))
}

/// A name of up to eight letters in lower case, as one number; 0 for a longer one. A look-up only compares such
/// numbers.
#[inline]
pub(crate) const fn word(name: &[u8]) -> u64 {
    // The bit in which a small letter differs from its capital; no other byte becomes a letter by it. Set only in bytes
    // that exist: a word that ends in a space is another word.
    const SMALL: u64 = u64::from_ne_bytes([0x20; 8]);
    let len = name.len();
    // Its first and its last bytes, which overlap.
    let bytes = if let (Some(first), Some(last)) = (name.first_chunk(), name.last_chunk())
        && len <= 8
    {
        u32::from_le_bytes(*first) as u64 | (u32::from_le_bytes(*last) as u64) << (8 * (len - 4))
    } else {
        match name {
            [a, b, c] => u32::from_le_bytes([*a, *b, *c, 0]) as u64,
            [a, b] => u16::from_le_bytes([*a, *b]) as u64,
            [a] => *a as u64,
            _ => return 0,
        }
    };
    bytes | (SMALL >> (64 - 8 * len))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn command_names_match_in_any_case_and_only_in_full() {
        for (name, expected) in [
            (&b"incr"[..], Keys::First),
            (b"InCr", Keys::First),
            (b"SMEMBERS", Keys::First),
            (b"set", Keys::Set),
            (b"GET", Keys::None),
            (b"UNLINK", Keys::None),
            (b"MGET", Keys::None),
            (b"cache.get", Keys::None),
            (b"Cache.Invalidate", Keys::None),
            (b"cache.", Keys::Unknown),
            (b"", Keys::Unknown),
            (b"ge", Keys::Unknown),
            (b"getx", Keys::Unknown),
            (b"INCR ", Keys::Unknown),
            (b"getdel\0\0", Keys::Unknown),
            (b"EVAL", Keys::Unknown),
            (b"RENAME", Keys::Unknown),
            (b"SINTERSTORE", Keys::Unknown),
            (b"Cluster", Keys::Slots),
            (b"exec", Keys::Client),
        ] {
            assert_eq!(keys(name), expected, "{}", String::from_utf8_lossy(name));
        }
        assert!(is_time(b"pX") && is_time(b"EXAT") && !is_time(b"NX") && !is_time(b"KEEPTTL"));
        assert!(!is_time(b"PX ") && !is_time(b"EXAT\0"));
    }
}
