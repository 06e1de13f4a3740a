use std::time::Duration;

use backstop::http::rate_limit::{self, QuotaPolicy, ServiceLimit};
use backstop::http::{hint, retry_after};
use backstop::{KeyedRateLimiter, ManualClock, Quota, RateLimiter};
use http::HeaderMap;

use crate::{headers, noon, seconds};

/// The examples of draft-ietf-httpapi-ratelimit-headers-10 that are well-formed.
const POLICIES: [&str; 8] = [
    r#""burst";q=100;w=60,"daily";q=1000;w=86400"#,
    r#""default";q=100;w=10"#,
    r#""permin";q=50;w=60,"perhr";q=1000;w=3600"#,
    r#""peruser";q=100;w=60;pk=:cHsdsRa894==:"#,
    r#""peruser";q=65535;qu="content-bytes";w=10;pk=:sdfjLJUOUH==:"#,
    r#""somepolicy";q=10000;w=1000"#,
    r#""fixedwindow";q=100;w=60"#,
    r#""dynamic";q=15;w=20"#,
];

const LIMITS: [&str; 8] = [
    r#""default";r=50;t=30"#,
    r#""default";r=999;pk=:dHJpYWwxMjEzMjM=:"#,
    r#""default";r=300000000;t=60;pk=:QXBwLTk5OQ==:"#,
    r#""problemPolicy";r=0;t=10"#,
    r#""daily";r=1;t=36400"#,
    r#""somepolicy";r=10000;t=10"#,
    r#""default";r=0;t=48"#,
    r#""dayLimit";r=100;t=36000"#,
];

fn join<T: ToString>(items: &[T]) -> String {
    let items: Vec<_> = items.iter().map(ToString::to_string).collect();
    items.join(",")
}

#[test]
fn the_examples_of_the_draft_are_read_and_written_byte_for_byte() {
    for text in POLICIES {
        let read = rate_limit::read_policies(&headers(&[("ratelimit-policy", text)]));
        assert_eq!(join(&read), text);
    }
    for text in LIMITS {
        let read = rate_limit::read(&headers(&[("ratelimit", text)]));
        assert_eq!(join(&read), text);
    }
}

#[test]
fn members_are_values() {
    let read = rate_limit::read_policies(&headers(&[("ratelimit-policy", POLICIES[4])]));
    assert_eq!(
        (read[0].name.as_str(), read[0].quota, read[0].window),
        ("peruser", 65535, Some(seconds(10)))
    );
    assert_eq!(read[0].unit.as_deref(), Some("content-bytes"));
    assert_eq!(read[0].partition_key.as_deref(), Some("sdfjLJUOUH=="));
    let mut written = QuotaPolicy::new("a\"b\\é", 7, Duration::from_millis(250));
    // No window below a second can be said; rounding up keeps a client below the limit.
    assert_eq!(written.to_string(), r#""a\"b\\_";q=7;w=1"#);
    written.window = None;
    assert_eq!(written.to_string(), r#""a\"b\\_";q=7"#);
    let left = ServiceLimit::new("x", u64::MAX, None);
    assert_eq!(left.to_string(), r#""x";r=999999999999999"#);
}

#[test]
fn spaces_unknown_parameters_and_several_lines_are_read() {
    let several = headers(&[
        (
            "ratelimit-policy",
            r#""hour";q=1000;w=3600, "day";q=5000;w=86400;burst=1000"#,
        ),
        ("ratelimit-policy", r#""x";q=1"#),
        ("ratelimit", r#"  "day";r=100;t=36000;future=(  "#),
    ]);
    assert_eq!(rate_limit::read_policies(&several).len(), 3);
    // The list is malformed: all of it is ignored.
    assert_eq!(rate_limit::read(&several), []);
    let inner = headers(&[("ratelimit", r#"("a" "b");r=1, "c";r=2, tok;r=3"#)]);
    let names: Vec<_> = rate_limit::read(&inner)
        .into_iter()
        .map(|limit| limit.name)
        .collect();
    assert_eq!(names, ["c"]);
}

#[test]
fn malformed_members_are_ignored() {
    for text in [
        r#""a";t=1"#,
        r#""a";r=-1"#,
        r#""a";r=1.5"#,
        r#""a";r="1""#,
        r#""a";r=1;t=-1"#,
        r#""a";r=1;pk="x""#,
        "a;r=1",
        r#""a";r=1;"#,
        r#""a";r=1 "b";r=2"#,
        r#""a;r=1"#,
    ] {
        assert_eq!(
            rate_limit::read(&headers(&[("ratelimit", text)])),
            [],
            "{text}"
        );
    }
    for text in [
        r#""a";w=1"#,
        r#""a";q=1;w=0"#,
        r#""a";q=1;qu=bytes"#,
        r#""a";q=1;w=0.5"#,
        r#""a";q=-1"#,
    ] {
        assert_eq!(
            rate_limit::read_policies(&headers(&[("ratelimit-policy", text)])),
            [],
            "{text}"
        );
    }
}

#[test]
fn decisions_are_written_beside_those_of_other_limiters() {
    let clock = ManualClock::new();
    let limiter = RateLimiter::builder()
        .quota(Quota::per_second(10).burst(25))
        .clock(clock.clone())
        .build()
        .unwrap();
    let mut map = HeaderMap::new();
    rate_limit::write(&mut map, "idle", &limiter.peek());
    assert_eq!(map["ratelimit"], "\"idle\";r=25");
    rate_limit::write(&mut map, "api", &limiter.decide(25));
    assert_eq!(map["ratelimit-policy"], "\"idle\";q=25;w=3");
    let left = rate_limit::read(&map);
    assert_eq!(
        (left[1].remaining, left[1].reset_after),
        (0, Some(seconds(1))),
        "a token comes after 100 ms"
    );
    clock.advance(Duration::from_secs(10));
    let mut map = HeaderMap::new();
    rate_limit::write(&mut map, "api", &limiter.decide(1));
    assert_eq!(map["ratelimit"], "\"api\";r=24;t=1");
    limiter.decide(24);
    // A rejected call reads its own wait, and a call that costs too much when more is left.
    for (cost, field) in [(25, "\"api\";r=0;t=3"), (26, "\"api\";r=0;t=1")] {
        let mut map = HeaderMap::new();
        rate_limit::write(&mut map, "api", &limiter.decide(cost));
        assert_eq!(map["ratelimit"], field);
    }
    // A key without room has no limit to write.
    let full = KeyedRateLimiter::<u8>::builder()
        .quota(Quota::per_second(1))
        .max_keys(1)
        .overflow(backstop::rate_limiter::Overflow::Reject)
        .clock(clock)
        .build()
        .unwrap();
    let decisions: Vec<_> = (0..200).map(|key| full.decide(&key, 1)).collect();
    let no_room = decisions
        .iter()
        .find(|decision| decision.limit == 0)
        .unwrap();
    let mut map = HeaderMap::new();
    rate_limit::write(&mut map, "api", no_room);
    assert!(map.is_empty());
}

#[test]
fn older_dialects_are_read() {
    let read = |fields: &[(&str, &str)]| {
        let limits = rate_limit::limits(&headers(fields), noon());
        assert_eq!(limits.len(), 1, "{fields:?}: {limits:?}");
        let limit = &limits[0];
        (
            limit.name.clone(),
            limit.limit,
            limit.remaining,
            limit.reset_after,
        )
    };
    // Envoy, GitHub, OpenAI, Anthropic.
    assert_eq!(
        read(&[
            ("ratelimit-limit", "100, 100;w=60"),
            ("ratelimit-remaining", "0"),
            ("ratelimit-reset", "30")
        ]),
        (String::new(), Some(100), Some(0), Some(seconds(30)))
    );
    assert_eq!(
        read(&[
            ("x-ratelimit-limit", "5000"),
            ("x-ratelimit-remaining", "0"),
            ("x-ratelimit-reset", "1795867260")
        ]),
        (String::new(), Some(5000), Some(0), Some(seconds(60)))
    );
    assert_eq!(
        read(&[
            ("x-ratelimit-remaining-tokens", "0"),
            ("x-ratelimit-reset-tokens", "6m0s")
        ]),
        ("tokens".into(), None, Some(0), Some(seconds(360)))
    );
    assert_eq!(
        read(&[
            ("anthropic-ratelimit-requests-remaining", "3"),
            ("anthropic-ratelimit-requests-reset", "2026-11-28T12:00:01Z"),
        ]),
        ("requests".into(), None, Some(3), Some(seconds(1)))
    );
    // Reddit.
    assert_eq!(
        read(&[
            ("x-ratelimit-remaining", "0.0"),
            ("x-ratelimit-reset", "420")
        ]),
        (String::new(), None, Some(0), Some(seconds(420)))
    );
    for malformed in [".0", "1.", "1.2.3", "1.x", "-1.0", "1e3"] {
        let fields = headers(&[("x-ratelimit-remaining", malformed)]);
        assert!(
            rate_limit::limits(&fields, noon()).is_empty(),
            "{malformed}"
        );
    }
    // Milliseconds since 1970, measured from the server's Date.
    assert_eq!(
        read(&[
            ("x-rate-limit-remaining", "0"),
            ("x-rate-limit-reset", "1795870830000"),
            ("date", "Sat, 28 Nov 2026 13:00:00 GMT"),
        ]),
        (String::new(), None, Some(0), Some(seconds(30)))
    );
}

#[test]
fn unknown_numbers_are_unknown() {
    // Azure OpenAI.
    for limit in ["-1", "0"] {
        let azure = headers(&[
            ("x-ratelimit-limit-requests", limit),
            ("x-ratelimit-remaining-requests", "0"),
        ]);
        assert_eq!(rate_limit::limits(&azure, noon()), []);
    }
    let negative = headers(&[("x-ratelimit-remaining-requests", "-1")]);
    assert_eq!(rate_limit::limits(&negative, noon()), []);
}

#[test]
fn the_standard_fields_come_before_older_ones() {
    let both = headers(&[
        ("ratelimit-policy", r#""a";q=10;w=60,"b";q=20"#),
        ("ratelimit", r#""a";r=0;t=7"#),
        ("x-ratelimit-remaining", "5"),
    ]);
    let limits = rate_limit::limits(&both, noon());
    assert_eq!(
        (limits.len(), limits[0].limit, limits[0].remaining),
        (2, Some(10), Some(0))
    );
    assert_eq!((limits[1].limit, limits[1].remaining), (Some(20), None));
    assert_eq!(hint(&both, noon()), Some(seconds(7)));
}

#[test]
fn each_partition_has_the_quota_of_its_policy() {
    let read = |policies: &str, limits: &str| {
        let fields = headers(&[("ratelimit-policy", policies), ("ratelimit", limits)]);
        let limits = rate_limit::limits(&fields, noon()).into_iter();
        limits
            .map(|limit| (limit.limit, limit.remaining))
            .collect::<Vec<_>>()
    };
    let limits = r#""a";r=1;pk=:eA==:,"a";r=2;pk=:eQ==:"#;
    // One policy of all partitions, and one of each.
    assert_eq!(
        read(r#""a";q=10"#, limits),
        [(Some(10), Some(1)), (Some(10), Some(2))]
    );
    assert_eq!(
        read(r#""a";q=10;pk=:eA==:,"a";q=20;pk=:eQ==:"#, limits),
        [(Some(10), Some(1)), (Some(20), Some(2))]
    );
}

#[test]
fn policies_without_limits_leave_the_older_fields_to_be_read() {
    let policy = ("ratelimit-policy", r#""a";q=10;w=60"#);
    let alone = rate_limit::limits(&headers(&[policy]), noon());
    assert_eq!((alone.len(), alone[0].limit), (1, Some(10)));
    let older = headers(&[
        policy,
        ("ratelimit-remaining", "0"),
        ("ratelimit-reset", "5"),
    ]);
    assert_eq!(hint(&older, noon()), Some(seconds(5)));
}

/// A watchdog ends the test if each limit is compared with each policy: that took a minute.
#[test]
fn many_limits_and_policies_are_read_in_linear_time() {
    crate::watchdog::within_a_minute(|| {
        let list = |prefix: &str, parameter: &str| {
            let members = (0..200_000).map(|number| format!("\"{prefix}{number}\";{parameter}=1"));
            members.collect::<Vec<_>>().join(",")
        };
        let fields = [
            ("ratelimit-policy", &*list("x", "q")),
            ("ratelimit", &*list("y", "r")),
        ];
        assert_eq!(rate_limit::limits(&headers(&fields), noon()).len(), 400_000);
    });
}

#[test]
fn the_hint_is_retry_after_and_else_the_latest_reset_of_a_limit_that_is_used_up() {
    let openai = [
        ("x-ratelimit-remaining-requests", "0"),
        ("x-ratelimit-reset-requests", "12ms"),
        ("x-ratelimit-remaining-tokens", "0"),
        ("x-ratelimit-reset-tokens", "6m0s"),
    ];
    assert_eq!(hint(&headers(&openai), noon()), Some(seconds(360)));
    let mut told = openai.to_vec();
    told.push(("retry-after", "2"));
    assert_eq!(hint(&headers(&told), noon()), Some(seconds(2)));
    // Not used up: its reset says nothing.
    let left = headers(&[("ratelimit", r#""a";r=5;t=50"#)]);
    assert_eq!(hint(&left, noon()), None);
    assert_eq!(retry_after::read(&left, noon()), None);
}

#[test]
fn responses_of_caches_say_nothing_about_limits() {
    let fresh = headers(&[("ratelimit", r#""a";r=0;t=50"#), ("age", "0")]);
    assert_eq!(hint(&fresh, noon()), Some(seconds(50)));
    let cached = headers(&[
        ("ratelimit", r#""a";r=0;t=50"#),
        ("x-ratelimit-remaining", "0"),
        ("age", "1"),
    ]);
    assert_eq!(rate_limit::limits(&cached, noon()), []);
}

#[test]
fn each_prefix_and_each_format_of_a_reset_is_read() {
    let read = |[limit, remaining, reset]: [String; 3], text: &str| {
        let fields = [(&*limit, "10"), (&*remaining, "0"), (&*reset, text)];
        let limits = rate_limit::limits(&headers(&fields), noon());
        assert_eq!(limits.len(), 1, "{limit}: {limits:?}");
        let found = (limits[0].limit, limits[0].remaining);
        assert_eq!(found, (Some(10), Some(0)), "{limit}");
        (limits[0].name.clone(), limits[0].reset_after)
    };
    let words = ["limit", "remaining", "reset"];
    for (prefix, suffix, name) in [
        ("ratelimit-", "", ""),
        ("x-ratelimit-", "", ""),
        ("x-rate-limit-", "", ""),
        ("x-ratelimit-", "-requests", "requests"),
        ("x-ratelimit-", "-tokens", "tokens"),
        ("anthropic-ratelimit-requests-", "", "requests"),
        ("anthropic-ratelimit-tokens-", "", "tokens"),
        ("anthropic-ratelimit-input-tokens-", "", "input-tokens"),
        ("anthropic-ratelimit-output-tokens-", "", "output-tokens"),
    ] {
        let fields = words.map(|word| format!("{prefix}{word}{suffix}"));
        let expected = (name.to_owned(), Some(seconds(30)));
        assert_eq!(read(fields, "30"), expected, "{prefix}{suffix}");
    }
    let half = Duration::from_millis(30_500);
    for (text, reset) in [
        ("30.5", Some(half)),
        ("1795867230", Some(seconds(30))),
        ("1795867230500", Some(half)),
        ("30s500ms", Some(half)),
        ("1m0.5s", Some(seconds(30) + half)),
        ("2026-11-28T12:00:30.5Z", Some(half)),
        ("2026-11-28T13:00:30+01:00", Some(seconds(30))),
        ("Sat, 28 Nov 2026 12:00:30 GMT", Some(seconds(30))),
        ("Sat Nov 28 12:00:30 2026", Some(seconds(30))),
        ("2026-11-28T11:00:00Z", Some(seconds(0))),
        ("soon", None),
        ("-5", None),
    ] {
        let fields = words.map(|word| format!("x-ratelimit-{word}"));
        assert_eq!(read(fields, text).1, reset, "{text}");
    }
}
