//! Conditions: `memory.heapPercent > 85 and (cache.hitRate < 70 or cache.redis.connected == 0)`.
//!
//! ```text
//! condition  = conjunction { "or" conjunction }
//! conjunction = term { "and" term }
//! term       = "(" condition ")" | metric operator value
//! operator   = ">" | ">=" | "<" | "<=" | "==" | "!="
//! value      = number [ unit ] | "true" | "false" | "healthy" | "warning" | "critical"
//! unit       = "%" | "B" | "KB" | "MB" | "GB" | "ms" | "s" | "m" | "h"
//! ```
//! A number without a unit is in the metric's own unit.

use std::fmt;

use crate::memory::{METRICS, Metric, Snapshot, Unit, metric};

/// Maximum depth of parentheses: bounds the parser's recursion.
const MAX_DEPTH: usize = 32;

/// A parsed condition.
#[derive(Clone, Debug)]
pub(super) enum Condition {
    Compare(Comparison),
    And(Vec<Condition>),
    Or(Vec<Condition>),
}

#[derive(Clone, Debug)]
pub(super) struct Comparison {
    metric: &'static Metric,
    operator: Operator,
    /// In the metric's unit.
    value: f64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Operator {
    Above,
    AtLeast,
    Below,
    AtMost,
    Equal,
    NotEqual,
}

/// A mistake in a condition, and its position in characters.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Mistake {
    pub(super) offset: usize,
    pub(super) message: String,
}

impl Condition {
    pub(super) fn parse(text: &str) -> Result<Self, Mistake> {
        let mut parser = Parser {
            rest: text,
            text,
            depth: 0,
        };
        let condition = parser.or()?;
        match parser.peek() {
            "" => Ok(condition),
            word => Err(parser.mistake(format!("expected `and`, `or` or the end, not `{word}`"))),
        }
    }

    /// Whether the condition holds; `None` if it depends on a figure that is unknown. Every threshold is moved by
    /// `slack` towards holding, except those of states.
    pub(super) fn holds(&self, snapshot: &Snapshot, slack: f64) -> Option<bool> {
        match self {
            Self::Compare(comparison) => comparison.holds(snapshot, slack),
            // Kleene's logic: one false part makes a conjunction false, even if others are unknown.
            Self::And(parts) => decide(parts.iter().map(|part| part.holds(snapshot, slack)), false),
            Self::Or(parts) => decide(parts.iter().map(|part| part.holds(snapshot, slack)), true),
        }
    }

    /// The reason why this hysteresis makes no sense for the condition, if there is one.
    pub(super) fn refuses_hysteresis(&self, slack: f64) -> Option<String> {
        if slack <= 0.0 {
            return None;
        }
        let moved: Vec<_> = self
            .comparisons()
            .into_iter()
            .filter(|c| c.moves())
            .collect();
        let Some(first) = moved.first() else {
            return Some("nothing in the condition has a threshold that hysteresis moves".into());
        };
        if let Some(other) = moved.iter().find(|c| c.metric.unit != first.metric.unit) {
            return Some(format!(
                "hysteresis is one number, but {} and {} have different units: make two rules of it",
                first.metric.name, other.metric.name
            ));
        }
        moved.iter().find_map(|c| c.never_ends(slack))
    }

    fn comparisons(&self) -> Vec<&Comparison> {
        match self {
            Self::Compare(comparison) => vec![comparison],
            Self::And(parts) | Self::Or(parts) => {
                parts.iter().flat_map(Self::comparisons).collect()
            }
        }
    }

    /// The metrics of the condition, in its order.
    pub(super) fn metrics(&self) -> Vec<&'static Metric> {
        self.comparisons().iter().map(|c| c.metric).collect()
    }

    /// The same condition in Prometheus's language.
    pub(super) fn to_promql(&self) -> String {
        let join = |parts: &[Self], word: &str| {
            let parts: Vec<_> = parts
                .iter()
                .map(|part| match part {
                    Self::Compare(_) => part.to_promql(),
                    Self::And(_) | Self::Or(_) => format!("({})", part.to_promql()),
                })
                .collect();
            parts.join(&format!(" {word} "))
        };
        match self {
            Self::Compare(c) => {
                let value = c.metric.unit.to_base(c.value);
                format!("{} {} {value}", c.metric.prometheus, c.operator)
            }
            Self::And(parts) => join(parts, "and"),
            Self::Or(parts) => join(parts, "or"),
        }
    }
}

fn decide(parts: impl Iterator<Item = Option<bool>>, decisive: bool) -> Option<bool> {
    let mut unknown = false;
    for part in parts {
        match part {
            Some(value) if value == decisive => return Some(decisive),
            Some(_) => {}
            None => unknown = true,
        }
    }
    (!unknown).then_some(!decisive)
}

impl Comparison {
    fn holds(&self, snapshot: &Snapshot, slack: f64) -> Option<bool> {
        let is = self.metric.read(snapshot)?;
        let slack = if self.moves() { slack } else { 0.0 };
        Some(match self.operator {
            Operator::Above => is > self.value - slack,
            Operator::AtLeast => is >= self.value - slack,
            Operator::Below => is < self.value + slack,
            Operator::AtMost => is <= self.value + slack,
            Operator::Equal => (is - self.value).abs() < 1e-9,
            Operator::NotEqual => (is - self.value).abs() >= 1e-9,
        })
    }
}

impl Comparison {
    /// Whether hysteresis moves its threshold.
    fn moves(&self) -> bool {
        let ordered = !matches!(self.operator, Operator::Equal | Operator::NotEqual);
        ordered && self.metric.unit != Unit::State
    }

    /// Returns a message if the metric cannot leave the range in which the alarm stays: only growth is ever below 0,
    /// and no hit rate is above 100 %.
    fn never_ends(&self, slack: f64) -> Option<String> {
        let (lowest, highest) = (self.value - slack, self.value + slack);
        let name = self.metric.name;
        let signed = self.metric.unit == Unit::MbPerMinute;
        let ends = match self.operator {
            Operator::Above => signed || lowest >= 0.0,
            Operator::AtLeast => signed || lowest > 0.0,
            Operator::Below => !name.ends_with("hitRate") || highest <= 100.0,
            Operator::AtMost => !name.ends_with("hitRate") || highest < 100.0,
            Operator::Equal | Operator::NotEqual => true,
        };
        (!ends).then(|| {
            format!(
                "with hysteresis {slack} the alarm of `{name} {} {}` would never end",
                self.operator, self.value
            )
        })
    }
}

impl fmt::Display for Operator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Above => ">",
            Self::AtLeast => ">=",
            Self::Below => "<",
            Self::AtMost => "<=",
            Self::Equal => "==",
            Self::NotEqual => "!=",
        })
    }
}

struct Parser<'a> {
    text: &'a str,
    rest: &'a str,
    depth: usize,
}

impl<'a> Parser<'a> {
    fn or(&mut self) -> Result<Condition, Mistake> {
        self.list("or", Self::and, Condition::Or)
    }

    fn and(&mut self) -> Result<Condition, Mistake> {
        self.list("and", Self::term, Condition::And)
    }

    fn list(
        &mut self,
        word: &str,
        part: fn(&mut Self) -> Result<Condition, Mistake>,
        all: fn(Vec<Condition>) -> Condition,
    ) -> Result<Condition, Mistake> {
        let mut parts = vec![part(self)?];
        while self.peek().eq_ignore_ascii_case(word) {
            self.next();
            parts.push(part(self)?);
        }
        Ok(match parts.len() {
            1 => parts.remove(0),
            _ => all(parts),
        })
    }

    fn term(&mut self) -> Result<Condition, Mistake> {
        if self.peek() != "(" {
            return self.comparison();
        }
        if self.depth == MAX_DEPTH {
            return Err(self.mistake(format!(
                "more than {MAX_DEPTH} parentheses within each other"
            )));
        }
        self.next();
        self.depth += 1;
        let inner = self.or()?;
        self.depth -= 1;
        match self.peek() {
            ")" => {
                self.next();
                Ok(inner)
            }
            "" => Err(self.mistake("a `(` is not closed".into())),
            word => Err(self.mistake(format!("expected `and`, `or` or `)`, not `{word}`"))),
        }
    }

    fn comparison(&mut self) -> Result<Condition, Mistake> {
        let name = self.peek();
        if name.is_empty() {
            return Err(self.mistake("expected a metric, found the end".into()));
        }
        let Some(metric) = metric(name) else {
            return Err(self.mistake(unknown_metric(name)));
        };
        self.next();
        let operator = match self.peek() {
            ">" => Operator::Above,
            ">=" => Operator::AtLeast,
            "<" => Operator::Below,
            "<=" => Operator::AtMost,
            "==" => Operator::Equal,
            "!=" => Operator::NotEqual,
            "" => return Err(self.mistake("expected an operator, found the end".into())),
            word => {
                return Err(self.mistake(format!("expected one of > >= < <= == !=, not `{word}`")));
            }
        };
        self.next();
        let value = self.value(metric)?;
        Ok(Condition::Compare(Comparison {
            metric,
            operator,
            value,
        }))
    }

    fn value(&mut self, metric: &Metric) -> Result<f64, Mistake> {
        let word = self.peek();
        let named = match (word, metric.name) {
            ("false", _) | ("healthy", "memory.status") => Some(0.0),
            ("true", _) | ("warning", "memory.status") => Some(1.0),
            ("critical", "memory.status") => Some(2.0),
            _ => None,
        };
        if let Some(value) = named {
            if metric.unit != Unit::State {
                return Err(self.mistake(format!("{} is a number, not `{word}`", metric.name)));
            }
            self.next();
            return Ok(value);
        }
        let (number, unit) = split_number(word);
        let Ok(number) = number.parse::<f64>() else {
            let found = if word.is_empty() {
                "the end".into()
            } else {
                format!("`{word}`")
            };
            return Err(self.mistake(format!("expected a number, not {found}")));
        };
        if !number.is_finite() {
            return Err(self.mistake("the number is too large".into()));
        }
        let place = self.rest;
        self.next();
        // `500 MB`: a blank may precede the unit.
        let unit = if unit.is_empty() && unit_factor(self.peek(), metric.unit).is_some() {
            self.next()
        } else {
            unit
        };
        if unit.is_empty() {
            return Ok(number);
        }
        unit_factor(unit, metric.unit)
            .map(|factor| number * factor)
            .ok_or_else(|| {
                self.rest = place;
                self.mistake(format!("`{unit}` is no unit of {}", metric.name))
            })
    }

    /// The next word, `""` at the end.
    fn peek(&self) -> &'a str {
        let rest = self.rest.trim_start();
        let mut chars = rest.chars();
        let len = match chars.next() {
            None => 0,
            Some('(' | ')') => 1,
            Some('<' | '>' | '=' | '!') => {
                rest.len() - rest.trim_start_matches(['<', '>', '=', '!']).len()
            }
            Some(_) => rest
                .find(|c: char| c.is_whitespace() || "()<>=!".contains(c))
                .unwrap_or(rest.len()),
        };
        &rest[..len]
    }

    fn next(&mut self) -> &'a str {
        let word = self.peek();
        self.rest = &self.rest.trim_start()[word.len()..];
        word
    }

    fn mistake(&self, message: String) -> Mistake {
        let at = self.text.len() - self.rest.trim_start().len();
        Mistake {
            offset: self.text[..at].chars().count(),
            message,
        }
    }
}

/// Splits off a number, with its exponent if it has one, from the rest of the text.
fn split_number(word: &str) -> (&str, &str) {
    let plain = |text: &str| {
        text.find(|c: char| !(c.is_ascii_digit() || ".+-_".contains(c)))
            .unwrap_or(text.len())
    };
    let end = plain(word);
    let exponent = word[end..]
        .strip_prefix(['e', 'E'])
        .filter(|rest| rest.starts_with(|c: char| c.is_ascii_digit() || "+-".contains(c)))
        .map_or(0, |rest| 1 + plain(rest));
    word.split_at(end + exponent)
}

/// The factor from a number in this unit to one in the metric's unit.
fn unit_factor(unit: &str, of: Unit) -> Option<f64> {
    const KIB: f64 = 1024.0;
    let factor = match (of, unit) {
        (Unit::Percent, "%")
        | (Unit::Bytes, "B")
        | (Unit::Milliseconds, "ms")
        | (Unit::Seconds, "s") => 1.0,
        (Unit::Bytes, "KB") => KIB,
        (Unit::Bytes, "MB") => KIB * KIB,
        (Unit::Bytes, "GB") => KIB * KIB * KIB,
        (Unit::Milliseconds, "s") => 1000.0,
        (Unit::Seconds, "m") => 60.0,
        (Unit::Seconds, "h") => 3600.0,
        _ => return None,
    };
    Some(factor)
}

/// A name with up to this many wrong letters is suggested.
const TYPING_ERRORS: usize = 3;

fn unknown_metric(name: &str) -> String {
    let lower = name.to_ascii_lowercase();
    let last = lower.rsplit('.').next().unwrap_or_default();
    let mut near: Vec<(usize, &str)> = METRICS
        .iter()
        .filter_map(|metric| {
            let known = metric.name.to_ascii_lowercase();
            let errors = strsim::osa_distance(&lower, &known);
            let same_end = !last.is_empty() && known.rsplit('.').next() == Some(last);
            (same_end || errors <= TYPING_ERRORS).then_some((errors, metric.name))
        })
        .collect();
    near.sort_unstable();
    // If only the capitals are wrong, nothing else is suggested.
    let exact = near.first().is_some_and(|&(errors, _)| errors == 0);
    near.truncate(if exact { 1 } else { 3 });
    if near.is_empty() {
        return format!("no metric is called `{name}`; `tagcache alerts metrics` lists them");
    }
    let near: Vec<_> = near.into_iter().map(|(_, name)| name).collect();
    format!(
        "no metric is called `{name}`; perhaps {}",
        near.join(" or ")
    )
}

#[cfg(test)]
#[path = "condition_tests.rs"]
mod tests;
