//! A module whose commands `THREADS.CALL command [argument ...]` and `THREADS.HERE command [argument ...]` run a command:
//! on a thread of its own, or at once.

use crate::builder::ServerBuilder;
use crate::process::{TempDir, compile};

/// That module, compiled.
#[derive(Debug)]
pub struct Threads {
    dir: TempDir,
}

impl Threads {
    /// Compiles it. `None`, and a message, where there is no C compiler.
    ///
    /// # Panics
    /// Panics if it cannot be compiled.
    pub fn new() -> Option<Self> {
        let dir = TempDir::new();
        compile("threads.c", &dir.path().join("threads.so"))?;
        Some(Self { dir })
    }

    /// Makes a server load it.
    #[must_use]
    pub fn of(&self, builder: ServerBuilder) -> ServerBuilder {
        let path = self.dir.path().join("threads.so");
        builder.arg("--loadmodule", &path.to_string_lossy())
    }
}
