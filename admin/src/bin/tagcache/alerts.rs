//! `tagcache alerts`: checks, exports and tests rules.

use std::path::Path;

use serde_json::{Value, json};
use tagcache_admin::alerts::{Alerts, Config, ConfigError};
use tagcache_admin::memory::METRICS;

use crate::args::{Alerts as Args, AlertsCommand};
use crate::output::{Failure, show};

/// The guide's two rules, which report to this channel.
pub(crate) fn guide_rules(channel: &str) -> String {
    format!(
        "alerts:
  - {{name: High Memory Usage, condition: memory.heapPercent > 85, severity: warning, channels: [{channel}]}}
  - {{name: Critical Memory Usage, condition: memory.heapPercent > 95, severity: critical, channels: [{channel}]}}
"
    )
}

pub(crate) fn run(args: &Args, json: bool) -> Result<(), Failure> {
    match &args.command {
        AlertsCommand::Check { file, syntax_only } => check(file, *syntax_only, json),
        AlertsCommand::Export { grafana: true, .. } => {
            show(false, &Value::Null, || include_str!("grafana.json").into())
        }
        AlertsCommand::Export { file, .. } => {
            let file = file
                .as_deref()
                .ok_or_else(|| Failure::Usage("which rules file?".into()))?;
            let rules = read(file, json)?.to_prometheus();
            show(json, &json!({"rules": rules}), || rules.clone())
        }
        AlertsCommand::Test { file, channel } => test(file, channel, json),
        AlertsCommand::Metrics => {
            let value: Value = METRICS
                .iter()
                .map(|metric| json!({"name": metric.name, "prometheus": metric.prometheus, "help": metric.help}))
                .collect();
            show(json, &value, || {
                METRICS
                    .iter()
                    .map(|m| format!("{:<36} {}\n", m.name, m.help))
                    .collect::<Vec<_>>()
                    .concat()
            })
        }
    }
}

fn check(file: &Path, syntax_only: bool, json: bool) -> Result<(), Failure> {
    let config = read(file, json)?;
    let names: Vec<String> = config.rule_names().into_iter().map(str::to_owned).collect();
    if !syntax_only {
        Alerts::builder(config)
            .check()
            .map_err(|error| problems(file, &error, json))?;
    }
    show(json, &json!({"rules": names, "problems": []}), || {
        let rules = if names.len() == 1 { "rule" } else { "rules" };
        format!("{}: {} {rules}, no mistakes\n", file.display(), names.len())
    })
}

fn test(file: &Path, channels: &[String], json: bool) -> Result<(), Failure> {
    let config = read(file, json)?;
    let channels = if channels.is_empty() {
        config.channel_names()
    } else {
        channels.to_vec()
    };
    if channels.is_empty() {
        return Err(Failure::Usage(
            "no rule names a channel; --channel names one".into(),
        ));
    }
    let builder = Alerts::builder(config).instance("tagcache alerts test");
    let tried: Vec<(String, Result<(), String>)> = channels
        .into_iter()
        .map(|channel| {
            let sent = builder.send_test(&channel);
            (channel, sent)
        })
        .collect();
    let value: Value = tried
        .iter()
        .map(|(channel, sent)| json!({"channel": channel, "arrived": sent.is_ok(), "error": sent.as_ref().err()}))
        .collect();
    show(json, &value, || {
        let line = |(channel, sent): &(String, Result<(), String>)| match sent {
            Ok(()) => format!("{channel}: arrived\n"),
            Err(error) => format!("{channel}: {error}\n"),
        };
        tried.iter().map(line).collect()
    })?;
    if tried.iter().all(|(_, sent)| sent.is_ok()) {
        Ok(())
    } else {
        Err(Failure::No)
    }
}

fn read(file: &Path, json: bool) -> Result<Config, Failure> {
    let text = std::fs::read_to_string(file)
        .map_err(|error| Failure::Rules(format!("{}: {error}", file.display())))?;
    Config::from_yaml(&text).map_err(|error| problems(file, &error, json))
}

/// The problems on standard error in the form of a compiler's messages, or as a document.
fn problems(file: &Path, error: &ConfigError, json: bool) -> Failure {
    if json {
        let problems: Value = error
            .0
            .iter()
            .map(|p| json!({"line": p.line, "column": p.column, "message": p.message}))
            .collect();
        // The exit code reports the failure.
        let _ = show(true, &json!({"problems": problems}), String::new);
        return Failure::Rules(String::new());
    }
    Failure::rules(file, error)
}
