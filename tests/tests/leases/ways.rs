//! Ways other than CACHE.SET in which an entry gets under `key`.

use tagcache_tests::{RawClient, Reply, call};

/// Stores an entry with this tag.
pub(crate) fn set(client: &mut RawClient, key: &str, tag: &str) -> Reply {
    call!(client, "CACHE.SET", key, "v", "EX", 1000, "TAGS", 1, tag)
}

/// Stores an entry with this tag elsewhere, and moves it under `key`: by RESTORE, MOVE from database 1, or a command
/// that takes an old and a new name.
pub(crate) fn bring(client: &mut RawClient, way: &str, tag: &str) -> Reply {
    match way {
        "RESTORE" => {
            set(client, "other", tag);
            let payload = call!(client, "DUMP", "other").bytes().to_vec();
            call!(client, "RESTORE", "key", 0, payload)
        }
        "MOVE" => {
            call!(client, "SELECT", 1);
            set(client, "key", tag);
            let moved = call!(client, "MOVE", "key", 0);
            call!(client, "SELECT", 0);
            moved
        }
        _ => {
            set(client, "other", tag);
            call!(client, way, "other", "key")
        }
    }
}
