//! Metrics for Prometheus: counters and histograms from events, gauges from snapshots, at `/metrics` of an axum server.
//!
//! ```sh
//! cargo run --example prometheus
//! ```

use std::error::Error as StdError;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::{Router, routing::get};
use backstop::metrics::{BUCKETS, Metrics};
use backstop::tracing::EventLog;
use backstop::{Backoff, Bulkhead, CircuitBreaker, Pipeline, Policy, Retry, circuit_breaker::Trip};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder};

#[tokio::main]
async fn main() -> Result<(), Box<dyn StdError>> {
    // Installed before anything is recorded. Without buckets, histograms become summaries, which cannot be aggregated.
    let prometheus = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Prefix("backstop_".into()), BUCKETS)?
        .install_recorder()?;

    let breaker = CircuitBreaker::builder()
        .name("github")
        .trip_on(Trip::consecutive(5))
        .build()?;
    let bulkhead = Bulkhead::builder().name("github").build()?;
    let retry = Retry::builder().backoff(Backoff::NONE).build()?;

    // recipe: metrics and tracing, at most 2 lines
    let metrics = Metrics::new();
    // end of recipe
    let attempts = metrics.attempts("github");
    let stack = (retry, breaker.clone(), bulkhead.clone(), attempts);
    let github = Pipeline::new(stack).with_name("github");
    // recipe: metrics and tracing, at most 2 lines
    let github = github.observer((metrics.clone(), EventLog::new()));
    // end of recipe
    metrics.watch(breaker); // gauges, too
    metrics.watch(bulkhead);

    // Ten calls that succeed, then an outage.
    let is_down = AtomicBool::new(false);
    for call in 0..20 {
        is_down.store(call >= 10, Ordering::Relaxed);
        let request = || async {
            if is_down.load(Ordering::Relaxed) {
                Err("down")
            } else {
                Ok(())
            }
        };
        let _ = github.call(request).await;
    }

    let app = Router::new().route(
        "/metrics",
        get(move || async move {
            metrics.collect();
            prometheus.render()
        }),
    );
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("http://{}/metrics", listener.local_addr()?);
    tokio::spawn(axum::serve(listener, app).into_future());

    let text = reqwest::get(url).await?.text().await?;
    let is_shown =
        |line: &&str| !line.starts_with('#') && !line.contains("_bucket") && !line.is_empty();
    let mut lines: Vec<_> = text.lines().filter(is_shown).collect();
    lines.sort_unstable();
    println!("{}", lines.join("\n"));
    for expected in [
        r#"backstop_calls_total{policy="github",pipeline="github",outcome="ok"} 10"#,
        r#"backstop_circuit_state{policy="github",state="open"} 1"#,
        r#"backstop_limit{policy="github"} 25"#,
    ] {
        assert!(lines.contains(&expected), "{expected}");
    }
    Ok(())
}
