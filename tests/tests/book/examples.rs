//! Sessions in the documentation: blocks marked `redis`, with commands after `> ` and the output of `redis-cli -3`.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};

use tagcache_tests::{DEADLINE, Server};

use crate::{Page, pages};

/// Numbers from here on are times, sizes and tokens, which differ from run to run and from server to server.
const EXACT_BELOW: u64 = 50;
/// Numbers with at least this many digits are lease tokens, which later commands use.
const TOKEN_DIGITS: usize = 14;
/// The end of a reply: redis-cli prints nothing else between two.
const END: &str = "end-of-reply";

struct Step {
    line: usize,
    command: String,
    printed: Vec<String>,
}

fn steps(page: &Page) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    let mut is_session = false;
    for (number, line) in page.text.lines().enumerate() {
        if line.starts_with("```") {
            is_session = line == "```redis";
        } else if let Some(command) = line.strip_prefix("> ").filter(|_| is_session) {
            steps.push(Step {
                line: number + 1,
                command: command.to_owned(),
                printed: Vec::new(),
            });
        } else if is_session {
            let step = steps.last_mut().expect("a session begins with a command");
            step.printed.push(line.to_owned());
        }
    }
    steps
}

/// A `redis-cli` that keeps one connection.
struct Cli {
    child: Child,
    input: ChildStdin,
    lines: Receiver<String>,
}

impl Cli {
    fn start(server: &Server, protocol: &str) -> Self {
        let mut child = Command::new("redis-cli")
            .args([protocol, "--no-raw", "-p", &server.port().to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("redis-cli is installed");
        let input = child.stdin.take().expect("it was piped");
        let output = BufReader::new(child.stdout.take().expect("it was piped"));
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                if sender.send(line.trim_end().to_owned()).is_err() {
                    break;
                }
            }
        });
        Self {
            child,
            input,
            lines,
        }
    }

    fn run(&mut self, command: &str) -> Vec<String> {
        writeln!(self.input, "{command}\nPING {END}").expect("redis-cli reads");
        let mut printed = Vec::new();
        loop {
            let line = self.lines.recv_timeout(DEADLINE).unwrap_or_else(|error| {
                panic!("{command}: {error}, redis-cli printed {printed:?}")
            });
            if line == format!("\"{END}\"") {
                return printed;
            }
            printed.push(line);
        }
    }
}

impl Drop for Cli {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The number of a line that ends with one.
fn number(line: &str) -> Option<(&str, &str)> {
    let (before, number) = line.rsplit_once("(integer) ")?;
    Some((before, number))
}

fn is_id(text: &str) -> bool {
    let id = text.trim_matches('"');
    id.len() == 16 && id.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// Whether a printed line matches the page.
fn is_alike(shown: &str, printed: &str) -> bool {
    let is_large = |number: &str| number.parse::<u64>().is_ok_and(|n| n >= EXACT_BELOW);
    let last = |line: &'_ str| line.rsplit(' ').next().is_some_and(is_id);
    match (number(shown), number(printed)) {
        (Some((before, shown)), Some((same, printed))) => {
            let is_age = before.contains("\"age\"");
            before == same && (shown == printed || is_age || is_large(shown) && is_large(printed))
        }
        _ => shown == printed || (last(shown) && last(printed)),
    }
}

/// Runs the sessions of a page on a new server. Returns the replies to each command, and the lines that differ from the
/// page.
fn run(page: &Page, protocol: &str) -> (Vec<(String, Vec<String>)>, Vec<String>) {
    let server = Server::start();
    let mut cli = Cli::start(&server, protocol);
    let mut tokens: BTreeMap<String, String> = BTreeMap::new();
    let (mut replies, mut differences) = (Vec::new(), Vec::new());
    for step in steps(page) {
        let words = step.command.split(' ');
        let words: Vec<_> = words
            .map(|word| tokens.get(word).map_or(word, String::as_str))
            .collect();
        let printed = cli.run(&words.join(" "));
        let pairs = || step.printed.iter().zip(&printed);
        if step.printed.len() != printed.len()
            || !pairs().all(|(shown, line)| is_alike(shown, line))
        {
            differences.push(format!(
                "{}:{}: {}\nshown:\n{}\nprinted:\n{}\n",
                page.name,
                step.line,
                step.command,
                step.printed.join("\n"),
                printed.join("\n")
            ));
        }
        for (shown, line) in pairs() {
            if let (Some((_, shown)), Some((_, token))) = (number(shown), number(line))
                && shown.len() >= TOKEN_DIGITS
            {
                tokens.insert(shown.to_owned(), token.to_owned());
            }
        }
        replies.push((step.command, printed));
    }
    (replies, differences)
}

#[test]
fn each_session_in_the_documentation_shows_its_real_output() {
    let mut differences = Vec::new();
    let mut sessions = 0;
    for page in pages() {
        if !steps(&page).is_empty() {
            sessions += 1;
            differences.extend(run(&page, "-3").1);
        }
    }
    assert!(differences.is_empty(), "{}", differences.join("\n"));
    assert!(sessions > 20, "only {sessions} pages have sessions");
}

/// The type of a reply, or nothing for an error.
fn type_of(printed: &[String]) -> Option<&'static str> {
    let first = printed.first()?.trim_start();
    let digits = first.trim_start_matches(|c: char| c.is_ascii_digit());
    Some(match first {
        _ if first.starts_with("(error)") => return None,
        _ if first.starts_with("(integer)") => "integer",
        _ if first.starts_with("(double)") => "double",
        _ if first == "(nil)" => "null",
        _ if first == "(empty array)" || digits.starts_with(") ") => "array",
        _ if digits.starts_with("# ") => "map",
        _ if first.starts_with('"') => "bulk string",
        _ => "simple string",
    })
}

/// The types that a column of the table of replies names. `array, flat` is an array.
fn documented(page: &Page, column: usize) -> BTreeSet<&str> {
    let (_, section) = page
        .text
        .split_once("## Reply\n")
        .expect("a section on replies");
    let table = section
        .trim_start()
        .lines()
        .take_while(|line| line.starts_with('|'));
    table
        .skip(2)
        .map(|row| {
            let cell = row.split('|').nth(column).expect("a column").trim();
            cell.split(',').next().unwrap_or(cell)
        })
        .collect()
}

#[test]
fn each_command_replies_with_the_types_that_its_page_names() {
    let mut wrong = Vec::new();
    for page in pages() {
        let Some(file) = page.name.strip_prefix("docs/src/commands/") else {
            continue;
        };
        let command = format!("CACHE.{}", file.trim_end_matches(".md").to_uppercase());
        for (protocol, column) in [("-2", 1), ("-3", 2)] {
            let of_page = |reply: &(String, Vec<String>)| {
                let is_it = reply.0.split(' ').next() == Some(command.as_str());
                is_it.then(|| type_of(&reply.1)).flatten()
            };
            let seen: BTreeSet<_> = run(&page, protocol).0.iter().filter_map(of_page).collect();
            let named = documented(&page, column);
            if seen != named {
                wrong.push(format!(
                    "{command} {protocol}: seen {seen:?}, documented {named:?}"
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}
