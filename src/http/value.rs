//! Header values that share buffers, so that most of them need no allocation.

use std::cell::RefCell;
use std::fmt::{Display, Write};

use ::http::header::HeaderValue;
use bytes::BytesMut;

/// Size of a buffer, for about a hundred values. A value keeps its buffer alive, and is dropped once the head of its
/// message has been written.
const BUFFER: usize = 4096;
/// A buffer with fewer free bytes than this is replaced, or reused if all its values have been dropped.
const MOST_VALUES: usize = 128;

thread_local! {
    static FREE: RefCell<BytesMut> = RefCell::new(BytesMut::new());
}

/// Returns the text as a header value; `None` if it has invalid characters.
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
        // The thread is ending and its buffer is gone.
        _ => HeaderValue::try_from(text.to_string()).ok(),
    }
}
