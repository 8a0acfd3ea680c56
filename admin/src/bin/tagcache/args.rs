//! Arguments of the command line.

use std::ffi::OsString;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use clap::{CommandFactory as _, Parser, Subcommand, ValueEnum};

const DEFAULT_LISTEN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 3000);
const EXIT_CODES: &str = "\
Exit codes: 0 done; 1 a negative result (nothing found, a check failed, memory grows); 2 wrong usage; 3 the server or \
the endpoint does not respond or refuses; 4 a rules file is wrong or a channel cannot be opened.";

/// Cache with tags on Redis: start, watch, try and control it.
#[derive(Debug, Parser)]
#[command(name = "tagcache", version, after_help = EXIT_CODES)]
pub(crate) struct Args {
    /// Print JSON: one document, or one per line where the output goes on.
    #[arg(long, global = true)]
    pub(crate) json: bool,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Start a server with the module on loopback, and the dashboard beside it. Ctrl-C ends both.
    Up(Up),
    /// Serve dashboard and admin endpoint for an existing server.
    Serve(Serve),
    /// Show the figures of a server.
    Stats(At),
    /// Show the keys that were read most.
    Top(Top),
    /// Show the tags by memory or entries.
    Tags(Tags),
    /// Show what the server knows about one entry. Does not count as a read.
    Inspect(Inspect),
    /// Drop every entry that carries one of these tags.
    Invalidate(Invalidate),
    /// Drop every entry of the database. Asks first.
    Flush(Flush),
    /// Examine a server and report each problem with its remedy. Changes nothing.
    Doctor(Doctor),
    /// Show the figures repeatedly. Ctrl-C ends it.
    Watch(Watch),
    /// Send many requests to an endpoint, or to a server; show latencies and memory.
    LoadTest(LoadTest),
    /// Read, write and invalidate for a while; report whether memory grows.
    Soak(Soak),
    /// Check the success criteria: heap, leaks, hit rate, dashboard, authorisation, alerts.
    Verify(Verify),
    /// Check, export and test alert rules.
    Alerts(Alerts),
    /// Write a shell's completions to standard output.
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
    /// Write the manual pages into a directory. For packages.
    #[command(hide = true)]
    Man {
        /// The directory. It must exist.
        directory: PathBuf,
    },
}

/// Which server.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct At {
    /// The server, as redis://[user:password@]host[:port][/database]. Give a password by the environment variable
    /// rather than here.
    #[arg(
        long,
        env = "TAGCACHE_REDIS",
        default_value = "redis://127.0.0.1:6379/0",
        hide_env_values = true
    )]
    pub(crate) redis: String,
    /// Memory of the container that the server runs in, such as 512MB: a server does not know it.
    #[arg(long, env = "TAGCACHE_MEMORY_LIMIT", value_name = "SIZE", value_parser = size)]
    pub(crate) memory_limit: Option<u64>,
}

impl At {
    /// The server at this URL, without further settings.
    pub(crate) fn of(redis: &str) -> Self {
        Self {
            redis: redis.to_owned(),
            memory_limit: None,
        }
    }
}

/// Where the endpoint listens and whom it lets in.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Endpoint {
    /// Where the dashboard and the admin endpoint listen. Default: 127.0.0.1:3000; `up` takes a free port where that
    /// one is taken.
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) listen: Option<SocketAddr>,
    /// File with the admin token, at least 16 characters.
    #[arg(long, value_name = "FILE")]
    pub(crate) admin_token_file: Option<PathBuf>,
    /// File with a token for read access only, at least 16 characters.
    #[arg(long, value_name = "FILE", requires = "admin_token_file")]
    pub(crate) reader_token_file: Option<PathBuf>,
    /// Let everybody on this machine in. Loopback only.
    #[arg(long, conflicts_with = "admin_token_file")]
    pub(crate) insecure_no_auth: bool,
    /// Alert rules (YAML). Default: none; for `up`, two rules about memory, which report to standard error.
    #[arg(long, value_name = "FILE")]
    pub(crate) alerts: Option<PathBuf>,
    /// Name of this instance, in the fleet and in alerts. Default: the machine's name and the port, which a restart
    /// does not change.
    #[arg(long)]
    pub(crate) instance: Option<String>,
    /// Time between samples.
    #[arg(long, default_value = "5s", value_parser = humantime::parse_duration)]
    pub(crate) interval: Duration,
    /// Whose memory is watched: the server's or this program's.
    #[arg(long, value_enum, default_value_t = Memory::Server)]
    pub(crate) memory: Memory,
}

impl Endpoint {
    /// The address to listen on.
    pub(crate) fn address(&self) -> SocketAddr {
        self.listen.unwrap_or(DEFAULT_LISTEN)
    }

    /// The name of the instance that listens on this port.
    pub(crate) fn instance(&self, port: u16) -> String {
        self.instance.clone().unwrap_or_else(|| {
            let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
            let host = host.trim();
            let host = if host.is_empty() { "tagcache" } else { host };
            format!("{host}:{port}")
        })
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Memory {
    Server,
    Process,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Up {
    #[command(flatten)]
    pub(crate) endpoint: Endpoint,
    /// The server's port on loopback. Default: 7379, or a free one where that is taken.
    #[arg(long)]
    pub(crate) port: Option<u16>,
    /// The module. Default: beside this program, in target/release, or where the Debian package puts it.
    #[arg(long, env = "TAGCACHE_MODULE", value_name = "FILE")]
    pub(crate) module: Option<PathBuf>,
    /// First fill the server from this machine's package database and show what the commands return.
    #[arg(long)]
    pub(crate) tour: bool,
    /// The file that the tour reads. Default: /var/lib/dpkg/status, or a sample where there is none.
    #[arg(long, value_name = "FILE", requires = "tour")]
    pub(crate) input: Option<PathBuf>,
    /// End after the tour, without the dashboard; with exit code 1 if a reply was not the expected one.
    #[arg(long, requires = "tour")]
    pub(crate) exit: bool,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Serve {
    #[command(flatten)]
    pub(crate) at: At,
    #[command(flatten)]
    pub(crate) endpoint: Endpoint,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Top {
    #[command(flatten)]
    pub(crate) at: At,
    /// The most that are shown.
    #[arg(long, short = 'n', default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub(crate) count: u32,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Tags {
    #[command(flatten)]
    pub(crate) at: At,
    /// The order.
    #[arg(long, value_enum, default_value_t = By::Bytes)]
    pub(crate) by: By,
    /// The most that are shown.
    #[arg(long, short = 'n', default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub(crate) count: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum By {
    Bytes,
    Entries,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Inspect {
    #[command(flatten)]
    pub(crate) at: At,
    /// The entry's key.
    pub(crate) key: OsString,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Invalidate {
    #[command(flatten)]
    pub(crate) at: At,
    /// The tags.
    #[arg(required = true)]
    pub(crate) tags: Vec<OsString>,
    /// Entries turn stale for their grace, instead of gone.
    #[arg(long)]
    pub(crate) soft: bool,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Flush {
    #[command(flatten)]
    pub(crate) at: At,
    /// Do not ask.
    #[arg(long, short = 'y')]
    pub(crate) yes: bool,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Doctor {
    #[command(flatten)]
    pub(crate) at: At,
    /// The ACL user whose permissions are checked, such as an application's. Default: the one of --redis.
    #[arg(long, value_name = "NAME")]
    pub(crate) user: Option<String>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Watch {
    #[command(flatten)]
    pub(crate) at: At,
    /// Time between two outputs.
    #[arg(long, default_value = "1s", value_parser = humantime::parse_duration)]
    pub(crate) interval: Duration,
    /// End after this many outputs.
    #[arg(long, short = 'n', value_name = "LOOKS")]
    pub(crate) count: Option<u64>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct LoadTest {
    /// The endpoint, which is requested for memory-stats.
    #[arg(
        long,
        default_value = "http://127.0.0.1:3000",
        conflicts_with = "redis"
    )]
    pub(crate) url: String,
    /// File with the endpoint's token.
    #[arg(long, value_name = "FILE")]
    pub(crate) token_file: Option<PathBuf>,
    /// Read and write entries of this server instead.
    #[arg(long, env = "TAGCACHE_LOAD_REDIS", hide_env_values = true)]
    pub(crate) redis: Option<String>,
    /// Requests in all.
    #[arg(long, short = 'n', default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..=100_000_000))]
    pub(crate) iterations: u64,
    /// Requests at once.
    #[arg(long, short = 'c', default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(crate) concurrency: u32,
    /// Pause after each batch of `concurrency` requests, for an endpoint.
    #[arg(long, default_value = "100ms", value_parser = humantime::parse_duration)]
    pub(crate) pause: Duration,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Soak {
    #[command(flatten)]
    pub(crate) at: At,
    #[command(flatten)]
    pub(crate) work: Work,
    /// Let nothing stay: keys, tags, connections and clients with a local tier come and go; judge more figures than
    /// memory. --keys is then the window of keys in use, which moves on, and --value-bytes the mean.
    #[arg(long)]
    pub(crate) churn: bool,
    /// Commands per round trip.
    #[arg(long, requires = "churn", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(crate) pipeline: u32,
    /// Commands per second in all. 0: as fast as the server replies.
    #[arg(long, requires = "churn", default_value_t = 0)]
    pub(crate) rate: u64,
    /// End after this many commands, if that is sooner. 0: end by time.
    #[arg(long, requires = "churn", default_value_t = 0)]
    pub(crate) commands: u64,
    /// Commands before the run, at full speed in round trips of 100: they are not measured.
    #[arg(long, requires = "churn", value_name = "COMMANDS", default_value_t = 0)]
    pub(crate) warm_up: u64,
}

impl Soak {
    /// The part of the run that is over after this time and this many commands, from 0 to 1.
    pub(crate) fn part(&self, elapsed: Duration, commands: u64) -> f64 {
        let by_time = elapsed.as_secs_f64() / self.work.duration.as_secs_f64();
        let by_commands = commands as f64 / self.commands as f64;
        if self.commands == 0 {
            by_time
        } else {
            by_time.max(by_commands)
        }
    }
}

/// How long and how hard.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Work {
    /// Length of the run, at least 2s; 24h and more is possible.
    #[arg(long, default_value = "60s", value_parser = humantime::parse_duration)]
    pub(crate) duration: Duration,
    /// Connections.
    #[arg(long, short = 'c', default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(crate) concurrency: u32,
    /// Different keys that are read.
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(100..=10_000_000))]
    pub(crate) keys: u32,
    /// Bytes per value.
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(crate) value_bytes: u32,
    /// Growth above this is a leak, in MB per minute.
    #[arg(long, default_value_t = 1.0, value_parser = rate)]
    pub(crate) leak_rate: f64,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Verify {
    #[command(flatten)]
    pub(crate) at: At,
    #[command(flatten)]
    pub(crate) work: Work,
    /// Alert rules to check. Default: the guide's (85 % warning, 95 % critical).
    #[arg(long, value_name = "FILE")]
    pub(crate) alerts: Option<PathBuf>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Alerts {
    #[command(subcommand)]
    pub(crate) command: AlertsCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum AlertsCommand {
    /// Check a rules file, and that its channels can be opened.
    Check {
        /// The file.
        file: PathBuf,
        /// Check syntax, conditions and names only: secrets need not be there.
        #[arg(long)]
        syntax_only: bool,
    },
    /// Write the rules in Prometheus's form, or a Grafana dashboard over the same metrics, to standard output.
    Export {
        /// The rules file.
        #[arg(required_unless_present = "grafana")]
        file: Option<PathBuf>,
        /// The dashboard instead of rules.
        #[arg(long)]
        grafana: bool,
    },
    /// Send a test message through a channel.
    Test {
        /// The rules file that describes the channel.
        file: PathBuf,
        /// The channel. Default: every channel that a rule names.
        #[arg(long)]
        channel: Vec<String>,
    },
    /// List the metrics that conditions may use.
    Metrics,
}

/// Bytes, or a number with a unit of 1024.
fn size(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic() || c == ' ');
    let unit: u64 = match text[digits.len()..].trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" | "kb" | "ki" | "kib" => 1 << 10,
        "m" | "mb" | "mi" | "mib" => 1 << 20,
        "g" | "gb" | "gi" | "gib" => 1 << 30,
        _ => return Err("the unit must be KB, MB or GB".into()),
    };
    let number: u64 = digits.parse().map_err(|_| "not a whole number")?;
    match number.checked_mul(unit) {
        Some(bytes) if bytes > 0 => Ok(bytes),
        _ => Err("it must be above 0, and below 16 EB".into()),
    }
}

/// A rate of growth above 0, in MB per minute.
fn rate(text: &str) -> Result<f64, String> {
    let rate: f64 = text.parse().map_err(|_| "not a number".to_owned())?;
    if rate.is_finite() && rate > 0.0 {
        Ok(rate)
    } else {
        Err("it must be above 0".into())
    }
}

/// Writes `tagcache.1`, and a page for each command that the help lists.
pub(crate) fn manual(directory: &std::path::Path) -> std::io::Result<()> {
    clap_mangen::generate_to(Args::command(), directory)
}

pub(crate) fn completions(shell: clap_complete::Shell) -> String {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Args::command(), "tagcache", &mut script);
    String::from_utf8_lossy(&script).into_owned()
}
