//! How fast something grows: a least-squares slope with its confidence interval.

use std::time::Duration;

/// Bytes that make 1 MB in all figures of this crate, as in Node.js's tools.
const MB: f64 = 1024.0 * 1024.0;
/// The fewest points from which the error of a straight line can be estimated.
const MIN_POINTS: usize = 3;

/// How fast the heap (or, where it is unknown, the resident set) grows.
#[derive(Clone, Copy, Debug, Default, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct Growth {
    /// Slope in MB per minute; negative when it shrinks.
    pub mb_per_minute: f64,
    /// Half the width of the slope's 95 % confidence interval, in MB per minute. Samples of one process depend on each
    /// other, so the true interval is wider: read it as noise, not as proof.
    pub margin: f64,
    /// Time between the first and the last of its samples, in seconds.
    pub seconds: f64,
    /// The number of its samples.
    pub samples: usize,
    /// Whether each third of the samples lies above the one before it, by its median: a single step is no steady
    /// growth.
    pub steady: bool,
}

impl Growth {
    /// The slope through `points` of (time since any moment, bytes), oldest first; `None` for fewer than three points
    /// or if no time lies between them. O(n log n).
    pub fn fit(points: &[(Duration, u64)]) -> Option<Self> {
        let n = points.len();
        if n < MIN_POINTS {
            return None;
        }
        let first = points[0].0;
        let minutes = |at: Duration| at.saturating_sub(first).as_secs_f64() / 60.0;
        let count = n as f64;
        let mean_x = points.iter().map(|&(at, _)| minutes(at)).sum::<f64>() / count;
        // Relative to the first value: the sums of squares keep their precision on large heaps.
        let base = points[0].1 as f64;
        let mb = |bytes: u64| (bytes as f64 - base) / MB;
        let mean_y = points.iter().map(|&(_, bytes)| mb(bytes)).sum::<f64>() / count;
        let (mut sxx, mut sxy) = (0.0, 0.0);
        for &(at, bytes) in points {
            let dx = minutes(at) - mean_x;
            sxx += dx * dx;
            sxy += dx * (mb(bytes) - mean_y);
        }
        if sxx <= 0.0 {
            return None;
        }
        let slope = sxy / sxx;
        let residuals: f64 = points
            .iter()
            .map(|&(at, bytes)| (mb(bytes) - mean_y - slope * (minutes(at) - mean_x)).powi(2))
            .sum();
        let freedom = n - 2;
        let error = (residuals / freedom as f64 / sxx).sqrt();
        Some(Self {
            mb_per_minute: slope,
            margin: student_95(freedom) * error,
            seconds: points[n - 1].0.saturating_sub(first).as_secs_f64(),
            samples: n,
            steady: steady(points),
        })
    }

    /// The lowest slope within the confidence interval, in MB per minute.
    pub fn at_least(&self) -> f64 {
        self.mb_per_minute - self.margin
    }
}

fn steady(points: &[(Duration, u64)]) -> bool {
    let third = points.len() / 3;
    let median = |part: &[(Duration, u64)]| {
        let mut values: Vec<u64> = part.iter().map(|&(_, bytes)| bytes).collect();
        let middle = values.len() / 2;
        *values.select_nth_unstable(middle).1
    };
    if third == 0 {
        return false;
    }
    let (first, rest) = points.split_at(third);
    let (middle, last) = rest.split_at(rest.len() - third);
    [first, middle, last].map(median).is_sorted_by(|a, b| a < b)
}

/// The 97.5 % quantile of Student's t (Fisher's table; above 30 the normal distribution's with the first term of its
/// Cornish-Fisher expansion, exact to 0.01).
fn student_95(freedom: usize) -> f64 {
    const TABLE: [f64; 30] = [
        12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160,
        2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056,
        2.052, 2.048, 2.045, 2.042,
    ];
    const NORMAL: f64 = 1.959_964;
    match freedom {
        0 => f64::INFINITY,
        1..=30 => TABLE[freedom - 1],
        _ => NORMAL + (NORMAL.powi(3) + NORMAL) / (4.0 * freedom as f64),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn line(samples: u32, mb_per_minute: f64, noise: impl Fn(u32) -> f64) -> Vec<(Duration, u64)> {
        let point = |i: u32| {
            let at = Duration::from_secs(u64::from(i) * 10);
            let mb = 500.0 + mb_per_minute * at.as_secs_f64() / 60.0 + noise(i);
            (at, (mb * MB) as u64)
        };
        (0..samples).map(point).collect()
    }

    #[test]
    fn line_without_noise_has_an_exact_slope_and_no_margin() {
        let growth = Growth::fit(&line(60, 2.5, |_| 0.0)).unwrap();
        assert!((growth.mb_per_minute - 2.5).abs() < 1e-4, "{growth:?}");
        assert!(growth.margin < 1e-4, "{growth:?}");
        assert!(growth.steady);
        assert_eq!(growth.samples, 60);
        assert!((growth.seconds - 590.0).abs() < 1e-9);
    }

    #[test]
    fn noise_without_growth_is_within_the_margin() {
        let growth = Growth::fit(&line(60, 0.0, |i| f64::from(i * 7919 % 13) - 6.0)).unwrap();
        assert!(growth.mb_per_minute.abs() < growth.margin, "{growth:?}");
        assert!(growth.at_least() < 0.0);
    }

    #[test]
    fn a_single_step_is_not_steady_growth() {
        let growth = Growth::fit(&line(60, 0.0, |i| if i > 50 { 100.0 } else { 0.0 })).unwrap();
        assert!(growth.mb_per_minute > 0.0 && !growth.steady, "{growth:?}");
    }

    #[test]
    fn too_few_samples_give_no_growth() {
        assert_eq!(Growth::fit(&line(2, 1.0, |_| 0.0)), None);
        assert_eq!(Growth::fit(&[(Duration::ZERO, 1); 5]), None);
    }

    #[test]
    fn student_quantile_decreases_towards_the_normal_quantile() {
        assert!((student_95(60) - 2.000).abs() < 0.01);
        for freedom in 1..200 {
            assert!(student_95(freedom) > student_95(freedom + 1), "{freedom}");
        }
    }

    proptest! {
        #[test]
        fn shifting_time_and_size_does_not_change_the_slope(
            values in prop::collection::vec(0u64..1 << 32, 3..60),
            later in 0u64..1_000_000,
            more in 0u64..1 << 40,
        ) {
            let points = |from: u64, plus: u64| -> Vec<_> {
                values.iter().enumerate()
                    .map(|(i, v)| (Duration::from_secs(from + i as u64), v + plus)).collect()
            };
            let (a, b) = (Growth::fit(&points(0, 0)).unwrap(), Growth::fit(&points(later, more)).unwrap());
            let scale = a.mb_per_minute.abs().max(1.0);
            prop_assert!((a.mb_per_minute - b.mb_per_minute).abs() / scale < 1e-6);
            prop_assert_eq!(a.steady, b.steady);
        }
    }
}
