//! Draws how the five algorithms admit the same calls, and checks that the committed picture is what
//! the code draws.
//!
//! After an intended change, draw it again:
//!
//! ```sh
//! BACKSTOP_DRAW=1 cargo test --test rate_limiter picture
//! ```
//!
//! Two files come out: the SVG, which the page shows on the web, and the same as a data URI, because
//! rustdoc has no place for a picture beside the page.

use std::fmt::{self, Write as _};
use std::path::Path;
use std::sync::Mutex;
use std::time::Duration;

use backstop::rate_limiter::Quota;
use backstop::{Clock, ManualClock, RateLimiter};
use futures::future::join_all;

/// Calls a second, for all five.
const LIMIT: u64 = 8;
/// What the picture shows, in milliseconds.
const END: u64 = 5000;
/// Calls within so many milliseconds stand in one column.
const COLUMN: u64 = 50;

const ALGORITHMS: [(&str, &str, Quota); 5] = [
    (
        "token bucket",
        "saves up a burst, then the rate",
        Quota::per_second(LIMIT),
    ),
    (
        "leaky bucket",
        "a queue that lets out one at a time",
        Quota::per_second(LIMIT).leaky_bucket(LIMIT),
    ),
    (
        "fixed window",
        "starts again in each second",
        Quota::per_second(LIMIT).fixed_window(),
    ),
    (
        "sliding log",
        "exact over any second",
        Quota::per_second(LIMIT).sliding_log(),
    ),
    (
        "sliding counter",
        "the log, estimated from two counters",
        Quota::per_second(LIMIT).sliding_counter(),
    ),
];

/// A burst on each side of a window's boundary, a pause, and then more than the rate.
fn arrivals() -> Vec<u64> {
    let bursts = [(700, 12, 15), (1100, 12, 15), (2350, 30, 50)];
    bursts
        .into_iter()
        .flat_map(|(from, count, every)| (0..count).map(move |call| from + call * every))
        .collect()
}

/// What became of a call that came at `came`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Call {
    came: u64,
    /// When it was admitted.
    left: Option<u64>,
}

/// Sends the calls through a limiter, in virtual time.
fn run(quota: Quota) -> Vec<Call> {
    let clock = ManualClock::new();
    let limiter = RateLimiter::builder()
        .quota(quota)
        .clock(clock.clone())
        .build()
        .expect("a sound quota");
    let calls = Mutex::new(Vec::new());
    let start = clock.now();
    clock.block_on(join_all(arrivals().into_iter().map(async |came| {
        clock.sleep(Duration::from_millis(came)).await;
        let passed = match quota.algorithm() {
            backstop::rate_limiter::Algorithm::LeakyBucket => limiter.acquire().await.is_ok(),
            _ => limiter.try_acquire().is_ok(),
        };
        let now = clock.now().saturating_duration_since(start).as_millis() as u64;
        calls.lock().unwrap().push(Call {
            came,
            left: passed.then_some(now),
        });
    })));
    let mut calls = calls.into_inner().unwrap();
    calls.sort();
    calls
}

/// The second in which most calls left, by its beginning, and how many they were.
fn busiest(calls: &[Call]) -> (u64, usize) {
    let mut left: Vec<u64> = calls.iter().filter_map(|call| call.left).collect();
    left.sort_unstable();
    let count = |from| {
        left.iter()
            .filter(|at| (from..from + 1000).contains(*at))
            .count()
    };
    // The earliest of several.
    left.iter()
        .map(|from| (*from, count(*from)))
        .reduce(|best, this| if this.1 > best.1 { this } else { best })
        .unwrap_or((0, 0))
}

// The drawing

const WIDTH: u64 = 960;
/// Where time begins, and pixels for a millisecond as a fraction.
const LEFT: u64 = 258;
const SCALE: (u64, u64) = (13, 100);
const TOP: u64 = 96;
const ROW_HEIGHT: u64 = 84;
const PITCH: u64 = 8;

fn x(millis: u64) -> f64 {
    (LEFT * SCALE.1 + millis * SCALE.0) as f64 / SCALE.1 as f64
}

const STYLE: &str = "\
text{font-family:system-ui,-apple-system,'Segoe UI','Helvetica Neue','DejaVu Sans',sans-serif;font-size:12px;fill:#57606a}\
.title{font-size:17px;font-weight:600;fill:#1f2328}\
.name{font-size:14px;font-weight:600;fill:#1f2328}\
.most{font-size:12px;font-weight:600;fill:#1f2328}\
.over{fill:#cf222e}\
.second{stroke:#d0d7de;stroke-dasharray:2 3}\
.base{stroke:#8c959f}\
.busy{fill:#ddf4ff}\
.busy.over{fill:#ffebe9}\
.came{fill:#8c959f}\
.admitted{fill:#0969da}\
.waits{fill:#80bdf5}\
.rejected{fill:#fff;stroke:#cf222e;stroke-width:1.2}";

fn draw() -> Result<String, fmt::Error> {
    let mut svg = String::new();
    let height = TOP + ROW_HEIGHT * (ALGORITHMS.len() as u64 + 1) + 34;
    let calls = arrivals();
    writeln!(
        svg,
        r#"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" role="img" aria-label="How five algorithms admit the same {} calls">"#,
        calls.len(),
    )?;
    writeln!(svg, "<style>{STYLE}</style>")?;
    writeln!(
        svg,
        r##"<rect width="{WIDTH}" height="{height}" rx="10" fill="#fff"/>"##
    )?;
    writeln!(
        svg,
        r#"<text class="title" x="24" y="34">The same {} calls under five limits of {LIMIT} a second</text>"#,
        calls.len(),
    )?;
    legend(&mut svg)?;
    axis(&mut svg, height - 34)?;

    row_text(&mut svg, 0, "calls", "as they come")?;
    let came = calls.iter().map(|at| (*at, "came"));
    columns(&mut svg, 0, came)?;

    for (number, (name, says, quota)) in ALGORITHMS.into_iter().enumerate() {
        let lane = number as u64 + 1;
        let calls = run(quota);
        let (from, most) = busiest(&calls);
        let passed = calls.iter().filter(|call| call.left.is_some()).count();
        busy(&mut svg, lane, from, most)?;
        row_text(&mut svg, lane, name, says)?;
        writeln!(
            svg,
            r#"<text x="24" y="{}">{passed} of {} admitted</text>"#,
            baseline(lane) - 12,
            calls.len(),
        )?;
        // From the bottom: admitted, waiting, rejected.
        let left = calls
            .iter()
            .filter_map(|call| Some((call.left?, "admitted")));
        let waits = calls
            .iter()
            .filter(|call| call.left.is_some_and(|left| left > call.came))
            .map(|call| (call.came, "waits"));
        let rejected = calls
            .iter()
            .filter(|call| call.left.is_none())
            .map(|call| (call.came, "rejected"));
        columns(&mut svg, lane, left.chain(waits).chain(rejected))?;
    }
    writeln!(svg, "</svg>")?;
    Ok(svg)
}

fn baseline(lane: u64) -> u64 {
    TOP + ROW_HEIGHT * (lane + 1) - 16
}

fn legend(svg: &mut String) -> fmt::Result {
    let entries = [
        ("admitted", "admitted", 24),
        ("waits", "waits, admitted later", 130),
        ("rejected", "rejected", 282),
        ("busy", "busiest second, and its number of calls", 364),
        ("busy over", "more than the limit", 646),
    ];
    for (class, says, x) in entries {
        if class.starts_with("busy") {
            writeln!(
                svg,
                r#"<rect class="{class}" x="{x}" y="54" width="18" height="14" rx="3"/>"#
            )?;
        } else {
            writeln!(
                svg,
                r#"<circle class="{class}" cx="{}" cy="61" r="4"/>"#,
                x + 8
            )?;
        }
        writeln!(svg, r#"<text x="{}" y="65">{says}</text>"#, x + 24)?;
    }
    Ok(())
}

fn axis(svg: &mut String, bottom: u64) -> fmt::Result {
    for second in 0..=END / 1000 {
        let x = x(second * 1000);
        writeln!(
            svg,
            r#"<path class="second" d="M{x} {}V{bottom}"/>"#,
            TOP - 4
        )?;
        writeln!(
            svg,
            r#"<text x="{x}" y="{}" text-anchor="middle">{second} s</text>"#,
            bottom + 18
        )?;
    }
    Ok(())
}

fn row_text(svg: &mut String, lane: u64, name: &str, says: &str) -> fmt::Result {
    let y = baseline(lane);
    let (from, to) = (x(0), x(END));
    writeln!(svg, r#"<path class="base" d="M{from} {y}H{to}"/>"#)?;
    writeln!(
        svg,
        r#"<text class="name" x="24" y="{}">{name}</text>"#,
        y - 46
    )?;
    writeln!(
        svg,
        r#"<text x="24" y="{}" font-size="11">{says}</text>"#,
        y - 29
    )
}

/// The busiest second as a band, with its number.
fn busy(svg: &mut String, lane: u64, from: u64, most: usize) -> fmt::Result {
    let over = if most as u64 > LIMIT { " over" } else { "" };
    let (y, width) = (baseline(lane) - ROW_HEIGHT + 22, x(1000) - x(0));
    let x = x(from) - 4.0;
    let height = ROW_HEIGHT - 22;
    writeln!(
        svg,
        r#"<rect class="busy{over}" x="{x}" y="{y}" width="{width}" height="{height}" rx="4"/>"#
    )?;
    writeln!(
        svg,
        r#"<text class="most{over}" x="{}" y="{}" text-anchor="end">{most}</text>"#,
        x + width - 6.0,
        y + 15
    )
}

/// Dots, those of one column on top of each other.
fn columns<'a>(
    svg: &mut String,
    lane: u64,
    dots: impl Iterator<Item = (u64, &'a str)>,
) -> fmt::Result {
    let mut heights = std::collections::BTreeMap::new();
    for (at, class) in dots {
        let column = at / COLUMN;
        let height: &mut u64 = heights.entry(column).or_default();
        let (cx, cy) = (
            x(column * COLUMN + COLUMN / 2),
            baseline(lane) - 5 - *height * PITCH,
        );
        writeln!(
            svg,
            r#"<circle class="{class}" cx="{cx}" cy="{cy}" r="3.2"/>"#
        )?;
        *height += 1;
    }
    Ok(())
}

/// `[picture]: <data:...>`, a link definition that comes before the page's own.
fn definition(svg: &str) -> String {
    let mut uri = String::new();
    for character in svg.trim_end().chars() {
        match character {
            '<' => uri.push_str("%3C"),
            '>' => uri.push_str("%3E"),
            '#' => uri.push_str("%23"),
            '%' => uri.push_str("%25"),
            '"' => uri.push('\''),
            '\'' => uri.push_str("%27"),
            '\n' => {}
            ' ' => uri.push_str("%20"),
            other => uri.push(other),
        }
    }
    format!("[picture]: <data:image/svg+xml,{uri}>\n")
}

#[test]
fn the_picture_is_what_the_code_draws() {
    let svg = draw().unwrap();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/patterns");
    for (name, drawn) in [
        ("rate-limiter.svg", &svg),
        ("rate-limiter.svg.md", &definition(&svg)),
    ] {
        let path = folder.join(name);
        if std::env::var_os("BACKSTOP_DRAW").is_some() {
            std::fs::write(&path, drawn).unwrap();
        }
        let committed = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(
            committed == *drawn,
            "docs/patterns/{name} is not what the code draws. If the change is meant: \
             BACKSTOP_DRAW=1 cargo test --test rate_limiter picture",
        );
    }
}

/// What the page says about the picture.
#[test]
fn only_windows_that_are_counted_apart_admit_too_much_at_once() {
    let most = ALGORITHMS.map(|(name, _, quota)| (name, busiest(&run(quota)).1 as u64));
    for (name, most) in most {
        match name {
            "leaky bucket" | "sliding log" => assert!(most <= LIMIT, "{name}: {most}"),
            "token bucket" => assert!(most > LIMIT && most <= 2 * LIMIT, "{name}: {most}"),
            "fixed window" => assert_eq!(most, 2 * LIMIT, "{name}"),
            _ => assert!(most <= LIMIT + LIMIT / 2, "{name}: {most}"),
        }
    }
}
