//! `tagcache load-test`: the guide's load test of the endpoint, or traffic against a server.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};
use ureq::tls::{RootCerts, TlsConfig};

use crate::args::{At, LoadTest};
use crate::output::{Failure, show};
use crate::text::{maybe_bytes, ms, percent};
use crate::traffic::{Traffic, Until, histogram};
use crate::{connect, signals, token};

/// Number of keys and bytes per value when a server is loaded.
const KEYS: u32 = 10_000;
const VALUE_BYTES: u32 = 200;
const TIMEOUT: Duration = Duration::from_secs(10);

pub(crate) fn run(args: &LoadTest, json: bool) -> Result<(), Failure> {
    match &args.redis {
        Some(redis) => server(args, redis, json),
        None => endpoint(args, json),
    }
}

/// As the guide's script: batches of concurrent requests, one line about the first of each, a pause.
fn endpoint(args: &LoadTest, json: bool) -> Result<(), Failure> {
    let token = args.token_file.as_deref().map(token::read).transpose()?;
    let client = Client::new(&args.url, token);
    let before = client.stats()?;
    let ended = signals::ended_or_killed()?;
    let bar = bar(args.iterations, json);
    let mut latencies = histogram();
    let mut failures: BTreeMap<String, u64> = BTreeMap::new();
    let mut done = 0;
    let start = Instant::now();
    while done < args.iterations && !ended.load(Ordering::Relaxed) {
        let batch = u64::from(args.concurrency).min(args.iterations - done);
        let answers = client.batch(batch);
        done += batch;
        bar.inc(batch);
        for (took, answer) in &answers {
            match answer {
                Ok(_) => latencies.saturating_record(took.as_micros() as u64),
                // The time of a failure is not a latency.
                Err(why) => *failures.entry(why.clone()).or_default() += 1,
            }
        }
        if !json && let Some((_, first)) = answers.first() {
            let line = match first {
                Ok(stats) => format!(
                    "Heap: {} | Status: {}",
                    text(&stats["memory"]["heapPercent"]),
                    text(&stats["status"])
                ),
                Err(why) => format!("failed: {why}"),
            };
            let line = format!("[{done}/{}] {line}\n", args.iterations);
            bar.suspend(|| std::io::stdout().write_all(line.as_bytes()))?;
        }
        if done < args.iterations {
            std::thread::sleep(args.pause);
        }
    }
    bar.finish_and_clear();
    let took = start.elapsed();
    // Null if the endpoint does not reply any more.
    let after = client.stats().unwrap_or_default();
    let failed: u64 = failures.values().sum();
    let value = json!({
        "target": client.shown,
        "requests": done,
        "failed": failed,
        "failures": failures,
        "seconds": took.as_secs_f64(),
        "latencyMs": latency_json(&latencies),
        "heapBefore": before["raw"]["memory"]["heapUsed"],
        "heapAfter": after["raw"]["memory"]["heapUsed"],
        "status": after["status"],
    });
    show(json, &value, || {
        let memory = |stats: &Value| {
            format!(
                "{} ({})",
                text(&stats["memory"]["heapUsed"]),
                text(&stats["memory"]["heapPercent"])
            )
        };
        format!(
            "Load test {}: {done} requests in {:.2} s, {failed} failed\nlatency  {}\nheap     before {}, after {}\n",
            complete(done, args.iterations),
            took.as_secs_f64(),
            latency_text(&latencies),
            memory(&before),
            memory(&after)
        )
    })?;
    if failed > 0 {
        let kind = |(why, n): (&String, &u64)| format!("\n{n} × {why}");
        let kinds: String = failures.iter().map(kind).collect();
        return Err(Failure::Because(format!(
            "{failed} of {done} requests failed{kinds}"
        )));
    }
    Ok(())
}

fn complete(done: u64, asked: u64) -> &'static str {
    if done < asked {
        "ended early"
    } else {
        "complete"
    }
}

fn server(args: &LoadTest, redis: &str, json: bool) -> Result<(), Failure> {
    let watched = connect::server(&At::of(redis))?;
    let before = watched.figures()?;
    let traffic = Traffic {
        redis: redis.to_owned(),
        connections: args.concurrency,
        keys: KEYS,
        value_bytes: VALUE_BYTES,
        until: Until::Reads(args.iterations),
    };
    let ended = signals::ended_or_killed()?;
    let running = traffic.start()?;
    let bar = bar(args.iterations, json);
    while !running.is_over() {
        if ended.load(Ordering::Relaxed) {
            running.progress.stop();
        }
        bar.set_position(running.progress.reads().min(args.iterations));
        std::thread::sleep(Duration::from_millis(20));
    }
    bar.finish_and_clear();
    // Read while the entries still exist. Unknown if the server is gone.
    let during = watched.figures().unwrap_or_default();
    let mut outcome = running.outcome();
    let value = json!({
        "target": "server",
        "reads": outcome.reads,
        "invalidations": outcome.invalidations,
        "seconds": outcome.took.as_secs_f64(),
        "hitPercent": outcome.hit_percent(),
        "latencyMs": latency_json(&outcome.latencies),
        "memoryBefore": before.used_memory,
        "memoryAfter": during.used_memory,
    });
    show(json, &value, || {
        format!(
            "Load test {}: {} reads in {:.2} s ({:.0} a second), {} invalidations\nlatency   {}\nhit rate  {}\nmemory    before {}, after {}\n",
            complete(outcome.reads, args.iterations),
            outcome.reads,
            outcome.took.as_secs_f64(),
            outcome.reads as f64 / outcome.took.as_secs_f64(),
            outcome.invalidations,
            latency_text(&outcome.latencies),
            percent(outcome.hit_percent()),
            maybe_bytes(before.used_memory),
            maybe_bytes(during.used_memory)
        )
    })?;
    outcome.failed.take().map_or(Ok(()), Err)
}

/// A client of an admin endpoint.
pub(crate) struct Client {
    agent: ureq::Agent,
    url: String,
    /// The URL without its password.
    shown: String,
    token: Option<String>,
}

impl Client {
    pub(crate) fn new(url: &str, token: Option<String>) -> Self {
        let config = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .timeout_global(Some(TIMEOUT))
            .max_idle_connections_per_host(1000)
            // The system's certificates instead of ureq's own list.
            .tls_config(
                TlsConfig::builder()
                    .root_certs(RootCerts::PlatformVerifier)
                    .build(),
            )
            .build();
        Self {
            agent: config.into(),
            url: url.trim_end_matches('/').to_owned(),
            shown: without_login(url),
            token,
        }
    }

    /// Status and body of the response.
    pub(crate) fn get(&self, path: &str) -> Result<(u16, String), String> {
        let mut request = self.agent.get(format!("{}{path}", self.url));
        if let Some(token) = &self.token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        let failed = |error: ureq::Error| error.to_string().replace(&self.url, &self.shown);
        let mut response = request.call().map_err(failed)?;
        let status = response.status().as_u16();
        Ok((
            status,
            response.body_mut().read_to_string().map_err(failed)?,
        ))
    }

    fn stats(&self) -> Result<Value, Failure> {
        self.memory_stats()
            .map_err(|why| Failure::Server(format!("{}: {why}", self.shown)))
    }

    fn memory_stats(&self) -> Result<Value, String> {
        let (status, body) = self.get("/api/admin/memory-stats")?;
        match status {
            200 => serde_json::from_str(&body).map_err(|error| error.to_string()),
            401 => Err("status 401; --token-file names the token".into()),
            429 => Err("status 429: more requests a minute than the endpoint allows".into()),
            _ => Err(format!("status {status}")),
        }
    }

    /// This many requests at once, in the order in which they were sent.
    fn batch(&self, n: u64) -> Vec<(Duration, Result<Value, String>)> {
        let one = || {
            let start = Instant::now();
            let answer = self.memory_stats();
            (start.elapsed(), answer)
        };
        std::thread::scope(|scope| {
            let threads: Vec<_> = (0..n).map(|_| scope.spawn(one)).collect();
            let joined = threads.into_iter().filter_map(|thread| thread.join().ok());
            joined.collect()
        })
    }
}

/// `http://user:password@host/` as `http://host/`.
fn without_login(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else {
        return url.to_owned();
    };
    let authority = rest.split('/').next().unwrap_or_default();
    let host = authority.rsplit('@').next().unwrap_or_default();
    format!("{scheme}://{host}{}", &rest[authority.len()..])
        .trim_end_matches('/')
        .to_owned()
}

fn bar(length: u64, json: bool) -> ProgressBar {
    if json {
        return ProgressBar::hidden();
    }
    // Drawn on standard error, and only if that is a terminal.
    let style = ProgressStyle::with_template("{bar:30} {pos}/{len} {elapsed} ({eta} left)");
    ProgressBar::new(length).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}

const PERCENTILES: [(&str, f64); 4] = [("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p99.9", 0.999)];

pub(crate) fn latency_json(latencies: &Histogram<u64>) -> Value {
    let ms = |us: u64| us as f64 / 1000.0;
    let mut value: serde_json::Map<String, Value> = PERCENTILES
        .iter()
        .map(|(name, quantile)| {
            (
                (*name).to_owned(),
                json!(ms(latencies.value_at_quantile(*quantile))),
            )
        })
        .collect();
    value.insert("max".into(), json!(ms(latencies.max())));
    Value::Object(value)
}

pub(crate) fn latency_text(latencies: &Histogram<u64>) -> String {
    let time = |us| ms(Duration::from_micros(us));
    let parts = PERCENTILES
        .iter()
        .map(|(name, quantile)| format!("{name} {}", time(latencies.value_at_quantile(*quantile))));
    let parts: Vec<_> = parts
        .chain([format!("max {}", time(latencies.max()))])
        .collect();
    parts.join(", ")
}

/// A text of the response, or "unknown".
fn text(value: &Value) -> &str {
    value.as_str().unwrap_or("unknown")
}
