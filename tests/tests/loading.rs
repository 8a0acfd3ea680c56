//! Loading the module into a running server, and loads that are refused.

use tagcache_tests::look::{info, wait_reclaimed};
use tagcache_tests::{
    DEADLINE, Engine, RawClient, Reply, Server, args, call, for_all_engines, module_path,
    wait_until,
};

fn server(engine: &Engine) -> Server {
    Server::builder()
        .engine(engine)
        .without_module()
        .arg("--enable-module-command", "yes")
        .expect_complaints()
        .start()
}

fn load(client: &mut RawClient, rest: &[&str]) -> Reply {
    let module = module_path().to_string_lossy().into_owned();
    client.call(&[&["MODULE", "LOADEX", &module][..], rest].concat())
}

fn is_loaded(client: &mut RawClient) -> bool {
    let list = call!(client, "MODULE", "LIST");
    let mut names = list
        .items()
        .iter()
        .map(|module| module.field("name").text());
    names.any(|name| name == "tagcache")
}

/// Causes all events that the module subscribes to: events of keys, flushes, ticks, forks, the swap of databases.
fn cause_all_events(server: &mut Server, client: &mut RawClient) {
    call!(client, "SWAPDB", 0, 1);
    call!(client, "FLUSHALL");
    call!(client, "BGREWRITEAOF");
    for n in 0..50 {
        call!(client, "SET", n, "v");
        call!(client, "RENAME", n, "other");
        call!(client, "DEL", "other");
        call!(client, "SET", n, "v", "PX", 20);
    }
    wait_until("the server's ticks have expired the keys", DEADLINE, || {
        call!(client, "DBSIZE") == Reply::Int(0)
    });
    assert_eq!(call!(client, "PING"), Reply::Simple("PONG".to_owned()));
    assert!(server.is_alive(), "{}", server.log_tail());
}

fn works(client: &mut RawClient) {
    call!(client, "CACHE.SET", "key", "v", "TAGS", 1, "a");
    let many = (0..1000).map(|n| args!["CACHE.SET", n, "v", "TAGS", 1, "a"]);
    client.pipeline(&many.collect::<Vec<_>>());
    assert_eq!(call!(client, "CACHE.INVALIDATE", "a"), Reply::Int(1001));
    assert!(call!(client, "CACHE.GET", "key").is_null());
    wait_reclaimed(client);
    assert_eq!(call!(client, "DBSIZE"), Reply::Int(0));
}

#[test]
fn a_refused_load_leaves_nothing_and_the_next_load_succeeds() {
    for_all_engines(|engine| {
        for refused in [
            &["CONFIG", "tagcache.reclaim-budget-us", "1"][..],
            &["CONFIG", "tagcache.top-keys", "many"],
            &["ARGS", "reclaim-budget-us", "1"],
            &["ARGS", "no-such-setting", "1"],
            &["CONFIG", "tagcache.top-keys", "50", "ARGS", "lease-max-ms"],
        ] {
            let mut server = server(engine);
            let mut client = server.raw();
            for _ in 0..3 {
                let reply = load(&mut client, refused);
                assert!(reply.is_error(), "{refused:?}: {reply:?}");
                cause_all_events(&mut server, &mut client);
                assert!(!is_loaded(&mut client), "{refused:?}");
            }
            let right = [
                "CONFIG",
                "tagcache.top-keys",
                "7",
                "ARGS",
                "reclaim-inline",
                "0",
            ];
            assert_eq!(load(&mut client, &right), Reply::ok(), "{refused:?}");
            cause_all_events(&mut server, &mut client);
            let top_keys = call!(client, "CONFIG", "GET", "tagcache.top-keys");
            assert_eq!(top_keys.field("tagcache.top-keys").text(), "7");
            works(&mut client);
            let log = server.log();
            assert!(!log.contains("panic"), "{log}");
        }
    });
}

#[test]
fn refused_loads_leak_no_memory() {
    const LOADS: i64 = 50;
    const SERVERS_OWN: i64 = 1_000;
    for_all_engines(|engine| {
        let refused = ["CONFIG", "tagcache.top-keys", "many"];
        let unknown = ["CONFIG", "tagcache.no-such-setting", "1"];
        for rest in [refused, unknown] {
            let server = server(engine);
            let mut client = server.raw();
            let mut used_after = |loads| {
                for _ in 0..loads {
                    assert!(load(&mut client, &rest).is_error(), "{rest:?}");
                }
                info(&mut client, "used_memory")
            };
            let first = used_after(5);
            let kept = (used_after(LOADS) - first) / LOADS;
            assert!(kept < SERVERS_OWN, "{rest:?}: {kept} bytes per load");
            if engine.is_valkey() || engine.version() < (8, 0) {
                return; // See below.
            }
        }
    });
}

/// The server notices a setting that the module does not know only after the module has loaded, and unloads it again.
/// Redis 7.0 reports that and does not do it; Valkey crashes, with any module that has a data type
/// (valkey-io/valkey#4630).
#[test]
fn an_unknown_config_name_is_refused_and_the_server_survives() {
    for_all_engines(|engine| {
        if engine.is_valkey() {
            return;
        }
        for unknown in ["tagcache.no-such-setting", "other.top-keys"] {
            let mut server = server(engine);
            let mut client = server.raw();
            let reply = load(&mut client, &["CONFIG", unknown, "1"]);
            assert!(reply.is_error(), "{unknown}: {reply:?}");
            cause_all_events(&mut server, &mut client);
            if !is_loaded(&mut client) {
                assert_eq!(load(&mut client, &[]), Reply::ok());
            }
            works(&mut client);
            cause_all_events(&mut server, &mut client);
        }
    });
}
