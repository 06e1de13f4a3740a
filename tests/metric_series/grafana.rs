//! The Grafana board, made from the table of metrics.
//!
//! `BACKSTOP_WRITE=1 cargo test --features metrics --test metric_series grafana` writes `docs/grafana.json`.

use backstop::metrics::{Kind, Metric, TABLE};
use serde_json::{Value, json};

/// A panel: its title, its unit, and its queries with their legends.
struct Panel {
    title: &'static str,
    unit: &'static str,
    queries: Vec<(String, String)>,
}

fn metric(name: &str) -> &'static Metric {
    let found = TABLE.iter().find(|metric| metric.name == name);
    found.unwrap_or_else(|| panic!("{name} is not in the table"))
}

/// The query of a metric by these labels: a rate, the 99th percentile, or the value, according to its kind.
fn query(name: &str, by: &[&str]) -> (String, String) {
    let metric = metric(name);
    for label in by {
        assert!(metric.labels.contains(label), "{name} has no label {label}");
    }
    let labels = by.join(", ");
    let range = "{policy=~\"$policy\"}[$__rate_interval]";
    let expr = match metric.kind {
        Kind::Counter => format!("sum by ({labels}) (rate({name}{range}))"),
        Kind::Histogram => {
            let rate = format!("sum by (le, {labels}) (rate({name}_bucket{range}))");
            format!("histogram_quantile(0.99, {rate})")
        }
        _ => format!("max by ({labels}) ({name}{{policy=~\"$policy\"}})"),
    };
    let legend: Vec<String> = by.iter().map(|label| format!("{{{{{label}}}}}")).collect();
    (expr, legend.join(" "))
}

fn named(name: &str, legend: &str) -> (String, String) {
    (
        query(name, &["policy"]).0,
        format!("{{{{policy}}}} {legend}"),
    )
}

fn panels() -> Vec<Panel> {
    let panel = |title, unit, queries| Panel {
        title,
        unit,
        queries,
    };
    let state = metric("backstop_circuit_state").name;
    let ratio = |over: &str, under: &str| {
        let rate = |name| query(name, &["policy"]).0;
        format!("{} / {}", rate(over), rate(under))
    };
    vec![
        panel(
            "Circuits that are not closed",
            "short",
            vec![(
                format!(
                    "max by (policy, state) ({state}{{policy=~\"$policy\", state!=\"closed\"}}) > 0"
                ),
                "{{policy}} {{state}}".to_owned(),
            )],
        ),
        panel(
            "Rejections by reason",
            "reqps",
            vec![query(
                "backstop_rejections_total",
                &["policy", "reason", "shadow"],
            )],
        ),
        panel(
            "Amplification: attempts per call",
            "short",
            vec![(
                ratio("backstop_attempts_total", "backstop_calls_total"),
                "{{policy}}".to_owned(),
            )],
        ),
        panel(
            "p99 of calls and of attempts",
            "s",
            vec![
                named("backstop_call_seconds", "call"),
                named("backstop_attempt_seconds", "attempt"),
            ],
        ),
        panel(
            "Calls by outcome",
            "reqps",
            vec![query("backstop_calls_total", &["policy", "outcome"])],
        ),
        panel(
            "Attempts by kind and verdict",
            "reqps",
            vec![query("backstop_attempts_total", &["kind", "verdict"])],
        ),
        panel(
            "Retries that gave up, and hedges",
            "reqps",
            vec![
                query("backstop_retry_stops_total", &["policy", "stop"]),
                query("backstop_hedges_total", &["policy", "result"]),
            ],
        ),
        panel(
            "In flight and limit",
            "short",
            vec![
                named("backstop_in_flight", "in flight"),
                named("backstop_limit", "limit"),
            ],
        ),
        panel(
            "Wait queues",
            "short",
            vec![
                named("backstop_queue_depth", "waiting"),
                named("backstop_queue_seconds", "p99 of the wait (s)"),
            ],
        ),
        panel(
            "Tokens, and keys",
            "short",
            vec![
                named("backstop_tokens", "tokens"),
                named("backstop_keys", "keys"),
                named("backstop_dead_letters", "dead letters"),
            ],
        ),
        panel(
            "Budgets, shedding, and throttling",
            "percentunit",
            vec![
                named("backstop_budget_ratio", "budget free"),
                named("backstop_shed_level", "shed"),
                named("backstop_throttle_ratio", "throttled"),
            ],
        ),
        panel(
            "Transitions, ejections, stores, and other events",
            "short",
            vec![
                named("backstop_store_up", "store up"),
                named("backstop_lease_trips_total", "trips to the store"),
                query(
                    "backstop_circuit_transitions_total",
                    &["policy", "from", "to", "cause"],
                ),
                query(
                    "backstop_ejections_total",
                    &["policy", "method", "enforced"],
                ),
                query("backstop_endpoints", &["policy", "state"]),
                query("backstop_events_total", &["policy", "kind"]),
            ],
        ),
    ]
}

fn board() -> Value {
    let source = json!({"type": "prometheus", "uid": "${source}"});
    let panels: Vec<Value> = panels()
        .into_iter()
        .enumerate()
        .map(|(index, panel)| {
            let targets: Vec<Value> = panel
                .queries
                .into_iter()
                .zip('A'..)
                .map(|((expr, legend), id)| {
                    json!({"refId": id, "datasource": source, "expr": expr, "legendFormat": legend})
                })
                .collect();
            json!({
                "id": index + 1,
                "type": "timeseries",
                "title": panel.title,
                "datasource": source,
                "gridPos": {"x": index % 4 * 6, "y": index / 4 * 8, "w": 6, "h": 8},
                "fieldConfig": {"defaults": {"unit": panel.unit, "min": 0}, "overrides": []},
                "targets": targets,
            })
        })
        .collect();
    json!({
        "title": "backstop",
        "uid": "backstop",
        "schemaVersion": 39,
        "editable": true,
        "refresh": "10s",
        "time": {"from": "now-30m", "to": "now"},
        "templating": {"list": [
            {"name": "source", "type": "datasource", "query": "prometheus"},
            {
                "name": "policy",
                "type": "query",
                "datasource": source,
                "query": "label_values({__name__=~\"backstop_.+\"}, policy)",
                "includeAll": true,
                "multi": true,
                "current": {"text": "All", "value": "$__all"},
            },
        ]},
        "panels": panels,
    })
}

fn path() -> std::path::PathBuf {
    std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/grafana.json")
}

#[test]
fn the_grafana_board_is_the_one_that_the_table_gives() {
    let text = format!("{}\n", serde_json::to_string_pretty(&board()).unwrap());
    if std::env::var_os("BACKSTOP_WRITE").is_some() {
        std::fs::write(path(), &text).unwrap();
    }
    let kept = std::fs::read_to_string(path()).unwrap();
    assert!(kept == text, "run the test with BACKSTOP_WRITE=1");
    assert_eq!(panels().len(), 12);
}

#[test]
fn the_grafana_board_shows_every_metric_and_no_other() {
    let text = std::fs::read_to_string(path()).unwrap();
    let board: Value = serde_json::from_str(&text).unwrap();
    let mut shown = Vec::new();
    for panel in board["panels"].as_array().unwrap() {
        for target in panel["targets"].as_array().unwrap() {
            let expr = target["expr"].as_str().unwrap();
            let words = expr.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
            let names = words.filter(|word| word.starts_with("backstop_"));
            shown.extend(names.map(|name| name.trim_end_matches("_bucket").to_owned()));
        }
    }
    for name in &shown {
        metric(name);
    }
    for metric in TABLE {
        assert!(
            shown.iter().any(|name| name == metric.name),
            "{}",
            metric.name
        );
    }
}
