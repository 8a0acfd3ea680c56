//! The memory that the module reports equals the growth of the server's memory.

use tagcache_tests::look::{info, stat, wait_reclaimed};
use tagcache_tests::{
    Engine, RawClient, Reply, Rng, Server, args, call, for_all_engines, for_each_engine, wait_until,
};

const ENTRIES: usize = 100_000;

/// Sends each command, in pipelines of a size that leaves no large buffers behind.
fn send_all(client: &mut RawClient, commands: &[Vec<Vec<u8>>]) -> Vec<Reply> {
    let chunks = commands.chunks(200);
    chunks.flat_map(|chunk| client.pipeline(chunk)).collect()
}

/// `used_memory` once the sizes of tables and buffers are stable.
fn settled(client: &mut RawClient) -> i64 {
    let mut last = 0;
    wait_until("memory stays as it is", tagcache_tests::DEADLINE, || {
        // The server resizes its buffers and tables by itself, ten times per second.
        std::thread::sleep(std::time::Duration::from_millis(250));
        let now = info(client, "used_memory");
        let same = (now - last).abs() < 4096;
        last = now;
        same
    });
    last
}

fn within(what: &str, reported: i64, grown: i64) {
    let off = (reported - grown).abs() as f64 / grown as f64;
    println!(
        "{what}: {reported} said, {grown} grown, {:.2} % off",
        off * 100.0
    );
    assert!(off <= 0.03, "{what}: {reported} said, {grown} grown: {off}");
}

fn figures_agree(engine: &Engine, shape: &str, set: impl Fn(&mut Rng, usize) -> Vec<Vec<u8>>) {
    let server = Server::builder().engine(engine).start();
    let mut client = server.raw();
    let mut rng = Rng::new(17);
    // The overhead of the first use of everything does not belong to an entry.
    let warm = |client: &mut RawClient| {
        let sets: Vec<_> = (0..500).map(|n| set(&mut Rng::new(1), n)).collect();
        send_all(client, &sets);
        call!(client, "CACHE.FLUSH");
        wait_reclaimed(client);
        call!(client, "FLUSHALL");
    };
    warm(&mut client);
    let before = settled(&mut client);
    let index_before = stat(&mut client, "index_bytes");
    let sets: Vec<_> = (0..ENTRIES).map(|n| set(&mut rng, n)).collect();
    let keys: Vec<_> = sets.iter().map(|set| set[1].clone()).collect();
    assert!(
        send_all(&mut client, &sets)
            .iter()
            .all(|r| *r == Reply::ok())
    );
    let grown = settled(&mut client) - before;
    let index = stat(&mut client, "index_bytes") - index_before;
    let inspects: Vec<_> = keys.iter().map(|key| args!["CACHE.INSPECT", key]).collect();
    let memory: i64 = send_all(&mut client, &inspects)
        .iter()
        .map(|reply| reply.field("memory").int())
        .sum();
    let at = format!("{} {shape}", engine.name);
    within(&format!("{at}, INSPECT and index"), memory + index, grown);
    assert_eq!(stat(&mut client, "bytes"), memory, "{at}");
    let usages: Vec<_> = keys
        .iter()
        .map(|key| args!["MEMORY", "USAGE", key])
        .collect();
    let usage: i64 = send_all(&mut client, &usages).iter().map(Reply::int).sum();
    within(
        &format!("{at}, MEMORY USAGE and index"),
        usage + index,
        grown,
    );
}

#[test]
fn reported_memory_matches_for_entries_without_tags() {
    for_each_engine(|engine| {
        figures_agree(engine, "without tags", |rng, n| {
            let len = rng.below(200);
            args![
                "CACHE.SET",
                format!("key:{n:09}"),
                rng.bytes(len),
                "EX",
                100_000
            ]
        });
    });
}

#[test]
fn reported_memory_matches_for_values_stored_apart() {
    for_each_engine(|engine| {
        figures_agree(engine, "values apart", |rng, n| {
            let len = 900 + rng.below(124);
            args![
                "CACHE.SET",
                format!("key:{n:09}"),
                rng.bytes(len),
                "EX",
                100_000
            ]
        });
    });
}

#[test]
fn reported_memory_matches_for_shared_tags() {
    for_each_engine(|engine| {
        figures_agree(engine, "shared tags", |rng, n| {
            let (one, two) = (
                format!("tenant:{:03}", n % 1000),
                format!("kind:{:02}", n % 64),
            );
            args![
                "CACHE.SET",
                format!("key:{n:09}"),
                rng.bytes(100),
                "TAGS",
                2,
                one,
                two
            ]
        });
    });
}

#[test]
fn reported_memory_matches_for_unique_tags_and_grace() {
    for_all_engines(|engine| {
        figures_agree(engine, "own tags and grace", |rng, n| {
            let (own, shared) = (format!("only:{n:09}"), format!("kind:{:02}", n % 64));
            let len = 50 + rng.below(500);
            args![
                "CACHE.SET",
                format!("key:{n:09}"),
                rng.bytes(len),
                "EX",
                100_000,
                "GRACE",
                100_000,
                "TAGS",
                2,
                own,
                shared
            ]
        });
    });
}
