//! Invalidations go to every primary; one that does not get it is told later.

use std::sync::Arc;
use std::time::Instant;

use futures_util::future::join_all;
use redis::{Cmd, Value};

use super::command::{self, Invalidation};
use super::error::{Error, Remedy};
use super::lock;
use super::missed::Missed;
use super::node::Node;
use super::topology::Remote;

/// What is to be sent again, as it is kept for those that miss it; `false` where there is too much to keep.
type Keep<'a> = &'a (dyn Fn(&mut Missed) -> bool + Send + Sync);

impl Remote {
    /// Invalidates on every primary. Those that cannot be reached are told later.
    pub(crate) async fn invalidate(
        &self,
        kind: Invalidation,
        tags: &[String],
    ) -> Result<u64, Error> {
        self.tell_all(&command::invalidate(kind, tags), kind, tags)
            .await
    }

    /// Flushes every primary. Those that cannot be reached are told later.
    pub(crate) async fn flush(&self) -> Result<u64, Error> {
        self.tell_all(&command::flush(), Invalidation::Hard, &[])
            .await
    }

    /// Sends every primary a command that drops entries with one of these tags; where none is named, any. A primary
    /// that misses it is told to drop all of these: too much rather than too little.
    pub(crate) async fn tell_all(
        &self,
        cmd: &Cmd,
        kind: Invalidation,
        tags: &[String],
    ) -> Result<u64, Error> {
        {
            let (mut recent, now) = (lock(&self.recent), Instant::now());
            if tags.is_empty() {
                recent.add_flush(now);
            } else {
                recent.add(kind, tags, now);
            }
        }
        let keep = |missed: &mut Missed| {
            if tags.is_empty() {
                missed.add_flush();
                return true;
            }
            missed.add(kind, tags)
        };
        self.send_to_all(cmd, &keep).await
    }

    async fn send_to_all(&self, cmd: &Cmd, keep: Keep<'_>) -> Result<u64, Error> {
        let nodes = self.primaries();
        if nodes.is_empty() {
            return Err(self.none_known());
        }
        let sending = join_all(nodes.iter().map(|node| self.send_one(node, cmd, keep)));
        let replies = crate::observe::in_command(cmd, sending).await;
        let (mut dropped, mut missed, mut retried) = (0, Vec::new(), true);
        let (mut reason, mut at_fault) = (None, None);
        for (node, reply) in nodes.iter().zip(replies) {
            match reply {
                Reply::Took(count) => dropped += count,
                Reply::Missed { error, kept } => {
                    missed.push(node.address());
                    retried &= kept;
                    reason.get_or_insert(error);
                }
                Reply::AtFault(error) => at_fault = Some(error),
            }
        }
        if let Some(error) = at_fault {
            return Err(error);
        }
        if let (None, Some(hole)) = (&reason, self.hole()) {
            // Its primary is told what is recent as soon as it is known.
            missed.push("the primary of slots that nobody is known to serve".to_owned());
            reason = Some(hole);
        }
        let Some(reason) = reason else {
            return Ok(dropped);
        };
        crate::observe::invalidation_missed(&missed, retried, &reason);
        Err(Error::Partial {
            dropped,
            missed,
            retried,
            reason: Box::new(reason),
        })
    }

    async fn send_one(&self, node: &Arc<Node>, cmd: &Cmd, keep: Keep<'_>) -> Reply {
        let mut unconfirmed = Unconfirmed {
            remote: self,
            node,
            keep: Some(keep),
        };
        let error = match self.reached(node.send(cmd, self.deadline()).await) {
            Ok(Ok(Value::Int(count))) => {
                unconfirmed.keep = None;
                node.wrote();
                return Reply::Took(u64::try_from(count).unwrap_or_default());
            }
            Ok(Ok(odd)) => Error::unexpected(&node.address(), "CACHE.INVALIDATE", &odd),
            Ok(Err(error)) => node.explain(&node.address(), None, &error),
            Err(error) => error,
        };
        // What is wrong with the call would be wrong with it again.
        let many = cmd.args_iter().nth(2).is_some();
        if error.remedy() == Remedy::FixCall || many && error.is_refusal() {
            unconfirmed.keep = None;
            return Reply::AtFault(error);
        }
        let kept = unconfirmed.keep_for_later();
        Reply::Missed { error, kept }
    }

    /// The node that missed something has left meanwhile: those that are left are told instead.
    fn all_keep(&self, keep: Keep<'_>) -> bool {
        let successors = self.primaries();
        // All of them, also behind one that does not keep it.
        let kept = successors
            .iter()
            .filter(|successor| successor.miss(keep))
            .count();
        kept > 0 && kept == successors.len()
    }
}

/// What became of telling one node.
enum Reply {
    Took(u64),
    Missed { error: Error, kept: bool },
    AtFault(Error),
}

/// A node that has yet to answer. When the caller gives up before it does, it counts as missed: nobody knows.
struct Unconfirmed<'a> {
    remote: &'a Remote,
    node: &'a Arc<Node>,
    keep: Option<Keep<'a>>,
}

impl Unconfirmed<'_> {
    fn keep_for_later(&mut self) -> bool {
        self.keep.take().is_some_and(|keep| {
            self.node.miss(keep) || self.node.is_retired() && self.remote.all_keep(keep)
        })
    }
}

impl Drop for Unconfirmed<'_> {
    fn drop(&mut self) {
        self.keep_for_later();
    }
}
