//! Where native commands name their keys, for the filter of `redis/filter.rs`.

/// Which arguments of a command are keys of which it matters that they are gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Keys {
    None,
    First,
    All,
    /// To be asked of the server, which costs more than the look at a key.
    Unknown,
}

/// The keys of a command, from its name and arguments.
///
/// None for the module's own commands, which see gone entries for what they are, and for MGET, to which a value of
/// another type is the same as none.
pub(crate) fn keys(name: &[u8]) -> Keys {
    if name.len() > 8 {
        return if is_own(name) {
            Keys::None
        } else {
            Keys::Unknown
        };
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
        First: b"get" b"set" b"expire" b"pexpire" b"ttl" b"pttl" b"type" b"persist" b"incr" b"decr" b"incrby" b"decrby"
            b"setex" b"psetex" b"setnx" b"getset" b"getdel" b"getex" b"append" b"strlen" b"getrange" b"dump"
            b"hget" b"hset" b"hmget" b"hgetall" b"hdel" b"hincrby" b"hexists" b"hlen"
            b"lpush" b"rpush" b"lpop" b"rpop" b"lrange" b"llen" b"sadd" b"srem" b"scard" b"smembers"
            b"zadd" b"zrem" b"zscore" b"zrange" b"zcard" b"zincrby" b"xadd";
        All: b"del" b"unlink" b"exists" b"touch";
        None: b"mget" b"ping" b"echo" b"select" b"multi" b"exec" b"discard" b"publish" b"info" b"time" b"auth" b"hello"
            b"client" b"config" b"scan" b"dbsize" b"wait" b"replconf";
    }
    if is_own(name) {
        Keys::None
    } else {
        Keys::Unknown
    }
}

fn is_own(name: &[u8]) -> bool {
    name.len() > 6 && name[..6].eq_ignore_ascii_case(b"cache.")
}

/// A name of up to eight letters in lower case, as one number: comparing those is all that a look-up costs.
const fn word(name: &[u8]) -> u64 {
    let mut word = 0;
    let mut at = 0;
    while at < name.len() {
        word = word << 8 | (name[at] | 0x20) as u64;
        at += 1;
    }
    word
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_known_in_any_case_and_only_whole() {
        for (name, expected) in [
            (&b"get"[..], Keys::First),
            (b"GeT", Keys::First),
            (b"SMEMBERS", Keys::First),
            (b"UNLINK", Keys::All),
            (b"MGET", Keys::None),
            (b"cache.get", Keys::None),
            (b"Cache.Invalidate", Keys::None),
            (b"cache.", Keys::Unknown),
            (b"", Keys::Unknown),
            (b"ge", Keys::Unknown),
            (b"getx", Keys::Unknown),
            (b"EVAL", Keys::Unknown),
            (b"RENAME", Keys::Unknown),
            (b"SINTERSTORE", Keys::Unknown),
        ] {
            assert_eq!(keys(name), expected, "{}", String::from_utf8_lossy(name));
        }
    }
}
