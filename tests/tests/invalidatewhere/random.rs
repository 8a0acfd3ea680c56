//! Random tag sets and random clauses, compared with a model.

use std::collections::{BTreeMap, BTreeSet};

use tagcache_tests::fetch::fetched;
use tagcache_tests::look::{assert_index_agrees, wait_reclaimed};
use tagcache_tests::{RawClient, Reply, Rng, Server, args, for_each_engine};

use crate::{LONG, Where};

const TAGS: usize = 9;
const KEYS: usize = 400;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Fresh,
    Stale,
}

#[derive(Clone, Debug)]
struct Entry {
    tags: BTreeSet<String>,
    grace: i64,
    state: State,
}

type Model = BTreeMap<String, Entry>;

/// Tag 0 is on most entries, the last tag on few.
fn any_tags(rng: &mut Rng) -> BTreeSet<String> {
    (0..TAGS)
        .filter(|n| rng.below(n + 2) == 0)
        .map(|n| format!("tag{n}"))
        .collect()
}

fn some_tags(rng: &mut Rng) -> Vec<String> {
    (0..rng.below(4))
        .map(|_| format!("tag{}", rng.below(TAGS + 1)))
        .collect()
}

fn any_where(rng: &mut Rng) -> Where {
    loop {
        let mut what = Where::default();
        if rng.one_in(2) {
            what.all = some_tags(rng);
        }
        if rng.one_in(2) {
            what.any = some_tags(rng);
        }
        if rng.one_in(2) {
            what.none = some_tags(rng);
        }
        if !(what.all.is_empty() && what.any.is_empty() && what.none.is_empty()) {
            return what;
        }
    }
}

fn write(rng: &mut Rng, client: &mut RawClient, model: &mut Model, count: usize) {
    let mut commands = Vec::new();
    for _ in 0..count {
        let key = format!("key{}", rng.below(KEYS));
        let (tags, grace) = (any_tags(rng), rng.pick(&[0, LONG]));
        let mut set = args!["CACHE.SET", key, "v", "GRACE", grace];
        if !tags.is_empty() {
            set.extend(args!["TAGS", tags.len()]);
            set.extend(tags.iter().map(|tag| tag.clone().into_bytes()));
        }
        commands.push(set);
        let state = State::Fresh;
        model.insert(key, Entry { tags, grace, state });
    }
    assert!(client.pipeline(&commands).iter().all(|r| *r == Reply::ok()));
}

fn check(client: &mut RawClient, model: &Model, what: &Where) {
    let keys: Vec<String> = (0..KEYS).map(|n| format!("key{n}")).collect();
    let fetches: Vec<_> = keys.iter().map(|key| args!["CACHE.FETCH", key]).collect();
    for (key, reply) in keys.iter().zip(client.pipeline(&fetches)) {
        let answer = fetched(&reply);
        let right = match model.get(key).map(|entry| entry.state) {
            None => answer.is_miss(),
            Some(State::Stale) => answer.is_stale("v"),
            Some(State::Fresh) => answer.is_hit("v"),
        };
        assert!(
            right,
            "after {what:?}: {key}: {:?}, seen {answer:?}",
            model.get(key)
        );
    }
}

fn random(seed: u64, module_args: &[&str]) {
    for_each_engine(|engine| {
        let server = Server::builder()
            .engine(engine)
            .module_args(module_args)
            .start();
        let mut client = server.raw();
        let mut rng = Rng::from_env(seed);
        let mut model = Model::new();
        let mut matched = 0;
        for round in 0..250 {
            write(&mut rng, &mut client, &mut model, 60);
            let what = any_where(&mut rng);
            let soft = rng.one_in(2);
            let options: &[&str] = if soft { &["SOFT"] } else { &[] };
            let expected: Vec<String> = model
                .iter()
                .filter(|(_, entry)| what.meets(&entry.tags))
                .map(|(key, _)| key.clone())
                .collect();
            let count = expected.len() as i64;
            matched += count;
            assert_eq!(what.run(&mut client, &["DRYRUN"]), count, "{what:?}");
            let eval = args!["EVAL", "return redis.call(unpack(ARGV))", 0];
            let answer = match rng.below(4) {
                0 => {
                    let queued = [args!["MULTI"], what.command(options), args!["EXEC"]];
                    client.pipeline(&queued)[2].items()[0].int()
                }
                1 => client.call(&[eval, what.command(options)].concat()).int(),
                _ => what.run(&mut client, options),
            };
            assert_eq!(answer, count, "{what:?} {options:?}");
            for key in expected {
                match model.get_mut(&key) {
                    Some(entry) if soft && entry.grace > 0 => entry.state = State::Stale,
                    _ => drop(model.remove(&key)),
                }
            }
            if round % 5 == 0 {
                check(&mut client, &model, &what);
                assert_index_agrees(&server, &[0], &[b"tag0", b"tag8"]);
            }
        }
        assert!(matched > 5000, "{matched} entries met a clause: too few");
        wait_reclaimed(&mut client);
        check(&mut client, &model, &Where::default());
    });
}

#[test]
fn random_clauses_match_the_model_within_the_command() {
    random(81, &[]);
}

#[test]
fn random_clauses_match_the_model_in_small_slices() {
    random(82, &["reclaim-budget-us", "50", "reclaim-inline", "0"]);
}
