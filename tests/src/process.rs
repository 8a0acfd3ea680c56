//! The process of a server: its start and end, whether it replies; its directory and its log.

use std::fs::File;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use crate::builder::ServerBuilder;
use crate::reply::Reply;
use crate::resp::RawClient;
use crate::wait::{DEADLINE, slowed};

/// Shuts a server down in an orderly way, or kills it after a deadline; returns whether it was orderly.
pub(crate) fn end(child: &mut Child, port: u16) -> bool {
    const ENDED_WITHIN: Duration = Duration::from_secs(20);
    if let Ok(mut client) = RawClient::connect(port) {
        client.set_read_timeout(ENDED_WITHIN);
        // There is no reply: the connection ends with the server.
        let _ = client.try_call(&["SHUTDOWN", "NOSAVE", "NOW", "FORCE"]);
    }
    let start = Instant::now();
    while start.elapsed() < slowed(ENDED_WITHIN) {
        if !matches!(child.try_wait(), Ok(None)) {
            return true;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    let _ = child.kill();
    let _ = child.wait();
    false
}

pub(crate) fn spawn(builder: &ServerBuilder, port: u16, dir: &Path) -> Result<Child, String> {
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
    let environment = builder.environment.iter().map(|(name, path)| (name, path));
    command
        .envs(environment)
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
    while !is_ready(port, child.id()) {
        if !matches!(child.try_wait(), Ok(None)) {
            let log = read_log(dir);
            return Err(log
                .get(log_start as usize..)
                .map_or_else(|| log.clone(), str::to_owned));
        }
        if start.elapsed() > slowed(DEADLINE * 2) {
            let _ = child.kill();
            let _ = child.wait();
            panic!("{name} does not answer:\n{}", tail(&read_log(dir)));
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    Ok(child)
}

/// Whether this child replies on the port, with its data loaded.
fn is_ready(port: u16, pid: u32) -> bool {
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

/// A loopback port on which nothing listens at this moment.
///
/// # Panics
/// Panics if there is none.
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

pub(crate) fn read_log(dir: &Path) -> String {
    let bytes = std::fs::read(log_path(dir)).unwrap_or_default();
    String::from_utf8_lossy(&bytes).into_owned()
}

/// The warnings of the module itself; empty if there are none.
pub(crate) fn complaints(log: &str) -> String {
    let warns = |line: &&str| {
        [" # <module> ", " # <tagcache> ", "panicked at"]
            .iter()
            .any(|mark| line.contains(mark))
    };
    log.lines().filter(warns).collect::<Vec<_>>().join("\n")
}

pub(crate) fn tail(log: &str) -> String {
    let lines: Vec<&str> = log.lines().collect();
    // A crash report is long, and its cause is at its start.
    let first = lines
        .iter()
        .position(|l| l.contains("panic") || l.contains("BUG REPORT START"));
    let first = first
        .unwrap_or(lines.len())
        .saturating_sub(10)
        .min(lines.len().saturating_sub(80));
    let shown: Vec<&str> = lines[first..].iter().take(160).copied().collect();
    shown.join("\n")
}

/// A temporary directory, removed when dropped.
#[derive(Debug)]
pub(crate) struct TempDir(PathBuf);

impl TempDir {
    pub(crate) fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let dir =
            std::env::temp_dir().join(format!("tagcache-tests-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&dir).expect("a directory under the temporary one");
        Self(dir)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Compiles a C file of this crate into a library. `None`, and a message, where there is no C compiler.
pub(crate) fn compile(source: &str, library: &Path) -> Option<()> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("src")
        .join(source);
    let mut compiler = Command::new("cc");
    compiler.args(["-shared", "-fPIC", "-O1", "-o"]);
    let Ok(status) = compiler.arg(library).arg(&source).status() else {
        eprintln!("skipped: no C compiler (cc)");
        return None;
    };
    assert!(status.success(), "{} is compiled", source.display());
    Some(())
}
