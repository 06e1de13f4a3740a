//! A policy that gives responses their verdicts.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context as TaskContext, Poll, ready};
use std::time::SystemTime;

use ::http::{HeaderMap, Response, StatusCode};
use pin_project_lite::pin_project;

use super::verdict::of_response;
use crate::blocking;
use crate::policy::{AtMostOnce, Context, Describe, LayerKind, Operation, Outcome, Policy, Run};
use crate::verdict::Verdict;

/// Assigns verdicts to responses by status and headers, for all layers outside it in the stack; the [module
/// page](super) has the table. Errors keep their verdicts.
///
/// The type names neither response nor error, so it fits in a struct field and in spawned tasks. The classifier does
/// not see the request: whether it may be sent again is an option of the call
/// ([`call_options`](super::call_options)), which the retry obeys.
///
/// # Example
///
/// ```
/// use backstop::http::ClassifyResponses;
/// use backstop::{ManualClock, Policy, Retry};
/// use http::Response;
///
/// let clock = ManualClock::new();
/// let stack = (Retry::builder().clock(clock.clone()).build()?, ClassifyResponses::new());
/// let report = clock.block_on(stack.call_reported(|| async {
///     Ok::<_, ()>(Response::builder().status(502).body(()).unwrap())
/// }));
/// // Three attempts; the last response comes back.
/// assert_eq!((report.attempts, report.result.unwrap().status().as_u16()), (3, 502));
/// # Ok::<(), backstop::ConfigError>(())
/// ```
#[derive(Clone, Copy)]
pub struct ClassifyResponses<H = OfResponse> {
    heads: H,
    rule: Option<Rule>,
}

/// A user's rule: returns a verdict, or `None` to apply the table.
type Rule = fn(StatusCode, &HeaderMap) -> Option<Verdict>;

impl ClassifyResponses {
    /// Returns a classifier for [`http::Response`](Response).
    pub const fn new() -> Self {
        Self {
            heads: OfResponse,
            rule: None,
        }
    }
}

impl Default for ClassifyResponses {
    fn default() -> Self {
        Self::new()
    }
}

impl<F> ClassifyResponses<ByHead<F>> {
    /// Returns a classifier for responses of another type, such as reqwest's:
    /// `ClassifyResponses::by(|r: &reqwest::Response| (r.status(), r.headers()))`. [`HeadOf`] names its type.
    pub const fn by<T>(head: F) -> Self
    where
        F: for<'r> Fn(&'r T) -> (StatusCode, &'r HeaderMap),
    {
        Self {
            heads: ByHead(head),
            rule: None,
        }
    }
}

impl<H> ClassifyResponses<H> {
    /// Applies `rule` first. If it returns `None`, the table applies.
    ///
    /// ```
    /// use backstop::Verdict;
    /// use backstop::http::ClassifyResponses;
    ///
    /// let stripe = ClassifyResponses::new().rule(|_, headers| {
    ///     match headers.get("stripe-should-retry")?.to_str() {
    ///         Ok("true") => Some(Verdict::transient()),
    ///         _ => Some(Verdict::permanent()),
    ///     }
    /// });
    /// # let _ = stripe;
    /// ```
    #[must_use]
    pub fn rule(mut self, rule: fn(StatusCode, &HeaderMap) -> Option<Verdict>) -> Self {
        self.rule = Some(rule);
        self
    }
}

/// Extracts status and headers from a response.
///
/// A response of another type than [`http::Response`](Response) needs [`ClassifyResponses::by`]:
///
/// ```compile_fail
/// use backstop::Policy;
/// use backstop::http::ClassifyResponses;
/// struct OtherResponse;
/// // error[E0277]: `OfResponse` finds no status and headers in a `OtherResponse`
/// let call = ClassifyResponses::new().call(|| async { Ok::<_, ()>(OtherResponse) });
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` finds no status and headers in a `{T}`",
    label = "for responses of another type than `http::Response`, use `ClassifyResponses::by`",
    note = "for reqwest: `ClassifyResponses::by(|r: &reqwest::Response| (r.status(), r.headers()))`"
)]
pub trait Heads<T> {
    /// Returns the status and the headers.
    fn head<'r>(&self, response: &'r T) -> (StatusCode, &'r HeaderMap);
}

/// Extracts the head of an [`http::Response`](Response).
#[derive(Clone, Copy, Debug)]
pub struct OfResponse;

impl<B> Heads<Response<B>> for OfResponse {
    fn head<'r>(&self, response: &'r Response<B>) -> (StatusCode, &'r HeaderMap) {
        (response.status(), response.headers())
    }
}

/// Extracts the head with a function. Returned by [`ClassifyResponses::by`].
#[derive(Clone, Copy)]
pub struct ByHead<F>(F);

/// A function that extracts the head of a `T`: the type of a [`ClassifyResponses`] in a struct field.
///
/// ```
/// use backstop::Retry;
/// use backstop::http::{ClassifyResponses, HeadOf};
/// use http::{HeaderMap, StatusCode};
/// # mod reqwest { pub struct Response { pub status: http::StatusCode, pub headers: http::HeaderMap } }
///
/// struct Client {
///     stack: (Retry, ClassifyResponses<HeadOf<reqwest::Response>>),
/// }
///
/// fn head(response: &reqwest::Response) -> (StatusCode, &HeaderMap) {
///     (response.status, &response.headers) // in reqwest, methods
/// }
///
/// # fn main() -> Result<(), backstop::ConfigError> {
/// # let clock = backstop::ManualClock::new();
/// let retry = Retry::builder();
/// # let retry = retry.clock(clock.clone());
/// let client = Client { stack: (retry.build()?, ClassifyResponses::by(head as _)) };
/// # use backstop::Policy;
/// # let busy = || async {
/// #     Ok::<_, ()>(reqwest::Response { status: StatusCode::BAD_GATEWAY, headers: HeaderMap::new() })
/// # };
/// # assert_eq!(clock.block_on(client.stack.call_reported(busy)).attempts, 3);
/// # Ok(())
/// # }
/// ```
pub type HeadOf<T> = ByHead<for<'r> fn(&'r T) -> (StatusCode, &'r HeaderMap)>;

impl<T, F> Heads<T> for ByHead<F>
where
    F: for<'r> Fn(&'r T) -> (StatusCode, &'r HeaderMap),
{
    fn head<'r>(&self, response: &'r T) -> (StatusCode, &'r HeaderMap) {
        blocking::outside(|| (self.0)(response))
    }
}

impl<F> fmt::Debug for ByHead<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ByHead").finish_non_exhaustive()
    }
}

impl<H> fmt::Debug for ClassifyResponses<H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClassifyResponses").finish_non_exhaustive()
    }
}

impl<H> Policy for ClassifyResponses<H> {}

impl<H> AtMostOnce for ClassifyResponses<H> {}

crate::keyed::stateless!(ClassifyResponses<H>);

impl<H> Describe for ClassifyResponses<H> {
    fn describe(&self, layers: &mut Vec<LayerKind>) {
        layers.push(LayerKind::Classify);
    }
}

impl<'a, H, Op> Run<Op> for &'a ClassifyResponses<H>
where
    H: Heads<Op::Value>,
    Op: Operation,
{
    type Future = ClassifyingResponses<'a, H, Op>;

    fn run(self, op: Op, cx: Context) -> Self::Future {
        ClassifyingResponses {
            attempt: op.attempt(cx),
            classifier: self,
        }
    }
}

pin_project! {
    /// A run of a [`ClassifyResponses`].
    #[must_use = "futures do nothing unless you `.await` or poll them"]
    pub struct ClassifyingResponses<'a, H, Op: Operation> {
        #[pin]
        attempt: Op::Attempt,
        classifier: &'a ClassifyResponses<H>,
    }
}

impl<H, Op> Future for ClassifyingResponses<'_, H, Op>
where
    H: Heads<Op::Value>,
    Op: Operation,
{
    type Output = Outcome<Op::Value, Op::Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let mut outcome = ready!(this.attempt.poll(cx));
        if let Ok(response) = &outcome.result {
            let (status, headers) = this.classifier.heads.head(response);
            let by_rule = this
                .classifier
                .rule
                .and_then(|rule| blocking::outside(|| rule(status, headers)));
            outcome.verdict = match by_rule {
                Some(verdict) => verdict,
                // Reads the wall clock only for failures: only their headers may have dates.
                None if status.as_u16() < 400 => Verdict::success(),
                None => of_response(status, headers, SystemTime::now()),
            };
        }
        Poll::Ready(outcome)
    }
}

impl<H, Op: Operation> fmt::Debug for ClassifyingResponses<'_, H, Op> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClassifyingResponses")
            .finish_non_exhaustive()
    }
}
