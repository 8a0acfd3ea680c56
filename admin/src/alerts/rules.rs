//! Rules and channels in YAML, checked with line and column.

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::time::Duration;

use serde::Deserialize;
use serde_saphyr::{Location, Spanned};

use super::channel::{ChannelSpec, ChannelYaml};
use super::condition::Condition;
use super::state::Timing;

/// Cool-down of a rule that sets none.
const COOLDOWN: Duration = Duration::from_secs(300);
/// Time after which a firing rule repeats its alarm if the rule sets no other.
const REPEAT: Duration = Duration::from_secs(4 * 3600);
/// Longest name of a rule, in characters.
const MAX_NAME: usize = 128;

/// Severity of a rule's alarms.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Worth knowing; needs no action.
    Info,
    /// Needs attention during the day.
    Warning,
    /// Something is broken.
    Error,
    /// Needs attention now.
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

/// One mistake in a rules file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Counted from 1; 0 if the position is unknown.
    pub line: u64,
    /// Counted from 1, in characters; 0 if the position is unknown.
    pub column: u64,
    /// Description of the mistake.
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

/// All mistakes in a rules file, in its order.
#[derive(Debug, thiserror::Error)]
#[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
pub struct ConfigError(pub Vec<Problem>);

/// Rules and channels of a file: syntax, conditions and names are checked, secrets are not read yet.
#[derive(Debug, Default)]
pub struct Config {
    pub(super) rules: Vec<Rule>,
    pub(super) channels: BTreeMap<String, ChannelSpec>,
}

#[derive(Clone, Debug)]
pub(super) struct Rule {
    pub(super) name: String,
    /// Position of the name.
    place: Location,
    pub(super) text: String,
    pub(super) condition: Condition,
    pub(super) severity: Severity,
    /// Names and their positions.
    pub(super) channels: Vec<(String, Location)>,
    pub(super) timing: Timing,
    pub(super) hysteresis: f64,
    pub(super) notify_resolved: bool,
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
    repeat: Option<Spanned<String>>,
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
    /// All mistakes, each with line and column.
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

    /// Names of the channels that rules use, each once.
    pub fn channel_names(&self) -> Vec<String> {
        let names = self.rules.iter().flat_map(|rule| &rule.channels);
        let mut names: Vec<String> = names.map(|(name, _)| name.clone()).collect();
        names.sort();
        names.dedup();
        names
    }

    fn check_names(&self, problems: &mut Vec<Problem>) {
        let mut seen = HashSet::new();
        for rule in &self.rules {
            if !seen.insert(&rule.name) {
                let message = format!("two rules are called `{}`", rule.name);
                problems.push(Problem::at(rule.place, message));
            }
        }
    }
}

fn rule(yaml: RuleYaml, text: &str, problems: &mut Vec<Problem>) -> Option<Rule> {
    let before = problems.len();
    if let Some(message) = wrong_name(&yaml.name.value) {
        problems.push(Problem::at(yaml.name.referenced, message));
    }
    let condition = match Condition::parse(&yaml.condition.value) {
        Ok(condition) => Some(condition),
        Err(mistake) => {
            let (line, column) = within_scalar(text, yaml.condition.referenced, mistake.offset);
            problems.push(Problem {
                line,
                column,
                message: mistake.message,
            });
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
        repeat: duration(yaml.repeat, REPEAT),
    };
    let hysteresis = yaml.hysteresis.map_or(0.0, |hysteresis| {
        if !(hysteresis.value >= 0.0 && hysteresis.value.is_finite()) {
            problems.push(Problem::at(
                hysteresis.referenced,
                "hysteresis must be 0 or more",
            ));
        } else if let Some(condition) = &condition
            && let Some(message) = condition.refuses_hysteresis(hysteresis.value)
        {
            problems.push(Problem::at(hysteresis.referenced, message));
        }
        hysteresis.value
    });
    for (i, channel) in yaml.channels.iter().enumerate() {
        if yaml.channels[..i].iter().any(|c| c.value == channel.value) {
            let message = format!("channel `{}` is named twice", channel.value);
            problems.push(Problem::at(channel.referenced, message));
        }
    }
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
        notify_resolved: yaml.resolve,
    })
}

/// A rule's name is the subject of a mail, part of a log line, and part of PagerDuty's keys, which are short.
fn wrong_name(name: &str) -> Option<String> {
    let length = name.chars().count();
    if name.trim().is_empty() {
        Some("a rule needs a name".into())
    } else if length > MAX_NAME {
        Some(format!(
            "the name has {length} characters, at most {MAX_NAME} are allowed"
        ))
    } else if name.contains(char::is_control) {
        Some("a name is one line, without control characters".into())
    } else {
        None
    }
}

/// Line and column of character `offset` of a scalar. In a plain or quoted scalar, which may have several lines, a line
/// break counts as one blank. For a block scalar it is the scalar's beginning, because its indentation is not known
/// here.
fn within_scalar(text: &str, start: Location, offset: usize) -> (u64, u64) {
    let begins = (start.line(), start.column());
    let index = |n: u64| usize::try_from(n).ok()?.checked_sub(1);
    let Some((first, column)) = index(begins.0).zip(index(begins.1)) else {
        return begins;
    };
    let mut lines = text.lines().skip(first);
    let mut rest = lines.next().unwrap_or_default().chars();
    rest.by_ref().take(column).for_each(drop);
    let (mut line, mut column) = begins;
    match rest.clone().next() {
        None | Some('|' | '>') => return begins,
        Some('"' | '\'') => {
            rest.next();
            column += 1;
        }
        Some(_) => {}
    }
    for _ in 0..offset {
        let at_end = rest.clone().next().is_none_or(char::is_whitespace)
            && rest.as_str().trim_start().is_empty();
        if !at_end {
            rest.next();
            column += 1;
        } else if let Some(next) = lines.next() {
            let trimmed = next.trim_start();
            line += 1;
            column = 1 + (next.chars().count() - trimmed.chars().count()) as u64;
            rest = trimmed.chars();
        }
    }
    (line, column)
}

/// The first line of the parser's message, without the position, which our message begins with, and without advice for
/// programmers who call the parser.
fn yaml_message(error: &serde_saphyr::Error) -> String {
    let text = error.without_snippet().to_string();
    let line = text.lines().next().unwrap_or_default();
    let line = line.strip_prefix("error: ").unwrap_or(line);
    let place = line
        .strip_prefix("line ")
        .and_then(|rest| rest.split_once(": "));
    let mut message = place.map_or(line, |(_, message)| message);
    for behind in [", set ", "; use ", " (defined at line ", " at line "] {
        message = message.split(behind).next().unwrap_or_default();
    }
    message.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems(text: &str) -> Vec<String> {
        let problems = Config::from_yaml(text).unwrap_err().0;
        problems.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn rules_of_the_guide_are_parsed() {
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
    fn rules_in_the_documentation_are_valid() {
        let module: String = include_str!("mod.rs")
            .lines()
            .filter_map(|line| line.strip_prefix("//!"))
            .flat_map(|line| [line.strip_prefix(' ').unwrap_or(line), "\n"])
            .collect();
        let config = Config::from_yaml(&yaml_in(&module)).unwrap();
        assert_eq!((config.rules.len(), config.channels.len()), (1, 4));
        let page = yaml_in(include_str!("../../../docs/src/alerts.md"));
        let rule = &Config::from_yaml(&page).unwrap().rules[0];
        assert_eq!(rule.timing.cooldown, Duration::from_secs(600));
    }

    #[test]
    fn optional_fields_of_a_rule_are_parsed() {
        let config = Config::from_yaml(
            "alerts:\n  - name: x\n    condition: memory.rss > 1GB\n    severity: info\n    for: 5m\n    hysteresis: 2.5\n    cooldown: 90s\n    resolve: false\n",
        )
        .unwrap();
        let rule = &config.rules[0];
        assert_eq!(rule.timing.hold, Duration::from_secs(300));
        assert_eq!(rule.timing.cooldown, Duration::from_secs(90));
        assert!(!rule.notify_resolved && (rule.hysteresis - 2.5).abs() < 1e-9);
    }

    #[test]
    fn problems_are_reported_with_line_and_column() {
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
    fn all_problems_are_reported_together() {
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
    fn problem_in_a_multiline_condition_names_its_line() {
        let rule = |condition: &str| {
            format!("alerts:\n  - name: x\n    condition: {condition}\n    severity: info\n")
        };
        let plain = problems(&rule("memory.rss > 1\n      and memory.foo > 1"));
        assert!(
            plain[0].starts_with("line 4, column 11: no metric"),
            "{plain:?}"
        );
        let quoted = problems(&rule("\"memory.rss > 1  \n      and memory.foo > 1\""));
        assert!(
            quoted[0].starts_with("line 4, column 11: no metric"),
            "{quoted:?}"
        );
        let block = problems(&rule(">\n      memory.rss > 1\n      and memory.foo > 1"));
        assert!(block[0].starts_with("line "), "{block:?}");
    }

    #[test]
    fn rule_name_must_be_one_short_line() {
        let rule = |name: &str| {
            format!("alerts: [{{name: \"{name}\", condition: memory.rss > 1, severity: info}}]")
        };
        assert!(Config::from_yaml(&rule(&"é".repeat(128))).is_ok());
        assert!(problems(&rule(&"é".repeat(129)))[0].contains("129 characters"));
        for name in ["a\\nBcc: x@y.z", "a\\u001b[2J", "a\\rb"] {
            assert!(problems(&rule(name))[0].contains("one line"), "{name}");
        }
        assert!(problems(&rule(" "))[0].contains("needs a name"));
    }

    #[test]
    fn duplicate_channel_in_a_rule_is_refused() {
        let text =
            "alerts: [{name: a, condition: memory.rss > 1, severity: info, channels: [log, log]}]";
        assert_eq!(
            problems(text),
            ["line 1, column 79: channel `log` is named twice"]
        );
    }

    #[test]
    fn hysteresis_that_does_not_fit_the_condition_is_refused() {
        let text =
            "alerts: [{name: a, condition: memory.heapPercent > 3, severity: info, hysteresis: 5}]";
        let found = problems(text);
        assert!(
            found[0].starts_with("line 1, column 83: with hysteresis 5"),
            "{found:?}"
        );
    }

    #[test]
    fn yaml_errors_use_the_terms_of_the_rules_file() {
        let twice = problems("alerts:\n  - name: x\n    name: y\n");
        assert_eq!(twice, ["line 3, column 5: duplicate mapping key: name"]);
        let missing = problems("channels: {}\n");
        assert_eq!(missing, ["line 1, column 1: missing field `alerts`"]);
    }

    #[test]
    fn hostile_files_are_refused_quickly() {
        // "Billion laughs", nesting, and more than a file of rules contains.
        let mut laughs = "channels: {}\nalerts:\n  - &a [x, x, x, x, x, x, x, x, x]\n".to_owned();
        for (name, before) in "bcdefghijk".chars().zip("abcdefghij".chars()) {
            let nine = vec![format!("*{before}"); 9].join(", ");
            laughs.extend(["  - &", &name.to_string(), " [", &nine, "]\n"]);
        }
        let nested = format!("alerts: {}{}", "[".repeat(100_000), "]".repeat(100_000));
        let parentheses = format!(
            "alerts: [{{name: a, condition: {}memory.rss > 1, severity: info}}]",
            "(".repeat(100_000)
        );
        for text in [laughs, nested, parentheses] {
            assert_eq!(problems(&text).len(), 1);
        }
    }

    #[test]
    fn byte_order_mark_and_crlf_are_accepted() {
        let rule = "alerts:\n  - name: x\n    condition: memory.rss > 1\n    severity: info\n";
        for text in [format!("\u{feff}{rule}"), rule.replace('\n', "\r\n")] {
            assert_eq!(Config::from_yaml(&text).unwrap().rule_names(), ["x"]);
        }
    }

    #[test]
    fn yaml_syntax_error_is_reported_with_its_line() {
        let found = problems("alerts:\n  - name: [x\n");
        assert!(found[0].starts_with("line "), "{found:?}");
        assert!(!problems("")[0].is_empty());
    }

    #[test]
    fn fuzzed_rules_are_parsed_or_refused_with_a_line_of_the_file() {
        let full = "channels:\n  log: stderr\n  ops: {webhook: 'http://127.0.0.1:9/x'}\nalerts:\n  - name: a\n    condition: memory.heapPercent > 85\n    severity: warning\n    for: 5m\n    repeat: 1h\n    resolve: false\n    channels: [log, ops]\n";
        let corpus = [include_str!("guide.yaml"), full, "alerts: []"];
        let corpus = corpus.map(|text| text.as_bytes().to_vec());
        tagcache_tests::fuzz::fuzz("alert rules", 500, &corpus, |bytes| {
            let text = String::from_utf8_lossy(bytes);
            match Config::from_yaml(&text) {
                Ok(config) => assert_eq!(config.rule_names().len(), config.rules.len()),
                Err(ConfigError(problems)) => {
                    assert!(!problems.is_empty());
                    // A carriage return ends a line in YAML.
                    let lines = text.split(['\n', '\r']).count() as u64;
                    for problem in problems {
                        assert!(problem.line <= lines + 1, "{problem}");
                    }
                }
            }
        });
    }
}
