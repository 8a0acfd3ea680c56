//! Active defragmentation moves values: entries and index stay the same.

use std::io::Write;

use tagcache_tests::look::{assert_index_agrees, info, info_text};
use tagcache_tests::{DEADLINE, Reply, Server, args, call, for_all_engines, wait_until};

#[test]
fn defragmentation_keeps_entries_intact() {
    for_all_engines(|engine| {
        let server = Server::builder().engine(engine).start();
        let mut client = server.raw();
        let enabled = call!(client, "CONFIG", "SET", "activedefrag", "yes");
        if enabled.is_error() {
            // Not with every allocator; the server reports that itself.
            let allocator = info_text(&mut client, "mem_allocator");
            let notice = format!(
                "\n!!! {}: no active defragmentation with {allocator}: SKIPPED !!!\n",
                engine.name
            );
            let _ = std::io::stderr().write_all(notice.as_bytes());
            return;
        }
        call!(client, "CONFIG", "SET", "activedefrag", "no");
        // Some values lie apart from their entries.
        let value = |n: usize| vec![(n % 251) as u8; 100 + n % 1_000];
        let set = |n| {
            args![
                "CACHE.SET",
                format!("key{n}"),
                value(n),
                "TAGS",
                2,
                "a",
                format!("t{}", n % 7)
            ]
        };
        let sets: Vec<_> = (0..60_000).map(set).collect();
        client.pipeline(&sets);
        let dels: Vec<_> = (0..60_000)
            .filter(|n| n % 4 != 0)
            .map(|n| args!["CACHE.DEL", format!("key{n}")])
            .collect();
        client.pipeline(&dels);
        for (name, setting) in [
            ("active-defrag-ignore-bytes", "1"),
            ("active-defrag-threshold-lower", "1"),
            ("active-defrag-cycle-min", "70"),
            ("active-defrag-cycle-max", "75"),
            ("activedefrag", "yes"),
        ] {
            assert_eq!(
                call!(client, "CONFIG", "SET", name, setting),
                Reply::ok(),
                "{name}"
            );
        }
        wait_until("values are moved", DEADLINE, || {
            info(&mut client, "active_defrag_hits") > 1000
        });
        let kept: Vec<_> = (0..60_000).step_by(4).collect();
        let gets: Vec<_> = kept
            .iter()
            .map(|n| args!["CACHE.GET", format!("key{n}")])
            .collect();
        for (n, reply) in kept.iter().zip(client.pipeline(&gets)) {
            assert_eq!(reply, Reply::bulk(value(*n)), "key{n}");
        }
        assert_index_agrees(&server, &[0], &[]);
        assert_eq!(
            call!(client, "CACHE.INVALIDATE", "a"),
            Reply::Int(kept.len() as i64)
        );
        tagcache_tests::look::wait_reclaimed(&mut client);
        assert_eq!(call!(client, "DBSIZE"), Reply::Int(0));
    });
}
