//! Two panels of curves as an SVG picture.

use std::fmt::Write;
use std::time::Duration;

/// One protection at each load.
pub(crate) struct Curve {
    name: &'static str,
    /// Load, goodput, 99th percentile in milliseconds.
    points: Vec<(f64, f64, f64)>,
}

impl Curve {
    pub(crate) const fn new(name: &'static str) -> Self {
        Self {
            name,
            points: Vec::new(),
        }
    }

    pub(crate) fn add(&mut self, load: f64, goodput: f64, p99: Duration) {
        self.points.push((load, goodput, p99.as_secs_f64() * 1e3));
    }
}

const COLOURS: [&str; 10] = [
    "#222222", "#888888", "#1f77b4", "#2ca02c", "#9467bd", "#17becf", "#d62728", "#bcbd22",
    "#ff7f0e", "#e377c2",
];
const WIDTH: f64 = 380.0;
const HEIGHT: f64 = 260.0;
const TOP: f64 = 50.0;
const MAX_LOAD: f64 = 3.0;

/// One panel: where it is, what it shows, and up to which value.
struct Panel {
    left: f64,
    title: &'static str,
    unit: &'static str,
    max: f64,
    value: fn(&(f64, f64, f64)) -> f64,
}

/// The picture: goodput on the left, latency on the right, names below.
pub(crate) fn svg(curves: &[Curve]) -> String {
    let panels = [
        Panel {
            left: 60.0,
            title: "goodput, % of the capacity",
            unit: "%",
            max: 100.0,
            value: |(_, goodput, _)| goodput * 100.0,
        },
        Panel {
            left: 520.0,
            title: "99th percentile of the answers in time",
            unit: "ms",
            max: 100.0,
            value: |(_, _, p99)| *p99,
        },
    ];
    let mut svg = String::from(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 940 400\" \
         font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"940\" height=\"400\" fill=\"white\"/>\n",
    );
    for panel in &panels {
        draw(&mut svg, panel, curves);
    }
    for (index, curve) in curves.iter().enumerate() {
        let (x, y) = (
            60.0 + 170.0 * (index % 5) as f64,
            360.0 + 20.0 * (index / 5) as f64,
        );
        let colour = COLOURS[index % COLOURS.len()];
        put(
            &mut svg,
            format_args!(
                "<rect x=\"{x}\" y=\"{}\" width=\"20\" height=\"4\" fill=\"{colour}\"/>\
             <text x=\"{}\" y=\"{y}\">{}</text>",
                y - 6.0,
                x + 26.0,
                curve.name,
            ),
        );
    }
    svg.push_str("</svg>\n");
    svg
}

fn draw(svg: &mut String, panel: &Panel, curves: &[Curve]) {
    let left = panel.left;
    let x = |load: f64| left + load / MAX_LOAD * WIDTH;
    let y = |value: f64| TOP + HEIGHT - (value / panel.max).min(1.0) * HEIGHT;
    put(
        svg,
        format_args!(
            "<text x=\"{left}\" y=\"30\" font-size=\"14\">{}</text>",
            panel.title
        ),
    );
    for part in 0..=4 {
        let value = panel.max * f64::from(part) / 4.0;
        put(
            svg,
            format_args!(
                "<line x1=\"{left}\" y1=\"{0:.1}\" x2=\"{1:.1}\" y2=\"{0:.1}\" stroke=\"#dddddd\"/>\
             <text x=\"{2:.1}\" y=\"{3:.1}\" text-anchor=\"end\">{value} {4}</text>",
                y(value),
                left + WIDTH,
                left - 6.0,
                y(value) + 4.0,
                panel.unit,
            ),
        );
    }
    for load in 0..=3 {
        put(
            svg,
            format_args!(
                "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{load}x</text>",
                x(f64::from(load)),
                TOP + HEIGHT + 18.0,
            ),
        );
    }
    for (index, curve) in curves.iter().enumerate() {
        let points: Vec<_> = curve
            .points
            .iter()
            .map(|point| format!("{:.1},{:.1}", x(point.0), y((panel.value)(point))))
            .collect();
        put(
            svg,
            format_args!(
                "<polyline points=\"{}\" fill=\"none\" stroke=\"{}\" stroke-width=\"2\"/>",
                points.join(" "),
                COLOURS[index % COLOURS.len()],
            ),
        );
    }
}

/// Adds a line. Writing to a string cannot fail.
fn put(svg: &mut String, line: std::fmt::Arguments<'_>) {
    let _ = writeln!(svg, "{line}");
}
