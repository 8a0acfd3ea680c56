//! `tagcache watch`: shows the figures repeatedly.

use std::fmt::Write as _;
use std::io::Write as _;
use std::time::Duration;

use console::{Term, style, truncate_str};
use serde_json::json;
use tagcache_admin::memory::{
    MemoryMonitor, Server, ServerMemory, ServerReading, Snapshot, Status, Subject,
};

use crate::args::Watch;
use crate::connect::{named, without_cache};
use crate::look::stats_text;
use crate::output::Failure;
use crate::text::{maybe_bytes, name, percent, table};

pub(crate) fn run(args: &Watch, json: bool) -> Result<(), Failure> {
    let server = named(&args.at)?;
    let source = ServerMemory::new(server.clone(), Subject::Server);
    let monitor = MemoryMonitor::builder(source)
        // Samples are taken below, one per output.
        .interval(Duration::from_secs(3600))
        .samples(600)
        .window(Duration::from_secs(60))
        .start()
        .map_err(|error| Failure::Usage(error.to_string()))?;
    let term = Term::stdout();
    let mut looks = 0;
    loop {
        let snapshot = monitor.sample_now();
        looks += 1;
        if json {
            writeln!(std::io::stdout(), "{}", line(&server, &snapshot))?;
        } else {
            let screen = screen(&server, &snapshot, args);
            if term.is_term() {
                term.clear_screen()?;
                term.write_str(&fitted(&screen, term.size()))?;
            } else {
                term.write_str(&screen)?;
            }
        }
        if args.count.is_some_and(|count| looks >= count) {
            return failure(&server, &snapshot).map_or(Ok(()), Err);
        }
        std::thread::sleep(args.interval);
    }
}

/// The reason why a snapshot lacks the figures of the server or of its cache.
fn failure(server: &Server, snapshot: &Snapshot) -> Option<Failure> {
    match &snapshot.latest.server {
        ServerReading::Unreachable(why) => Some(Failure::Server(format!("the server: {why}"))),
        ServerReading::Up(figures) if figures.cache.is_none() => Some(without_cache(server)),
        ServerReading::None | ServerReading::Up(_) => None,
    }
}

/// The part that fits a terminal of this many rows and columns: a wrapped line would make the screen scroll.
fn fitted(screen: &str, (rows, columns): (u16, u16)) -> String {
    let lines: Vec<_> = screen
        .lines()
        // The last row is where the cursor stays.
        .take(usize::from(rows).saturating_sub(1))
        .map(|line| truncate_str(line, usize::from(columns), "…"))
        .collect();
    lines.join("\n") + "\n"
}

fn line(server: &Server, snapshot: &Snapshot) -> serde_json::Value {
    json!({
        "error": failure(server, snapshot).map(|failure| failure.text().to_owned()),
        "at": humantime::format_rfc3339_millis(snapshot.latest.at).to_string(),
        "status": snapshot.status,
        "heapPercent": snapshot.heap_percent(),
        "growth": snapshot.growth,
        "rates": snapshot.rates,
        "server": snapshot.latest.server.figures(),
    })
}

fn screen(server: &Server, snapshot: &Snapshot, args: &Watch) -> String {
    let status = match snapshot.status {
        Status::Healthy => style("HEALTHY").green(),
        Status::Warning => style("WARNING").yellow(),
        Status::Critical => style("CRITICAL").red(),
    };
    let time = humantime::format_rfc3339_seconds(snapshot.latest.at);
    let every = humantime::format_duration(args.interval);
    let mut text = format!("tagcache  {}  {time}  every {every}\n\n", status.bold());
    let figures = match &snapshot.latest.server {
        ServerReading::Up(figures) => figures,
        ServerReading::Unreachable(error) => {
            return format!("{text}{} {error}\n", style("Disconnected:").red());
        }
        ServerReading::None => return text,
    };
    let memory = &snapshot.latest.memory;
    let per_minute = |n: Option<f64>| n.map_or_else(crate::text::unknown, |n| format!("{n:.1}"));
    let growth = snapshot.growth.map_or_else(crate::text::unknown, |growth| {
        format!("{:+.2} MB/min", growth.mb_per_minute)
    });
    let _ = write!(
        text,
        "heap {} of {} ({}), {growth}; over the last minute hit rate {}, {} invalidations/min\n\n{}",
        maybe_bytes(memory.heap_used),
        maybe_bytes(memory.heap_total(snapshot.heap_total)),
        percent(snapshot.heap_percent()),
        percent(snapshot.rates.hit_rate),
        per_minute(snapshot.rates.invalidations_per_minute),
        stats_text(figures),
    );
    if figures.cache.is_none() {
        let why = without_cache(server).text().to_owned();
        let _ = writeln!(
            text,
            "\n{} {}",
            style("No cache:").red(),
            name(why.as_bytes())
        );
        return text;
    }
    let top: Result<Vec<(Vec<u8>, u64)>, _> = server.command("CACHE.TOP", &[b"10"]);
    if let Ok(top) = top
        && !top.is_empty()
    {
        let rows: Vec<_> = top
            .iter()
            .map(|(key, hits)| vec![name(key), hits.to_string()])
            .collect();
        let _ = write!(text, "\n{}", table(&["Top keys", "Hits"], &rows));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn screen_is_cut_to_the_size_of_the_terminal() {
        let screen = format!(
            "{}\n\nthird\nfourth\n",
            style("A long line").green().force_styling(true)
        );
        let shown = fitted(&screen, (3, 6));
        assert_eq!(console::strip_ansi_codes(&shown), "A lon…\n\n");
        assert_eq!(fitted("a\nb\n", (24, 80)), "a\nb\n");
        assert_eq!(fitted("a\n", (0, 0)), "\n");
    }
}
