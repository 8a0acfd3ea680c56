//! Memory is reclaimed before any live entry has to go.

use tagcache_tests::look::{info, stat, wait_reclaimed};
use tagcache_tests::{
    DEADLINE, RawClient, Reply, Server, args, call, for_all_engines, for_each_engine, wait_until,
};

use crate::fill;

fn used(client: &mut RawClient) -> i64 {
    info(client, "used_memory")
}

/// Waits until no more than 3 % of the memory that was taken since `start` is still in use.
fn wait_until_freed(client: &mut RawClient, start: i64, full: i64) {
    let bound = start + (full - start) * 3 / 100;
    wait_until("the memory is given back", DEADLINE * 2, || {
        used(client) <= bound
    });
}

#[test]
fn the_memory_of_200_000_entries_is_reclaimed() {
    for_all_engines(|engine| {
        let server = Server::builder().engine(engine).start();
        let mut client = server.raw();
        // Buffers of the connection and first tables are part of the start.
        fill(&mut client, "key", 1000, &[1; 100], "large");
        call!(client, "CACHE.FLUSH");
        wait_reclaimed(&mut client);
        call!(client, "CACHE.RESETSTATS");
        let start = used(&mut client);
        fill(&mut client, "key", 200_000, &[1; 100], "large");
        let full = used(&mut client);
        assert!(full > start + 200_000 * 150, "{start} {full}");
        assert_eq!(
            call!(client, "CACHE.INVALIDATE", "large"),
            Reply::Int(200_000)
        );
        wait_reclaimed(&mut client);
        assert_eq!(stat(&mut client, "reclaimed"), 200_000);
        assert_eq!(call!(client, "DBSIZE"), Reply::Int(0));
        assert_eq!(stat(&mut client, "bytes"), 0);
        assert!(stat(&mut client, "reclaim_max_us") > 0);
        wait_until_freed(&mut client, start, full);
    });
}

#[test]
fn no_way_of_removing_entries_leaks_memory() {
    for_each_engine(|engine| {
        let server = Server::builder().engine(engine).start();
        let mut client = server.raw();
        let mut start = 0;
        let mut full = 0;
        for round in 0..4 {
            for way in [
                "del",
                "invalidate",
                "flush",
                "flushall",
                "expire",
                "overwrite",
                "rename",
            ] {
                fill(&mut client, "key", 10_000, &[1; 100], way);
                full = full.max(used(&mut client));
                let each = |command: &[&str]| {
                    let with_key = |n| {
                        let words = command
                            .iter()
                            .map(|word| word.replace("KEY", &format!("key{n}")).into_bytes());
                        words.collect::<Vec<_>>()
                    };
                    (0..10_000).map(with_key).collect::<Vec<_>>()
                };
                match way {
                    "del" => drop(client.pipeline(&each(&["CACHE.DEL", "KEY"]))),
                    "invalidate" => drop(call!(client, "CACHE.INVALIDATE", way)),
                    "flush" => drop(call!(client, "CACHE.FLUSH")),
                    "flushall" => drop(call!(client, "FLUSHALL", "ASYNC")),
                    "expire" => drop(client.pipeline(&each(&["PEXPIREAT", "KEY", "1"]))),
                    "overwrite" => drop(client.pipeline(&each(&["SET", "KEY", "v"]))),
                    _ => drop(client.pipeline(&each(&["RENAME", "KEY", "one"]))),
                }
                call!(client, "DEL", "one");
                client.pipeline(&each(&["DEL", "KEY"]));
                wait_until("all is gone", DEADLINE, || {
                    call!(client, "DBSIZE") == Reply::Int(0)
                });
                wait_reclaimed(&mut client);
            }
            if round == 0 {
                // Tables whose size the server keeps exist from now on.
                start = used(&mut client);
            }
        }
        wait_until_freed(&mut client, start, full);
    });
}

#[test]
fn tags_beyond_the_bound_are_freed_with_their_entries() {
    const TAGS: usize = 200_000;
    /// The memory that may remain per tag: of half of them, and a table.
    const BYTES_EACH: i64 = 250;
    for_each_engine(|engine| {
        let server = Server::builder().engine(engine).start();
        let mut client = server.raw();
        let start = used(&mut client);
        for part in 0..TAGS / 1_000 {
            let tags: Vec<_> = (0..1_000).map(|n| format!("tag{part}:{n}")).collect();
            let set = |tag: &String| args!["CACHE.SET", tag, "v", "TAGS", 1, tag];
            let sets: Vec<_> = tags.iter().map(set).collect();
            client.pipeline(&sets);
            // While entries carry them, all of them are remembered, however many.
            let mut invalidate = args!["CACHE.INVALIDATE"];
            invalidate.extend(tags.iter().map(|tag| tag.clone().into_bytes()));
            client.call(&invalidate);
            client.pipeline(&sets);
        }
        let full = used(&mut client);
        call!(client, "FLUSHALL");
        wait_until("it is given back", DEADLINE, || {
            let (reported, grown) = (stat(&mut client, "index_bytes"), used(&mut client) - start);
            let most = 100_000 * BYTES_EACH;
            assert!(full - start > most, "they took {} bytes", full - start);
            reported < most && grown < most
        });
    });
}

#[test]
fn writers_help_to_reclaim() {
    for_each_engine(|engine| {
        let server = Server::builder().engine(engine).start();
        let mut client = server.raw();
        fill(&mut client, "key", 20_000, b"value", "a");
        // A pipeline this short is read and executed in one go: the timer runs only between pipelines.
        let mut commands = vec![args!["CACHE.INVALIDATE", "a"], args!["CACHE.STATS"]];
        commands.extend((0..200).map(|n| args!["CACHE.SET", format!("new{n}"), "v"]));
        commands.push(args!["CACHE.STATS"]);
        let replies = client.pipeline(&commands);
        let backlog = |reply: &Reply| reply.field("reclaim_backlog").int();
        let (before, after) = (backlog(&replies[1]), backlog(&replies[replies.len() - 1]));
        assert!(
            after <= before - 200,
            "each of 200 writers frees at least what it takes: {before} {after}"
        );
        assert_eq!(replies[replies.len() - 1].field("entries"), Reply::Int(200));
    });
}

/// Fills the server with old live entries and many stale ones, sets the limit a little above, drops the stale ones, and
/// writes about as much as they used.
fn assert_no_live_entry_is_evicted(server: &Server, write: impl Fn(usize) -> Vec<Vec<u8>>) {
    let mut client = server.raw();
    fill(&mut client, "live", 5000, &[1; 200], "live");
    fill(&mut client, "stale", 40_000, &[1; 200], "stale");
    // Reclaiming rehashes tables, and a pipeline fills buffers: that much does not belong to the entries.
    let limit = used(&mut client) + (4 << 20);
    call!(client, "CONFIG", "SET", "maxmemory", limit);
    let mut commands = vec![args!["CACHE.INVALIDATE", "stale"]];
    commands.extend((0..30_000).map(write));
    for (command, reply) in commands.iter().zip(client.pipeline(&commands)) {
        assert!(
            !reply.is_error(),
            "{}: {reply:?}",
            command[0].escape_ascii()
        );
    }
    assert_eq!(
        info(&mut client, "evicted_keys"),
        0,
        "stale memory goes first"
    );
    let entries = call!(client, "CACHE.TAGINFO", "live").field("entries");
    assert_eq!(entries, Reply::Int(5000));
    wait_reclaimed(&mut client);
    assert_eq!(call!(client, "DBSIZE"), Reply::Int(35_000));
}

#[test]
fn cache_writes_evict_no_live_entry_while_gone_ones_exist() {
    for_each_engine(|engine| {
        let server = Server::builder()
            .engine(engine)
            .arg("--maxmemory-policy", "allkeys-lru")
            .start();
        assert_no_live_entry_is_evicted(&server, |n| {
            args![
                "CACHE.SET",
                format!("new{n}"),
                vec![1; 200],
                "TAGS",
                1,
                "new"
            ]
        });
    });
}

#[test]
fn native_writes_evict_no_live_entry_while_gone_ones_exist() {
    for_each_engine(|engine| {
        let server = Server::builder()
            .engine(engine)
            .arg("--maxmemory-policy", "allkeys-lru")
            .start();
        assert_no_live_entry_is_evicted(&server, |n| args!["SET", format!("new{n}"), vec![1; 200]]);
    });
}
