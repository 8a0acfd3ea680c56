//! Measures the module against other solutions: native commands, a Lua script and a client that keep tag sets, a lock
//! that callers poll.
//!
//! All variants of a comparison run on one server in one run, in samples that alternate. The compared figure is the
//! ratio of two samples of the same round: a shared machine is seldom equally fast for a minute, but mostly for a
//! second. Figures are medians over the rounds. Nothing is asserted about them.
#![forbid(unsafe_code)]

mod clients;
mod compare;
mod fork;
mod guard;
mod invalidate;
mod load;
mod memory;
mod native;
mod options;
mod refill;
mod stall;
mod stampede;
mod sweep;
mod table;
mod targets;
mod throughput;
mod wire;
mod workload;

use std::process::ExitCode;

use options::{Options, Part};
use tagcache_tests::{Engine, RawClient, Server, call};
use targets::Targets;

fn main() -> ExitCode {
    let mut args = std::env::args().skip(1).peekable();
    if args.next_if(|first| first == "guard").is_some() {
        return guard(args);
    }
    if args.next_if(|first| first == "compare").is_some() {
        return compare(args);
    }
    let options = match Options::parse(args) {
        Ok(Some(options)) => options,
        Ok(None) => {
            println!("{}", options::USAGE);
            return ExitCode::SUCCESS;
        }
        Err(error) => {
            eprintln!("bench: {error}\n{}", options::USAGE);
            return ExitCode::FAILURE;
        }
    };

    let server = start(&options.engine);
    print_conditions(&options, &mut server.raw());
    let mut targets = Targets::default();
    for part in &options.parts {
        let result = match part {
            Part::Get => throughput::get(&options, &server, &mut targets),
            Part::Set => throughput::set(&options, &server, &mut targets),
            Part::Fetch => throughput::fetch(&options, &server, &mut targets),
            Part::Stampede => {
                stampede::run(&options, &server, &mut targets);
                Ok(())
            }
            Part::Invalidate => invalidate::run(&options, &server, &mut targets),
            Part::TagTop => sweep::tagtop(&options, &server, &mut targets),
            Part::Where => sweep::invalidatewhere(&options, &server, &mut targets),
            Part::Native => native::run(&options, &mut targets),
            Part::Memory => memory::run(&options, &server, &mut targets),
            Part::Refill => refill::run(&options, &server, &mut targets),
            Part::Fork => fork::run(&options, &server, &mut targets),
            Part::Load => load::run(&options, &mut targets),
            Part::Clients => clients::run(&options),
            Part::Huge => sweep::huge(&options, &server),
        };
        if let Err(error) = result {
            eprintln!("bench: {part:?}: {error}");
            return ExitCode::FAILURE;
        }
    }
    targets.print();
    ExitCode::SUCCESS
}

fn start(engine: &Engine) -> Server {
    // A PING must not wait for a log that nobody reads. While a script runs for more than five seconds, other clients
    // would get an error: here they wait, as they do before that.
    Server::builder()
        .engine(engine)
        .arg("--loglevel", "warning")
        .arg("--lua-time-limit", "0")
        .start()
}

fn compare(args: impl Iterator<Item = String>) -> ExitCode {
    let result = compare::Options::parse(args).and_then(|options| {
        let Some(options) = options else {
            println!("{}", compare::USAGE);
            return Ok(());
        };
        let server = start(&options.engine);
        compare::run(&options, &server).map_err(|error| error.to_string())
    });
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("compare: {error}\n{}", compare::USAGE);
            ExitCode::FAILURE
        }
    }
}

fn guard(args: impl Iterator<Item = String>) -> ExitCode {
    let result = options::parse_guard(args).and_then(|guarded| {
        let Some((engine, update)) = guarded else {
            println!("{}", guard::USAGE);
            return Ok(Vec::new());
        };
        guard::run(&engine, update).map_err(|error| error.to_string())
    });
    match result {
        Ok(dearer) if dearer.is_empty() => ExitCode::SUCCESS,
        Ok(dearer) => {
            eprintln!(
                "bench-guard: dearer than the baseline: {}",
                dearer.join("; ")
            );
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("bench-guard: {error}");
            ExitCode::FAILURE
        }
    }
}

/// The conditions that a reader must know to compare the figures with others.
fn print_conditions(options: &Options, client: &mut RawClient) {
    println!("{}", conditions(client));
    println!(
        "{} keys of 13 bytes, values of 100 bytes, a TTL on all; seed {}",
        options.keys, options.seed
    );
    println!();
}

/// The server, its allocator, and the load of the machine.
fn conditions(client: &mut RawClient) -> String {
    let info = call!(client, "INFO", "everything").text();
    let field = |name: &str| {
        let value = info
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        value.unwrap_or("?").trim().to_owned()
    };
    let version = match field("valkey_version").as_str() {
        "?" => format!("Redis {}", field("redis_version")),
        valkey => format!("Valkey {valkey}"),
    };
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load = load.split(' ').next().unwrap_or("?");
    let mut text = format!(
        "{version}, {}, no persistence; client and server on {cores} cores, load average before {load}",
        field("mem_allocator")
    );
    if load.parse().is_ok_and(|load: f64| load > 0.5) {
        text += "\nSomething else was running: on so few cores the times say little.";
    }
    text
}
