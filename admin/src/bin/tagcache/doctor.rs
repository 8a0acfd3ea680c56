//! `tagcache doctor`: looks at a server and says what is wrong with it, and the remedy.

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
    let checks = checks::all(&Facts::gather(&server, args.user.as_deref())?);
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
    // A server's own words are in it.
    let found = crate::text::name(check.found.as_bytes());
    let mut text = format!("{:<8} {}: {found}\n", check.state.name(), check.name);
    if let Some(remedy) = &check.remedy {
        let remedy = crate::text::name(remedy.as_bytes());
        text += &format!("{:<8} -> {remedy}\n", "");
    }
    text
}
