//! Turns facts into findings. Pure: it asks no server.

use super::facts::{Facts, Module, Named, Skew, number};
use crate::text;

/// This program's version; the module and the client of the same release have the same one.
const VERSION: &str = env!("CARGO_PKG_VERSION");
/// Fragmentation that wastes less heap than this is not reported.
const FRAGMENTATION_BYTES: f64 = 100.0 * 1024.0 * 1024.0;
/// Limit for the allocator's heap in use, relative to the bytes that were requested.
const FRAGMENTATION_RATIO: f64 = 1.4;
/// Redis's own default for subscribers, in bytes.
const PUBSUB_LIMIT: f64 = 32.0 * 1024.0 * 1024.0;
/// An entry that arrives (RESTORE, MIGRATE, a slot) is judged by clocks that may differ by this much.
const CLOCK_MS: i64 = 1000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    Ok,
    /// It works, but may cause a fault.
    Warning,
    /// A fault.
    Problem,
    /// The check could not run.
    Unknown,
}

impl State {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warning => "warning",
            Self::Problem => "problem",
            Self::Unknown => "unknown",
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
pub(super) struct Check {
    pub(super) name: &'static str,
    pub(super) state: State,
    pub(super) found: String,
    pub(super) remedy: Option<String>,
}

/// The finding of one check.
type Found = (State, String, Option<String>);

fn ok(found: impl Into<String>) -> Found {
    (State::Ok, found.into(), None)
}

fn warning(found: impl Into<String>, remedy: impl Into<String>) -> Found {
    (State::Warning, found.into(), Some(remedy.into()))
}

fn problem(found: impl Into<String>, remedy: impl Into<String>) -> Found {
    (State::Problem, found.into(), Some(remedy.into()))
}

fn unknown(found: impl Into<String>, remedy: impl Into<String>) -> Found {
    (State::Unknown, found.into(), Some(remedy.into()))
}

fn without_info() -> Found {
    unknown(
        "the user may not run INFO",
        "ACL SETUSER … +info, or name another user in --redis",
    )
}

fn without_config() -> Found {
    unknown(
        "the user may not run CONFIG GET",
        "ACL SETUSER … +config|get, or name another user in --redis",
    )
}

/// All checks, the most important first.
pub(super) fn all(facts: &Facts) -> Vec<Check> {
    let mut checks = Vec::new();
    let mut add = |name, (state, found, remedy): Found| {
        checks.push(Check {
            name,
            state,
            found,
            remedy,
        });
    };
    add("server", server(&facts.info));
    add("module", module(&facts.module));
    add("memory limit", memory_limit(facts));
    add("persistence", persistence(facts));
    // A server without the module does not know its commands, so it cannot refuse them.
    if facts.module != Module::Missing {
        add("permissions", permissions(facts));
    }
    add("output buffers", output_buffers(facts));
    add("fragmentation", fragmentation(&facts.info));
    if facts.stats.is_some() {
        add("backlog", backlog(facts.backlog));
        add("tags", tags(facts.empty_tags.as_deref()));
    }
    add("clock", clock(facts.clock));
    add("replication", replication(facts));
    checks
}

/// Major and minor.
fn release(version: &str) -> Option<(u32, u32)> {
    let mut numbers = version.split('.').map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

fn server(info: &Named) -> Found {
    let (kind, field, oldest) = if info.contains_key("valkey_version") {
        ("Valkey", "valkey_version", (8, 0))
    } else {
        ("Redis", "redis_version", (7, 0))
    };
    let Some(version) = info.get(field) else {
        return without_info();
    };
    let found = format!("{kind} {version}");
    match release(version) {
        Some(release) if release < oldest => problem(
            found,
            format!("use {kind} {}.{} or newer", oldest.0, oldest.1),
        ),
        _ => ok(found),
    }
}

fn module(module: &Module) -> Found {
    match module {
        Module::Version(version) if version == VERSION => ok(format!("version {version}")),
        Module::Version(version) => warning(
            format!("version {version}, this program is {VERSION}"),
            "use the same release of both: upgrade replicas, then the primary, then applications",
        ),
        Module::Missing => problem(
            "the server has not loaded the module",
            "append packaging/tagcache.conf to the server's configuration (with the package: \
             /usr/share/tagcache/tagcache.conf) and restart it; its log says why a module is refused",
        ),
        Module::Unknown(why) => unknown(why, "ACL SETUSER … +info"),
    }
}

fn memory_limit(facts: &Facts) -> Found {
    let info = &facts.info;
    let Some(limit) = number(info, "maxmemory") else {
        return without_info();
    };
    let physical = number(info, "total_system_memory").filter(|&total| total > 0.0);
    let container = facts.container.map(|bytes| bytes as f64);
    let most = [physical, container].into_iter().flatten().reduce(f64::min);
    let policy = info.get("maxmemory_policy").map_or("", String::as_str);
    if limit == 0.0 {
        return warning(
            "maxmemory is 0: the server grows until the system ends it",
            "CONFIG SET maxmemory to three quarters of its machine's or container's memory, and \
             maxmemory-policy to allkeys-lfu",
        );
    }
    let found = format!("{} by {policy}", text::bytes(limit as u64));
    if let Some(most) = most.filter(|&most| limit > most) {
        let most = text::bytes(most as u64);
        return problem(
            format!("{found}, but its machine or container has {most}"),
            "CONFIG SET maxmemory to three quarters of that",
        );
    }
    let default_ttl = facts
        .config
        .as_ref()
        .and_then(|config| number(config, "tagcache.default-ttl-ms"));
    match policy {
        "noeviction" => warning(
            format!("{found}: a full server refuses to store"),
            "CONFIG SET maxmemory-policy allkeys-lfu",
        ),
        policy if policy.starts_with("volatile-") && default_ttl == Some(0.0) => warning(
            format!("{found}: entries without a time to live are never evicted"),
            "CONFIG SET tagcache.default-ttl-ms, or maxmemory-policy allkeys-lfu",
        ),
        _ => ok(found),
    }
}

fn persistence(facts: &Facts) -> Found {
    let failed = |field: &str| facts.info.get(field).is_some_and(|status| status != "ok");
    if failed("rdb_last_bgsave_status") || failed("aof_last_write_status") {
        return problem(
            "the last save failed",
            "look into the server's log; the disk may be full",
        );
    }
    let Some(config) = &facts.config else {
        return without_config();
    };
    let is = |name: &str, value: &str| config.get(name).is_some_and(|v| v == value);
    let drops = is("tagcache.after-restart", "drop");
    if is("appendonly", "yes") {
        if is("appendfsync", "always") {
            return ok("each command is on disk before its reply");
        }
        // after-restart is about RDB files alone.
        return warning(
            "a crash loses the last invalidations in the append-only file (appendfsync is not always): their entries \
             come back",
            "CONFIG SET appendfsync always; or keep no files, if an empty cache after a crash is acceptable",
        );
    }
    if is("save", "") {
        return ok("no files: a restart begins with an empty cache");
    }
    if drops {
        ok("snapshots, whose entries are dropped at a restart (tagcache.after-restart drop)")
    } else {
        warning(
            "a restart serves entries of the last snapshot that were invalidated after it (tagcache.after-restart \
             keep)",
            "CONFIG SET tagcache.after-restart drop, and CONFIG REWRITE",
        )
    }
}

fn permissions(facts: &Facts) -> Found {
    let user = &facts.user;
    let Some(refused) = &user.refused else {
        return unknown(
            format!("{} may not ask (ACL DRYRUN)", user.name),
            "ACL SETUSER … +acl|dryrun, or name another user in --redis and this one in --user",
        );
    };
    let mut missing = refused.application.clone();
    // The program's own commands concern the user that it connects as, not a user named by `--user`.
    if !user.named {
        missing.extend(refused.program.iter().cloned());
    }
    let mut grant: Vec<String> = missing
        .iter()
        .map(|command| format!("+{command}"))
        .collect();
    if let Some(channel) = &refused.channel {
        missing.push(format!("channel {channel}"));
        grant.push(format!("+subscribe &{channel}"));
    }
    if missing.is_empty() {
        return ok(format!("{} may run what applications need", user.name));
    }
    let found = format!("{} may not use: {}", user.name, missing.join(", "));
    let remedy = format!("ACL SETUSER {} {}", user.name, grant.join(" "));
    if user.named {
        problem(found, remedy)
    } else {
        // The user may be meant for reads only.
        warning(found, remedy)
    }
}

fn output_buffers(facts: &Facts) -> Found {
    let disconnected = number(&facts.info, "client_output_buffer_limit_disconnections");
    if let Some(count) = disconnected.filter(|&count| count > 0.0) {
        return warning(
            format!("{count} clients were disconnected because their output buffer was full"),
            "raise client-output-buffer-limit for their class (pubsub for applications with a local tier), or read \
             smaller values",
        );
    }
    let Some(config) = &facts.config else {
        return without_config();
    };
    let limits = config
        .get("client-output-buffer-limit")
        .map_or("", String::as_str);
    let words: Vec<&str> = limits.split_whitespace().collect();
    let hard = words.iter().position(|word| *word == "pubsub");
    let hard = hard.and_then(|at| words.get(at + 1)?.parse::<f64>().ok());
    match hard {
        Some(hard) if hard > 0.0 && hard < PUBSUB_LIMIT => warning(
            format!(
                "a subscriber may have {} of replies waiting, and the Rust client reads through a subscribed connection",
                text::bytes(hard as u64)
            ),
            "CONFIG SET client-output-buffer-limit \"pubsub 32mb 8mb 60\", or more for larger values",
        ),
        Some(0.0) => ok("subscribers: no limit"),
        Some(hard) => ok(format!("subscribers: {}", text::bytes(hard as u64))),
        None => ok("as the server's defaults"),
    }
}

fn fragmentation(info: &Named) -> Found {
    let (Some(used), Some(rss)) = (number(info, "used_memory"), number(info, "used_memory_rss"))
    else {
        return without_info();
    };
    if used > FRAGMENTATION_BYTES && rss < used * 0.9 {
        return problem(
            format!(
                "{} of {} are in memory: the rest is swapped out",
                text::bytes(rss as u64),
                text::bytes(used as u64)
            ),
            "lower maxmemory, or give the machine more memory",
        );
    }
    let ratio = number(info, "allocator_frag_ratio").unwrap_or(1.0);
    let lost = number(info, "allocator_frag_bytes").unwrap_or(0.0);
    let found = format!(
        "allocator {ratio:.2}, {} lost",
        text::bytes(lost.max(0.0) as u64)
    );
    if ratio > FRAGMENTATION_RATIO && lost > FRAGMENTATION_BYTES {
        warning(
            found,
            "CONFIG SET activedefrag yes; a server built without it is restarted, or fails over to a replica",
        )
    } else {
        ok(found)
    }
}

fn backlog((first, later): (u64, u64)) -> Found {
    match (first, later) {
        (0, _) | (_, 0) => ok("memory of dropped entries is back"),
        (first, later) if later < first => ok(format!("{later} dropped entries, becoming fewer")),
        (_, later) => warning(
            format!("{later} dropped entries, not becoming fewer"),
            "raise tagcache.reclaim-budget-us, or invalidate less often",
        ),
    }
}

fn tags(empty: Option<&[Vec<u8>]>) -> Found {
    match empty {
        None => unknown(
            "not every tag could be looked at (over 10,000 tags, or CACHE.TAGTOP is refused)",
            "tagcache tags --by entries shows the largest",
        ),
        Some([]) => ok("each is carried by an entry"),
        Some(empty) => problem(
            format!(
                "{} tags are carried by no entry, such as {}",
                empty.len(),
                text::name(&empty[0])
            ),
            "that is a fault of the module: please report it. A restart builds the index anew",
        ),
    }
}

fn clock(skew: Option<Skew>) -> Found {
    match skew {
        None => unknown("TIME is refused", "ACL SETUSER … +time"),
        Some(skew) if skew.ms.abs() > CLOCK_MS + skew.margin_ms => warning(
            format!("{} ms off this machine's", skew.ms),
            "set both by NTP: times in CACHE.SET … EXAT, and entries that move between servers, go by the clock",
        ),
        Some(_) => ok("as this machine's, within a second"),
    }
}

fn replication(facts: &Facts) -> Found {
    let info = &facts.info;
    match info.get("role").map(String::as_str) {
        None => return without_info(),
        Some("slave") => {
            return match info.get("master_link_status").map(String::as_str) {
                Some("up") => ok("a replica, linked to its primary"),
                _ => problem(
                    "a replica without a link to its primary",
                    "look into its log; a replica that lacks the module, or has an older one, cannot follow",
                ),
            };
        }
        Some(_) => {}
    }
    let mut worst = ok(match facts.replicas.len() {
        0 => "a primary without replicas".to_owned(),
        1 => "1 replica with the same module".to_owned(),
        n => format!("{n} replicas with the same module"),
    });
    for replica in &facts.replicas {
        let address = &replica.address;
        let found = match &replica.module {
            Module::Missing => problem(
                format!("{address} has not loaded the module"),
                "load the module there: without it a replica cannot follow",
            ),
            _ if !replica.online => warning(
                format!("{address} is not online"),
                "wait for its synchronisation, or look into its log",
            ),
            Module::Unknown(why) => unknown(
                format!("{address} cannot be looked at: {why}"),
                format!("tagcache doctor --redis redis://{address}/ where it can be reached"),
            ),
            Module::Version(theirs) if Module::Version(theirs.clone()) != facts.module => warning(
                format!("{address} has version {theirs}"),
                "finish the upgrade: replicas first, then the primary",
            ),
            Module::Version(_) => match (replica.clock, facts.clock) {
                (Some(theirs), Some(ours))
                    if (theirs.ms - ours.ms).abs()
                        > CLOCK_MS + theirs.margin_ms + ours.margin_ms =>
                {
                    warning(
                        format!(
                            "{address}'s clock is {} ms off the primary's",
                            theirs.ms - ours.ms
                        ),
                        "set both by NTP: after a failover times to live are judged by the other clock",
                    )
                }
                _ => continue,
            },
        };
        let rank = |state| match state {
            State::Ok => 0,
            State::Unknown => 1,
            State::Warning => 2,
            State::Problem => 3,
        };
        if rank(found.0) > rank(worst.0) {
            worst = found;
        }
    }
    worst
}

#[cfg(test)]
mod tests {
    use super::super::facts::{Replica, User};
    use super::*;

    fn facts(info: &[(&str, &str)]) -> Facts {
        let info = info
            .iter()
            .map(|(name, value)| ((*name).into(), (*value).into()));
        Facts {
            info: info.collect(),
            container: None,
            module: Module::Version(VERSION.into()),
            config: None,
            stats: None,
            backlog: (0, 0),
            empty_tags: None,
            user: User {
                name: "default".into(),
                named: false,
                refused: None,
            },
            clock: None,
            replicas: Vec::new(),
        }
    }

    const fn skew(ms: i64) -> Skew {
        Skew { ms, margin_ms: 5 }
    }

    #[test]
    fn replication_check_reports_the_worst_replica() {
        let mut facts = facts(&[("role", "master")]);
        facts.clock = Some(skew(-300));
        let replica = |address: &str, module, ms| Replica {
            address: address.into(),
            online: true,
            module,
            clock: Some(skew(ms)),
        };
        let same = || Module::Version(VERSION.into());
        facts.replicas.push(replica("a:1", same(), 300));
        assert_eq!(replication(&facts).0, State::Ok);
        facts.replicas.push(replica("b:1", same(), 1200));
        let (state, found, _) = replication(&facts);
        assert_eq!(state, State::Warning);
        assert!(found.starts_with("b:1's clock is 1500 ms off"), "{found}");
        facts.replicas.insert(0, replica("c:1", Module::Missing, 0));
        let (state, found, _) = replication(&facts);
        assert_eq!(
            (state, &*found),
            (State::Problem, "c:1 has not loaded the module")
        );
        let alone = self::facts(&[("role", "slave"), ("master_link_status", "down")]);
        assert_eq!(replication(&alone).0, State::Problem);
    }

    #[test]
    fn fragmentation_check_reports_lost_or_swapped_memory() {
        let state = |rss: &str, ratio: &str, lost: &str| {
            let memory = [
                ("used_memory", "1000000000"),
                ("used_memory_rss", rss),
                ("allocator_frag_ratio", ratio),
                ("allocator_frag_bytes", lost),
            ];
            fragmentation(&facts(&memory).info).0
        };
        assert_eq!(state("1100000000", "1.1", "100000000"), State::Ok);
        assert_eq!(state("1500000000", "1.5", "500000000"), State::Warning);
        assert_eq!(state("1000000", "1.5", "1000"), State::Problem);
        assert_eq!(fragmentation(&facts(&[]).info).0, State::Unknown);
    }

    #[test]
    fn backlog_check_warns_if_the_backlog_does_not_shrink() {
        let states = [(0, 0), (9, 0), (9, 5), (9, 9), (9, 12)].map(|seen| backlog(seen).0);
        let [warning, ok] = [State::Warning, State::Ok];
        assert_eq!(states, [ok, ok, ok, warning, warning]);
    }

    #[test]
    fn server_check_reports_unsupported_versions() {
        let state = |field: &str, version: &str| server(&facts(&[(field, version)]).info).0;
        assert_eq!(state("redis_version", "6.2.14"), State::Problem);
        assert_eq!(state("redis_version", "8.6.0"), State::Ok);
        assert_eq!(state("valkey_version", "7.2.5"), State::Problem);
        assert_eq!(state("valkey_version", "9.1.0"), State::Ok);
    }

    #[test]
    fn clock_and_tag_checks_classify_their_input() {
        let states = [None, Some(skew(-1005)), Some(skew(1006))].map(|skew| clock(skew).0);
        assert_eq!(states, [State::Unknown, State::Ok, State::Warning]);
        assert_eq!(tags(Some(&[])).0, State::Ok);
        assert_eq!(tags(Some(&[b"a".to_vec()])).0, State::Problem);
        assert_eq!(tags(None).0, State::Unknown);
    }
}
