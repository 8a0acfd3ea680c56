//! Invalidations that a server has yet to be sent.

use std::collections::{BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use redis::Cmd;

use super::command::Invalidation;
use super::message::Push;

/// The most tags that are kept for one server.
const MAX_TAGS: usize = 100_000;
/// The most written keys that are remembered per half of the time.
const MAX_KEYS: usize = 10_000;
/// Tags or keys in one command.
const BATCH: usize = 1000;

/// Bytes of tags or keys in one command, which each subscriber is sent as one message.
const MOST_BYTES: usize = 1 << 20;

/// The invalidations that one server missed, merged: one that comes late or twice drops too much, never too little.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Missed {
    flush: bool,
    hard: BTreeSet<String>,
    soft: BTreeSet<String>,
    /// Keys that were written lately: the server may have an older value, which is removed.
    keys: BTreeSet<String>,
}

impl Missed {
    pub(crate) fn len(&self) -> usize {
        self.hard.len() + self.soft.len() + self.keys.len() + usize::from(self.flush)
    }

    /// An invalidation by these tags; without tags, of everything.
    pub(crate) fn of(kind: Invalidation, tags: &[String]) -> Self {
        let mut missed = Self {
            flush: tags.is_empty(),
            ..Self::default()
        };
        let names = tags.iter().cloned();
        match kind {
            Invalidation::Hard => missed.hard.extend(names),
            Invalidation::Soft => missed.soft.extend(names),
        }
        missed
    }

    /// Adds another; returns `false`, and adds nothing, if there would be too many tags.
    pub(crate) fn add(&mut self, other: &Self) -> bool {
        let tags = |missed: &Self| missed.hard.len() + missed.soft.len();
        let fits = tags(self) + tags(other) <= MAX_TAGS;
        if fits {
            self.merge(other.clone());
        }
        fits
    }

    /// Adds all of another, whatever its size.
    pub(crate) fn merge(&mut self, other: Self) {
        self.flush |= other.flush;
        self.hard.extend(other.hard);
        self.soft.extend(other.soft);
        self.keys.extend(other.keys);
    }

    /// Takes out the next command to send, of at most `most` tags or keys, and its contents.
    fn take(&mut self, most: usize) -> Option<(Cmd, Self)> {
        let mut taken = Self::default();
        if self.flush {
            taken.flush = std::mem::take(&mut self.flush);
            return Some((redis::cmd("CACHE.FLUSH"), taken));
        }
        let (command, from, to) = if !self.hard.is_empty() {
            ("CACHE.INVALIDATE", &mut self.hard, &mut taken.hard)
        } else if !self.soft.is_empty() {
            ("CACHE.REVALIDATE", &mut self.soft, &mut taken.soft)
        } else {
            // In one command as well: no keys are remembered in a cluster.
            ("CACHE.DEL", &mut self.keys, &mut taken.keys)
        };
        let (mut cmd, mut bytes) = (redis::cmd(command), 0);
        while to.len() < most && bytes < MOST_BYTES {
            let Some(name) = from.pop_first() else { break };
            bytes += name.len();
            cmd.arg(&name);
            to.insert(name);
        }
        (!to.is_empty()).then_some((cmd, taken))
    }
}

/// Invalidations that wait for one server, and those in flight to it.
#[derive(Debug, Default)]
pub(crate) struct Backlog {
    pub(crate) waiting: Missed,
    /// Kept until the reply arrives: a node that takes over meanwhile must be sent it as well.
    sending: Missed,
    /// Names that this user may not touch, one each: retried from time to time, and no other name waits for them.
    denied: VecDeque<Missed>,
    /// Tags or keys in the next command, after a command with several was refused.
    fewer: Option<usize>,
    /// Invalidations that this server gets later than the others do. Afterwards all servers are sent them once more.
    pub(crate) late: Missed,
    /// Some were confirmed to callers: another server executed them, or this one did before it lost them.
    pub(crate) is_promised: bool,
}

impl Backlog {
    pub(crate) fn len(&self) -> usize {
        self.waiting.len() + self.sending.len() + self.denied.len()
    }

    /// The next command to send. Report its result by `confirmed`, `put_back` or `refused`.
    pub(crate) fn next(&mut self) -> Option<Cmd> {
        self.put_back();
        let next = self.waiting.take(self.fewer.unwrap_or(BATCH));
        self.is_promised &= next.is_some();
        let (cmd, taken) = next?;
        self.sending = taken;
        Some(cmd)
    }

    /// Whether a flush is being sent.
    pub(crate) fn is_flushing(&self) -> bool {
        self.sending.flush
    }

    pub(crate) fn confirmed(&mut self) {
        self.sending = Missed::default();
        let twice = self.fewer.map(|fewer| fewer * 2);
        self.fewer = twice.filter(|twice| *twice < BATCH);
        self.retry_denied();
    }

    /// The server did not get it: it is sent again.
    pub(crate) fn put_back(&mut self) {
        self.waiting.merge(std::mem::take(&mut self.sending));
    }

    /// Lets one that was denied wait again.
    pub(crate) fn retry_denied(&mut self) {
        self.waiting
            .merge(self.denied.pop_front().unwrap_or_default());
    }

    /// The server will never take it, or not from this user (`is_denied`). One bad tag must not keep the others back,
    /// so they go in smaller batches from here on; a command that cannot be smaller is dropped (`false`) or set aside.
    pub(crate) fn refused(&mut self, is_denied: bool) -> bool {
        let count = self.sending.len();
        let is_kept = is_denied && self.denied.len() < BATCH;
        if count > 1 {
            self.fewer = Some(count / 2);
            self.put_back();
        } else if is_kept {
            self.denied.retain(|known| *known != self.sending);
            self.denied.push_back(std::mem::take(&mut self.sending));
        } else {
            self.confirmed();
        }
        count > 1 || is_kept
    }

    /// Takes the late ones out once the server has all that this user may send it.
    pub(crate) fn take_late(&mut self) -> Option<Missed> {
        let is_sent = self.len() == self.denied.len();
        (is_sent && self.late.len() > 0).then(|| std::mem::take(&mut self.late))
    }

    pub(crate) fn take_all(&mut self) -> Missed {
        self.put_back();
        self.waiting.merge(std::mem::take(&mut self.late));
        for one in std::mem::take(&mut self.denied) {
            self.waiting.merge(one);
        }
        std::mem::take(&mut self.waiting)
    }
}

/// The invalidations in the namespace in the last one to two minutes, by any process. A node that becomes a primary is
/// sent them: its keys may have come from elsewhere, or the primary before it had received more.
#[derive(Debug)]
pub(crate) struct Recent {
    /// The prefix of this cache's keys and tags.
    prefix: String,
    current: Missed,
    before: Missed,
    turned: Instant,
    /// Everything since this time is remembered.
    since: Instant,
}

impl Recent {
    const KEPT: Duration = Duration::from_secs(60);

    pub(crate) fn new(prefix: String) -> Self {
        Self {
            prefix,
            current: Missed::default(),
            before: Missed::default(),
            turned: Instant::now(),
            since: Instant::now(),
        }
    }

    pub(crate) fn add(&mut self, missed: &Missed, now: Instant) {
        self.turn(now);
        if !self.current.add(missed) {
            self.before = std::mem::replace(&mut self.current, missed.clone());
            self.since = self.turned;
            self.turned = now;
        }
    }

    /// Records an invalidation that a server announced.
    pub(crate) fn notified(&mut self, push: &Push<'_>, now: Instant) {
        match push {
            Push::Tags(kind, tags) => {
                let texts = tags.iter().filter_map(|tag| std::str::from_utf8(tag).ok());
                let own = texts.filter(|tag| tag.starts_with(&self.prefix));
                let own: Vec<String> = own.map(str::to_owned).collect();
                if !own.is_empty() {
                    self.add(&Missed::of(*kind, &own), now);
                }
            }
            // Without a namespace this would flush the entries of others, too.
            Push::Everything if !self.prefix.is_empty() => self.add(&self.namespace(), now),
            _ => {}
        }
    }

    /// An invalidation of the whole namespace, by the tag that all its entries carry; without a namespace, a flush.
    pub(crate) fn namespace(&self) -> Missed {
        let prefix = Some(self.prefix.clone()).filter(|prefix| !prefix.is_empty());
        Missed::of(Invalidation::Hard, prefix.as_slice())
    }

    /// Records a written key. If very many are written in a minute, some are not remembered.
    pub(crate) fn add_key(&mut self, key: &str, now: Instant) {
        self.turn(now);
        if self.current.keys.len() < MAX_KEYS {
            self.current.keys.insert(key.to_owned());
        }
    }

    /// The time since which everything is remembered.
    pub(crate) fn since(&mut self, now: Instant) -> Instant {
        self.turn(now);
        self.since
    }

    pub(crate) fn all(&mut self, now: Instant) -> Missed {
        self.turn(now);
        let mut all = self.before.clone();
        all.merge(self.current.clone());
        all
    }

    fn turn(&mut self, now: Instant) {
        let age = now.saturating_duration_since(self.turned);
        if age >= Self::KEPT {
            let last = std::mem::take(&mut self.current);
            (self.before, self.since) = if age < Self::KEPT * 2 {
                (last, self.turned)
            } else {
                (Missed::default(), now)
            };
            self.turned = now;
        }
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

    fn tags(names: &[&str]) -> Vec<String> {
        names.iter().map(|&name| name.to_owned()).collect()
    }

    fn confirmed(backlog: &mut Backlog) -> Vec<String> {
        let mut sent = Vec::new();
        while let Some(cmd) = backlog.next() {
            sent.push(words(&cmd).join(" "));
            backlog.confirmed();
        }
        sent
    }

    #[test]
    fn missed_invalidations_are_merged_and_sent_once() {
        let mut backlog = Backlog::default();
        let waiting = &mut backlog.waiting;
        assert!(waiting.add(&Missed::of(Invalidation::Soft, &tags(&["s"]))));
        assert!(waiting.add(&Missed::of(Invalidation::Hard, &tags(&["b", "a"]))));
        assert!(waiting.add(&Missed::of(Invalidation::Hard, &tags(&["a"]))));
        assert_eq!(backlog.len(), 3);
        assert_eq!(
            words(&backlog.next().unwrap()),
            ["CACHE.INVALIDATE", "a", "b"]
        );
        assert_eq!(backlog.len(), 3, "it has not been sent yet");
        backlog.put_back();
        backlog.waiting.add(&Missed::of(Invalidation::Hard, &[]));
        assert_eq!(
            confirmed(&mut backlog),
            ["CACHE.FLUSH", "CACHE.INVALIDATE a b", "CACHE.REVALIDATE s"]
        );
        assert_eq!(backlog.len(), 0);
    }

    #[test]
    fn written_keys_are_sent_in_batches_after_the_tags() {
        let now = Instant::now();
        let mut recent = Recent::new(String::new());
        let mut backlog = Backlog::default();
        for n in 1000..3500 {
            recent.add_key(&n.to_string(), now);
        }
        recent.add(&Missed::of(Invalidation::Hard, &tags(&["a"])), now);
        backlog.waiting.merge(recent.all(now));
        let sent = confirmed(&mut backlog);
        assert_eq!(sent.len(), 4);
        assert_eq!(sent[0], "CACHE.INVALIDATE a");
        assert!(sent[1].starts_with("CACHE.DEL 1000 1001 "));
        assert!(sent[3].ends_with(" 3498 3499"));
        // A key that is refused, because it holds another type by now, keeps no other from being sent.
        backlog.waiting.merge(recent.all(now));
        let mut removed = Vec::new();
        while let Some(cmd) = backlog.next() {
            let words = words(&cmd);
            if words.iter().any(|word| word == "1777") {
                backlog.refused(false);
            } else {
                removed.extend(words.into_iter().skip(1));
                backlog.confirmed();
            }
        }
        assert_eq!(removed.len(), 2500);
    }

    #[test]
    fn invalidation_above_the_limit_is_refused_as_a_whole() {
        let mut missed = Missed::default();
        let many: Vec<String> = (0..MAX_TAGS).map(|n| n.to_string()).collect();
        assert!(missed.add(&Missed::of(Invalidation::Hard, &many)));
        assert!(!missed.add(&Missed::of(Invalidation::Soft, &tags(&["one more"]))));
        assert_eq!(missed.len(), MAX_TAGS);
    }

    #[test]
    fn takeover_includes_invalidations_in_flight() {
        let mut backlog = Backlog::default();
        backlog
            .waiting
            .add(&Missed::of(Invalidation::Hard, &tags(&["a"])));
        assert!(backlog.next().is_some());
        // Missed once more while the first sending has no reply: that reply must not count for both.
        backlog
            .waiting
            .add(&Missed::of(Invalidation::Hard, &tags(&["a"])));
        backlog.confirmed();
        assert_eq!(backlog.len(), 1);
        assert!(backlog.next().is_some());
        backlog
            .waiting
            .add(&Missed::of(Invalidation::Soft, &tags(&["s"])));
        assert_eq!(backlog.take_all().len(), 2);
        assert_eq!(backlog.len(), 0);
    }

    #[test]
    fn refused_tag_does_not_block_other_tags() {
        let mut backlog = Backlog::default();
        let many: Vec<String> = (1000..3500).map(|n| n.to_string()).collect();
        backlog.waiting.add(&Missed::of(Invalidation::Hard, &many));
        let (mut sent, mut dropped, mut commands) = (BTreeSet::new(), Vec::new(), 0);
        while let Some(cmd) = backlog.next() {
            commands += 1;
            let words = words(&cmd);
            if !words.iter().any(|word| word == "1777") {
                sent.extend(words.into_iter().skip(1));
                backlog.confirmed();
            } else if !backlog.refused(false) {
                dropped.push(words[1].clone());
            }
        }
        assert_eq!(sent.len(), 2499);
        assert_eq!(dropped, ["1777"]);
        assert!(commands < 60, "{commands} commands");
    }

    #[test]
    fn denied_tag_is_retried_without_blocking_others() {
        let mut backlog = Backlog::default();
        let many = tags(&["a", "b", "denied", "denied too", "x", "y"]);
        backlog.waiting.add(&Missed::of(Invalidation::Hard, &many));
        // Sends the waiting ones; returns the number of commands and the accepted names.
        let round = |backlog: &mut Backlog, is_granted: bool| {
            let (mut commands, mut sent) = (0, BTreeSet::new());
            backlog.retry_denied();
            while let Some(cmd) = backlog.next() {
                commands += 1;
                let words = words(&cmd).split_off(1);
                if !is_granted && words.iter().any(|word| word.starts_with("denied")) {
                    assert!(backlog.refused(true));
                } else {
                    sent.extend(words);
                    backlog.confirmed();
                }
            }
            (commands, sent)
        };
        let names = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect();
        let (commands, sent) = round(&mut backlog, false);
        assert_eq!(sent, names(&["a", "b", "x", "y"]));
        assert!(commands < 20, "{commands} commands");
        assert_eq!(backlog.len(), 2);
        for _ in 0..3 {
            assert_eq!(round(&mut backlog, false), (1, names(&[])));
        }
        assert_eq!(
            round(&mut backlog, true),
            (2, names(&["denied", "denied too"]))
        );
        assert_eq!(backlog.len(), 0);
        let again = Missed::of(Invalidation::Hard, &tags(&["denied"]));
        for _ in 0..3 {
            backlog.waiting.add(&again);
            round(&mut backlog, false);
        }
        assert_eq!(backlog.len(), 1);
        assert_eq!(backlog.take_all(), again);
        // There may be any number of denied names.
        let many: Vec<String> = (0..BATCH + 9).map(|n| format!("denied {n}")).collect();
        backlog.waiting.add(&Missed::of(Invalidation::Hard, &many));
        let mut dropped = 0;
        while backlog.next().is_some() {
            dropped += usize::from(!backlog.refused(true));
        }
        assert_eq!((backlog.len(), dropped), (BATCH, 9));
    }

    #[test]
    fn recent_invalidations_are_forgotten_after_some_time() {
        let start = Instant::now();
        let after = |seconds| start + Duration::from_secs(seconds);
        let mut recent = Recent::new(String::new());
        recent.add(&Missed::of(Invalidation::Hard, &tags(&["a"])), after(50));
        recent.add(&Missed::of(Invalidation::Soft, &tags(&["b"])), after(70));
        assert_eq!(recent.all(after(100)).len(), 2);
        recent.add(&Missed::of(Invalidation::Hard, &[]), after(131));
        assert_eq!(recent.all(after(131)).len(), 2, "a is gone");
        assert_eq!(recent.all(after(400)).len(), 0);
        let many: Vec<String> = (0..=MAX_TAGS).map(|n| n.to_string()).collect();
        recent.add(&Missed::of(Invalidation::Hard, &many), after(401));
        recent.add(&Missed::of(Invalidation::Hard, &tags(&["c"])), after(402));
        assert_eq!(recent.all(after(402)).len(), MAX_TAGS + 2);
    }

    #[test]
    fn commands_are_limited_in_bytes() {
        let mut backlog = Backlog::default();
        let half = |first: &str| first.repeat(MOST_BYTES * 2 / 3);
        let long = [half("a"), half("b"), half("c"), "d".to_owned()];
        backlog.waiting.add(&Missed::of(Invalidation::Hard, &long));
        let mut counts = Vec::new();
        while let Some(cmd) = backlog.next() {
            assert!(!backlog.is_flushing());
            counts.push(words(&cmd).len() - 1);
            backlog.confirmed();
        }
        assert_eq!(counts, [2, 2]);
        backlog.waiting.add(&Missed::of(Invalidation::Hard, &[]));
        assert!(backlog.next().is_some() && backlog.is_flushing());
    }

    #[test]
    fn tags_flush_and_keys_are_all_counted() {
        let now = Instant::now();
        let mut recent = Recent::new(String::new());
        recent.add(&Missed::of(Invalidation::Hard, &tags(&["a"])), now);
        recent.add(&Missed::of(Invalidation::Soft, &tags(&["b", "c"])), now);
        recent.add(&Missed::of(Invalidation::Hard, &[]), now);
        for _ in 0..2 {
            recent.add_key("written", now);
        }
        assert_eq!(recent.all(now).len(), 5);
        for n in 0..MAX_KEYS {
            recent.add_key(&n.to_string(), now);
        }
        assert_eq!(recent.all(now).len(), 4 + MAX_KEYS);
        let keys = recent.all(now).keys;
        assert!(keys.contains("written") && keys.contains("0"));
    }

    #[test]
    fn invalidations_by_others_in_the_namespace_are_remembered() {
        let now = Instant::now();
        let remembered = |prefix: &str, push: &Push<'_>| {
            let mut recent = Recent::new(prefix.to_owned());
            recent.notified(push, now);
            let Missed { flush, hard, .. } = recent.all(now);
            (flush, hard.into_iter().collect::<Vec<_>>())
        };
        let named = Push::Tags(Invalidation::Hard, vec![b"app:a", b"other", b"\xff"]);
        assert_eq!(remembered("app:", &named), (false, tags(&["app:a"])));
        let foreign = Push::Tags(Invalidation::Hard, vec![b"other"]);
        assert_eq!(remembered("app:", &foreign), (false, vec![]));
        assert_eq!(
            remembered("app:", &Push::Everything),
            (false, tags(&["app:"]))
        );
        assert_eq!(remembered("", &Push::Everything), (false, vec![]));
        assert_eq!(remembered("app:", &Push::Nothing), (false, vec![]));
        let everything = Recent::new(String::new()).namespace();
        assert!(everything.flush && everything.hard.is_empty());
    }
}
