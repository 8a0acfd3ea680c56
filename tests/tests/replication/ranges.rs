//! A primary's replicas and its log accept all that the primary accepts: each option at the ends of its range.

use tagcache_tests::state::{Hits, State, assert_same, wait_synchronised};
use tagcache_tests::{Engine, RawClient, Reply, Server, call, for_all_engines, run, split};

/// The longest grace and hold, ms.
const SPAN_MS: u64 = 1 << 40;
const FAR_MS: i64 = i64::MAX;
/// The latest time that is stored, unix ms.
const LATEST_MS: u64 = (1 << 48) - 1;

/// The time until which an entry stored with a tag may live.
fn held_until(client: &mut RawClient, tag: &str) -> Reply {
    assert_eq!(run!(client, "CACHE.SET probe v TAGS 1 {tag}"), Reply::ok());
    let until = call!(client, "PEXPIRETIME", "probe");
    call!(client, "DEL", "probe");
    until
}

/// Lines that a client may send.
fn lines(now_ms: i64) -> Vec<String> {
    let mut lines = vec![
        format!("CACHE.HOLD {SPAN_MS} longest"),
        "CACHE.HOLD 450000000000 long".to_owned(),
        "CACHE.HOLD 1 short".to_owned(),
        "CACHE.MSET 2 m1 v m2 v PXAT 9223372036854775807 TAGS 1 t".to_owned(),
        format!("CACHE.MSET 1 m3 v GRACE {SPAN_MS}"),
        "CONFIG SET tagcache.default-ttl-ms 140737488355328".to_owned(),
        "CACHE.SET default v".to_owned(),
        format!("CACHE.SET default-graced v GRACE {SPAN_MS}"),
        "CONFIG SET tagcache.default-ttl-ms 0".to_owned(),
        format!("CACHE.SET held v PXAT {FAR_MS} TAGS 1 longest"),
        format!("CACHE.SET held-graced v GRACE {SPAN_MS} TAGS 2 long longest"),
        format!("CACHE.SET retagged v GRACE {SPAN_MS} TAGS 1 t"),
        "CACHE.RETAG retagged TAGS 1 longest".to_owned(),
        // The key expires sooner than its grace would end.
        format!("CACHE.SET kept v PXAT {FAR_MS}"),
        "CACHE.SET kept v KEEPTTL GRACE 0".to_owned(),
        format!("CACHE.SET shortened v GRACE {SPAN_MS} PX 1000000"),
        "EXPIRE shortened 1000".to_owned(),
        "CACHE.SET shortened w KEEPTTL".to_owned(),
        format!("CACHE.SET soft v GRACE {SPAN_MS} TAGS 1 soft"),
        format!("CACHE.INVALIDATEWHERE ALL 1 soft SOFT GRACE {SPAN_MS}"),
        format!("CACHE.SET limited v GRACE {SPAN_MS} TAGS 1 limited"),
        "CACHE.INVALIDATEWHERE ALL 1 limited SOFT GRACE 1000000".to_owned(),
        "CACHE.HITS limited 4294967295".to_owned(),
        format!("CACHE.INVALIDATE {}", "t".repeat(65_536)),
        "CACHE.FLUSH".to_owned(),
    ];
    let last = lines.pop();
    for (n, ttl) in [
        format!("PXAT {FAR_MS}"),
        format!("PX {}", FAR_MS - now_ms - 1_000_000_000),
        format!("EXAT {}", FAR_MS / 1000),
        format!("EX {}", FAR_MS / 1000 - now_ms / 1000 - 1_000_000),
        format!("PXAT {} GRACE {SPAN_MS}", FAR_MS - SPAN_MS as i64),
        format!("PX 1000000 GRACE {SPAN_MS}"),
        format!("EXAT {} GRACE 0", now_ms / 1000 + 1000),
    ]
    .iter()
    .enumerate()
    {
        lines.push(format!("CACHE.SET set{n} v {ttl} TAGS 1 t"));
        lines.push(format!("CACHE.SET touched{n} v"));
        lines.push(format!("CACHE.TOUCH touched{n} {ttl}"));
    }
    lines.push("CACHE.SET persisted v EX 1000".to_owned());
    lines.push(format!("CACHE.TOUCH persisted PERSIST GRACE {SPAN_MS}"));
    // In another database.
    lines.push("SELECT 1".to_owned());
    lines.extend(last);
    lines.push("SELECT 0".to_owned());
    lines
}

/// Lines of a log, which an administrator may also send.
fn of_a_log() -> Vec<String> {
    vec![
        format!("CACHE.SET gone v PXAT {FAR_MS} GONE"),
        "CACHE.REPLAY EMPTY 4294967295".to_owned(),
        format!("CACHE.SET future v CREATED {LATEST_MS} HITS 4294967295 TAGS 1 x"),
        format!("CACHE.SET stale v GRACE {SPAN_MS} SOFT {LATEST_MS}"),
        "CACHE.SET oldest v CREATED 0 SOFT 1".to_owned(),
    ]
}

/// A primary that logs each command at once, and its replica.
fn logging(engine: &Engine) -> (Server, Server) {
    let builder = || Server::builder().engine(engine);
    let logging = builder().arg("--appendonly", "yes");
    let primary = logging.arg("--appendfsync", "always").start();
    let replica = builder().replica_of(&primary).start();
    wait_synchronised(&primary, &replica);
    (primary, replica)
}

#[test]
fn replica_and_log_accept_all_commands_of_a_primary() {
    for_all_engines(|engine| {
        let (mut primary, replica) = logging(engine);
        let mut client = primary.raw();
        let time = run!(client, "TIME");
        let now_ms = time.items()[0].int() * 1000;
        for line in lines(now_ms) {
            let reply = client.call(&split(&line));
            assert!(!reply.is_error(), "{line}: {reply:?}");
        }
        assert_same(&primary, &replica, &[0, 1]);
        let before = State::of(&primary, &[0, 1], Hits::Ignore);
        primary.restart();
        let mut client = primary.raw();
        State::of(&primary, &[0, 1], Hits::Ignore).must_equal(&before, "after a restart");
        let mut other = replica.raw();
        run!(other, "REPLICAOF NO ONE");
        for tag in ["longest", "long"] {
            let here = held_until(&mut client, tag);
            assert!(here.int() > now_ms, "{tag}");
            assert_eq!(held_until(&mut other, tag), here, "{tag}");
        }
        assert_eq!(held_until(&mut other, "short"), Reply::Int(-1));
    });
}

#[test]
fn replica_and_log_accept_all_commands_of_an_administrator() {
    for_all_engines(|engine| {
        let (mut primary, replica) = logging(engine);
        let mut client = primary.raw();
        for line in of_a_log() {
            let reply = client.call(&split(&line));
            assert_eq!(reply, Reply::ok(), "{line}");
        }
        // The highest clock that is accepted, and the highest number: the clock after it can be saved and loaded.
        for reading in [
            [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x3f, 0, 0],
            [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f],
        ] {
            let len = 1 + reading.iter().take_while(|&&byte| byte >= 0x80).count();
            let history = [&[0][..], &reading[..len], &[0; 15]].concat();
            let is_taken = !call!(client, "CACHE.REPLAY", "HISTORY", history).is_error();
            assert_eq!(is_taken, reading[8] == 0, "{len}");
            run!(client, "CACHE.INVALIDATE y");
            run!(client, "DEBUG RELOAD");
        }
        wait_synchronised(&primary, &replica);
        assert_same(&primary, &replica, &[0]);
        let before = State::of(&primary, &[0], Hits::Ignore);
        primary.restart();
        State::of(&primary, &[0], Hits::Ignore).must_equal(&before, "after a restart");
    });
}
