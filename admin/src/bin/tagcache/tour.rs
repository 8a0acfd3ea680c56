//! `tagcache up --tour`: caches this machine's package database, one entry per package, tagged by section, priority and
//! maintainer, shows the replies of the commands, and compares them with the expected ones.

mod dpkg;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt::Display;
use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use redis::{Connection, cmd, pipe};

use crate::output::Failure;
use dpkg::Package;

/// The machine's own list of packages, on Debian and its derivatives.
const DPKG_STATUS: &str = "/var/lib/dpkg/status";
/// TTL of the tour's entries, in seconds.
const TTL_S: u32 = 86_400;
/// Commands per round trip while loading.
const BATCH: usize = 100;
/// The memory of invalidated entries must be reclaimed within this time.
const RECLAIM_DEADLINE: Duration = Duration::from_secs(5);

type Fields = HashMap<String, String>;

/// The packages that the tour caches.
pub(crate) struct Input {
    source: String,
    packages: Vec<Package>,
}

impl Input {
    /// Reads a file of that format; without one, this machine's own, or a made-up sample if it has none.
    pub(crate) fn read(file: Option<&Path>) -> Result<Self, Failure> {
        let file = file.or_else(|| Some(Path::new(DPKG_STATUS)).filter(|path| path.exists()));
        let (source, text) = match file {
            Some(file) => {
                let source = file.display().to_string();
                let text = std::fs::read(file)
                    .map_err(|error| Failure::Usage(format!("{source}: {error}")))?;
                (source, String::from_utf8_lossy(&text).into_owned())
            }
            None => ("a sample".into(), dpkg::SAMPLE.into()),
        };
        let packages = dpkg::parse(&text);
        if packages.is_empty() {
            return Err(Failure::Usage(format!("{source}: no package in it")));
        }
        Ok(Self { source, packages })
    }

    pub(crate) fn source(&self) -> &str {
        &self.source
    }

    /// Number of packages.
    pub(crate) fn len(&self) -> usize {
        self.packages.len()
    }
}

/// Writes everything to `out` and returns the replies that differ from those expected of a server that was empty.
pub(crate) fn show(
    connection: &mut Connection,
    input: &Input,
    out: &mut dyn Write,
) -> Result<Vec<String>, Failure> {
    let mut tour = Tour {
        connection,
        packages: &input.packages,
        out,
        differences: Vec::new(),
    };
    tour.all(&input.source)?;
    for difference in &tour.differences {
        writeln!(tour.out, "NOT AS EXPECTED: {difference}")?;
    }
    Ok(tour.differences)
}

/// The commands to try while the server runs, one per line.
pub(crate) fn suggestions(port: u16, input: &Input) -> String {
    let mut commands = Vec::new();
    let sections = sections(&input.packages);
    // The largest section was invalidated: the second largest still has its entries.
    if let Some((section, members)) = sections.get(1).or(sections.first()) {
        let key = &members[0].key;
        commands.extend([
            format!("CACHE.GET {key}"),
            format!("CACHE.INSPECT {key}"),
            format!("CACHE.TAGINFO section:{section}"),
            format!("CACHE.TAGSCAN section:{section} 0 COUNT 20"),
            format!("CACHE.INVALIDATE section:{section}"),
            format!("CACHE.GET {key}"),
        ]);
    }
    commands.push("CACHE.SET greeting hello EX 60 TAGS 2 lang:en page:1".into());
    commands.push("CACHE.STATS".into());
    let line = |command: &String| format!("  redis-cli -p {port} {command}\n");
    commands.iter().map(line).collect()
}

struct Tour<'a> {
    connection: &'a mut Connection,
    packages: &'a [Package],
    out: &'a mut dyn Write,
    differences: Vec<String>,
}

impl Tour<'_> {
    fn all(&mut self, source: &str) -> Result<(), Failure> {
        self.load(source)?;
        let Some((section, members)) = sections(self.packages).into_iter().next() else {
            self.differences.push("no package has a section".into());
            return Ok(());
        };
        self.look_at(&section, members.len())?;
        self.read(&members)?;
        self.invalidate(&section, &members)
    }

    fn load(&mut self, source: &str) -> Result<(), Failure> {
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
        writeln!(
            self.out,
            "{} packages from {}, one entry each:",
            self.packages.len(),
            source
        )?;
        writeln!(
            self.out,
            "  CACHE.SET pkg:<name> <stanza> EX {TTL_S} TAGS 3 section:<…> priority:<…> maintainer:<…>"
        )?;
        writeln!(
            self.out,
            "  took {}, {BATCH} commands a round trip\n",
            ms(took)
        )?;

        let stats = self.fields("CACHE.STATS", &[])?;
        print_fields(
            self.out,
            "CACHE.STATS",
            &stats,
            &["entries", "tags", "bytes", "index_bytes"],
        )?;
        let tags: BTreeSet<&String> = self.packages.iter().flat_map(|p| &p.tags).collect();
        self.expect("entries", stats.get("entries"), self.packages.len());
        self.expect("tags", stats.get("tags"), tags.len());
        Ok(())
    }

    fn look_at(&mut self, section: &str, members: usize) -> Result<(), Failure> {
        writeln!(
            self.out,
            "The largest of {} sections is {section}:",
            sections(self.packages).len()
        )?;
        let tag = format!("section:{section}");
        let info = self.fields("CACHE.TAGINFO", &[&tag])?;
        print_fields(
            self.out,
            &format!("CACHE.TAGINFO {tag}"),
            &info,
            &["entries", "bytes", "invalidations"],
        )?;
        self.expect("entries of the tag", info.get("entries"), members);
        Ok(())
    }

    fn read(&mut self, members: &[&Package]) -> Result<(), Failure> {
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

        writeln!(
            self.out,
            "CACHE.GET of {} of them, twice, and of pkg:no-such-package:",
            read.len()
        )?;
        let stats = self.fields("CACHE.STATS", &[])?;
        print_fields(
            self.out,
            "CACHE.STATS",
            &stats,
            &["hits", "misses", "hit_rate"],
        )?;
        self.expect("hits", stats.get("hits"), 2 * read.len());
        self.expect("misses", stats.get("misses"), 1);
        Ok(())
    }

    fn invalidate(&mut self, section: &str, members: &[&Package]) -> Result<(), Failure> {
        let tag = format!("section:{section}");
        let start = Instant::now();
        let gone: usize = cmd("CACHE.INVALIDATE").arg(&tag).query(self.connection)?;
        let took = start.elapsed();
        writeln!(self.out, "> CACHE.INVALIDATE {tag}")?;
        writeln!(
            self.out,
            "  {gone} entries gone in {} (round trip)\n",
            ms(took)
        )?;
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
        writeln!(
            self.out,
            "CACHE.MGET of all {} packages: {kept} values, {} nil\n",
            values.len(),
            values.len() - kept
        )?;

        let info = self.fields("CACHE.TAGINFO", &[&tag])?;
        let shown = ["entries", "bytes", "invalidations", "last_invalidated"];
        print_fields(self.out, &format!("CACHE.TAGINFO {tag}"), &info, &shown)?;
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
            self.out,
            &format!("CACHE.STATS, {} later", ms(waited)),
            &stats,
            &shown,
        )?;
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

    /// Waits until the memory of all invalidated entries is reclaimed; returns the time since `start`.
    fn wait_for_memory(&mut self, start: Instant) -> Result<Duration, Failure> {
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

    fn fields(&mut self, command: &str, args: &[&str]) -> Result<Fields, Failure> {
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

fn print_fields(
    out: &mut dyn Write,
    title: &str,
    fields: &Fields,
    names: &[&str],
) -> Result<(), Failure> {
    writeln!(out, "> {title}")?;
    for name in names {
        writeln!(
            out,
            "  {name:<16} {}",
            fields.get(*name).map_or("-", String::as_str)
        )?;
    }
    writeln!(out)?;
    Ok(())
}

fn ms(time: Duration) -> String {
    format!("{:.2} ms", time.as_secs_f64() * 1000.0)
}
