//! The threat model and the fuzz script name tests that exist.

use std::path::{Path, PathBuf};

use crate::root;

fn sources(path: &Path) -> Vec<PathBuf> {
    let Ok(folder) = std::fs::read_dir(path) else {
        return vec![path.with_extension("rs")];
    };
    folder.map(|item| item.expect("a file").path()).collect()
}

#[test]
fn every_test_that_the_threat_model_names_exists() {
    let page = std::fs::read_to_string(root().join("SECURITY.md")).expect("the page");
    let mut named = 0;
    for code in page.split('`').skip(1).step_by(2) {
        let Some((suite, test)) = code.split_once("::").filter(|(suite, _)| *suite != "suite")
        else {
            continue;
        };
        named += 1;
        let folders = ["tests/tests", "admin/tests"].map(|folder| root().join(folder).join(suite));
        let function = format!("fn {test}()");
        let exists = folders
            .iter()
            .flat_map(|path| sources(path))
            .any(|file| std::fs::read_to_string(file).is_ok_and(|text| text.contains(&function)));
        assert!(exists, "{code}");
    }
    assert!(named > 40, "{named}");
}

#[test]
fn every_fuzz_target_selects_a_test() {
    let script = std::fs::read_to_string(root().join("scripts/fuzz")).expect("the script");
    let (_, targets) = script.split_once("targets='").expect("the list");
    let (targets, _) = targets.split_once('\'').expect("its end");
    for target in targets.lines() {
        let words: Vec<_> = target.split_whitespace().collect();
        let [_, package, kind, filter] = words[..] else {
            panic!("{target}");
        };
        let package = root().join(package.strip_prefix("tagcache-").unwrap_or("client"));
        let folder = kind.strip_prefix("--test=").map_or_else(
            || package.join("src"),
            |suite| package.join("tests").join(suite),
        );
        // A filter is a part of a name, or the path of a module.
        let (path, name) = filter
            .rsplit_once("::")
            .map_or(("", filter), |(path, _)| (path, ""));
        let folder = path
            .split("::")
            .filter(|part| *part != "tests")
            .fold(folder, |at, part| at.join(part));
        let selects = |file: &Path| {
            std::fs::read_to_string(file).is_ok_and(|text| text.contains(&format!("fn {name}")))
        };
        assert!(files(&folder).iter().any(|file| selects(file)), "{target}");
    }
}

/// All files below a folder; for `name`, also `name.rs`.
fn files(folder: &Path) -> Vec<PathBuf> {
    sources(folder)
        .into_iter()
        .flat_map(|path| {
            if path.is_dir() {
                files(&path)
            } else {
                vec![path]
            }
        })
        .collect()
}
