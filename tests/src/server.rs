//! A server of one's own: free port, own directory, gone when dropped.

use std::fs::File;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use crate::engine::Engine;
use crate::resp::{RawClient, Reply};
use crate::wait::DEADLINE;

/// The module under test.
pub fn module_path() -> PathBuf {
    let default = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/release/tagcache.so");
    std::env::var_os("TAGCACHE_MODULE").map_or_else(default, PathBuf::from)
}

/// The module that panics on demand, if `TAGCACHE_MODULE_PANIC` names one.
pub fn panic_module_path() -> Option<PathBuf> {
    std::env::var_os("TAGCACHE_MODULE_PANIC").map(PathBuf::from)
}

/// How a [`Server`] is to be started.
#[derive(Clone, Debug)]
pub struct ServerBuilder {
    engine: Engine,
    module: Option<PathBuf>,
    module_args: Vec<String>,
    file: Option<String>,
    args: Vec<(String, Vec<String>)>,
    panics: Panics,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Panics {
    Fail,
    Expected,
}

impl ServerBuilder {
    fn new() -> Self {
        let builder = Self {
            engine: Engine::default_engine(),
            module: Some(module_path()),
            module_args: Vec::new(),
            file: None,
            args: Vec::new(),
            panics: Panics::Fail,
        };
        builder
            .arg("--bind", "127.0.0.1")
            .arg("--save", "")
            .arg("--appendonly", "no")
            .arg("--logfile", "")
            .arg("--daemonize", "no")
            // Without these a server at its end waits for replicas, and a full resync for more of them.
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

    /// Does not fail the test when a panic stands in the log.
    #[must_use]
    pub fn expect_panics(mut self) -> Self {
        self.panics = Panics::Expected;
        self
    }

    /// Starts it and waits until it answers.
    ///
    /// # Panics
    /// When it does not; the message ends with its log.
    pub fn start(self) -> Server {
        self.try_start()
            .unwrap_or_else(|log| panic!("the server does not start:\n{log}"))
    }

    /// Starts it and waits until it answers.
    ///
    /// # Errors
    /// When it ends instead: its log.
    ///
    /// # Panics
    /// When it neither answers nor ends.
    pub fn try_start(self) -> Result<Server, String> {
        let dir = TempDir::new();
        let mut attempts = 0;
        loop {
            let port = free_port();
            attempts += 1;
            match spawn(&self, port, &dir.0) {
                Ok(child) => {
                    return Ok(Server {
                        builder: self,
                        child,
                        port,
                        dir,
                        state: State::Running,
                    });
                }
                // Somebody else took the port between our look and the server's.
                Err(log) if attempts < 5 && log.contains("Address already in use") => {}
                Err(log) => return Err(log),
            }
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Running,
    /// Ended because the test wanted it.
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
    /// The default engine with the module under test.
    ///
    /// # Panics
    /// When it does not start.
    pub fn start() -> Self {
        Self::builder().start()
    }

    /// A server to be configured first.
    pub fn builder() -> ServerBuilder {
        ServerBuilder::new()
    }

    /// Where it listens on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Its working directory, where RDB and AOF files go.
    pub fn dir(&self) -> &Path {
        &self.dir.0
    }

    /// What it runs on.
    pub fn engine(&self) -> &Engine {
        &self.builder.engine
    }

    /// A `redis-rs` connection that speaks RESP2.
    ///
    /// # Panics
    /// When there is none to be had.
    pub fn connection(&self) -> redis::Connection {
        self.connect("")
    }

    /// A `redis-rs` connection that speaks RESP3.
    ///
    /// # Panics
    /// When there is none to be had.
    pub fn connection_resp3(&self) -> redis::Connection {
        self.connect("?protocol=resp3")
    }

    /// A connection that shows replies as they are, RESP2 until [`RawClient::resp3`].
    ///
    /// # Panics
    /// When there is none to be had.
    pub fn raw(&self) -> RawClient {
        RawClient::connect(self.port)
            .unwrap_or_else(|e| panic!("no connection: {e}\n{}", self.log_tail()))
    }

    /// The whole log since the first start.
    pub fn log(&self) -> String {
        read_log(&self.dir.0)
    }

    /// The end of the log.
    pub fn log_tail(&self) -> String {
        tail(&self.log())
    }

    /// Whether its process still runs.
    ///
    /// # Panics
    /// When the operating system does not say.
    pub fn is_alive(&mut self) -> bool {
        self.child
            .try_wait()
            .expect("the state of a child of ours")
            .is_none()
    }

    /// Ends it as a power cut would.
    ///
    /// # Panics
    /// When it had ended before.
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

    /// Ends it in an orderly way that saves nothing (an AOF is complete all the same).
    ///
    /// # Panics
    /// When it had ended before or does not end in time.
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
    /// When it does not start; the message ends with its log.
    pub fn restart(&mut self) {
        if self.state == State::Running {
            self.stop();
        }
        let spawned = spawn(&self.builder, self.port, &self.dir.0);
        self.child =
            spawned.unwrap_or_else(|log| panic!("the server does not start again:\n{log}"));
        self.state = State::Running;
    }

    /// Stops its process in its tracks, until [`Self::resume`].
    ///
    /// # Panics
    /// When the signal cannot be sent.
    pub fn pause(&self) {
        self.signal("-STOP");
    }

    /// Lets its process go on after [`Self::pause`].
    ///
    /// # Panics
    /// When the signal cannot be sent.
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
            // A test that fails between pause and resume leaves a process that would answer nothing.
            let _ = Command::new("kill")
                .args(["-CONT", &self.pid().to_string()])
                .status();
        }
        let died = self.state == State::Running && !self.is_alive();
        let ended = self.state == State::Ended || died || end(&mut self.child, self.port);
        let panicked = self.builder.panics == Panics::Fail && self.log().contains("panicked at");
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
            !panicked,
            "the module panicked on {name}:\n{}",
            self.log_tail()
        );
    }
}

/// Orderly shutdown, killed after a deadline; answers whether it was orderly.
fn end(child: &mut Child, port: u16) -> bool {
    if let Ok(mut client) = RawClient::connect(port) {
        client.set_read_timeout(Duration::from_secs(20));
        // No reply comes: the connection ends with the server.
        let _ = client.try_call(&["SHUTDOWN", "NOSAVE", "NOW", "FORCE"]);
    }
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(20) {
        if !matches!(child.try_wait(), Ok(None)) {
            return true;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    let _ = child.kill();
    let _ = child.wait();
    false
}

fn spawn(builder: &ServerBuilder, port: u16, dir: &Path) -> Result<Child, String> {
    let log = File::options()
        .create(true)
        .append(true)
        .open(log_path(dir))
        .expect("a log in our own directory");
    let log_start = log.metadata().map_or(0, |meta| meta.len());
    let module = builder.module.as_ref().map(|path| {
        path.canonicalize()
            .unwrap_or_else(|e| panic!("no module at {}: {e}", path.display()))
    });
    let mut command = builder.engine.to_command();
    if let Some(lines) = &builder.file {
        let path = dir.join("server.conf");
        if !path.exists() {
            let load = module.as_ref().map_or_else(String::new, |module| {
                format!(
                    "loadmodule {} {}\n",
                    module.display(),
                    builder.module_args.join(" ")
                )
            });
            std::fs::write(&path, format!("{load}{lines}\n")).expect("a file in our own directory");
        }
        command.arg(path);
    }
    command
        .args(["--port", &port.to_string()])
        .arg("--dir")
        .arg(dir);
    for (name, values) in &builder.args {
        command.arg(name).args(values);
    }
    if let (Some(module), None) = (&module, &builder.file) {
        command
            .arg("--loadmodule")
            .arg(module)
            .args(&builder.module_args);
    }
    let errors = log.try_clone().expect("a second handle to the log");
    command.stdin(Stdio::null()).stdout(log).stderr(errors);
    let name = &builder.engine.name;
    let mut child = command
        .spawn()
        .unwrap_or_else(|e| panic!("cannot run engine {name}: {e}"));
    let start = Instant::now();
    while !answers(port, child.id()) {
        if !matches!(child.try_wait(), Ok(None)) {
            let log = read_log(dir);
            return Err(log
                .get(log_start as usize..)
                .map_or_else(|| log.clone(), str::to_owned));
        }
        if start.elapsed() > DEADLINE * 2 {
            let _ = child.kill();
            let _ = child.wait();
            panic!("{name} does not answer:\n{}", tail(&read_log(dir)));
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    Ok(child)
}

/// Whether it is this child that answers on the port, with its data loaded.
fn answers(port: u16, pid: u32) -> bool {
    let Ok(mut client) = RawClient::connect(port) else {
        return false;
    };
    client.set_read_timeout(Duration::from_secs(10));
    let Ok(Reply::Bulk(info)) = client.try_call(&["INFO", "everything"]) else {
        return false;
    };
    let info = String::from_utf8_lossy(&info);
    info.lines().any(|l| l == format!("process_id:{pid}")) && info.lines().any(|l| l == "loading:0")
}

/// A loopback port that nobody listens on at this moment.
///
/// # Panics
/// When there is none.
pub fn free_port() -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a free loopback port");
    listener
        .local_addr()
        .expect("the address of our listener")
        .port()
}

fn log_path(dir: &Path) -> PathBuf {
    dir.join("server.log")
}

fn read_log(dir: &Path) -> String {
    let bytes = std::fs::read(log_path(dir)).unwrap_or_default();
    String::from_utf8_lossy(&bytes).into_owned()
}

fn tail(log: &str) -> String {
    let lines: Vec<&str> = log.lines().collect();
    // A crash report is long and its cause stands at its start.
    let first = lines
        .iter()
        .position(|l| l.contains("panicked at") || l.contains("BUG REPORT START"));
    let first = first
        .unwrap_or(lines.len())
        .saturating_sub(10)
        .min(lines.len().saturating_sub(80));
    let shown: Vec<&str> = lines[first..].iter().take(160).copied().collect();
    shown.join("\n")
}

#[derive(Debug)]
struct TempDir(PathBuf);

impl TempDir {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let dir =
            std::env::temp_dir().join(format!("tagcache-tests-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&dir).expect("a directory under the temporary one");
        Self(dir)
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
