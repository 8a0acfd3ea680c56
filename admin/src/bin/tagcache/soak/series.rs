//! Figures over time, and the test whether they rise.

use std::time::Duration;

use serde_json::{Value, json};
use tagcache_admin::memory::Growth;

use crate::text::{table, unknown};

/// The samples of a series are averaged in this many blocks before a line is fitted: neighbouring samples depend on
/// each other, which would make the slope seem more certain than it is (the method of batch means).
const BLOCKS: usize = 20;
/// [`Growth`] counts in MB per minute.
const MB: f64 = 1024.0 * 1024.0;
/// Smallest relevant rise, as a part of the mean over the whole run.
const RISE: f64 = 0.01;

/// One figure over time.
#[derive(Debug)]
pub(crate) struct Series {
    pub(crate) name: &'static str,
    points: Vec<(Duration, f64)>,
    /// The smallest relevant rise over the whole run; if `None`, the series is shown but never found to rise.
    least: Option<f64>,
}

/// The trend of a series after the warm-up.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Trend {
    /// Mean of the first and of the last tenth.
    pub(crate) first: f64,
    pub(crate) last: f64,
    /// Change per hour, and half of its 95 % confidence interval.
    pub(crate) slope: f64,
    pub(crate) margin: f64,
    /// Change over the whole time as a part of the mean.
    pub(crate) drift: f64,
    /// The interval is above zero, each third is above the one before it, and the change is large enough.
    pub(crate) rises: bool,
}

impl Series {
    /// Writes to all of its memory once: otherwise its pages would become resident with the samples, and the program
    /// would seem to grow.
    pub(crate) fn new(name: &'static str, most: usize, least: Option<f64>) -> Self {
        let mut points = vec![(Duration::MAX, 0.0); most];
        points.clear();
        Self {
            name,
            points,
            least,
        }
    }

    pub(crate) fn push(&mut self, at: Duration, value: Option<f64>) {
        self.points.extend(value.map(|value| (at, value)));
    }

    /// `None` for fewer samples than blocks.
    pub(crate) fn trend(&self, warm: Duration) -> Option<Trend> {
        let warm = self.points.partition_point(|&(at, _)| at < warm);
        let points = &self.points[warm..];
        if points.len() < BLOCKS {
            return None;
        }
        let mean = |part: &[(Duration, f64)]| {
            part.iter().map(|&(_, value)| value).sum::<f64>() / part.len() as f64
        };
        let block = |i: usize| {
            let part = &points[i * points.len() / BLOCKS..(i + 1) * points.len() / BLOCKS];
            (part[part.len() / 2].0, (mean(part) * MB) as u64)
        };
        let growth = Growth::fit(&(0..BLOCKS).map(block).collect::<Vec<_>>())?;
        let tenth = points.len() / 10;
        let all = mean(points);
        let change = growth.mb_per_minute * growth.seconds / 60.0;
        let drift = change / all.max(f64::MIN_POSITIVE);
        let counts = drift > RISE && self.least.is_some_and(|least| change > least);
        Some(Trend {
            first: mean(&points[..tenth]),
            last: mean(&points[points.len() - tenth..]),
            slope: growth.mb_per_minute * 60.0,
            margin: growth.margin * 60.0,
            drift,
            rises: growth.at_least() > 0.0 && growth.steady && counts,
        })
    }
}

impl Trend {
    fn judged(&self) -> &'static str {
        if self.rises {
            "RISES"
        } else if self.slope.abs() <= self.margin {
            "flat"
        } else if self.slope < 0.0 {
            "falls"
        } else {
            "rises, not steadily or by too little to count"
        }
    }
}

pub(crate) fn to_json(series: &[Series], warm: Duration) -> Value {
    let one = |series: &Series| {
        let trend = series.trend(warm);
        let value = trend.map(|trend| {
            json!({
                "first": trend.first,
                "last": trend.last,
                "slopePerHour": trend.slope,
                "margin": trend.margin,
                "drift": trend.drift,
                "rises": trend.rises,
            })
        });
        (series.name.to_owned(), value.unwrap_or_default())
    };
    Value::Object(series.iter().map(one).collect())
}

pub(crate) fn to_text(series: &[Series], warm: Duration) -> String {
    let row = |series: &Series| {
        let mut row = vec![series.name.to_owned()];
        match series.trend(warm) {
            Some(trend) => row.extend([
                format!("{:.3}", trend.first),
                format!("{:.3}", trend.last),
                format!("{:+.4}", trend.slope),
                format!("{:.4}", trend.margin),
                format!("{:+.2} %", trend.drift * 100.0),
                series
                    .least
                    .map_or("not judged", |_| trend.judged())
                    .to_owned(),
            ]),
            None => row.extend(std::iter::repeat_with(unknown).take(6)),
        }
        row
    };
    let rows: Vec<_> = series.iter().map(row).collect();
    table(
        &[
            "figure",
            "first tenth",
            "last tenth",
            "slope/h",
            "±",
            "drift",
            "is",
        ],
        &rows,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trend(value: impl Fn(u32) -> f64) -> Trend {
        trend_of(Some(0.0), value)
    }

    fn trend_of(least: Option<f64>, value: impl Fn(u32) -> f64) -> Trend {
        let mut series = Series::new("x", 0, least);
        for i in 0..400 {
            series.push(Duration::from_secs(u64::from(i) * 9), Some(value(i)));
        }
        series.trend(Duration::from_secs(900)).unwrap()
    }

    #[test]
    fn slope_of_a_line_is_given_per_hour() {
        let line = trend(|i| 100.0 + f64::from(i) * 9.0 / 3600.0 * 50.0);
        assert!((line.slope - 50.0).abs() < 0.01, "{line:?}");
        assert!(line.rises && line.last > line.first, "{line:?}");
    }

    #[test]
    fn noise_steps_and_falling_values_do_not_rise() {
        assert!(!trend(|i| 100.0 + f64::from(i * 7919 % 13)).rises);
        assert!(!trend(|i| if i > 350 { 150.0 } else { 100.0 }).rises);
        assert!(!trend(|i| 1000.0 - f64::from(i)).rises);
        assert!(!trend(|_| 0.0).rises);
        assert!(
            !trend(|i| 1e9 + f64::from(i)).rises,
            "a millionth is nothing"
        );
    }

    #[test]
    fn growth_without_or_below_a_minimum_does_not_rise() {
        let line = |i| 100.0 + f64::from(i);
        assert!(trend_of(Some(200.0), line).rises);
        assert!(!trend_of(Some(400.0), line).rises);
        assert!(!trend_of(None, line).rises);
    }

    #[test]
    fn too_few_samples_give_no_trend() {
        let mut series = Series::new("x", 0, Some(0.0));
        for i in 0..19 {
            series.push(Duration::from_secs(i), Some(1.0));
        }
        series.push(Duration::from_secs(20), None);
        assert_eq!(series.trend(Duration::ZERO), None);
    }
}
