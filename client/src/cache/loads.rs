//! Single flight: of all who miss a key at the same time in this process, one loads and the others get its answer.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use crate::local::Reservation;
use crate::remote::Error;

use super::tier::Stored;

/// The result of a load, for all callers that wait for it.
pub(crate) type Outcome = Result<Loaded, Error>;

/// A value that was found or loaded.
#[derive(Clone, Debug)]
pub(crate) struct Loaded {
    pub(crate) stored: Stored,
    /// The tags that the value was found with on a server; none for one that was loaded.
    tags: Arc<[String]>,
}

/// The loads under way.
#[derive(Default)]
pub(crate) struct Loads {
    by_key: Mutex<HashMap<Box<str>, Arc<Load>>>,
    /// How many leaders there are: loads go on behind their answers.
    leaders: watch::Sender<usize>,
}

struct Load {
    outcome: watch::Receiver<Option<Outcome>>,
    /// Overtaken once anything is said about the key: its value is too old then for callers that come later.
    since: Reservation<Stored>,
    tags: Vec<String>,
}

/// How a caller gets its value.
pub(crate) enum Role {
    /// From a load that is under way.
    Join(Waiter),
    /// By loading: nobody does, or what is being loaded is outdated already.
    Lead(Leader),
}

/// Waits for what another caller loads.
pub(crate) struct Waiter(Arc<Load>);

/// The right and the duty to load a key. Dropped without an answer, its waiters get none.
pub(crate) struct Leader {
    loads: Arc<Loads>,
    key: Box<str>,
    load: Arc<Load>,
    outcome: watch::Sender<Option<Outcome>>,
}

impl Loaded {
    /// A value that a server had, with these tags.
    pub(crate) fn found(stored: Stored, tags: Vec<String>) -> Self {
        Self {
            stored,
            tags: tags.into(),
        }
    }
}

impl Loads {
    /// Joins the load of `key`, or begins one with `reserve`, a reservation of the key. A load is joined only while
    /// nothing was said about the key, its tags or the caller's own.
    pub(crate) fn join_or_lead(
        self: &Arc<Self>,
        key: &str,
        tags: &[String],
        reserve: impl FnOnce() -> Reservation<Stored>,
    ) -> Role {
        let mut by_key = self.lock();
        if let Some(load) = by_key.get(key)
            && load.since.is_current_with(&load.tags)
            && load.since.is_current_with(tags)
        {
            return Role::Join(Waiter(Arc::clone(load)));
        }
        let (outcome, answered) = watch::channel(None);
        let load = Arc::new(Load {
            outcome: answered,
            since: reserve(),
            tags: tags.to_vec(),
        });
        let outdated = by_key.insert(key.into(), Arc::clone(&load));
        drop(by_key);
        // It may hold the last reference to a value, whose Drop is the caller's code.
        drop(outdated);
        self.leaders.send_modify(|leaders| *leaders += 1);
        Role::Lead(Leader {
            loads: Arc::clone(self),
            key: key.into(),
            load,
            outcome,
        })
    }

    /// Returns when no load is under way.
    pub(crate) async fn ended(&self) {
        let mut leaders = self.leaders.subscribe();
        // The sender lives as long as these loads.
        let _ = leaders.wait_for(|&leaders| leaders == 0).await;
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Box<str>, Arc<Load>>> {
        // A map is whole after every operation on it.
        self.by_key.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Leader {
    /// To wait for its own answer.
    pub(crate) fn waiter(&self) -> Waiter {
        Waiter(Arc::clone(&self.load))
    }

    /// Answers all who wait; callers that come later start anew. Only the first answer counts.
    pub(crate) fn answer(&self, outcome: Outcome) {
        self.leave();
        let mut outcome = Some(outcome);
        self.outcome.send_if_modified(|answer| {
            let first = answer.is_none();
            if first {
                *answer = outcome.take();
            }
            first
        });
    }

    pub(crate) fn has_answered(&self) -> bool {
        self.outcome.borrow().is_some()
    }

    /// The reservation of the key since the load began.
    pub(crate) fn reservation(&self) -> &Reservation<Stored> {
        &self.load.since
    }

    fn leave(&self) {
        let mut by_key = self.loads.lock();
        // A later load may have taken the place of this one.
        let is_mine = by_key
            .get(&*self.key)
            .is_some_and(|load| Arc::ptr_eq(load, &self.load));
        if is_mine {
            // Not the last reference: this leader has one.
            by_key.remove(&*self.key);
        }
    }
}

impl Drop for Leader {
    fn drop(&mut self) {
        self.leave();
        self.loads.leaders.send_modify(|leaders| *leaders -= 1);
    }
}

impl Waiter {
    /// Waits for the answer; `None` if the load ended without one.
    pub(crate) async fn outcome(&self) -> Option<Outcome> {
        let mut outcome = self.0.outcome.clone();
        let answer = outcome.wait_for(Option::is_some).await.ok()?;
        answer.clone()
    }

    /// Whether what was found may be had by a caller that joined with these tags. The tags of what was found were not
    /// known when it joined: one of them may have been invalidated before.
    pub(crate) fn may_have(&self, loaded: &Loaded) -> bool {
        loaded.tags.is_empty() || self.0.since.is_current_with(&loaded.tags)
    }
}

#[cfg(test)]
mod tests {
    use super::super::tier::{Local, WhenLost};
    use super::*;

    fn local() -> Local {
        Local::new(10, 1 << 20, WhenLost::Drop)
    }

    #[tokio::test]
    async fn a_waiter_may_not_have_what_was_invalidated_by_a_tag_that_only_the_value_has() {
        let local = local();
        let loads = Arc::new(Loads::default());
        let join =
            |tag: &str| loads.join_or_lead("key", &[tag.to_owned()], || local.reserve("key"));
        let Role::Lead(leader) = join("mine") else {
            panic!("nobody else loads");
        };
        local.invalidate_tags(["theirs"]);
        let Role::Join(late) = join("mine") else {
            panic!("nothing is known against this load");
        };
        let stored = Stored::new(Some(7), 1);
        leader.answer(Ok(Loaded::found(stored, vec!["theirs".to_owned()])));
        let loaded = late.outcome().await.expect("it has answered").unwrap();
        assert!(!late.may_have(&loaded));
        assert!(late.may_have(&Loaded::found(loaded.stored, vec!["other".to_owned()])));
        // And by a tag that was known the load is not even joined.
        let Role::Lead(_second) = join("mine") else {
            panic!("the first has answered");
        };
        local.invalidate_tags(["mine"]);
        assert!(matches!(join("mine"), Role::Lead(_)));
    }

    #[test]
    fn a_load_is_not_joined_by_a_caller_whose_own_tag_was_invalidated() {
        let local = local();
        let loads = Arc::new(Loads::default());
        let join =
            |tag: &str| loads.join_or_lead("key", &[tag.to_owned()], || local.reserve("key"));
        let Role::Lead(_leader) = join("mine") else {
            panic!("nobody else loads");
        };
        local.invalidate_tags(["yours"]);
        assert!(matches!(join("mine"), Role::Join(_)));
        assert!(matches!(join("yours"), Role::Lead(_)));
    }

    #[test]
    fn no_value_is_dropped_under_the_lock() {
        struct Looks(Arc<Loads>, Arc<std::sync::atomic::AtomicBool>);
        impl Drop for Looks {
            fn drop(&mut self) {
                let free = self.0.by_key.try_lock().is_ok();
                self.1.store(free, std::sync::atomic::Ordering::SeqCst);
            }
        }
        let local = local();
        let loads = Arc::new(Loads::default());
        let free = Arc::new(std::sync::atomic::AtomicBool::new(false));
        let join = || loads.join_or_lead("key", &[], || local.reserve("key"));
        let Role::Lead(first) = join() else {
            panic!("nobody else loads");
        };
        // It has answered, and an outdated load that still stands in the map holds the value alone.
        let looks = Looks(Arc::clone(&loads), Arc::clone(&free));
        let (outcome, answered) = watch::channel(Some(Ok(Loaded::found(
            Stored::new(Some(looks), 1),
            Vec::new(),
        ))));
        drop(outcome);
        let outdated = Load {
            outcome: answered,
            since: local.reserve("key"),
            tags: Vec::new(),
        };
        loads.lock().insert("key".into(), Arc::new(outdated));
        local.remove("key");
        let Role::Lead(_second) = join() else {
            panic!("the load is outdated");
        };
        drop(first);
        assert!(free.load(std::sync::atomic::Ordering::SeqCst));
    }
}
