//! One server.

use std::time::Duration;

use tagcache_tests::look::{info, info_text};
use tagcache_tests::proxy::{Rewrite, Weather};
use tagcache_tests::{DEADLINE, Engine, Server, ServerBuilder, args, call, wait_until};

use super::Stage;
use crate::log::{Event, Fault, Time, now};
use crate::site::{Site, limit_files, with_quota};
use crate::worker::{KEYS, TAGS, key_name};

const LOSES: Fault = Fault {
    loses: true,
    undone_since: None,
    keys_undone: false,
    untimed: false,
};

/// Clients without any knowledge of this project change data.
pub(super) fn changes(stage: &mut Stage) {
    let mut client = stage.site.servers[0].raw();
    let start = now();
    match stage.rng.below(8) {
        0 => {
            call!(
                client,
                stage.rng.pick(&["FLUSHALL", "FLUSHDB", "CACHE.FLUSH"])
            );
            stage.note(start, Event::Flush);
        }
        1..5 => {
            let keys: Vec<u32> = (0..KEYS / 10)
                .map(|_| stage.rng.below(KEYS) as u32)
                .collect();
            let command = stage.rng.pick(&["DEL", "UNLINK", "CACHE.DEL"]);
            let each = keys.iter().map(|key| args![command, key_name(*key)]);
            let replies = client.pipeline(&each.collect::<Vec<_>>());
            for (key, removed) in keys.into_iter().zip(replies) {
                // A native command does not report a missing key to the module, and so ends no lease of it.
                if command == "CACHE.DEL" || removed.int() > 0 {
                    stage.note(start, Event::Remove { key });
                }
            }
        }
        _ => {
            let tag = stage.rng.below(TAGS);
            let name = format!("tag{tag}");
            if stage.rng.one_in(2) {
                call!(client, "CACHE.INVALIDATEWHERE", "ANY", 1, name);
            } else {
                call!(client, "CACHE.INVALIDATE", name);
            }
            stage.note(start, Event::Invalidate { tags: 1 << tag });
        }
    }
}

fn killed(stage: &mut Stage) {
    stage.site.servers[0].kill_9();
    stage.sleep(0, 300);
    stage.site.servers[0].restart();
}

pub(super) fn kill(stage: &mut Stage) {
    let start = now();
    killed(stage);
    stage.note(start, Event::Flush);
    stage.fault("kill -9", start, LOSES);
}

/// Restarts from a snapshot that lacks some changes.
pub(super) fn kill_saved(stage: &mut Stage) {
    if stage.rng.one_in(2) || now() - stage.site.saved > 30_000_000_000 {
        let begun = now();
        call!(stage.site.servers[0].raw(), "SAVE");
        stage.site.saved = begun;
    }
    stage.sleep(0, 1000);
    if stage.rng.one_in(3) {
        // The server may die during this snapshot.
        call!(stage.site.servers[0].raw(), "BGSAVE");
        stage.sleep(0, 20);
    }
    let start = now();
    killed(stage);
    let fault = Fault {
        undone_since: Some(stage.site.saved),
        ..LOSES
    };
    stage.fault("kill -9, RDB", start, fault);
}

pub(super) fn kill_everysec(stage: &mut Stage) {
    // A server waits this long for a busy disk.
    const LOST: Time = 2_000_000_000;
    let start = now();
    killed(stage);
    let fault = Fault {
        undone_since: Some(start - LOST),
        ..LOSES
    };
    stage.fault("kill -9, AOF everysec", start, fault);
}

pub(super) fn kill_always(stage: &mut Stage) {
    let start = now();
    killed(stage);
    // Nothing is lost; invalidations that clients send again drop values that were written since.
    stage.fault("kill -9, AOF always", start, LOSES);
}

/// Rewrites the log; the next kill may come before that has ended.
pub(super) fn rewrite(stage: &mut Stage) {
    call!(stage.site.servers[0].raw(), "BGREWRITEAOF");
    *stage.counts.entry("BGREWRITEAOF").or_default() += 1;
}

pub(super) fn stop(stage: &mut Stage) {
    let start = now();
    stage.site.servers[0].pause();
    stage.sleep(100, 3000);
    stage.site.servers[0].resume();
    stage.fault("SIGSTOP", start, Fault::default());
}

pub(super) fn clients(stage: &mut Stage) {
    let mut client = stage.site.servers[0].raw();
    let start = now();
    match stage.rng.below(4) {
        0 => {
            client.call(&["CLIENT", "KILL", "TYPE", "pubsub"]);
            stage.fault("CLIENT KILL pubsub", start, Fault::default());
        }
        1 => {
            client.call(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]);
            stage.fault("CLIENT KILL normal", start, Fault::default());
        }
        which => {
            let ms = 50 + stage.rng.below(1500);
            let mode = if which == 2 { "ALL" } else { "WRITE" };
            call!(client, "CLIENT", "PAUSE", ms, mode);
            std::thread::sleep(Duration::from_millis(ms as u64));
            stage.fault("CLIENT PAUSE", start, Fault::default());
        }
    }
}

pub(super) fn network(stage: &mut Stage) {
    let (name, weather) = match stage.rng.below(3) {
        0 => ("network cut", Weather::Cut),
        1 => ("network silent", Weather::Silent),
        _ => {
            let ms = 20 + stage.rng.below(200) as u64;
            ("network slow", Weather::Slow(Duration::from_millis(ms)))
        }
    };
    let start = now();
    stage.site.proxy().turn(weather);
    stage.sleep(100, 2000);
    stage.site.proxy().turn(Weather::Fair);
    stage.fault(name, start, Fault::default());
}

/// Sets the server's clock back or forward, and then right again.
pub(super) fn clock(stage: &mut Stage) {
    let seconds = 1 + stage.rng.below(3600) as i64;
    let shift = if stage.rng.one_in(2) {
        seconds
    } else {
        -seconds
    };
    let start = now();
    let set = |stage: &Stage, ms| {
        stage
            .site
            .clock
            .as_ref()
            .expect("a site with a clock")
            .shift(ms);
    };
    set(stage, shift * 1000);
    stage.sleep(200, 1500);
    set(stage, 0);
    let name = if shift > 0 {
        "clock set forth"
    } else {
        "clock set back"
    };
    let fault = Fault {
        untimed: true,
        ..LOSES
    };
    stage.fault(name, start, fault);
}

/// Too little memory, under each policy.
pub(super) fn memory(stage: &mut Stage) {
    const EVERYWHERE: usize = 8;
    const POLICIES: [(&str, &str); 10] = [
        ("noeviction", "memory: noeviction"),
        ("allkeys-lru", "memory: allkeys-lru"),
        ("allkeys-lfu", "memory: allkeys-lfu"),
        ("allkeys-random", "memory: allkeys-random"),
        ("volatile-lru", "memory: volatile-lru"),
        ("volatile-lfu", "memory: volatile-lfu"),
        ("volatile-random", "memory: volatile-random"),
        ("volatile-ttl", "memory: volatile-ttl"),
        ("allkeys-lrm", "memory: allkeys-lrm"),
        ("volatile-lrm", "memory: volatile-lrm"),
    ];
    let known = if stage.site.engine.evicts_by_modification() {
        &POLICIES[..]
    } else {
        &POLICIES[..EVERYWHERE]
    };
    let (policy, name) = stage.rng.pick(known);
    let mut client = stage.site.servers[0].raw();
    let before = info(&mut client, "evicted_keys");
    let start = now();
    let used = info(&mut client, "used_memory");
    call!(client, "CONFIG", "SET", "maxmemory-policy", policy);
    call!(client, "CONFIG", "SET", "maxmemory", (used - 20_000).max(1));
    stage.sleep(200, 800);
    call!(client, "CONFIG", "SET", "maxmemory", 0);
    let fault = Fault {
        loses: policy != "noeviction",
        ..LOSES
    };
    stage.fault(name, start, fault);
    let evicted = info(&mut client, "evicted_keys") - before;
    *stage.counts.entry("evicted keys").or_default() += evicted as u64;
}

fn logging(policy: &str) -> ServerBuilder {
    Server::builder()
        .args("--save", &["3600", "1"])
        .arg("--appendonly", "yes")
        .arg("--appendfsync", policy)
        .expect_complaints()
}

/// A server with a snapshot and a log, whose disk can be full.
pub(super) fn quota(engine: &Engine, policy: &str) -> Site {
    Site::single(&with_quota(engine), logging(policy), Rewrite::default())
}

/// The same with a clock that can be set.
pub(super) fn timed_quota(engine: &Engine) -> Option<Site> {
    Site::timed(&with_quota(engine), logging("everysec"))
}

/// Nothing can be written to disk: neither a snapshot nor the log.
pub(super) fn disk(stage: &mut Stage) {
    let start = now();
    let server = &stage.site.servers[0];
    let mut client = server.raw();
    // Less than an empty snapshot: where the fleet is slow, there may be little to save.
    limit_files(server, "50");
    let name = if stage.rng.one_in(2) {
        wait_until("the snapshot fails", DEADLINE, || {
            // Repeated: the first may meet a snapshot that still runs, and that began before.
            call!(client, "BGSAVE");
            info_text(&mut client, "rdb_last_bgsave_status") == "err"
        });
        "disk full, BGSAVE"
    } else {
        wait_until("the log fails", DEADLINE, || {
            info_text(&mut client, "aof_last_write_status") == "err"
        });
        "disk full, AOF"
    };
    stage.sleep(200, 1000);
    limit_files(&stage.site.servers[0], "unlimited");
    wait_until("it can save again", DEADLINE, || {
        call!(client, "BGSAVE");
        info_text(&mut client, "rdb_last_bgsave_status") == "ok"
            && info_text(&mut client, "aof_last_write_status") == "ok"
    });
    stage.fault(name, start, Fault::default());
}

/// A server that confirms only data on disk ends itself when its disk is full, and restarts with all of that data.
pub(super) fn disk_always(stage: &mut Stage) {
    let start = now();
    let server = &mut stage.site.servers[0];
    limit_files(server, "1000");
    // The next change ends the server.
    server.died();
    stage.sleep(0, 300);
    stage.site.servers[0].restart();
    stage.fault("disk full, AOF always", start, LOSES);
}
