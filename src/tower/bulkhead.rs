//! A bulkhead that holds permits until the end of the response.

use std::fmt;
use std::future::{Future, poll_fn};
use std::mem;
use std::pin::{Pin, pin};
use std::task::{Context as TaskContext, Poll, ready};
use std::time::SystemTime;

use ::http::Response;
use ::http::header::CONTENT_LENGTH;
use bytes::Buf;
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use tower_layer::Layer;
use tower_service::Service;

use super::layer::{ServiceFuture, context, take_ready};
use super::requests::{Once, Requests, WithOptions};
use crate::bulkhead::{Bulkhead, OwnedPermit};
use crate::error::Error;
use crate::event::Panics;
use crate::http::Idempotence;
use crate::policy::{CallOptions, Describe};
use crate::verdict::Verdict;

/// The end of a call, as a bulkhead sees it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Hold {
    /// The response's head has arrived.
    Headers,
    /// The response's body has ended, failed, or been dropped.
    #[default]
    Body,
}

/// Limits the requests in flight, from their start to the end of their response bodies.
///
/// A [`PolicyLayer`](super::PolicyLayer) with a bulkhead releases the permit when the response's head has arrived,
/// while the server may send the body for minutes. This layer holds the permit until the body ends, or until the
/// connection is dropped in mid-body.
///
/// An adaptive limit learns from the time to the end of the body, and from the status. A request that is dropped, and
/// the body of a 2xx that is dropped between its first poll and its end, are overload unless
/// [`cancel_is_overload`](crate::bulkhead::BulkheadBuilder::cancel_is_overload) is off. A body that is dropped without
/// a poll, as servers do with the answer to a `HEAD`, or once all bytes of its declared length were sent, ends when it
/// is dropped. The error is [`Error`]; a [`RespondLayer`](super::RespondLayer) outside converts rejections into
/// responses.
#[derive(Clone, Debug)]
pub struct BulkheadLayer<C = Once> {
    bulkhead: Bulkhead,
    hold: Hold,
    requests: C,
}

impl BulkheadLayer {
    /// Returns a layer that holds permits until the end of the body.
    pub const fn new(bulkhead: Bulkhead) -> Self {
        Self {
            bulkhead,
            hold: Hold::Body,
            requests: Once,
        }
    }

    /// Sets call options by request: the priority, the deadline of the wait, and the number of permits (`cost`).
    ///
    /// For HTTP: `.options(|r: &Request<_>| http::call_options(r.method(), r.headers()))`.
    pub fn options<R, F>(self, options: F) -> BulkheadLayer<WithOptions<Once, F>>
    where
        F: Fn(&R) -> CallOptions,
    {
        BulkheadLayer {
            bulkhead: self.bulkhead,
            hold: self.hold,
            requests: WithOptions {
                inner: Once,
                options,
            },
        }
    }
}

impl<C> BulkheadLayer<C> {
    /// Sets how long permits are held.
    #[must_use]
    pub fn hold(mut self, hold: Hold) -> Self {
        self.hold = hold;
        self
    }
}

impl<C: Clone, S> Layer<S> for BulkheadLayer<C> {
    type Service = BulkheadService<S, C>;

    fn layer(&self, inner: S) -> BulkheadService<S, C> {
        BulkheadService {
            layer: self.clone(),
            inner,
        }
    }
}

/// A service with a limit of requests in flight. Returned by [`BulkheadLayer`].
#[derive(Clone, Debug)]
pub struct BulkheadService<S, C = Once> {
    layer: BulkheadLayer<C>,
    inner: S,
}

impl<S, C, R, B> Service<R> for BulkheadService<S, C>
where
    C: Requests<R>,
    S: Service<R, Response = Response<B>> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Send,
    R: Send + 'static,
    B: Body + Send,
{
    type Response = Response<HeldBody<B>>;
    type Error = Error<S::Error>;
    type Future = ServiceFuture<Self::Response, Self::Error>;

    fn poll_ready(&mut self, task: &mut TaskContext<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(task).map_err(Error::Operation)
    }

    fn call(&mut self, request: R) -> Self::Future {
        let mut service = take_ready(&mut self.inner);
        let BulkheadLayer { bulkhead, hold, .. } = &self.layer;
        let (bulkhead, hold) = (bulkhead.clone(), *hold);
        let options = self.layer.requests.options(&request);
        Box::pin(async move {
            let cx = context(options, false, || bulkhead.clock());
            let mut waits = false;
            let mut acquire = pin!(bulkhead.into_permit(cx));
            let permit = poll_fn(|task| {
                let polled = acquire.as_mut().poll(task);
                if polled.is_pending() && !mem::replace(&mut waits, true) {
                    // A ready service may hold a permit of its own, which a request that waits would keep from others.
                    service = service.clone();
                }
                polled
            });
            let mut held = Held {
                permit: Some(permit.await?),
                verdict: None,
                ends_with_poll: false,
            };
            if waits {
                if let Err(error) = poll_fn(|task| service.poll_ready(task)).await {
                    held.end(&Verdict::transient().not_executed());
                    return Err(Error::Operation(error));
                }
            }
            let response = match service.call(request).await {
                Ok(response) => response,
                Err(error) => {
                    held.end(&Verdict::transient());
                    return Err(Error::Operation(error));
                }
            };
            let (status, headers) = (response.status(), response.headers());
            let verdict = Idempotence::Method.verdict(status, headers, SystemTime::now());
            let is_over = hold == Hold::Headers || response.body().is_end_stream();
            if is_over {
                held.end(&verdict);
            }
            // A client that only reads the status drops the body, and so does a server that answers a `HEAD`. Once it
            // has begun to read, dropping a 2xx is a cancellation.
            held.verdict = Some(verdict);
            held.ends_with_poll = status.is_success();
            let held = (!is_over).then_some((held, verdict));
            let left = declared_length(&response);
            Ok(response.map(|body| HeldBody { body, held, left }))
        })
    }
}

/// Returns the length of a body that its receiver knows.
fn declared_length<B: Body>(response: &Response<B>) -> Option<u64> {
    let text = response.headers().get(CONTENT_LENGTH);
    let length = text.and_then(|text| text.to_str().ok()?.parse().ok());
    length.or_else(|| response.body().size_hint().exact())
}

/// The permit of a request in flight.
struct Held {
    /// `None` once the request has ended.
    permit: Option<OwnedPermit>,
    /// The verdict if the request is dropped; without one it was cancelled while it ran.
    verdict: Option<Verdict>,
    /// Whether the verdict ends with the first poll of the body.
    ends_with_poll: bool,
}

impl Held {
    fn end(&mut self, verdict: &Verdict) {
        if let Some(permit) = self.permit.take() {
            permit.record(verdict);
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        // Ending a call may run a clock, an algorithm, and observers of users.
        let mut panics = Panics::default();
        panics.run(|| match (self.permit.take(), self.verdict) {
            (None, _) => {}
            (Some(permit), Some(verdict)) => permit.record(&verdict),
            (Some(permit), None) => permit.dropped(),
        });
        panics.resume();
    }
}

pin_project! {
    /// A body that holds a permit until it ends, fails, or is dropped.
    pub struct HeldBody<B> {
        #[pin]
        body: B,
        held: Option<(Held, Verdict)>,
        // Bytes of the declared length that were not returned yet.
        left: Option<u64>,
    }
}

impl<B: Body> Body for HeldBody<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        task: &mut TaskContext<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        let mut this = self.project();
        // A body of declared length zero has no bytes left to send.
        if *this.left != Some(0) {
            if let Some((held, _)) = this.held.as_mut().filter(|(held, _)| held.ends_with_poll) {
                held.verdict = None;
            }
        }
        let frame = ready!(this.body.as_mut().poll_frame(task));
        if let (Some(left), Some(Ok(frame))) = (&mut this.left, &frame) {
            let length = frame.data_ref().map_or(0, |data| data.remaining() as u64);
            *left = left.saturating_sub(length);
            // A server that has sent the declared length drops the body, without a poll to its end.
            if let (0, Some((held, verdict))) = (*left, &mut this.held) {
                held.verdict = Some(*verdict);
                held.ends_with_poll = false;
            }
        }
        let verdict_of_end = match &frame {
            // A body at its end, such as one that has returned its trailers, may not be polled again, so its permit is
            // released now.
            Some(Ok(next)) if !next.is_trailers() && !this.body.is_end_stream() => {
                return Poll::Ready(frame);
            }
            Some(Err(_)) => Some(Verdict::transient()),
            Some(Ok(_)) | None => None,
        };
        if let Some((mut held, verdict)) = this.held.take() {
            held.end(&verdict_of_end.unwrap_or(verdict));
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl<B: From<String>> From<String> for HeldBody<B> {
    fn from(text: String) -> Self {
        Self {
            body: B::from(text),
            held: None,
            left: None,
        }
    }
}

impl<B: fmt::Debug> fmt::Debug for HeldBody<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HeldBody")
            .field("body", &self.body)
            .field("is_held", &self.held.is_some())
            .finish()
    }
}
