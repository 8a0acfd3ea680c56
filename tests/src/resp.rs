//! A client that shows replies as they came over the wire, RESP2 and RESP3.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use crate::reply::Reply;
use crate::wait::slowed;

/// A type that can be an argument of a command.
pub trait ToArg {
    /// The bytes that go over the wire.
    fn to_arg(&self) -> Vec<u8>;
}

macro_rules! bytes_arg {
    ($($t:ty),*) => {$(
        impl ToArg for $t {
            fn to_arg(&self) -> Vec<u8> {
                AsRef::<[u8]>::as_ref(self).to_vec()
            }
        }
    )*};
}

macro_rules! number_arg {
    ($($t:ty),*) => {$(
        impl ToArg for $t {
            fn to_arg(&self) -> Vec<u8> {
                self.to_string().into_bytes()
            }
        }
    )*};
}

bytes_arg!(str, String, [u8], Vec<u8>);
number_arg!(i32, i64, u16, u32, u64, usize, i128);

impl<const N: usize> ToArg for [u8; N] {
    fn to_arg(&self) -> Vec<u8> {
        self.to_vec()
    }
}

impl<T: ToArg + ?Sized> ToArg for &T {
    fn to_arg(&self) -> Vec<u8> {
        (**self).to_arg()
    }
}

/// The arguments of one command, of any mix of strings, bytes and numbers.
#[macro_export]
macro_rules! args {
    ($($arg:expr),* $(,)?) => { vec![$($crate::ToArg::to_arg(&$arg)),*] };
}

/// Sends one command of any mix of strings, bytes and numbers through a [`RawClient`], and returns its reply.
#[macro_export]
macro_rules! call {
    ($client:expr, $($arg:expr),+ $(,)?) => { $client.call(&[$($crate::ToArg::to_arg(&$arg)),+]) };
}

/// The arguments of one command, written as one line of words between blanks; `{name}` stands for a variable, as in
/// `format!`.
#[macro_export]
macro_rules! command {
    ($line:literal) => {
        $crate::split(&format!($line))
    };
}

/// Sends one command, written as one line as in [`command!`], through a [`RawClient`], and returns its reply.
#[macro_export]
macro_rules! run {
    ($client:expr, $line:literal) => {
        $client.call(&$crate::command!($line))
    };
}

/// The words of a line.
#[must_use]
pub fn split(line: &str) -> Vec<Vec<u8>> {
    line.split_whitespace()
        .map(|word| word.as_bytes().to_vec())
        .collect()
}

/// Sends one command of any mix of strings, bytes and numbers through a [`RawClient`], and does not wait for its reply.
#[macro_export]
macro_rules! send {
    ($client:expr, $($arg:expr),+ $(,)?) => { $client.send(&[$($crate::ToArg::to_arg(&$arg)),+]) };
}

/// A connection that speaks the protocol and nothing more.
#[derive(Debug)]
pub struct RawClient {
    stream: BufReader<TcpStream>,
    pushes: VecDeque<Vec<Reply>>,
}

impl RawClient {
    /// Connects to a server on this machine.
    ///
    /// # Errors
    /// Returns an error if nothing listens there.
    pub fn connect(port: u16) -> std::io::Result<Self> {
        let stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_nodelay(true)?;
        // A test that waits for a reply that never comes must fail instead of hanging.
        let timeout = Some(slowed(Duration::from_secs(60)));
        stream.set_read_timeout(timeout)?;
        stream.set_write_timeout(timeout)?;
        Ok(Self {
            stream: BufReader::with_capacity(1 << 16, stream),
            pushes: VecDeque::new(),
        })
    }

    /// Sends one command and returns its reply; pushes that come before it are kept for [`Self::take_push`].
    ///
    /// # Panics
    /// Panics if the connection fails.
    pub fn call<A: AsRef<[u8]>>(&mut self, args: &[A]) -> Reply {
        self.send(args);
        self.read()
    }

    /// Sends one command and does not wait for its reply.
    ///
    /// # Panics
    /// Panics if the connection fails.
    pub fn send<A: AsRef<[u8]>>(&mut self, args: &[A]) {
        self.send_bytes(&encode(args));
    }

    /// Sends one command and returns its reply.
    ///
    /// # Errors
    /// Returns an error if the connection fails.
    pub fn try_call<A: AsRef<[u8]>>(&mut self, args: &[A]) -> std::io::Result<Reply> {
        self.stream.get_mut().write_all(&encode(args))?;
        self.try_read()
    }

    /// Sends bytes as they are, even if they violate the protocol.
    ///
    /// # Panics
    /// Panics if the connection fails.
    pub fn send_bytes(&mut self, bytes: &[u8]) {
        self.stream
            .get_mut()
            .write_all(bytes)
            .expect("the server takes what is sent");
    }

    /// Sends all commands at once, then reads all their replies.
    ///
    /// # Panics
    /// Panics if the connection fails.
    pub fn pipeline<A: AsRef<[u8]>>(&mut self, commands: &[Vec<A>]) -> Vec<Reply> {
        let mut bytes = Vec::new();
        for command in commands {
            bytes.extend_from_slice(&encode(command));
        }
        self.send_bytes(&bytes);
        commands.iter().map(|_| self.read()).collect()
    }

    /// The next reply.
    ///
    /// # Panics
    /// Panics if the connection fails or the bytes violate the protocol.
    pub fn read(&mut self) -> Reply {
        self.try_read().expect("a reply from the server")
    }

    /// The next reply; pushes that come before it are kept for [`Self::take_push`].
    ///
    /// # Errors
    /// Returns an error if the connection fails or the bytes violate the protocol.
    pub fn try_read(&mut self) -> std::io::Result<Reply> {
        loop {
            match self.read_value()? {
                Reply::Push(items) => self.pushes.push_back(items),
                reply => return Ok(reply),
            }
        }
    }

    /// The next push, waiting for it if none was kept.
    ///
    /// # Panics
    /// Panics if a reply comes instead, or nothing.
    pub fn take_push(&mut self) -> Vec<Reply> {
        if let Some(push) = self.pushes.pop_front() {
            return push;
        }
        match self.read_value().expect("a push from the server") {
            Reply::Push(items) => items,
            reply => panic!("a reply instead of a push: {reply:?}"),
        }
    }

    /// The pushes that came before the last reply.
    pub fn kept_pushes(&mut self) -> Vec<Vec<Reply>> {
        self.pushes.drain(..).collect()
    }

    /// Switches to RESP3.
    ///
    /// # Panics
    /// Panics if the server refuses.
    #[must_use]
    pub fn resp3(mut self) -> Self {
        let hello = self.call(&["HELLO", "3"]);
        assert!(matches!(hello, Reply::Map(_)), "HELLO 3: {hello:?}");
        self
    }

    /// Bounds how long a read waits.
    ///
    /// # Panics
    /// Panics if the operating system refuses.
    pub fn set_read_timeout(&mut self, timeout: Duration) {
        self.stream
            .get_mut()
            .set_read_timeout(Some(slowed(timeout)))
            .expect("a time-out can be set");
    }

    /// Reads `len` bytes as they come, such as the RDB of a full resync.
    ///
    /// # Errors
    /// Returns an error if the connection fails.
    pub fn read_bytes(&mut self, len: usize) -> std::io::Result<Vec<u8>> {
        let mut bytes = vec![0; len];
        self.stream.read_exact(&mut bytes)?;
        Ok(bytes)
    }

    /// Reads up to the next CRLF, without it.
    ///
    /// # Errors
    /// Returns an error if the connection fails.
    pub fn read_line(&mut self) -> std::io::Result<String> {
        let mut line = Vec::new();
        if self.stream.read_until(b'\n', &mut line)? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        let text = String::from_utf8_lossy(&line);
        Ok(text.trim_end_matches(['\r', '\n']).to_owned())
    }

    fn read_value(&mut self) -> std::io::Result<Reply> {
        let line = self.read_line()?;
        let (kind, rest) = line.split_at_checked(1).ok_or_else(|| broken(&line))?;
        Ok(match kind {
            "+" => Reply::Simple(rest.to_owned()),
            "-" => Reply::Error(rest.to_owned()),
            ":" => Reply::Int(number(rest)?),
            "_" => Reply::Null,
            "#" => Reply::Bool(rest == "t"),
            "," => Reply::Double(rest.parse().map_err(|_| broken(&line))?),
            "(" => Reply::BigNumber(rest.to_owned()),
            "$" | "*" if rest == "-1" => Reply::Null,
            "$" | "!" | "=" => {
                let len = usize::try_from(number(rest)?).map_err(|_| broken(&line))?;
                let mut bytes = self.read_bytes(len + 2)?;
                bytes.truncate(len);
                match kind {
                    "!" => Reply::Error(String::from_utf8_lossy(&bytes).into_owned()),
                    "=" => Reply::Bulk(bytes.split_off(4)),
                    _ => Reply::Bulk(bytes),
                }
            }
            "*" => Reply::Array(self.read_values(number(rest)?)?),
            "~" => Reply::Set(self.read_values(number(rest)?)?),
            ">" => Reply::Push(self.read_values(number(rest)?)?),
            "%" => {
                let pairs = number(rest)?;
                let pair = |this: &mut Self| Ok((this.read_value()?, this.read_value()?));
                Reply::Map(
                    (0..pairs)
                        .map(|_| pair(self))
                        .collect::<std::io::Result<_>>()?,
                )
            }
            _ => return Err(broken(&line)),
        })
    }

    fn read_values(&mut self, count: i64) -> std::io::Result<Vec<Reply>> {
        (0..count).map(|_| self.read_value()).collect()
    }
}

fn encode<A: AsRef<[u8]>>(args: &[A]) -> Vec<u8> {
    let mut bytes = format!("*{}\r\n", args.len()).into_bytes();
    for arg in args {
        let arg = arg.as_ref();
        bytes.extend_from_slice(format!("${}\r\n", arg.len()).as_bytes());
        bytes.extend_from_slice(arg);
        bytes.extend_from_slice(b"\r\n");
    }
    bytes
}

fn number(text: &str) -> std::io::Result<i64> {
    text.parse().map_err(|_| broken(text))
}

fn broken(line: &str) -> std::io::Error {
    std::io::Error::new(
        std::io::ErrorKind::InvalidData,
        format!("not RESP: {line:?}"),
    )
}
