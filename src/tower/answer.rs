//! Responses to rejections and timeouts.

use std::fmt::Write;
use std::time::Duration;

use ::http::header::{CONTENT_TYPE, HeaderValue};
use ::http::{Response, StatusCode};

use super::no_key::NO_KEY;
use crate::error::{Error, PolicyError, Reason, Rejected};
use crate::http::retry_after;

/// Converts an error of a policy into a response.
pub trait Answer<B> {
    /// Returns the response.
    fn answer(&self, error: &PolicyError) -> Response<B>;
}

/// The default responses to errors of policies.
///
/// | error | status | `Retry-After` |
/// |---|---|---|
/// | rate limited, cost exceeds the limit | 429 | the time until there is a token; none if there never is |
/// | deadline too close, timed out | 504 | none |
/// | request without a key | 400 | none |
/// | isolated, not repeatable | 503 | none |
/// | others, such as circuit open, bulkhead full, and load shed | 503 | as the policy says, or 1 s |
///
/// `Retry-After` is rounded up to whole seconds, and at least 1, so that a client that obeys is not too early. The
/// body is one line of text, or a problem ([`problem_json`](Self::problem_json)).
///
/// [`RespondLayer`](super::RespondLayer) gives them for errors of layers. A handler that calls a policy itself asks for one:
///
/// ```
/// use backstop::tower::{Answer, Answers};
/// use backstop::{Error, ManualClock, Policy, Quota, RateLimiter};
/// use http::{Response, StatusCode};
///
/// /// For axum, the response of a handler's error.
/// fn answer(error: Error<std::io::Error>) -> Response<String> {
///     error
///         .map(|own| Response::builder().status(502).body(own.to_string()).expect("a valid response"))
///         .unwrap_or_else(|of_policy| Answers::new().answer(&of_policy))
/// }
///
/// let clock = ManualClock::new();
/// let limiter = RateLimiter::builder().quota(Quota::per_minute(1)).clock(clock.clone()).build()?;
/// let lookup = || async { Err::<(), _>(std::io::Error::other("no such host")) };
///
/// let first = answer(clock.block_on(limiter.call(lookup)).unwrap_err());
/// assert_eq!((first.status(), &**first.body()), (StatusCode::BAD_GATEWAY, "no such host"));
/// let second = answer(clock.block_on(limiter.call(lookup)).unwrap_err());
/// assert_eq!((second.status(), &second.headers()["retry-after"]), (StatusCode::TOO_MANY_REQUESTS, &60.into()));
/// # Ok::<(), backstop::ConfigError>(())
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Answers {
    timeout_status: StatusCode,
    unknown_wait: Duration,
    is_problem: bool,
}

impl Answers {
    /// Returns the default responses.
    pub const fn new() -> Self {
        Self {
            timeout_status: StatusCode::GATEWAY_TIMEOUT,
            unknown_wait: Duration::from_secs(1),
            is_problem: false,
        }
    }

    /// Sets the status of timeouts. Default 504, as for a gateway; 503 suits a server that is not one.
    #[must_use]
    pub const fn timeout_status(mut self, status: StatusCode) -> Self {
        self.timeout_status = status;
        self
    }

    /// Makes bodies of the type `application/problem+json` (RFC 9457).
    #[must_use]
    pub const fn problem_json(mut self) -> Self {
        self.is_problem = true;
        self
    }

    fn status(&self, error: &PolicyError) -> StatusCode {
        match error {
            Error::TimedOut(_) => self.timeout_status,
            Error::Rejected(rejected) if rejected.policy() == NO_KEY => StatusCode::BAD_REQUEST,
            Error::Rejected(rejected) => match rejected.reason() {
                Reason::RateLimited | Reason::CostExceedsLimit => StatusCode::TOO_MANY_REQUESTS,
                Reason::DeadlineTooClose => StatusCode::GATEWAY_TIMEOUT,
                _ => StatusCode::SERVICE_UNAVAILABLE,
            },
            Error::Operation(never) => match *never {},
        }
    }

    fn wait(&self, rejected: &Rejected) -> Option<Duration> {
        match rejected.reason() {
            Reason::CostExceedsLimit
            | Reason::DeadlineTooClose
            | Reason::Isolated
            | Reason::NotRepeatable => None,
            _ if rejected.policy() == NO_KEY => None,
            _ => Some(rejected.retry_after().unwrap_or(self.unknown_wait)),
        }
    }
}

impl Default for Answers {
    fn default() -> Self {
        Self::new()
    }
}

impl<B: From<String>> Answer<B> for Answers {
    fn answer(&self, error: &PolicyError) -> Response<B> {
        let status = self.status(error);
        let mut body = String::new();
        let content_type = match self.is_problem {
            true => {
                // Writing to a `String` cannot fail.
                let _ = problem(&mut body, status, error);
                "application/problem+json"
            }
            false => {
                // The body omits the policy's name, which is internal to the server.
                let _ = writeln!(body, "{}", reason(error));
                "text/plain; charset=utf-8"
            }
        };
        let mut response = Response::new(B::from(body));
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
        if let Error::Rejected(rejected) = error {
            if let Some(wait) = self.wait(rejected) {
                retry_after::write(headers, wait);
            }
        }
        response
    }
}

/// Returns the reason as text for the body.
fn reason(error: &PolicyError) -> &'static str {
    match error {
        Error::TimedOut(_) => "timed out",
        Error::Rejected(rejected) if rejected.policy() == NO_KEY => "no key",
        Error::Rejected(rejected) => match rejected.reason() {
            Reason::CircuitOpen => "circuit open",
            Reason::RateLimited => "rate limited",
            Reason::BulkheadFull => "busy",
            Reason::QueueTimeout => "busy",
            Reason::Shed | Reason::Throttled => "overloaded",
            Reason::DeadlineTooClose => "deadline too close",
            Reason::CostExceedsLimit => "cost exceeds limit",
            _ => "unavailable",
        },
        Error::Operation(never) => match *never {},
    }
}

/// Writes a problem (RFC 9457), with the types of draft-ietf-httpapi-ratelimit-headers where it defines one.
fn problem(body: &mut String, status: StatusCode, error: &PolicyError) -> std::fmt::Result {
    const TYPES: &str = "https://iana.org/assignments/http-problem-types";
    body.push_str("{\"type\":\"");
    match (status, error.reason()) {
        (_, Some(Reason::RateLimited)) => write!(body, "{TYPES}#quota-exceeded")?,
        (StatusCode::SERVICE_UNAVAILABLE, _) => {
            write!(body, "{TYPES}#temporary-reduced-capacity")?;
        }
        _ => body.push_str("about:blank"),
    }
    write!(
        body,
        "\",\"title\":\"{}\",\"status\":{}}}",
        reason(error),
        status.as_u16()
    )
}

/// Answers errors with a function. Returned by a layer's `respond_with`.
#[derive(Clone, Copy)]
pub struct AnswerWith<F>(pub(super) F);

impl<B, F: Fn(&PolicyError) -> Response<B>> Answer<B> for AnswerWith<F> {
    fn answer(&self, error: &PolicyError) -> Response<B> {
        (self.0)(error)
    }
}

impl<F> std::fmt::Debug for AnswerWith<F> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AnswerWith").finish_non_exhaustive()
    }
}

/// Returns an error of a policy, or otherwise the operation's error.
pub(super) fn split<E>(error: Error<E>) -> Result<PolicyError, E> {
    match error {
        Error::Operation(error) => Err(error),
        Error::TimedOut(timed_out) => Ok(Error::TimedOut(timed_out)),
        Error::Rejected(rejected) => Ok(Error::Rejected(rejected)),
    }
}
