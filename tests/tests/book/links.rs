//! Links between pages: each file and each heading that a link names exists.

use std::collections::BTreeSet;

use crate::{pages, root};

/// The lines outside code blocks.
fn prose(text: &str) -> impl Iterator<Item = &str> {
    let mut is_code = false;
    text.lines().filter(move |line| {
        let fence = line.trim_start().starts_with("```");
        is_code ^= fence;
        !is_code && !fence
    })
}

/// The targets of the links in a line. Code in backticks is no link, but may be the text of a link.
fn targets(line: &str) -> Vec<String> {
    let text: String = line.split('`').step_by(2).collect();
    let rest = text.split("](").skip(1);
    rest.filter_map(|rest| Some(rest.split_once(')')?.0.to_owned()))
        .collect()
}

/// The names that links use for the headings of a page, made as mdBook and the usual hosts make them.
fn anchors(text: &str) -> BTreeSet<String> {
    let headings = prose(text).filter(|line| line.starts_with('#'));
    headings
        .map(|line| {
            let title = line.trim_start_matches('#').trim().to_lowercase();
            let kept = title
                .chars()
                .filter(|c| c.is_alphanumeric() || " -_".contains(*c));
            kept.map(|c| if c == ' ' { '-' } else { c }).collect()
        })
        .collect()
}

/// `folder/../other/page.md` as `other/page.md`.
fn resolve(folder: &str, target: &str) -> String {
    let mut parts: Vec<&str> = folder.split('/').filter(|part| !part.is_empty()).collect();
    for part in target.split('/') {
        match part {
            ".." => {
                parts.pop();
            }
            "." => {}
            part => parts.push(part),
        }
    }
    parts.join("/")
}

#[test]
fn every_relative_link_of_readme_and_book_resolves() {
    let pages = pages();
    let mut broken = Vec::new();
    let mut checked = 0;
    for page in &pages {
        let folder = page.name.rsplit_once('/').map_or("", |(folder, _)| folder);
        for target in prose(&page.text).flat_map(targets) {
            if target.contains("://") {
                continue;
            }
            checked += 1;
            let (file, anchor) = target.split_once('#').unwrap_or((&target, ""));
            let name = if file.is_empty() {
                page.name.clone()
            } else {
                resolve(folder, file)
            };
            // The built book contains only its own pages, and no other file of the repository.
            let is_outside = page.name.starts_with("docs/src/") && !name.starts_with("docs/src/");
            let has_anchor = || {
                let linked = pages.iter().find(|page| page.name == name);
                anchor.is_empty() || linked.is_some_and(|page| anchors(&page.text).contains(anchor))
            };
            if is_outside || !root().join(&name).exists() || !has_anchor() {
                broken.push(format!("{}: {target}", page.name));
            }
        }
    }
    assert!(broken.is_empty(), "{broken:#?}");
    assert!(checked > 100, "only {checked} links were found");
}

#[test]
fn every_included_part_of_a_file_exists() {
    let mut included = 0;
    for page in pages() {
        let parts = page.text.split("{{#include ").skip(1);
        for part in parts.filter_map(|rest| rest.split("}}").next()) {
            let (file, anchor) = part.split_once(':').unwrap_or((part, ""));
            let text = std::fs::read_to_string(root().join("docs/src").join(file));
            let text = text.unwrap_or_else(|error| panic!("{}: {file}: {error}", page.name));
            let ends = [
                format!("ANCHOR: {anchor} "),
                format!("ANCHOR_END: {anchor} "),
            ];
            let has_part = anchor.is_empty() || ends.iter().all(|end| text.contains(end));
            assert!(has_part, "{}: {file} has no part {anchor}", page.name);
            included += 1;
        }
    }
    assert!(included > 1, "only {included} parts were found");
}

#[test]
fn the_summary_lists_every_page_of_the_book_once() {
    let pages = pages();
    let summary = pages
        .iter()
        .find(|page| page.name.ends_with("/SUMMARY.md"))
        .expect("the summary");
    let mut listed: Vec<String> = prose(&summary.text)
        .flat_map(targets)
        .map(|target| format!("docs/src/{target}"))
        .collect();
    listed.sort();
    let in_book = |name: &&String| name.starts_with("docs/src/") && **name != summary.name;
    let written: Vec<String> = pages
        .iter()
        .map(|page| &page.name)
        .filter(in_book)
        .cloned()
        .collect();
    assert_eq!(listed, written);
}

#[test]
fn links_and_headings_are_parsed_as_markdown() {
    assert_eq!(
        targets("[a](b.md), `[c](d)`, [`E F`](g.md#h)"),
        ["b.md", "g.md#h"]
    );
    assert_eq!(
        anchors("# CACHE.SET\n```\n# not this\n```\n## Reply types, `RESP2`"),
        BTreeSet::from(["cacheset".to_owned(), "reply-types-resp2".to_owned()])
    );
    assert_eq!(
        resolve("docs/src/commands", "../commands.md"),
        "docs/src/commands.md"
    );
}
