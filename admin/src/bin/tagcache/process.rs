//! A server with the module on a loopback port, in a directory of its own, gone when dropped.

use std::error::Error;
use std::fs::{DirBuilder, File};
use std::io::ErrorKind;
use std::net::TcpListener;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::output::note;

const DEADLINE: Duration = Duration::from_secs(10);
/// Default port, if it is free.
const PORT: u16 = 7379;
/// Pause between checks of a server that is starting or ending.
const PAUSE: Duration = Duration::from_millis(10);

/// Lines of the log that show why a server did not start, or ended.
const TOLD: usize = 12;
/// Waits until the pipe to it is closed, then ends the server and removes its directory.
const GUARD: &str = r#"read -r _; kill -KILL "$1" 2>/dev/null; rm -rf -- "$2""#;

pub(crate) struct Server {
    child: Child,
    /// Ends the server if this program is killed and cannot do it itself.
    guard: Option<Child>,
    port: u16,
    dir: TempDir,
}

impl Server {
    /// Starts the server and waits until it replies; stops waiting when `ended` is set.
    pub(crate) fn start(
        module: &Path,
        port: Option<u16>,
        ended: &AtomicBool,
    ) -> Result<Self, Box<dyn Error>> {
        if !module.exists() {
            return Err(
                format!("no module at {}: `make build` builds it", module.display()).into(),
            );
        }
        loop {
            let dir = TempDir::new()?;
            let mut server = Self::spawn(module, port.map_or_else(free_port, Ok)?, dir)?;
            match server.wait_until_ready(ended) {
                // Another process took the port between our check and the server's start.
                Err(_) if port.is_none() && server.log().contains("Address already in use") => {}
                Err(error) => return Err(format!("{error}\n{}", server.end_of_log()).into()),
                Ok(()) => return Ok(server),
            }
        }
    }

    fn spawn(module: &Path, port: u16, dir: TempDir) -> Result<Self, Box<dyn Error>> {
        let program = std::env::var("TAGCACHE_SERVER").unwrap_or_else(|_| "redis-server".into());
        let log = File::create(dir.0.join("server.log"))?;
        let mut command = Command::new(&program);
        command
            .args([
                "--port",
                &port.to_string(),
                "--bind",
                "127.0.0.1",
                "--save",
                "",
                "--appendonly",
                "no",
            ])
            .arg("--dir")
            .arg(&dir.0)
            .arg("--loadmodule")
            .arg(module)
            .stdin(Stdio::null())
            .stderr(log.try_clone()?)
            .stdout(log)
            // Ctrl-C reaches every process of the terminal's group, but only this program may end the server, once.
            .process_group(0);
        let child = command.spawn().map_err(|e| {
            format!(
                "cannot run {program}: {e}\ninstall redis-server, or name the program in TAGCACHE_SERVER"
            )
        })?;
        let mut server = Self {
            child,
            guard: None,
            port,
            dir,
        };
        server.guard = Some(server.guard()?);
        Ok(server)
    }

    fn guard(&self) -> std::io::Result<Child> {
        Command::new("/bin/sh")
            .args(["-c", GUARD, "tagcache-guard"])
            .arg(self.child.id().to_string())
            .arg(&self.dir.0)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
    }

    fn wait_until_ready(&mut self, ended: &AtomicBool) -> Result<(), Box<dyn Error>> {
        let start = Instant::now();
        loop {
            if let Some(status) = self.exited()? {
                return Err(format!("the server did not start ({status}):").into());
            }
            // The process number distinguishes our server from another one that may hold the port.
            if self
                .info("process_id")
                .is_ok_and(|pid| pid == self.child.id().to_string())
            {
                return Ok(());
            }
            if ended.load(Ordering::Relaxed) {
                return Err("ended while the server started".into());
            }
            if start.elapsed() > DEADLINE {
                return Err("the server does not answer:".into());
            }
            std::thread::sleep(PAUSE);
        }
    }

    pub(crate) fn connection(&self) -> redis::RedisResult<redis::Connection> {
        let client = redis::Client::open(format!("redis://127.0.0.1:{}/", self.port))?;
        client.get_connection_with_timeout(DEADLINE)
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.dir.0
    }

    /// The server's name and version, such as `redis-server 7.0.15`.
    pub(crate) fn version(&self) -> redis::RedisResult<String> {
        let valkey = self
            .info("valkey_version")
            .map(|v| format!("valkey-server {v}"));
        valkey.or_else(|_| {
            self.info("redis_version")
                .map(|v| format!("redis-server {v}"))
        })
    }

    fn info(&self, name: &str) -> redis::RedisResult<String> {
        let info: redis::InfoDict = redis::cmd("INFO")
            .arg("server")
            .query(&mut self.connection()?)?;
        let missing =
            || redis::RedisError::from(std::io::Error::other(format!("INFO has no {name}")));
        info.get::<String>(name).ok_or_else(missing)
    }

    /// The server's status, if it ended by itself.
    pub(crate) fn exited(&mut self) -> std::io::Result<Option<ExitStatus>> {
        self.child.try_wait()
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.dir.0.join("server.log")).unwrap_or_default()
    }

    /// The last lines of the server's log.
    pub(crate) fn end_of_log(&self) -> String {
        let log = self.log();
        let lines: Vec<_> = log.lines().collect();
        lines[lines.len().saturating_sub(TOLD)..].join("\n")
    }

    /// Ends the server and removes its directory.
    pub(crate) fn stop(mut self) -> Result<(), Box<dyn Error>> {
        self.shut_down()?;
        Ok(())
    }

    fn shut_down(&mut self) -> std::io::Result<()> {
        if self.exited()?.is_some() {
            return Ok(());
        }
        if let Ok(mut connection) = self.connection() {
            // The connection ends with the server, so there is no reply to read.
            let _ = redis::cmd("SHUTDOWN").arg("NOSAVE").exec(&mut connection);
        }
        let start = Instant::now();
        while start.elapsed() < DEADLINE {
            if self.exited()?.is_some() {
                return Ok(());
            }
            std::thread::sleep(PAUSE);
        }
        self.child.kill()?;
        self.child.wait()?;
        Err(std::io::Error::other(
            "the server did not shut down and was killed",
        ))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Err(error) = self.shut_down() {
            note(&format!("{error}\n"));
        }
        // Before another process can get the server's process number.
        if let Some(mut guard) = self.guard.take() {
            let _ = guard.kill();
            let _ = guard.wait();
        }
    }
}

/// The port of the documentation, or another one if it is taken.
fn free_port() -> std::io::Result<u16> {
    let listener =
        TcpListener::bind(("127.0.0.1", PORT)).or_else(|_| TcpListener::bind(("127.0.0.1", 0)))?;
    Ok(listener.local_addr()?.port())
}

struct TempDir(PathBuf);

impl TempDir {
    fn new() -> std::io::Result<Self> {
        loop {
            let name = format!("tagcache-{}-{:08x}", std::process::id(), fastrand::u32(..));
            let dir = std::env::temp_dir().join(name);
            // A directory that exists belongs to another process: it is neither used nor removed.
            match DirBuilder::new().mode(0o700).create(&dir) {
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
                created => return created.map(|()| Self(dir)),
            }
        }
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
