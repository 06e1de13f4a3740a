use std::time::Duration;

use backstop::http::{attempt, deadline};
use backstop::policy::Attempt;
use backstop::{Backoff, Jitter, ManualClock, Policy, Reason, Retry, Timeout};
use http::{HeaderMap, HeaderName};

use crate::{headers, seconds};

fn read(name: &str, value: &str) -> Option<Duration> {
    deadline::read(&headers(&[(name, value)]))
}

#[test]
fn grpc_timeouts_are_read() {
    for (text, timeout) in [
        ("1H", seconds(3600)),
        ("2M", seconds(120)),
        ("3S", seconds(3)),
        ("4m", Duration::from_millis(4)),
        ("5u", Duration::from_micros(5)),
        ("99999999n", Duration::from_nanos(99_999_999)),
        ("99999999H", seconds(99_999_999 * 3600)),
        ("0m", Duration::ZERO),
    ] {
        assert_eq!(read("grpc-timeout", text), Some(timeout), "{text}");
    }
    for text in [
        "",
        "S",
        "5",
        "100000000n",
        "-1S",
        "+1S",
        "1.5S",
        " 1S",
        "1 S",
        "1s",
        "1é",
    ] {
        assert_eq!(read("grpc-timeout", text), None, "{text}");
    }
}

#[test]
fn the_least_of_all_fields_holds() {
    assert_eq!(
        read("x-envoy-expected-rq-timeout-ms", "1500"),
        Some(Duration::from_millis(1500))
    );
    assert_eq!(read("x-request-timeout", "2"), Some(seconds(2)));
    assert_eq!(
        read("x-request-timeout", "250ms"),
        Some(Duration::from_millis(250))
    );
    assert_eq!(read("x-request-timeout", "soon"), None);
    let all = headers(&[
        ("grpc-timeout", "3S"),
        ("x-envoy-expected-rq-timeout-ms", "abc"),
        ("x-request-timeout", "2"),
        ("x-own", "1"),
    ]);
    assert_eq!(deadline::read(&all), Some(seconds(2)));
    let own = HeaderName::from_static("x-own");
    assert_eq!(deadline::read_with(&all, &own), Some(seconds(1)));
}

#[test]
fn the_least_of_a_repeated_field_holds() {
    for (name, values) in [
        ("grpc-timeout", ["3S", "100m"]),
        ("x-envoy-expected-rq-timeout-ms", ["100", "3000"]),
        ("x-request-timeout", ["3", "100ms"]),
        ("x-request-timeout", ["soon", "0.1"]),
    ] {
        let fields = values.map(|value| (name, value));
        let least = deadline::read(&headers(&fields));
        assert_eq!(least, Some(Duration::from_millis(100)), "{fields:?}");
    }
}

#[test]
fn seconds_of_a_request_timeout_may_have_a_fraction() {
    for (value, millis) in [("1.5", 1500), ("0.25", 250), (" 2.0 ", 2000), ("0.0", 0)] {
        let read = read("x-request-timeout", value);
        assert_eq!(read, Some(Duration::from_millis(millis)), "{value}");
    }
    // Like whole seconds, the most.
    let most = read("x-request-timeout", "99999999999999999999.5");
    assert!(most >= read("x-request-timeout", "99999999999999999999"));
    assert_eq!(most.map(|most| most.as_secs()), Some(u64::MAX));
    for value in [".5", "1.", "1.2.3", "-1.5", "+1.5", "1.5e3", "nan", "inf"] {
        assert_eq!(read("x-request-timeout", value), None, "{value}");
    }
}

#[test]
fn a_written_deadline_leaves_time_for_the_way() {
    let write = |left, kind: Option<&str>| {
        let mut map = HeaderMap::new();
        if let Some(kind) = kind {
            map.insert("content-type", kind.parse().unwrap());
        }
        deadline::write(&mut map, left);
        let value = map
            .remove("grpc-timeout")
            .or_else(|| map.remove("x-envoy-expected-rq-timeout-ms"));
        value.unwrap().to_str().unwrap().to_owned()
    };
    assert_eq!(write(seconds(1), None), "950");
    assert_eq!(write(Duration::from_millis(5), None), "4");
    assert_eq!(write(Duration::from_micros(999), None), "0");
    assert_eq!(write(Duration::MAX, None), "18446744073709551615");
    let grpc = Some("application/grpc+proto");
    assert_eq!(write(seconds(1), grpc), "950000u");
    assert_eq!(write(Duration::from_millis(10), grpc), "9000000n");
    assert_eq!(write(seconds(3600), grpc), "3420000m");
    assert_eq!(write(seconds(200_000 * 3600), grpc), "11400000M");
    assert_eq!(write(Duration::MAX, grpc), "99999999H");
    assert_eq!(write(Duration::ZERO, grpc), "0n");
}

#[test]
fn attempts_are_numbered() {
    let clock = ManualClock::new();
    let stack = (
        Timeout::builder()
            .after(seconds(10))
            .clock(clock.clone())
            .build()
            .unwrap(),
        Retry::builder()
            .max_attempts(3)
            .backoff(Backoff::fixed(seconds(1)).jitter(Jitter::None))
            .clock(clock.clone())
            .build()
            .unwrap(),
    );
    let sent = std::cell::RefCell::new(Vec::new());
    let call = stack.call_with(|number: Attempt| {
        let mut rest = HeaderMap::new();
        attempt::write(&mut rest, &number);
        let mut grpc = headers(&[("content-type", "application/grpc")]);
        attempt::write(&mut grpc, &number);
        sent.borrow_mut().push((rest, grpc));
        async { Err::<(), _>("down") }
    });
    assert!(clock.block_on(call).is_err());
    let sent = sent.into_inner();
    let numbers: Vec<_> = sent.iter().map(|(rest, _)| attempt::read(rest)).collect();
    assert_eq!(numbers, [Some(1), Some(2), Some(3)]);
    let before: Vec<_> = sent
        .iter()
        .map(|(_, grpc)| grpc.get("grpc-previous-rpc-attempts").cloned())
        .collect();
    assert_eq!(before, [None, Some(1.into()), Some(2.into())]);
    assert!(deadline::read(&sent[2].0).unwrap() < deadline::read(&sent[0].0).unwrap());
    assert!(sent[0].1.contains_key("grpc-timeout"));
    assert_eq!(
        attempt::read(&headers(&[("grpc-previous-rpc-attempts", "2")])),
        Some(3)
    );
    assert_eq!(
        attempt::read(&headers(&[("x-envoy-attempt-count", "0")])),
        None
    );
    assert_eq!(attempt::read(&HeaderMap::new()), None);
}

#[test]
fn a_forwarded_request_does_not_keep_the_attempt_number_of_its_caller() {
    let clock = ManualClock::new();
    let hour = Timeout::builder().after(seconds(3600)).clock(clock.clone());
    let hour = hour.build().unwrap();
    for content_type in ["application/grpc", "application/json"] {
        let sent = clock.block_on(hour.call_with(|number: Attempt| async move {
            let mut sent = headers(&[
                ("content-type", content_type),
                ("grpc-previous-rpc-attempts", "4"),
                ("x-envoy-attempt-count", "5"),
            ]);
            attempt::write(&mut sent, &number);
            Ok::<_, ()>(sent)
        }));
        let sent = sent.unwrap();
        assert_eq!(sent.get("grpc-previous-rpc-attempts"), None);
        assert_eq!(attempt::read(&sent), Some(1));
    }
}

/// Handles a request that arrives with these headers, and calls the next hop after 100 ms. Returns what each hop had.
async fn hop(
    clock: &ManualClock,
    inbound: &HeaderMap,
    depth: u32,
    seen: &std::sync::Mutex<Vec<Duration>>,
) -> u16 {
    let Some(left) = deadline::read(inbound) else {
        return 400;
    };
    let timeout = Timeout::builder()
        .after(left)
        .clock(clock.clone())
        .build()
        .unwrap();
    let stack = (
        timeout,
        deadline::at_least(Duration::from_millis(200), clock.clone()),
    );
    let result = stack
        .call_with(|attempt: Attempt| async move {
            seen.lock().unwrap().push(left);
            if depth == 0 {
                return Ok::<_, ()>(200);
            }
            clock.sleep_until_in(Duration::from_millis(250)).await;
            let mut outbound = HeaderMap::new();
            let used = left.saturating_sub(backstop::deadline::current_on(clock.clone()).unwrap());
            deadline::write(
                &mut outbound,
                attempt.remaining().unwrap().saturating_sub(used),
            );
            Ok(Box::pin(hop(clock, &outbound, depth - 1, seen)).await)
        })
        .await;
    match result {
        Ok(status) => status,
        Err(error) if error.reason() == Some(Reason::DeadlineTooClose) => 504,
        Err(_) => 500,
    }
}

trait SleepIn {
    fn sleep_until_in(&self, wait: Duration) -> backstop::Sleep;
}

impl SleepIn for ManualClock {
    fn sleep_until_in(&self, wait: Duration) -> backstop::Sleep {
        use backstop::Clock;
        self.sleep_until(self.now() + wait)
    }
}

#[test]
fn each_hop_of_a_chain_has_less_time_and_work_that_comes_too_late_is_not_begun() {
    let clock = ManualClock::new();
    let seen = std::sync::Mutex::new(Vec::new());
    let mut first = HeaderMap::new();
    deadline::write(&mut first, seconds(1));
    assert_eq!(clock.block_on(hop(&clock, &first, 2, &seen)), 200);
    let times = std::mem::take(&mut *seen.lock().unwrap());
    assert_eq!(times.len(), 3);
    assert!(times.windows(2).all(|pair| pair[1] < pair[0]), "{times:?}");
    assert!(
        times.iter().all(|left| *left >= Duration::from_millis(200)),
        "{times:?}"
    );
    // A fourth and a fifth hop would have less than their minimum: they answer at once.
    assert_eq!(clock.block_on(hop(&clock, &first, 4, &seen)), 504);
    assert_eq!(seen.lock().unwrap().len(), 3);
    let expired = headers(&[("grpc-timeout", "0m")]);
    seen.lock().unwrap().clear();
    assert_eq!(clock.block_on(hop(&clock, &expired, 0, &seen)), 504);
    assert!(seen.lock().unwrap().is_empty());
}

#[test]
fn the_time_that_is_left_is_read_by_an_outermost_layer_too() {
    let clock = ManualClock::new();
    let stack = deadline::at_least(Duration::from_millis(50), clock.clone());
    for (left, expected) in [(50, None), (49, Some(Reason::DeadlineTooClose))] {
        let call = stack.call(|| async { Ok::<_, ()>(()) });
        let left = Duration::from_millis(left);
        let scope = backstop::deadline::scope_on(clock.clone(), left, call);
        let result = clock.block_on(scope);
        assert_eq!(result.err().and_then(|error| error.reason()), expected);
    }
}
