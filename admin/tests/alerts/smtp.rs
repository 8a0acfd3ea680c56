//! A mail server that stores its mails: enough of RFC 5321 for a client that sends.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

/// A mail that arrived.
#[derive(Debug, Default)]
pub(crate) struct Mail {
    pub(crate) from: String,
    pub(crate) to: Vec<String>,
    pub(crate) text: String,
    /// Argument of AUTH.
    pub(crate) auth: Option<String>,
}

pub(crate) struct Sink {
    pub(crate) port: u16,
    mails: Receiver<Mail>,
}

impl Sink {
    /// Refuses this many mails temporarily before it accepts one.
    pub(crate) fn start(refusals: usize) -> Self {
        Self::refusing(refusals, "451 not now")
    }

    /// Refuses this many mails with this reply.
    pub(crate) fn refusing(refusals: usize, reply: &'static str) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let (sender, mails) = channel();
        std::thread::spawn(move || {
            let mut left = refusals;
            for stream in listener.incoming() {
                // A client that closes the connection ends its session, not the server.
                let _ = session(&stream.unwrap(), &mut left, reply, &sender);
            }
        });
        Self { port, mails }
    }

    pub(crate) fn next(&self) -> Mail {
        self.mails
            .recv_timeout(Duration::from_secs(30))
            .expect("a mail within the deadline")
    }
}

fn session(
    stream: &TcpStream,
    refusals: &mut usize,
    refusal: &str,
    mails: &Sender<Mail>,
) -> std::io::Result<()> {
    let mut lines = BufReader::new(stream).lines();
    let mut writer = stream;
    writer.write_all(b"220 sink\r\n")?;
    let mut mail = Mail::default();
    while let Some(line) = lines.next() {
        let line = line?;
        let upper = line.to_ascii_uppercase();
        let reply: &[u8] = if upper.starts_with("EHLO") {
            b"250-sink\r\n250 AUTH PLAIN\r\n"
        } else if upper.starts_with("AUTH") {
            mail.auth = Some(line[5..].to_owned());
            b"235 fine\r\n"
        } else if upper.starts_with("MAIL FROM") {
            if *refusals > 0 {
                *refusals -= 1;
                writer.write_all(refusal.as_bytes())?;
                b"\r\n"
            } else {
                mail.from = line[10..].into();
                b"250 fine\r\n"
            }
        } else if upper.starts_with("RCPT TO") {
            mail.to.push(line[8..].to_owned());
            b"250 fine\r\n"
        } else if upper == "DATA" {
            writer.write_all(b"354 go on\r\n")?;
            for line in lines.by_ref() {
                let line = line?;
                if line == "." {
                    break;
                }
                mail.text.push_str(&line);
                mail.text.push('\n');
            }
            // Quoted-printable: a line that ends with `=` continues, and `=` itself is written as its code.
            mail.text = mail.text.replace("=\n", "").replace("=3D", "=");
            let auth = mail.auth.clone();
            let _ = mails.send(std::mem::replace(
                &mut mail,
                Mail {
                    auth,
                    ..Mail::default()
                },
            ));
            b"250 taken\r\n"
        } else if upper == "QUIT" {
            return writer.write_all(b"221 bye\r\n");
        } else {
            b"250 fine\r\n"
        };
        writer.write_all(reply)?;
    }
    Ok(())
}
