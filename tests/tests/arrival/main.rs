//! An entry that arrives after the invalidation of one of its tags is gone, however late it arrives.

mod clock;
mod clocks;
mod late;
mod persisted;
mod replicated;

use tagcache_tests::look::inspect;
use tagcache_tests::{DEADLINE, Engine, RawClient, Reply, Server, call, run, wait_until};

/// Each way to invalidate the entries with the tag `t`.
const WAYS: [&str; 7] = [
    "CACHE.INVALIDATE t",
    "CACHE.REVALIDATE t",
    "CACHE.INVALIDATEWHERE ALL 2 t both",
    "CACHE.INVALIDATEWHERE ANY 2 other t",
    "CACHE.INVALIDATEWHERE NONE 1 untouched",
    "CACHE.INVALIDATEWHERE ALL 1 t SOFT",
    "CACHE.FLUSH",
];

/// The payload of an entry with these tags that was written before now.
fn dumped(client: &mut RawClient, tags: &[&str]) -> Vec<u8> {
    let mut set = tagcache_tests::args!["CACHE.SET", "dumped", "value", "GRACE", 600_000];
    set.extend(tagcache_tests::args!["TAGS", tags.len()]);
    set.extend(tags.iter().map(|tag| tag.as_bytes().to_vec()));
    assert_eq!(client.call(&set), Reply::ok());
    let payload = call!(client, "DUMP", "dumped").bytes().to_vec();
    assert_eq!(run!(client, "DEL dumped"), Reply::Int(1));
    payload
}

/// The payload of an entry of the tag `t` that was written at this time, unix ms.
fn dumped_of(client: &mut RawClient, written_ms: i64) -> Vec<u8> {
    let set = run!(
        client,
        "CACHE.SET dumped value TAGS 1 t CREATED {written_ms}"
    );
    assert_eq!(set, Reply::ok());
    let payload = call!(client, "DUMP", "dumped").bytes().to_vec();
    assert_eq!(run!(client, "DEL dumped"), Reply::Int(1));
    payload
}

/// Invalidates the tag `t`, and returns a payload of another node that is refused because of the allowance alone:
/// replicas and logs accept it.
fn within_the_allowance(engine: &Engine, here: &mut RawClient) -> Vec<u8> {
    let other = Server::builder().engine(engine).start();
    run!(here, "CACHE.INVALIDATE t");
    let taginfo = run!(here, "CACHE.TAGINFO t");
    let at = taginfo.field("last_invalidated").int();
    wait_until("it is over", DEADLINE, || unix_ms(here) > at);
    dumped_of(&mut other.raw(), at + 500)
}

fn restore(client: &mut RawClient, key: &str, payload: &[u8]) {
    assert_eq!(
        call!(client, "RESTORE", key, 0, payload, "REPLACE"),
        Reply::ok()
    );
}

/// The entry that is restored from this payload is gone, at once and for good.
fn assert_gone(client: &mut RawClient, payload: &[u8], what: &str) {
    restore(client, "arrived", payload);
    assert_never_visible(client, "arrived", what);
    wait_until("its memory is given back", DEADLINE, || {
        run!(client, "EXISTS arrived") == Reply::Int(0)
    });
}

fn assert_never_visible(client: &mut RawClient, key: &str, what: &str) {
    assert_eq!(call!(client, "CACHE.GET", key), Reply::Null, "{what}");
    let state = call!(client, "CACHE.FETCH", key).items()[0].text();
    assert_eq!(state, "MISS", "{what}");
    assert_eq!(inspect(client, key), None, "{what}");
}

/// The entry that is restored from this payload is fresh at once.
fn assert_fresh(client: &mut RawClient, payload: &[u8], what: &str) {
    restore(client, "arrived", payload);
    let value = run!(client, "CACHE.GET arrived");
    assert_eq!(value, Reply::bulk("value"), "{what}");
    assert_eq!(run!(client, "DEL arrived"), Reply::Int(1));
}

/// The server's clock, unix ms.
fn unix_ms(client: &mut RawClient) -> i64 {
    let time = run!(client, "TIME");
    time.items()[0].int() * 1_000 + time.items()[1].int() / 1_000
}
