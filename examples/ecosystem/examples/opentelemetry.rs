//! Spans for OpenTelemetry: one for the call, one for each attempt, and the client's own spans below their attempt.
//!
//! ```sh
//! cargo run --example opentelemetry
//! ```

use std::error::Error as StdError;
use std::sync::atomic::{AtomicU32, Ordering};

use backstop::tracing::{AttemptSpan, CallSpan};
use backstop::{Backoff, Policy, Retry};
use opentelemetry::trace::TracerProvider;
use opentelemetry_sdk::trace::{InMemorySpanExporter, SdkTracerProvider, SpanData};
use tracing::Instrument;
use tracing_subscriber::layer::SubscriberExt;

fn main() -> Result<(), Box<dyn StdError>> {
    // Stands in for an OTLP exporter.
    let exporter = InMemorySpanExporter::default();
    let provider = SdkTracerProvider::builder()
        .with_simple_exporter(exporter.clone())
        .build();
    let layer = tracing_opentelemetry::layer().with_tracer(provider.tracer("recipe"));
    tracing::subscriber::set_global_default(tracing_subscriber::registry().with(layer))?;

    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(calls())?;

    let mut spans = exporter.get_finished_spans()?;
    spans.sort_by_key(|span| span.start_time);
    print(&spans);
    let [call, first, get, second, again] = &spans[..] else {
        return Err(format!("{} spans", spans.len()).into());
    };
    let parents = [first, get, second, again].map(|span| span.parent_span_id);
    let ids = [call, first, call, second].map(|span| span.span_context.span_id());
    assert_eq!(parents, ids, "each request is a child of its attempt");
    assert_eq!(
        attribute(second, "http.request.resend_count").as_deref(),
        Some("1")
    );
    assert_eq!(attribute(first, "http.request.resend_count"), None);
    Ok(())
}

async fn calls() -> Result<(), Box<dyn StdError>> {
    let asked = AtomicU32::new(0);
    let retry = Retry::builder().backoff(Backoff::NONE).build()?;

    // recipe: spans, at most 2 lines
    let stack = (CallSpan::new("github"), retry, AttemptSpan::new("github"));
    let user = stack.call(|| get(&asked)).await;
    // end of recipe
    assert_eq!(user, Ok("hello"));
    Ok(())
}

/// A client that has spans of its own.
async fn get(asked: &AtomicU32) -> Result<&'static str, &'static str> {
    let response = async {
        match asked.fetch_add(1, Ordering::Relaxed) {
            0 => Err("reset"),
            _ => Ok("hello"),
        }
    };
    response.instrument(tracing::info_span!("GET")).await
}

fn attribute(span: &SpanData, name: &str) -> Option<String> {
    let mut attributes = span.attributes.iter();
    let found = attributes.find(|attribute| attribute.key.as_str() == name)?;
    Some(found.value.to_string())
}

/// Prints the spans as a tree, with the attributes that backstop sets.
fn print(spans: &[SpanData]) {
    for span in spans {
        let mut depth = 0;
        let mut parent = span.parent_span_id;
        while let Some(found) = spans
            .iter()
            .find(|span| span.span_context.span_id() == parent)
        {
            (depth, parent) = (depth + 1, found.parent_span_id);
        }
        let ours = [
            "policy",
            "attempt",
            "attempts",
            "outcome",
            "http.request.resend_count",
        ];
        let attributes: Vec<_> = ours
            .iter()
            .filter_map(|name| Some(format!("{name}={}", attribute(span, name)?)))
            .collect();
        println!(
            "{:depth$}{} {}",
            "",
            span.name,
            attributes.join(" "),
            depth = 4 * depth
        );
    }
}
