//! The message that a channel receives.

use std::time::SystemTime;

use serde::Serialize;

use super::rules::Severity;
use crate::memory::{Unit, metric};

/// Whether an alarm begins or ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// The condition holds.
    Firing,
    /// The condition no longer holds.
    Resolved,
}

/// One message about one rule.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Message {
    /// The rule's name.
    pub name: String,
    /// Whether the alarm begins or ends.
    pub phase: Phase,
    /// The rule's severity.
    pub severity: Severity,
    /// The rule's condition.
    pub condition: String,
    /// The metrics of the condition and their values; null if a value is unknown.
    pub values: Vec<(String, Option<f64>)>,
    /// Name of the process.
    pub instance: String,
    /// RFC 3339, UTC.
    pub at: String,
    /// The same for all messages of one rule of one instance.
    pub key: String,
}

impl Message {
    /// A line such as `[FIRING] critical: High Memory Usage on web-1 (memory.heapPercent > 85; memory.heapPercent =
    /// 91.20)`.
    pub fn summary(&self) -> String {
        let phase = match self.phase {
            Phase::Firing => "FIRING",
            Phase::Resolved => "RESOLVED",
        };
        format!(
            "[{phase}] {}: {} on {} ({}; {})",
            self.severity,
            self.name,
            self.instance,
            self.condition,
            self.values_text()
        )
    }

    pub(super) fn values_text(&self) -> String {
        let value = |(name, value): &(String, Option<f64>)| match value {
            Some(value) => format!("{name} = {}", shown(name, *value)),
            None => format!("{name} unknown"),
        };
        self.values.iter().map(value).collect::<Vec<_>>().join(", ")
    }
}

/// Formats a value as in a condition.
fn shown(name: &str, value: f64) -> String {
    let words: &[&str] = match (metric(name).map(|metric| metric.unit), name) {
        (Some(Unit::State), "memory.status") => &["healthy", "warning", "critical"],
        (Some(Unit::State), _) => &["false", "true"],
        (Some(Unit::Bytes), _) => return format!("{:.2} MB", value / 1_048_576.0),
        _ => &[],
    };
    let mut numbered = words.iter().zip(0u8..);
    let named = numbered.find(|&(_, number)| (value - f64::from(number)).abs() < 0.5);
    named.map_or_else(|| format!("{value:.2}"), |(word, _)| (*word).to_owned())
}

pub(super) fn rfc3339(at: SystemTime) -> String {
    humantime::format_rfc3339_millis(at).to_string()
}

#[cfg(test)]
mod tests {
    use super::shown;

    #[test]
    fn values_are_shown_as_words_or_with_units() {
        assert_eq!(shown("cache.redis.connected", 0.0), "false");
        assert_eq!(shown("memory.leakSuspected", 1.0), "true");
        assert_eq!(shown("memory.status", 2.0), "critical");
        assert_eq!(shown("memory.heapUsed", 1_572_864.0), "1.50 MB");
        assert_eq!(shown("memory.heapPercent", 91.2), "91.20");
    }
}
