//! Truncated and bit-flipped DUMP payloads through RESTORE.

use std::path::Path;

use tagcache_tests::fuzz::Budget;
use tagcache_tests::look::{Snapshot, assert_index_agrees, entry_keys, inspect, wait_reclaimed};
use tagcache_tests::payload::{body, with_footer};
use tagcache_tests::{RawClient, Reply, Rng, Server, args, call, command, for_each_engine};

/// Type byte and module id, which Redis itself reads: the module's own loader begins after them.
const HEAD: usize = 10;
const WRONG_FOOTER: &str = "ERR DUMP payload version or checksum are wrong";
const WRONG_BODY: &str = "ERR Bad data format";

/// Payloads of entries of several shapes.
fn originals(client: &mut RawClient) -> Vec<Vec<u8>> {
    let mut many = args!["CACHE.SET", "many", "v", "TAGS", 100];
    many.extend((0..100).map(|n: i32| format!("tag number {n}").into_bytes()));
    let sets = [
        args!["CACHE.SET", "plain", ""],
        args!["CACHE.SET", "tagged", "value", "TAGS", 3, "a", "b", "c"],
        args!["CACHE.SET", "timed", "value", "EX", 10_000, "TAGS", 1, "a"],
        args![
            "CACHE.SET",
            "compressed",
            vec![b'x'; 5000],
            "TAGS",
            1,
            "t".repeat(500)
        ],
        args![
            "CACHE.SET",
            "random",
            Rng::new(5).bytes(3000),
            "TAGS",
            2,
            "a",
            "guard"
        ],
        command!("CACHE.SET grace value GRACE 1000000 TAGS 2 a b"),
        command!("CACHE.SET both value EX 10000 GRACE 1000000 TAGS 1 a"),
        // The last but one becomes stale below.
        command!("CACHE.SET stale value EX 10000 GRACE 1000000 TAGS 1 softened"),
        many,
    ];
    let dump = |set: &Vec<Vec<u8>>| {
        assert_eq!(client.call(set), Reply::ok());
        for _ in 0..300 {
            call!(client, "CACHE.GET", set[1]);
        }
        call!(client, "CACHE.REVALIDATE", "softened");
        call!(client, "DUMP", set[1]).bytes().to_vec()
    };
    let mut payloads: Vec<_> = sets.iter().map(dump).collect();
    // Payloads of earlier versions are read by other code.
    let earlier = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/encoding-1.tagged.dump");
    payloads.push(std::fs::read(earlier).expect("it is kept for ever"));
    payloads
}

fn guards(server: &Server) -> RawClient {
    let mut client = server.raw();
    call!(client, "SELECT", 1);
    call!(client, "SET", "string", "v");
    call!(client, "CACHE.SET", "entry", "v", "TAGS", 2, "a", "guard");
    call!(client, "SELECT", 0);
    client
}

/// Damages one place in the part that the module reads.
fn damage(rng: &mut Rng, originals: &[Vec<u8>]) -> Vec<u8> {
    const EXTREMES: [u8; 8] = [0x00, 0x01, 0x3f, 0x40, 0x7f, 0x80, 0x81, 0xff];
    let original = rng.pick(originals);
    let mut bytes = body(&original).to_vec();
    let at = |rng: &mut Rng, bytes: &[u8]| HEAD + rng.below(bytes.len() - HEAD);
    for _ in 0..=rng.below(3) {
        if bytes.len() <= HEAD {
            break;
        }
        let place = at(rng, &bytes);
        match rng.below(8) {
            0 | 1 => bytes[place] ^= 1 << rng.below(8),
            2 => bytes[place] = rng.pick(&EXTREMES),
            3 => drop(bytes.remove(place)),
            4 => bytes.insert(place, rng.pick(&EXTREMES)),
            5 => bytes.truncate(place),
            // A length of 64 bits that no memory holds.
            6 => {
                let high = rng.pick(&EXTREMES);
                bytes.splice(
                    place..=place,
                    [0x81, high, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff],
                );
            }
            _ => {
                let other = rng.pick(originals);
                let other = body(&other);
                let from = HEAD + rng.below(other.len() - HEAD);
                bytes.splice(place.., other[from..].iter().copied());
            }
        }
    }
    bytes
}

/// Whether a length that is read from here is 0: the mark after the last field of a value.
fn reads_as_zero(bytes: &[u8]) -> bool {
    matches!(bytes, [0x00 | 0xc0, ..] | [0x40, 0, ..])
}

#[test]
fn every_truncated_payload_is_refused_and_nothing_changes() {
    for_each_engine(|engine| {
        let server = Server::builder().engine(engine).expect_complaints().start();
        let mut client = guards(&server);
        let originals = originals(&mut client);
        let before = Snapshot::take(&server, &[0, 1], &[b"a"]);
        for original in &originals {
            let whole = body(original);
            let lengths = (1..whole.len())
                .filter(|len| *len < 300 || len % 37 == 0 || *len > whole.len() - 50);
            let restores: Vec<_> = lengths
                .map(|len| {
                    args![
                        "RESTORE",
                        format!("cut{len}"),
                        0,
                        with_footer(&whole[..len], original)
                    ]
                })
                .collect();
            for (restore, reply) in restores.iter().zip(client.pipeline(&restores)) {
                let shown = restore[3].escape_ascii();
                // Redis does not know where a value ends: a value that lacks a few bytes continues into the footer, and
                // is complete again if the end mark happens to be in the right place there.
                if restore[3].get(whole.len() - 1..).is_some_and(reads_as_zero) {
                    call!(client, "DEL", restore[1]);
                    continue;
                }
                assert_eq!(reply, Reply::Error(WRONG_BODY.to_owned()), "{shown}");
            }
            let raw: Vec<_> = (0..original.len())
                .step_by(7)
                .map(|n| args!["RESTORE", "new", 0, original[..n]])
                .collect();
            let replies = client.pipeline(&raw);
            assert!(
                replies
                    .iter()
                    .all(|reply| *reply == Reply::Error(WRONG_FOOTER.to_owned()))
            );
        }
        let mut after = Snapshot::take(&server, &[0, 1], &[b"a"]);
        after.forget_changes(&before);
        assert_eq!(after, before);
    });
}

#[test]
fn thousands_of_damaged_payloads_harm_nothing_else() {
    for_each_engine(|engine| {
        let server = Server::builder().engine(engine).expect_complaints().start();
        let mut client = guards(&server);
        let originals = originals(&mut client);
        call!(client, "FLUSHDB");
        call!(client, "CACHE.SET", "target", "v", "TAGS", 1, "a");
        call!(client, "SET", "string", "v");
        let guarded = Snapshot::take(&server, &[1], &[b"a", b"guard"]).without_digest();
        let mut budget = Budget::new("RESTORE payloads", 10_000);
        let (mut accepted, mut refused, mut batch) = (0, 0, 0);
        while budget.takes(250) {
            let rng = &mut budget.rng;
            batch += 1;
            let mut restores = Vec::new();
            let mut wrong_footers = Vec::new();
            for n in 0..250 {
                let payload = damage(rng, &originals);
                let mut payload = with_footer(&payload, &originals[0]);
                let wrong_footer = rng.one_in(20);
                if wrong_footer {
                    let at = payload.len() - 1 - rng.below(8);
                    payload[at] ^= 1 << rng.below(8);
                }
                wrong_footers.push(wrong_footer);
                let key = if rng.one_in(3) {
                    "target".to_owned()
                } else {
                    format!("{batch}-{n}")
                };
                restores.push(args!["RESTORE", key, 0, payload, "REPLACE"]);
            }
            for ((restore, wrong_footer), reply) in restores
                .iter()
                .zip(&wrong_footers)
                .zip(client.pipeline(&restores))
            {
                let shown = || restore[3].escape_ascii();
                match &reply {
                    Reply::Error(error) if *wrong_footer => assert_eq!(error, WRONG_FOOTER),
                    Reply::Error(error) => assert_eq!(error, WRONG_BODY, "{}", shown()),
                    reply => {
                        assert!(
                            *reply == Reply::ok() && !wrong_footer,
                            "{reply:?}: {}",
                            shown()
                        );
                        accepted += 1;
                    }
                }
                refused += usize::from(reply.is_error());
            }
            assert_index_agrees(&server, &[0, 1], &[b"a", b"guard"]);
        }
        // Flips inside the value or a tag make another valid entry; flips of lengths and opcodes must not.
        assert!(
            accepted > 100 && refused > 3000,
            "{accepted} accepted, {refused} refused"
        );
        assert_eq!(
            Snapshot::take(&server, &[1], &[b"a", b"guard"]).without_digest(),
            guarded
        );
        assert_eq!(call!(client, "GET", "string"), Reply::bulk("v"));
        check_restored_entries(&server, &mut client);
    });
}

/// Every accepted payload can be read, saved, loaded and removed like any entry.
fn check_restored_entries(server: &Server, client: &mut RawClient) {
    assert_eq!(call!(client, "DEBUG", "RELOAD"), Reply::ok());
    assert_index_agrees(server, &[0, 1], &[b"a", b"guard"]);
    for key in entry_keys(client) {
        if let Some(entry) = inspect(client, &key) {
            let fetched = call!(client, "CACHE.FETCH", key);
            assert_eq!(fetched.items()[1].bytes().len() as i64, entry.bytes);
            if let Some(tag) = entry.tags.first() {
                assert!(call!(client, "CACHE.INVALIDATE", tag).int() >= 1);
            }
        }
        call!(client, "CACHE.DEL", key);
        assert!(inspect(client, &key).is_none());
    }
    wait_reclaimed(client);
    assert!(entry_keys(client).is_empty());
    assert_index_agrees(server, &[0, 1], &[b"a", b"guard"]);
}

#[test]
fn a_payload_of_another_type_or_encoding_version_is_refused() {
    for_each_engine(|engine| {
        let server = Server::builder().engine(engine).expect_complaints().start();
        let mut client = guards(&server);
        let original = originals(&mut client).remove(1);
        let before = Snapshot::take(&server, &[0, 1], &[]);
        for bit in 0..64 {
            // The module id: nine characters of the type's name and its encoding version.
            let mut bytes = body(&original).to_vec();
            bytes[2 + bit / 8] ^= 1 << (bit % 8);
            let reply = call!(client, "RESTORE", "new", 0, with_footer(&bytes, &original));
            assert_eq!(reply, Reply::Error(WRONG_BODY.to_owned()), "bit {bit}");
        }
        assert_eq!(Snapshot::take(&server, &[0, 1], &[]), before);
    });
}
