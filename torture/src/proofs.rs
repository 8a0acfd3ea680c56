//! Runs that each lack one protection. If the checker finds nothing in them, it would find nothing in the others
//! either.

use tagcache_tests::proxy::{Rewrite, Words};
use tagcache_tests::{Engine, Server};
use tagcache_tests::{args, call};

use crate::checker::{Limits, Rule};
use crate::faults::{Kind, Stage, plain};
use crate::fleet::{LIMITS, Outcome, Plan, run};
use crate::log::{Event, Fault, Time, now};
use crate::site::Site;
use crate::worker::{KEYS, Without, key_name, tag_names};

/// A run without a protection, and the violation to be found in it; with `None` it has all protections.
pub(crate) struct Proof {
    kind: Kind,
    without: Without,
    limits: Limits,
    finds: Option<Rule>,
}

/// Rewritten words that keep servers from notifying clients.
const TRACKING: Words = ("$10\r\ninvalidate\r\n", "$10\r\ninvalidatX\r\n");
const CLOCK: Words = ("CACHE.CLOCK", "CACHE.CLOCX");

/// Without tracking, the messages of invalidated tags are left. Without those, the keys of dropped entries are pushed
/// when their memory is reclaimed, so that nothing would be found soon.
fn without_pushes(engine: &Engine) -> Site {
    let rewrite = Rewrite {
        asked: None,
        answered: Some(TRACKING),
    };
    Site::single(engine, Server::builder(), rewrite)
}

fn without_clock(engine: &Engine) -> Site {
    let rewrite = Rewrite {
        asked: Some(CLOCK),
        answered: None,
    };
    Site::single(engine, Server::builder(), rewrite)
}

/// Goes back by some seconds, no more than the clients remember.
fn lose_recent_changes(stage: &mut Stage) {
    if stage.counts.is_empty() {
        // Some data must be there to come back.
        std::thread::sleep(std::time::Duration::from_secs(2));
        let begun = now();
        call!(stage.site.servers[0].raw(), "SAVE");
        stage.site.saved = begun;
    }
    std::thread::sleep(std::time::Duration::from_millis(2500));
    let start = now();
    stage.site.servers[0].kill_9();
    stage.site.servers[0].restart();
    let fault = Fault {
        loses: true,
        undone_since: Some(stage.site.saved),
        ..Fault::default()
    };
    stage.fault("kill -9, RDB", start, fault);
    // Waits until undone changes should have been sent again.
    std::thread::sleep(std::time::Duration::from_secs(4));
}

/// Removes keys without a notification.
fn remove_keys_unrecorded(stage: &mut Stage) {
    let mut client = stage.site.servers[0].raw();
    for key in 0..KEYS as u32 / 4 {
        call!(client, "UNLINK", key_name(key));
    }
}

/// Makes the server hang for longer than calls may take.
fn hang(stage: &mut Stage) {
    let start = now();
    stage.site.servers[0].pause();
    std::thread::sleep(std::time::Duration::from_millis(4500));
    stage.site.servers[0].resume();
    stage.fault("SIGSTOP", start, Fault::default());
}

/// Keeps the server away after the fault, so that it does not heal.
fn pause_after_fault(stage: &mut Stage) {
    stage.fault("a fault that is said to be over", now(), Fault::default());
    stage.site.servers[0].pause();
    std::thread::sleep(std::time::Duration::from_millis(3500));
    stage.site.servers[0].resume();
}

/// Notes an invalidation that is not sent.
fn note_unsent_invalidation(stage: &mut Stage) {
    let start = now();
    stage.note(start, Event::Invalidate { tags: u32::MAX });
}

/// Invalidates everything while some of it is loaded, and lets a push arrive.
fn invalidate(stage: &mut Stage) {
    let start = now();
    let mut words = args!["CACHE.INVALIDATE"];
    words.extend(tag_names(u32::MAX).into_iter().map(String::into_bytes));
    stage.site.servers[0].raw().call(&words);
    stage.note(start, Event::Invalidate { tags: u32::MAX });
    std::thread::sleep(std::time::Duration::from_millis(2200));
}

const SOON: Limits = Limits {
    heal: 1_000_000_000 as Time,
    ..LIMITS
};

macro_rules! proofs {
    ($($name:literal $site:expr, [$($strike:expr),*], $without:ident, $limits:expr, $finds:expr;)+) => {
        &[$(Proof {
            kind: Kind { name: $name, site: |engine| Some($site(engine)), strikes: &[$($strike),*], short: true },
            without: Without::$without,
            limits: $limits,
            finds: $finds,
        }),+]
    };
}

pub(crate) const PROOFS: &[Proof] = proofs! {
    "nothing" plain, [], Haste, LIMITS, None;
    "the rule of overtaken answers" plain, [], Order, LIMITS, Some(Rule::Stale);
    "pushes of keys" without_pushes, [], Nothing, LIMITS, Some(Rule::Stale);
    "an invalidation that was noted" plain, [note_unsent_invalidation], Nothing, LIMITS, Some(Rule::Stale);
    "CACHE.CLOCK" without_clock, [lose_recent_changes], Nothing, SOON, Some(Rule::Stale);
    "leases" plain, [], Leases, LIMITS, Some(Rule::LoadedTwice);
    "leases, while tags are invalidated" plain, [invalidate], Leases, LIMITS, Some(Rule::Stale);
    "short time-outs" plain, [hang], Timeouts, LIMITS, Some(Rule::Overrun);
    "a record of what was removed" plain, [remove_keys_unrecorded], Nothing, LIMITS, Some(Rule::Lost);
    "a server" plain, [pause_after_fault], Nothing, SOON, Some(Rule::Unhealed);
};

impl Proof {
    /// The result, and the violation that should have been found.
    pub(crate) fn run(&self, plan: &Plan) -> (Outcome, Option<Rule>) {
        let plan = Plan {
            without: self.without,
            limits: self.limits,
            ..plan.clone()
        };
        let outcome = run(&self.kind, &plan).expect("one server can be had anywhere");
        (outcome, self.finds)
    }
}
