//! Each dependency is listed with its reason.

use crate::root;

#[test]
fn every_dependency_has_a_comment_with_its_reason() {
    let workspace = std::fs::read_to_string(root().join("Cargo.toml")).expect("the workspace");
    let members = workspace.split("members = [").nth(1).expect("its members");
    let members = members.split(']').next().expect("the end of the list");
    let mut found = 0;
    for member in members.split('"').skip(1).step_by(2) {
        let manifest = root().join(member).join("Cargo.toml");
        let manifest = std::fs::read_to_string(manifest).expect("a member's manifest");
        let (mut section, mut before) = ("", "");
        for line in manifest.lines() {
            if line.starts_with('[') {
                section = line;
            } else if section.contains("dependencies") && line.contains("workspace = true") {
                found += 1;
                assert!(before.starts_with('#'), "{member}: {line}");
            }
            before = line;
        }
    }
    assert!(found > 100, "{found}");
}
