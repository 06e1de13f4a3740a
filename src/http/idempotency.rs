//! Idempotency keys: a server that supports them executes a call once, however often it is sent.

use std::fmt;
use std::str;

use ::http::Method;
use ::http::header::{HeaderMap, HeaderName, HeaderValue};

use crate::rng::identifier;

/// The field `Idempotency-Key`.
pub const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// A key for one call: the same for all attempts of the call, and different for each call.
///
/// Create it outside the operation. It is a random UUID (version 4), not a secret.
///
/// ```
/// use backstop::http::idempotency::Key;
/// use backstop::{ManualClock, Policy, Retry};
///
/// let clock = ManualClock::new();
/// let retry = Retry::builder().clock(clock.clone()).build()?;
/// let key = Key::new();
/// let sent = std::sync::Mutex::new(Vec::new());
/// let call = clock.block_on(retry.call(|| async {
///     let mut headers = http::HeaderMap::new();
///     key.write(&mut headers);
///     sent.lock().unwrap().push(headers["idempotency-key"].clone());
///     Err::<(), _>("connection reset")
/// }));
/// assert!(call.is_err());
/// let sent = sent.into_inner().unwrap();
/// assert!(sent.len() == 3 && sent.iter().all(|value| *value == sent[0]));
/// # Ok::<(), backstop::ConfigError>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Key([u8; 36]);

impl Key {
    /// Returns a new key.
    #[expect(
        clippy::new_without_default,
        reason = "two defaults would not be equal"
    )]
    pub fn new() -> Self {
        let [high, low] = identifier();
        let mut bits = u128::from(high) << 64 | u128::from(low);
        // The version, 4, and the variant, binary 10.
        bits = bits & !(0xF << 76) | 0x4 << 76;
        bits = bits & !(0b11 << 62) | 0b10 << 62;
        let mut text = [b'-'; 36];
        let mut digits = (0..32)
            .rev()
            .map(|at| b"0123456789abcdef"[(bits >> (4 * at)) as usize & 0xF]);
        for (at, byte) in text.iter_mut().enumerate() {
            if !matches!(at, 8 | 13 | 18 | 23) {
                *byte = digits.next().unwrap_or(b'0');
            }
        }
        Self(text)
    }

    /// Returns the key as text, such as `8e03978e-40d5-43e8-bc93-6894a57f9324`.
    pub fn as_str(&self) -> &str {
        str::from_utf8(&self.0).unwrap_or_default()
    }

    /// Writes `Idempotency-Key`, unless the request has one already. Replaces an empty field.
    pub fn write(&self, headers: &mut HeaderMap) {
        if has_key(headers) {
            return;
        }
        if let Ok(value) = HeaderValue::from_bytes(&self.0) {
            headers.insert(IDEMPOTENCY_KEY, value);
        }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({self})")
    }
}

/// Returns whether a request has a key. An empty field is none: no server would recognize a second attempt by it.
pub(super) fn has_key(headers: &HeaderMap) -> bool {
    let mut values = headers.get_all(IDEMPOTENCY_KEY).iter();
    values.any(|value| !value.as_bytes().trim_ascii().is_empty())
}

/// Adds a [`Key`] to a request whose method is not idempotent, unless it has one already. Call it once per call,
/// before the request is copied.
pub fn ensure(method: &Method, headers: &mut HeaderMap) {
    if !method.is_idempotent() {
        Key::new().write(headers);
    }
}
