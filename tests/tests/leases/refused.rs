//! Input that FETCH, RELEASE and SET … LEASE refuse, with Redis's error texts and without any change.

use tagcache_tests::fetch::{lease, set_leased};
use tagcache_tests::look::{Snapshot, stat};
use tagcache_tests::{Reply, call, on_both_protocols, run};

use crate::{NOT_AN_INTEGER, SYNTAX, WRONGTYPE};

fn refused(lines: &[(&str, &str)]) {
    on_both_protocols(|server, client| {
        call!(client, "SET", "string", "v");
        call!(client, "CACHE.SET", "entry", "v", "TAGS", 1, "a");
        let before = Snapshot::take(server, &[0], &[b"a", b"x"]);
        for (line, error) in lines {
            let words: Vec<&str> = line.split(' ').collect();
            let reply = client.call(&words);
            let message = reply
                .error()
                .unwrap_or_else(|| panic!("{line} answers {reply:?}"));
            assert!(message.starts_with(error), "{line}: {message}");
            let after = Snapshot::take(server, &[0], &[b"a", b"x"]);
            assert_eq!(after, before, "{line}");
        }
    });
}

#[test]
fn fetch_refuses_invalid_arguments() {
    let arity = "ERR wrong number of arguments for 'cache.fetch' command";
    refused(&[
        ("CACHE.FETCH", arity),
        ("CACHE.FETCH absent FOO", SYNTAX),
        ("CACHE.FETCH absent LEASE", SYNTAX),
        ("CACHE.FETCH absent WAIT", SYNTAX),
        ("CACHE.FETCH absent LEASE 5 WAIT", SYNTAX),
        ("CACHE.FETCH absent LEASE 5 LEASE 5", SYNTAX),
        ("CACHE.FETCH absent WAIT 5 WAIT 5", SYNTAX),
        ("CACHE.FETCH absent absent", SYNTAX),
        ("CACHE.FETCH absent LEASE five", NOT_AN_INTEGER),
        ("CACHE.FETCH absent LEASE 5 WAIT five", NOT_AN_INTEGER),
        (
            "CACHE.FETCH absent LEASE 9223372036854775808",
            NOT_AN_INTEGER,
        ),
        ("CACHE.FETCH absent LEASE 1.5", NOT_AN_INTEGER),
        ("CACHE.FETCH absent LEASE -1", "ERR "),
        ("CACHE.FETCH absent LEASE 0", "ERR "),
        ("CACHE.FETCH absent WAIT -1", "ERR "),
        ("CACHE.FETCH entry LEASE -1", "ERR "),
        ("CACHE.FETCH string", WRONGTYPE),
    ]);
}

#[test]
fn release_refuses_invalid_arguments() {
    let arity = "ERR wrong number of arguments for 'cache.release' command";
    refused(&[
        ("CACHE.RELEASE", arity),
        ("CACHE.RELEASE key", arity),
        ("CACHE.RELEASE key 1 1", arity),
        ("CACHE.RELEASE key token", NOT_AN_INTEGER),
        ("CACHE.RELEASE key 1.5", NOT_AN_INTEGER),
        ("CACHE.RELEASE key 9223372036854775808", NOT_AN_INTEGER),
    ]);
}

#[test]
fn set_under_a_lease_refuses_invalid_arguments() {
    refused(&[
        ("CACHE.SET absent x LEASE", SYNTAX),
        ("CACHE.SET absent x LEASE 5 LEASE 5", SYNTAX),
        ("CACHE.SET absent x LEASE token", NOT_AN_INTEGER),
        ("CACHE.SET absent x LEASE 1.5", NOT_AN_INTEGER),
        ("CACHE.SET absent x LEASE 5 FOO", SYNTAX),
        ("CACHE.SET string x LEASE 5", WRONGTYPE),
        (
            "CACHE.SET absent x EX 0 LEASE 5",
            "ERR invalid expire time in 'cache.set' command",
        ),
    ]);
}

#[test]
fn a_refused_command_does_not_change_the_lease() {
    on_both_protocols(|_, client| {
        let token = lease(client, "key");
        for wrong in [
            &["CACHE.SET", "key", "x", "LEASE", "nonsense"][..],
            &["CACHE.SET", "key", "x", "LEASE", "5", "TAGS", "1", ""],
            &["CACHE.SET", "key", "x", "EX", "0", "LEASE", "5"],
            &["CACHE.RELEASE", "key", "nonsense"],
        ] {
            assert!(client.call(wrong).is_error(), "{wrong:?}");
        }
        let reply = call!(client, "CACHE.SET", "key", "x", "LEASE", token, "EX", 0);
        assert!(reply.is_error(), "{reply:?}");
        assert_eq!(stat(client, "leases"), 1);
        assert!(set_leased(client, "key", "v", token, &[]));
        assert_eq!(call!(client, "CACHE.GET", "key"), Reply::bulk("v"));
    });
}

#[test]
fn fetch_and_set_accept_options_in_any_order_and_case() {
    on_both_protocols(|_, client| {
        let reply = call!(client, "cache.fetch", "key", "wait", 5, "Lease", 60_000);
        let token = tagcache_tests::fetch::fetched(&reply).token;
        assert!(token > 0);
        let set = run!(
            client,
            "cache.set key v Tags 1 a lease {token} grace 1000 ex 100"
        );
        assert_eq!(set, Reply::ok());
        let inspected = call!(client, "CACHE.INSPECT", "key");
        assert_eq!(inspected.field("grace"), Reply::Int(1000));
        assert!(inspected.field("pttl").int() > 1000);
    });
}
