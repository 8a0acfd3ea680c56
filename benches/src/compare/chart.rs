//! Curves over sizes, both axes logarithmic, drawn as SVG.

use std::io::{Error, Result};

use plotters::prelude::*;

pub(super) struct Series {
    name: &'static str,
    /// Size and measured value.
    pub(super) points: Vec<(f64, f64)>,
}

impl Series {
    pub(super) fn new(name: &'static str) -> Self {
        Self {
            name,
            points: Vec::new(),
        }
    }
}

const SIZE: (u32, u32) = (900, 480);
/// Colours that are distinguishable for colour-blind people (Okabe and Ito, *Color Universal Design*, 2008), and a
/// grey.
const COLOURS: [RGBColor; 9] = [
    RGBColor(213, 94, 0),
    RGBColor(0, 114, 178),
    RGBColor(86, 180, 233),
    RGBColor(0, 158, 115),
    RGBColor(230, 159, 0),
    RGBColor(204, 121, 167),
    RGBColor(0, 0, 0),
    RGBColor(170, 150, 20),
    RGBColor(140, 140, 140),
];

pub(super) fn draw(title: &str, series: &[Series]) -> Result<String> {
    let mut svg = String::new();
    plot(title, series, &mut svg).map_err(|error| Error::other(error.to_string()))?;
    Ok(svg)
}

fn plot(
    title: &str,
    series: &[Series],
    svg: &mut String,
) -> std::result::Result<(), Box<dyn std::error::Error>> {
    let points = || series.iter().flat_map(|series| &series.points);
    let range = |of: fn(&(f64, f64)) -> f64| {
        let figures = || points().map(of).filter(|figure| *figure > 0.0);
        figures().fold(f64::MAX, f64::min) * 0.8..figures().fold(0.0, f64::max) * 1.3
    };
    let root = SVGBackend::with_string(svg, SIZE).into_drawing_area();
    root.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&root)
        .caption(title, ("sans-serif", 16))
        .margin(10)
        .margin_right(30)
        .x_label_area_size(36)
        .y_label_area_size(70)
        .build_cartesian_2d(range(|p| p.0).log_scale(), range(|p| p.1).log_scale())?;
    chart
        .configure_mesh()
        .light_line_style(TRANSPARENT)
        .x_desc("entries of the tag")
        .label_style(("sans-serif", 12))
        .draw()?;
    for (series, colour) in series.iter().zip(COLOURS) {
        let width = if colour == COLOURS[0] { 4 } else { 2 };
        let style = colour.stroke_width(width);
        chart
            .draw_series(LineSeries::new(series.points.iter().copied(), style))?
            .label(series.name)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], style));
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperLeft)
        .background_style(WHITE.mix(0.8))
        .border_style(BLACK.mix(0.2))
        .label_font(("sans-serif", 12))
        .draw()?;
    root.present()?;
    Ok(())
}
