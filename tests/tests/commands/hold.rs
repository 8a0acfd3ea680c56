//! CACHE.HOLD: a value that may come from a lagging database replica is not kept for longer than the lag.

use std::collections::VecDeque;

use tagcache_tests::fetch::fetch;
use tagcache_tests::state::wait_synchronised;
use tagcache_tests::{
    DEADLINE, RawClient, Reply, Rng, Server, call, for_all_engines, on_both_protocols, run,
    wait_until,
};

fn native_pttl(client: &mut RawClient, key: &str) -> i64 {
    call!(client, "PTTL", key).int()
}

#[test]
fn an_entry_stored_under_a_hold_expires_with_the_hold() {
    on_both_protocols(|_, client| {
        run!(client, "CACHE.SET before v EX 1000 TAGS 1 t");
        assert_eq!(run!(client, "CACHE.HOLD 60000 t u"), Reply::ok());
        run!(client, "CACHE.SET plain v TAGS 1 t");
        run!(client, "CACHE.SET timed v EX 1000 GRACE 500000 TAGS 2 x u");
        run!(client, "CACHE.SET short v PX 20000 GRACE 900000 TAGS 1 t");
        run!(client, "CACHE.MSET 2 many1 v many2 v EX 1000 TAGS 1 t");
        run!(client, "CACHE.SET retagged v EX 1000 TAGS 1 x");
        run!(client, "CACHE.RETAG retagged TAGS 1 u");
        run!(client, "CACHE.SET kept v EX 50 TAGS 1 t");
        run!(client, "CACHE.SET kept v EX 1000 KEEPTAGS");
        run!(client, "CACHE.SET touched v EX 50 TAGS 1 t");
        run!(client, "CACHE.TOUCH touched EX 1000 GRACE 100000");
        let keys = [
            "plain", "timed", "short", "many1", "many2", "retagged", "kept", "touched",
        ];
        for key in keys {
            let pttl = native_pttl(client, key);
            assert!((1..=60_000).contains(&pttl), "{key}: {pttl}");
            assert!(fetch(client, key).is_hit("v"), "{key}");
        }
        let of_short = run!(client, "CACHE.INSPECT short");
        assert!(of_short.field("pttl").int() <= 20_000);
        assert!(of_short.field("grace").int() <= 40_000);
        assert!(native_pttl(client, "before") > 100_000);
        run!(client, "CACHE.SET other v EX 1000 TAGS 1 x");
        assert!(native_pttl(client, "other") > 100_000);
        // A shorter hold does not shorten a longer one.
        run!(client, "CACHE.HOLD 1 t");
        run!(client, "CACHE.SET plain v TAGS 1 t");
        assert!(native_pttl(client, "plain") > 10_000);
    });
}

#[test]
fn a_stale_entry_under_a_hold_stays_stale_until_the_hold_ends() {
    on_both_protocols(|_, client| {
        run!(client, "CACHE.HOLD 60000 t");
        for (n, (options, command)) in [
            ("EX 1000 GRACE 500000", "CACHE.RETAG key TAGS 1 t"),
            ("GRACE 500000", "CACHE.RETAG key TAGS 1 t"),
            ("GRACE 50000", "CACHE.RETAG key TAGS 2 t x"),
            ("EX 1000 GRACE 500000", "CACHE.TOUCH key EX 1000"),
            (
                "EX 1000 GRACE 500000",
                "CACHE.TOUCH key PERSIST GRACE 900000",
            ),
        ]
        .into_iter()
        .enumerate()
        {
            run!(client, "CACHE.SET key v TAGS 1 x{n} {options}");
            if command.starts_with("CACHE.TOUCH") {
                run!(client, "CACHE.HOLD 60000 x{n}");
            }
            run!(client, "CACHE.REVALIDATE x{n}");
            let reply = client.call(&tagcache_tests::split(command));
            assert_eq!(reply, Reply::Int(1), "{options} {command}");
            assert!(fetch(client, "key").is_stale("v"), "{options} {command}");
            let pttl = native_pttl(client, "key");
            assert!((1..=60_000).contains(&pttl), "{options} {command}: {pttl}");
        }
        // A hold that ends before the grace ends.
        run!(client, "CACHE.SET key v EX 1000 GRACE 500000 TAGS 1 x");
        run!(client, "CACHE.REVALIDATE x");
        at_once(
            client,
            "CACHE.HOLD 100 short",
            "CACHE.RETAG key TAGS 1 short",
        );
        wait_until("the hold is over", DEADLINE, || {
            fetch(client, "key").is_miss()
        });
    });
}

/// Runs a hold and a bounded command together, so that the hold cannot end between them.
fn at_once(client: &mut RawClient, hold: &str, command: &str) {
    let lines = ["MULTI", hold, command, "EXEC"];
    let replies = client.pipeline(&lines.map(tagcache_tests::split));
    assert_eq!(replies[3].items()[0], Reply::ok());
}

#[test]
fn after_a_hold_ends_entries_keep_their_full_ttl() {
    on_both_protocols(|_, client| {
        at_once(client, "CACHE.HOLD 1000 t", "CACHE.SET early v TAGS 1 t");
        wait_until("it is over", DEADLINE, || {
            run!(client, "CACHE.SET key v EX 1000 TAGS 1 t");
            native_pttl(client, "key") > 100_000
        });
        assert!(fetch(client, "early").is_miss());
    });
}

#[test]
fn a_hold_is_replicated_and_saved() {
    for_all_engines(|engine| {
        let primary = Server::builder().engine(engine).start();
        let replica = Server::builder()
            .engine(engine)
            .replica_of(&primary)
            .start();
        let (mut client, mut other) = (primary.raw(), replica.raw());
        run!(client, "CACHE.HOLD 300000 t");
        run!(client, "CACHE.SET key v EX 1000 GRACE 1000 TAGS 1 t");
        wait_synchronised(&primary, &replica);
        let (here, there) = (
            call!(client, "PEXPIRETIME", "key"),
            call!(other, "PEXPIRETIME", "key"),
        );
        assert_eq!(here, there);
        run!(client, "DEBUG RELOAD");
        run!(other, "REPLICAOF NO ONE");
        for client in [&mut client, &mut other] {
            run!(client, "CACHE.SET new v EX 1000 TAGS 1 t");
            let pttl = native_pttl(client, "new");
            assert!((1..=300_000).contains(&pttl), "{pttl}");
        }
    });
}

/// A database with a replica that applies each write some steps later.
#[derive(Default)]
struct Lagging {
    value: u64,
    on_replica: u64,
    /// Writes in transit: the step at which they arrive, and their values.
    on_their_way: VecDeque<(u64, u64)>,
}

impl Lagging {
    fn write(&mut self, value: u64, arrives: u64) {
        self.value = value;
        self.on_their_way.push_back((arrives, value));
    }

    fn read_replica(&mut self, step: u64) -> u64 {
        while let Some(&(arrives, value)) = self.on_their_way.front() {
            if arrives > step {
                break;
            }
            self.on_replica = value;
            self.on_their_way.pop_front();
        }
        self.on_replica
    }
}

/// Runs this many races of a writer and a loader that reads a lagging replica, with or without a hold. Returns how many
/// races left an outdated value in the cache when lag and hold were over.
fn outdated_after(client: &mut RawClient, races: u64, holds: bool) -> u64 {
    const LAG: u64 = 3;
    let mut rng = Rng::new(7);
    let mut left = 0;
    let mut database = Lagging::default();
    for race in 1..=races {
        // Steps: the write and its invalidation, then a load before or after the replica has it.
        let start = race * 100;
        let key = format!("row{race}");
        database.read_replica(start);
        database.write(race, start + LAG);
        if holds {
            call!(client, "CACHE.HOLD", 1, "row");
        }
        call!(client, "CACHE.INVALIDATE", "row");
        let token = call!(client, "CACHE.FETCH", key, "LEASE", 60_000).items()[3].int();
        let seen = database.read_replica(start + rng.below(2 * LAG as usize) as u64);
        let set = call!(
            client,
            "CACHE.SET",
            key,
            seen,
            "EX",
            1000,
            "LEASE",
            token,
            "TAGS",
            1,
            "row"
        );
        assert_eq!(set, Reply::ok(), "no lease sees the lag");
        if seen != database.value {
            left += 1;
        }
    }
    // Entries under a hold have its deadline: a millisecond. Nothing is left of the others.
    wait_until("the holds are over", DEADLINE, || {
        call!(
            client,
            "CACHE.SET",
            "probe",
            "v",
            "EX",
            1000,
            "TAGS",
            1,
            "row"
        );
        native_pttl(client, "probe") > 100_000
    });
    let stale = (1..=races)
        .filter(|race| {
            let got = call!(client, "CACHE.GET", format!("row{race}"));
            !got.is_null() && got.text() != race.to_string()
        })
        .count() as u64;
    assert!(left > races / 10, "the race happens: {left} of {races}");
    stale
}

#[test]
fn a_hold_prevents_outdated_values_from_a_lagging_database() {
    on_both_protocols(|_, client| {
        const RACES: u64 = 5_000; // On each protocol.
        assert!(
            outdated_after(client, 200, false) > 0,
            "without it, some stay"
        );
        call!(client, "CACHE.FLUSH");
        assert_eq!(outdated_after(client, RACES, true), 0);
    });
}
