//! Hostile inputs: known ones, damaged at random.
//!
//! Environment:
//! - `TAGCACHE_FUZZ_SECONDS`: how long each target runs, instead of the number of inputs that it has for a short run.
//! - `TAGCACHE_FUZZ_REPORT`: a file to which each target appends a line of a table: name, inputs, seconds, outcome.
//! - `TAGCACHE_SEED`: the seed, as for [`Rng::from_env`].

use std::io::Write as _;
use std::time::{Duration, Instant};

use crate::rng::Rng;

/// Bytes that decoders may mishandle: ends of ranges, signs, separators.
const EXTREMES: [u8; 16] = [
    0x00, 0x01, 0x0a, 0x0d, 0x20, b'"', b'$', b'*', b'-', b'0', b'9', b'{', 0x7f, 0x80, 0xfe, 0xff,
];
/// Numbers as text.
const NUMBERS: [&str; 9] = [
    "-1",
    "0",
    "255",
    "65536",
    "2147483648",
    "4294967296",
    "9223372036854775807",
    "18446744073709551616",
    "1e999",
];

/// The inputs that a target still gets.
#[derive(Debug)]
pub struct Budget {
    target: &'static str,
    /// Its random numbers.
    pub rng: Rng,
    done: u64,
    short: u64,
    started: Instant,
    long: Option<Duration>,
}

impl Budget {
    /// `short` inputs, or as many as fit in the time that is set.
    ///
    /// # Panics
    /// Panics if a variable is not a number.
    pub fn new(target: &'static str, short: u64) -> Self {
        let seconds = std::env::var("TAGCACHE_FUZZ_SECONDS").ok();
        Self {
            target,
            rng: Rng::from_env(1),
            done: 0,
            short,
            started: Instant::now(),
            long: seconds.map(|text| Duration::from_secs(text.parse().expect("a number"))),
        }
    }

    /// Whether `inputs` more are to be tried; counts them.
    pub fn takes(&mut self, inputs: u64) -> bool {
        let more = self.long.map_or(self.done < self.short, |long| {
            self.done == 0 || self.started.elapsed() < long
        });
        self.done += if more { inputs } else { 0 };
        more
    }
}

impl Drop for Budget {
    fn drop(&mut self) {
        let seconds = self.started.elapsed().as_secs_f64();
        let outcome = if std::thread::panicking() {
            "FAILED"
        } else {
            "passed"
        };
        let line = format!(
            "| {} | {} | {seconds:.1} | {outcome} |\n",
            self.target, self.done
        );
        print!("{line}");
        if let Some(report) = std::env::var_os("TAGCACHE_FUZZ_REPORT") {
            let file = std::fs::File::options()
                .create(true)
                .append(true)
                .open(report);
            let _ = file.and_then(|mut file| file.write_all(line.as_bytes()));
        }
    }
}

/// Shows the input if the test ends in a panic.
struct Shown<'i>(&'i [u8]);

impl Drop for Shown<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the input: b\"{}\"", self.0.escape_ascii());
        }
    }
}

/// Gives `target` every input of the corpus, and then damaged ones: `short` of them, or for the time that is set.
pub fn fuzz(target: &'static str, short: u64, corpus: &[Vec<u8>], mut run: impl FnMut(&[u8])) {
    let mut budget = Budget::new(target, short);
    for input in corpus {
        budget.takes(1);
        let _shown = Shown(input);
        run(input);
    }
    budget.short += corpus.len() as u64;
    while budget.takes(1) {
        let input = damaged(&mut budget.rng, corpus);
        let _shown = Shown(&input);
        run(&input);
    }
}

/// One of these inputs, damaged in one to eight ways, or sometimes random bytes.
pub fn damaged(rng: &mut Rng, corpus: &[Vec<u8>]) -> Vec<u8> {
    if rng.one_in(20) {
        let len = rng.below(64);
        return rng.bytes(len);
    }
    let mut bytes = rng.pick(corpus);
    for _ in 0..=rng.below(8).min(rng.below(8)) {
        damage(rng, &mut bytes, corpus);
    }
    bytes
}

fn damage(rng: &mut Rng, bytes: &mut Vec<u8>, corpus: &[Vec<u8>]) {
    let at = rng.below(bytes.len() + 1);
    if at == bytes.len() {
        bytes.push(rng.pick(&EXTREMES));
        return;
    }
    let end = at + rng.below((bytes.len() - at).min(16) + 1);
    match rng.below(9) {
        0 => bytes[at] ^= 1 << rng.below(8),
        1 => bytes[at] = rng.pick(&EXTREMES),
        2 => drop(bytes.drain(at..end)),
        3 => bytes.insert(at, rng.pick(&EXTREMES)),
        4 => bytes.truncate(at),
        5 => {
            let twice = bytes[at..end].to_vec();
            bytes.splice(at..at, twice);
        }
        6 => {
            let number = rng.pick(&NUMBERS);
            let digits = bytes[at..].iter().take_while(|b| b.is_ascii_digit());
            let end = at + digits.count();
            bytes.splice(at..end, number.bytes());
        }
        7 => {
            let other = rng.pick(corpus);
            let from = rng.below(other.len() + 1);
            bytes.splice(at.., other[from..].iter().copied());
        }
        _ => {
            let other = rng.pick(corpus);
            let from = rng.below(other.len() + 1);
            let to = from + rng.below(other.len() - from + 1);
            bytes.splice(at..at, other[from..to].iter().copied());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_gets_the_corpus_then_the_requested_damaged_inputs() {
        let corpus = [b"*1\r\n$4\r\nPING\r\n".to_vec(), b"12345".to_vec()];
        let mut inputs = Vec::new();
        fuzz("itself", 500, &corpus, |input| inputs.push(input.to_vec()));
        assert_eq!(inputs[..2], corpus);
        if std::env::var_os("TAGCACHE_FUZZ_SECONDS").is_none() {
            assert_eq!(inputs.len(), 502);
        }
        let different: std::collections::HashSet<_> = inputs.iter().collect();
        assert!(different.len() > 300, "{}", different.len());
    }
}
