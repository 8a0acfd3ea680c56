//! The input of one user costs the others a bounded part of the server.

use tagcache_tests::fetch::{fetched, lease, set_leased};
use tagcache_tests::look::{stat, wait_rewritten};
use tagcache_tests::payload::{body, with_footer};
use tagcache_tests::{RawClient, Reply, Server, call, for_each_engine, on_both_protocols, send};

const MB: i64 = 1 << 20;

/// Different tags, each of the greatest length that a command accepts.
fn long_tags(of: &str) -> impl Iterator<Item = Vec<u8>> {
    (0..1_600).map(move |n| {
        let mut tag = format!("{of} {n} ").into_bytes();
        tag.resize(65_536, b't');
        tag
    })
}

#[test]
fn the_memory_of_long_tags_without_entries_is_bounded() {
    for_each_engine(|engine| {
        let server = Server::builder().engine(engine).start();
        let mut client = server.raw();
        call!(client, "CACHE.INVALIDATE", "short");
        let heads: [&[&str]; 4] = [
            &["CACHE.INVALIDATE"],
            &["CACHE.REVALIDATE"],
            &["CACHE.HOLD", "1000"],
            &["CACHE.INVALIDATEWHERE", "ANY", "1"],
        ];
        for head in heads {
            // 100 MB of names.
            for tag in long_tags(head[0]) {
                let mut command: Vec<_> =
                    head.iter().map(|word| word.as_bytes().to_vec()).collect();
                command.push(tag);
                assert!(!client.call(&command).is_error());
            }
            let bytes = stat(&mut client, "index_bytes");
            assert!(bytes < 40 * MB, "{head:?}: {bytes} bytes");
        }
        // A forgotten tag counts as invalidated at the latest time that was forgotten.
        let token = lease(&mut client, "key");
        for tag in long_tags("later") {
            call!(client, "CACHE.INVALIDATE", tag);
        }
        assert!(!set_leased(&mut client, "key", "old", token, &["short"]));
    });
}

/// Restores an entry that claims the latest possible time as its time of write.
fn restore_from_the_future(client: &mut RawClient, key: &str) {
    call!(client, "CACHE.SET", "model", "v");
    let original = call!(client, "DUMP", "model").bytes().to_vec();
    let mut forged = body(&original).to_vec();
    // The record: flags, origin (4 bytes), then the time (6 bytes). It ends with the number of tags, 0, and the value.
    let value = forged.windows(2).rposition(|end| end == b"\0v");
    let value = value.expect("no tags, and the value");
    let time = value - 6;
    forged[time..value].fill(0xff);
    let forged = with_footer(&forged, &original);
    assert_eq!(call!(client, "RESTORE", key, 0, forged), Reply::ok());
    assert_eq!(call!(client, "CACHE.DEL", "model"), Reply::Int(1));
}

#[test]
fn a_forged_time_in_a_payload_does_not_affect_other_entries() {
    for_each_engine(|engine| {
        for preamble in ["yes", "no"] {
            let mut server = Server::builder()
                .engine(engine)
                .arg("--appendonly", "yes")
                .arg("--aof-use-rdb-preamble", preamble)
                .start();
            let mut client = server.raw();
            restore_from_the_future(&mut client, "forged");
            assert!(!call!(client, "BGREWRITEAOF").is_error());
            wait_rewritten(&mut client);
            server.restart();
            let mut client = server.raw();
            assert_eq!(call!(client, "CACHE.GET", "forged"), Reply::bulk("v"));
            call!(client, "CACHE.INVALIDATE", "layout");
            call!(client, "CACHE.SET", "other", "new");
            let reply = call!(client, "CACHE.FETCH", "other", "WITHTAGS", 1, "layout");
            assert!(
                fetched(&reply).is_hit("new"),
                "preamble {preamble}: {reply:?}"
            );
        }
    });
}

#[test]
fn waiters_count_towards_the_memory_limit_of_leases() {
    on_both_protocols(|server, client| {
        call!(client, "CACHE.FETCH", "awaited", "LEASE", 60_000);
        // Filled up to less room than two waits need.
        for length in [500_000, 1_000, 1] {
            let mut granted = |n: usize| {
                let mut key = format!("{n} ").into_bytes();
                key.resize(length.max(key.len()), b'k');
                fetched(&call!(client, "CACHE.FETCH", key, "LEASE", 60_000)).token > 0
            };
            let first = length * 1_000;
            assert!((first..first + 2_000).any(|n| !granted(n)), "{length}");
        }
        let mut callers: Vec<_> = (0..3).map(|_| server.raw()).collect();
        for caller in &mut callers {
            send!(caller, "CACHE.FETCH", "awaited", "WAIT", 600_000);
        }
        // The last of them gets a reply at once.
        assert!(fetched(&callers[2].read()).is_miss());
    });
}

#[test]
fn a_forged_message_changes_nothing_on_the_server() {
    on_both_protocols(|server, client| {
        call!(client, "CACHE.SET", "key", "v", "TAGS", 1, "a");
        let clock = call!(client, "CACHE.CLOCK");
        let message = [b"\x02I".as_slice(), &[0xff; 16], b"\0\0\0\x01a"].concat();
        let mut other = server.raw();
        call!(other, "PUBLISH", "__cache@0__:invalidate", message);
        assert_eq!(call!(client, "CACHE.GET", "key"), Reply::bulk("v"));
        assert_eq!(call!(client, "CACHE.CLOCK"), clock);
    });
}
