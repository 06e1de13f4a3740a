use std::net::IpAddr;

use backstop::http::rate_limit;
use backstop::rate_limiter::Overflow;
use backstop::tower::{NoKey, RateLimitLayer, key};
use backstop::{CallOptions, KeyedRateLimiter, Quota};
use http::{HeaderName, Request, Response, StatusCode};
use tower_layer::Layer;

use crate::{Counting, from, ms, send, text};

fn limits(quota: Quota) -> KeyedRateLimiter<IpAddr> {
    KeyedRateLimiter::builder()
        .name("client")
        .quota(quota)
        .build()
        .unwrap()
}

#[tokio::test(start_paused = true)]
async fn responses_state_when_the_next_token_comes_not_when_the_limit_is_full() {
    let layer = RateLimitLayer::new(limits(Quota::per_minute(6)), key::peer_ip());
    let mut service = layer.layer(Counting::default());
    let mut seen = Vec::new();
    for pause in [0, 0, 4000, 60_000] {
        tokio::time::advance(ms(pause)).await;
        let response = send(&mut service, from("192.0.2.1")).await.unwrap();
        seen.push(text(response.headers(), "ratelimit").unwrap().to_owned());
    }
    let field = |left, seconds| format!("\"client\";r={left};t={seconds}");
    assert_eq!(
        seen,
        [field(5, 10), field(4, 10), field(3, 6), field(5, 10)]
    );
}

#[tokio::test(start_paused = true)]
async fn responses_state_the_limit_of_a_key_that_was_evicted_meanwhile() {
    let limits = limits(Quota::per_second(5));
    let evicted = limits.clone();
    let service = crate::scripted(move |_, _: Request<()>| {
        let evicted = evicted.clone();
        async move {
            tokio::time::sleep(ms(2000)).await;
            let key: IpAddr = [192, 0, 2, 1].into();
            assert!(evicted.forget(&key));
            Ok::<_, std::convert::Infallible>(Response::new(String::new()))
        }
    });
    let mut service = RateLimitLayer::new(limits, key::peer_ip()).layer(service);
    let response = send(&mut service, from("192.0.2.1")).await.unwrap();
    assert_eq!(
        text(response.headers(), "ratelimit"),
        Some("\"client\";r=5")
    );
    assert_eq!(
        text(response.headers(), "ratelimit-policy"),
        Some("\"client\";q=5;w=1")
    );
}

#[tokio::test(start_paused = true)]
async fn the_fields_of_an_evicted_key_evict_no_other_key() {
    let limits = KeyedRateLimiter::<IpAddr>::builder()
        .name("client")
        .quota(Quota::per_hour(2))
        .max_keys(1)
        .overflow(Overflow::Evict)
        .build()
        .unwrap();
    let (other, taken) = (IpAddr::from([192, 0, 2, 2]), limits.clone());
    let service = crate::scripted(move |_, _: Request<()>| {
        // The other key evicts this one.
        assert!(taken.try_acquire(&other).is_ok() && taken.try_acquire(&other).is_ok());
        std::future::ready(Ok::<_, std::convert::Infallible>(Response::new(
            String::new(),
        )))
    });
    let mut service = RateLimitLayer::new(limits.clone(), key::peer_ip()).layer(service);
    let response = send(&mut service, from("192.0.2.1")).await.unwrap();
    assert_eq!(
        text(response.headers(), "ratelimit"),
        Some("\"client\";r=2")
    );
    let left = limits.peek(&other).map(|decision| decision.remaining);
    assert_eq!(left, Some(0), "the other key was evicted");
}

#[tokio::test(start_paused = true)]
async fn keys_without_room_state_the_shared_limit_or_none() {
    for (overflow, has_fields) in [(Overflow::Shared, true), (Overflow::Reject, false)] {
        let limits = KeyedRateLimiter::<IpAddr>::builder()
            .quota(Quota::per_second(500))
            .max_keys(1)
            .overflow(overflow)
            .build()
            .unwrap();
        let mut service =
            RateLimitLayer::new(limits.clone(), key::peer_ip()).layer(Counting::default());
        let (mut without, mut rejected) = (0, 0);
        for last in 0..200 {
            let request = from(&format!("192.0.2.{last}"));
            let response = send(&mut service, request).await.unwrap();
            without += u32::from(text(response.headers(), "ratelimit").is_none());
            rejected += u64::from(response.status() == StatusCode::TOO_MANY_REQUESTS);
        }
        assert_eq!(without == 0, has_fields, "{overflow:?}: {without} without");
        // Reading the fields counts no rejection.
        let snapshot = limits.snapshot();
        assert_eq!(snapshot.rejected, rejected, "{overflow:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn responses_state_what_is_left_and_rejections_when_to_retry() {
    let layer = RateLimitLayer::new(limits(Quota::per_second(2)), key::peer_ip());
    let mut service = layer.layer(Counting::default());
    let first = send(&mut service, from("192.0.2.1")).await.unwrap();
    assert_eq!(
        (first.status(), first.body().as_str()),
        (StatusCode::OK, "1")
    );
    assert_eq!(
        text(first.headers(), "ratelimit-policy"),
        Some("\"client\";q=2;w=1")
    );
    assert_eq!(
        text(first.headers(), "ratelimit"),
        Some("\"client\";r=1;t=1")
    );
    send(&mut service, from("192.0.2.1")).await.unwrap();
    let rejected = send(&mut service, from("192.0.2.1")).await.unwrap();
    assert_eq!(rejected.status(), StatusCode::TOO_MANY_REQUESTS);
    // 500 ms, rounded up.
    assert_eq!(text(rejected.headers(), "retry-after"), Some("1"));
    assert_eq!(
        text(rejected.headers(), "ratelimit"),
        Some("\"client\";r=0;t=1")
    );
    assert_eq!(rejected.body(), "rate limited\n");
    assert_eq!(
        send(&mut service, from("192.0.2.2"))
            .await
            .unwrap()
            .status(),
        StatusCode::OK
    );
    // A client that obeys is admitted.
    tokio::time::advance(ms(1000)).await;
    assert_eq!(
        send(&mut service, from("192.0.2.1"))
            .await
            .unwrap()
            .status(),
        StatusCode::OK
    );
}

#[tokio::test(start_paused = true)]
async fn a_thousand_layers_share_the_limits() {
    let layer = RateLimitLayer::new(limits(Quota::per_second(100)), key::peer_ip());
    let mut admitted = 0;
    for _ in 0..1000 {
        let response = send(&mut layer.layer(Counting::default()), from("192.0.2.1"))
            .await
            .unwrap();
        admitted += u32::from(response.status() == StatusCode::OK);
    }
    assert_eq!(admitted, 100);
}

#[tokio::test(start_paused = true)]
async fn requests_without_a_key_are_answered_as_configured() {
    let layer = RateLimitLayer::new(limits(Quota::per_second(1)), key::peer_ip());
    let answer = async |no_key: NoKey<IpAddr>| {
        let mut service = layer.clone().no_key(no_key).layer(Counting::default());
        let mut statuses = Vec::new();
        for _ in 0..3 {
            statuses.push(
                send(&mut service, Request::new(()))
                    .await
                    .unwrap()
                    .status()
                    .as_u16(),
            );
        }
        statuses
    };
    assert_eq!(answer(NoKey::Reject).await, [400, 400, 400]);
    assert_eq!(answer(NoKey::Admit).await, [200, 200, 200]);
    assert_eq!(
        answer(NoKey::Share([0, 0, 0, 0].into())).await,
        [200, 429, 429]
    );
}

#[tokio::test(start_paused = true)]
async fn the_limiters_own_settings_hold() {
    let waits = KeyedRateLimiter::<IpAddr>::builder()
        .quota(Quota::per_second(1))
        .max_wait(ms(1500))
        .build()
        .unwrap();
    let mut service = RateLimitLayer::new(waits, key::peer_ip()).layer(Counting::default());
    let start = tokio::time::Instant::now();
    for status in [200, 200] {
        assert_eq!(
            send(&mut service, from("192.0.2.1"))
                .await
                .unwrap()
                .status(),
            status
        );
    }
    assert_eq!(start.elapsed(), ms(1000));
    let shadow = KeyedRateLimiter::<IpAddr>::builder()
        .quota(Quota::per_second(1))
        .shadow(true)
        .build()
        .unwrap();
    let mut service =
        RateLimitLayer::new(shadow.clone(), key::peer_ip()).layer(Counting::default());
    for status in [200, 200, 200] {
        assert_eq!(
            send(&mut service, from("192.0.2.1"))
                .await
                .unwrap()
                .status(),
            status
        );
    }
    assert_eq!(shadow.snapshot().would_reject, 2);
}

#[tokio::test(start_paused = true)]
async fn a_function_answers_instead_and_the_fields_are_added() {
    let layer =
        RateLimitLayer::new(limits(Quota::per_second(1)), key::peer_ip()).respond_with(|error| {
            let body = format!("custom: {}", error.reason().unwrap().as_str());
            Response::builder().status(418).body(body).unwrap()
        });
    let mut service = layer.layer(Counting::default());
    send(&mut service, from("192.0.2.1")).await.unwrap();
    let rejected = send(&mut service, from("192.0.2.1")).await.unwrap();
    assert_eq!(
        (rejected.status().as_u16(), rejected.body().as_str()),
        (418, "custom: rate_limited")
    );
    assert!(rejected.headers().contains_key("ratelimit"));
    let problem = RateLimitLayer::new(limits(Quota::per_second(1)), key::peer_ip()).problem_json();
    let mut service = problem.layer(Counting::default());
    send(&mut service, from("192.0.2.1")).await.unwrap();
    let rejected = send(&mut service, from("192.0.2.1")).await.unwrap();
    assert_eq!(
        text(rejected.headers(), "content-type"),
        Some("application/problem+json")
    );
    assert_eq!(
        rejected.body(),
        r#"{"type":"https://iana.org/assignments/http-problem-types#quota-exceeded","title":"rate limited","status":429}"#
    );
}

#[tokio::test(start_paused = true)]
async fn string_keys_are_limited_too() {
    let limits = KeyedRateLimiter::<String>::new(Quota::per_second(1)).unwrap();
    let tenant = key::header(HeaderName::from_static("x-tenant"));
    let mut service = RateLimitLayer::new(limits, tenant).layer(Counting::default());
    let get = |tenant: &str| {
        Request::builder()
            .header("x-tenant", tenant)
            .body(())
            .unwrap()
    };
    let mut statuses = Vec::new();
    for tenant in ["a", "a", "b"] {
        statuses.push(
            send(&mut service, get(tenant))
                .await
                .unwrap()
                .status()
                .as_u16(),
        );
    }
    assert_eq!(statuses, [200, 429, 200]);
}

#[tokio::test(start_paused = true)]
async fn a_request_says_how_many_tokens_it_takes() {
    let cost = |request: &Request<()>| match request.method() {
        &http::Method::POST => CallOptions::new().cost(4),
        _ => CallOptions::new(),
    };
    let layer = RateLimitLayer::new(limits(Quota::per_second(5)), key::peer_ip()).options(cost);
    let mut service = layer.layer(Counting::default());
    let mut left = async |method| {
        let mut request = from("192.0.2.1");
        *request.method_mut() = method;
        let response = send(&mut service, request).await.unwrap();
        let left = rate_limit::read(response.headers())[0].remaining;
        (response.status().as_u16(), left)
    };
    assert_eq!(left(http::Method::GET).await, (200, 4));
    assert_eq!(left(http::Method::POST).await, (200, 0));
    assert_eq!(left(http::Method::POST).await, (429, 0));
}
