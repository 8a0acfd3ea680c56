//! Commands that drop entries.

use std::io::{BufRead as _, IsTerminal as _};
use std::os::unix::ffi::OsStrExt as _;

use serde_json::json;

use crate::args::{Flush, Invalidate};
use crate::connect::{server, without_cache};
use crate::output::{Failure, note, show};

pub(crate) fn invalidate(args: &Invalidate, json: bool) -> Result<(), Failure> {
    let command = if args.soft {
        "CACHE.REVALIDATE"
    } else {
        "CACHE.INVALIDATE"
    };
    let tags: Vec<&[u8]> = args.tags.iter().map(|tag| tag.as_bytes()).collect();
    let dropped: u64 = server(&args.at)?.command(command, &tags)?;
    let done = if args.soft { "are stale" } else { "are gone" };
    show(json, &json!({"invalidated": dropped}), || {
        format!("{dropped} entries {done}\n")
    })
}

pub(crate) fn flush(args: &Flush, json: bool) -> Result<(), Failure> {
    let server = server(&args.at)?;
    if !args.yes {
        let figures = server.figures()?;
        let Some(cache) = figures.cache else {
            return Err(without_cache(&server));
        };
        let entries = cache.entries;
        if !std::io::stdin().is_terminal() {
            return Err(Failure::Usage(format!(
                "this drops {entries} entries: without a terminal to ask at, give --yes"
            )));
        }
        note(&format!("Drop all {entries} entries? [y/N] "));
        let mut answer = String::new();
        std::io::stdin().lock().read_line(&mut answer)?;
        if !matches!(answer.trim(), "y" | "Y" | "yes") {
            return Err(Failure::Because("nothing was dropped".into()));
        }
    }
    let dropped: u64 = server.command("CACHE.FLUSH", &[])?;
    show(json, &json!({"flushed": dropped}), || {
        format!("{dropped} entries are gone\n")
    })
}
