//! Saved data is restored: RDB, AOF with and without preamble, after an orderly end and after a crash.

mod aof;
mod fixtures;
mod pipe;
mod rdb;
mod replay;
mod restart;
mod times;
mod vacant;

use tagcache_tests::{RawClient, Server, call};

/// The tags that every dataset of this suite carries, to detect an index that kept one.
const TAGS: [&[u8]; 4] = [b"all", b"t3", b"dropped", b"bulk"];

/// Entries of every kind in two databases, a few of them read, invalidated, overwritten or expiring.
fn dataset(server: &Server) {
    let mut client = server.raw();
    for database in [0, 3] {
        call!(client, "SELECT", database);
        for n in 0..300 {
            call!(
                client,
                "CACHE.SET",
                n,
                format!("value {n}"),
                "TAGS",
                2,
                "all",
                format!("t{}", n % 9)
            );
        }
        for n in 100..150 {
            call!(
                client,
                "CACHE.SET",
                n,
                vec![n as u8; 500],
                "EX",
                100_000,
                "TAGS",
                1,
                "all"
            );
            for _ in 0..n - 95 {
                call!(client, "CACHE.GET", n);
            }
        }
        call!(client, "CACHE.SET", "untagged", "");
        call!(
            client,
            "CACHE.SET",
            b"\0binary\xff",
            b"\r\n\0",
            "TAGS",
            2,
            b"\xff\0",
            "all"
        );
        call!(client, "CACHE.SET", "lost", "v", "TAGS", 1, "dropped");
        call!(client, "CACHE.INVALIDATE", "t3", "dropped");
        call!(client, "CACHE.TOUCH", 7, "EX", 100_000);
        call!(client, "CACHE.DEL", 8);
        call!(client, "RENAME", 9, "renamed");
        call!(client, "SET", "string", "v");
    }
}

/// Adds a tag of many entries.
fn bulk(client: &mut RawClient, count: usize) {
    let commands: Vec<_> = (0..count)
        .map(|n| {
            tagcache_tests::args![
                "CACHE.SET",
                format!("bulk{n}"),
                "v",
                "TAGS",
                2,
                "bulk",
                "all"
            ]
        })
        .collect();
    client.pipeline(&commands);
}
