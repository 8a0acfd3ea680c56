//! The faults that servers suffer.

mod cluster;
mod sentinel;
mod single;

use std::collections::BTreeMap;
use std::time::Duration;

use tagcache_tests::proxy::Rewrite;
use tagcache_tests::{Engine, Rng, Server};

use crate::log::{Event, Fault, Record, Span, Time, now};
use crate::site::{Site, old_module};

/// One occurrence of a fault, from its beginning to its end.
pub(crate) type Strike = fn(&mut Stage);

/// A kind of fault: its servers and its events.
pub(crate) struct Kind {
    pub(crate) name: &'static str,
    /// `None` where it is not possible.
    pub(crate) site: fn(&Engine) -> Option<Site>,
    /// Taken in turn, in random order.
    pub(crate) strikes: &'static [Strike],
    /// Part of the short form.
    pub(crate) short: bool,
}

/// The servers, and what was done to them.
pub(crate) struct Stage {
    pub(crate) site: Site,
    pub(crate) rng: Rng,
    pub(crate) records: Vec<Record>,
    /// The number of times that each fault happened.
    pub(crate) counts: BTreeMap<&'static str, u64>,
    /// The time within which everything must work again.
    pub(crate) heal: Time,
}

impl Kind {
    /// Its name, and whether the older module is missing.
    pub(crate) fn title(&self) -> String {
        let without = self.name.ends_with("upgrade") && old_module().is_none();
        let lacks = if without { ", no older module" } else { "" };
        format!("{}{lacks}", self.name)
    }
}

impl Stage {
    /// Notes a fault that began at a moment and is over.
    pub(crate) fn fault(&mut self, name: &'static str, start: Time, fault: Fault) {
        self.note(start, Event::Fault(fault));
        *self.counts.entry(name).or_default() += 1;
    }

    pub(crate) fn note(&mut self, start: Time, event: Event) {
        self.records.push(Record {
            process: 0,
            span: Span { start, end: now() },
            done: true,
            event,
        });
    }

    fn sleep(&mut self, least_ms: usize, most_ms: usize) {
        let ms = least_ms + self.rng.below(most_ms - least_ms + 1);
        std::thread::sleep(Duration::from_millis(ms as u64));
    }
}

pub(crate) fn plain(engine: &Engine) -> Site {
    Site::single(engine, Server::builder(), Rewrite::default())
}

fn appending(engine: &Engine, policy: &str) -> Site {
    let builder = Server::builder()
        .arg("--appendonly", "yes")
        .arg("--appendfsync", policy);
    Site::single(engine, builder, Rewrite::default())
}

/// Every kind on a single server also has changes by other clients.
macro_rules! kinds {
    ($($name:literal $short:literal $site:expr, [$($strike:expr),+];)+) => {
        &[$(Kind { name: $name, site: $site, strikes: &[$($strike),+], short: $short },)+]
    };
}

pub(crate) const KINDS: &[Kind] = kinds! {
    "none" true |engine| Some(plain(engine)), [single::changes];
    "kill" true |engine| Some(plain(engine)), [single::kill, single::changes];
    "kill-rdb" true |engine| Some(plain(engine)), [single::kill_saved, single::changes];
    "kill-everysec" false |engine| Some(appending(engine, "everysec")), [single::kill_everysec, single::rewrite];
    "kill-always" true |engine| Some(appending(engine, "always")), [single::kill_always, single::rewrite];
    "stop" false |engine| Some(plain(engine)), [single::stop];
    "clients" false |engine| Some(plain(engine)), [single::clients];
    "network" false |engine| Some(plain(engine)), [single::network];
    "clock" true |engine| Site::timed(engine, Server::builder()), [single::clock];
    "memory" false |engine| Some(plain(engine)), [single::memory];
    "disk" true |engine| Some(single::quota(engine, "everysec")), [single::disk];
    "disk-always" false |engine| Some(single::quota(engine, "always")), [single::disk_always, single::rewrite];
    "single" true |engine| Some(plain(engine)), [
        single::kill, single::stop, single::clients, single::network, single::memory, single::changes
    ];
    "single-logging" false single::timed_quota, [
        single::kill_everysec, single::rewrite, single::disk, single::clock, single::stop, single::clients, single::network,
        single::memory
    ];
    "failover" false |engine| Some(Site::watched(engine)), [sentinel::failover];
    "forced-failover" false |engine| Some(Site::watched(engine)), [sentinel::killed, sentinel::stopped];
    "lag" false |engine| Some(Site::watched(engine)), [sentinel::lag, sentinel::lagging];
    "upgrade" false |engine| Some(Site::upgradable(engine)), [sentinel::upgrade];
    "sentinel" true |engine| Some(Site::watched(engine)), [
        sentinel::failover, sentinel::killed, sentinel::stopped, sentinel::lag, sentinel::lagging, sentinel::upgrade
    ];
    "cluster-failover" false |engine| Some(Site::cluster(engine)), [
        cluster::failover, cluster::takeover, cluster::killed
    ];
    "cluster-upgrade" false |engine| Some(Site::upgradable_cluster(engine)), [cluster::upgrade];
    "reshard" false |engine| Some(Site::cluster(engine)), [cluster::reshard];
    "reshard-atomic" false cluster::atomic, [cluster::migrate];
    "nodes" false |engine| Some(Site::cluster(engine)), [cluster::node];
    "cluster" true |engine| Some(Site::cluster(engine)), [
        cluster::failover, cluster::takeover, cluster::killed, cluster::reshard, cluster::node, cluster::migrate,
        cluster::upgrade, single::clients, single::memory
    ];
};
