//! A subscriber that keeps spans and events as text.

use std::cell::Cell;
use std::fmt::{self, Write};
use std::sync::{Arc, Mutex};

use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};

#[derive(Default)]
struct Kept {
    spans: Vec<(String, Vec<(String, String)>)>,
    lines: Vec<String>,
}

#[derive(Clone, Default)]
pub(crate) struct Recorded(Arc<Mutex<Kept>>);

thread_local! {
    static LINES: Cell<usize> = const { Cell::new(0) };
    static STACK: std::cell::RefCell<Vec<u64>> = const { std::cell::RefCell::new(Vec::new()) };
}

impl Recorded {
    /// Runs `code` with a subscriber, and returns what it has recorded.
    pub(crate) fn during(code: impl FnOnce()) -> Self {
        let recorded = Self::default();
        LINES.set(0);
        tracing::subscriber::with_default(Collector(recorded.clone()), code);
        recorded
    }

    /// The number of lines of this thread so far.
    pub(crate) fn count() -> usize {
        LINES.get()
    }

    /// Each span with its parents and its fields, in the order in which they were opened.
    pub(crate) fn spans(&self) -> Vec<String> {
        let kept = self.0.lock().unwrap();
        let text = |(path, fields): &(String, Vec<(String, String)>)| {
            let fields: Vec<String> = fields.iter().map(|(k, v)| format!("{k}={v}")).collect();
            format!("{path}{{{}}}", fields.join(" "))
        };
        kept.spans.iter().map(text).collect()
    }

    pub(crate) fn lines(&self) -> Vec<String> {
        self.0.lock().unwrap().lines.clone()
    }
}

struct Collector(Recorded);

struct Fields(Vec<(String, String)>);

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.0.push((field.name().to_owned(), format!("{value:?}")));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.0.push((field.name().to_owned(), value.to_owned()));
    }
}

impl Subscriber for Collector {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn new_span(&self, span: &Attributes<'_>) -> Id {
        let mut fields = Fields(vec![]);
        span.record(&mut fields);
        let mut kept = self.0.0.lock().unwrap();
        let parents = STACK.with_borrow(|stack| {
            let parent = stack
                .last()
                .map(|&id| kept.spans[id as usize - 1].0.clone());
            parent.map_or(String::new(), |parent| parent + " > ")
        });
        let path = parents + span.metadata().name();
        kept.spans.push((path, fields.0));
        Id::from_u64(kept.spans.len() as u64)
    }

    fn record(&self, span: &Id, values: &Record<'_>) {
        let mut fields = Fields(vec![]);
        values.record(&mut fields);
        let mut kept = self.0.0.lock().unwrap();
        kept.spans[span.into_u64() as usize - 1].1.extend(fields.0);
    }

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut fields = Fields(vec![]);
        event.record(&mut fields);
        let metadata = event.metadata();
        let mut line = format!("{} {}:", metadata.level(), metadata.target());
        let (message, others): (Vec<_>, Vec<_>) = fields
            .0
            .into_iter()
            .partition(|(name, _)| name == "message");
        for (_, text) in message {
            write!(line, " {text}").unwrap();
        }
        for (name, value) in others {
            write!(line, " {name}={value}").unwrap();
        }
        LINES.set(LINES.get() + 1);
        self.0.0.lock().unwrap().lines.push(line);
    }

    fn enter(&self, span: &Id) {
        STACK.with_borrow_mut(|stack| stack.push(span.into_u64()));
    }

    fn exit(&self, _: &Id) {
        STACK.with_borrow_mut(|stack| stack.pop());
    }
}
