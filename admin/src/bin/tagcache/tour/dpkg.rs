//! The package database of Debian: stanzas of `Field: value` lines, separated by empty lines.

use std::collections::HashSet;

/// Made-up packages, for machines that have no such database.
pub(crate) const SAMPLE: &str = include_str!("packages");

/// One package, as it is cached.
pub(crate) struct Package {
    /// `pkg:<name>`, or `pkg:<name>:<architecture>` for the second of that name.
    pub(crate) key: String,
    /// The whole stanza.
    pub(crate) stanza: String,
    /// Its section, such as `libs` or `contrib/net`.
    pub(crate) section: Option<String>,
    /// `section:…`, `priority:…` and `maintainer:…`, for each field that the stanza has.
    pub(crate) tags: Vec<String>,
}

/// All packages of a status file; stanzas that are not packages are skipped.
pub(crate) fn parse(status: &str) -> Vec<Package> {
    let mut keys = HashSet::new();
    status
        .split("\n\n")
        .filter_map(|stanza| {
            let stanza = stanza.trim_matches('\n');
            let name = field(stanza, "Package")?;
            let mut key = format!("pkg:{name}");
            if keys.contains(&key) {
                key = format!("{key}:{}", field(stanza, "Architecture")?);
            }
            // A third stanza of that name and architecture is a duplicate.
            keys.insert(key.clone()).then(|| Package {
                key,
                stanza: stanza.to_owned(),
                section: field(stanza, "Section").map(str::to_owned),
                tags: tags(stanza),
            })
        })
        .collect()
}

fn tags(stanza: &str) -> Vec<String> {
    let section = field(stanza, "Section").map(|s| format!("section:{s}"));
    let priority = field(stanza, "Priority").map(|p| format!("priority:{p}"));
    let maintainer = field(stanza, "Maintainer").map(|m| format!("maintainer:{}", address(m)));
    [section, priority, maintainer]
        .into_iter()
        .flatten()
        .collect()
}

/// The value after `name:` at the beginning of a line; continuation lines start with a blank and never match.
fn field<'a>(stanza: &'a str, name: &str) -> Option<&'a str> {
    let value = stanza
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?
        .trim();
    (!value.is_empty()).then_some(value)
}

/// `Name <address>` → `address`, which is easier to type than the name.
fn address(maintainer: &str) -> &str {
    let inner = maintainer
        .rsplit_once('<')
        .and_then(|(_, rest)| rest.strip_suffix('>'));
    inner.unwrap_or(maintainer)
}

#[cfg(test)]
mod tests {
    use super::{SAMPLE, parse};

    const STATUS: &str = "Package: a\nSection: libs\nPriority: optional\nMaintainer: Team A <a@example.org>\nDescription: one\n Section: not this\n\nPackage: a\nArchitecture: i386\nSection: libs\n\n\nStatus: no name\n\nPackage: b\nMaintainer: nobody\n";

    #[test]
    fn a_stanza_becomes_an_entry_with_its_tags() {
        let packages = parse(STATUS);
        let keys: Vec<_> = packages.iter().map(|p| p.key.as_str()).collect();
        assert_eq!(keys, ["pkg:a", "pkg:a:i386", "pkg:b"]);
        assert_eq!(
            packages[0].tags,
            [
                "section:libs",
                "priority:optional",
                "maintainer:a@example.org"
            ]
        );
        assert_eq!(packages[0].section.as_deref(), Some("libs"));
        assert!(packages[0].stanza.ends_with("Section: not this"));
        assert_eq!(packages[2].tags, ["maintainer:nobody"]);
        assert_eq!(packages[2].section, None);
    }

    #[test]
    fn sample_contains_several_sections() {
        let packages = parse(SAMPLE);
        let sections: std::collections::HashSet<_> = packages.iter().map(|p| &p.section).collect();
        assert!(packages.len() >= 12 && sections.len() >= 3);
    }
}
