//! Files and payloads that earlier versions wrote, kept under `tests/fixtures`: they must load for ever.

use std::path::{Path, PathBuf};

use tagcache_tests::look::{
    assert_index_agrees, entry_keys, inspect, stat, tagscan, wait_reclaimed,
};
use tagcache_tests::{Engine, RawClient, Reply, Server, call, for_all_engines};

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

/// What `encoding-1.rdb` holds: six entries and a string in database 0, where 40 entries were saved as gone, and one
/// entry in database 3.
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
