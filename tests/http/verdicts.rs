use std::cell::RefCell;
use std::time::Duration;

use backstop::circuit_breaker::Trip;
use backstop::http::idempotency::{self, Key};
use backstop::http::{self as rules, ClassifyResponses, Idempotence};
use backstop::{
    CallOptions, CircuitBreaker, Classified, Clock, Health, HintRule, Jitter, ManualClock,
    Pipeline, Policy, Retry, RetryAdvice, Verdict,
};
use http::{HeaderMap, Method, Response, StatusCode};

use crate::{headers, noon, seconds};

fn get(status: u16, fields: &[(&str, &str)]) -> Verdict {
    rules::verdict(
        &Method::GET,
        StatusCode::from_u16(status).unwrap(),
        &headers(fields),
        noon(),
    )
}

fn post(status: u16, fields: &[(&str, &str)]) -> Verdict {
    rules::verdict(
        &Method::POST,
        StatusCode::from_u16(status).unwrap(),
        &headers(fields),
        noon(),
    )
}

#[test]
fn statuses_have_the_verdicts_of_the_table() {
    for status in [200, 204, 301, 304] {
        assert_eq!(get(status, &[]), Verdict::success());
    }
    for status in [408, 500, 502, 503, 504, 507, 599] {
        assert_eq!(get(status, &[]), Verdict::transient(), "{status}");
        let post = post(status, &[]);
        assert_eq!(
            (post.health(), post.retry()),
            (Health::Unhealthy, RetryAdvice::No),
            "{status}"
        );
    }
    for status in [421, 425] {
        assert_eq!(get(status, &[]), Verdict::transient().not_executed());
        assert!(post(status, &[]).is_retryable(), "{status}");
    }
    for status in [400, 401, 403, 404, 405, 409, 410, 413, 422, 501, 505] {
        assert_eq!(get(status, &[]), Verdict::permanent(), "{status}");
    }
    let after = [("retry-after", "5")];
    assert_eq!(get(503, &after), Verdict::throttled(seconds(5)));
    assert_eq!(get(408, &after), Verdict::transient().after(seconds(5)));
    assert_eq!(get(425, &after).retry(), RetryAdvice::After(seconds(5)));
    // On other statuses, the field is not about this call: the backoff decides.
    for status in [421, 500, 502, 504, 507, 599, 401, 404, 501, 505, 301, 200] {
        assert_eq!(get(status, &after), get(status, &[]), "{status}");
    }
}

#[test]
fn a_429_is_about_this_caller_and_was_not_executed() {
    let neutral = |after: Option<Duration>| {
        Verdict::throttled(after)
            .with_health(Health::Neutral)
            .not_executed()
    };
    assert_eq!(get(429, &[]), neutral(None));
    assert_eq!(
        post(429, &[("retry-after", "5")]),
        neutral(Some(seconds(5)))
    );
    assert_eq!(
        post(429, &[("ratelimit", "\"a\";r=0;t=9")]),
        neutral(Some(seconds(9)))
    );
    assert_eq!(
        post(413, &[("retry-after", "5")]),
        neutral(Some(seconds(5)))
    );
    // GitHub: 403 with nothing left, or with a time.
    let github = [
        ("x-ratelimit-remaining", "0"),
        ("x-ratelimit-reset", "1795867230"),
    ];
    assert_eq!(get(403, &github), neutral(Some(seconds(30))));
    assert_eq!(
        get(403, &[("retry-after", "60")]),
        neutral(Some(seconds(60)))
    );
    assert_eq!(
        get(403, &[("x-ratelimit-remaining", "4")]),
        Verdict::permanent()
    );
    assert_eq!(get(503, &[("x-envoy-ratelimited", "true")]), neutral(None));
    let overloaded = post(503, &[("x-envoy-overloaded", "true")]);
    assert_eq!(overloaded, Verdict::throttled(None).not_executed());
}

#[test]
fn a_429_does_not_open_the_circuit_and_a_503_does() {
    let clock = ManualClock::new();
    let breaker = CircuitBreaker::builder()
        .trip_on(Trip::consecutive(3))
        .clock(clock.clone())
        .build()
        .unwrap();
    let stack = (&breaker, ClassifyResponses::new());
    let call = |status: u16| {
        let call = stack.call(|| async move {
            Ok::<_, ()>(Response::builder().status(status).body(()).unwrap())
        });
        clock.block_on(call).is_ok()
    };
    assert!((0..10).all(|_| call(429)));
    assert!((0..3).all(|_| call(503)));
    assert!(!call(200));
}

#[test]
fn idempotence_is_of_the_method_or_of_a_key() {
    let none = HeaderMap::new();
    for (method, is) in [
        (Method::GET, true),
        (Method::HEAD, true),
        (Method::OPTIONS, true),
        (Method::TRACE, true),
        (Method::PUT, true),
        (Method::DELETE, true),
        (Method::POST, false),
        (Method::PATCH, false),
        (Method::CONNECT, false),
        (Method::from_bytes(b"PURGE").unwrap(), false),
    ] {
        assert_eq!(
            Idempotence::of(&method, &none).is_idempotent(),
            is,
            "{method}"
        );
    }
    let key = headers(&[("idempotency-key", "k")]);
    let keyed = Idempotence::of(&Method::POST, &key);
    assert_eq!(
        keyed.verdict(StatusCode::BAD_GATEWAY, &none, noon()),
        Verdict::transient()
    );
    // 409: the first attempt is in progress. 422: the key was used for another payload. 400: it is missing.
    assert_eq!(
        keyed.verdict(StatusCode::CONFLICT, &none, noon()),
        Verdict::transient()
    );
    for status in [StatusCode::UNPROCESSABLE_ENTITY, StatusCode::BAD_REQUEST] {
        assert_eq!(keyed.verdict(status, &none, noon()), Verdict::permanent());
    }
}

/// Calls with the verdict of each failure. Returns the keys sent.
fn attempts(
    method: &Method,
    key: bool,
    verdict: fn(Idempotence) -> Verdict,
) -> Vec<Option<String>> {
    let clock = ManualClock::new();
    let retry = Retry::builder()
        .max_attempts(3)
        .clock(clock.clone())
        .build()
        .unwrap();
    let mut template = HeaderMap::new();
    if key {
        idempotency::ensure(method, &mut template);
    }
    let sent = RefCell::new(Vec::new());
    let call = retry.call_classified(|| async {
        let request = template.clone();
        let key = request
            .get("idempotency-key")
            .map(|key| key.to_str().unwrap().to_owned());
        sent.borrow_mut().push(key);
        Err::<(), _>(Classified::new(
            "broken",
            verdict(Idempotence::of(method, &request)),
        ))
    });
    assert!(clock.block_on(call).is_err());
    sent.into_inner()
}

#[test]
fn a_post_is_repeated_only_if_it_was_not_sent_or_has_a_key() {
    let (reset, refused) = (
        Idempotence::interrupted as fn(_) -> _,
        Idempotence::not_sent as fn(_) -> _,
    );
    assert_eq!(attempts(&Method::POST, false, reset).len(), 1);
    assert_eq!(attempts(&Method::POST, false, refused).len(), 3);
    assert_eq!(attempts(&Method::GET, false, reset).len(), 3);
    let keys = attempts(&Method::POST, true, reset);
    assert_eq!(keys.len(), 3);
    assert!(
        keys[0].is_some() && keys.iter().all(|key| *key == keys[0]),
        "{keys:?}"
    );
    // Not needed, so not sent.
    assert_eq!(attempts(&Method::PUT, true, reset), [None, None, None]);
}

#[test]
fn the_users_own_key_wins() {
    let mut map = headers(&[("idempotency-key", "mine")]);
    idempotency::ensure(&Method::POST, &mut map);
    Key::new().write(&mut map);
    assert_eq!(map["idempotency-key"], "mine");
}

#[test]
fn an_empty_field_is_no_key() {
    for empty in ["", " \t"] {
        let mut map = headers(&[("idempotency-key", empty)]);
        let sent = Idempotence::of(&Method::POST, &map);
        assert_eq!(sent, Idempotence::None, "{empty:?}");
        idempotency::ensure(&Method::POST, &mut map);
        assert_eq!(Idempotence::of(&Method::POST, &map), Idempotence::Key);
        assert_eq!(map.get_all("idempotency-key").iter().count(), 1);
    }
}

#[test]
fn a_key_after_an_empty_field_is_the_users_own() {
    let mut map = headers(&[("idempotency-key", ""), ("idempotency-key", "mine")]);
    assert_eq!(Idempotence::of(&Method::POST, &map), Idempotence::Key);
    idempotency::ensure(&Method::POST, &mut map);
    assert!(
        map.get_all("idempotency-key")
            .iter()
            .any(|key| key == "mine")
    );
}

#[test]
fn keys_are_random_uuids() {
    let keys: std::collections::HashSet<String> =
        (0..10_000).map(|_| Key::new().to_string()).collect();
    assert_eq!(keys.len(), 10_000);
    for key in keys {
        let parts: Vec<_> = key.split('-').map(str::len).collect();
        assert_eq!(parts, [8, 4, 4, 4, 12], "{key}");
        assert!(
            key.as_bytes()[14] == b'4' && b"89ab".contains(&key.as_bytes()[19]),
            "{key}"
        );
        assert!(
            key.chars()
                .all(|char| char == '-' || char.is_ascii_hexdigit()),
            "{key}"
        );
    }
}

#[test]
fn options_of_a_call_come_from_its_request() {
    let clock = ManualClock::new();
    let retry = Retry::builder().clock(clock.clone()).build().unwrap();
    let pipeline = Pipeline::new((retry, ClassifyResponses::new()));
    let attempts = |method: Method, fields: &[(&str, &str)]| {
        let policy = pipeline.with(rules::call_options(&method, &headers(fields)));
        let call = policy.call_reported(|| async {
            Ok::<_, ()>(Response::builder().status(500).body(()).unwrap())
        });
        clock.block_on(call).attempts
    };
    assert_eq!(attempts(Method::GET, &[]), 3);
    assert_eq!(attempts(Method::POST, &[]), 1);
    assert_eq!(attempts(Method::POST, &[("idempotency-key", "k")]), 3);
    let options: CallOptions =
        rules::call_options(&Method::GET, &headers(&[("grpc-timeout", "3S")]));
    assert!(
        format!("{options:?}").contains("deadline: Some(3s)"),
        "{options:?}"
    );
}

#[test]
fn io_errors_in_the_chain_say_whether_something_was_sent() {
    use std::io::{Error, ErrorKind};
    for (kind, executed) in [
        (ErrorKind::ConnectionRefused, false),
        (ErrorKind::AddrNotAvailable, false),
        (ErrorKind::HostUnreachable, true),
        (ErrorKind::NetworkUnreachable, true),
        (ErrorKind::ConnectionReset, true),
        (ErrorKind::UnexpectedEof, true),
    ] {
        let outer = backstop::Error::Operation(Error::from(kind));
        let verdict = rules::transport_error(&outer);
        assert!(verdict.is_retryable());
        assert_eq!(verdict.may_have_been_executed(), executed, "{kind:?}");
    }
    assert_eq!(
        rules::transport_error(&std::fmt::Error),
        Verdict::transient()
    );
}

#[test]
fn an_io_error_inside_an_io_error_is_found() {
    use std::io::{Error, ErrorKind};
    let refused = || Error::from(ErrorKind::ConnectionRefused);
    for outer in [
        Error::other(refused()),
        Error::new(ErrorKind::Interrupted, Error::other(refused())),
        Error::other(backstop::Error::Operation(refused())),
    ] {
        let verdict = rules::transport_error(&outer);
        assert!(!verdict.may_have_been_executed(), "{outer:?}");
    }
    let reset = Error::other(Error::from(ErrorKind::ConnectionReset));
    assert!(rules::transport_error(&reset).may_have_been_executed());
}

#[test]
fn a_retry_waits_as_told_and_jitter_comes_after() {
    let clock = ManualClock::new();
    let retry = Retry::builder()
        .max_attempts(2)
        .hint(HintRule::default())
        .backoff(backstop::Backoff::exponential(Duration::from_millis(100)).jitter(Jitter::Full))
        .clock(clock.clone())
        .build()
        .unwrap();
    let stack = (retry, ClassifyResponses::new());
    let start = clock.now();
    let report = clock.block_on(stack.call_reported(|| async {
        Ok::<_, ()>(
            Response::builder()
                .status(429)
                .header("retry-after", "7")
                .body(())
                .unwrap(),
        )
    }));
    let waited = clock.now().saturating_duration_since(start);
    assert_eq!(report.attempts, 2);
    assert!(waited >= seconds(7), "{waited:?}");
}

#[test]
fn a_rule_of_the_user_comes_first() {
    let stripe = ClassifyResponses::new().rule(|_, headers| {
        let retry = headers.get("stripe-should-retry")? == "true";
        Some(if retry {
            Verdict::transient()
        } else {
            Verdict::permanent()
        })
    });
    let clock = ManualClock::new();
    let stack = (
        Retry::builder().clock(clock.clone()).build().unwrap(),
        stripe,
    );
    let attempts = |status: u16, retry: Option<&'static str>| {
        let call = stack.call_reported(|| async move {
            let mut response = Response::builder().status(status);
            if let Some(retry) = retry {
                response = response.header("stripe-should-retry", retry);
            }
            Ok::<_, ()>(response.body(()).unwrap())
        });
        clock.block_on(call).attempts
    };
    assert_eq!(
        (attempts(409, Some("true")), attempts(500, Some("false"))),
        (3, 1)
    );
    assert_eq!((attempts(409, None), attempts(500, None)), (1, 3));
}

#[test]
fn responses_of_other_types_are_classified_by_their_heads() {
    struct Other(StatusCode, HeaderMap);
    let clock = ManualClock::new();
    let stack = (
        Retry::builder().clock(clock.clone()).build().unwrap(),
        ClassifyResponses::by(|other: &Other| (other.0, &other.1)),
    );
    let report =
        clock.block_on(stack.call_reported(|| async {
            Ok::<_, ()>(Other(StatusCode::BAD_GATEWAY, HeaderMap::new()))
        }));
    assert_eq!(report.attempts, 3);
}
