//! Commands that only read.

use std::collections::HashMap;
use std::os::unix::ffi::OsStrExt as _;

use redis::Value as Reply;
use serde_json::{Value, json};
use tagcache_admin::memory::{Server, ServerUsage};

use crate::args::{At, By, Inspect, Tags, Top};
use crate::connect::{server, without_cache};
use crate::output::{Failure, show};
use crate::text::{self, bytes, maybe_bytes, name, table};

pub(crate) fn stats(at: &At, json: bool) -> Result<(), Failure> {
    let server = server(at)?;
    let figures = server.figures()?;
    let module = module_version(&server);
    let mut value = json!(figures);
    value["module"] = json!(module);
    show(json, &value, || {
        let mut rows = rows(&figures);
        let module = module.clone().unwrap_or_else(text::unknown);
        rows.insert(1, ["module".into(), module]);
        rows.insert(2, ["this program".into(), env!("CARGO_PKG_VERSION").into()]);
        lines(&rows)
    })?;
    if figures.cache.is_none() {
        return Err(without_cache(&server));
    }
    Ok(())
}

/// The module's version: loaded modules are listed as `module:name=tagcache,ver=200,…`, the number being 0.2.0.
pub(crate) fn module_version(server: &Server) -> Option<String> {
    version_among(&server.command::<String>("INFO", &[b"modules"]).ok()?)
}

/// The same, from a reply of INFO.
pub(crate) fn version_among(modules: &str) -> Option<String> {
    let version = modules
        .lines()
        .find_map(|line| line.strip_prefix("module:name=tagcache,ver="))?;
    let number: u64 = version.split(',').next()?.parse().ok()?;
    Some(format!(
        "{}.{}.{}",
        number / 10_000,
        number / 100 % 100,
        number % 100
    ))
}

pub(crate) fn stats_text(figures: &ServerUsage) -> String {
    lines(&rows(figures))
}

fn rows(figures: &ServerUsage) -> Vec<[String; 2]> {
    let mut rows = vec![
        ["server", &figures.name].map(str::to_owned),
        [
            "keys of any type".into(),
            figures
                .key_count
                .map_or_else(text::unknown, |n| n.to_string()),
        ],
        ["memory used".into(), maybe_bytes(figures.used_memory)],
        ["memory limit".into(), maybe_bytes(figures.memory_limit)],
        [
            "clients".into(),
            figures
                .clients
                .map_or_else(text::unknown, |n| n.to_string()),
        ],
    ];
    if let Some(cache) = figures.cache {
        let reads = cache.hits + cache.stale_hits + cache.misses;
        let rate =
            (reads > 0).then(|| (cache.hits + cache.stale_hits) as f64 * 100.0 / reads as f64);
        let rate = rate.map_or_else(|| "no reads".into(), |rate| format!("{rate:.2}%"));
        rows.extend([
            ["entries".into(), cache.entries.to_string()],
            ["tags".into(), cache.tags.to_string()],
            ["entries' memory".into(), bytes(cache.bytes)],
            ["index memory".into(), bytes(cache.index_bytes)],
            ["hit rate".into(), rate],
            [
                "hits / stale / misses".into(),
                format!("{} / {} / {}", cache.hits, cache.stale_hits, cache.misses),
            ],
            ["sets".into(), cache.sets.to_string()],
            [
                "expired / evicted".into(),
                format!("{} / {}", cache.expired, cache.evicted),
            ],
            ["invalidations".into(), cache.invalidations.to_string()],
            ["entries invalidated".into(), cache.invalidated.to_string()],
            ["reclaim backlog".into(), cache.reclaim_backlog.to_string()],
            [
                "longest reclaim slice".into(),
                format!("{} µs", cache.reclaim_max_us),
            ],
            [
                "leases / waiters".into(),
                format!("{} / {}", cache.leases, cache.lease_waiters),
            ],
        ]);
    }
    rows
}

fn lines(rows: &[[String; 2]]) -> String {
    let width = rows
        .iter()
        .map(|[label, _]| label.chars().count())
        .max()
        .unwrap_or(0);
    rows.iter()
        .map(|[label, value]| format!("{label:<width$}  {value}\n"))
        .collect::<Vec<_>>()
        .concat()
}

pub(crate) fn top(args: &Top, json: bool) -> Result<(), Failure> {
    let count = args.count.to_string();
    let keys: Vec<(Vec<u8>, u64)> = server(&args.at)?.command("CACHE.TOP", &[count.as_bytes()])?;
    let value: Value = keys
        .iter()
        .map(|(key, hits)| json!({"key": String::from_utf8_lossy(key), "hits": hits}))
        .collect();
    show(json, &value, || {
        let rows: Vec<_> = keys
            .iter()
            .map(|(key, hits)| vec![name(key), hits.to_string()])
            .collect();
        table(&["Key", "Hits"], &rows)
    })
}

pub(crate) fn tags(args: &Tags, json: bool) -> Result<(), Failure> {
    let count = args.count.to_string();
    let by: &[u8] = match args.by {
        By::Bytes => b"BYTES",
        By::Entries => b"ENTRIES",
    };
    let args_of: [&[u8]; 4] = [b"BY", by, b"LIMIT", count.as_bytes()];
    let tags: Vec<(Vec<u8>, u64, u64)> = server(&args.at)?.command("CACHE.TAGTOP", &args_of)?;
    let value: Value = tags
        .iter()
        .map(|(tag, entries, bytes)| json!({"tag": String::from_utf8_lossy(tag), "entries": entries, "bytes": bytes}))
        .collect();
    show(json, &value, || {
        let row = |(tag, entries, size): &(Vec<u8>, u64, u64)| {
            vec![name(tag), entries.to_string(), bytes(*size)]
        };
        table(
            &["Tag", "Entries", "Memory"],
            &tags.iter().map(row).collect::<Vec<_>>(),
        )
    })
}

pub(crate) fn inspect(args: &Inspect, json: bool) -> Result<(), Failure> {
    let fields: Option<HashMap<String, Reply>> =
        server(&args.at)?.command("CACHE.INSPECT", &[args.key.as_bytes()])?;
    let Some(fields) = fields else {
        return Err(Failure::Because(format!(
            "{}: no entry is visible",
            args.key.display()
        )));
    };
    let mut fields: Vec<(String, Value)> = fields
        .into_iter()
        .map(|(name, reply)| (name, to_json(&reply)))
        .collect();
    fields.sort_by(|a, b| a.0.cmp(&b.0));
    let value: Value = Value::Object(fields.iter().cloned().collect());
    show(json, &value, || {
        let line = |(field, value): &(String, Value)| {
            let shown = match value {
                Value::String(text) => name(text.as_bytes()),
                Value::Array(items) => {
                    let items = items
                        .iter()
                        .map(|item| name(item.as_str().unwrap_or_default().as_bytes()));
                    items.collect::<Vec<_>>().join(", ")
                }
                other => other.to_string(),
            };
            format!("{field:<8}  {shown}\n")
        };
        fields.iter().map(line).collect()
    })
}

fn to_json(reply: &Reply) -> Value {
    match reply {
        Reply::Int(n) => json!(n),
        Reply::BulkString(bytes) => json!(String::from_utf8_lossy(bytes)),
        Reply::SimpleString(text) => json!(text),
        Reply::Array(items) | Reply::Set(items) => items.iter().map(to_json).collect(),
        _ => Value::Null,
    }
}
