//! A server whose time of day a test can set.

use std::fs::File;
use std::os::unix::fs::FileExt;

use crate::builder::ServerBuilder;
use crate::process::{TempDir, compile};

/// The time of day of the servers that are started with it, shifted against that of the machine.
#[derive(Debug)]
pub struct Clock {
    dir: TempDir,
    shift_ms: File,
}

impl Clock {
    /// A clock that shows the machine's time: a library that is preloaded into the server. `None`, and a message, where
    /// there is no C compiler.
    ///
    /// # Panics
    /// Panics if the library cannot be compiled.
    pub fn new() -> Option<Self> {
        let dir = TempDir::new();
        compile("clock.c", &dir.path().join("clock.so"))?;
        let shift_ms = File::create(dir.path().join("shift")).expect("a file of our own");
        let clock = Self { dir, shift_ms };
        clock.shift(0);
        Some(clock)
    }

    /// Shows this many milliseconds more than the machine's clock, from now on.
    ///
    /// # Panics
    /// Panics if the file that the servers read cannot be written.
    pub fn shift(&self, ms: i64) {
        let written = self.shift_ms.write_all_at(&ms.to_ne_bytes(), 0);
        written.expect("a file of our own can be written");
    }

    /// Makes a server read this clock.
    #[must_use]
    pub fn of(&self, builder: ServerBuilder) -> ServerBuilder {
        builder
            .environment("LD_PRELOAD", self.dir.path().join("clock.so"))
            .environment("TEST_CLOCK_SHIFT", self.dir.path().join("shift"))
    }
}
