//! What the demo shows, and the figures it expects.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt::Display;
use std::path::Path;
use std::time::{Duration, Instant};

use redis::{Connection, RedisResult, cmd, pipe};

use crate::dpkg::Package;

/// How long an entry lives here, in seconds.
const TTL_S: u32 = 86_400;
/// Commands a round trip while loading.
const BATCH: usize = 100;
/// Within this the memory of what was invalidated must be back.
const RECLAIM_DEADLINE: Duration = Duration::from_secs(5);

type Fields = HashMap<String, String>;

/// Shows everything and answers what was not as expected.
pub(crate) fn show(
    connection: &mut Connection,
    packages: &[Package],
    input: &Path,
) -> RedisResult<Vec<String>> {
    let mut tour = Tour {
        connection,
        packages,
        differences: Vec::new(),
    };
    tour.load(input)?;
    let Some((section, members)) = sections(packages).into_iter().next() else {
        tour.differences.push("no package has a section".into());
        return Ok(tour.differences);
    };
    tour.look_at(&section, members.len())?;
    tour.read(&members)?;
    tour.invalidate(&section, &members)?;
    Ok(tour.differences)
}

/// The commands to try while the server runs.
pub(crate) fn suggest(port: u16, packages: &[Package]) {
    println!("The server stays in the foreground. In another terminal:\n");
    let sections = sections(packages);
    // The largest section was invalidated: the second largest still has its entries.
    if let Some((section, members)) = sections.get(1).or(sections.first()) {
        let key = &members[0].key;
        println!("  redis-cli -p {port} CACHE.GET {key}");
        println!("  redis-cli -p {port} CACHE.INSPECT {key}");
        println!("  redis-cli -p {port} CACHE.TAGINFO section:{section}");
        println!("  redis-cli -p {port} CACHE.TAGSCAN section:{section} 0 COUNT 20");
        println!("  redis-cli -p {port} CACHE.INVALIDATE section:{section}");
        println!("  redis-cli -p {port} CACHE.GET {key}");
    }
    println!("  redis-cli -p {port} CACHE.SET greeting hello EX 60 TAGS 2 lang:en page:1");
    println!("  redis-cli -p {port} CACHE.STATS\n");
    println!("Ctrl-C ends it.");
}

struct Tour<'a> {
    connection: &'a mut Connection,
    packages: &'a [Package],
    differences: Vec<String>,
}

impl Tour<'_> {
    fn load(&mut self, input: &Path) -> RedisResult<()> {
        let start = Instant::now();
        for batch in self.packages.chunks(BATCH) {
            let mut pipe = pipe();
            for package in batch {
                let set = pipe
                    .cmd("CACHE.SET")
                    .arg(&package.key)
                    .arg(&package.stanza)
                    .arg("EX")
                    .arg(TTL_S);
                if !package.tags.is_empty() {
                    set.arg("TAGS").arg(package.tags.len()).arg(&package.tags);
                }
                set.ignore();
            }
            pipe.exec(self.connection)?;
        }
        let took = start.elapsed();
        println!(
            "{} packages from {}, one entry each:",
            self.packages.len(),
            input.display()
        );
        println!(
            "  CACHE.SET pkg:<name> <stanza> EX {TTL_S} TAGS 3 section:<…> priority:<…> maintainer:<…>"
        );
        println!("  took {}, {BATCH} commands a round trip\n", ms(took));

        let stats = self.fields("CACHE.STATS", &[])?;
        print_fields(
            "CACHE.STATS",
            &stats,
            &["entries", "tags", "bytes", "index_bytes"],
        );
        let tags: BTreeSet<&String> = self.packages.iter().flat_map(|p| &p.tags).collect();
        self.expect("entries", stats.get("entries"), self.packages.len());
        self.expect("tags", stats.get("tags"), tags.len());
        Ok(())
    }

    fn look_at(&mut self, section: &str, members: usize) -> RedisResult<()> {
        println!(
            "The largest of {} sections is {section}:",
            sections(self.packages).len()
        );
        let tag = format!("section:{section}");
        let info = self.fields("CACHE.TAGINFO", &[&tag])?;
        print_fields(
            &format!("CACHE.TAGINFO {tag}"),
            &info,
            &["entries", "bytes", "invalidations"],
        );
        self.expect("entries of the tag", info.get("entries"), members);
        Ok(())
    }

    fn read(&mut self, members: &[&Package]) -> RedisResult<()> {
        let read: Vec<_> = members.iter().take(10).collect();
        for package in read.iter().chain(&read) {
            let value: Option<String> =
                cmd("CACHE.GET").arg(&package.key).query(self.connection)?;
            if value.as_ref() != Some(&package.stanza) {
                self.differences
                    .push(format!("CACHE.GET {} is not what was set", package.key));
            }
        }
        let none: Option<String> = cmd("CACHE.GET")
            .arg("pkg:no-such-package")
            .query(self.connection)?;
        self.expect(
            "CACHE.GET pkg:no-such-package",
            Some(&format!("{none:?}")),
            "None",
        );

        println!(
            "CACHE.GET of {} of them, twice, and of pkg:no-such-package:",
            read.len()
        );
        let stats = self.fields("CACHE.STATS", &[])?;
        print_fields("CACHE.STATS", &stats, &["hits", "misses", "hit_rate"]);
        self.expect("hits", stats.get("hits"), 2 * read.len());
        self.expect("misses", stats.get("misses"), 1);
        Ok(())
    }

    fn invalidate(&mut self, section: &str, members: &[&Package]) -> RedisResult<()> {
        let tag = format!("section:{section}");
        let start = Instant::now();
        let gone: usize = cmd("CACHE.INVALIDATE").arg(&tag).query(self.connection)?;
        let took = start.elapsed();
        println!("> CACHE.INVALIDATE {tag}");
        println!("  {gone} entries gone in {} (round trip)\n", ms(took));
        self.expect(
            "entries invalidated",
            Some(&gone.to_string()),
            members.len(),
        );

        let keys: Vec<&str> = self.packages.iter().map(|p| p.key.as_str()).collect();
        let values: Vec<Option<String>> = cmd("CACHE.MGET").arg(keys).query(self.connection)?;
        let mut kept = 0;
        for (package, value) in self.packages.iter().zip(&values) {
            kept += usize::from(value.is_some());
            let invalidated = package.section.as_deref() == Some(section);
            if value.is_some() == invalidated {
                self.differences
                    .push(format!("{} is there: {}", package.key, value.is_some()));
            }
        }
        println!(
            "CACHE.MGET of all {} packages: {kept} values, {} nil\n",
            values.len(),
            values.len() - kept
        );

        let info = self.fields("CACHE.TAGINFO", &[&tag])?;
        let shown = ["entries", "bytes", "invalidations", "last_invalidated"];
        print_fields(&format!("CACHE.TAGINFO {tag}"), &info, &shown);
        self.expect("entries of the tag afterwards", info.get("entries"), 0);
        self.expect("invalidations of the tag", info.get("invalidations"), 1);

        let waited = self.wait_for_memory(start)?;
        let stats = self.fields("CACHE.STATS", &[])?;
        let shown = [
            "entries",
            "tags",
            "bytes",
            "invalidations",
            "invalidated",
            "reclaimed",
            "reclaim_backlog",
            "clock",
        ];
        print_fields(
            &format!("CACHE.STATS, {} later", ms(waited)),
            &stats,
            &shown,
        );
        self.expect(
            "entries afterwards",
            stats.get("entries"),
            self.packages.len() - members.len(),
        );
        self.expect("invalidations", stats.get("invalidations"), 1);
        self.expect("invalidated", stats.get("invalidated"), members.len());
        self.expect("reclaim_backlog", stats.get("reclaim_backlog"), 0);
        Ok(())
    }

    /// Waits until everything invalidated has given its memory back; how long that was after `start`.
    fn wait_for_memory(&mut self, start: Instant) -> RedisResult<Duration> {
        while start.elapsed() < RECLAIM_DEADLINE {
            if self
                .fields("CACHE.STATS", &[])?
                .get("reclaim_backlog")
                .is_some_and(|n| n == "0")
            {
                break;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(start.elapsed())
    }

    fn fields(&mut self, command: &str, args: &[&str]) -> RedisResult<Fields> {
        // An unknown tag is nil: no fields.
        let fields: Option<Fields> = cmd(command).arg(args).query(self.connection)?;
        Ok(fields.unwrap_or_default())
    }

    fn expect(&mut self, what: &str, got: Option<&String>, want: impl Display) {
        let want = want.to_string();
        if got != Some(&want) {
            self.differences.push(format!(
                "{what}: {}, expected {want}",
                got.map_or("nothing", String::as_str)
            ));
        }
    }
}

/// Packages by section, the largest section first.
fn sections(packages: &[Package]) -> Vec<(String, Vec<&Package>)> {
    let mut sections: BTreeMap<&str, Vec<&Package>> = BTreeMap::new();
    for package in packages {
        if let Some(section) = &package.section {
            sections.entry(section).or_default().push(package);
        }
    }
    let mut sections: Vec<_> = sections
        .into_iter()
        .map(|(name, members)| (name.to_owned(), members))
        .collect();
    sections.sort_by_key(|(_, members)| std::cmp::Reverse(members.len()));
    sections
}

fn print_fields(title: &str, fields: &Fields, names: &[&str]) {
    println!("> {title}");
    for name in names {
        println!(
            "  {name:<16} {}",
            fields.get(*name).map_or("-", String::as_str)
        );
    }
    println!();
}

fn ms(time: Duration) -> String {
    format!("{:.2} ms", time.as_secs_f64() * 1000.0)
}
