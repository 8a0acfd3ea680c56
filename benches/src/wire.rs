//! A minimal client: commands are encoded before the clock starts, replies are only counted, so that the figures show
//! the server.

use std::io::{Error, Read, Result, Write};
use std::net::TcpStream;

/// Commands ready to be sent, one after the other.
#[derive(Default)]
pub(crate) struct Tape {
    bytes: Vec<u8>,
    /// The end of each command in `bytes`.
    ends: Vec<usize>,
}

impl Tape {
    pub(crate) fn push(&mut self, args: &[&[u8]]) {
        self.header(b'*', args.len());
        for arg in args {
            self.header(b'$', arg.len());
            self.bytes.extend_from_slice(arg);
            self.bytes.extend_from_slice(b"\r\n");
        }
        self.ends.push(self.bytes.len());
    }

    fn header(&mut self, kind: u8, count: usize) {
        self.bytes.push(kind);
        self.bytes.extend_from_slice(count.to_string().as_bytes());
        self.bytes.extend_from_slice(b"\r\n");
    }

    pub(crate) fn len(&self) -> usize {
        self.ends.len()
    }

    /// The bytes of commands `first..last`.
    pub(crate) fn commands(&self, first: usize, last: usize) -> &[u8] {
        let start = first.checked_sub(1).map_or(0, |before| self.ends[before]);
        &self.bytes[start..self.ends[last - 1]]
    }
}

/// The expected replies.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Expect {
    /// Anything but an error.
    NoError,
    /// Anything but an error or nil.
    Value,
}

pub(crate) struct Wire {
    stream: TcpStream,
    buffer: Vec<u8>,
    /// The part of `buffer` that was received and not parsed yet.
    start: usize,
    end: usize,
}

impl Wire {
    /// A connection that works in database `db`.
    pub(crate) fn connect(port: u16, db: u32) -> Result<Self> {
        let stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_nodelay(true)?;
        let mut wire = Self {
            stream,
            buffer: vec![0; 1 << 17],
            start: 0,
            end: 0,
        };
        let mut select = Tape::default();
        select.push(&[b"SELECT", db.to_string().as_bytes()]);
        wire.send(select.commands(0, 1))?;
        wire.receive(1, Expect::NoError)?;
        Ok(wire)
    }

    pub(crate) fn send(&mut self, commands: &[u8]) -> Result<()> {
        self.stream.write_all(commands)
    }

    /// Waits for that many replies.
    pub(crate) fn receive(&mut self, replies: usize, expect: Expect) -> Result<()> {
        for _ in 0..replies {
            while !self.skip_reply(expect)? {
                self.fill()?;
            }
        }
        Ok(())
    }

    /// Skips one reply if it has been received completely.
    fn skip_reply(&mut self, expect: Expect) -> Result<bool> {
        let received = &self.buffer[self.start..self.end];
        let Some(len) = reply_len(received, expect)? else {
            return Ok(false);
        };
        self.start += len;
        Ok(true)
    }

    fn fill(&mut self) -> Result<()> {
        if self.start > 0 {
            self.buffer.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
        if self.end == self.buffer.len() {
            return Err(Error::other("a reply larger than the buffer"));
        }
        match self.stream.read(&mut self.buffer[self.end..])? {
            0 => Err(Error::other("the server closed the connection")),
            received => {
                self.end += received;
                Ok(())
            }
        }
    }
}

/// The length of the reply at the start of these bytes; `None` if it is incomplete.
pub(crate) fn reply_len(received: &[u8], expect: Expect) -> Result<Option<usize>> {
    let Some(line_len) = received.iter().position(|&byte| byte == b'\n') else {
        return Ok(None);
    };
    let line_len = line_len + 1;
    let line = &received[..line_len];
    let text = || String::from_utf8_lossy(line).trim_end().to_owned();
    let number = || {
        let digits = line[1..line_len - 2].iter();
        digits.fold(0, |len, digit| len * 10 + usize::from(digit - b'0'))
    };
    let len = match line[0] {
        b'+' | b':' => line_len,
        b'$' if line[1] == b'-' && expect == Expect::Value => {
            return Err(Error::other("nil reply"));
        }
        b'$' if line[1] == b'-' => line_len,
        b'$' => line_len + number() + 2,
        b'*' => {
            let mut len = line_len;
            for _ in 0..number() {
                let Some(item) = reply_len(&received[len..], expect)? else {
                    return Ok(None);
                };
                len += item;
            }
            len
        }
        b'-' => return Err(Error::other(text())),
        _ => return Err(Error::other(format!("unexpected reply {}", text()))),
    };
    Ok((len <= received.len()).then_some(len))
}

#[cfg(test)]
mod tests {
    use super::{Expect, reply_len};

    #[test]
    fn an_incomplete_reply_is_not_skipped() {
        let reply = b"*5\r\n$3\r\nHIT\r\n$5\r\nvalue\r\n:-1\r\n:0\r\n*1\r\n$1\r\na\r\n";
        for cut in 0..reply.len() {
            let len = reply_len(&reply[..cut], Expect::Value).expect("no error in it");
            assert_eq!(len, None, "{cut}");
        }
        let two = [&reply[..], b"+OK\r\n"].concat();
        let len = reply_len(&two, Expect::Value).expect("no error in it");
        assert_eq!(len, Some(reply.len()));
        assert!(reply_len(b"*1\r\n$-1\r\n", Expect::Value).is_err());
        assert!(reply_len(b"-ERR\r\n", Expect::NoError).is_err());
    }
}
