//! Reloads: what stays, what changes, and what appears or vanishes.

use std::cell::Cell;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

use backstop::circuit_breaker::State;
use backstop::config::{Registry, Reloaded};
use backstop::event::ConfigEvent;
use backstop::{BlockingClock, Event, ManualClock, Policy};

use super::{registry, toml};

/// What a reload reports.
fn reloaded(clients: &Registry, text: &str) -> (Vec<String>, Vec<String>, Vec<String>) {
    let Reloaded {
        added,
        changed,
        removed,
        ..
    } = clients.apply(&toml(text)).unwrap();
    (added, changed, removed)
}

fn names(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

#[test]
fn a_reload_changes_clients_in_place() {
    let clients = registry("[clients.a]\nlimiter.quota = \"100/h\"\n[clients.b]");
    let a = clients.get("a").unwrap();
    let limiter = a.limiter().unwrap();
    for _ in 0..60 {
        limiter.try_acquire().unwrap();
    }
    let breaker = a.breaker().unwrap();
    let permit = breaker.try_acquire().unwrap();
    let after = "[clients.a]\nlimiter.quota = \"200/h\"\nbreaker.trip_on = { failures = 1, within = \"30s\" }\n\
                 breaker.break_for = { initial = \"9s\" }\n[clients.c]";
    assert_eq!(
        reloaded(&clients, after),
        (names(&["c"]), names(&["a"]), names(&["b"]))
    );
    assert_eq!(clients.names(), ["a", "c"]);
    // No fresh burst: what was left is left.
    assert_eq!(limiter.snapshot().remaining, 40);
    assert_eq!(limiter.snapshot().quotas[0].to_string(), "200/h");
    // The handle from before has the new settings, and the call in flight counts.
    permit.failure();
    assert_eq!(a.breaker().unwrap().state(), State::Open);
    assert_eq!(breaker.state(), State::Open);
    assert_eq!(reloaded(&clients, after), Default::default());
}

#[test]
fn a_client_that_comes_back_is_that_of_its_handles() {
    let (with, without) = ("[clients.a]\nlimiter.quota = \"100/h\"", "[clients.b]");
    let clients = registry(with);
    let a = clients.get("a").unwrap();
    for _ in 0..60 {
        a.limiter().unwrap().try_acquire().unwrap();
    }
    let (added, gone) = (names(&["b"]), names(&["a"]));
    assert_eq!(reloaded(&clients, without), (added, vec![], gone.clone()));
    assert!(clients.get("a").is_none());
    // Also after a second version without it.
    assert_eq!(reloaded(&clients, without), Default::default());
    let more = with.replace("100", "200") + "\nretry.max_attempts = 7\nbudget.ratio = 0.5";
    assert_eq!(reloaded(&clients, &more).0, gone);
    assert_eq!(a.snapshot().max_attempts, 7);
    let remaining = |client: &backstop::Standard| client.limiter().unwrap().snapshot().remaining;
    assert_eq!(
        (remaining(&a), remaining(&clients.get("a").unwrap())),
        (40, 40)
    );

    // Without a handle, it is a new client.
    drop(a);
    reloaded(&clients, without);
    reloaded(&clients, without);
    reloaded(&clients, with);
    assert_eq!(remaining(&clients.get("a").unwrap()), 100);
}

#[test]
fn defaults_that_are_given_are_no_change() {
    let text = "[clients.a]\nlimiter.quota = \"5/s\"\n[clients.b]\nretry.max_attempts = 4";
    let clients = registry(text);
    let all = toml::to_string(&clients.settings()).unwrap();
    assert_eq!(clients.apply(&toml(&all)).unwrap(), Reloaded::default());
    assert_eq!(clients.apply(&toml(text)).unwrap(), Reloaded::default());
}

#[test]
fn layers_that_are_removed_and_added_continue_where_they_were() {
    let with = "[clients.a]\nretry.enabled = false\nlimiter.quota = \"10/h\"";
    let clients = registry(with);
    let a = clients.get("a").unwrap();
    let call = || a.call_blocking(|| Ok::<_, ()>(())).is_ok();
    assert!((0..4).all(|_| call()));
    clients
        .apply(&toml(
            "[clients.a]\nretry.enabled = false\nlimiter = { enabled = false, quota = \"10/h\" }",
        ))
        .unwrap();
    assert!(a.limiter().is_none());
    assert!((0..100).all(|_| call()));
    clients.apply(&toml(with)).unwrap();
    assert_eq!((0..100).filter(|_| call()).count(), 6);
    // A client that is off is a plain call.
    clients
        .apply(&toml(
            "[clients.a]\nenabled = false\nlimiter.quota = \"10/h\"",
        ))
        .unwrap();
    assert!((0..100).all(|_| call()));
    assert_eq!((a.limiter().is_none(), a.breaker().is_none()), (true, true));
    clients.apply(&toml(with)).unwrap();
    assert!(!call());
}

/// The rows of the page about breakers: whether the breaker stays, and with it the call in flight.
#[test]
fn a_breaker_stays_unless_its_windows_or_measurements_change() {
    const RULE: &str = "failure_rate = 0.5, within = \"30s\", min_calls = 20";
    let rule = |more: &str| format!("trip_on = {{ {RULE} }}, {more}");
    let cases = [
        (RULE.replace("0.5", "0.9"), true),
        (RULE.replace("20", "10"), true),
        (RULE.replace("30s", "60s"), false),
        (format!("{RULE}, slices = 5"), false),
        (RULE.replace("within = \"30s\"", "of_last = 50"), false),
    ];
    let windows = cases.map(|(rule, stays)| (format!("trip_on = {{ {rule} }}"), stays));
    let consecutive = format!("trip_on = [{{ {RULE} }}, {{ consecutive = 5 }}]");
    let cases = [
        ("break_for.initial = \"9s\"", true),
        ("half_open = { successes = 4, of = 6 }", true),
        ("cancelled_as = \"unhealthy\"", true),
        ("panicked_as = \"neutral\"", true),
        ("lost_probes_as = \"neutral\"", true),
        ("ramp_up = \"5s\"", true),
        ("max_hint = \"1m\"", true),
        ("decide_early = false", true),
        ("trip_on_failures_only = true", true),
        ("slow_call = \"1s\"", false),
        ("measure_durations = true", false),
        ("seed = 3", false),
        ("shadow = true", false),
    ];
    let settings = cases.map(|(more, stays)| (rule(more), stays));
    for (after, stays) in windows
        .into_iter()
        .chain(settings)
        .chain([(consecutive, true)])
    {
        let clients = registry(&format!(
            "[clients.a]\nbreaker = {{ trip_on = {{ {RULE} }} }}"
        ));
        let a = clients.get("a").unwrap();
        let old = a.breaker().unwrap();
        for _ in 0..10 {
            old.try_acquire().unwrap().success();
        }
        old.try_acquire().unwrap().failure();
        let in_flight = old.try_acquire().unwrap();
        let text = format!("[clients.a]\nbreaker = {{ {after} }}");
        assert_eq!(reloaded(&clients, &text).1, ["a"], "{after}");
        let new = a.breaker().unwrap();
        let counts = || (new.snapshot().calls, new.snapshot().failures);
        assert_eq!(counts(), (11, 1), "{after}");
        in_flight.failure();
        assert_eq!(counts(), if stays { (12, 2) } else { (11, 1) }, "{after}");
        old.trip();
        assert_eq!(new.state(), State::Open, "{after}");
    }
}

/// The rows of the page about limiters.
#[test]
fn a_limiter_stays_unless_its_algorithms_or_its_mode_change() {
    for (after, left, stays) in [
        ("quota = \"200/h\"", 70, true),
        ("quota = \"50/h\"", 50, true),
        ("quota = \"100/h\", max_wait = \"1s\"", 70, true),
        ("quota = \"100/h\", max_waiting = 5", 70, true),
        ("quota = \"100/h\", max_debt = 5", 70, false),
        ("quota = \"100/h\", shadow = true", 70, false),
        ("quota = \"100/h\", pause_on_hint = \"5s\"", 70, false),
        ("quota = \"100/h\", stripes = 2", 70, false),
        ("quota = \"100/h, fixed window\"", 70, false),
        ("quota = [\"100/h\", \"500/day\"]", 70, false),
    ] {
        let clients = Registry::builder().clock(ManualClock::new());
        let clients = clients
            .build(&toml("[clients.a]\nlimiter.quota = \"100/h\""))
            .unwrap();
        let a = clients.get("a").unwrap();
        let old = a.limiter().unwrap();
        for _ in 0..30 {
            old.try_acquire().unwrap();
        }
        let text = format!("[clients.a]\nlimiter = {{ {after} }}");
        assert_eq!(reloaded(&clients, &text).1, ["a"], "{after}");
        let new = a.limiter().unwrap();
        assert_eq!(new.snapshot().remaining, left, "{after}");
        new.try_acquire().unwrap();
        let shared = old.snapshot().remaining == new.snapshot().remaining;
        assert_eq!(shared, stays, "{after}");
    }
}

#[test]
fn the_budget_keeps_what_it_has_counted() {
    let file = |extra: &str| {
        toml(&format!(
            "[clients.a]\nretry = {{ max_attempts = 2, backoff.kind = \"none\" }}\n\
             budget = {{ kind = \"tokens\", capacity = 20 }}\n{extra}"
        ))
    };
    let clients = Registry::builder()
        .clock(ManualClock::new())
        .build(&file(""))
        .unwrap();
    let a = clients.get("a").unwrap();
    let attempts = || {
        let attempts = Cell::new(0);
        let _ = a.call_blocking(|| {
            attempts.set(attempts.get() + 1);
            Err::<(), _>("down")
        });
        attempts.get()
    };
    assert_eq!(
        (attempts(), attempts()),
        (2, 1),
        "a retry costs 14 of 20 tokens"
    );
    clients.apply(&file("attempt_timeout = \"1s\"")).unwrap();
    assert_eq!(attempts(), 1);
}

#[test]
fn each_reload_is_one_event() {
    let events = Arc::new(Mutex::new(Vec::new()));
    let log = events.clone();
    let builder = Registry::builder()
        .clock(ManualClock::new())
        .observer(move |event: &Event| {
            if let Event::Config { event, .. } = event {
                let text = match event {
                    ConfigEvent::Applied { changed, .. } => format!("applied {changed}"),
                    ConfigEvent::Rejected { problems, .. } => format!("rejected {problems}"),
                    _ => String::new(),
                };
                log.lock().unwrap().push(text);
            }
        });
    let clients = builder.build(&toml("[clients.a]")).unwrap();
    let _ = clients.apply(&toml(
        "[clients.a]\nretry = { max_attempts = 0, seed = -1 }",
    ));
    assert!(clients.last_error().is_some());
    clients.apply(&toml("[clients.a]\n[clients.b]")).unwrap();
    assert!(clients.last_error().is_none());
    assert_eq!(
        *events.lock().unwrap(),
        ["applied 1", "rejected 2", "applied 1"]
    );
}

/// Calls of several threads, while another one reloads.
#[test]
fn a_reload_under_load_fails_no_call_and_gives_no_fresh_burst() {
    const THREADS: u64 = 3;
    const RELOADS: u64 = 300;
    const LIMIT: u64 = 1_000_000_000;
    let file = |n: u64| {
        // Budget, thresholds, quota, and attempts change.
        let (quota, calls) = (LIMIT + n % 7, 100 + n % 5);
        toml(&format!(
            "[clients.a]\nlimiter = {{ quota = \"{quota}/day, fixed window from first\" }}\n\
             retry = {{ max_attempts = {} }}\nbudget = {{ ratio = 0.{}, floor_per_second = 3 }}\n\
             breaker = {{ trip_on = {{ failure_rate = 0.9, of_last = 1000, min_calls = {calls} }} }}",
            2 + n % 3,
            1 + n % 4,
        ))
    };
    let builder = Registry::builder().clock(BlockingClock);
    let clients = builder.build(&file(0)).unwrap();
    let a = clients.get("a").unwrap();
    let breaker = a.breaker().unwrap();
    let is_done = AtomicBool::new(false);
    let calls = AtomicU64::new(0);
    thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                while !is_done.load(Ordering::Relaxed) {
                    a.call_blocking(|| Ok::<_, ()>(())).unwrap();
                    calls.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        for n in 1..=RELOADS {
            clients.apply(&file(n)).unwrap();
            // A broken file in between is no reload.
            assert!(
                clients
                    .apply(&toml("[clients.a]\nattempt_timeout = \"0s\""))
                    .is_err()
            );
        }
        is_done.store(true, Ordering::Relaxed);
    });
    let calls = calls.into_inner();
    assert!(calls > 0);
    let limiter = a.limiter().unwrap().snapshot();
    // A window gives nothing back: every call has taken a token, and a fresh burst would be a billion.
    let spent = LIMIT - limiter.remaining.min(LIMIT);
    assert!(spent.abs_diff(calls) <= 6, "{spent} of {calls}");
    // The breaker is the same, and its window has the last calls.
    assert_eq!(breaker.snapshot().calls, calls.min(1000));
    assert_eq!(breaker.state(), State::Closed);
    breaker.trip();
    assert_eq!(a.breaker().unwrap().state(), State::Open);
}
