//! Many callers, one missing key: one load.

use std::collections::BTreeMap;
use std::sync::Mutex;

use tagcache_tests::fetch::{Fetched, fetch, fetched, lease, set_leased, wait_for_waiters};
use tagcache_tests::look::stat;
use tagcache_tests::{
    DEADLINE, Reply, Server, args, call, for_all_engines, for_each_engine, on_both_protocols, run,
    send, wait_until,
};

const CALLERS: usize = 500;

#[test]
fn of_500_callers_one_gets_the_lease_and_the_others_the_value() {
    for_all_engines(|engine| {
        let server = Server::builder().engine(engine).start();
        let mut client = server.raw();
        let answers = Mutex::new(Vec::<Fetched>::new());
        let mut callers: Vec<_> = (0..CALLERS).map(|_| server.raw()).collect();
        std::thread::scope(|scope| {
            for caller in &mut callers {
                let answers = &answers;
                scope.spawn(move || {
                    let fetch = args!["CACHE.FETCH", "key", "LEASE", 60_000, "WAIT", 600_000];
                    // One command per caller: a waiting client does not poll.
                    let answer = fetched(&caller.call(&fetch));
                    if answer.token > 0 {
                        // The load takes until all callers have arrived.
                        wait_for_waiters(caller, CALLERS as i64 - 1);
                        assert!(set_leased(caller, "key", "loaded", answer.token, &["a"]));
                    }
                    answers.lock().unwrap().push(answer);
                });
            }
        });
        let answers = answers.into_inner().unwrap();
        assert_eq!(answers.len(), CALLERS);
        let loaders = answers.iter().filter(|a| a.is_miss_with_token()).count();
        assert_eq!(loaders, 1, "exactly one loads");
        let served = answers.iter().filter(|a| a.is_hit("loaded")).count();
        assert_eq!(
            served,
            CALLERS - 1,
            "and everybody else gets what it loaded"
        );
        let stats = call!(client, "CACHE.STATS");
        for (name, value) in [("leases", 0), ("lease_waiters", 0), ("sets", 1)] {
            assert_eq!(stats.field(name), Reply::Int(value), "{name}");
        }
    });
}

#[test]
fn each_release_passes_the_lease_to_the_next_waiter() {
    on_both_protocols(|server, client| {
        const WAITING: usize = 40;
        let mut token = lease(client, "key");
        let mut callers: Vec<_> = (0..WAITING).map(|_| server.raw()).collect();
        for (n, caller) in callers.iter_mut().enumerate() {
            send!(
                caller,
                "CACHE.FETCH",
                "key",
                "LEASE",
                60_000,
                "WAIT",
                600_000
            );
            wait_for_waiters(client, n as i64 + 1);
        }
        let mut callers = callers.into_iter();
        for left in (WAITING / 2..WAITING).rev() {
            assert_eq!(call!(client, "CACHE.RELEASE", "key", token), Reply::Int(1));
            // In the order of their arrival.
            let answer = fetched(&callers.next().unwrap().read());
            assert!(answer.is_miss_with_token(), "{answer:?}");
            token = answer.token;
            assert_eq!(stat(client, "lease_waiters"), left as i64);
        }
        assert!(set_leased(client, "key", "v", token, &[]));
        for mut caller in callers {
            assert!(fetched(&caller.read()).is_hit("v"));
        }
    });
}

#[test]
fn waiters_for_many_keys_get_the_value_of_their_key() {
    for_each_engine(|engine| {
        let server = Server::builder().engine(engine).start();
        let mut client = server.raw();
        let mut tokens = BTreeMap::new();
        let mut callers = Vec::new();
        for n in 0..40 {
            let key = format!("key{n}");
            tokens.insert(key.clone(), lease(&mut client, &key));
            for _ in 0..5 {
                let mut caller = server.raw();
                send!(caller, "CACHE.FETCH", key, "LEASE", 60_000, "WAIT", 600_000);
                callers.push((key.clone(), caller));
            }
        }
        wait_for_waiters(&mut client, 200);
        let sets: Vec<_> = tokens
            .iter()
            .map(|(key, token)| args!["CACHE.SET", key, format!("value of {key}"), "LEASE", token])
            .collect();
        assert!(client.pipeline(&sets).iter().all(|r| *r == Reply::ok()));
        for (key, mut caller) in callers {
            let answer = fetched(&caller.read());
            assert!(
                answer.is_hit(format!("value of {key}")),
                "{key}: {answer:?}"
            );
        }
    });
}

#[test]
fn callers_of_a_stale_key_do_not_wait() {
    for_each_engine(|engine| {
        let server = Server::builder().engine(engine).start();
        let mut client = server.raw();
        run!(client, "CACHE.SET key old GRACE 600000 TAGS 1 a");
        call!(client, "CACHE.REVALIDATE", "a");
        let fetches = vec![args!["CACHE.FETCH", "key", "LEASE", 60_000, "WAIT", 600_000]; 500];
        let answers: Vec<_> = client.pipeline(&fetches).iter().map(fetched).collect();
        assert!(answers.iter().all(|answer| answer.is_stale("old")));
        let holders = answers.iter().filter(|answer| answer.token > 0).count();
        assert_eq!(holders, 1);
        wait_until("nobody ever waited", DEADLINE, || {
            stat(&mut client, "lease_waiters") == 0
        });
        assert_eq!(fetch(&mut client, "key").token, 0);
    });
}
