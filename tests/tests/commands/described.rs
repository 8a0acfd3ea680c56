//! Properties of commands that servers and clients query: their keys, their flags.

use tagcache_tests::{RawClient, Reply, Server, call, for_all_engines};

fn keys_of(client: &mut RawClient, command: &[&str]) -> Option<Vec<String>> {
    let reply = client.call(&[&["COMMAND", "GETKEYS"], command].concat());
    if reply.is_error() {
        None
    } else {
        Some(reply.items().iter().map(Reply::text).collect())
    }
}

#[test]
fn getkeys_reports_keys_and_no_tags() {
    for_all_engines(|engine| {
        let server = Server::builder().engine(engine).start();
        let mut client = server.raw();
        let with_keys: [(&[&str], &[&str]); 14] = [
            (&["CACHE.SET", "key", "v", "TAGS", "1", "a"], &["key"]),
            (&["CACHE.GET", "key"], &["key"]),
            (
                &["CACHE.MGET", "one", "two", "three"],
                &["one", "two", "three"],
            ),
            (&["CACHE.DEL", "one", "two"], &["one", "two"]),
            (&["CACHE.TOUCH", "key", "EX", "5"], &["key"]),
            (&["CACHE.INSPECT", "key"], &["key"]),
            (&["CACHE.GET", "TAGS"], &["TAGS"]),
            (
                &["CACHE.MSET", "2", "one", "a", "two", "b", "EX", "5"],
                &["one", "two"],
            ),
            (&["CACHE.MSET", "1", "one", "2"], &["one"]),
            (&["CACHE.RETAG", "key", "TAGS", "1", "a"], &["key"]),
            (&["CACHE.GETDEL", "key"], &["key"]),
            (&["CACHE.EXISTS", "one", "two"], &["one", "two"]),
            (&["CACHE.MFETCH", "one", "two"], &["one", "two"]),
            (&["CACHE.FETCH", "key", "WITHTAGS", "1", "a"], &["key"]),
        ];
        for (command, keys) in with_keys {
            assert_eq!(
                keys_of(&mut client, command).as_deref().unwrap_or_default(),
                keys,
                "{command:?}"
            );
        }
        for command in [
            &["CACHE.INVALIDATE", "a", "b"][..],
            &["CACHE.FLUSH"],
            &["CACHE.TAGINFO", "a"],
            &["CACHE.TAGSCAN", "a", "0"],
            &["CACHE.STATS"],
            &["CACHE.RESETSTATS"],
            &["CACHE.HOLD", "5", "a"],
            &["CACHE.TAGTIMES", "a"],
            &["CACHE.MSET", "many", "a", "1"],
        ] {
            assert_eq!(
                keys_of(&mut client, command).unwrap_or_default(),
                Vec::<String>::new(),
                "{command:?}"
            );
        }
    });
}

#[test]
fn flags_mark_reading_and_writing_commands() {
    for_all_engines(|engine| {
        let server = Server::builder().engine(engine).start();
        let mut client = server.raw();
        for (command, has, has_not) in [
            ("cache.set", &["write", "denyoom"][..], &["readonly"][..]),
            ("cache.get", &["readonly", "fast"], &["write", "denyoom"]),
            ("cache.mget", &["readonly"], &["write", "denyoom"]),
            ("cache.inspect", &["readonly"], &["write"]),
            ("cache.taginfo", &["readonly"], &["write"]),
            ("cache.tagscan", &["readonly"], &["write"]),
            ("cache.del", &["write"], &["readonly", "denyoom"]),
            ("cache.touch", &["write"], &["readonly"]),
            ("cache.invalidate", &["write"], &["readonly", "denyoom"]),
            ("cache.flush", &["write"], &["readonly", "denyoom"]),
            // The command may keep its caller waiting.
            (
                "cache.stats",
                &["readonly", "blocking"],
                &["write", "denyoom", "fast"],
            ),
            ("cache.mset", &["write", "denyoom"], &["readonly"]),
            ("cache.retag", &["write", "denyoom"], &["readonly"]),
            ("cache.getdel", &["write"], &["readonly", "denyoom"]),
            ("cache.hold", &["write"], &["readonly", "denyoom"]),
            ("cache.exists", &["readonly"], &["write", "denyoom"]),
            ("cache.mfetch", &["readonly"], &["write", "denyoom"]),
            ("cache.tagtimes", &["readonly"], &["write", "denyoom"]),
        ] {
            let reply = call!(client, "COMMAND", "INFO", command);
            let info = reply.items()[0].items();
            let flags: Vec<_> = info[2].items().iter().map(Reply::text).collect();
            for flag in has {
                assert!(
                    flags.iter().any(|f| f == flag),
                    "{command} is not {flag}: {flags:?}"
                );
            }
            for flag in has_not {
                assert!(
                    !flags.iter().any(|f| f == flag),
                    "{command} is {flag}: {flags:?}"
                );
            }
        }
    });
}
