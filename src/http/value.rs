//! Header values as parts of a buffer, so that most of them take no allocation.

use std::cell::RefCell;
use std::fmt::{Display, Write};

use ::http::header::HeaderValue;
use bytes::BytesMut;

/// The size of a buffer: about a hundred values. A value keeps its buffer alive, and is dropped when the head of its
/// message has been written.
const BUFFER: usize = 4096;
/// Free bytes below which a value gets a new buffer, or the old one again if all of its values are dropped.
const MOST_VALUES: usize = 128;

thread_local! {
    static FREE: RefCell<BytesMut> = RefCell::new(BytesMut::new());
}

/// Returns the text as a header value; `None` if it cannot be one.
pub(super) fn header_value(text: &impl Display) -> Option<HeaderValue> {
    let cut = FREE.try_with(|free| {
        let mut free = free.try_borrow_mut().ok()?;
        if free.capacity() - free.len() < MOST_VALUES {
            free.reserve(BUFFER);
        }
        let written = write!(free, "{text}");
        let value = free.split().freeze();
        written.ok().map(|()| value)
    });
    match cut {
        Ok(Some(value)) => HeaderValue::from_maybe_shared(value).ok(),
        // The thread is ending.
        _ => HeaderValue::try_from(text.to_string()).ok(),
    }
}
