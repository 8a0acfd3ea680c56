//! `make run`: starts a server with the module, caches this machine's package database in it, one entry a
//! package, tagged by section, priority and maintainer, and shows what the commands answer.
//!
//! ```text
//! packages [--exit] [--input FILE] [--port PORT]
//! ```
//! `--exit` ends when everything is shown (`make demo`), with a status that says whether every figure was the
//! one expected. `--input` reads another file of that format instead of `/var/lib/dpkg/status`.
//!
//! Environment: `TAGCACHE_MODULE`, the module to load (default `target/release/tagcache.so`);
//! `TAGCACHE_SERVER`, the server program (default `redis-server`).
#![forbid(unsafe_code)]

mod dpkg;
#[path = "../../src/bin/tagcache/process.rs"]
mod server;
mod tour;

use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use server::Server;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

/// The machine's own list of packages, on Debian and what comes from it.
const DPKG_STATUS: &str = "/var/lib/dpkg/status";

fn main() -> ExitCode {
    match run() {
        Ok(Outcome::AsExpected) => ExitCode::SUCCESS,
        Ok(Outcome::Differs) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("packages: {error}");
            ExitCode::FAILURE
        }
    }
}

enum Outcome {
    AsExpected,
    Differs,
}

fn run() -> Result<Outcome, Box<dyn Error>> {
    // Before the server starts: from here on a signal ends the demo in order, and takes the server along.
    let ended = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        signal_hook::flag::register(signal, Arc::clone(&ended))?;
    }

    let options = Options::parse(std::env::args().skip(1))?;
    let input = options.input.unwrap_or_else(default_input);
    let text = std::fs::read(&input).map_err(|e| format!("{}: {e}", input.display()))?;
    let packages = dpkg::parse(&String::from_utf8_lossy(&text));
    if packages.is_empty() {
        return Err(format!("{}: no package in it", input.display()).into());
    }

    let mut server = Server::start(&module_path(), options.port, &ended)?;
    println!("{} with {}", server.version()?, module_path().display());
    println!(
        "on 127.0.0.1:{}, directory {}\n",
        server.port(),
        server.dir().display()
    );

    let differences = tour::show(&mut server.connection()?, &packages, &input)?;
    for difference in &differences {
        println!("NOT AS EXPECTED: {difference}");
    }

    if options.then == Then::Stay {
        tour::suggest(server.port(), &packages);
        while !ended.load(Ordering::Relaxed) {
            if let Some(status) = server.exited()? {
                return Err(
                    format!("the server ended by itself ({status}):\n{}", server.log()).into(),
                );
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        println!();
    }
    server.stop()?;
    println!("Server stopped, its directory removed.");
    Ok(if differences.is_empty() {
        Outcome::AsExpected
    } else {
        Outcome::Differs
    })
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Then {
    Stay,
    Exit,
}

struct Options {
    then: Then,
    input: Option<PathBuf>,
    port: Option<u16>,
}

impl Options {
    fn parse(mut args: impl Iterator<Item = String>) -> Result<Self, String> {
        let mut options = Self {
            then: Then::Stay,
            input: None,
            port: None,
        };
        while let Some(arg) = args.next() {
            let mut value = || args.next().ok_or(format!("{arg} needs a value"));
            match arg.as_str() {
                "--exit" => options.then = Then::Exit,
                "--input" => options.input = Some(value()?.into()),
                "--port" => {
                    let port = value()?;
                    options.port = Some(
                        port.parse()
                            .map_err(|_| format!("--port {port}: not a port"))?,
                    );
                }
                _ => {
                    return Err(format!(
                        "unknown argument {arg}; [--exit] [--input FILE] [--port PORT]"
                    ));
                }
            }
        }
        Ok(options)
    }
}

fn default_input() -> PathBuf {
    if Path::new(DPKG_STATUS).exists() {
        DPKG_STATUS.into()
    } else {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/data/packages")
    }
}

fn module_path() -> PathBuf {
    let built = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/release/tagcache.so");
    let path = std::env::var_os("TAGCACHE_MODULE").map_or_else(built, PathBuf::from);
    // The server changes into its own directory before it loads the module.
    path.canonicalize().unwrap_or(path)
}
