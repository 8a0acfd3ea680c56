//! Figures: the README shows only figures that the benchmarks printed.

use crate::{pages, root};

#[test]
fn each_figure_of_the_readme_is_in_the_results() {
    let results = root().join("benches/RESULTS.md");
    let results = std::fs::read_to_string(results).expect("the results");
    let pages = pages();
    let readme = pages.iter().find(|page| page.name == "README.md");
    let table = readme.and_then(|page| {
        let (_, rest) = page.text.split_once("<!-- ANCHOR: figures -->")?;
        Some(rest.split_once("<!-- ANCHOR_END: figures -->")?.0.trim())
    });
    let rows = table.expect("the table of figures").lines().skip(2);
    let figures: Vec<_> = rows
        .flat_map(|row| row.split('|').map(str::trim).skip(2).take(2))
        .collect();
    let is_missing = |figure: &&&str| !results.contains(&format!("| {figure} |"));
    let missing: Vec<_> = figures.iter().filter(is_missing).collect();
    assert_eq!(missing, Vec::<&&str>::new(), "not in benches/RESULTS.md");
    assert!(figures.len() >= 10, "only {figures:?}");
}
