//! Rules and channels in YAML, checked with line and column.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use serde::Deserialize;
use serde_saphyr::{Location, Spanned};

use super::channel::{ChannelSpec, ChannelYaml};
use super::condition::Condition;
use super::state::Timing;

/// Cool-down of a rule that names none.
const COOLDOWN: Duration = Duration::from_secs(300);

/// How bad it is when a rule fires.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Worth knowing.
    Info,
    /// Look at it during the day.
    Warning,
    /// Something is broken.
    Error,
    /// Look at it now.
    Critical,
}

impl Severity {
    /// `info`, `warning`, `error` or `critical`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Info => "info",
            Self::Warning => "warning",
            Self::Error => "error",
            Self::Critical => "critical",
        }
    }
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// One thing that is wrong with a rules file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Counted from 1; 0 where the place is unknown.
    pub line: u64,
    /// Counted from 1, in characters; 0 where the place is unknown.
    pub column: u64,
    /// What is wrong.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => f.write_str(&self.message),
            line => write!(f, "line {line}, column {}: {}", self.column, self.message),
        }
    }
}

impl Problem {
    pub(super) fn at(location: Location, message: impl Into<String>) -> Self {
        Self {
            line: location.line(),
            column: location.column(),
            message: message.into(),
        }
    }
}

/// All that is wrong with a rules file, in its order.
#[derive(Debug, thiserror::Error)]
#[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
pub struct ConfigError(pub Vec<Problem>);

/// Rules and channels as a file gives them: syntax, conditions and names are checked, secrets are not read yet.
#[derive(Debug, Default)]
pub struct Config {
    pub(super) rules: Vec<Rule>,
    pub(super) channels: BTreeMap<String, ChannelSpec>,
}

#[derive(Clone, Debug)]
pub(super) struct Rule {
    pub(super) name: String,
    /// Where the name stands.
    place: Location,
    pub(super) text: String,
    pub(super) condition: Condition,
    pub(super) severity: Severity,
    /// Names, and where each stands.
    pub(super) channels: Vec<(String, Location)>,
    pub(super) timing: Timing,
    pub(super) hysteresis: f64,
    pub(super) tell_resolved: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FileYaml {
    #[serde(default)]
    channels: BTreeMap<String, Spanned<ChannelYaml>>,
    alerts: Vec<RuleYaml>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RuleYaml {
    name: Spanned<String>,
    condition: Spanned<String>,
    severity: Severity,
    #[serde(default)]
    channels: Vec<Spanned<String>>,
    #[serde(rename = "for")]
    hold: Option<Spanned<String>>,
    hysteresis: Option<Spanned<f64>>,
    cooldown: Option<Spanned<String>>,
    #[serde(default = "yes")]
    resolve: bool,
}

fn yes() -> bool {
    true
}

impl Config {
    /// Reads rules in YAML: see the [module](super) for the form.
    ///
    /// # Errors
    /// Everything that is wrong, each with line and column.
    pub fn from_yaml(text: &str) -> Result<Self, ConfigError> {
        let file: FileYaml = serde_saphyr::from_str(text).map_err(|error| {
            let location = error.location().unwrap_or(Location::UNKNOWN);
            ConfigError(vec![Problem::at(location, yaml_message(&error))])
        })?;
        let mut problems = Vec::new();
        let mut config = Self::default();
        for (name, yaml) in file.channels {
            match ChannelSpec::check(yaml.value) {
                Ok(spec) => {
                    config.channels.insert(name, spec);
                }
                Err(message) => problems.push(Problem::at(
                    yaml.referenced,
                    format!("channel `{name}`: {message}"),
                )),
            }
        }
        for yaml in file.alerts {
            let rule = rule(yaml, text, &mut problems);
            config.rules.extend(rule);
        }
        config.check_names(&mut problems);
        if problems.is_empty() {
            Ok(config)
        } else {
            problems.sort_by_key(|problem| (problem.line, problem.column));
            Err(ConfigError(problems))
        }
    }

    /// Names of the rules, in the file's order.
    pub fn rule_names(&self) -> Vec<&str> {
        self.rules.iter().map(|rule| rule.name.as_str()).collect()
    }

    /// Names of the channels that rules tell, each once.
    pub fn channel_names(&self) -> Vec<String> {
        let names = self.rules.iter().flat_map(|rule| &rule.channels);
        let mut names: Vec<String> = names.map(|(name, _)| name.clone()).collect();
        names.sort();
        names.dedup();
        names
    }

    fn check_names(&self, problems: &mut Vec<Problem>) {
        for (i, rule) in self.rules.iter().enumerate() {
            if self.rules[..i].iter().any(|other| other.name == rule.name) {
                let message = format!("two rules are called `{}`", rule.name);
                problems.push(Problem::at(rule.place, message));
            }
        }
    }
}

fn rule(yaml: RuleYaml, text: &str, problems: &mut Vec<Problem>) -> Option<Rule> {
    let before = problems.len();
    if yaml.name.value.trim().is_empty() {
        problems.push(Problem::at(yaml.name.referenced, "a rule needs a name"));
    }
    let condition = match Condition::parse(&yaml.condition.value) {
        Ok(condition) => Some(condition),
        Err(mistake) => {
            let mut problem = Problem::at(yaml.condition.referenced, mistake.message);
            problem.column += into_scalar(text, yaml.condition.referenced, mistake.offset);
            problems.push(problem);
            None
        }
    };
    let mut duration = |value: Option<Spanned<String>>, default| {
        let Some(value) = value else { return default };
        humantime::parse_duration(&value.value).unwrap_or_else(|error| {
            let message = format!(
                "`{}` is no duration such as 90s or 5m: {error}",
                value.value
            );
            problems.push(Problem::at(value.referenced, message));
            default
        })
    };
    let timing = Timing {
        hold: duration(yaml.hold, Duration::ZERO),
        cooldown: duration(yaml.cooldown, COOLDOWN),
    };
    let hysteresis = yaml.hysteresis.map_or(0.0, |hysteresis| {
        if !(hysteresis.value >= 0.0 && hysteresis.value.is_finite()) {
            problems.push(Problem::at(
                hysteresis.referenced,
                "hysteresis must be 0 or more",
            ));
        }
        hysteresis.value
    });
    if problems.len() > before {
        return None;
    }
    let channels = yaml.channels.into_iter();
    Some(Rule {
        place: yaml.name.referenced,
        name: yaml.name.value,
        text: yaml.condition.value,
        condition: condition?,
        severity: yaml.severity,
        channels: channels.map(|c| (c.value, c.referenced)).collect(),
        timing,
        hysteresis,
        tell_resolved: yaml.resolve,
    })
}

/// How many columns right of a scalar's start its character `offset` stands; 0 for scalars of several lines, where a
/// column of the first line would mislead.
fn into_scalar(text: &str, start: Location, offset: usize) -> u64 {
    let line = usize::try_from(start.line()).unwrap_or(0).checked_sub(1);
    let column = usize::try_from(start.column()).unwrap_or(0).checked_sub(1);
    let first = line
        .zip(column)
        .and_then(|(line, column)| text.lines().nth(line)?.chars().nth(column));
    match first {
        None | Some('|' | '>') => 0,
        Some('"' | '\'') => offset as u64 + 1,
        Some(_) => offset as u64,
    }
}

/// The first line of the parser's message, without the place, which stands in front already.
fn yaml_message(error: &serde_saphyr::Error) -> String {
    let text = error.without_snippet().to_string();
    let line = text.lines().next().unwrap_or_default();
    let line = line.strip_prefix("error: ").unwrap_or(line);
    let place = line
        .strip_prefix("line ")
        .and_then(|rest| rest.split_once(": "));
    place.map_or(line, |(_, message)| message).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems(text: &str) -> Vec<String> {
        let problems = Config::from_yaml(text).unwrap_err().0;
        problems.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn the_guides_rules_are_read_as_they_are() {
        let config = Config::from_yaml(include_str!("guide.yaml")).unwrap();
        assert_eq!(
            config.rule_names(),
            ["High Memory Usage", "Critical Memory Usage"]
        );
        let critical = &config.rules[1];
        assert_eq!(critical.severity, Severity::Critical);
        assert_eq!(critical.text, "memory.heapPercent > 95");
        let names: Vec<_> = critical
            .channels
            .iter()
            .map(|(name, _)| name.as_str())
            .collect();
        assert_eq!(names, ["email", "slack", "pagerduty"]);
    }

    /// The first block of YAML in a text.
    fn yaml_in(text: &str) -> String {
        let block = text.split("```yaml\n").nth(1).unwrap();
        block.split("```").next().unwrap().to_owned()
    }

    #[test]
    fn documented_rules_are_right() {
        let module: String = include_str!("mod.rs")
            .lines()
            .filter_map(|line| line.strip_prefix("//!"))
            .flat_map(|line| [line.strip_prefix(' ').unwrap_or(line), "\n"])
            .collect();
        let config = Config::from_yaml(&yaml_in(&module)).unwrap();
        assert_eq!((config.rules.len(), config.channels.len()), (1, 4));
        let page = yaml_in(include_str!("../../docs/alerts.md"));
        let rule = &Config::from_yaml(&page).unwrap().rules[0];
        assert_eq!(rule.timing.cooldown, Duration::from_secs(600));
    }

    #[test]
    fn a_rule_may_say_more() {
        let config = Config::from_yaml(
            "alerts:\n  - name: x\n    condition: memory.rss > 1GB\n    severity: info\n    for: 5m\n    hysteresis: 2.5\n    cooldown: 90s\n    resolve: false\n",
        )
        .unwrap();
        let rule = &config.rules[0];
        assert_eq!(rule.timing.hold, Duration::from_secs(300));
        assert_eq!(rule.timing.cooldown, Duration::from_secs(90));
        assert!(!rule.tell_resolved && (rule.hysteresis - 2.5).abs() < 1e-9);
    }

    #[test]
    fn mistakes_are_told_with_line_and_column() {
        let rule = |condition: &str, more: &str| {
            format!(
                "alerts:\n  - name: x\n    condition: {condition}\n    severity: warning\n{more}"
            )
        };
        let plain = problems(&rule("memory.heapPercent > x", ""));
        assert_eq!(plain, ["line 3, column 37: expected a number, not `x`"]);
        let quoted = problems(&rule("\"memory.heapPercent > x\"", ""));
        assert_eq!(quoted, ["line 3, column 38: expected a number, not `x`"]);
        let hold = problems(&rule("memory.rss > 1", "    for: soon\n"));
        assert!(
            hold[0].starts_with("line 5, column 10: `soon` is no duration"),
            "{hold:?}"
        );
        let unknown = problems(&rule("memory.rss > 1", "    colour: red\n"));
        assert!(unknown[0].starts_with("line 5, column 5: "), "{unknown:?}");
        assert!(unknown[0].contains("colour"), "{unknown:?}");
        let severity =
            problems("alerts:\n  - name: x\n    condition: memory.rss > 1\n    severity: loud\n");
        assert!(
            severity[0].starts_with("line 4, column 15: "),
            "{severity:?}"
        );
        assert!(severity[0].contains("loud"), "{severity:?}");
    }

    #[test]
    fn all_mistakes_are_told_at_once() {
        let text = "alerts:\n  - {name: a, condition: rss > 1, severity: info}\n  - {name: b, condition: memory.rss, severity: info}\n  - {name: c, condition: memory.rss > 1, severity: info, hysteresis: -1}\n";
        let found = problems(text);
        assert_eq!(found.len(), 3, "{found:?}");
        assert!(found[2].starts_with("line 4, "), "{found:?}");
        let twice = "alerts:\n  - {name: a, condition: memory.rss > 1, severity: info}\n  - {name: a, condition: memory.rss > 2, severity: info}\n";
        assert_eq!(
            problems(twice),
            ["line 3, column 12: two rules are called `a`"]
        );
    }

    #[test]
    fn broken_yaml_is_told_with_its_place() {
        let found = problems("alerts:\n  - name: [x\n");
        assert!(found[0].starts_with("line "), "{found:?}");
        assert!(!problems("")[0].is_empty());
    }
}
