//! A run over many slices: entries that matched at its start are gone at its end, and later entries stay.

use tagcache_tests::look::{assert_index_agrees, info, stat, tagscan, wait_reclaimed};
use tagcache_tests::{
    DEADLINE, Engine, RawClient, Reply, Rng, Server, args, call, command, for_each_engine,
    wait_until,
};

use crate::{LONG, Where};

const MANY: usize = 30_000;

/// Entries `key0` … with the tag `all` and one of `t0` to `t9`, on a server whose slices are short.
fn filled(engine: &Engine, grace: i64) -> (Server, RawClient) {
    let server = Server::builder()
        .engine(engine)
        .module_args(&["reclaim-budget-us", "50"])
        .start();
    let mut client = server.raw();
    let numbers: Vec<usize> = (0..MANY).collect();
    for numbers in numbers.chunks(10_000) {
        let sets: Vec<_> = numbers
            .iter()
            .map(|n| {
                let tag = format!("t{}", n % 10);
                args![
                    "CACHE.SET",
                    format!("key{n}"),
                    "old",
                    "GRACE",
                    grace,
                    "TAGS",
                    2,
                    "all",
                    tag
                ]
            })
            .collect();
        assert!(client.pipeline(&sets).iter().all(|r| *r == Reply::ok()));
    }
    (server, client)
}

/// Sends the command on a new connection and works on another one meanwhile, and as long as memory of dropped entries
/// is being reclaimed. Returns the reply, and how often there was work to do.
fn while_running(
    server: &Server,
    what: &Where,
    options: &[&str],
    mut work: impl FnMut(&mut RawClient, usize),
) -> (i64, usize) {
    let (mut runner, mut worker) = (server.raw(), server.raw());
    let clock = stat(&mut worker, "clock");
    runner.send(&what.command(options));
    wait_until("the command runs", DEADLINE, || {
        stat(&mut worker, "clock") > clock
    });
    let mut rounds = 0;
    while rounds < 3
        || info(&mut worker, "blocked_clients") > 0
        || stat(&mut worker, "reclaim_backlog") > 0
    {
        work(&mut worker, rounds);
        rounds += 1;
    }
    (runner.read().int(), rounds)
}

#[test]
fn entries_written_during_a_run_stay_and_all_others_are_gone() {
    for_each_engine(|engine| {
        let (server, mut client) = filled(engine, 0);
        let mut rng = Rng::from_env(91);
        let mut written = std::collections::BTreeSet::new();
        let (count, rounds) = while_running(&server, &Where::all(&["all"]), &[], |worker, _| {
            let keys: Vec<usize> = (0..20).map(|_| rng.below(MANY + 1000)).collect();
            let sets: Vec<_> = keys
                .iter()
                .map(|n| {
                    args![
                        "CACHE.SET",
                        format!("key{n}"),
                        "new",
                        "TAGS",
                        2,
                        "all",
                        "t0"
                    ]
                })
                .collect();
            assert!(worker.pipeline(&sets).iter().all(|r| *r == Reply::ok()));
            written.extend(keys.iter().map(|n| format!("key{n}").into_bytes()));
        });
        // Some entries were overwritten before the run reached them.
        assert!(
            (MANY as i64 - 20 * rounds as i64..=MANY as i64).contains(&count),
            "{count}"
        );
        assert_eq!(tagscan(&mut client, b"all", 10_000), written);
        let mget: Vec<_> = written.iter().map(|key| args!["CACHE.GET", key]).collect();
        assert!(
            client
                .pipeline(&mget)
                .iter()
                .all(|r| *r == Reply::bulk("new"))
        );
        wait_reclaimed(&mut client);
        assert_eq!(stat(&mut client, "entries"), written.len() as i64);
        assert_index_agrees(&server, &[0], &[b"t0", b"t7"]);
    });
}

#[test]
fn entries_renamed_during_a_run_are_dropped() {
    for_each_engine(|engine| {
        let (server, mut client) = filled(engine, 0);
        let (count, _) = while_running(&server, &Where::all(&["all"]), &[], |worker, round| {
            // Renames from both ends, to new names and over each other.
            let renames: Vec<_> = (0..20)
                .flat_map(|n| {
                    let low = (round * 20 + n) % (MANY - 1);
                    let high = MANY - 1 - low;
                    [
                        args!["RENAME", format!("key{high}"), format!("moved{high}")],
                        args!["RENAME", format!("key{low}"), format!("key{}", high - 1)],
                    ]
                })
                .collect();
            worker.pipeline(&renames);
        });
        assert!(count <= MANY as i64 && count > 0, "{count}");
        assert!(tagscan(&mut client, b"all", 10_000).is_empty());
        assert_eq!(stat(&mut client, "entries"), 0);
        wait_reclaimed(&mut client);
        assert_eq!(call!(client, "DBSIZE"), Reply::Int(0));
        assert_index_agrees(&server, &[0], &[b"all", b"t0"]);
    });
}

#[test]
fn entries_removed_by_other_means_during_a_run_do_no_harm() {
    for_each_engine(|engine| {
        let (server, mut client) = filled(engine, 0);
        call!(client, "CACHE.SET", "bystander", "v", "TAGS", 1, "other");
        let what = Where::any(&["t1", "t2", "t3"]).and_none(&["t4"]);
        let _ = while_running(&server, &what, &[], |worker, round| {
            let at = |n: usize| format!("key{}", MANY - 1 - (round * 50 + n) % MANY);
            let mut commands = vec![
                args!["PEXPIREAT", at(0), 1],
                args!["DEL", at(1)],
                args!["CACHE.DEL", at(2), at(3)],
                args!["SET", at(4), "native"],
                args!["MOVE", at(5), 1],
                args!["PEXPIRE", at(6), 1],
            ];
            if round == 5 {
                commands.push(args!["CACHE.INVALIDATE", "t2"]);
            }
            if round == 9 {
                commands.push(args!["CACHE.INVALIDATE", "t5"]);
            }
            worker.pipeline(&commands);
        });
        for tag in ["t1", "t2", "t3"] {
            let left = tagscan(&mut client, tag.as_bytes(), 10_000);
            assert!(left.is_empty(), "{tag}: {} entries are left", left.len());
        }
        assert!(!tagscan(&mut client, b"t4", 10_000).is_empty());
        assert_eq!(call!(client, "CACHE.GET", "bystander"), Reply::bulk("v"));
        assert_index_agrees(&server, &[0, 1], &[b"t1", b"t2", b"t3"]);
    });
}

#[test]
fn a_soft_run_makes_old_entries_stale_and_keeps_new_ones_fresh() {
    for_each_engine(|engine| {
        let (server, mut client) = filled(engine, LONG);
        let mut written = Vec::new();
        let (count, rounds) = while_running(
            &server,
            &Where::all(&["all"]),
            &["SOFT"],
            |worker, round| {
                let key = format!("key{}", (round * 7919) % MANY);
                let set = command!("CACHE.SET {key} new GRACE {LONG} TAGS 2 all t0");
                assert_eq!(worker.call(&set), Reply::ok());
                written.push(key);
            },
        );
        assert!(count > 0, "{count} in {rounds} rounds");
        for key in &written {
            assert_eq!(call!(client, "CACHE.GET", key), Reply::bulk("new"), "{key}");
        }
        let gets: Vec<_> = (0..MANY)
            .map(|n| args!["CACHE.GET", format!("key{n}")])
            .collect();
        let fresh = client.pipeline(&gets);
        let fresh = fresh.iter().filter(|reply| !reply.is_null()).count();
        written.sort();
        written.dedup();
        assert_eq!(fresh, written.len());
        assert_eq!(stat(&mut client, "entries"), MANY as i64);
        assert!(
            tagcache_tests::fetch::fetch(&mut client, "key7777")
                .value
                .is_some()
        );
    });
}

#[test]
fn a_caller_that_disconnects_or_is_killed_does_no_harm() {
    for_each_engine(|engine| {
        let (server, mut client) = filled(engine, 0);
        for how in ["drop", "kill", "unblock"] {
            let mut runner = server.raw();
            let id = call!(runner, "CLIENT", "ID").int();
            let what = Where::any(&["t1", how]);
            runner.send(&what.command(&["DRYRUN"]));
            match how {
                "kill" => drop(call!(client, "CLIENT", "KILL", "ID", id)),
                "unblock" => drop(call!(client, "CLIENT", "UNBLOCK", id, "ERROR")),
                _ => drop(runner),
            }
        }
        let mut runner = server.raw();
        runner.send(&Where::all(&["all"]).and_none(&["t1"]).command(&[]));
        drop(runner);
        wait_until("nobody is blocked any more", DEADLINE, || {
            info(&mut client, "blocked_clients") == 0
        });
        // The contract does not define whether the run of a disconnected caller goes on to its end.
        Where::all(&["all"]).and_none(&["t1"]).run(&mut client, &[]);
        assert_eq!(Where::all(&["t1"]).run(&mut client, &[]), MANY as i64 / 10);
        assert_eq!(stat(&mut client, "entries"), 0);
        assert_index_agrees(&server, &[0], &[b"all"]);
    });
}

#[test]
fn two_concurrent_runs_and_a_flush_end_correctly() {
    for_each_engine(|engine| {
        let (server, mut client) = filled(engine, 0);
        let (mut first, mut second) = (server.raw(), server.raw());
        first.send(&Where::any(&["t1", "t2"]).command(&[]));
        second.send(&Where::any(&["t2", "t3"]).command(&["SOFT"]));
        let (one, two) = (first.read().int(), second.read().int());
        let tenth = MANY as i64 / 10;
        assert!(
            one <= 2 * tenth && two <= 2 * tenth && one + two >= 3 * tenth,
            "{one} {two}"
        );
        assert_eq!(stat(&mut client, "entries"), MANY as i64 - 3 * tenth);
        first.send(&Where::all(&["all"]).command(&[]));
        call!(client, "CACHE.FLUSH");
        assert!(first.read().int() <= MANY as i64);
        first.send(&Where::none(&["x"]).command(&[]));
        call!(client, "FLUSHALL");
        assert!(!first.read().is_null());
        assert_eq!(stat(&mut client, "entries"), 0);
        assert_index_agrees(&server, &[0], &[b"all"]);
    });
}

#[test]
fn swapdb_or_reload_during_a_run_does_not_crash_the_server() {
    for_each_engine(|engine| {
        let (server, mut client) = filled(engine, 0);
        let mut runner = server.raw();
        runner.send(&Where::all(&["all"]).command(&[]));
        call!(client, "SWAPDB", 0, 3);
        assert!(matches!(runner.read(), Reply::Int(_) | Reply::Error(_)));
        assert_index_agrees(&server, &[0, 3], &[b"all"]);
        call!(client, "SWAPDB", 0, 3);
        let mut runner = server.raw();
        runner.send(&Where::none(&["x"]).command(&[]));
        assert_eq!(call!(client, "DEBUG", "RELOAD"), Reply::ok());
        assert!(matches!(runner.read(), Reply::Int(_) | Reply::Error(_)));
        assert_index_agrees(&server, &[0], &[b"all"]);
    });
}
