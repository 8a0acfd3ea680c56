//! Charts over the samples in memory, drawn here as SVG, so that the page needs no library. Colours are placeholders
//! that the page's style replaces: the same drawing serves light and dark. A drawing contains its values, so that the
//! page can show the one under the pointer and list them all.

use std::fmt::Write as _;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};
use serde::Deserialize;
use serde_json::json;

use super::admin::Admin;
use super::problem::Problem;
use crate::memory::{CacheFigures, Sample};

/// First and second series; the page's style replaces these values.
const COLOURS: [RGBColor; 2] = [RGBColor(1, 1, 1), RGBColor(2, 2, 2)];
const GRID: RGBColor = RGBColor(3, 3, 3);
const TEXT: RGBColor = RGBColor(4, 4, 4);
/// More points than this are not visible in a line.
const POINTS: usize = 400;
/// Time over which rates are computed.
const WINDOW: Duration = Duration::from_secs(60);
const MB: f64 = 1_048_576.0;
/// Margins around the plot, in pixels.
const MARGIN: u32 = 6;
const RIGHT: u32 = 18;
const BELOW: u32 = 22;
const LEFT: u32 = 46;

#[derive(Deserialize)]
pub(super) struct Drawing {
    width: Option<u32>,
    height: Option<u32>,
    range: Option<Past>,
}

/// Length of the chart, up to the last sample.
#[derive(Clone, Copy, Deserialize)]
enum Past {
    #[serde(rename = "15m")]
    QuarterHour,
    #[serde(rename = "1h")]
    Hour,
    #[serde(rename = "6h")]
    SixHours,
}

impl Past {
    fn duration(self) -> Duration {
        Duration::from_secs(match self {
            Self::QuarterHour => 15 * 60,
            Self::Hour => 3600,
            Self::SixHours => 6 * 3600,
        })
    }
}

/// The content of a chart.
struct Chart {
    title: &'static str,
    unit: &'static str,
    /// The axis reaches at least this value.
    at_least: f64,
    series: Vec<Series>,
    /// When the last sample was taken.
    last: SystemTime,
}

struct Series {
    name: &'static str,
    /// Seconds before the last sample (0 and below), and the value.
    points: Vec<(f64, f64)>,
}

pub(super) async fn chart(
    State(admin): State<Admin>,
    Path(name): Path<String>,
    drawing: Result<Query<Drawing>, QueryRejection>,
) -> Result<Response, Problem> {
    let Query(drawing) =
        drawing.map_err(|rejection| Problem::new(rejection.status(), rejection.body_text()))?;
    let history = admin.monitor().history();
    let past = drawing.range.map_or(Duration::MAX, Past::duration);
    let Some(chart) = of(&name, &history, past) else {
        return Err(Problem::new(
            StatusCode::NOT_FOUND,
            "There is no chart of this name",
        ));
    };
    if chart.series.iter().all(|series| series.points.len() < 2) {
        return Ok(StatusCode::NO_CONTENT.into_response());
    }
    let width = drawing.width.unwrap_or(600).clamp(200, 2000);
    let height = drawing.height.unwrap_or(200).clamp(80, 1000);
    let svg = draw(&chart, (width, height)).map_err(|error| {
        Problem::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            format!("the chart could not be drawn: {error}"),
        )
    })?;
    Ok(([(header::CONTENT_TYPE, "image/svg+xml")], svg).into_response())
}

fn of(name: &str, history: &[Arc<Sample>], past: Duration) -> Option<Chart> {
    let last = history.last().map_or(UNIX_EPOCH, |sample| sample.at);
    let chart = |title, unit, at_least, series| Chart {
        title,
        unit,
        at_least,
        series,
        last,
    };
    let of_samples = |name, read: &dyn Fn(&Sample) -> Option<f64>| Series {
        name,
        points: points(history, past, |_, sample| read(sample)),
    };
    let of_pairs = |name, read: &dyn Fn(&Sample, &Sample) -> Option<f64>| Series {
        name,
        points: points(history, past, |before, sample| read(before?, sample)),
    };
    Some(match name {
        "memory" => chart(
            "Memory",
            "MB",
            1.0,
            vec![
                of_samples("heap used", &|s| Some(s.memory.heap_used? as f64 / MB)),
                of_samples("resident", &|s| Some(s.memory.rss? as f64 / MB)),
            ],
        ),
        "hit-rate" => chart(
            "Hit rate",
            "%",
            100.0,
            vec![
                of_pairs("local tier", &|a, b| {
                    let (a, b) = a.local.zip(b.local)?;
                    percent(rise(a.hits, b.hits), rise(a.misses, b.misses))
                }),
                of_pairs("server", &|a, b| {
                    let (a, b) = a.server.cache().zip(b.server.cache())?;
                    let hits = rise(a.hits, b.hits) + rise(a.stale_hits, b.stale_hits);
                    percent(hits, rise(a.misses, b.misses))
                }),
            ],
        ),
        "invalidations" => chart(
            "Invalidations",
            "a minute",
            4.0,
            vec![of_pairs("invalidations", &|a, b| {
                let rose = |read: fn(&CacheFigures) -> u64| {
                    Some(rise(read(a.server.cache()?), read(b.server.cache()?)))
                };
                per_minute(
                    rose(|cache| cache.invalidations)?,
                    b.since_start.checked_sub(a.since_start)?,
                )
            })],
        ),
        "backlog" => chart(
            "Reclaim backlog",
            "entries",
            4.0,
            vec![of_samples("backlog", &|s| {
                Some(s.server.cache()?.reclaim_backlog as f64)
            })],
        ),
        _ => return None,
    })
}

/// The value of each sample in `past`, computed against the sample one minute before it (or the first sample), thinned
/// out: a rate over a minute is smoother than one between two samples.
fn points(
    history: &[Arc<Sample>],
    past: Duration,
    read: impl Fn(Option<&Sample>, &Sample) -> Option<f64>,
) -> Vec<(f64, f64)> {
    let Some(last) = history.last() else {
        return Vec::new();
    };
    let from = last.since_start.saturating_sub(past);
    let outside = history.partition_point(|sample| sample.since_start < from);
    let step = (history.len() - outside).div_ceil(POINTS);
    // Counted from the end, so that the last sample is always shown.
    let first = outside + (history.len() - outside - 1) % step;
    let point = |i: usize| {
        let sample = &history[i];
        let from = sample.since_start.saturating_sub(WINDOW);
        let before = history[..i].partition_point(|other| other.since_start < from);
        let value = read((before < i).then(|| &*history[before]), sample)?;
        let ago = last.since_start.saturating_sub(sample.since_start);
        Some((-ago.as_secs_f64(), value))
    };
    (first..history.len())
        .step_by(step)
        .filter_map(point)
        .collect()
}

fn rise(before: u64, now: u64) -> u64 {
    now.checked_sub(before).unwrap_or(now)
}

fn percent(hits: u64, misses: u64) -> Option<f64> {
    let reads = hits + misses;
    (reads > 0).then(|| hits as f64 * 100.0 / reads as f64)
}

fn per_minute(n: u64, time: Duration) -> Option<f64> {
    (!time.is_zero()).then(|| n as f64 * 60.0 / time.as_secs_f64())
}

type DrawError = Box<dyn std::error::Error>;

fn draw(chart: &Chart, size: (u32, u32)) -> Result<String, DrawError> {
    let all = || chart.series.iter().flat_map(|series| &series.points);
    let first = all().map(|point| point.0).fold(0.0, f64::min).min(-10.0);
    let most = all().map(|point| point.1).fold(chart.at_least, f64::max);
    let most = if chart.unit == "%" { 100.0 } else { most * 1.1 };
    let mut svg = String::new();
    {
        let root = SVGBackend::with_string(&mut svg, size).into_drawing_area();
        axes(chart, &root, first..0.0, 0.0..most)?;
        root.present()?;
    }
    Ok(described(chart, &svg, first, size))
}

fn axes(
    chart: &Chart,
    root: &DrawingArea<SVGBackend<'_>, plotters::coord::Shift>,
    x: Range<f64>,
    y: Range<f64>,
) -> Result<(), DrawError> {
    let text = ("sans-serif", 12).into_font().color(&TEXT);
    // Entries and invalidations are whole numbers.
    let digits = usize::from(chart.unit == "MB" && y.end < 10.0);
    let mut context = ChartBuilder::on(root)
        .margin(MARGIN)
        .margin_right(RIGHT)
        .x_label_area_size(BELOW)
        .y_label_area_size(LEFT)
        .build_cartesian_2d(x, y)?;
    context
        .configure_mesh()
        .disable_x_mesh()
        .light_line_style(TRANSPARENT)
        .bold_line_style(GRID)
        .axis_style(GRID)
        .x_labels(4)
        .y_labels(4)
        .x_label_style(text.clone().pos(Pos::new(HPos::Center, VPos::Top)))
        .y_label_style(text)
        .x_label_formatter(&|x| ago(-x))
        .y_label_formatter(&|y| format!("{y:.digits$}"))
        .draw()?;
    for (series, colour) in chart.series.iter().zip(COLOURS) {
        let points = series.points.iter().copied();
        if chart.series.len() == 1 {
            context.draw_series(AreaSeries::new(points.clone(), 0.0, colour.mix(0.15)))?;
        }
        context.draw_series(LineSeries::new(points, colour.stroke_width(2)))?;
    }
    Ok(())
}

fn ago(seconds: f64) -> String {
    match seconds.round() as u64 {
        0 => "now".into(),
        n @ 1..=119 => format!("-{n} s"),
        n @ 120..=7199 => format!("-{} min", n / 60),
        n => format!("-{} h", n / 3600),
    }
}

/// Adds a description of the drawing, in words and as values: seconds before the last sample (0 and below) with the
/// value, and the position of the plot in the drawing.
fn described(chart: &Chart, svg: &str, first: f64, (width, height): (u32, u32)) -> String {
    let mut description = format!(
        "{} over the last {}:",
        chart.title,
        ago(-first).trim_start_matches('-')
    );
    for series in chart
        .series
        .iter()
        .filter(|series| !series.points.is_empty())
    {
        let values = || series.points.iter().map(|point| point.1);
        let (low, high) = (
            values().fold(f64::MAX, f64::min),
            values().fold(f64::MIN, f64::max),
        );
        let last = values().next_back().unwrap_or_default();
        let unit = chart.unit;
        let name = series.name;
        let _ = write!(
            description,
            " {name} {last:.1} {unit} now, from {low:.1} to {high:.1};"
        );
    }
    let description = description.trim_end_matches(';');
    let series: Vec<_> = chart
        .series
        .iter()
        .map(|series| json!({"name": series.name, "points": series.points}))
        .collect();
    let last = chart.last.duration_since(UNIX_EPOCH).unwrap_or_default();
    let values = json!({
        "last": u64::try_from(last.as_millis()).unwrap_or(u64::MAX),
        "unit": chart.unit,
        "from": first,
        "plot": {
            "left": MARGIN + LEFT,
            "right": width - RIGHT,
            "top": MARGIN,
            "bottom": height - MARGIN - BELOW,
        },
        "series": series,
    });
    // No name or unit contains a character of XML markup.
    svg.replacen("<svg ", "<svg role=\"img\" ", 1).replacen(
        '>',
        &format!("><title>{description}</title><metadata>{values}</metadata>"),
        1,
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::{LocalFigures, ServerReading, ServerUsage};

    fn history(samples: u64) -> Vec<Arc<Sample>> {
        let sample = |i: u64| {
            let mut sample = Sample::default();
            sample.since_start = Duration::from_secs(i * 10);
            sample.memory.heap_used = Some(i * 1_048_576);
            sample
        };
        (0..samples).map(|i| Arc::new(sample(i))).collect()
    }

    #[test]
    fn chart_ends_at_the_last_sample_and_has_a_title() {
        let chart = of("memory", &history(1001), Duration::MAX).unwrap();
        let points = &chart.series[0].points;
        assert!(points.len() <= POINTS, "{}", points.len());
        assert_eq!(points.last(), Some(&(0.0, 1000.0)));
        assert!(points.is_sorted_by(|a, b| a.0 < b.0));
        let svg = draw(&chart, (600, 200)).unwrap();
        assert!(svg.starts_with("<svg role=\"img\" "), "{svg}");
        assert!(
            svg.contains(
                "<title>Memory over the last 2 h: heap used 1000.0 MB now, from 1.0 to 1000.0"
            ),
            "{svg}"
        );
        // The page's policy forbids inline styles.
        assert!(!svg.contains("style="), "{svg}");
        assert!(svg.contains("stroke=\"#010101\""), "{svg}");
    }

    #[test]
    fn chart_of_a_range_contains_its_values_as_metadata() {
        // Samples each 10 s: 91 of them in a quarter of an hour.
        let chart = of("memory", &history(1001), Past::QuarterHour.duration()).unwrap();
        let points = &chart.series[0].points;
        assert_eq!((points.len(), points[0]), (91, (-900.0, 910.0)));
        let svg = draw(&chart, (600, 200)).unwrap();
        let (_, values) = svg.split_once("<metadata>").unwrap();
        let (values, _) = values.split_once("</metadata>").unwrap();
        let values: serde_json::Value = serde_json::from_str(values).unwrap();
        assert_eq!(
            (&values["unit"], &values["from"]),
            (&json!("MB"), &json!(-900.0))
        );
        assert_eq!(values["series"][0]["points"][90], json!([0.0, 1000.0]));
        // The line begins and ends at the position that the values state.
        let line = svg
            .split("<polyline")
            .find(|part| part.contains("#010101"))
            .unwrap();
        let (_, line) = line.split_once("points=\"").unwrap();
        let xs: Vec<_> = line.split('"').next().unwrap().split_whitespace().collect();
        let plot = &values["plot"];
        assert!(xs[0].starts_with(&format!("{},", plot["left"])), "{xs:?}");
        let right = plot["right"].as_u64().unwrap() - 1;
        assert!(xs[90].starts_with(&format!("{right},")), "{xs:?}");
    }

    #[test]
    fn rates_cover_the_previous_minute() {
        let sample = |i: u64| {
            let mut sample = Sample::default();
            sample.since_start = Duration::from_secs(i * 20);
            // All reads are misses for two minutes, then three of four are hits; the counters change once per minute.
            let local = sample.local.insert(LocalFigures::default());
            local.hits = i.saturating_sub(6) / 3 * 9;
            local.misses = if i <= 6 { i * 4 } else { 24 + (i - 6) };
            let mut server = ServerUsage::default();
            let cache = server.cache.insert(CacheFigures::default());
            cache.invalidations = i / 3 * 6;
            sample.server = ServerReading::Up(Arc::new(server));
            sample
        };
        let history: Vec<_> = (0..13).map(|i| Arc::new(sample(i))).collect();
        let last = |chart: &str| {
            of(chart, &history, Duration::MAX).unwrap().series[0]
                .points
                .last()
                .copied()
        };
        assert_eq!(last("hit-rate"), Some((0.0, 75.0)));
        assert_eq!(last("invalidations"), Some((0.0, 6.0)));
        let first = of("hit-rate", &history, Duration::MAX).unwrap().series[0].points[0];
        assert_eq!(first, (-220.0, 0.0));
    }

    #[test]
    fn unknown_charts_and_figures_are_not_drawn() {
        assert!(of("nothing", &history(5), Duration::MAX).is_none());
        let chart = of("hit-rate", &history(5), Duration::MAX).unwrap();
        assert!(chart.series.iter().all(|series| series.points.is_empty()));
    }
}
