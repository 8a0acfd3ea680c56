//! Invalidations that a server has yet to be told.

use std::collections::BTreeSet;

use redis::Cmd;

use super::command::{self, Invalidation};

/// More tags than this are not kept for one server.
const MAX_TAGS: usize = 100_000;
/// Tags in one command.
const BATCH: usize = 1000;

/// What one server missed, merged: an invalidation that comes late or twice drops too much, never too little.
#[derive(Clone, Debug, Default)]
pub(crate) struct Missed {
    flush: bool,
    hard: BTreeSet<String>,
    soft: BTreeSet<String>,
}

impl Missed {
    pub(crate) fn len(&self) -> usize {
        self.hard.len() + self.soft.len() + usize::from(self.flush)
    }

    /// Keeps tags to be told; `false`, and nothing kept, when there would be too many.
    pub(crate) fn add(&mut self, kind: Invalidation, tags: &[String]) -> bool {
        if self.len() + tags.len() > MAX_TAGS {
            return false;
        }
        match kind {
            Invalidation::Hard => self.hard.extend(tags.iter().cloned()),
            Invalidation::Soft => self.soft.extend(tags.iter().cloned()),
        }
        true
    }

    pub(crate) fn add_flush(&mut self) {
        self.flush = true;
    }

    /// Takes out the next command to be sent, and what it tells.
    pub(crate) fn take(&mut self) -> Option<(Cmd, Self)> {
        let mut taken = Self::default();
        if self.flush {
            taken.flush = std::mem::take(&mut self.flush);
            return Some((command::flush(), taken));
        }
        let (kind, from, to) = if self.hard.is_empty() {
            (Invalidation::Soft, &mut self.soft, &mut taken.soft)
        } else {
            (Invalidation::Hard, &mut self.hard, &mut taken.hard)
        };
        while to.len() < BATCH {
            let Some(tag) = from.pop_first() else { break };
            to.insert(tag);
        }
        if to.is_empty() {
            return None;
        }
        let tags: Vec<String> = to.iter().cloned().collect();
        Some((command::invalidate(kind, &tags), taken))
    }

    /// Puts back what could not be sent.
    pub(crate) fn put_back(&mut self, taken: Self) {
        self.flush |= taken.flush;
        self.hard.extend(taken.hard);
        self.soft.extend(taken.soft);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(cmd: &Cmd) -> Vec<String> {
        cmd.args_iter()
            .map(|arg| match arg {
                redis::Arg::Simple(bytes) => String::from_utf8(bytes.to_vec()).unwrap(),
                _ => unreachable!("no cursor here"),
            })
            .collect()
    }

    #[test]
    fn what_was_missed_is_merged_and_told_once() {
        let mut missed = Missed::default();
        assert!(missed.add(Invalidation::Soft, &["s".to_owned()]));
        assert!(missed.add(Invalidation::Hard, &["b".to_owned(), "a".to_owned()]));
        assert!(missed.add(Invalidation::Hard, &["a".to_owned()]));
        assert_eq!(missed.len(), 3);
        let (cmd, taken) = missed.take().unwrap();
        assert_eq!(words(&cmd), ["CACHE.INVALIDATE", "a", "b"]);
        missed.put_back(taken);
        missed.add_flush();
        let mut told = Vec::new();
        while let Some((cmd, _)) = missed.take() {
            told.push(words(&cmd).join(" "));
        }
        assert_eq!(
            told,
            ["CACHE.FLUSH", "CACHE.INVALIDATE a b", "CACHE.REVALIDATE s"]
        );
        assert_eq!(missed.len(), 0);
    }

    #[test]
    fn too_much_is_refused_as_a_whole() {
        let mut missed = Missed::default();
        let many: Vec<String> = (0..MAX_TAGS).map(|n| n.to_string()).collect();
        assert!(missed.add(Invalidation::Hard, &many));
        assert!(!missed.add(Invalidation::Soft, &["one more".to_owned()]));
        assert_eq!(missed.len(), MAX_TAGS);
    }
}
