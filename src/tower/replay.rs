//! Requests whose bodies can be sent again.

use ::http::Request;
use http_body::Body;

use super::requests::Requests;
use crate::http::{Replay, ReplayBody};

/// Keeps the bodies of requests while they are sent, up to a limit, so that they can be sent again. Returned by
/// [`PolicyLayer::replayable`](super::PolicyLayer::replayable).
///
/// A request with a longer body is sent once: the attempt that exceeds the limit continues, and no further one
/// starts. Headers and extensions are cloned.
#[derive(Clone, Copy, Debug)]
pub struct Replayable {
    limit: u64,
}

impl Replayable {
    /// Returns a maker of requests that keeps up to `limit` bytes of each body.
    pub const fn new(limit: u64) -> Self {
        Self { limit }
    }
}

/// A request kept for further attempts.
#[derive(Debug)]
pub struct Kept<B> {
    head: Request<()>,
    body: KeptBody<B>,
}

#[derive(Debug)]
enum KeptBody<B> {
    /// A request whose declared length exceeds the limit.
    Once(B),
    Many(Replay<B>),
}

impl<B: Body> Requests<Request<B>> for Replayable {
    type Request = Request<ReplayBody<B>>;
    type Kept = Kept<B>;

    fn keep(&self, request: Request<B>) -> Kept<B> {
        let (head, body) = request.into_parts();
        Kept {
            head: Request::from_parts(head, ()),
            body: match Replay::new(body, self.limit) {
                Ok(replay) => KeptBody::Many(replay),
                Err(body) => KeptBody::Once(body),
            },
        }
    }

    fn is_repeatable(&self, kept: &Kept<B>) -> bool {
        match &kept.body {
            KeptBody::Once(_) => false,
            KeptBody::Many(replay) => replay.is_replayable(),
        }
    }

    fn take(&self, kept: Kept<B>) -> (Option<Self::Request>, Option<Kept<B>>) {
        match kept.body {
            KeptBody::Once(body) => {
                let request = kept.head.map(|()| ReplayBody::once(body));
                (Some(request), None)
            }
            KeptBody::Many(replay) => {
                let request = replay.copy().map(|body| kept.head.clone().map(|()| body));
                let kept = Kept {
                    head: kept.head,
                    body: KeptBody::Many(replay),
                };
                (request, Some(kept))
            }
        }
    }
}
