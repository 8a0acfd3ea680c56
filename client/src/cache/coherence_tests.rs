//! The rule against a model: a server that executes in order, a wire that keeps order, and a client whose tasks run
//! in any order.

use std::collections::{HashSet, VecDeque};
use std::sync::Mutex;

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

const KEYS: [&str; 3] = ["a", "b", "c"];
const TAGS: [&str; 3] = ["s", "t", "u"];

/// A value is a version; its tags come with it.
type Version = (u64, Vec<String>);

#[derive(Debug, Default)]
struct Held(Mutex<HashMap<String, Version>>);

impl Held {
    fn put(&self, key: &str, version: Version) {
        self.0.lock().unwrap().insert(key.to_owned(), version);
    }

    fn get(&self, key: &str) -> Option<Version> {
        self.0.lock().unwrap().get(key).cloned()
    }
}

impl Tier for Held {
    fn remove(&self, key: &str) {
        self.0.lock().unwrap().remove(key);
    }

    fn invalidate_tag(&self, tag: &str) {
        let mut held = self.0.lock().unwrap();
        held.retain(|_, (_, tags)| !tags.iter().any(|t| t == tag));
    }

    fn clear(&self) {
        self.0.lock().unwrap().clear();
    }

    fn lose(&self) {
        self.clear();
    }
}

#[derive(Clone, Debug)]
enum Step {
    /// The client sends a read.
    Send(usize),
    /// Somebody writes a key with a tag.
    Write(usize, usize),
    /// Somebody deletes a key.
    Delete(usize),
    /// Somebody invalidates a tag.
    Invalidate(usize),
    /// Somebody flushes the database.
    Flush,
    /// The server executes the client's next request.
    Execute,
    /// The driver handles the next thing on the wire: applies a push, or hands a reply to its task.
    Drive,
    /// A task that has its reply goes on.
    Resume(usize),
    /// A task that waits for its reply gives up.
    Abandon(usize),
    /// The connection breaks, and another takes its place.
    Break,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..3_usize).prop_map(Step::Send),
        3 => (0..3_usize, 0..3_usize).prop_map(|(k, t)| Step::Write(k, t)),
        1 => (0..3_usize).prop_map(Step::Delete),
        2 => (0..3_usize).prop_map(Step::Invalidate),
        1 => Just(Step::Flush),
        5 => Just(Step::Execute),
        7 => Just(Step::Drive),
        4 => (0..8_usize).prop_map(Step::Resume),
        1 => (0..8_usize).prop_map(Step::Abandon),
        1 => Just(Step::Break),
    ]
}

/// What a task has of its answer.
enum Reply {
    Awaited,
    Here(Option<Version>),
}

enum OnWire {
    Reply(usize, Option<Version>),
    Key(String),
    Tag(String),
    Everything,
}

/// One client at one server.
struct World {
    coherence: Arc<Coherence<Held>>,
    server: HashMap<String, Version>,
    tracked: HashSet<String>,
    versions: u64,
    requests: VecDeque<(usize, String)>,
    wire: VecDeque<OnWire>,
    /// Reads by number, until they end.
    reads: HashMap<usize, (Read<Held>, Reply)>,
    sent: usize,
}

impl World {
    fn new(ordering: Ordering) -> Self {
        Self {
            coherence: Arc::new(Coherence::new(Held::default(), ordering)),
            server: HashMap::new(),
            tracked: HashSet::new(),
            versions: 0,
            requests: VecDeque::new(),
            wire: VecDeque::new(),
            reads: HashMap::new(),
            sent: 0,
        }
    }

    fn changed(&mut self, key: &str) {
        if self.tracked.remove(key) {
            self.wire.push_back(OnWire::Key(key.to_owned()));
        }
    }

    fn run(&mut self, step: &Step) {
        match *step {
            Step::Send(key) => {
                let read = self.coherence.begin(KEYS[key]);
                self.requests.push_back((self.sent, KEYS[key].to_owned()));
                self.reads.insert(self.sent, (read, Reply::Awaited));
                self.sent += 1;
            }
            Step::Write(key, tag) => {
                self.versions += 1;
                let version = (self.versions, vec![TAGS[tag].to_owned()]);
                self.server.insert(KEYS[key].to_owned(), version);
                self.changed(KEYS[key]);
            }
            Step::Delete(key) => {
                self.server.remove(KEYS[key]);
                self.changed(KEYS[key]);
            }
            // As the module does: one message, nothing for single keys.
            Step::Invalidate(tag) => {
                self.server.retain(|_, (_, tags)| tags[0] != TAGS[tag]);
                self.wire.push_back(OnWire::Tag(TAGS[tag].to_owned()));
            }
            Step::Flush => {
                self.server.clear();
                self.wire.push_back(OnWire::Everything);
            }
            Step::Execute => {
                if let Some((number, key)) = self.requests.pop_front() {
                    self.tracked.insert(key.clone());
                    let reply = self.server.get(&key).cloned();
                    self.wire.push_back(OnWire::Reply(number, reply));
                }
            }
            Step::Drive => match self.wire.pop_front() {
                Some(OnWire::Reply(number, version)) => {
                    if let Some((_, reply)) = self.reads.get_mut(&number) {
                        *reply = Reply::Here(version);
                    }
                }
                Some(OnWire::Key(key)) => self.coherence.key_changed(&key),
                Some(OnWire::Tag(tag)) => self.coherence.tags_invalidated([tag.as_str()]),
                Some(OnWire::Everything) => self.coherence.everything_changed(),
                None => {}
            },
            Step::Resume(nth) => {
                let ready = self
                    .reads
                    .iter()
                    .filter(|(_, (_, reply))| matches!(reply, Reply::Here(_)));
                let mut ready: Vec<usize> = ready.map(|(&number, _)| number).collect();
                ready.sort_unstable();
                if let Some(&number) = ready.get(nth) {
                    let (read, reply) = self.reads.remove(&number).expect("it was just found");
                    let key = read.key.to_string();
                    if let Reply::Here(Some(version)) = reply {
                        let tags = version.1.clone();
                        read.enter(&tags, |held| held.put(&key, version));
                    }
                }
            }
            Step::Abandon(nth) => {
                let mut numbers: Vec<usize> = self.reads.keys().copied().collect();
                numbers.sort_unstable();
                if let Some(number) = numbers.get(nth) {
                    self.reads.remove(number);
                }
            }
            // What was on its way is lost. Who has a reply already may still go on with it.
            Step::Break => {
                self.requests.clear();
                self.wire.clear();
                self.tracked.clear();
                self.coherence.lost();
                self.reads
                    .retain(|_, (_, reply)| matches!(reply, Reply::Here(_)));
            }
        }
    }

    /// Everything under way comes to its end.
    fn settle(&mut self) {
        while !self.requests.is_empty() {
            self.run(&Step::Execute);
        }
        while !self.wire.is_empty() {
            self.run(&Step::Drive);
        }
        while !self.reads.is_empty() {
            self.run(&Step::Resume(0));
        }
    }

    fn stale_keys(&self) -> Vec<&'static str> {
        let differs = |key: &&str| {
            let held = self.coherence.tier.get(key);
            held.is_some() && held.as_ref() != self.server.get(*key)
        };
        KEYS.into_iter().filter(differs).collect()
    }
}

proptest! {
    #[test]
    fn after_quiet_nothing_stale_is_held(steps in vec(step(), 1..120)) {
        let mut world = World::new(Ordering::Kept);
        for step in &steps {
            world.run(step);
            // What nobody has told the client yet it cannot know; what it was told it must not hold.
            if world.wire.is_empty() {
                prop_assert_eq!(world.stale_keys(), Vec::<&str>::new());
            }
        }
        world.settle();
        prop_assert_eq!(world.stale_keys(), Vec::<&str>::new());
        let marks = world.coherence.lock();
        prop_assert!(marks.keys.is_empty() && marks.begun.is_empty());
    }
}

#[test]
fn without_the_rule_the_model_finds_stale_values() {
    let mut world = World::new(Ordering::Ignored);
    for step in [
        Step::Write(0, 0),
        Step::Send(0),
        Step::Execute,
        Step::Invalidate(0),
        Step::Drive,
        Step::Drive,
        Step::Drive,
    ] {
        world.run(&step);
    }
    world.settle();
    assert_eq!(world.stale_keys(), ["a"]);
}

#[test]
fn a_value_that_nothing_overtook_is_kept() {
    let mut world = World::new(Ordering::Kept);
    world.run(&Step::Write(0, 0));
    world.run(&Step::Send(0));
    // About another key and another tag.
    world.run(&Step::Send(1));
    world.run(&Step::Execute);
    world.run(&Step::Execute);
    world.run(&Step::Write(1, 1));
    world.run(&Step::Invalidate(1));
    world.settle();
    assert!(world.coherence.tier.get("a").is_some());
}

#[test]
fn marks_stay_bounded_however_long_a_read_takes() {
    let coherence = Arc::new(Coherence::new(Held::default(), Ordering::Kept));
    let slow = coherence.begin("slow");
    for n in 0..3 * MAX_TAG_MARKS {
        coherence.tags_invalidated([format!("tag{n}").as_str()]);
        // Reads that come and go must not keep marks alive either.
        drop(coherence.begin("quick"));
        assert!(coherence.lock().tags.len() <= MAX_TAG_MARKS);
    }
    for tag in [1, 3 * MAX_TAG_MARKS - 1] {
        let outcome = slow.enter(&[format!("tag{tag}")], |_| {});
        assert_eq!(outcome, Outcome::Overtaken, "tag{tag}");
    }
    drop(slow);
    coherence.tags_invalidated(["last"]);
    assert!(coherence.lock().tags.is_empty());
}

#[test]
fn a_mark_that_somebody_may_ask_for_is_not_pruned() {
    let coherence = Arc::new(Coherence::new(Held::default(), Ordering::Kept));
    let read = coherence.begin("key");
    for n in 0..1000 {
        coherence.tags_invalidated([format!("tag{n}").as_str()]);
    }
    for n in [0, 1, 500, 999] {
        let outcome = read.enter(&[format!("tag{n}")], |_| {});
        assert_eq!(outcome, Outcome::Overtaken, "tag{n}");
    }
    assert_eq!(read.enter(&["other".to_owned()], |_| {}), Outcome::Entered);
}

#[test]
fn nothing_can_be_said_between_the_question_and_the_entering() {
    let coherence = Arc::new(Coherence::new(Held::default(), Ordering::Kept));
    let outcome = coherence.begin("key").enter(&[], |_| {
        let said_meanwhile = coherence.marks.try_lock();
        assert!(said_meanwhile.is_err(), "whoever says something must wait");
    });
    assert_eq!(outcome, Outcome::Entered);
}
