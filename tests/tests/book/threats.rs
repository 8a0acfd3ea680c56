//! The threat model names tests that exist.

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
