//! The commands that a primary sends to its replicas, and writes to its AOF.

use std::path::Path;

use crate::reply::Reply;
use crate::resp::RawClient;
use crate::server::Server;

/// A command as it was propagated.
pub type Propagated = Vec<Vec<u8>>;

/// A replica that applies nothing and only receives.
#[derive(Debug)]
pub struct ReplicationStream {
    client: RawClient,
    /// Commands after the last marker.
    pending: Vec<Propagated>,
}

impl ReplicationStream {
    /// Attaches to a primary, by a full resync whose RDB is discarded.
    ///
    /// # Panics
    /// Panics if the server does not begin a full resync.
    pub fn attach(server: &Server) -> Self {
        let mut client = server.raw();
        client.send(&["PSYNC", "?", "-1"]);
        // While the RDB is made, empty lines keep the connection alive.
        let mut next_line = || {
            loop {
                let line = client.read_line().expect("the answer to PSYNC");
                if !line.is_empty() {
                    return line;
                }
            }
        };
        let answer = next_line();
        assert!(answer.starts_with("+FULLRESYNC "), "PSYNC answers {answer}");
        let length = next_line();
        let length: usize = length
            .strip_prefix('$')
            .and_then(|digits| digits.parse().ok())
            .unwrap_or_else(|| panic!("not the length of an RDB: {length}"));
        client.read_bytes(length).expect("the RDB");
        Self {
            client,
            pending: Vec::new(),
        }
    }

    /// The commands since the last call, without those that carry no data (PING, SELECT, MULTI, EXEC).
    ///
    /// # Panics
    /// Panics if something else than a command arrives.
    pub fn commands(&mut self, server: &Server) -> Vec<Propagated> {
        const MARKER: &str = "marker of the replication stream";
        let mut writer = server.raw();
        assert_eq!(writer.call(&["SET", MARKER, ""]), Reply::ok());
        let mut commands = std::mem::take(&mut self.pending);
        self.read_until("SET", MARKER, &mut commands);
        assert_eq!(writer.call(&["DEL", MARKER]), Reply::Int(1));
        let mut later = Vec::new();
        self.read_until("DEL", MARKER, &mut later);
        self.pending = later;
        commands
    }

    fn read_until(&mut self, name: &str, key: &str, commands: &mut Vec<Propagated>) {
        loop {
            let command = propagated(&self.client.read());
            if is(&command, name) && command[1] == key.as_bytes() {
                return;
            }
            if carries_data(&command) {
                commands.push(command);
            }
        }
    }
}

fn propagated(reply: &Reply) -> Propagated {
    reply
        .items()
        .iter()
        .map(|arg| arg.bytes().to_vec())
        .collect()
}

fn carries_data(command: &Propagated) -> bool {
    !["PING", "SELECT", "MULTI", "EXEC", "REPLCONF"]
        .iter()
        .any(|name| is(command, name))
}

/// Whether it is this command.
pub fn is(command: &Propagated, name: &str) -> bool {
    command
        .first()
        .is_some_and(|first| first.eq_ignore_ascii_case(name.as_bytes()))
}

/// A command in readable words, its name in lower case, without the time at which it happened ([`happened_ms`]).
pub fn words(command: &Propagated) -> Vec<String> {
    let mut words: Vec<_> = command
        .iter()
        .map(|arg| arg.escape_ascii().to_string())
        .collect();
    if let Some(name) = words.first_mut() {
        name.make_ascii_lowercase();
    }
    if let Some((at, _)) = time_of(command) {
        words.drain(at..at + 2);
    }
    words
}

/// The time at which a command of the module happened, as it was propagated, unix ms.
pub fn happened_ms(command: &Propagated) -> Option<u64> {
    let (_, time) = time_of(command)?;
    std::str::from_utf8(time)
        .ok()?
        .trim_start_matches('@')
        .parse()
        .ok()
}

/// The position of the word before the time at which a command happened, and the time.
fn time_of(command: &Propagated) -> Option<(usize, &[u8])> {
    let word = if is(command, "cache.invalidate") || is(command, "cache.revalidate") {
        &b""[..]
    } else if is(command, "cache.set") {
        &b"CREATED"[..]
    } else if is(command, "cache.flush") || is(command, "cache.invalidatewhere") {
        &b"AT"[..]
    } else {
        return None;
    };
    let at = command.iter().rposition(|arg| arg == word)?;
    Some((at, command.get(at + 1)?))
}

/// The commands in the files of an append only directory that end like this, without those that carry no data.
///
/// # Panics
/// Panics if there is no such directory, or a file contains something else than commands.
pub fn aof_commands(directory: &Path, ending: &str) -> Vec<Propagated> {
    let files =
        std::fs::read_dir(directory.join("appendonlydir")).expect("the append only directory");
    let mut paths: Vec<_> = files.filter_map(|file| Some(file.ok()?.path())).collect();
    paths.retain(|path| path.to_string_lossy().ends_with(ending));
    paths.sort();
    let read =
        |path| parse_commands(&std::fs::read(path).expect("a file of the append only directory"));
    paths
        .into_iter()
        .flat_map(read)
        .filter(carries_data)
        .collect()
}

fn parse_commands(mut bytes: &[u8]) -> Vec<Propagated> {
    let mut commands = Vec::new();
    let number = |bytes: &mut &[u8], kind: u8| {
        let end = bytes
            .iter()
            .position(|&b| b == b'\n')
            .expect("a whole line");
        let line = String::from_utf8_lossy(&bytes[1..end - 1]).into_owned();
        assert_eq!(bytes[0], kind, "{line}");
        *bytes = &bytes[end + 1..];
        line.parse::<usize>().expect("a length")
    };
    while !bytes.is_empty() {
        let count = number(&mut bytes, b'*');
        let command = (0..count).map(|_| {
            let len = number(&mut bytes, b'$');
            let (arg, rest) = bytes.split_at(len);
            bytes = &rest[2..];
            arg.to_vec()
        });
        commands.push(command.collect());
    }
    commands
}
