//! `tagcache doctor`: examines a server and reports each problem with its remedy.

mod checks;
mod facts;

use serde_json::{Value, json};

use crate::args::Doctor;
use crate::connect::server;
use crate::output::{Failure, show};
use checks::{Check, State};
use facts::Facts;

pub(crate) fn run(args: &Doctor, json: bool) -> Result<(), Failure> {
    let server = server(&args.at)?;
    let checks = checks::all(&Facts::gather(&server, &args.at, args.user.as_deref())?);
    let value: Value = checks
        .iter()
        .map(|check| json!({"check": check.name, "state": check.state.name(), "found": check.found, "remedy": check.remedy}))
        .collect();
    show(json, &json!({ "checks": value }), || {
        checks.iter().map(line).collect()
    })?;
    if checks.iter().any(|check| check.state == State::Problem) {
        return Err(Failure::No);
    }
    Ok(())
}

fn line(check: &Check) -> String {
    // Escaped, since the text contains the server's own messages.
    let safe = |text: &str| crate::text::name(text.as_bytes());
    let (state, found) = (check.state.name(), safe(&check.found));
    let remedy = check.remedy.as_deref().map(safe);
    let remedy = remedy.map_or_else(String::new, |remedy| format!("{:<8} -> {remedy}\n", ""));
    format!("{state:<8} {}: {found}\n{remedy}", check.name)
}
