//! A server for one test: free port, own directory, removed when dropped.

use std::path::Path;
use std::process::{Child, Command};

use crate::builder::{Complaints, ServerBuilder};
use crate::engine::Engine;
use crate::process::{TempDir, complaints, end, read_log, spawn, tail};
use crate::resp::RawClient;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Running,
    /// Ended by the test.
    Ended,
}

/// A running server, ended and its directory removed when dropped.
#[derive(Debug)]
pub struct Server {
    builder: ServerBuilder,
    child: Child,
    port: u16,
    dir: TempDir,
    state: State,
}

impl Server {
    pub(crate) fn new(builder: ServerBuilder, child: Child, port: u16, dir: TempDir) -> Self {
        Self {
            builder,
            child,
            port,
            dir,
            state: State::Running,
        }
    }

    /// The default engine with the module under test.
    ///
    /// # Panics
    /// Panics if the server does not start.
    pub fn start() -> Self {
        Self::builder().start()
    }

    /// A server to be configured first.
    pub fn builder() -> ServerBuilder {
        ServerBuilder::new()
    }

    /// The port on which it listens on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The id of its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Its working directory, where RDB and AOF files go.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The engine that it runs on.
    pub fn engine(&self) -> &Engine {
        &self.builder.engine
    }

    /// A `redis-rs` connection that speaks RESP2.
    ///
    /// # Panics
    /// Panics if the server cannot connect.
    pub fn connection(&self) -> redis::Connection {
        self.connect("")
    }

    /// A `redis-rs` connection that speaks RESP3.
    ///
    /// # Panics
    /// Panics if the server cannot connect.
    pub fn connection_resp3(&self) -> redis::Connection {
        self.connect("?protocol=resp3")
    }

    /// A connection that shows replies as they are, RESP2 until [`RawClient::resp3`].
    ///
    /// # Panics
    /// Panics if the server cannot connect.
    pub fn raw(&self) -> RawClient {
        RawClient::connect(self.port)
            .unwrap_or_else(|e| panic!("no connection: {e}\n{}", self.log_tail()))
    }

    /// The whole log since the first start.
    pub fn log(&self) -> String {
        read_log(self.dir.path())
    }

    /// The end of the log.
    pub fn log_tail(&self) -> String {
        tail(&self.log())
    }

    /// Whether its process still runs.
    ///
    /// # Panics
    /// Panics if the operating system does not report it.
    pub fn is_alive(&mut self) -> bool {
        self.child
            .try_wait()
            .expect("the state of a child of ours")
            .is_none()
    }

    /// Ends it as a power cut would.
    ///
    /// # Panics
    /// Panics if the server had ended before.
    pub fn kill_9(&mut self) {
        assert!(
            self.is_alive(),
            "the server died before it was killed:\n{}",
            self.log_tail()
        );
        self.child.kill().expect("a child of ours can be killed");
        self.child.wait().expect("a killed child ends");
        self.state = State::Ended;
    }

    /// Notes that its process ended, as the test intended.
    ///
    /// # Panics
    /// Panics if the server does not end.
    pub fn died(&mut self) {
        self.child.wait().expect("a child of ours");
        self.state = State::Ended;
    }

    /// Ends it in an orderly way that saves nothing (an AOF is complete all the same).
    ///
    /// # Panics
    /// Panics if the server had ended before or does not end in time.
    pub fn stop(&mut self) {
        assert!(
            self.is_alive(),
            "the server died before it was stopped:\n{}",
            self.log_tail()
        );
        self.state = State::Ended;
        assert!(
            end(&mut self.child, self.port),
            "the server did not shut down:\n{}",
            self.log_tail()
        );
    }

    /// Starts it again on its port and directory, after stopping it if it still runs.
    ///
    /// # Panics
    /// Panics if the server does not start; the message ends with its log.
    pub fn restart(&mut self) {
        if self.state == State::Running {
            self.stop();
        }
        let spawned = spawn(&self.builder, self.port, self.dir.path());
        self.child =
            spawned.unwrap_or_else(|log| panic!("the server does not start again:\n{log}"));
        self.state = State::Running;
    }

    /// Starts it again with this module instead of its own.
    ///
    /// # Panics
    /// Panics if the server does not start; the message ends with its log.
    pub fn restart_with(&mut self, module: &Path) {
        self.builder = self.builder.clone().module(module);
        self.restart();
    }

    /// Suspends its process until [`Self::resume`].
    ///
    /// # Panics
    /// Panics if the signal cannot be sent.
    pub fn pause(&self) {
        self.signal("-STOP");
    }

    /// Continues its process after [`Self::pause`].
    ///
    /// # Panics
    /// Panics if the signal cannot be sent.
    pub fn resume(&self) {
        self.signal("-CONT");
    }

    fn signal(&self, signal: &str) {
        let sent = Command::new("kill")
            .args([signal, &self.pid().to_string()])
            .status();
        assert!(
            sent.is_ok_and(|status| status.success()),
            "kill {signal} of a child of ours"
        );
    }

    fn connect(&self, query: &str) -> redis::Connection {
        let client = redis::Client::open(format!("redis://127.0.0.1:{}/{query}", self.port));
        let connection = client.expect("an address of this form").get_connection();
        connection.unwrap_or_else(|e| panic!("no connection: {e}\n{}", self.log_tail()))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let name = self.engine().name.clone();
        if std::thread::panicking() && self.state == State::Running {
            // A test that fails between pause and resume leaves a suspended process.
            let _ = Command::new("kill")
                .args(["-CONT", &self.pid().to_string()])
                .status();
        }
        let died = self.state == State::Running && !self.is_alive();
        if self.state == State::Running && std::env::var_os("TAGCACHE_EMPTY_AT_END").is_some() {
            let client = RawClient::connect(self.port);
            let _ = client.and_then(|mut client| client.try_call(&["FLUSHALL", "SYNC"]));
        }
        let ended = self.state == State::Ended || died || end(&mut self.child, self.port);
        let complaints = match self.builder.complaints {
            Complaints::Fail => complaints(&self.log()),
            Complaints::Expected => String::new(),
        };
        if std::thread::panicking() {
            eprintln!(
                "---- log of {name} on port {} ----\n{}",
                self.port,
                self.log_tail()
            );
            return;
        }
        assert!(!died, "{name} died during the test:\n{}", self.log_tail());
        assert!(
            ended,
            "{name} had to be killed, it did not shut down:\n{}",
            self.log_tail()
        );
        assert!(
            complaints.is_empty(),
            "the module complained on {name}:\n{complaints}"
        );
    }
}
