//! A sentinel for one test.

use std::process::{Child, Stdio};

use crate::engine::Engine;
use crate::process::{TempDir, free_port};
use crate::resp::RawClient;
use crate::wait::{DEADLINE, wait_until};

/// A running sentinel that watches one primary by the name `cache`, ended when dropped.
#[derive(Debug)]
pub struct Sentinel {
    child: Child,
    port: u16,
    _dir: TempDir,
}

impl Sentinel {
    /// Watches a primary on this machine.
    ///
    /// # Panics
    /// Panics if the sentinel does not start.
    pub fn watching(engine: &Engine, primary: u16) -> Self {
        Self::of(engine, "127.0.0.1", primary)
    }

    /// Watches a primary anywhere.
    ///
    /// # Panics
    /// Panics if the sentinel does not start.
    pub fn of(engine: &Engine, host: &str, primary: u16) -> Self {
        let (dir, port) = (TempDir::new(), free_port());
        let config = dir.path().join("sentinel.conf");
        // Another failover may begin after twice the time-out.
        let lines = format!(
            "bind 127.0.0.1\nport {port}\ndir {}\nsentinel monitor cache {host} {primary} 1\n\
             sentinel down-after-milliseconds cache 500\nsentinel failover-timeout cache 2000\n",
            dir.path().display(),
        );
        std::fs::write(&config, lines).expect("a file of our own");
        let child = engine
            .to_command()
            .arg(&config)
            .arg("--sentinel")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .expect("a server program that can be a sentinel");
        let sentinel = Self {
            child,
            port,
            _dir: dir,
        };
        wait_until("the sentinel answers", DEADLINE, || {
            RawClient::connect(port).is_ok()
        });
        sentinel
    }

    /// The port on which it listens on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// A connection to the sentinel.
    ///
    /// # Panics
    /// Panics if there is none.
    pub fn raw(&self) -> RawClient {
        RawClient::connect(self.port).expect("a sentinel that answers")
    }
}

impl Drop for Sentinel {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
