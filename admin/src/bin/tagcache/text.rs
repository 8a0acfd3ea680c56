//! Figures for people.

use std::time::Duration;

use console::{Alignment, measure_text_width, pad_str};

/// Bytes with a unit: `1.50 MB`.
pub(crate) fn bytes(n: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KB", "MB", "GB", "TB"];
    let mut value = n as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit < UNITS.len() - 1 {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 {
        format!("{n} B")
    } else {
        format!("{value:.2} {}", UNITS[unit])
    }
}

pub(crate) fn maybe_bytes(n: Option<u64>) -> String {
    n.map_or_else(unknown, bytes)
}

pub(crate) fn percent(n: Option<f64>) -> String {
    n.map_or_else(unknown, |n| format!("{n:.2}%"))
}

pub(crate) fn ms(time: Duration) -> String {
    format!("{:.2} ms", time.as_secs_f64() * 1000.0)
}

pub(crate) fn unknown() -> String {
    "unknown".into()
}

/// Columns as wide as their widest cell; the first is left-aligned, the others are numbers.
pub(crate) fn table(head: &[&str], rows: &[Vec<String>]) -> String {
    let width = |i: usize| {
        let cells = rows.iter().map(|row| measure_text_width(&row[i]));
        cells
            .chain([measure_text_width(head[i])])
            .max()
            .unwrap_or(0)
    };
    let widths: Vec<usize> = (0..head.len()).map(width).collect();
    let line = |cells: &mut dyn Iterator<Item = &str>| {
        let cell = |(i, cell): (usize, &str)| {
            let side = if i == 0 {
                Alignment::Left
            } else {
                Alignment::Right
            };
            pad_str(cell, widths[i], side, None).into_owned()
        };
        let cells: Vec<String> = cells.enumerate().map(cell).collect();
        cells.join("  ").trim_end().to_owned() + "\n"
    };
    let mut text = line(&mut head.iter().copied());
    for row in rows {
        text += &line(&mut row.iter().map(String::as_str));
    }
    text
}

/// A key or tag for a terminal: control characters and marks of writing direction are written as escapes.
pub(crate) fn name(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    text.chars()
        .map(|c| {
            if c.is_control() || is_direction(c) {
                c.escape_default().to_string()
            } else {
                c.to_string()
            }
        })
        .collect()
}

/// Unicode's marks that reorder the visible text: `a<RLO>gpj.exe` looks like another name.
fn is_direction(c: char) -> bool {
    matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_aligned() {
        let rows = [
            vec!["a".into(), "1".into()],
            vec!["longer".into(), "1,000".into()],
        ];
        assert_eq!(
            table(&["Key", "Hits"], &rows),
            "Key      Hits\na           1\nlonger  1,000\n"
        );
        let wide = [vec!["値".into(), "1".into()]];
        assert_eq!(table(&["K", "H"], &wide), "K   H\n値  1\n");
    }

    #[test]
    fn control_characters_in_a_name_are_escaped() {
        assert_eq!(name(b"a\x1b[2J\n"), "a\\u{1b}[2J\\n");
        assert_eq!(name("a\u{202e}b".as_bytes()), "a\\u{202e}b");
        assert_eq!(name("Käse 値".as_bytes()), "Käse 値");
    }

    #[test]
    fn byte_counts_are_shown_with_a_unit() {
        assert_eq!(bytes(1023), "1023 B");
        assert_eq!(bytes(1536), "1.50 KB");
        assert_eq!(bytes(u64::MAX), "16777216.00 TB");
    }
}
