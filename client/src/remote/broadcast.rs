//! Sends invalidations to every primary; a primary that misses one is sent it later.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use redis::{Cmd, Value};

use super::command::{self, Invalidation};
use super::error::{Error, Remedy};
use super::lock;
use super::missed::Missed;
use super::node::Node;
use super::topology::Remote;

/// Commands that all primaries get within this time count as simultaneous: half of what the module allows.
const AT_ONCE: Duration = Duration::from_millis(500);

impl Remote {
    /// Invalidates on every primary.
    pub(crate) async fn invalidate(
        &self,
        kind: Invalidation,
        tags: &[String],
    ) -> Result<u64, Error> {
        let cmd = command::invalidate(kind, tags);
        self.send_to_all(&cmd, &Missed::of(kind, tags)).await
    }

    /// Sends every primary a command. A primary that misses it is sent `instead` as soon as possible; that may drop too
    /// much and must not drop too little.
    pub(crate) async fn send_to_all(&self, cmd: &Cmd, instead: &Missed) -> Result<u64, Error> {
        lock(&self.recent).add(instead, Instant::now());
        // This comes first: a primary that is found meanwhile is sent it, but at an unknown time.
        let hole = self.hole();
        let nodes = self.primaries();
        if nodes.is_empty() {
            return hole.map_or(Ok(0), Err);
        }
        // One start time for all primaries: this process may be stopped between two of them.
        let begun = Instant::now();
        let send = |node| self.send_one(node, cmd, instead, begun);
        let replies = crate::observe::in_command(cmd, join_all(nodes.iter().map(send))).await;
        let (mut dropped, mut missed, mut retried) = (0, Vec::new(), true);
        let mut reason = None;
        for (node, reply) in nodes.iter().zip(replies) {
            match reply {
                Ok(count) => dropped += count,
                Err((error, Some(kept))) => {
                    missed.push(node.address());
                    retried &= kept;
                    reason.get_or_insert(error);
                }
                Err((error, None)) => return Err(error),
            }
        }
        if let (None, Some(hole)) = (&reason, hole) {
            // Its primary is sent the recent invalidations as soon as it is known.
            missed.push("the primary of slots for which no primary is known".to_owned());
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

    /// Returns how many entries one node dropped, or its error and whether the invalidation will be sent later; `None`
    /// if the same call would fail again.
    async fn send_one(
        &self,
        node: &Arc<Node>,
        cmd: &Cmd,
        instead: &Missed,
        begun: Instant,
    ) -> Result<u64, (Error, Option<bool>)> {
        let mut unconfirmed = Unconfirmed {
            remote: self,
            node,
            missed: Some(instead),
        };
        let error = match node.send(cmd, self.deadline()).await {
            Ok(Ok(Value::Int(count))) => {
                unconfirmed.missed = None;
                node.wrote();
                if begun.elapsed() > AT_ONCE && self.is_cluster() {
                    node.miss(instead);
                }
                return Ok(u64::try_from(count).unwrap_or_default());
            }
            Ok(Ok(odd)) => Error::unexpected(&node.address(), "CACHE.INVALIDATE", &odd),
            Ok(Err(error)) => node.explain(None, &error),
            Err(error) => error,
        };
        let many = cmd.args_iter().nth(2).is_some();
        if error.remedy() == Remedy::FixCall || many && error.is_refusal() {
            unconfirmed.missed = None;
            return Err((error, None));
        }
        let kept = unconfirmed.keep_for_later();
        Err((error, Some(kept)))
    }

    /// The node that missed it has left meanwhile: the remaining nodes are sent it instead.
    fn all_keep(&self, missed: &Missed) -> bool {
        let successors = self.primaries();
        // All of them, even after one that does not keep it.
        let kept = successors.iter().filter(|node| node.miss(missed)).count();
        kept > 0 && kept == successors.len()
    }
}

/// A node that has not replied yet. If the caller gives up first, this counts as missed: its outcome is unknown.
struct Unconfirmed<'a> {
    remote: &'a Remote,
    node: &'a Arc<Node>,
    missed: Option<&'a Missed>,
}

impl Unconfirmed<'_> {
    fn keep_for_later(&mut self) -> bool {
        self.missed.take().is_some_and(|missed| {
            self.node.miss(missed) || self.node.is_retired() && self.remote.all_keep(missed)
        })
    }
}

impl Drop for Unconfirmed<'_> {
    fn drop(&mut self) {
        self.keep_for_later();
    }
}
