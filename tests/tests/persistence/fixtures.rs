//! Files and payloads of earlier versions, kept under `tests/fixtures`: they must always load.

use std::path::{Path, PathBuf};

use tagcache_tests::fetch::fetch;
use tagcache_tests::look::{
    assert_index_agrees, entry_keys, inspect, stat, tagscan, wait_reclaimed, wait_rewritten,
};
use tagcache_tests::{Engine, RawClient, Reply, Server, args, call, command, for_all_engines};

/// The longest grace, 34 years, ms: stale entries in the files stay stale.
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

/// Checks the contents of `encoding-1.rdb`: six entries and a string in database 0, where 40 entries were saved as
/// gone, and one entry in database 3.
fn holds_the_dataset_of_encoding_1(server: &Server, client: &mut RawClient) {
    assert_eq!(call!(client, "CACHE.GET", "plain"), Reply::bulk("value"));
    assert!(text_tags(client, b"plain").is_empty());
    assert_eq!(text_tags(client, b"tagged"), ["a", "b"]);
    let tagged = inspect(client, "tagged").expect("it is in the file");
    assert_eq!((tagged.hits, tagged.expires), (3, false));
    let timed = call!(client, "CACHE.INSPECT", "timed");
    assert!(
        timed.field("pttl").int() > 1_000_000_000_000,
        "it expires in the year 5138: {timed:?}"
    );
    assert_eq!(timed.field("state").text(), "fresh");
    assert_eq!(timed.field("grace"), Reply::Int(0));
    let all: Vec<u8> = (0..=255).collect();
    assert_eq!(
        call!(client, "CACHE.GET", b"bin\0\r\n\xff"),
        Reply::bulk(all)
    );
    let binary = inspect(client, b"bin\0\r\n\xff").expect("it is in the file");
    assert_eq!(
        binary.tags,
        [b"\0\xff\r\n".to_vec(), "t".repeat(512).into_bytes()]
    );
    assert_eq!(call!(client, "CACHE.GET", "empty"), Reply::bulk(""));
    let many: Vec<String> = (0..128).map(|n| format!("many{n}")).collect();
    assert_eq!(text_tags(client, b"large"), many);
    assert_eq!(
        call!(client, "CACHE.GET", "large").bytes(),
        [b'x'; 5000].as_slice()
    );
    assert_eq!(call!(client, "GET", "native"), Reply::bulk("string"));
    assert_eq!(
        (stat(client, "entries"), stat(client, "clock")),
        (6, 8),
        "what was gone does not come back"
    );
    let keys = tagscan(client, b"b", 10);
    assert_eq!(
        keys.into_iter().collect::<Vec<_>>(),
        [b"empty".to_vec(), b"tagged".to_vec()]
    );
    wait_reclaimed(client);
    assert_eq!(entry_keys(client).len(), 6);
    call!(client, "SELECT", 3);
    assert_eq!(
        call!(client, "CACHE.GET", "plain"),
        Reply::bulk("of database 3")
    );
    assert_eq!((stat(client, "entries"), stat(client, "clock")), (1, 2));
    call!(client, "SELECT", 0);
    assert_index_agrees(server, &[0, 3], &[b"gone", b"unknown"]);
}

#[test]
fn a_file_of_encoding_1_loads_and_can_be_saved_again() {
    for_all_engines(|engine| {
        let (mut server, mut client) = loaded(engine, "encoding-1.rdb");
        holds_the_dataset_of_encoding_1(&server, &mut client);
        let hits = inspect(&mut client, "plain").unwrap().hits;
        assert_eq!(call!(client, "SAVE"), Reply::ok());
        server.kill_9();
        server.restart();
        let mut client = server.raw();
        assert_eq!(inspect(&mut client, "plain").unwrap().hits, hits);
        assert_eq!(stat(&mut client, "entries"), 6);
        assert_eq!(call!(client, "CACHE.INVALIDATE", "a"), Reply::Int(2));
        assert_eq!(stat(&mut client, "clock"), 9);
        assert_index_agrees(&server, &[0, 3], &[b"a"]);
    });
}

#[test]
fn payloads_of_encoding_1_are_restored() {
    for_all_engines(|engine| {
        let server = Server::builder().engine(engine).start();
        let mut client = server.raw();
        for (key, value, tags, hits) in [
            ("plain", "value", &[][..], 0),
            ("tagged", "value of tagged", &["a", "b"], 3),
            ("timed", "expires in the year 5138", &["a"], 0),
        ] {
            let payload = std::fs::read(fixture(&format!("encoding-1.{key}.dump"))).unwrap();
            assert_eq!(call!(client, "RESTORE", key, 0, payload), Reply::ok());
            assert_eq!(text_tags(&mut client, key.as_bytes()), tags);
            let entry = inspect(&mut client, key).unwrap();
            assert_eq!((entry.state.as_str(), entry.hits), ("fresh", hits));
            assert_eq!(call!(client, "CACHE.GET", key), Reply::bulk(value));
        }
        assert_eq!(call!(client, "CACHE.INVALIDATE", "a"), Reply::Int(2));
        assert_index_agrees(&server, &[0], &[b"a", b"b"]);
    });
}

/// Writes the dataset of the files of encoding 2 to 4: entries in each state and of each kind, in two databases.
fn write_dataset(client: &mut RawClient) {
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
        // Expired since November 2023.
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

fn holds_the_dataset(server: &Server, client: &mut RawClient, long: i64) {
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
        ("soft", long),
        ("expired", long),
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

/// Stale entries in the file of encoding 2 stay stale for longer than a command allows today.
const LONGER: i64 = 1 << 46;

#[test]
fn files_of_encoding_2_to_4_load_and_can_be_saved_again() {
    for_all_engines(|engine| {
        for (name, long) in [
            ("encoding-2.rdb", LONGER),
            ("encoding-3.rdb", LONG),
            ("encoding-4.rdb", LONG),
        ] {
            let (mut server, mut client) = loaded(engine, name);
            holds_the_dataset(&server, &mut client, long);
            assert_eq!(call!(client, "SAVE"), Reply::ok());
            server.kill_9();
            server.restart();
            let mut client = server.raw();
            holds_the_dataset(&server, &mut client, long);
            assert_eq!(call!(client, "CACHE.INVALIDATE", "b"), Reply::Int(3));
            assert_eq!(call!(client, "CACHE.REVALIDATE", "a"), Reply::Int(2));
            assert_index_agrees(&server, &[0, 3], &[b"b"]);
        }
    });
}

/// A module of 0.2.0 saved invalidations in the file, as numbers and names; an older one only the clocks.
#[test]
fn invalidations_in_files_of_encoding_3_and_4_are_loaded() {
    for_all_engines(|engine| {
        for (name, is_known) in [
            ("encoding-2.rdb", false),
            ("encoding-3.rdb", true),
            ("encoding-4.rdb", true),
        ] {
            let (_server, mut client) = loaded(engine, name);
            let times = call!(client, "CACHE.TAGTIMES", "unknown", "soft");
            let [hard, soft] =
                [(0, 0), (1, 1)].map(|(tag, kind)| times.items()[tag].items()[kind].int());
            assert_eq!([hard > 0, soft > 0], [is_known; 2], "{name}: {times:?}");
        }
    });
}

#[test]
fn payloads_of_encoding_2_to_4_are_restored() {
    for_all_engines(|engine| {
        let server = Server::builder().engine(engine).start();
        let mut client = server.raw();
        for encoding in 2..=4 {
            for key in ["tagged", "graced", "soft"] {
                let name = format!("encoding-{encoding}.{key}.dump");
                let payload = std::fs::read(fixture(&name)).unwrap();
                let restored = call!(client, "RESTORE", key, 0, payload, "REPLACE");
                assert_eq!(restored, Reply::ok(), "{name}");
            }
            assert!(fetch(&mut client, "tagged").is_hit("value of tagged"));
            assert!(fetch(&mut client, "graced").is_hit("g"));
            assert!(fetch(&mut client, "soft").is_stale("s"));
            let hits = inspect(&mut client, "tagged").unwrap().hits;
            assert!(hits >= 4_000_000_000);
            assert_index_agrees(&server, &[0], &[]);
        }
    });
}

/// The grace of `soft` is longer than any command allows today.
#[test]
fn an_entry_of_an_earlier_build_survives_a_log_rewrite() {
    for_all_engines(|engine| {
        let builder = Server::builder().engine(engine).arg("--appendonly", "yes");
        let server = builder.arg("--aof-use-rdb-preamble", "no").start();
        let mut client = server.raw();
        let payload = std::fs::read(fixture("encoding-2.soft.dump")).unwrap();
        assert_eq!(call!(client, "RESTORE", "soft", 0, payload), Reply::ok());
        let before = call!(client, "CACHE.INSPECT", "soft").field("grace");
        call!(client, "BGREWRITEAOF");
        wait_rewritten(&mut client);
        assert_eq!(call!(client, "DEBUG", "LOADAOF"), Reply::ok());
        assert!(fetch(&mut client, "soft").is_stale("s"));
        assert_eq!(
            call!(client, "CACHE.INSPECT", "soft").field("grace"),
            before
        );
    });
}

/// Writes the files of today's encoding to `TAGCACHE_FIXTURES`, with today's module on the oldest server: to be used
/// when the encoding changes, to keep examples of the old one.
#[test]
#[ignore = "writes files to be kept, where the encoding has changed"]
fn write_fixtures_of_todays_encoding() {
    let directory = std::env::var("TAGCACHE_FIXTURES").expect("TAGCACHE_FIXTURES says where to");
    let directory = Path::new(&directory);
    let server = Server::start();
    let mut client = server.raw();
    write_dataset(&mut client);
    holds_the_dataset(&server, &mut client, LONG);
    for key in ["tagged", "graced", "soft"] {
        let payload = call!(client, "DUMP", key).bytes().to_vec();
        std::fs::write(directory.join(format!("{key}.dump")), payload).unwrap();
    }
    assert_eq!(call!(client, "SAVE"), Reply::ok());
    std::fs::copy(server.dir().join("dump.rdb"), directory.join("dataset.rdb")).unwrap();
}
