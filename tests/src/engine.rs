//! The servers that the suites run on.

use std::collections::BTreeMap;
use std::process::Command;
use std::sync::Mutex;

use crate::resp::RawClient;
use crate::server::Server;

/// A server program, named in `TAGCACHE_ENGINES`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Engine {
    /// The name in failure messages, such as `valkey-8.0`.
    pub name: String,
    /// The program and, after spaces, its first arguments.
    pub command: String,
}

impl Engine {
    /// The engine that tests run on when they do not cover differences between servers.
    ///
    /// # Panics
    /// Panics if `TAGCACHE_ENGINES` is set but names no engine.
    pub fn default_engine() -> Self {
        engines()
            .into_iter()
            .next()
            .expect("TAGCACHE_ENGINES names at least one engine")
    }

    /// Major and minor version, as the program reports it.
    ///
    /// # Panics
    /// Panics if the program cannot be run or reports no version.
    pub fn version(&self) -> (u32, u32) {
        let text = self.version_text();
        let numbers = text
            .split("v=")
            .nth(1)
            .expect("`--version` answers v=MAJOR.MINOR.PATCH");
        let mut parts = numbers.split(|c: char| !c.is_ascii_digit());
        let mut next = || {
            parts
                .next()
                .and_then(|p| p.parse().ok())
                .expect("a version number")
        };
        (next(), next())
    }

    /// Whether it calls itself Valkey.
    ///
    /// # Panics
    /// Panics if the program cannot be run.
    pub fn is_valkey(&self) -> bool {
        self.version_text().starts_with("Valkey")
    }

    /// Whether it can evict the keys that were not modified for the longest time (`allkeys-lrm`, `volatile-lrm`).
    ///
    /// # Panics
    /// Panics if the program cannot be run.
    pub fn evicts_by_modification(&self) -> bool {
        !self.is_valkey() && self.version() >= (8, 6)
    }

    /// The program with its first arguments, ready for more.
    pub(crate) fn to_command(&self) -> Command {
        let mut words = self.command.split_whitespace();
        let mut command = Command::new(words.next().unwrap_or("redis-server"));
        command.args(words);
        command
    }

    /// The version text, which each program is run for once.
    fn version_text(&self) -> String {
        static KNOWN: Mutex<BTreeMap<String, String>> = Mutex::new(BTreeMap::new());
        let mut known = KNOWN.lock().expect("nothing panics while it is held");
        let text = known.entry(self.command.clone());
        text.or_insert_with(|| self.ask_version()).clone()
    }

    fn ask_version(&self) -> String {
        let output = self.to_command().arg("--version").output();
        let output = output
            .unwrap_or_else(|e| panic!("cannot run engine {} ({}): {e}", self.name, self.command));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }
}

/// The engines of `TAGCACHE_ENGINES`, in its order.
///
/// # Panics
/// Panics if a part of that variable is not `NAME=COMMAND`.
pub fn engines() -> Vec<Engine> {
    let list = std::env::var("TAGCACHE_ENGINES").unwrap_or_default();
    let list = if list.trim().is_empty() {
        "redis-7.0=redis-server".to_owned()
    } else {
        list
    };
    let parts = list
        .split(['\n', ';'])
        .map(str::trim)
        .filter(|part| !part.is_empty());
    parts
        .map(|part| {
            let (name, command) = part
                .split_once('=')
                .unwrap_or_else(|| panic!("TAGCACHE_ENGINES: {part:?} is not NAME=COMMAND"));
            Engine {
                name: name.trim().to_owned(),
                command: command.trim().to_owned(),
            }
        })
        .collect()
}

/// Runs a test on the first engine, or on each when `TAGCACHE_ALL_ENGINES=1`.
pub fn for_each_engine(test: impl FnMut(&Engine)) {
    let all = std::env::var("TAGCACHE_ALL_ENGINES").is_ok_and(|v| v == "1");
    if all {
        run_on(&engines(), test);
    } else {
        run_on(&[Engine::default_engine()], test);
    }
}

/// Runs a test under RESP2 and again under RESP3, on a fresh server each time.
pub fn on_both_protocols(test: impl Fn(&Server, &mut RawClient)) {
    for_each_engine(|engine| {
        let server = Server::builder().engine(engine).start();
        test(&server, &mut server.raw());
        let server = Server::builder().engine(engine).start();
        test(&server, &mut server.raw().resp3());
    });
}

/// Runs a test on every engine: for promises that servers keep in different ways.
pub fn for_all_engines(test: impl FnMut(&Engine)) {
    run_on(&engines(), test);
}

fn run_on(engines: &[Engine], mut test: impl FnMut(&Engine)) {
    for engine in engines {
        let guard = NameOnPanic(&engine.name);
        test(engine);
        drop(guard);
    }
}

struct NameOnPanic<'a>(&'a str);

impl Drop for NameOnPanic<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("^ failed on engine {}", self.0);
        }
    }
}
