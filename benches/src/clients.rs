//! Many simultaneous connections, each of which sends a command and waits for its reply: latencies of tagged commands
//! compared with native ones.

use std::io::{Error, Result};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tagcache_tests::{Rng, Server};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::runtime::{Builder, Runtime};

use crate::options::Options;
use crate::table::{Table, median, thousands};
use crate::wire::{Expect, Tape, reply_len};

/// Simultaneous connections.
const CONNECTIONS: [usize; 4] = [1, 100, 1_000, 5_000];
/// Threads of the server that read and write; on two cores more of them would only compete.
const IO_THREADS: &str = "2";
/// Keys that are read and written.
const KEYS: usize = 10_000;
/// Rounds; few, as connections take long to make.
const ROUNDS: usize = 5;

/// Commands that are compared: the first of each pair is the server's own.
const WAYS: [&str; 4] = ["GET", "CACHE.GET", "SET PX", "CACHE.SET PX, 2 tags"];

fn tape(way: usize, seed: u64) -> Tape {
    let mut rng = Rng::new(seed);
    let mut tape = Tape::default();
    let value = [b'x'; 100];
    for _ in 0..KEYS {
        let n = rng.below(KEYS);
        let own = format!(
            "{}:{n:08}",
            if way.is_multiple_of(2) { "own" } else { "tag" }
        );
        let key = own.as_bytes();
        let (first, second) = (format!("a:{}", n % 100), format!("b:{}", n % 7));
        match way {
            0 => tape.push(&[b"GET", key]),
            1 => tape.push(&[b"CACHE.GET", key]),
            2 => tape.push(&[b"SET", key, &value, b"PX", b"600000"]),
            _ => tape.push(&[
                b"CACHE.SET",
                key,
                &value,
                b"PX",
                b"600000",
                b"TAGS",
                b"2",
                first.as_bytes(),
                second.as_bytes(),
            ]),
        }
    }
    tape
}

/// Latencies of one sample in microseconds, sorted, and commands per second.
struct Sample {
    latencies: Vec<u32>,
    rate: f64,
}

impl Sample {
    fn percentile(&self, part: f64) -> f64 {
        let at = (self.latencies.len() as f64 * part) as usize;
        let at = at.min(self.latencies.len() - 1);
        f64::from(self.latencies[at]) / 1_000.0
    }
}

pub(crate) fn run(options: &Options) -> Result<()> {
    let server = Server::builder()
        .engine(&options.engine)
        .arg("--loglevel", "warning")
        .arg("--maxclients", "10000")
        .arg("--tcp-backlog", "4096")
        .arg("--io-threads", IO_THREADS)
        .start();
    let runtime = Builder::new_current_thread().enable_all().build()?;
    println!(
        "{} with {IO_THREADS} I/O threads: milliseconds a command, each connection with one under way",
        options.engine.name
    );
    let mut table = Table::new(&[
        "",
        "connections",
        "a second",
        "p50",
        "p99",
        "p99.9",
        "p99 / native",
    ]);
    for connections in CONNECTIONS {
        measure(options, &server, &runtime, connections, &mut table)?;
    }
    table.print();
    Ok(())
}

fn measure(
    options: &Options,
    server: &Server,
    runtime: &Runtime,
    connections: usize,
    table: &mut Table,
) -> Result<()> {
    // The keys exist for the readers: the writers' samples of the first round come first.
    let tapes: Vec<Arc<Tape>> = (0..WAYS.len())
        .map(|way| Arc::new(tape(way, options.seed)))
        .collect();
    let mut streams = runtime.block_on(connect(server.port(), connections))?;
    let mut samples: [Vec<Sample>; WAYS.len()] = Default::default();
    for _ in 0..options.rounds.min(ROUNDS) {
        for way in [2, 3, 0, 1] {
            let time = options.sample * 3;
            let sampled = sample(&tapes[way], streams, time);
            let (back, sample) = runtime.block_on(sampled)?;
            streams = back;
            samples[way].push(sample);
        }
    }
    for (way, name) in WAYS.iter().enumerate() {
        let of = |figure: &dyn Fn(&Sample) -> f64| median(samples[way].iter().map(figure));
        let against = samples[way]
            .iter()
            .zip(&samples[way - way % 2])
            .map(|(own, native)| own.percentile(0.99) / native.percentile(0.99));
        let ms = |part| format!("{:.2}", of(&|sample| sample.percentile(part)));
        table.row(vec![
            (*name).to_owned(),
            thousands(connections),
            thousands(of(&|sample| sample.rate) as usize),
            ms(0.5),
            ms(0.99),
            ms(0.999),
            format!("{:.2}", median(against)),
        ]);
    }
    Ok(())
}

async fn connect(port: u16, connections: usize) -> Result<Vec<TcpStream>> {
    let mut streams = Vec::with_capacity(connections);
    for _ in 0..connections {
        let stream = TcpStream::connect(("127.0.0.1", port)).await?;
        stream.set_nodelay(true)?;
        streams.push(stream);
    }
    Ok(streams)
}

async fn sample(
    tape: &Arc<Tape>,
    streams: Vec<TcpStream>,
    time: Duration,
) -> Result<(Vec<TcpStream>, Sample)> {
    let start = Instant::now();
    let count = streams.len();
    let mut tasks = Vec::with_capacity(count);
    for (n, stream) in streams.into_iter().enumerate() {
        // Each connection begins at another position, so that they do not all request the same key.
        let first = n * tape.len() / count;
        tasks.push(tokio::spawn(one(
            Arc::clone(tape),
            first,
            stream,
            start + time,
        )));
    }
    let (mut back, mut latencies) = (Vec::with_capacity(count), Vec::new());
    for task in tasks {
        let (stream, own) = task.await.map_err(Error::other)??;
        back.push(stream);
        latencies.extend(own);
    }
    let rate = latencies.len() as f64 / start.elapsed().as_secs_f64();
    latencies.sort_unstable();
    Ok((back, Sample { latencies, rate }))
}

async fn one(
    tape: Arc<Tape>,
    mut at: usize,
    mut stream: TcpStream,
    until: Instant,
) -> Result<(TcpStream, Vec<u32>)> {
    let mut latencies = Vec::new();
    let mut buffer = [0; 512];
    loop {
        let sent = Instant::now();
        stream.write_all(tape.commands(at, at + 1)).await?;
        let mut received = 0;
        while reply_len(&buffer[..received], Expect::NoError)?.is_none() {
            match stream.read(&mut buffer[received..]).await? {
                0 => return Err(Error::other("the server closed the connection")),
                more => received += more,
            }
        }
        latencies.push(sent.elapsed().as_micros() as u32);
        at = (at + 1) % tape.len();
        if Instant::now() >= until {
            return Ok((stream, latencies));
        }
    }
}
