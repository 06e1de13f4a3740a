//! Small multiples as an SVG picture: one column per protection, one row per measurement.

use std::fmt::{Arguments, Write};
use std::time::Duration;

/// Results of one protection at one load.
pub(crate) struct Point {
    pub(crate) load: f64,
    pub(crate) goodput: f64,
    pub(crate) important: f64,
    /// `None` if no call was answered in time.
    pub(crate) p99: Option<Duration>,
}

/// Results of one protection.
pub(crate) struct Curve {
    name: &'static str,
    points: Vec<Point>,
}

impl Curve {
    pub(crate) const fn new(name: &'static str) -> Self {
        Self {
            name,
            points: Vec::new(),
        }
    }

    pub(crate) fn add(&mut self, point: Point) {
        self.points.push(point);
    }
}

/// A measurement and its color. All are from 0 to 100.
struct Row {
    title: &'static str,
    color: &'static str,
    value: fn(&Point) -> Option<f64>,
}

const ROWS: [Row; 3] = [
    Row {
        title: "goodput, % of the capacity",
        color: "#1f77b4",
        value: |point| Some(point.goodput * 100.0),
    },
    Row {
        title: "important calls answered in time, %",
        color: "#2ca02c",
        value: |point| Some(point.important * 100.0),
    },
    Row {
        title: "99th percentile of answers in time, ms",
        color: "#d62728",
        value: |point| point.p99.map(|p99| p99.as_secs_f64() * 1e3),
    },
];

const LEFT: f64 = 44.0;
const TOP: f64 = 60.0;
const PANEL: (f64, f64) = (100.0, 90.0);
const GAP: (f64, f64) = (14.0, 44.0);
const MAX_LOAD: f64 = 3.0;

/// Draws all curves. Each panel highlights one of them and shows the others in gray.
pub(crate) fn svg(curves: &[Curve]) -> String {
    let width = LEFT + curves.len() as f64 * (PANEL.0 + GAP.0);
    let height = TOP + ROWS.len() as f64 * (PANEL.1 + GAP.1);
    let mut svg = String::new();
    put(
        &mut svg,
        format_args!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" \
             font-family=\"sans-serif\" font-size=\"10\">\n\
             <rect width=\"{width}\" height=\"{height}\" fill=\"white\"/>"
        ),
    );
    for (column, curve) in curves.iter().enumerate() {
        let left = LEFT + column as f64 * (PANEL.0 + GAP.0);
        put(
            &mut svg,
            format_args!(
                "<text x=\"{}\" y=\"22\" font-size=\"13\" font-weight=\"bold\" \
                 text-anchor=\"middle\">{}</text>",
                left + PANEL.0 / 2.0,
                curve.name
            ),
        );
        for (line, row) in ROWS.iter().enumerate() {
            let top = TOP + line as f64 * (PANEL.1 + GAP.1);
            frame(&mut svg, left, top, column == 0);
            if column == 0 {
                let y = top - 8.0;
                let title = row.title;
                put(
                    &mut svg,
                    format_args!("<text x=\"{left}\" y=\"{y}\" font-size=\"12\">{title}</text>"),
                );
            }
            for other in curves {
                polyline(&mut svg, (left, top), other, row, "#dddddd", 1.0);
            }
            polyline(&mut svg, (left, top), curve, row, row.color, 2.5);
        }
    }
    svg.push_str("</svg>\n");
    svg
}

/// Draws the axes of a panel, with labels of the values if it is the first of its row.
fn frame(svg: &mut String, left: f64, top: f64, has_labels: bool) {
    for value in [0.0, 50.0, 100.0] {
        let y = top + PANEL.1 * (1.0 - value / 100.0);
        let right = left + PANEL.0;
        put(
            svg,
            format_args!(
                "<line x1=\"{left}\" y1=\"{y}\" x2=\"{right}\" y2=\"{y}\" stroke=\"#eeeeee\"/>"
            ),
        );
        if has_labels {
            let (x, y) = (left - 5.0, y + 3.0);
            put(
                svg,
                format_args!("<text x=\"{x}\" y=\"{y}\" text-anchor=\"end\">{value}</text>"),
            );
        }
    }
    for load in [0.0, 1.0, 2.0, 3.0] {
        let (x, y) = (left + load / MAX_LOAD * PANEL.0, top + PANEL.1 + 12.0);
        put(
            svg,
            format_args!("<text x=\"{x:.1}\" y=\"{y}\" text-anchor=\"middle\">{load}x</text>"),
        );
    }
}

/// Draws a curve. It has a gap where there is no value.
fn polyline(
    svg: &mut String,
    (left, top): (f64, f64),
    curve: &Curve,
    row: &Row,
    color: &str,
    width: f64,
) {
    let at = |point: &Point| {
        let value = (row.value)(point)?;
        let x = left + point.load / MAX_LOAD * PANEL.0;
        let y = top + PANEL.1 * (1.0 - (value / 100.0).min(1.0));
        Some(format!("{x:.1},{y:.1}"))
    };
    let points: Vec<_> = curve.points.iter().map(at).collect();
    for part in points
        .split(Option::is_none)
        .filter(|part| !part.is_empty())
    {
        let part: Vec<_> = part.iter().flatten().map(String::as_str).collect();
        // A single value is a dot.
        put(
            svg,
            format_args!(
                "<polyline points=\"{0} {1}\" fill=\"none\" stroke=\"{color}\" \
                 stroke-width=\"{width}\" stroke-linecap=\"round\"/>",
                part.join(" "),
                part[part.len() - 1]
            ),
        );
    }
}

/// Appends text and a newline. Writing to a string cannot fail.
fn put(svg: &mut String, line: Arguments<'_>) {
    let _ = writeln!(svg, "{line}");
}
