//! Propagated commands carry the time of their execution on the primary.

use tagcache_tests::clock::Clock;
use tagcache_tests::look::stat;
use tagcache_tests::state::{assert_same, wait_synchronised};
use tagcache_tests::stream::{ReplicationStream, aof_commands, happened_ms};
use tagcache_tests::{RawClient, Server, args, for_all_engines, run, split};

const LINES: [&str; 8] = [
    "CACHE.SET key v GRACE 600000 TAGS 2 t u",
    "CACHE.SET other v PX 600000 NX TAGS 1 t",
    "CACHE.SET none v",
    "CACHE.REVALIDATE t u",
    "CACHE.INVALIDATE t",
    "CACHE.INVALIDATEWHERE ANY 1 u",
    "CACHE.INVALIDATEWHERE NONE 1 x SOFT",
    "CACHE.FLUSH",
];

fn unix_ms(client: &mut RawClient) -> u64 {
    let time = run!(client, "TIME");
    (time.items()[0].int() * 1_000 + time.items()[1].int() / 1_000) as u64
}

#[test]
fn stream_and_log_carry_the_times_of_writes_and_invalidations() {
    for_all_engines(|engine| {
        let builder = Server::builder().engine(engine).arg("--appendonly", "yes");
        // Not delayed by the disk: the file contains every command that has a reply.
        let primary = builder.arg("--appendfsync", "no").start();
        let mut stream = ReplicationStream::attach(&primary);
        let mut client = primary.raw();
        let mut spans = Vec::new();
        for line in LINES {
            let before = unix_ms(&mut client);
            client.call(&split(line));
            spans.push((line, before, unix_ms(&mut client)));
        }
        let queued = [
            args!["MULTI"],
            args!["CACHE.INVALIDATE", "t"],
            args!["EVAL", "redis.call('CACHE.REVALIDATE', 't')", 0],
            args!["EXEC"],
        ];
        let before = unix_ms(&mut client);
        client.pipeline(&queued);
        let after = unix_ms(&mut client);
        spans.extend(["in a transaction", "in a script"].map(|what| (what, before, after)));
        let ours = |command: &Vec<Vec<u8>>| command[0].to_ascii_lowercase().starts_with(b"cache.");
        let streamed = stream
            .commands(&primary)
            .into_iter()
            .filter(ours)
            .collect::<Vec<_>>();
        let logged = aof_commands(primary.dir(), ".incr.aof")
            .into_iter()
            .filter(ours);
        for commands in [streamed, logged.collect()] {
            assert_eq!(commands.len(), spans.len());
            for (command, (what, before, after)) in commands.iter().zip(&spans) {
                let at = happened_ms(command).unwrap_or_else(|| panic!("{what}: no time"));
                // Stamps follow the order of events: one may be a millisecond ahead.
                let span = *before..=after + spans.len() as u64;
                assert!(span.contains(&at), "{what}: {at}, not in {span:?}");
            }
        }
    });
}

#[test]
fn a_replica_with_another_clock_shows_the_primarys_times() {
    let Some(clock) = Clock::new() else { return };
    clock.shift(-3_600_000);
    for_all_engines(|engine| {
        let primary = Server::builder().engine(engine).start();
        let replica = clock
            .of(Server::builder().engine(engine))
            .replica_of(&primary)
            .start();
        wait_synchronised(&primary, &replica);
        let (mut here, mut there) = (primary.raw(), replica.raw());
        for line in LINES {
            here.call(&split(line));
            run!(here, "CACHE.SET kept v GRACE 600000 TAGS 2 t u");
            wait_synchronised(&primary, &replica);
            for tag in ["t", "u"] {
                let expected = run!(here, "CACHE.TAGINFO {tag}");
                assert_eq!(run!(there, "CACHE.TAGINFO {tag}"), expected, "{line}");
            }
            assert_eq!(
                stat(&mut there, "clock"),
                stat(&mut here, "clock"),
                "{line}"
            );
        }
        assert_same(&primary, &replica, &[0]);
    });
}
