//! The project's targets, next to the measured figures.

use crate::table::{Table, thousands};

/// Two decimals where they are meaningful.
fn figure(measured: f64, unit: &str) -> String {
    if measured < 100.0 {
        format!("{measured:.2}{unit}")
    } else {
        format!("{}{unit}", thousands(measured.round() as usize))
    }
}

#[derive(Default)]
pub(crate) struct Targets {
    rows: Vec<(String, Bound, f64, &'static str)>,
}

#[derive(Clone, Copy)]
pub(crate) enum Bound {
    AtLeast(f64),
    AtMost(f64),
}

impl Targets {
    pub(crate) fn add(
        &mut self,
        what: impl Into<String>,
        bound: Bound,
        measured: f64,
        unit: &'static str,
    ) {
        self.rows.push((what.into(), bound, measured, unit));
    }

    pub(crate) fn print(&self) {
        let mut table = Table::new(&["target", "wanted", "measured", "reached"]);
        for (what, bound, measured, unit) in &self.rows {
            let (wanted, reached) = match *bound {
                Bound::AtLeast(limit) => (format!(">= {limit}{unit}"), *measured >= limit),
                Bound::AtMost(limit) => (format!("<= {limit}{unit}"), *measured <= limit),
            };
            let reached = if reached { "yes" } else { "no" };
            table.row(vec![
                what.clone(),
                wanted,
                figure(*measured, unit),
                reached.into(),
            ]);
        }
        table.print();
    }
}
