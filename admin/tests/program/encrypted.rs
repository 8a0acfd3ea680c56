//! Alerts over encrypted connections, to receivers with a trusted certificate and with an untrusted one.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use rustls::pki_types::PrivateKeyDer;
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use tagcache_tests::DEADLINE;

use crate::run::{Ended, ended, program};

/// A root certificate in PEM, and the configuration of a server for `localhost` with a certificate from it.
fn certificates() -> (String, Arc<ServerConfig>) {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.distinguished_name.push(DnType::CommonName, "root");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let root = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    let certificate = params.signed_by(&key, &root).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(
            vec![certificate.der().clone()],
            PrivateKeyDer::try_from(key.serialize_der()).unwrap(),
        )
        .unwrap();
    (root.pem(), Arc::new(config))
}

/// Lines that a receiver got before and after encryption began.
#[derive(Debug, Default)]
struct Received {
    plain: Vec<String>,
    encrypted: Vec<String>,
}

/// A receiver of one connection.
struct Sink {
    port: u16,
    received: Receiver<Received>,
}

impl Sink {
    fn start(
        config: Arc<ServerConfig>,
        serve: fn(TcpStream, Arc<ServerConfig>, &mut Received) -> std::io::Result<()>,
    ) -> Self {
        let listener = TcpListener::bind(("localhost", 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let (sender, received) = channel();
        std::thread::spawn(move || {
            let (stream, _) = listener.accept().unwrap();
            let mut received = Received::default();
            // A client that does not trust the certificate closes the connection.
            let _ = serve(stream, config, &mut received);
            let _ = sender.send(received);
        });
        Self { port, received }
    }

    fn received(&self) -> Received {
        self.received.recv_timeout(DEADLINE).unwrap()
    }
}

fn encrypted(
    stream: TcpStream,
    config: Arc<ServerConfig>,
) -> StreamOwned<ServerConnection, TcpStream> {
    StreamOwned::new(ServerConnection::new(config).unwrap(), stream)
}

/// A line without its end; empty at the end.
fn line(stream: &mut impl Read) -> std::io::Result<String> {
    let mut bytes = Vec::new();
    let mut byte = [0];
    while !bytes.ends_with(b"\n") && stream.read(&mut byte)? == 1 {
        bytes.push(byte[0]);
    }
    Ok(String::from_utf8_lossy(&bytes).trim_end().to_owned())
}

fn starttls(
    mut stream: TcpStream,
    config: Arc<ServerConfig>,
    received: &mut Received,
) -> std::io::Result<()> {
    stream.write_all(b"220 sink\r\n")?;
    loop {
        let text = line(&mut stream)?;
        received.plain.push(text.clone());
        match text.split(' ').next().unwrap_or_default() {
            "EHLO" => stream.write_all(b"250-sink\r\n250 STARTTLS\r\n")?,
            "STARTTLS" => {
                stream.write_all(b"220 go on\r\n")?;
                return mail(&mut encrypted(stream, config), received);
            }
            "" => return Ok(()),
            _ => stream.write_all(b"500 encrypt first\r\n")?,
        }
    }
}

fn implicit(
    stream: TcpStream,
    config: Arc<ServerConfig>,
    received: &mut Received,
) -> std::io::Result<()> {
    let mut stream = encrypted(stream, config);
    stream.write_all(b"220 sink\r\n")?;
    mail(&mut stream, received)
}

fn mail(stream: &mut (impl Read + Write), received: &mut Received) -> std::io::Result<()> {
    let mut in_text = false;
    loop {
        let text = line(stream)?;
        received.encrypted.push(text.clone());
        let reply: &[u8] = match text.split(' ').next().unwrap_or_default() {
            "." => {
                in_text = false;
                b"250 taken\r\n"
            }
            _ if in_text => continue,
            "EHLO" => b"250-sink\r\n250 AUTH PLAIN LOGIN\r\n",
            "AUTH" => b"235 fine\r\n",
            "DATA" => {
                in_text = true;
                b"354 go on\r\n"
            }
            "QUIT" => return stream.write_all(b"221 bye\r\n"),
            "" => return Ok(()),
            _ => b"250 fine\r\n",
        };
        stream.write_all(reply)?;
    }
}

fn https(
    stream: TcpStream,
    config: Arc<ServerConfig>,
    received: &mut Received,
) -> std::io::Result<()> {
    let mut stream = encrypted(stream, config);
    loop {
        let text = line(&mut stream)?;
        if text.is_empty() {
            break;
        }
        received.encrypted.push(text);
    }
    stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
}

/// `alerts test` of this channel, which trusts this root or the machine's roots.
fn test(channel: &str, root: Option<&str>) -> Ended {
    let dir = tempfile::tempdir().unwrap();
    let rules = dir.path().join("rules.yaml");
    std::fs::write(&rules, format!("channels: {{it: {channel}}}\nalerts: []\n")).unwrap();
    let mut command = program();
    command
        .args(["alerts", "test", "--channel", "it"])
        .arg(&rules)
        .env("PASSWORD", "s3cr3t")
        .env_remove("SSL_CERT_DIR");
    if let Some(root) = root {
        let file = dir.path().join("root.pem");
        std::fs::write(&file, root).unwrap();
        command.env("SSL_CERT_FILE", file);
    }
    ended(&mut command)
}

#[test]
fn mail_with_a_password_is_sent_encrypted_or_not_at_all() {
    let (root, config) = certificates();
    for (tls, serve) in [
        ("starttls", starttls as fn(_, _, &mut _) -> _),
        ("implicit", implicit),
    ] {
        let channel = |port: u16| {
            format!(
                "{{type: email, host: localhost, port: {port}, tls: {tls}, username: cache, password: {{env: PASSWORD}}, from: a@example.org, to: [b@example.org]}}"
            )
        };
        let sink = Sink::start(Arc::clone(&config), serve);
        assert_eq!(
            test(&channel(sink.port), Some(&root)).ok().out,
            "it: arrived\n"
        );
        let received = sink.received();
        let begins = |lines: &[String], word: &str| lines.iter().any(|line| line.starts_with(word));
        assert!(
            !begins(&received.plain, "AUTH") && !begins(&received.plain, "MAIL"),
            "{received:?}"
        );
        // PLAIN, base64 of NUL cache NUL s3cr3t.
        assert!(
            begins(&received.encrypted, "AUTH PLAIN AGNhY2hlAHMzY3IzdA=="),
            "{received:?}"
        );
        assert!(
            begins(
                &received.encrypted,
                "Subject: [FIRING] info: Test of the channel"
            ),
            "{received:?}"
        );

        let stranger = Sink::start(Arc::clone(&config), serve);
        let refused = test(&channel(stranger.port), None);
        assert_eq!(refused.code, 1);
        assert!(!(refused.out + &refused.err).contains("s3cr3t"));
        assert_eq!(stranger.received().encrypted, [""; 0]);
    }
}

#[test]
fn webhook_requires_a_trusted_certificate() {
    let (root, config) = certificates();
    let channel = |port: u16| {
        format!(
            "{{type: webhook, url: 'https://localhost:{port}/hook', headers: {{X-Key: {{env: PASSWORD}}}}}}"
        )
    };
    let sink = Sink::start(Arc::clone(&config), https);
    assert_eq!(
        test(&channel(sink.port), Some(&root)).ok().out,
        "it: arrived\n"
    );
    let received = sink.received().encrypted;
    assert_eq!(received[0], "POST /hook HTTP/1.1");
    assert!(
        received
            .iter()
            .any(|line| line.eq_ignore_ascii_case("x-key: s3cr3t")),
        "{received:?}"
    );

    let stranger = Sink::start(config, https);
    let refused = test(&channel(stranger.port), None);
    assert_eq!(refused.code, 1);
    assert!(!(refused.out + &refused.err).contains("s3cr3t"));
    assert_eq!(stranger.received().encrypted, [""; 0]);
}
