//! A rejected command returns Redis's own error text and changes nothing.

use tagcache_tests::look::Snapshot;
use tagcache_tests::{RawClient, Reply, args, call, on_both_protocols, run};

use crate::{NOT_AN_INTEGER, SYNTAX, WRONGTYPE};

const SET_TIME: &str = "ERR invalid expire time in 'cache.set' command";
const TOUCH_TIME: &str = "ERR invalid expire time in 'cache.touch' command";

fn prepare(client: &mut RawClient) {
    call!(client, "SET", "string", "v");
    run!(client, "CACHE.SET entry v EX 10000 TAGS 2 a b");
    call!(client, "CACHE.SET", "plain", "v");
    call!(client, "CACHE.GET", "entry");
    call!(client, "CACHE.SET", "gone", "v", "TAGS", 1, "dropped");
    call!(client, "CACHE.INVALIDATE", "dropped");
}

/// Sends each line (words separated by spaces), and expects exactly this error and no change.
fn refused(lines: &[(&str, &str)]) {
    on_both_protocols(|server, client| {
        prepare(client);
        let before = Snapshot::take(server, &[0, 1], &[b"dropped", b"x", b"y"]);
        for (line, error) in lines {
            let words: Vec<&str> = line.split(' ').collect();
            assert_eq!(
                client.call(&words),
                Reply::Error((*error).to_owned()),
                "{line}"
            );
            assert_eq!(
                Snapshot::take(server, &[0, 1], &[b"dropped", b"x", b"y"]),
                before,
                "{line}"
            );
        }
    });
}

#[test]
fn a_wrong_number_of_arguments_is_refused() {
    let commands: [(&str, &[usize]); 24] = [
        ("cache.set", &[0, 1]),
        ("cache.get", &[0, 2]),
        ("cache.mget", &[0]),
        ("cache.del", &[0]),
        ("cache.touch", &[0, 1]),
        ("cache.invalidate", &[0]),
        ("cache.flush", &[1, 2]),
        ("cache.inspect", &[0, 2]),
        ("cache.taginfo", &[0, 2]),
        ("cache.tagscan", &[0, 1]),
        ("cache.stats", &[1, 2]),
        ("cache.resetstats", &[1, 2]),
        ("cache.fetch", &[0]),
        ("cache.release", &[0, 1, 3]),
        ("cache.revalidate", &[0]),
        ("cache.invalidatewhere", &[0]),
        ("cache.hits", &[0, 1]),
        ("cache.mset", &[0, 1, 2]),
        ("cache.retag", &[0, 1, 2]),
        ("cache.getdel", &[0, 2]),
        ("cache.exists", &[0]),
        ("cache.mfetch", &[0]),
        ("cache.hold", &[0, 1]),
        ("cache.tagtimes", &[0]),
    ];
    let mut lines = Vec::new();
    for (name, counts) in commands {
        for &count in counts {
            for spelt in [name.to_owned(), name.to_uppercase()] {
                let line = [spelt]
                    .into_iter()
                    .chain(vec!["entry".to_owned(); count])
                    .collect::<Vec<_>>()
                    .join(" ");
                lines.push((
                    line,
                    format!("ERR wrong number of arguments for '{name}' command"),
                ));
            }
        }
    }
    let lines: Vec<_> = lines
        .iter()
        .map(|(line, error)| (line.as_str(), error.as_str()))
        .collect();
    refused(&lines);
}

#[test]
fn set_refuses_invalid_options() {
    refused(&[
        ("CACHE.SET entry x FOO", SYNTAX),
        ("CACHE.SET entry x EX", SYNTAX),
        ("CACHE.SET entry x TAGS", SYNTAX),
        ("CACHE.SET entry x TAGS 2 x", SYNTAX),
        ("CACHE.SET entry x TAGS 1 x y", SYNTAX),
        ("CACHE.SET entry x TAGS 1 x TAGS 1 y", SYNTAX),
        ("CACHE.SET entry x NX XX", SYNTAX),
        ("CACHE.SET entry x XX NX", SYNTAX),
        ("CACHE.SET entry x NX NX", SYNTAX),
        ("CACHE.SET entry x XX XX", SYNTAX),
        ("CACHE.SET entry x EX 5 EX 5", SYNTAX),
        ("CACHE.SET entry x EX 5 PX 5", SYNTAX),
        ("CACHE.SET entry x PX 5 EXAT 99999999999", SYNTAX),
        (
            "CACHE.SET entry x EXAT 99999999999 PXAT 99999999999999",
            SYNTAX,
        ),
        ("CACHE.SET entry x KEEPTTL EX 5", SYNTAX),
        ("CACHE.SET entry x PXAT 99999999999999 KEEPTTL", SYNTAX),
        ("CACHE.SET entry x KEEPTTL KEEPTTL", SYNTAX),
        ("CACHE.SET entry x GET", SYNTAX),
        ("CACHE.SET absent x FOO", SYNTAX),
        ("CACHE.SET string x FOO", SYNTAX),
    ]);
}

#[test]
fn set_refuses_invalid_numbers() {
    refused(&[
        ("CACHE.SET entry x EX 5x", NOT_AN_INTEGER),
        ("CACHE.SET entry x EX ", NOT_AN_INTEGER),
        ("CACHE.SET entry x EX 1.5", NOT_AN_INTEGER),
        ("CACHE.SET entry x EX +5", NOT_AN_INTEGER),
        ("CACHE.SET entry x EX 05", NOT_AN_INTEGER),
        ("CACHE.SET entry x PX 9223372036854775808", NOT_AN_INTEGER),
        ("CACHE.SET entry x PX -9223372036854775809", NOT_AN_INTEGER),
        (
            "CACHE.SET entry x EXAT 99999999999999999999999",
            NOT_AN_INTEGER,
        ),
        ("CACHE.SET entry x TAGS many a", NOT_AN_INTEGER),
        ("CACHE.SET entry x EX 0", SET_TIME),
        ("CACHE.SET entry x EX -1", SET_TIME),
        ("CACHE.SET entry x PX 0", SET_TIME),
        ("CACHE.SET entry x PX -5", SET_TIME),
        ("CACHE.SET entry x PX -9223372036854775808", SET_TIME),
        ("CACHE.SET entry x EXAT 0", SET_TIME),
        ("CACHE.SET entry x EXAT -1", SET_TIME),
        ("CACHE.SET entry x PXAT 0", SET_TIME),
        ("CACHE.SET entry x PXAT -1", SET_TIME),
        ("CACHE.SET entry x EX 9223372036854775807", SET_TIME),
        ("CACHE.SET entry x EX 9223372036854776", SET_TIME),
        ("CACHE.SET entry x PX 9223372036854775807", SET_TIME),
        ("CACHE.SET entry x EXAT 9223372036854776", SET_TIME),
        ("CACHE.SET string x EX 0", SET_TIME),
    ]);
}

#[test]
fn touch_refuses_invalid_options_and_numbers() {
    refused(&[
        ("CACHE.TOUCH entry FOO", SYNTAX),
        ("CACHE.TOUCH entry EX", SYNTAX),
        ("CACHE.TOUCH entry KEEPTTL", SYNTAX),
        ("CACHE.TOUCH entry EX 5 PERSIST", SYNTAX),
        ("CACHE.TOUCH entry PERSIST EX 5", SYNTAX),
        ("CACHE.TOUCH entry PERSIST PERSIST", SYNTAX),
        ("CACHE.TOUCH entry EX 5 PX 5", SYNTAX),
        ("CACHE.TOUCH entry EX 5 NX", SYNTAX),
        ("CACHE.TOUCH entry EX five", NOT_AN_INTEGER),
        ("CACHE.TOUCH entry EX 9223372036854775807", TOUCH_TIME),
        ("CACHE.TOUCH entry PX 9223372036854775807", TOUCH_TIME),
        ("CACHE.TOUCH absent EX 9223372036854775807", TOUCH_TIME),
        ("CACHE.TOUCH string EX 5", WRONGTYPE),
        ("CACHE.TOUCH string EX 0", WRONGTYPE),
    ]);
}

#[test]
fn mset_refuses_invalid_options_numbers_and_types() {
    const MSET_TIME: &str = "ERR invalid expire time in 'cache.mset' command";
    refused(&[
        ("CACHE.MSET 0 new x", NOT_AN_INTEGER),
        ("CACHE.MSET -1 new x", NOT_AN_INTEGER),
        ("CACHE.MSET two new x other y", NOT_AN_INTEGER),
        ("CACHE.MSET 2 new x", SYNTAX),
        ("CACHE.MSET 2 new x other", SYNTAX),
        ("CACHE.MSET 1 new x other y", SYNTAX),
        ("CACHE.MSET 1 new x KEEPTTL", SYNTAX),
        ("CACHE.MSET 1 new x KEEPTAGS", SYNTAX),
        ("CACHE.MSET 1 new x LEASE 1", SYNTAX),
        ("CACHE.MSET 1 new x NX XX", SYNTAX),
        ("CACHE.MSET 1 new x TAGS 2 a", SYNTAX),
        ("CACHE.MSET 1 new x EX 0", MSET_TIME),
        (
            "CACHE.MSET 1 new x PXAT 9223372036854775807 GRACE 1",
            MSET_TIME,
        ),
        ("CACHE.MSET 2 new x string y", WRONGTYPE),
        ("CACHE.MSET 3 new x entry z string y NX", WRONGTYPE),
    ]);
}

#[test]
fn retag_hold_and_others_refuse_invalid_arguments() {
    refused(&[
        ("CACHE.RETAG entry TAGS 2 x", SYNTAX),
        ("CACHE.RETAG entry TAGS 1 x y", SYNTAX),
        ("CACHE.RETAG entry KEEPTAGS 1", SYNTAX),
        ("CACHE.RETAG entry TAGS many x", NOT_AN_INTEGER),
        ("CACHE.RETAG string TAGS 0", WRONGTYPE),
        ("CACHE.GETDEL string", WRONGTYPE),
        ("CACHE.HOLD 0 x", NOT_AN_INTEGER),
        ("CACHE.HOLD -1 x", NOT_AN_INTEGER),
        ("CACHE.HOLD 1099511627777 x", NOT_AN_INTEGER),
        ("CACHE.HOLD soon x", NOT_AN_INTEGER),
        ("CACHE.SET entry x KEEPTAGS TAGS 1 x", SYNTAX),
        ("CACHE.SET entry x KEEPTAGS KEEPTAGS", SYNTAX),
        ("CACHE.FETCH entry EARLY", SYNTAX),
        ("CACHE.FETCH entry LEASE 5 EARLY EARLY", SYNTAX),
        ("CACHE.FETCH entry WITHTAGS 2 x", SYNTAX),
        ("CACHE.INVALIDATEWHERE ANY 1 a GRACE 5", SYNTAX),
        ("CACHE.INVALIDATEWHERE ANY 1 a SOFT GRACE", SYNTAX),
        (
            "CACHE.INVALIDATEWHERE ANY 1 a SOFT GRACE -1",
            NOT_AN_INTEGER,
        ),
    ]);
}

#[test]
fn keys_of_other_types_are_refused() {
    refused(&[
        ("CACHE.SET string x TAGS 1 x", WRONGTYPE),
        ("CACHE.SET string x NX", WRONGTYPE),
        ("CACHE.SET string x XX", WRONGTYPE),
        ("CACHE.GET string", WRONGTYPE),
        ("CACHE.DEL entry string", WRONGTYPE),
        ("CACHE.DEL string", WRONGTYPE),
        ("CACHE.INSPECT string", WRONGTYPE),
    ]);
}

#[test]
fn tagscan_refuses_invalid_cursors_options_and_numbers() {
    refused(&[
        ("CACHE.TAGSCAN a zero", "ERR invalid cursor"),
        ("CACHE.TAGSCAN a -1", "ERR invalid cursor"),
        ("CACHE.TAGSCAN a ", "ERR invalid cursor"),
        ("CACHE.TAGSCAN a 18446744073709551616", "ERR invalid cursor"),
        ("CACHE.TAGSCAN a 0 COUNT", SYNTAX),
        ("CACHE.TAGSCAN a 0 COUNT 0", SYNTAX),
        ("CACHE.TAGSCAN a 0 COUNT -5", SYNTAX),
        ("CACHE.TAGSCAN a 0 MATCH x", SYNTAX),
        ("CACHE.TAGSCAN a 0 COUNT 5 5", SYNTAX),
        ("CACHE.TAGSCAN a 0 COUNT five", NOT_AN_INTEGER),
    ]);
}

/// Sends each command, and expects an `ERR` that contains all of the words and no change.
fn refused_naming(commands: &[(Vec<Vec<u8>>, &[&str])]) {
    on_both_protocols(|server, client| {
        prepare(client);
        let before = Snapshot::take(server, &[0], &[b"x"]);
        for (command, words) in commands {
            let shown: Vec<_> = command
                .iter()
                .map(|arg| String::from_utf8_lossy(&arg[..arg.len().min(30)]))
                .collect();
            let reply = client.call(command);
            let error = reply
                .error()
                .unwrap_or_else(|| panic!("{shown:?} answers {reply:?}"));
            assert!(error.starts_with("ERR "), "{shown:?}: {error}");
            for word in *words {
                assert!(
                    error.contains(word),
                    "{shown:?}: {error:?} does not say {word}"
                );
            }
            assert_eq!(Snapshot::take(server, &[0], &[b"x"]), before, "{shown:?}");
        }
    });
}

#[test]
fn an_empty_tag_or_one_beyond_the_limit_is_refused() {
    let (long, longer) = ("t".repeat(513), "t".repeat(10 << 20));
    refused_naming(&[
        (
            args!["CACHE.SET", "entry", "x", "TAGS", 1, long],
            &["513", "512", "tagcache.max-tag-bytes"],
        ),
        (
            args!["CACHE.SET", "absent", "x", "TAGS", 2, "x", long],
            &["513", "512"],
        ),
        (
            args!["CACHE.SET", "absent", "x", "TAGS", 1, longer],
            &["10485760", "512"],
        ),
        (args!["CACHE.SET", "absent", "x", "TAGS", 1, ""], &["tag"]),
        (
            args!["CACHE.SET", "entry", "x", "TAGS", 3, "x", "", "y"],
            &["tag"],
        ),
    ]);
}

#[test]
fn too_many_tags_or_a_wrong_tag_count_is_refused() {
    let many: Vec<Vec<u8>> = (0..1025)
        .map(|n: i32| format!("t{n}").into_bytes())
        .collect();
    let with_count = |count: &str, tags: &[Vec<u8>]| {
        [&args!["CACHE.SET", "entry", "x", "TAGS", count][..], tags].concat()
    };
    let limit: &[&str] = &["1025", "1024", "tagcache.max-tags-per-entry"];
    refused_naming(&[
        (with_count("1025", &many), limit),
        (
            with_count("4294967296", &many[..1]),
            &["4294967296", "1024"],
        ),
        (
            with_count("9223372036854775807", &many[..1]),
            &["9223372036854775807", "1024"],
        ),
        (with_count("18446744073709551616", &many[..1]), &[]),
        (with_count("0", &many[..1]), &[]),
        (with_count("-1", &many[..1]), &[]),
        (with_count("-9223372036854775808", &many[..1]), &[]),
    ]);
}

#[test]
fn duplicate_tags_count_towards_the_limit() {
    let same = vec![b"t".to_vec(); 1025];
    let set = [&args!["CACHE.SET", "entry", "x", "TAGS", 1025][..], &same].concat();
    refused_naming(&[(set, &["1025", "1024"])]);
}
