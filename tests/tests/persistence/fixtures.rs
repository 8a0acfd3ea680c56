//! Files and payloads that earlier versions wrote, kept under `tests/fixtures`: they must load for ever.

use std::path::{Path, PathBuf};

use tagcache_tests::fetch::fetch;
use tagcache_tests::look::{assert_index_agrees, inspect, stat, tagscan};
use tagcache_tests::{Engine, RawClient, Reply, Server, args, call, command, for_all_engines};

/// The longest grace, 34 years, ms: what is stale in the files stays so.
const LONG: i64 = 1 << 40;
/// A logical expiry far in the future, unix ms: the year 5138.
const FAR: i64 = 99_999_999_999_999;

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("fixtures")
        .join(name)
}

fn loaded(engine: &Engine, name: &str) -> (Server, RawClient) {
    let server = Server::builder().engine(engine).rdb(fixture(name)).start();
    let client = server.raw();
    (server, client)
}

fn text_tags(client: &mut RawClient, key: &[u8]) -> Vec<String> {
    let entry = inspect(client, key).unwrap_or_else(|| panic!("no {}", key.escape_ascii()));
    let text = |tag: &Vec<u8>| tag.escape_ascii().to_string();
    entry.tags.iter().map(text).collect()
}

/// What `encoding-4.rdb` holds: entries in each state and of each kind, in two databases.
fn write_dataset_of_encoding_4(client: &mut RawClient) {
    let all: Vec<u8> = (0..=255).collect();
    let sets = [
        args!["CACHE.SET", "plain", "value"],
        args![
            "CACHE.SET",
            "tagged",
            "value of tagged",
            "TAGS",
            2,
            "a",
            "b"
        ],
        args!["CACHE.SET", "timed", "far", "PXAT", FAR, "TAGS", 1, "a"],
        command!("CACHE.SET graced g PXAT {FAR} GRACE 5000 TAGS 1 b"),
        command!("CACHE.SET soft s GRACE {LONG} TAGS 2 a soft"),
        args![
            "CACHE.SET",
            "soft timed",
            "t",
            "PXAT",
            FAR,
            "GRACE",
            LONG,
            "TAGS",
            1,
            "soft"
        ],
        // Since November 2023.
        command!("CACHE.SET expired e PXAT 1700000000000 GRACE {LONG} TAGS 1 b"),
        args!["CACHE.SET", b"bin\0\r\n\xff", all, "TAGS", 1, b"\0\xff\r\n"],
        args!["CACHE.SET", "bare", "gone", "TAGS", 1, "soft"],
        args!["SET", "native", "string"],
        args!["CACHE.HITS", "tagged", 4_000_000_000_u64, "soft", 7],
        args!["CACHE.REVALIDATE", "soft"],
        args!["CACHE.INVALIDATE", "unknown"],
        args!["SELECT", 3],
        args![
            "CACHE.SET",
            "plain",
            "of database 3",
            "GRACE",
            LONG,
            "TAGS",
            1,
            "a"
        ],
        args!["CACHE.REVALIDATE", "a", "b"],
        args!["SELECT", 0],
    ];
    for (command, reply) in sets.iter().zip(client.pipeline(&sets)) {
        assert!(
            !reply.is_error(),
            "{}: {reply:?}",
            command[0].escape_ascii()
        );
    }
}

fn holds_the_dataset_of_encoding_4(server: &Server, client: &mut RawClient) {
    assert!(fetch(client, "plain").is_hit("value"));
    assert!(fetch(client, "tagged").is_hit("value of tagged"));
    assert_eq!(text_tags(client, b"tagged"), ["a", "b"]);
    let hits =
        |client: &mut RawClient, key: &str| inspect(client, key).expect("it is in the file").hits;
    assert!(hits(client, "tagged") >= 4_000_000_000);
    assert!(hits(client, "soft") >= 7);
    for key in ["timed", "graced"] {
        assert!(fetch(client, key).pttl > 1_000_000_000_000, "{key}");
    }
    for (key, value) in [("soft", "s"), ("soft timed", "t"), ("expired", "e")] {
        assert!(fetch(client, key).is_stale(value), "{key}");
        assert!(call!(client, "CACHE.GET", key).is_null(), "{key}");
    }
    for (key, grace) in [
        ("graced", 5000),
        ("soft", LONG),
        ("expired", LONG),
        ("plain", 0),
    ] {
        let seen = call!(client, "CACHE.INSPECT", key).field("grace");
        assert_eq!(seen, Reply::Int(grace), "{key}");
    }
    let all: Vec<u8> = (0..=255).collect();
    let binary = call!(client, "CACHE.GET", b"bin\0\r\n\xff");
    assert_eq!(binary, Reply::bulk(all));
    assert!(fetch(client, "bare").is_miss(), "it had no grace");
    assert_eq!(call!(client, "GET", "native"), Reply::bulk("string"));
    assert_eq!((stat(client, "entries"), stat(client, "clock")), (8, 2));
    let keys: Vec<_> = tagscan(client, b"soft", 10).into_iter().collect();
    assert_eq!(keys, [b"soft".to_vec(), b"soft timed".to_vec()]);
    call!(client, "SELECT", 3);
    assert!(fetch(client, "plain").is_stale("of database 3"));
    assert_eq!((stat(client, "entries"), stat(client, "clock")), (1, 1));
    call!(client, "SELECT", 0);
    assert_index_agrees(server, &[0, 3], &[b"soft", b"unknown"]);
}

#[test]
fn a_file_of_encoding_4_loads_and_can_be_saved_again() {
    for_all_engines(|engine| {
        let (mut server, mut client) = loaded(engine, "encoding-4.rdb");
        holds_the_dataset_of_encoding_4(&server, &mut client);
        assert_eq!(call!(client, "SAVE"), Reply::ok());
        server.kill_9();
        server.restart();
        let mut client = server.raw();
        holds_the_dataset_of_encoding_4(&server, &mut client);
        assert_eq!(call!(client, "CACHE.INVALIDATE", "b"), Reply::Int(3));
        assert_eq!(call!(client, "CACHE.REVALIDATE", "a"), Reply::Int(2));
        assert_index_agrees(&server, &[0, 3], &[b"b"]);
    });
}

#[test]
fn payloads_of_encoding_4_are_restored() {
    for_all_engines(|engine| {
        let server = Server::builder().engine(engine).start();
        let mut client = server.raw();
        for key in ["tagged", "graced", "soft"] {
            let payload = std::fs::read(fixture(&format!("encoding-4.{key}.dump"))).unwrap();
            assert_eq!(call!(client, "RESTORE", key, 0, payload), Reply::ok());
        }
        assert!(fetch(&mut client, "tagged").is_hit("value of tagged"));
        assert!(fetch(&mut client, "graced").is_hit("g"));
        assert!(fetch(&mut client, "soft").is_stale("s"));
        let hits = inspect(&mut client, "tagged").unwrap().hits;
        assert!(hits >= 4_000_000_000);
        assert_index_agrees(&server, &[0], &[]);
    });
}

/// Writes the files of today's encoding to `TAGCACHE_FIXTURES`, as today's module does on the oldest server: for when
/// the encoding has changed, and what the old one looks like is to be kept.
#[test]
#[ignore = "writes files to be kept, where the encoding has changed"]
fn write_fixtures_of_todays_encoding() {
    let directory = std::env::var("TAGCACHE_FIXTURES").expect("TAGCACHE_FIXTURES says where to");
    let directory = Path::new(&directory);
    let server = Server::start();
    let mut client = server.raw();
    write_dataset_of_encoding_4(&mut client);
    holds_the_dataset_of_encoding_4(&server, &mut client);
    for key in ["tagged", "graced", "soft"] {
        let payload = call!(client, "DUMP", key).bytes().to_vec();
        std::fs::write(directory.join(format!("{key}.dump")), payload).unwrap();
    }
    assert_eq!(call!(client, "SAVE"), Reply::ok());
    std::fs::copy(server.dir().join("dump.rdb"), directory.join("dataset.rdb")).unwrap();
}
