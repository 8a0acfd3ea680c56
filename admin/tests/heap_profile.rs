//! Heap profiles of the program, built with jemalloc: `cargo test --workspace --features tagcache-admin/jemalloc --test heap_profile`.
#![forbid(unsafe_code)]
// A helper may panic: that fails its test, as a panic in the test itself does.
#![allow(clippy::unwrap_used)]

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::process::{Child, Command, Stdio};

use tagcache_tests::Server;

const TOKEN: &str = "an-admin-token-of-the-test";

/// The program, which ends with the test.
struct Program {
    child: Child,
    url: String,
}

impl Program {
    fn start(server: &Server, jemalloc: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let token = dir.path().join("token");
        std::fs::write(&token, TOKEN).unwrap();
        let mut child = Command::new(env!("CARGO_BIN_EXE_tagcache"))
            .args(["--json", "serve", "--listen", "127.0.0.1:0"])
            .args(["--redis", &format!("redis://127.0.0.1:{}/", server.port())])
            .arg("--admin-token-file")
            .arg(&token)
            .env("_RJEM_MALLOC_CONF", jemalloc)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let url = lines
            .map_while(Result::ok)
            .find_map(|line| {
                line.split('"')
                    .find(|text| text.starts_with("http://"))
                    .map(str::to_owned)
            })
            .expect("it says where it listens");
        Self {
            child,
            url: format!("{url}api/admin/heap-profile"),
        }
    }

    fn profile(&self) -> (u16, String, Vec<u8>) {
        let agent: ureq::Agent = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .build()
            .into();
        let mut answer = agent
            .post(&self.url)
            .header("authorization", &format!("Bearer {TOKEN}"))
            .send_empty()
            .unwrap();
        let kind = answer.headers()["content-type"]
            .to_str()
            .unwrap()
            .to_owned();
        let body = answer.body_mut().read_to_vec().unwrap();
        (answer.status().as_u16(), kind, body)
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn unzipped(body: &[u8]) -> Vec<u8> {
    let mut gzip = Command::new("gzip")
        .arg("-dc")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    gzip.stdin.take().unwrap().write_all(body).unwrap();
    let mut text = Vec::new();
    gzip.stdout.take().unwrap().read_to_end(&mut text).unwrap();
    assert!(gzip.wait().unwrap().success());
    text
}

#[test]
fn heap_profile_is_in_pprof_format_and_names_the_program() {
    let server = Server::start();
    let program = Program::start(&server, "prof:true,prof_active:true,lg_prof_sample:10");
    let (status, kind, body) = program.profile();
    let message = String::from_utf8_lossy(&body);
    assert_eq!(
        (status, kind.as_str()),
        (200, "application/octet-stream"),
        "{message}"
    );
    let profile = unzipped(&body);
    let has = |text: &str| {
        profile
            .windows(text.len())
            .any(|part| part == text.as_bytes())
    };
    for text in ["inuse_space", "bytes", "tagcache"] {
        assert!(has(text), "no {text} among {} bytes", profile.len());
    }
    // Requests at the same time are served one after the other.
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| assert_eq!(program.profile().0, 200));
        }
    });
}

#[test]
fn heap_profile_without_profiling_reports_how_to_enable_it() {
    let server = Server::start();
    for off in ["", "prof:true,prof_active:false"] {
        let program = Program::start(&server, off);
        let (status, kind, body) = program.profile();
        let message = String::from_utf8_lossy(&body);
        assert_eq!(
            (status, kind.as_str()),
            (409, "application/problem+json"),
            "{message}"
        );
        assert!(
            message.contains("_RJEM_MALLOC_CONF=prof:true,prof_active:true"),
            "{message}"
        );
    }
}
