//! Settings: module arguments, CONFIG GET, SET and REWRITE.

use tagcache_tests::look::inspect;
use tagcache_tests::{RawClient, Reply, Server, args, call, for_all_engines, for_each_engine};

const DEFAULTS: [(&str, &str); 9] = [
    ("tagcache.default-ttl-ms", "0"),
    ("tagcache.top-keys", "200"),
    ("tagcache.max-tag-bytes", "512"),
    ("tagcache.max-tags-per-entry", "1024"),
    ("tagcache.after-restart", "keep"),
    ("tagcache.lease-orphan-ms", "1000"),
    ("tagcache.reclaim-budget-us", "1000"),
    ("tagcache.reclaim-inline", "128"),
    ("tagcache.lease-max-ms", "60000"),
];

fn get(client: &mut RawClient, name: &str) -> String {
    call!(client, "CONFIG", "GET", name).field(name).text()
}

fn set(client: &mut RawClient, name: &str, value: &str) -> Reply {
    call!(client, "CONFIG", "SET", name, value)
}

#[test]
fn every_setting_has_its_documented_default() {
    for_all_engines(|engine| {
        let server = Server::builder().engine(engine).start();
        let mut client = server.raw();
        for (name, value) in DEFAULTS {
            assert_eq!(get(&mut client, name), value, "{name}");
        }
        let all = call!(client, "CONFIG", "GET", "tagcache.*").pairs();
        assert_eq!(all.len(), DEFAULTS.len());
    });
}

/// `packaging/tagcache.conf` with its commented-out settings enabled, without the line that loads the module.
fn packaged_settings() -> String {
    let file = include_str!("../../packaging/tagcache.conf");
    let setting = |line: &str| {
        let line = line.strip_prefix("# ").unwrap_or(line);
        let first = line.split(' ').next().unwrap_or_default();
        let is_setting = first.starts_with("tagcache.") || first.starts_with("maxmemory");
        is_setting.then(|| format!("{line}\n"))
    };
    file.lines().filter_map(setting).collect()
}

#[test]
fn the_packaged_config_lists_every_setting_and_its_default() {
    let settings = packaged_settings();
    let expected = DEFAULTS.map(|(name, value)| format!("{name} {value}"));
    let named: Vec<&str> = settings
        .lines()
        .filter(|line| line.starts_with("tagcache."))
        .collect();
    assert_eq!(named.len(), expected.len(), "{named:?}");
    for line in &expected {
        assert!(named.contains(&line.as_str()), "{line}");
    }
    for_each_engine(|engine| {
        let server = Server::builder()
            .engine(engine)
            .config_file(&settings)
            .start();
        let mut client = server.raw();
        for (name, value) in DEFAULTS {
            assert_eq!(get(&mut client, name), value, "{name}");
        }
        assert_eq!(get(&mut client, "maxmemory-policy"), "allkeys-lfu");
    });
}

#[test]
fn module_arguments_work_with_and_without_prefix() {
    for_all_engines(|engine| {
        let server = Server::builder()
            .engine(engine)
            .module_args(&[
                "tagcache.default-ttl-ms",
                "5000",
                "reclaim-inline",
                "0",
                "MAX-TAG-BYTES",
                "7",
            ])
            .start();
        let mut client = server.raw();
        assert_eq!(get(&mut client, "tagcache.default-ttl-ms"), "5000");
        assert_eq!(get(&mut client, "tagcache.reclaim-inline"), "0");
        assert_eq!(get(&mut client, "tagcache.max-tag-bytes"), "7");
        assert_eq!(get(&mut client, "tagcache.top-keys"), "200");
        assert!(call!(client, "CACHE.SET", "key", "v", "TAGS", 1, "12345678").is_error());
        assert_eq!(
            call!(client, "CACHE.SET", "key", "v", "TAGS", 1, "1234567"),
            Reply::ok()
        );
        assert!(matches!(call!(client, "PTTL", "key"), Reply::Int(1..=5000)));
    });
}

#[test]
fn invalid_module_arguments_prevent_loading_and_are_logged() {
    for_all_engines(|engine| {
        for (args, words) in [
            (
                &["reclaim-budget-us", "0"][..],
                &["reclaim-budget-us", "50", "100000"][..],
            ),
            (
                &["tagcache.max-tag-bytes", "0"],
                &["max-tag-bytes", "65536"],
            ),
            (
                &["max-tags-per-entry", "1000000000"],
                &["max-tags-per-entry", "16384"],
            ),
            (&["default-ttl-ms", "-1"], &["default-ttl-ms", "from 0"]),
            (
                &["default-ttl-ms", "99999999999999999999"],
                &["default-ttl-ms", "from 0"],
            ),
            (&["top-keys", "many"], &["top-keys", "many"]),
            (&["lease-max-ms", ""], &["lease-max-ms"]),
            (&["lease-max-ms"], &["lease-max-ms"]),
            (&["no-such-setting", "1"], &["no-such-setting"]),
            (&["other.top-keys", "5"], &["other.top-keys"]),
        ] {
            let log = Server::builder()
                .engine(engine)
                .module_args(args)
                .try_start()
                .map(|_| ())
                .expect_err("the module must refuse to load");
            for word in words {
                assert!(
                    log.contains(word),
                    "{args:?}: the log does not say {word}:\n{log}"
                );
            }
            assert!(
                !log.contains("panicked") && !log.contains("BUG REPORT"),
                "{args:?}:\n{log}"
            );
        }
    });
}

#[test]
fn config_set_accepts_only_its_range_and_the_error_names_it() {
    for_all_engines(|engine| {
        let server = Server::builder().engine(engine).start();
        let mut client = server.raw();
        for (name, low, high) in [
            ("tagcache.default-ttl-ms", 0_i64, 1 << 47),
            ("tagcache.top-keys", 1, 10_000),
            ("tagcache.max-tag-bytes", 1, 65_536),
            ("tagcache.max-tags-per-entry", 1, 16384),
            ("tagcache.reclaim-budget-us", 50, 100_000),
            ("tagcache.reclaim-inline", 0, 100_000),
            ("tagcache.lease-max-ms", 1, 3_600_000),
        ] {
            for good in [low, high] {
                assert_eq!(
                    set(&mut client, name, &good.to_string()),
                    Reply::ok(),
                    "{name} {good}"
                );
                assert_eq!(get(&mut client, name), good.to_string());
            }
            for bad in [low - 1, high + 1, i64::MIN, i64::MAX] {
                let reply = set(&mut client, name, &bad.to_string());
                let error = reply
                    .error()
                    .unwrap_or_else(|| panic!("{name} {bad} is taken"));
                assert!(error.starts_with("ERR "), "{name} {bad}: {error}");
                let names_range =
                    error.contains(&low.to_string()) && error.contains(&high.to_string());
                assert!(names_range, "{name} {bad}: {error}");
            }
            for bad in ["", "x", "1.5", "99999999999999999999"] {
                assert!(set(&mut client, name, bad).is_error(), "{name} {bad:?}");
            }
            assert_eq!(
                get(&mut client, name),
                high.to_string(),
                "refused values change nothing"
            );
        }
    });
}

#[test]
fn the_default_ttl_applies_to_new_writes_without_a_ttl() {
    for_each_engine(|engine| {
        let server = Server::builder().engine(engine).start();
        let mut client = server.raw();
        call!(client, "CACHE.SET", "before", "v");
        set(&mut client, "tagcache.default-ttl-ms", "50000");
        call!(client, "CACHE.SET", "default", "v", "TAGS", 1, "a");
        call!(client, "CACHE.SET", "own", "v", "EX", 1000);
        assert_eq!(call!(client, "PTTL", "before"), Reply::Int(-1));
        assert!(matches!(
            call!(client, "PTTL", "default"),
            Reply::Int(1..=50_000)
        ));
        assert!(matches!(
            call!(client, "PTTL", "own"),
            Reply::Int(50_001..=1_000_000)
        ));
        call!(client, "CACHE.SET", "own", "v", "KEEPTTL");
        assert!(matches!(
            call!(client, "PTTL", "own"),
            Reply::Int(50_001..=1_000_000)
        ));
        call!(client, "CACHE.TOUCH", "own", "PERSIST");
        assert_eq!(call!(client, "PTTL", "own"), Reply::Int(-1));
        set(&mut client, "tagcache.default-ttl-ms", "0");
        call!(client, "CACHE.SET", "default", "v");
        assert_eq!(call!(client, "PTTL", "default"), Reply::Int(-1));
    });
}

#[test]
fn changed_tag_limits_apply_at_once() {
    for_each_engine(|engine| {
        let server = Server::builder().engine(engine).start();
        let mut client = server.raw();
        set(&mut client, "tagcache.max-tags-per-entry", "2");
        set(&mut client, "tagcache.max-tag-bytes", "600");
        let reply = call!(client, "CACHE.SET", "key", "v", "TAGS", 3, "a", "b", "c");
        let error = reply.error().expect("3 tags are more than 2");
        assert!(error.contains('3') && error.contains('2'), "{error}");
        let long = "t".repeat(600);
        assert_eq!(
            call!(client, "CACHE.SET", "key", "v", "TAGS", 2, long, "a"),
            Reply::ok()
        );
        set(&mut client, "tagcache.max-tags-per-entry", "16384");
        let mut many = args!["CACHE.SET", "many", "v", "TAGS", 16384];
        many.extend((0..16384).map(|n: i32| format!("tag{n}").into_bytes()));
        assert_eq!(client.call(&many), Reply::ok());
        assert_eq!(inspect(&mut client, "many").unwrap().tags.len(), 16384);
        set(&mut client, "tagcache.max-tags-per-entry", "1");
        assert_eq!(call!(client, "DEBUG", "RELOAD"), Reply::ok());
        assert_eq!(
            inspect(&mut client, "many").unwrap().tags.len(),
            16384,
            "what is stored stays"
        );
        let payload = call!(client, "DUMP", "many").bytes().to_vec();
        assert_eq!(call!(client, "RESTORE", "copy", 0, payload), Reply::ok());
        assert_eq!(call!(client, "CACHE.INVALIDATE", "tag1023"), Reply::Int(2));
    });
}

#[test]
fn config_rewrite_writes_settings_that_a_restart_reads() {
    for_all_engines(|engine| {
        let mut server = Server::builder()
            .engine(engine)
            .module_args(&["reclaim-inline", "5"])
            .config_file("tagcache.top-keys 77")
            .start();
        let mut client = server.raw();
        assert_eq!(get(&mut client, "tagcache.top-keys"), "77");
        assert_eq!(get(&mut client, "tagcache.reclaim-inline"), "5");
        assert_eq!(
            set(&mut client, "tagcache.default-ttl-ms", "123456"),
            Reply::ok()
        );
        assert_eq!(
            set(&mut client, "tagcache.max-tag-bytes", "99"),
            Reply::ok()
        );
        assert_eq!(call!(client, "CONFIG", "REWRITE"), Reply::ok());
        server.restart();
        let mut client = server.raw();
        for (name, value) in [
            ("tagcache.default-ttl-ms", "123456"),
            ("tagcache.max-tag-bytes", "99"),
            ("tagcache.top-keys", "77"),
            ("tagcache.reclaim-inline", "5"),
        ] {
            assert_eq!(get(&mut client, name), value, "{name}");
        }
    });
}

#[test]
fn every_setting_is_a_module_argument_and_is_rewritten() {
    const VALUES: [(&str, &str, &str); 7] = [
        ("default-ttl-ms", "111000", "222000"),
        ("top-keys", "111", "222"),
        ("max-tag-bytes", "1110", "2220"),
        ("max-tags-per-entry", "111", "222"),
        ("reclaim-budget-us", "1110", "2220"),
        ("reclaim-inline", "111", "222"),
        ("lease-max-ms", "111000", "222000"),
    ];
    for_all_engines(|engine| {
        let args: Vec<&str> = VALUES.iter().flat_map(|value| [value.0, value.1]).collect();
        let mut server = Server::builder()
            .engine(engine)
            .module_args(&args)
            .config_file("")
            .start();
        let mut client = server.raw();
        for (name, first, second) in VALUES {
            let name = format!("tagcache.{name}");
            assert_eq!(get(&mut client, &name), first, "{name}");
            assert_eq!(set(&mut client, &name, second), Reply::ok(), "{name}");
        }
        assert_eq!(call!(client, "CONFIG", "REWRITE"), Reply::ok());
        server.restart();
        let mut client = server.raw();
        for (name, _, second) in VALUES {
            let name = format!("tagcache.{name}");
            assert_eq!(get(&mut client, &name), second, "{name}");
        }
    });
}

#[test]
fn an_invalid_line_in_the_config_file_prevents_the_start() {
    for_each_engine(|engine| {
        for line in [
            "tagcache.top-keys 0",
            "tagcache.reclaim-inline x",
            "tagcache.nonsense 1",
        ] {
            let started = Server::builder()
                .engine(engine)
                .config_file(line)
                .try_start();
            let log = started.map(|_| ()).expect_err("the server must not start");
            assert!(
                !log.contains("BUG REPORT"),
                "{line}:
{log}"
            );
        }
    });
}

#[test]
fn the_module_loads_at_runtime_and_does_not_unload_with_entries() {
    for_each_engine(|engine| {
        let server = Server::builder()
            .engine(engine)
            .without_module()
            .expect_complaints()
            .arg("--enable-module-command", "yes")
            .start();
        let mut client = server.raw();
        let path = tagcache_tests::module_path()
            .canonicalize()
            .expect("the module under test");
        let path = path.to_string_lossy().into_owned();
        let bad = call!(client, "MODULE", "LOAD", path, "reclaim-budget-us", "0");
        assert!(bad.is_error(), "{bad:?}");
        assert!(
            call!(client, "CACHE.GET", "key").is_error(),
            "nothing of it is left"
        );
        assert_eq!(
            call!(client, "MODULE", "LOAD", path, "reclaim-inline", "7"),
            Reply::ok()
        );
        assert_eq!(get(&mut client, "tagcache.reclaim-inline"), "7");
        assert_eq!(
            call!(client, "CACHE.SET", "key", "v", "TAGS", 1, "a"),
            Reply::ok()
        );
        let unload = call!(client, "MODULE", "UNLOAD", "tagcache");
        let reason = unload.error().unwrap_or_else(|| panic!("{unload:?}"));
        assert!(reason.contains("data type"), "no reason in {reason}");
        assert_eq!(call!(client, "CACHE.GET", "key"), Reply::bulk("v"));
    });
}
