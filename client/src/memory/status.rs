//! Healthy, warning, critical.

use std::fmt;

use serde::{Deserialize, Serialize};

/// How critical the memory use of a process is.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// Below the warning threshold, or the heap cannot be known.
    #[default]
    Healthy,
    /// At or above the warning threshold.
    Warning,
    /// At or above the critical threshold.
    Critical,
}

impl Status {
    /// `healthy`, `warning` or `critical`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Healthy => "healthy",
            Self::Warning => "warning",
            Self::Critical => "critical",
        }
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// The heap percentages at which the status changes.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct Thresholds {
    /// From this percentage on it is a warning. Default 80 %.
    pub warning: f64,
    /// From this percentage on it is critical. Default 95 %.
    pub critical: f64,
    /// How far the heap must fall below a threshold before the status falls, in percentage points. Default 3.
    pub hysteresis: f64,
}

impl Default for Thresholds {
    fn default() -> Self {
        Self {
            warning: 80.0,
            critical: 95.0,
            hysteresis: 3.0,
        }
    }
}

impl Thresholds {
    /// The percentages from which it is a warning, and critical.
    pub fn new(warning: f64, critical: f64) -> Self {
        Self {
            warning,
            critical,
            ..Self::default()
        }
    }

    /// The status after `before` at this percentage; an unknown percentage changes nothing.
    pub fn status(&self, before: Status, percent: Option<f64>) -> Status {
        let Some(percent) = percent else {
            return before;
        };
        let at = |threshold: f64, status: Status| {
            let slack = if before >= status {
                self.hysteresis
            } else {
                0.0
            };
            percent >= threshold - slack
        };
        if at(self.critical, Status::Critical) {
            Status::Critical
        } else if at(self.warning, Status::Warning) {
            Status::Warning
        } else {
            Status::Healthy
        }
    }

    pub(super) fn valid(&self) -> bool {
        0.0 < self.warning
            && self.warning < self.critical
            && self.critical.is_finite()
            && (0.0..self.warning).contains(&self.hysteresis)
    }
}

#[cfg(test)]
mod tests {
    use super::Status::{Critical, Healthy, Warning};
    use super::*;

    #[test]
    fn status_rises_at_a_threshold_and_falls_below_hysteresis() {
        let thresholds = Thresholds::default();
        let steps = [
            (79.9, Healthy),
            (80.0, Warning),
            (77.0, Warning),
            (76.9, Healthy),
            (79.0, Healthy),
            (95.0, Critical),
            (92.0, Critical),
            (91.9, Warning),
            (94.9, Warning),
            (10.0, Healthy),
        ];
        let mut status = Healthy;
        for (percent, expected) in steps {
            status = thresholds.status(status, Some(percent));
            assert_eq!(status, expected, "at {percent} %");
        }
    }

    #[test]
    fn unknown_heap_keeps_the_status() {
        let thresholds = Thresholds::default();
        assert_eq!(thresholds.status(Warning, None), Warning);
        assert_eq!(thresholds.status(Healthy, None), Healthy);
    }

    #[test]
    fn thresholds_must_be_in_order() {
        let bad = |warning, critical, hysteresis| {
            !Thresholds {
                warning,
                critical,
                hysteresis,
            }
            .valid()
        };
        assert!(Thresholds::default().valid());
        assert!(bad(95.0, 80.0, 1.0));
        assert!(bad(80.0, 95.0, 80.0));
        assert!(bad(0.0, 95.0, 0.0));
        assert!(bad(80.0, f64::NAN, 1.0));
    }
}
