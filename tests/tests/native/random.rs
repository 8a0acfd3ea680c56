//! Tens of thousands of random operations over several databases, compared with a model.

use tagcache_tests::look::{assert_index_agrees, stat, tagscan, wait_reclaimed};
use tagcache_tests::{RawClient, Reply, Rng, Server, args, call, for_each_engine};

use crate::model::Bytes;
use crate::operation::{KEYS, Operation, TAGS, tag};
use crate::world::World;

const BATCHES: usize = 600;
const BATCH: usize = 64;

/// Operations that are sent in one go.
enum Group {
    Single(Operation),
    Transaction(Vec<Operation>),
    Script(Operation),
}

fn batch(rng: &mut Rng, world: &World) -> Vec<Group> {
    let any = |rng: &mut Rng| Operation::any(rng, &world.dumps);
    let mut groups = Vec::new();
    // Sometimes many entries at once, so that tags grow large.
    if rng.one_in(15) {
        groups.extend((0..400).map(|_| Group::Single(Operation::any_set(rng))));
    }
    for _ in 0..BATCH {
        let operation = any(rng);
        match rng.below(20) {
            0 if operation.may_be_nested() => {
                let more = (0..rng.below(8)).map(|_| any(rng));
                let more = more.filter(Operation::may_be_nested);
                groups.push(Group::Transaction(
                    [operation].into_iter().chain(more).collect(),
                ));
            }
            1 if operation.may_be_nested() => groups.push(Group::Script(operation)),
            _ => groups.push(Group::Single(operation)),
        }
    }
    groups
}

fn commands(groups: &[Group]) -> Vec<Vec<Bytes>> {
    let mut commands = Vec::new();
    for group in groups {
        match group {
            Group::Single(operation) => commands.push(operation.to_args()),
            Group::Transaction(operations) => {
                commands.push(args!["MULTI"]);
                commands.extend(operations.iter().map(Operation::to_args));
                commands.push(args!["EXEC"]);
            }
            Group::Script(operation) => {
                let eval = args!["EVAL", "return redis.pcall(unpack(ARGV))", 0];
                commands.push([eval, operation.to_args()].concat());
            }
        }
    }
    commands
}

fn run(client: &mut RawClient, world: &mut World, groups: &[Group]) {
    let mut replies = client.pipeline(&commands(groups)).into_iter();
    let mut next = || replies.next().expect("a reply for each command");
    for group in groups {
        match group {
            Group::Single(operation) | Group::Script(operation) => world.apply(operation, &next()),
            Group::Transaction(operations) => {
                assert_eq!(next(), Reply::ok());
                for operation in operations {
                    assert_eq!(next(), Reply::Simple("QUEUED".to_owned()), "{operation:?}");
                }
                for (operation, reply) in operations.iter().zip(next().items()) {
                    world.apply(operation, reply);
                }
            }
        }
    }
}

/// Compares all that the module reports of every database with the model.
fn check(server: &Server, client: &mut RawClient, world: &mut World) {
    let selected = world.selected;
    let keys: Vec<Bytes> = (0..KEYS).map(|n| format!("key{n}").into_bytes()).collect();
    for number in 0..world.databases.len() {
        let at = format!("db {number}");
        call!(client, "SELECT", number);
        world.selected = number;
        let inspects: Vec<_> = keys.iter().map(|key| args!["CACHE.INSPECT", key]).collect();
        for (key, reply) in keys.iter().zip(client.pipeline(&inspects)) {
            world.database().check_inspected(key, &reply, &at);
        }
        // Each key was looked up, which removed expired ones.
        world.database().expired.clear();
        let gets: Vec<_> = keys.iter().map(|key| Operation::Get(key.clone())).collect();
        let commands: Vec<_> = gets.iter().map(Operation::to_args).collect();
        for (get, reply) in gets.iter().zip(client.pipeline(&commands)) {
            world.apply(get, &reply);
        }
        let mut tags = 0;
        for tag in (0..TAGS).map(tag) {
            let keys = world.database().keys_of_tag(&tag);
            tags += i64::from(!keys.is_empty());
            assert_eq!(
                tagscan(client, &tag, 300),
                keys,
                "{at}: {}",
                tag.escape_ascii()
            );
        }
        assert_eq!(
            stat(client, "entries"),
            world.database().entries().count() as i64,
            "{at}"
        );
        let backlog = stat(client, "reclaim_backlog");
        let seen = stat(client, "tags");
        // A gone entry still counts for its other tags until it is reclaimed.
        assert!(
            seen == tags || backlog > 0 && seen >= tags,
            "{at}: {seen} tags, expected {tags}"
        );
        let clock = stat(client, "clock");
        assert_eq!(
            *world.database().clock.get_or_insert(clock),
            clock,
            "{at}: clock"
        );
        if backlog == 0 {
            world.database().limbo.clear();
        }
    }
    world.selected = selected;
    call!(client, "SELECT", selected);
    let tags: Vec<Bytes> = (0..TAGS + 2).map(tag).collect();
    let tags: Vec<&[u8]> = tags.iter().map(Vec::as_slice).collect();
    assert_index_agrees(server, &[0, 1, 2], &tags);
}

fn random_operations(seed: u64, module_args: &[&str]) {
    for_each_engine(|engine| {
        let server = Server::builder()
            .engine(engine)
            .module_args(module_args)
            .start();
        let mut client = server.raw();
        let mut rng = Rng::from_env(seed);
        let mut world = World::new();
        for database in 0..world.databases.len() {
            call!(client, "SELECT", database);
            call!(client, "SADD", "seed", "member");
        }
        call!(client, "SELECT", 0);
        let mut with_backlog = 0;
        for number in 0..BATCHES {
            let groups = batch(&mut rng, &world);
            run(&mut client, &mut world, &groups);
            let stats = call!(client, "CACHE.STATS");
            with_backlog += i32::from(stats.field("reclaim_backlog").int() > 0);
            let visible = world.database().entries().count();
            // Expired entries count until the server comes across them.
            let most = visible + world.database().expired.len();
            let entries = stats.field("entries").int() as usize;
            assert!(
                (visible..=most).contains(&entries),
                "{entries} entries, expected {visible} to {most}"
            );
            if number % 40 == 0 {
                check(&server, &mut client, &mut world);
            }
        }
        check(&server, &mut client, &mut world);
        println!("{with_backlog} of {BATCHES} batches ended with a backlog");
        assert!(
            with_backlog > 0,
            "no backlog was ever seen: the test misses half of its point"
        );
        for database in 0..world.databases.len() {
            call!(client, "SELECT", database);
            wait_reclaimed(&mut client);
        }
        check(&server, &mut client, &mut world);
    });
}

#[test]
fn random_operations_match_the_model_with_a_backlog() {
    random_operations(1, &["reclaim-inline", "0", "reclaim-budget-us", "100"]);
}

#[test]
fn random_operations_match_the_model_with_inline_reclaiming() {
    random_operations(2, &["reclaim-inline", "64"]);
}
