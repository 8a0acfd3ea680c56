//! Every command of the contract, under RESP2 and RESP3.

mod clients;
mod clock;
mod databases;
mod del;
mod described;
mod get;
mod getdel;
mod hold;
mod invalidate;
mod limits;
mod look;
mod many;
mod metadata;
mod permissions;
mod rejected;
mod retag;
mod set;
mod set_options;
mod stats;
mod tag_times;
mod tagscan;
mod tagtop;
mod tenants;
mod touch;
mod with_tags;

const WRONGTYPE: &str = "WRONGTYPE Operation against a key holding the wrong kind of value";
const SYNTAX: &str = "ERR syntax error";
const NOT_AN_INTEGER: &str = "ERR value is not an integer or out of range";

/// The server's clock in milliseconds.
fn unix_ms(client: &mut tagcache_tests::RawClient) -> i64 {
    let time = tagcache_tests::call!(client, "TIME");
    time.items()[0].int() * 1000 + time.items()[1].int() / 1000
}
