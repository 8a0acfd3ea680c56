//! Every count is exact while memory of earlier invalidations is not reclaimed yet.

use std::collections::{BTreeMap, BTreeSet};

use std::time::Duration;

use tagcache_tests::look::{info, stat, tagscan, wait_reclaimed};
use tagcache_tests::{
    RawClient, Reply, Server, args, call, for_all_engines, for_each_engine, wait_until,
};

const MANY: usize = 60_000;

/// The expected entries: keys with their tags, and whether they have a grace.
struct Model {
    entries: BTreeMap<String, ([String; 2], bool)>,
    /// The cost of each entry: all have the same size.
    bytes_each: i64,
    tags: BTreeSet<String>,
}

fn tags_of(n: usize) -> [String; 2] {
    [format!("half{}", n % 2), format!("part{}", n / 2 % 10)]
}

fn key(n: usize) -> String {
    format!("key{n:05}")
}

impl Model {
    fn fill(client: &mut RawClient) -> Self {
        let set = |n: usize| {
            let [half, part] = tags_of(n);
            let grace = usize::from(n.is_multiple_of(3)) * 1_000_000_000;
            args![
                "CACHE.SET",
                key(n),
                "value",
                "GRACE",
                grace,
                "TAGS",
                2,
                half,
                part
            ]
        };
        for start in (0..MANY).step_by(10_000) {
            let commands: Vec<_> = (start..start + 10_000).map(set).collect();
            let replies = client.pipeline(&commands);
            assert!(replies.iter().all(|reply| *reply == Reply::ok()));
        }
        let entries: BTreeMap<_, _> = (0..MANY)
            .map(|n| (key(n), (tags_of(n), n.is_multiple_of(3))))
            .collect();
        let tags = entries
            .values()
            .flat_map(|(tags, _)| tags.clone())
            .collect();
        let bytes_each = call!(client, "CACHE.INSPECT", key(0)).field("memory").int();
        Self {
            entries,
            bytes_each,
            tags,
        }
    }

    fn of_tag(&self, tag: &str) -> BTreeSet<Vec<u8>> {
        let carrying = self
            .entries
            .iter()
            .filter(|(_, (tags, _))| tags.iter().any(|t| t == tag));
        carrying.map(|(key, _)| key.clone().into_bytes()).collect()
    }

    /// Removes the selected entries that no grace keeps, and returns how many were selected.
    fn drop_where(&mut self, is_soft: bool, meant: impl Fn(&[String; 2]) -> bool) -> i64 {
        let before = self
            .entries
            .values()
            .filter(|(tags, _)| meant(tags))
            .count();
        self.entries
            .retain(|_, (tags, has_grace)| !meant(tags) || is_soft && *has_grace);
        before as i64
    }

    fn must_hold(&self, client: &mut RawClient, what: &str) {
        let stats = call!(client, "CACHE.STATS");
        let count = self.entries.len() as i64;
        assert_eq!(stats.field("entries").int(), count, "{what}: entries");
        assert_eq!(
            stats.field("bytes").int(),
            count * self.bytes_each,
            "{what}: bytes"
        );
        let mut expected = BTreeMap::new();
        for tag in &self.tags {
            let count = self.of_tag(tag).len() as i64;
            let seen = call!(client, "CACHE.TAGINFO", tag);
            if count > 0 {
                expected.insert(tag.clone(), (count, count * self.bytes_each));
            }
            if count > 0 || !seen.is_null() {
                let figures = (seen.field("entries").int(), seen.field("bytes").int());
                assert_eq!(figures, (count, count * self.bytes_each), "{what}: {tag}");
            }
        }
        assert_eq!(
            stats.field("tags").int(),
            expected.len() as i64,
            "{what}: tags"
        );
        for order in ["ENTRIES", "BYTES"] {
            let top = call!(client, "CACHE.TAGTOP", "BY", order, "LIMIT", 100);
            let rows = top.items().iter().map(|row| match row.items() {
                [tag, entries, bytes] => (tag.text(), (entries.int(), bytes.int())),
                row => panic!("not a row: {row:?}"),
            });
            let rows: Vec<_> = rows.collect();
            assert!(rows.is_sorted_by(|a, b| a.1 >= b.1), "{what}: BY {order}");
            assert_eq!(
                rows.into_iter().collect::<BTreeMap<_, _>>(),
                expected,
                "{what}: {order}"
            );
        }
    }

    fn must_be_scanned(&self, client: &mut RawClient, what: &str) {
        for tag in &self.tags {
            let seen = tagscan(client, tag.as_bytes(), 10_000);
            assert!(seen == self.of_tag(tag), "{what}: TAGSCAN {tag}");
        }
    }
}

/// Whether an entry with these tags is selected.
type Meant = fn(&[String; 2]) -> bool;

fn slow(engine: &tagcache_tests::Engine) -> (Server, RawClient) {
    let server = Server::builder()
        .engine(engine)
        .module_args(&["reclaim-budget-us", "50", "reclaim-inline", "0"])
        .start();
    let client = server.raw();
    (server, client)
}

#[test]
fn all_figures_are_exact_at_each_step_while_a_backlog_drains() {
    for_all_engines(|engine| {
        let (_server, mut client) = slow(engine);
        let client = &mut client;
        let mut model = Model::fill(client);
        model.must_hold(client, "at first");
        let steps: [(&str, bool, Meant); 6] = [
            ("CACHE.INVALIDATE half0", false, |tags| tags[0] == "half0"),
            ("CACHE.REVALIDATE part1", true, |tags| tags[1] == "part1"),
            ("CACHE.INVALIDATEWHERE ALL 2 half1 part2", false, |tags| {
                tags[1] == "part2"
            }),
            (
                "CACHE.INVALIDATEWHERE ANY 2 part3 part0 SOFT",
                true,
                |tags| ["part3", "part0"].contains(&&*tags[1]),
            ),
            (
                "CACHE.INVALIDATEWHERE NONE 4 part1 part5 part6 part7",
                false,
                |tags| !["part1", "part5", "part6", "part7"].contains(&&*tags[1]),
            ),
            ("CACHE.FLUSH", false, |_| true),
        ];
        for (line, is_soft, meant) in steps {
            let commands = [tagcache_tests::split(line), args!["CACHE.STATS"]];
            let replies = client.pipeline(&commands);
            let dropped = model.drop_where(is_soft, meant);
            assert_eq!(replies[0], Reply::Int(dropped), "{line}");
            let backlog = replies[1].field("reclaim_backlog").int();
            assert!(backlog > 0, "{line}: the test needs a backlog");
            model.must_hold(client, line);
            model.must_be_scanned(client, line);
        }
        // Dropped entries are not counted again, and can be stored again.
        assert_eq!(
            call!(client, "CACHE.INVALIDATE", "half0", "half1"),
            Reply::Int(0)
        );
        let model = Model::fill(client);
        while stat(client, "reclaim_backlog") > 0 {
            model.must_hold(client, "written over a backlog");
        }
        model.must_hold(client, "at last");
    });
}

#[test]
fn counts_of_several_tags_are_exact_while_a_backlog_drains() {
    for_all_engines(|engine| {
        let (_server, mut client) = slow(engine);
        let client = &mut client;
        let mut model = Model::fill(client);
        let first = call!(client, "CACHE.INVALIDATE", "part4");
        assert_eq!(
            first,
            Reply::Int(model.drop_where(false, |tags| tags[1] == "part4"))
        );
        // An entry that carries both tags counts twice: these are pairs.
        let both = ["half0", "part5"];
        let pairs: usize = both.iter().map(|tag| model.of_tag(tag).len()).sum();
        assert_eq!(
            call!(client, "CACHE.INVALIDATE", both[0], both[1]),
            Reply::Int(pairs as i64)
        );
        model.drop_where(false, |tags| tags[0] == "half0" || tags[1] == "part5");
        while stat(client, "reclaim_backlog") > 0 {
            model.must_hold(client, "while it drains");
        }
        model.must_hold(client, "drained");
        wait_reclaimed(client);
        assert_eq!(
            call!(client, "DBSIZE"),
            Reply::Int(model.entries.len() as i64)
        );
    });
}

#[test]
fn stats_over_many_tags_delays_only_its_caller() {
    for_each_engine(|engine| {
        let (server, mut client) = slow(engine);
        let set = |n: usize| {
            args![
                "CACHE.SET",
                key(n),
                "v",
                "TAGS",
                2,
                "all",
                format!("own{n}")
            ]
        };
        let commands: Vec<_> = (0..MANY).map(set).collect();
        client.pipeline(&commands);
        call!(client, "CACHE.SET", "kept", "v", "TAGS", 1, "rest");
        call!(client, "CACHE.INVALIDATE", "all");
        client.send(&["CACHE.STATS"]);
        let mut other = server.raw();
        wait_until("the caller waits", Duration::from_secs(20), || {
            info(&mut other, "blocked_clients") == 1
        });
        let stats = client.read();
        assert_eq!(stats.field("entries").int(), 1);
        assert_eq!(stats.field("tags").int(), 1);
        // Where the caller cannot wait, the reply is the same.
        call!(client, "MULTI");
        call!(client, "CACHE.STATS");
        let replies = call!(client, "EXEC");
        assert_eq!(replies.items()[0].field("tags").int(), 1);
    });
}
