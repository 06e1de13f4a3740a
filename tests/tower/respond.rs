use std::convert::Infallible;
use std::future::{Ready, poll_fn, ready};
use std::task::{Context as TaskContext, Poll};

use backstop::policy::{Guard, Guarded};
use backstop::tower::{PolicyLayer, RespondLayer};
use backstop::{
    Context, Error, Outcome, PolicyError, Quota, RateLimiter, Reason, Rejected, Timeout,
};
use http::{Request, Response, StatusCode};
use tower_layer::Layer;
use tower_service::Service;

use crate::{Counting, ms, scripted, send, text};

/// Rejects all calls.
struct Rejects(Rejected);

impl Guard for Rejects {
    type Permit = ();

    fn enter(&self, _: &mut Context) -> Result<(), Rejected> {
        Err(self.0)
    }

    fn exit<T, E>(&self, (): (), _: &mut Outcome<T, E>) {}
}

async fn answer(layer: &RespondLayer, rejected: Rejected) -> (u16, Option<String>, String) {
    let policy = PolicyLayer::new(Guarded(Rejects(rejected)));
    let mut service = layer.layer(policy.layer(Counting::default()));
    let response = send(&mut service, Request::new(())).await.unwrap();
    let after = text(response.headers(), "retry-after").map(str::to_owned);
    (response.status().as_u16(), after, response.into_body())
}

#[tokio::test]
async fn rejections_have_the_answers_of_the_table() {
    let layer = RespondLayer::new();
    let own = ms(2500);
    for (reason, status, without, with, body) in [
        (
            Reason::RateLimited,
            429,
            Some("1"),
            Some("3"),
            "rate limited\n",
        ),
        (
            Reason::CostExceedsLimit,
            429,
            None,
            None,
            "cost exceeds limit\n",
        ),
        (
            Reason::CircuitOpen,
            503,
            Some("1"),
            Some("3"),
            "circuit open\n",
        ),
        (Reason::BulkheadFull, 503, Some("1"), Some("3"), "busy\n"),
        (Reason::QueueTimeout, 503, Some("1"), Some("3"), "busy\n"),
        (Reason::Shed, 503, Some("1"), Some("3"), "overloaded\n"),
        (Reason::Throttled, 503, Some("1"), Some("3"), "overloaded\n"),
        (
            Reason::NoEndpoint,
            503,
            Some("1"),
            Some("3"),
            "unavailable\n",
        ),
        (Reason::Custom, 503, Some("1"), Some("3"), "unavailable\n"),
        (
            Reason::DeadlineTooClose,
            504,
            None,
            None,
            "deadline too close\n",
        ),
        (Reason::Isolated, 503, None, None, "unavailable\n"),
        (Reason::NotRepeatable, 503, None, None, "unavailable\n"),
    ] {
        let rejected = Rejected::new("secret name", reason);
        for (rejected, after) in [(rejected, without), (rejected.with_retry_after(own), with)] {
            let expected = (status, after.map(str::to_owned), body.to_owned());
            assert_eq!(answer(&layer, rejected).await, expected, "{reason:?}");
        }
    }
    let problem = answer(
        &RespondLayer::new().problem_json(),
        Rejected::new("x", Reason::Shed),
    )
    .await;
    let kind = "https://iana.org/assignments/http-problem-types#temporary-reduced-capacity";
    assert_eq!(
        problem.2,
        format!("{{\"type\":\"{kind}\",\"title\":\"overloaded\",\"status\":503}}")
    );
}

#[tokio::test(start_paused = true)]
async fn timeouts_are_504_or_as_configured() {
    let slow = scripted(|_, _: Request<()>| async {
        tokio::time::sleep(ms(1000)).await;
        Ok::<_, ()>(Response::new(String::new()))
    });
    let policy = PolicyLayer::new(Timeout::after(ms(100)));
    let unavailable = StatusCode::SERVICE_UNAVAILABLE;
    for (layer, status) in [
        (RespondLayer::new(), StatusCode::GATEWAY_TIMEOUT),
        (RespondLayer::new().timeout_status(unavailable), unavailable),
    ] {
        let mut service = layer.layer(policy.layer(slow.clone()));
        assert_eq!(
            send(&mut service, Request::new(())).await.unwrap().status(),
            status
        );
    }
    // In one line, as a tuple of layers.
    let mut service = policy.respond().layer(slow);
    let response = send(&mut service, Request::new(())).await.unwrap();
    assert_eq!(
        (response.status().as_u16(), response.body().as_str()),
        (504, "timed out\n")
    );
}

#[tokio::test(start_paused = true)]
async fn the_services_own_error_stays_as_it_is() {
    let broken = scripted(|_, _: Request<()>| async { Err::<Response<String>, _>("broken") });
    let mut service = PolicyLayer::new(Timeout::after(ms(100)))
        .respond()
        .layer(broken);
    assert_eq!(
        send(&mut service, Request::new(())).await.unwrap_err(),
        "broken"
    );
}

#[tokio::test(start_paused = true)]
async fn the_state_of_a_limiter_is_on_all_responses() {
    let limiter = RateLimiter::builder()
        .name("api")
        .quota(Quota::per_minute(2))
        .build()
        .unwrap();
    let layer = RespondLayer::new().rate_limit(&limiter);
    let mut service = layer.layer(PolicyLayer::new(limiter).layer(Counting::default()));
    let mut seen = Vec::new();
    for _ in 0..3 {
        let response = send(&mut service, Request::new(())).await.unwrap();
        let (status, headers) = (response.status().as_u16(), response.headers());
        let fields = (
            text(headers, "ratelimit").unwrap().to_owned(),
            text(headers, "retry-after").map(str::to_owned),
        );
        seen.push((status, fields.0, fields.1));
    }
    assert_eq!(
        seen,
        [
            (200, "\"api\";r=1;t=30".to_owned(), None),
            (200, "\"api\";r=0;t=30".to_owned(), None),
            (429, "\"api\";r=0;t=30".to_owned(), Some("30".to_owned())),
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn a_function_replaces_the_answers() {
    let layer = RespondLayer::new().respond_with(|error: &PolicyError| {
        Response::builder()
            .status(418)
            .body(error.to_string())
            .unwrap()
    });
    let policy = PolicyLayer::new(Guarded(Rejects(Rejected::new("mine", Reason::Shed))));
    let mut service = layer.layer(policy.layer(Counting::default()));
    let response = send(&mut service, Request::new(())).await.unwrap();
    assert_eq!(
        (response.status().as_u16(), response.body().as_str()),
        (418, "rejected by mine: load shed")
    );
}

/// A service whose policy rejects in `poll_ready`.
#[derive(Clone)]
struct RejectsEarly;

impl tower_service::Service<Request<()>> for RejectsEarly {
    type Response = Response<String>;
    type Error = backstop::Error<()>;
    type Future = std::future::Ready<Result<Response<String>, backstop::Error<()>>>;

    fn poll_ready(
        &mut self,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Result<(), Self::Error>> {
        std::task::Poll::Ready(Err(Rejected::new("x", Reason::Shed).into()))
    }

    fn call(&mut self, _: Request<()>) -> Self::Future {
        unreachable!("it is not ready")
    }
}

#[tokio::test]
async fn a_rejection_by_poll_ready_is_answered_by_the_next_call() {
    let mut service = RespondLayer::new().layer(RejectsEarly);
    assert_eq!(
        send(&mut service, Request::new(())).await.unwrap().status(),
        503
    );
}

/// Rejects when it is first asked whether it is ready.
struct RejectsFirst(u32);

impl Service<Request<()>> for RejectsFirst {
    type Response = Response<String>;
    type Error = Error<Infallible>;
    type Future = Ready<Result<Response<String>, Error<Infallible>>>;

    fn poll_ready(&mut self, _: &mut TaskContext<'_>) -> Poll<Result<(), Self::Error>> {
        self.0 += 1;
        Poll::Ready(match self.0 {
            1 => Err(Rejected::new("x", Reason::CircuitOpen).into()),
            _ => Ok(()),
        })
    }

    fn call(&mut self, _: Request<()>) -> Self::Future {
        ready(Ok(Response::new("served".into())))
    }
}

#[tokio::test]
async fn a_service_that_became_ready_after_a_rejection_serves_the_call() {
    let mut service = RespondLayer::new().layer(RejectsFirst(0));
    poll_fn(|task| service.poll_ready(task)).await.unwrap();
    // `send` asks again.
    let response = send(&mut service, Request::new(())).await.unwrap();
    assert_eq!(
        (response.status().as_u16(), response.body().as_str()),
        (200, "served")
    );
}
