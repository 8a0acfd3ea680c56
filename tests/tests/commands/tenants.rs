//! Two tenants on one server: nothing is shown or dropped across their patterns, in whatever way a command is sent.

use tagcache_tests::look::Snapshot;
use tagcache_tests::{Engine, RawClient, Reply, Server, args, call, command, for_all_engines};

/// Every command that names a key or a tag, here those of the other tenant, `t8`.
const FOREIGN: [&[&str]; 48] = [
    &["CACHE.SET", "t8:key", "x"],
    &["CACHE.SET", "t8:new", "x", "TAGS", "1", "t7:tag"],
    &["CACHE.SET", "t8:key", "x", "LEASE", "1"],
    &["CACHE.DEL", "t8:key"],
    &["CACHE.DEL", "t7:key", "t8:key"],
    &["CACHE.TOUCH", "t8:key", "EX", "5"],
    &["CACHE.TOUCH", "t8:key", "PERSIST", "GRACE", "5"],
    &["CACHE.GET", "t8:key"],
    &["CACHE.GET", "t8:absent"],
    &["CACHE.MGET", "t7:key", "t8:key"],
    &["CACHE.FETCH", "t8:key"],
    &["CACHE.FETCH", "t8:absent", "LEASE", "1000"],
    &["CACHE.FETCH", "t8:absent", "LEASE", "1000", "WAIT", "1"],
    &["CACHE.RELEASE", "t8:absent", "1"],
    &["CACHE.HITS", "t8:key", "5"],
    &["CACHE.HITS", "t7:key", "5", "t8:key", "5"],
    &["CACHE.INSPECT", "t8:key"],
    &["CACHE.INVALIDATE", "t8:tag"],
    &["CACHE.INVALIDATE", "t7:tag", "t8:tag"],
    &["CACHE.INVALIDATE", "t8:unknown"],
    &["CACHE.REVALIDATE", "t8:tag"],
    &["CACHE.REVALIDATE", "t7:tag", "t8:tag"],
    &["CACHE.INVALIDATEWHERE", "ALL", "1", "t8:tag"],
    &["CACHE.INVALIDATEWHERE", "ALL", "1", "t8:tag", "SOFT"],
    &["CACHE.INVALIDATEWHERE", "ALL", "1", "t8:tag", "DRYRUN"],
    &["CACHE.INVALIDATEWHERE", "ANY", "2", "t7:tag", "t8:tag"],
    &[
        "CACHE.INVALIDATEWHERE",
        "ALL",
        "1",
        "t7:tag",
        "NONE",
        "1",
        "t8:tag",
        "DRYRUN",
    ],
    &["CACHE.INVALIDATEWHERE", "NONE", "1", "t8:tag"],
    // These commands name no tag of the other tenant, but would drop or count its entries.
    &["CACHE.INVALIDATEWHERE", "NONE", "1", "t7:tag"],
    &["CACHE.INVALIDATEWHERE", "NONE", "1", "t7:tag", "SOFT"],
    &["CACHE.INVALIDATEWHERE", "NONE", "1", "t7:tag", "DRYRUN"],
    &["CACHE.MSET", "2", "t7:key", "x", "t8:key", "x"],
    &["CACHE.RETAG", "t8:key", "TAGS", "0"],
    &["CACHE.GETDEL", "t8:key"],
    &["CACHE.EXISTS", "t7:key", "t8:key"],
    &["CACHE.MFETCH", "t7:key", "t8:key"],
    &["CACHE.FETCH", "t7:key", "WITHTAGS", "1", "t8:tag"],
    &["CACHE.HOLD", "60000", "t8:tag"],
    &["CACHE.HOLD", "60000", "t7:tag", "t8:tag"],
    &["CACHE.TAGTIMES", "t8:tag"],
    &["CACHE.TAGTIMES", "t7:tag", "t8:tag"],
    &[
        "CACHE.INVALIDATEWHERE",
        "ALL",
        "1",
        "t8:tag",
        "SOFT",
        "GRACE",
        "5",
    ],
    &["CACHE.SET", "t8:key", "x", "KEEPTAGS"],
    &["CACHE.TAGINFO", "t8:tag"],
    &["CACHE.TAGINFO", "t8:unknown"],
    &["CACHE.TAGSCAN", "t8:tag", "0"],
    &["CACHE.TAGSCAN", "t8:tag", "0", "COUNT", "100"],
    &["CACHE.TAGSCAN", "t8:unknown", "0"],
];

/// The same commands with the tenant's own keys and tags, all of them permitted.
const OWN: [&[&str]; 25] = [
    &[
        "CACHE.SET",
        "t7:new",
        "x",
        "GRACE",
        "5",
        "TAGS",
        "1",
        "t7:tag",
    ],
    &["CACHE.TOUCH", "t7:key", "PERSIST"],
    &["CACHE.MSET", "1", "t7:new", "x", "TAGS", "1", "t7:tag"],
    &["CACHE.RETAG", "t7:new", "TAGS", "1", "t7:tag"],
    &["CACHE.EXISTS", "t7:key"],
    &["CACHE.MFETCH", "t7:key"],
    &["CACHE.FETCH", "t7:key", "WITHTAGS", "1", "t7:tag"],
    &["CACHE.HOLD", "1", "t7:tag"],
    &["CACHE.TAGTIMES", "t7:tag"],
    &["CACHE.GETDEL", "t7:absent"],
    &["CACHE.GET", "t7:key"],
    &["CACHE.MGET", "t7:key", "t7:absent"],
    &["CACHE.FETCH", "t7:key"],
    &["CACHE.FETCH", "t7:absent", "LEASE", "1000", "WAIT", "1"],
    &["CACHE.RELEASE", "t7:absent", "1"],
    &["CACHE.HITS", "t7:key", "5"],
    &["CACHE.INSPECT", "t7:key"],
    &["CACHE.TAGINFO", "t7:tag"],
    &["CACHE.TAGSCAN", "t7:tag", "0"],
    &[
        "CACHE.INVALIDATEWHERE",
        "ALL",
        "1",
        "t7:tag",
        "NONE",
        "1",
        "t7:x",
        "DRYRUN",
    ],
    &[
        "CACHE.INVALIDATEWHERE",
        "ANY",
        "2",
        "t7:tag",
        "t7:x",
        "SOFT",
    ],
    &["CACHE.REVALIDATE", "t7:tag"],
    &["CACHE.INVALIDATE", "t7:tag", "t7:x"],
    &["CACHE.DEL", "t7:key", "t7:absent"],
    &["CACHE.STATS"],
];

/// Both tenants' entries, and a connection of tenant 7.
fn tenants(engine: &Engine) -> (Server, RawClient) {
    let server = Server::builder().engine(engine).start();
    let mut admin = server.raw();
    for tenant in ["t7", "t8"] {
        let (key, tag) = (format!("{tenant}:key"), format!("{tenant}:tag"));
        let set = command!("CACHE.SET {key} v EX 10000 GRACE 10000 TAGS 1 {tag}");
        assert_eq!(admin.call(&set), Reply::ok());
    }
    let rules = [
        "ACL",
        "SETUSER",
        "tenant",
        "on",
        ">password",
        "~t7:*",
        "+@all",
    ];
    assert_eq!(admin.call(&rules), Reply::ok());
    let mut client = server.raw();
    let function = "#!lua name=tenants\nredis.register_function('run', function(keys, args) \
                    return redis.call(unpack(args)) end)";
    assert!(!call!(admin, "FUNCTION", "LOAD", function).is_error());
    assert_eq!(call!(client, "AUTH", "tenant", "password"), Reply::ok());
    (server, client)
}

/// The ways in which a command can be sent; each returns the command's own reply.
type Way = (&'static str, fn(&mut RawClient, &[&str]) -> Reply);

const WAYS: [Way; 5] = [
    ("directly", |client, command| client.call(command)),
    ("in a transaction", |client, command| {
        call!(client, "MULTI");
        let queued = client.call(command);
        let exec = call!(client, "EXEC");
        // Keys are checked when the command is queued, tags when it runs.
        if queued.is_error() {
            assert!(exec.is_error(), "{exec:?}");
            queued
        } else {
            exec.items()[0].clone()
        }
    }),
    ("in a script", |client, command| {
        let eval = args!["EVAL", "return redis.call(unpack(ARGV))", 0];
        let command: Vec<_> = command
            .iter()
            .map(|word| word.as_bytes().to_vec())
            .collect();
        client.call(&[eval, command].concat())
    }),
    ("in a script that catches errors", |client, command| {
        let script = "local r = redis.pcall(unpack(ARGV)); if type(r) == 'table' and r.err then return r end; return r";
        let command: Vec<_> = command
            .iter()
            .map(|word| word.as_bytes().to_vec())
            .collect();
        client.call(&[args!["EVAL", script, 0], command].concat())
    }),
    ("in a function", |client, command| {
        let command: Vec<_> = command
            .iter()
            .map(|word| word.as_bytes().to_vec())
            .collect();
        client.call(&[args!["FCALL", "run", 0], command].concat())
    }),
];

#[test]
fn a_tenant_cannot_read_change_count_or_drop_anothers_data() {
    for_all_engines(|engine| {
        let (server, mut client) = tenants(engine);
        let tags: [&[u8]; 2] = [b"t7:tag", b"t8:tag"];
        let before = Snapshot::take(&server, &[0], &tags);
        for (way, send) in WAYS {
            for command in FOREIGN {
                let reply = send(&mut client, command);
                let error = reply
                    .error()
                    .unwrap_or_else(|| panic!("{way}: {command:?} answers {reply:?}"));
                let is_denied = error.contains("NOPERM")
                    || error.contains("permission")
                    || error.contains("can't access");
                assert!(is_denied, "{way}: {command:?}: {error}");
                assert!(
                    way != "directly" || error.starts_with("NOPERM "),
                    "{command:?}: {error}"
                );
                let after = Snapshot::take(&server, &[0], &tags);
                assert_eq!(after, before, "{way}: {command:?} did something");
            }
        }
    });
}

#[test]
fn a_tenant_can_run_every_command_on_its_own_data() {
    for_all_engines(|engine| {
        let (server, mut client) = tenants(engine);
        let mut admin = server.raw();
        for (way, send) in WAYS {
            let set = args!["CACHE.SET", "t7:key", "v", "TAGS", 1, "t7:tag"];
            assert_eq!(client.call(&set), Reply::ok());
            for command in OWN {
                let reply = send(&mut client, command);
                assert!(!reply.is_error(), "{way}: {command:?}: {reply:?}");
            }
            assert!(call!(client, "CACHE.GET", "t7:key").is_null(), "{way}");
        }
        assert_eq!(call!(admin, "CACHE.GET", "t8:key"), Reply::bulk("v"));
    });
}

#[test]
fn commands_across_tenants_are_in_the_dangerous_category() {
    for_all_engines(|engine| {
        let server = Server::builder().engine(engine).start();
        let mut admin = server.raw();
        call!(admin, "CACHE.SET", "key", "v", "TAGS", 1, "tag");
        call!(admin, "CACHE.GET", "key");
        let commands = ["CACHE.TOP", "CACHE.TAGTOP", "CACHE.FLUSH"];
        for command in commands {
            let info = call!(admin, "COMMAND", "INFO", command);
            let flags = info.items()[0].items()[2].items().to_vec();
            let admin = flags.iter().any(|flag| flag.text() == "admin");
            assert!(admin, "{command} is not admin: {flags:?}");
        }
        if engine.version() < (7, 2) {
            // Categories of module commands are unknown there: a user that is granted commands by name gets only these.
            let rules = [
                "ACL",
                "SETUSER",
                "user",
                "on",
                "nopass",
                "allkeys",
                "+cache.get",
            ];
            assert_eq!(admin.call(&rules), Reply::ok());
        } else {
            let rules = [
                "ACL",
                "SETUSER",
                "user",
                "on",
                "nopass",
                "allkeys",
                "+@all",
                "-@dangerous",
            ];
            assert_eq!(admin.call(&rules), Reply::ok());
        }
        let mut user = server.raw();
        assert_eq!(call!(user, "AUTH", "user", "x"), Reply::ok());
        for command in commands {
            let reply = call!(user, command);
            let denied = reply.error().is_some_and(|e| e.starts_with("NOPERM "));
            assert!(denied, "{command}: {reply:?}");
        }
        assert_eq!(call!(user, "CACHE.GET", "key"), Reply::bulk("v"));
    });
}

#[test]
fn reads_need_read_permission_and_writes_write_permission() {
    for_all_engines(|engine| {
        let server = Server::builder().engine(engine).start();
        let mut admin = server.raw();
        let set = args!["CACHE.SET", "key", "v", "GRACE", 10_000, "TAGS", 1, "tag"];
        assert_eq!(admin.call(&set), Reply::ok());
        let user = |name: &str, rules: &[&str]| {
            let setuser = [&["ACL", "SETUSER", name, "on", "nopass", "+@all"], rules].concat();
            assert_eq!(server.raw().call(&setuser), Reply::ok());
            let mut client = server.raw();
            assert_eq!(call!(client, "AUTH", name, "x"), Reply::ok());
            client
        };
        let mut reader = user("reader", &["%R~*"]);
        let mut writer = user("writer", &["%W~*"]);
        let denied = |reply: &Reply| reply.error().is_some_and(|e| e.starts_with("NOPERM "));
        for reads in [
            &["CACHE.GET", "key"][..],
            &["CACHE.MGET", "key"],
            &["CACHE.FETCH", "key"],
            &["CACHE.INSPECT", "key"],
            &["CACHE.TAGINFO", "tag"],
            &["CACHE.TAGSCAN", "tag", "0"],
        ] {
            let reply = reader.call(reads);
            assert!(!reply.is_error(), "{reads:?}: {reply:?}");
            let reply = writer.call(reads);
            assert!(denied(&reply), "{reads:?}: {reply:?}");
        }
        for writes in [
            &["CACHE.SET", "key", "v"][..],
            &["CACHE.DEL", "absent"],
            &["CACHE.REVALIDATE", "tag"],
            &["CACHE.INVALIDATE", "tag"],
            &["CACHE.INVALIDATEWHERE", "ALL", "1", "tag"],
        ] {
            let reply = reader.call(writes);
            assert!(denied(&reply), "{writes:?}: {reply:?}");
        }
        for writes in [
            &["CACHE.SET", "other", "v"][..],
            &["CACHE.DEL", "absent"],
            &["CACHE.REVALIDATE", "tag"],
            &["CACHE.INVALIDATE", "tag"],
        ] {
            let reply = writer.call(writes);
            assert!(!reply.is_error(), "{writes:?}: {reply:?}");
        }
    });
}

#[test]
fn a_read_only_user_cannot_change_anything() {
    for_all_engines(|engine| {
        if engine.version() < (7, 2) {
            return; // No categories of module commands.
        }
        let server = Server::builder().engine(engine).start();
        let mut admin = server.raw();
        let set = args!["CACHE.SET", "key", "v", "GRACE", 10_000, "TAGS", 1, "tag"];
        assert_eq!(admin.call(&set), Reply::ok());
        let rules = [
            "ACL", "SETUSER", "user", "on", "nopass", "allkeys", "-@all", "+@read",
        ];
        assert_eq!(admin.call(&rules), Reply::ok());
        let mut user = server.raw();
        assert_eq!(call!(user, "AUTH", "user", "x"), Reply::ok());
        for denied in [
            &["CACHE.SET", "key", "x"][..],
            &["CACHE.DEL", "key"],
            &["CACHE.TOUCH", "key", "PERSIST"],
            &["CACHE.INVALIDATE", "tag"],
            &["CACHE.REVALIDATE", "tag"],
            &["CACHE.INVALIDATEWHERE", "ALL", "1", "tag"],
            &["CACHE.FLUSH"],
            &["CACHE.RESETSTATS"],
        ] {
            let reply = user.call(denied);
            assert!(
                reply.error().is_some_and(|e| e.starts_with("NOPERM ")),
                "{denied:?}: {reply:?}"
            );
        }
        for allowed in [
            &["CACHE.GET", "key"][..],
            &["CACHE.MGET", "key"],
            &["CACHE.FETCH", "key"],
            &["CACHE.INSPECT", "key"],
            &["CACHE.TAGINFO", "tag"],
            &["CACHE.TAGSCAN", "tag", "0"],
        ] {
            let reply = user.call(allowed);
            assert!(!reply.is_error(), "{allowed:?}: {reply:?}");
        }
    });
}
