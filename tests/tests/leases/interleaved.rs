//! Every order of a few callers' steps, compared with a model of the contract.

use tagcache_tests::fetch::{State, fetch, fetch_lease, set_leased};
use tagcache_tests::{RawClient, Server, args, call, command, for_each_engine};

const KEY: &str = "key";
const TAG: &str = "tag";

/// A step of one of the callers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// Requests the key and its lease.
    Fetch(usize),
    /// Writes under the lease that this caller got, if it got one.
    Set(usize),
    /// Releases the lease instead.
    Release(usize),
    Invalidate,
    Revalidate,
    /// Invalidates a tag that the entry does not carry.
    InvalidateOther,
    Del,
    Flush,
    /// Another client writes without any lease.
    PlainSet,
}

/// The state of the key when a sequence starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Start {
    Missing,
    Fresh,
    Stale,
}

/// The known state of the key's lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Held {
    Nobody,
    By(usize),
    /// The contract does not define whether this event ended the lease; the next reply shows it.
    Unsure,
}

/// A caller's token, with its known state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Token {
    number: i64,
    /// Refused for ever: superseded, or the value may be out of date.
    lost: bool,
    /// The contract does not define it: the token was used or released before.
    spent: bool,
}

#[derive(Debug)]
struct Model {
    /// The value, and whether it is fresh; each has enough grace.
    entry: Option<(String, bool)>,
    held: Held,
    tokens: [Option<Token>; 2],
    writes: usize,
}

impl Model {
    fn new(start: Start) -> Self {
        let entry = match start {
            Start::Missing => None,
            Start::Fresh => Some(("start".to_owned(), true)),
            Start::Stale => Some(("start".to_owned(), false)),
        };
        Self {
            entry,
            held: Held::Nobody,
            tokens: [None; 2],
            writes: 0,
        }
    }

    fn lose_all(&mut self) {
        for token in self.tokens.iter_mut().flatten() {
            token.lost = true;
        }
    }

    /// Performs the step on the server, compares the reply with the model, and applies the step to the model.
    fn step(&mut self, client: &mut RawClient, step: Step) {
        match step {
            Step::Fetch(caller) => self.fetch(client, caller),
            Step::Set(caller) => self.set(client, caller),
            Step::Release(caller) => self.release(client, caller),
            Step::Invalidate => {
                call!(client, "CACHE.INVALIDATE", TAG);
                self.entry = None;
                self.lose_all();
            }
            Step::Revalidate => {
                call!(client, "CACHE.REVALIDATE", TAG);
                if let Some((_, fresh)) = &mut self.entry {
                    *fresh = false;
                }
                self.lose_all();
            }
            Step::InvalidateOther => drop(call!(client, "CACHE.INVALIDATE", "other")),
            Step::Del => {
                call!(client, "CACHE.DEL", KEY);
                self.entry = None;
                self.lose_all();
                self.held = Held::Nobody;
            }
            Step::Flush => {
                call!(client, "CACHE.FLUSH");
                self.entry = None;
                self.lose_all();
                self.held = Held::Unsure;
            }
            Step::PlainSet => {
                let value = self.next_value();
                let set = args!["CACHE.SET", KEY, value, "GRACE", 600_000, "TAGS", 1, TAG];
                assert!(!client.call(&set).is_error());
                self.entry = Some((value, true));
                // The contract does not define whether that ends a lease.
                if self.held != Held::Nobody {
                    self.held = Held::Unsure;
                }
                for token in self.tokens.iter_mut().flatten() {
                    token.spent = true;
                }
            }
        }
        self.check(client);
    }

    fn next_value(&mut self) -> String {
        self.writes += 1;
        format!("value {}", self.writes)
    }

    fn fetch(&mut self, client: &mut RawClient, caller: usize) {
        let answer = fetch_lease(client, KEY, 600_000);
        let state = match &self.entry {
            Some((_, true)) => State::Hit,
            Some((_, false)) => State::Stale,
            None => State::Miss,
        };
        assert_eq!(answer.state, state, "{self:?}");
        let value = self.entry.as_ref().map(|(value, _)| value.as_bytes());
        assert_eq!(answer.value.as_deref(), value, "{self:?}");
        if state == State::Hit {
            return;
        }
        match self.held {
            Held::Nobody => assert!(answer.token > 0, "nobody holds it: {self:?}"),
            Held::By(_) => assert_eq!(answer.token, 0, "somebody holds it: {self:?}"),
            Held::Unsure => {}
        }
        if answer.token == 0 {
            return;
        }
        // The new lease supersedes all earlier ones.
        self.lose_all();
        self.held = Held::By(caller);
        self.tokens[caller] = Some(Token {
            number: answer.token,
            lost: false,
            spent: false,
        });
    }

    fn set(&mut self, client: &mut RawClient, caller: usize) {
        let Some(known) = self.tokens[caller] else {
            return;
        };
        let value = self.next_value();
        let set = args![
            "CACHE.SET",
            KEY,
            value,
            "GRACE",
            600_000,
            "LEASE",
            known.number,
            "TAGS",
            1,
            TAG
        ];
        let reply = client.call(&set);
        assert!(!reply.is_error(), "{reply:?}");
        let accepted = !reply.is_null();
        assert!(
            !(known.lost && accepted),
            "caller {caller} writes what may be old: {self:?}"
        );
        if !known.lost && !known.spent {
            assert!(accepted, "caller {caller} is refused: {self:?}");
        }
        if accepted {
            self.entry = Some((value, true));
            self.held = Held::Nobody;
        } else if self.held == Held::By(caller) {
            self.held = Held::Unsure;
        }
        self.tokens[caller] = Some(Token {
            spent: true,
            ..known
        });
    }

    fn release(&mut self, client: &mut RawClient, caller: usize) {
        let Some(known) = self.tokens[caller] else {
            return;
        };
        let reply = call!(client, "CACHE.RELEASE", KEY, known.number).int();
        match self.held {
            Held::By(holder) if holder == caller => assert_eq!(reply, 1, "{self:?}"),
            Held::Unsure => assert!((0..=1).contains(&reply), "{self:?}"),
            _ => assert_eq!(reply, 0, "{self:?}"),
        }
        if reply == 1 {
            self.held = Held::Nobody;
        }
        self.tokens[caller] = Some(Token {
            spent: true,
            ..known
        });
    }

    /// Checks the state that any reader sees, without requesting the lease.
    fn check(&self, client: &mut RawClient) {
        let fresh = self.entry.as_ref().filter(|(_, fresh)| *fresh);
        let got = call!(client, "CACHE.GET", KEY);
        match fresh {
            Some((value, _)) => assert_eq!(got.bytes(), value.as_bytes(), "{self:?}"),
            None => assert!(got.is_null(), "GET serves {got:?}: {self:?}"),
        }
        let seen = fetch(client, KEY);
        assert_eq!(seen.token, 0);
        let value = self.entry.as_ref().map(|(value, _)| value.as_bytes());
        assert_eq!(seen.value.as_deref(), value, "{self:?}");
        assert_eq!(seen.state == State::Hit, fresh.is_some(), "{self:?}");
    }
}

/// All interleavings of these sequences.
fn interleavings(sequences: &[&[Step]]) -> Vec<Vec<Step>> {
    if sequences.iter().all(|sequence| sequence.is_empty()) {
        return vec![Vec::new()];
    }
    let mut all = Vec::new();
    for (at, sequence) in sequences.iter().enumerate() {
        let Some((first, rest)) = sequence.split_first() else {
            continue;
        };
        let mut left = sequences.to_vec();
        left[at] = rest;
        for mut order in interleavings(&left) {
            order.insert(0, *first);
            all.push(order);
        }
    }
    all
}

fn prepare(client: &mut RawClient, start: Start) {
    call!(client, "FLUSHALL");
    if start != Start::Missing {
        let set = command!("CACHE.SET {KEY} start GRACE 600000 TAGS 2 {TAG} start");
        assert!(!client.call(&set).is_error());
    }
    if start == Start::Stale {
        call!(client, "CACHE.REVALIDATE", "start");
    }
}

fn run(server: &Server, sequences: &[&[Step]]) -> usize {
    let mut client = server.raw();
    let orders = interleavings(sequences);
    for order in &orders {
        for start in [Start::Missing, Start::Fresh, Start::Stale] {
            prepare(&mut client, start);
            let mut model = Model::new(start);
            for (at, step) in order.iter().enumerate() {
                let guard = Said(start, order, at);
                model.step(&mut client, *step);
                drop(guard);
            }
        }
    }
    orders.len()
}

/// Prints the order of steps when a step fails.
struct Said<'a>(Start, &'a [Step], usize);

impl Drop for Said<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("^ {:?}, step {} of {:?}", self.0, self.2, self.1);
        }
    }
}

const CHANGES: [Step; 6] = [
    Step::Invalidate,
    Step::Revalidate,
    Step::InvalidateOther,
    Step::Del,
    Step::Flush,
    Step::PlainSet,
];

#[test]
fn two_loaders_and_two_changes_leave_no_old_value_in_any_order() {
    for_each_engine(|engine| {
        let server = Server::builder().engine(engine).start();
        let first = [Step::Fetch(0), Step::Set(0)];
        for one in CHANGES {
            for other in CHANGES {
                let second = [Step::Fetch(1), Step::Set(1)];
                let orders = run(&server, &[&first, &second, &[one, other]]);
                assert_eq!(orders, 90);
            }
        }
    });
}

#[test]
fn releasing_and_writing_loaders_match_the_model_in_any_order() {
    for_each_engine(|engine| {
        let server = Server::builder().engine(engine).start();
        let gives_up = [Step::Fetch(0), Step::Release(0)];
        let loads = [Step::Fetch(1), Step::Set(1)];
        for change in CHANGES {
            run(&server, &[&gives_up, &loads, &[change]]);
            run(
                &server,
                &[&gives_up, &loads, &[change], &[Step::Invalidate]],
            );
        }
    });
}

#[test]
fn a_loader_that_loads_twice_matches_the_model_in_any_order() {
    for_each_engine(|engine| {
        let server = Server::builder().engine(engine).start();
        let twice = [Step::Fetch(0), Step::Set(0), Step::Fetch(0), Step::Set(0)];
        let once = [Step::Fetch(1), Step::Set(1)];
        for change in CHANGES {
            run(&server, &[&twice, &once, &[change]]);
        }
    });
}

#[test]
fn a_value_set_under_a_lease_is_visible_to_readers() {
    for_each_engine(|engine| {
        let server = Server::builder().engine(engine).start();
        let mut client = server.raw();
        let token = fetch_lease(&mut client, KEY, 600_000).token;
        assert!(set_leased(&mut client, KEY, "v", token, &[TAG]));
        let mut model = Model::new(Start::Missing);
        model.entry = Some(("v".to_owned(), true));
        model.check(&mut client);
    });
}
