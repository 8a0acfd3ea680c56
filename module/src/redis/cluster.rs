//! Leases in a cluster: a hash slot may go to another node and come back, and this node does not see what happened to
//! its keys meanwhile. So all leases end when a hash slot may have come to this node.
//!
//! `DESIGN.md` (Leases) describes how the module notices this, and what it costs.

use std::collections::HashSet;

use super::filter::{self, Command, Filter, Registered};
use super::{Context, monotonic_ms, state, waiting};
use crate::engine::Seeded;
use crate::native::word;

/// How long after a CLUSTER command the epoch is compared before each write under a lease.
const WATCHFUL_MS: u64 = 60_000;

/// The state of the cluster, while leases exist.
#[derive(Debug)]
pub(crate) struct Watched {
    filter: Registered,
    epoch: u64,
    /// A command passed that may bring a hash slot here.
    is_changing: bool,
    watchful_until_ms: u64,
    /// Clients in a transaction that brings no hash slot here: all commands that they queued have passed the filter.
    harmless: HashSet<u64, Seeded>,
}

impl Watched {
    /// A client has disconnected.
    pub(super) fn forget(&mut self, client: u64) {
        self.harmless.remove(&client);
    }
}

/// CLUSTER commands that move no hash slot.
const HARMLESS: &str = "countkeysinslot count-failure-reports forget getkeysinslot getslotmigrations help info keyslot \
    links meet myid myshardid nodes replicas shards slaves slots slot-stats";

/// Called when a lease is about to be granted.
pub(crate) fn watch(ctx: &Context<'_>) {
    if state::with(|state| state.cluster.is_some()) {
        return end_if_slots_moved(ctx);
    }
    let Some(epoch) = ctx.cluster_epoch() else {
        return;
    };
    let watched = Watched {
        filter: filter::register::<Migrations>(ctx, 0),
        epoch,
        is_changing: false,
        watchful_until_ms: 0,
        harmless: HashSet::default(),
    };
    state::with(|state| state.cluster = Some(watched));
}

/// Before a write under a lease: ends all leases if hash slots may have come here since they were granted.
pub(crate) fn end_if_slots_moved(ctx: &Context<'_>) {
    let may_have =
        |watched: &Watched| watched.is_changing || monotonic_ms() < watched.watchful_until_ms;
    if state::with(|state| state.cluster.as_ref().is_some_and(may_have)) {
        compare_epochs(ctx);
    }
}

/// Does the same by the epoch. Stops watching when there are no leases, unless a CLUSTER command passed lately: it may
/// wait in a transaction until there are leases. For the server's cron.
pub(crate) fn look(ctx: &Context<'_>) {
    if state::with(|state| state.has_leases()) {
        return compare_epochs(ctx);
    }
    let now = monotonic_ms();
    let over = state::with(|state| {
        let is_over = |watched: &mut Watched| watched.watchful_until_ms <= now;
        state.cluster.take_if(is_over)
    });
    if let Some(watched) = over {
        filter::unregister(ctx, watched.filter);
    }
}

fn compare_epochs(ctx: &Context<'_>) {
    if state::with(|state| state.cluster.is_none()) {
        return;
    }
    let epoch = ctx.cluster_epoch();
    let has_changed = state::with(|state| {
        let watched = state.cluster.as_mut()?;
        let was_changing = std::mem::take(&mut watched.is_changing);
        let epoch = epoch.unwrap_or(watched.epoch);
        Some(was_changing | (std::mem::replace(&mut watched.epoch, epoch) != epoch))
    });
    if has_changed == Some(true) {
        for db in state::with(|state| state.numbers()) {
            waiting::restart(ctx, db);
        }
    }
}

const CLUSTER: u64 = word(b"cluster");
const MULTI: u64 = word(b"multi");
const EXEC: u64 = word(b"exec");
const DISCARD: u64 = word(b"discard");
const RESET: u64 = word(b"reset");

/// Notes commands that may bring a hash slot here.
struct Migrations;

impl Filter for Migrations {
    fn look(command: &Command<'_>) {
        let name = word(command.name.bytes());
        // This runs for every command, but concerns few.
        if ![CLUSTER, MULTI, EXEC, DISCARD, RESET].contains(&name)
            || (name == CLUSTER && is_harmless(command))
        {
            return;
        }
        let (client, now) = (command.client(), monotonic_ms());
        let is_in_transaction = client.is_some_and(Context::is_in_transaction);
        state::with(|state| {
            let Some(watched) = &mut state.cluster else {
                return;
            };
            let harmless = &mut watched.harmless;
            let was_harmless = client.is_some_and(|client| harmless.remove(&client));
            match (name, client) {
                (CLUSTER, _) => {
                    watched.is_changing = true;
                    watched.watchful_until_ms = now + WATCHFUL_MS;
                }
                (MULTI, Some(client)) if was_harmless || !is_in_transaction => {
                    harmless.insert(client);
                }
                // It may run a CLUSTER command that was queued before the watch began.
                (EXEC, Some(_)) => watched.is_changing |= is_in_transaction && !was_harmless,
                (EXEC, None) => watched.is_changing |= now < watched.watchful_until_ms,
                _ => {}
            }
        });
    }
}

fn is_harmless(command: &Command<'_>) -> bool {
    let mut harmless = HARMLESS.split(' ');
    harmless.any(|word| command.is_at(1, word.as_bytes()))
        || (command.is_at(1, b"syncslots") && command.is_at(2, b"ack"))
}
