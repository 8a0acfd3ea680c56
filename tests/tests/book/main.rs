//! The documentation: its examples run as printed, and its links resolve.

mod dependencies;
mod examples;
mod figures;
mod links;
mod threats;

use std::path::{Path, PathBuf};

/// A page, by its path from the root of the workspace.
struct Page {
    name: String,
    text: String,
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// README, SECURITY and every page of the book.
fn pages() -> Vec<Page> {
    let mut names = vec!["README.md".to_owned(), "SECURITY.md".to_owned()];
    let mut folders = vec!["docs/src".to_owned()];
    while let Some(folder) = folders.pop() {
        for item in std::fs::read_dir(root().join(&folder)).expect("the folder of the book") {
            let item = item.expect("a file of the book");
            let name = format!("{folder}/{}", item.file_name().to_string_lossy());
            if item.path().is_dir() {
                folders.push(name);
            } else if Path::new(&name).extension().is_some_and(|end| end == "md") {
                names.push(name);
            }
        }
    }
    names.sort();
    let page = |name: String| Page {
        text: std::fs::read_to_string(root().join(&name)).expect("a page"),
        name,
    };
    names.into_iter().map(page).collect()
}
