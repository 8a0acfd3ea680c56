//! Starts the program and reads its output.

use std::io::{BufRead as _, BufReader, Read as _};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};

use serde_json::Value;
use tagcache_tests::{DEADLINE, Server, wait_until};

pub(crate) struct Ended {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Ended {
    fn of(output: &std::process::Output) -> Self {
        Self {
            code: output.status.code().unwrap_or(-1),
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.out)
            .unwrap_or_else(|e| panic!("{e}: {}\n{}", self.out, self.err))
    }

    /// Fails with the program's output if it did not succeed.
    pub(crate) fn ok(self) -> Self {
        assert_eq!(self.code, 0, "{}\n{}", self.out, self.err);
        self
    }
}

pub(crate) fn program() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tagcache"));
    command.stdin(Stdio::null());
    for name in [
        "TAGCACHE_REDIS",
        "TAGCACHE_LOAD_REDIS",
        "TAGCACHE_SLACK_URL",
        "TAGCACHE_PAGERDUTY_KEY",
        "TAGCACHE_SMTP_TO",
    ] {
        command.env_remove(name);
    }
    command
}

pub(crate) fn run(args: &[&str]) -> Ended {
    ended(program().args(args))
}

pub(crate) fn ended(command: &mut Command) -> Ended {
    Ended::of(&command.output().unwrap())
}

pub(crate) fn url(server: &Server) -> String {
    format!("redis://127.0.0.1:{}/", server.port())
}

/// A program that runs until a signal ends it.
pub(crate) struct Running {
    child: Child,
    /// The first document that it wrote.
    pub(crate) first: Value,
    later: Receiver<String>,
}

impl Running {
    pub(crate) fn start(args: &[&str]) -> Self {
        let mut child = program()
            .arg("--json")
            .args(args)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let Some(Ok(line)) = lines.next() else {
            let mut errors = String::new();
            child
                .stderr
                .take()
                .unwrap()
                .read_to_string(&mut errors)
                .unwrap();
            panic!("it ended: {errors}");
        };
        // Later output must be read, or the program would block on its pipe.
        let (sender, later) = channel();
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                // The test may have dropped the receiver.
                let _ = sender.send(line);
            }
        });
        Self {
            child,
            first: serde_json::from_str(&line).unwrap(),
            later,
        }
    }

    /// The next document that it writes.
    pub(crate) fn next(&self) -> Value {
        let line = self.later.recv_timeout(DEADLINE).unwrap();
        serde_json::from_str(&line).unwrap()
    }

    pub(crate) fn text(&self, field: &str) -> &str {
        self.first[field].as_str().unwrap()
    }

    /// Sends a signal and waits for the end.
    pub(crate) fn end(self, signal: &str) -> ExitStatus {
        kill(signal, self.child.id());
        self.ends()
    }

    /// Waits for the end.
    pub(crate) fn ends(mut self) -> ExitStatus {
        let mut status = None;
        wait_until("it ends", DEADLINE, || {
            status = self.child.try_wait().unwrap();
            status.is_some()
        });
        status.unwrap()
    }

    /// Its process number.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.child.try_wait().is_ok_and(|status| status.is_none()) {
            // In order, so that a server that it started ends as well.
            let _ = Command::new("kill")
                .arg(self.child.id().to_string())
                .status();
            let _ = self.child.wait();
        }
    }
}

/// Sends a signal to a process that this test started.
pub(crate) fn kill(signal: &str, process: u32) {
    let sent = Command::new("kill")
        .args([signal, &process.to_string()])
        .status();
    assert!(sent.unwrap().success());
}

/// Runs the program, sends it the signal once `now` returns true, and waits for its end.
pub(crate) fn interrupted(args: &[&str], signal: &str, mut now: impl FnMut() -> bool) -> Ended {
    let child = program()
        .args(args)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    wait_until("it is under way", DEADLINE, &mut now);
    kill(signal, child.id());
    let output = child.wait_with_output().unwrap();
    Ended::of(&output)
}

/// Status and body of a GET.
pub(crate) fn get(url: &str, token: Option<&str>) -> (u16, String) {
    let agent: ureq::Agent = ureq::Agent::config_builder()
        .http_status_as_error(false)
        .build()
        .into();
    let mut request = agent.get(url);
    if let Some(token) = token {
        request = request.header("authorization", format!("Bearer {token}"));
    }
    let mut response = request.call().unwrap();
    (
        response.status().as_u16(),
        response.body_mut().read_to_string().unwrap(),
    )
}
