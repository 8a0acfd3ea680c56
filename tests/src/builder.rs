//! The settings with which a server is started.

use std::path::{Path, PathBuf};

use crate::engine::Engine;
use crate::process::{TempDir, free_port, spawn};
use crate::server::Server;

/// The module under test.
pub fn module_path() -> PathBuf {
    let default = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/release/tagcache.so");
    std::env::var_os("TAGCACHE_MODULE").map_or_else(default, PathBuf::from)
}

/// The module that panics on demand, if `TAGCACHE_MODULE_PANIC` names one.
pub fn panic_module_path() -> Option<PathBuf> {
    std::env::var_os("TAGCACHE_MODULE_PANIC").map(PathBuf::from)
}

/// The settings with which a [`Server`] is started.
#[derive(Clone, Debug)]
pub struct ServerBuilder {
    pub(crate) engine: Engine,
    pub(crate) module: Option<PathBuf>,
    pub(crate) module_args: Vec<String>,
    pub(crate) file: Option<String>,
    pub(crate) rdb: Option<PathBuf>,
    pub(crate) args: Vec<(String, Vec<String>)>,
    pub(crate) environment: Vec<(String, PathBuf)>,
    pub(crate) complaints: Complaints,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Complaints {
    Fail,
    Expected,
}

impl ServerBuilder {
    pub(crate) fn new() -> Self {
        let builder = Self {
            engine: Engine::default_engine(),
            module: Some(module_path()),
            module_args: Vec::new(),
            file: None,
            rdb: None,
            args: Vec::new(),
            environment: Vec::new(),
            complaints: Complaints::Fail,
        };
        builder
            .arg("--bind", "127.0.0.1")
            .arg("--save", "")
            .arg("--appendonly", "no")
            .arg("--logfile", "")
            .arg("--daemonize", "no")
            // Without these, a server that shuts down waits for replicas, and a full resync waits for more of them.
            .arg("--shutdown-timeout", "0")
            .arg("--repl-diskless-sync-delay", "0")
            .arg("--enable-debug-command", "yes")
    }

    /// Runs on this engine instead of the default one.
    #[must_use]
    pub fn engine(mut self, engine: &Engine) -> Self {
        self.engine = engine.clone();
        self
    }

    /// Arguments of the module, as `loadmodule` takes them.
    #[must_use]
    pub fn module_args(mut self, args: &[&str]) -> Self {
        self.module_args
            .extend(args.iter().map(|&arg| arg.to_owned()));
        self
    }

    /// A configuration line, such as `.arg("--maxmemory", "10mb")`; replaces an earlier one of that name.
    #[must_use]
    pub fn arg(mut self, name: &str, value: &str) -> Self {
        self.args.retain(|(known, _)| known != name);
        self.args.push((name.to_owned(), vec![value.to_owned()]));
        self
    }

    /// A configuration line of several words, such as `.args("--save", &["60", "1"])`.
    #[must_use]
    pub fn args(mut self, name: &str, values: &[&str]) -> Self {
        self.args.retain(|(known, _)| known != name);
        self.args.push((
            name.to_owned(),
            values.iter().map(|&v| v.to_owned()).collect(),
        ));
        self
    }

    /// An environment variable of its process.
    #[must_use]
    pub fn environment(mut self, name: &str, path: impl Into<PathBuf>) -> Self {
        self.environment.push((name.to_owned(), path.into()));
        self
    }

    /// Starts as a replica of `primary` that stops when a command from it fails.
    #[must_use]
    pub fn replica_of(self, primary: &Server) -> Self {
        self.args("--replicaof", &["127.0.0.1", &primary.port().to_string()])
            .arg("--propagation-error-behavior", "panic")
    }

    /// Starts from a configuration file with these lines, which also loads the module, so that CONFIG REWRITE has
    /// a file to write to. A restart reads the file as it is then.
    #[must_use]
    pub fn config_file(mut self, lines: &str) -> Self {
        self.file = Some(lines.to_owned());
        self
    }

    /// Starts with the dataset of this RDB file, which is copied.
    #[must_use]
    pub fn rdb(mut self, path: impl Into<PathBuf>) -> Self {
        self.rdb = Some(path.into());
        self
    }

    /// Loads no module.
    #[must_use]
    pub fn without_module(mut self) -> Self {
        self.module = None;
        self
    }

    /// Loads this module instead of the one under test.
    #[must_use]
    pub fn module(mut self, path: impl Into<PathBuf>) -> Self {
        self.module = Some(path.into());
        self
    }

    /// Does not fail the test when the module logs a warning or panics.
    #[must_use]
    pub fn expect_complaints(mut self) -> Self {
        self.complaints = Complaints::Expected;
        self
    }

    /// Starts it and waits until it replies.
    ///
    /// # Panics
    /// Panics if the server does not; the message ends with its log.
    pub fn start(self) -> Server {
        self.try_start()
            .unwrap_or_else(|log| panic!("the server does not start:\n{log}"))
    }

    /// Starts it and waits until it replies.
    ///
    /// # Errors
    /// Returns its log if the server ends instead.
    ///
    /// # Panics
    /// Panics if the server neither replies nor ends.
    pub fn try_start(mut self) -> Result<Server, String> {
        let dir = TempDir::new();
        if let Some(rdb) = &self.rdb {
            std::fs::copy(rdb, dir.path().join("dump.rdb"))
                .unwrap_or_else(|e| panic!("cannot copy {}: {e}", rdb.display()));
        }
        let mut attempts = 0;
        loop {
            let port = free_port();
            attempts += 1;
            match spawn(&self, port, dir.path()) {
                Ok(child) => return Ok(Server::new(self, child, port, dir)),
                // Another process took the port between our check and the server's start: perhaps that of the cluster
                // bus.
                Err(log) if attempts < 5 && log.contains("Address already in use") => {
                    const BUS: &str = "--cluster-port";
                    if self.args.iter().any(|(name, _)| name == BUS) {
                        self = self.arg(BUS, &free_port().to_string());
                    }
                }
                Err(log) => return Err(log),
            }
        }
    }
}
