//! `tagcache`: starts, watches, tries and controls a cache with tags. `tagcache --help` lists the commands;
//! `docs/src/program.md` is the reference.
#![forbid(unsafe_code)]

mod alerts;
mod args;
mod change;
mod connect;
mod doctor;
mod endpoint;
mod load;
mod look;
mod output;
mod process;
mod serve;
mod signals;
mod soak;
mod text;
mod token;
mod tour;
mod traffic;
mod up;
mod verify;
mod watch;

use std::process::ExitCode;

use clap::Parser as _;

use args::{Args, Command};
use output::Failure;

#[cfg(feature = "jemalloc")]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    let args = match Args::try_parse() {
        Ok(args) => args,
        // Wrong arguments are reported as every other error. Help and version are no errors.
        Err(error) if error.use_stderr() && std::env::args_os().any(|arg| arg == "--json") => {
            return ended(&Failure::Usage(error.to_string()), true);
        }
        Err(error) => error.exit(),
    };
    match run(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => ended(&failure, args.json),
    }
}

fn ended(failure: &Failure, json: bool) -> ExitCode {
    failure.print(json);
    ExitCode::from(failure.code())
}

fn run(args: &Args) -> Result<(), Failure> {
    match &args.command {
        Command::Up(up) => up::run(up, args.json),
        Command::Serve(serve) => serve::run(serve, args.json),
        Command::Stats(at) => look::stats(at, args.json),
        Command::Top(top) => look::top(top, args.json),
        Command::Tags(tags) => look::tags(tags, args.json),
        Command::Inspect(inspect) => look::inspect(inspect, args.json),
        Command::Invalidate(invalidate) => change::invalidate(invalidate, args.json),
        Command::Flush(flush) => change::flush(flush, args.json),
        Command::Doctor(doctor) => doctor::run(doctor, args.json),
        Command::Watch(watch) => watch::run(watch, args.json),
        Command::LoadTest(load) => load::run(load, args.json),
        Command::Soak(soak) => soak::run(soak, args.json),
        Command::Verify(verify) => verify::run(verify, args.json),
        Command::Alerts(alerts) => alerts::run(alerts, args.json),
        Command::Completions { shell } => output::show(false, &serde_json::Value::Null, || {
            args::completions(*shell)
        }),
        Command::Man { directory } => Ok(args::manual(directory)?),
    }
}
