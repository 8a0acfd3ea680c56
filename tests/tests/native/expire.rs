//! The EXPIRE family, PERSIST, TTL, and expiry itself.

use tagcache_tests::look::{assert_index_agrees, inspect, stat, tagscan};
use tagcache_tests::{DEADLINE, Reply, Server, call, for_each_engine, wait_until};

#[test]
fn the_expire_commands_change_the_ttl_and_nothing_else() {
    for_each_engine(|engine| {
        let server = Server::builder().engine(engine).start();
        let mut client = server.raw();
        call!(client, "CACHE.SET", "key", "v", "TAGS", 1, "a");
        let before = inspect(&mut client, "key").unwrap();
        let now = call!(client, "TIME").items()[0].int();
        for (command, time) in [
            ("EXPIRE", 1000),
            ("PEXPIRE", 1_000_000),
            ("EXPIREAT", now + 1000),
            ("PEXPIREAT", (now + 1000) * 1000),
        ] {
            assert_eq!(
                call!(client, command, "key", time),
                Reply::Int(1),
                "{command}"
            );
            let pttl = call!(client, "CACHE.INSPECT", "key").field("pttl").int();
            assert!((900_000..=1_001_000).contains(&pttl), "{command}: {pttl}");
            let ttl = call!(client, "TTL", "key").int();
            assert!((900..=1001).contains(&ttl), "{command}: {ttl}");
            assert!(call!(client, "EXPIRETIME", "key").int() > now);
            assert_eq!(call!(client, "PERSIST", "key"), Reply::Int(1));
            assert_eq!(inspect(&mut client, "key").unwrap(), before);
            assert_eq!(call!(client, "PERSIST", "key"), Reply::Int(0));
            assert_index_agrees(&server, &[0], &[]);
        }
        assert_eq!(call!(client, "EXPIRE", "key", 100, "XX"), Reply::Int(0));
        assert_eq!(call!(client, "EXPIRE", "key", 100, "NX"), Reply::Int(1));
        assert_eq!(call!(client, "EXPIRE", "key", 50, "GT"), Reply::Int(0));
        assert_eq!(call!(client, "EXPIRE", "key", 50, "LT"), Reply::Int(1));
        assert_eq!(call!(client, "CACHE.GET", "key"), Reply::bulk("v"));
    });
}

#[test]
fn expire_in_the_past_removes_the_entry() {
    for_each_engine(|engine| {
        let server = Server::builder().engine(engine).start();
        let mut client = server.raw();
        for (command, time) in [
            ("EXPIRE", -1),
            ("PEXPIRE", 0),
            ("EXPIREAT", 1),
            ("PEXPIREAT", 1),
        ] {
            call!(client, "CACHE.SET", "key", "v", "TAGS", 1, "a");
            assert_eq!(call!(client, command, "key", time), Reply::Int(1));
            assert!(call!(client, "CACHE.GET", "key").is_null());
            assert_eq!(stat(&mut client, "entries"), 0);
            assert_index_agrees(&server, &[0], &[b"a"]);
        }
    });
}

#[test]
fn expired_entries_leave_their_tags_by_themselves() {
    for_each_engine(|engine| {
        let server = Server::builder().engine(engine).start();
        let mut client = server.raw();
        for n in 0..1000 {
            call!(
                client,
                "CACHE.SET",
                n,
                "v",
                "PX",
                1 + n % 50,
                "TAGS",
                2,
                "a",
                format!("t{n}")
            );
        }
        call!(client, "CACHE.SET", "staying", "v", "TAGS", 1, "a");
        wait_until("all expire", DEADLINE, || {
            call!(client, "DBSIZE").int() == 1
        });
        assert_eq!(
            (stat(&mut client, "entries"), stat(&mut client, "tags")),
            (1, 1)
        );
        assert_eq!(stat(&mut client, "expired"), 1000);
        assert_eq!(tagscan(&mut client, b"a", 10).len(), 1);
        assert_index_agrees(&server, &[0], &[b"t7"]);
        assert_eq!(call!(client, "CACHE.INVALIDATE", "a"), Reply::Int(1));
    });
}

#[test]
fn a_native_read_of_an_expired_entry_removes_it_from_the_index() {
    for_each_engine(|engine| {
        let server = Server::builder().engine(engine).start();
        let mut client = server.raw();
        call!(client, "DEBUG", "SET-ACTIVE-EXPIRE", 0);
        for read in ["EXISTS", "TTL", "DUMP", "OBJECT ENCODING", "UNLINK"] {
            call!(client, "CACHE.SET", "key", "v", "PX", 1, "TAGS", 1, "a");
            let mut command: Vec<&str> = read.split(' ').collect();
            command.push("key");
            wait_until("the entry is expired", DEADLINE, || {
                client.call(&command);
                call!(client, "DBSIZE") == Reply::Int(0)
            });
            assert_eq!(
                (stat(&mut client, "entries"), stat(&mut client, "tags")),
                (0, 0),
                "{read}"
            );
        }
    });
}
