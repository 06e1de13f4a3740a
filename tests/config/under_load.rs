//! A file that is replaced in every way while 100 000 calls a second go through its client, on real time.

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use backstop::circuit_breaker::State;
use backstop::config::Registry;
use backstop::{Event, Policy};

use crate::watched::Folder;

const LIMIT: u64 = 1_000_000_000;
const CALLS_PER_SECOND: u64 = 100_000;

fn text(attempts: u32) -> String {
    format!(
        "[clients.a]\nretry = {{ max_attempts = {attempts} }}\n\
         limiter = {{ quota = \"{LIMIT}/day, fixed window from first\" }}\n\
         breaker = {{ trip_on = {{ failure_rate = 0.9, of_last = 1000, min_calls = 100 }} }}\n"
    )
}

/// Ends the calls of a test, also of one that fails.
struct EndOnDrop<'a>(&'a AtomicBool);

impl Drop for EndOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Makes calls at the rate until it is told to stop, and catches up where the machine was late.
fn make_calls(client: &backstop::Standard, is_done: &AtomicBool, calls: &AtomicU64) {
    let start = Instant::now();
    let mut made = 0;
    while !is_done.load(Ordering::Relaxed) {
        let due = (start.elapsed().as_micros() as u64 * CALLS_PER_SECOND / 1_000_000).max(made);
        for _ in made..due {
            client.call_blocking(|| Ok::<_, ()>(())).unwrap();
        }
        calls.fetch_add(due - made, Ordering::Relaxed);
        made = due;
        thread::sleep(Duration::from_micros(200));
    }
}

/// The name of a way of replacing a file, the attempts that the new text allows, and the replacement.
type Way = (&'static str, u32, Box<dyn Fn()>);

/// Each way of replacing a file. With 0 attempts the file is rejected.
fn ways(folder: &Folder, path: &Path) -> Vec<Way> {
    let path = path.to_owned();
    let other = folder.join("new.toml");
    let (renamed, written, created, broken) =
        (path.clone(), path.clone(), path.clone(), path.clone());
    let mut ways: Vec<Way> = vec![
        ("renamed over", 2, {
            Box::new(move || {
                fs::write(&other, text(2)).unwrap();
                fs::rename(&other, &renamed).unwrap();
            })
        }),
        ("truncated and written", 3, {
            Box::new(move || fs::write(&written, text(3)).unwrap())
        }),
        ("deleted and created", 4, {
            Box::new(move || {
                fs::remove_file(&created).unwrap();
                fs::write(&created, text(4)).unwrap();
            })
        }),
        ("broken", 0, {
            Box::new(move || fs::write(&broken, text(0)).unwrap())
        }),
    ];
    #[cfg(unix)]
    {
        use std::os::unix::fs::symlink;
        let (data, next) = (folder.join("..data"), folder.join("..data_tmp"));
        for (version, attempts) in [("..v1", 5), ("..v2", 6)] {
            fs::create_dir(folder.join(version)).unwrap();
            fs::write(folder.join(version).join("clients.toml"), text(attempts)).unwrap();
        }
        let (first, map) = (path, data.clone());
        ways.push((
            "linked to a folder",
            5,
            Box::new(move || {
                symlink("..v1", &map).unwrap();
                fs::remove_file(&first).unwrap();
                symlink("..data/clients.toml", &first).unwrap();
            }),
        ));
        ways.push((
            "its folder's link swapped",
            6,
            Box::new(move || {
                symlink("..v2", &next).unwrap();
                fs::rename(&next, &data).unwrap();
            }),
        ));
    }
    ways
}

/// `cargo test --release --all-features --test config under_load -- --ignored --nocapture` prints what it measured.
#[test]
#[ignore = "takes real time: 15 s"]
fn a_file_that_is_replaced_under_load_fails_no_call_and_gives_no_fresh_burst() {
    let folder = Folder::new("load");
    let path = folder.join("clients.toml");
    fs::write(&path, text(1)).unwrap();
    let events = Arc::new(Mutex::new(Vec::new()));
    let log = events.clone();
    let observer = move |event: &Event| {
        let kind = event.kind();
        if kind.starts_with("config_") {
            log.lock().unwrap().push((Instant::now(), kind.to_owned()));
        }
    };
    let builder = Registry::builder().observer(observer);
    let clients = builder.open(&path, |text| toml::from_str(text)).unwrap();
    let client = clients.get("a").unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    let watched = clients.clone();
    let watch = runtime.spawn(async move { watched.watch().await });
    let (is_done, calls) = (AtomicBool::new(false), AtomicU64::new(0));
    thread::scope(|scope| {
        scope.spawn(|| make_calls(&client, &is_done, &calls));
        let _end = EndOnDrop(&is_done);
        let start = Instant::now();
        for (way, attempts, replace) in ways(&folder, &path) {
            events.lock().unwrap().clear();
            replace();
            let replaced = Instant::now();
            thread::sleep(Duration::from_millis(2500));
            let seen = std::mem::take(&mut *events.lock().unwrap());
            let kinds: Vec<&str> = seen.iter().map(|(_, kind)| kind.as_str()).collect();
            let expected = if attempts == 0 {
                "config_rejected"
            } else {
                "config_applied"
            };
            assert_eq!(kinds, [expected], "{way}");
            let after = seen[0].0 - replaced;
            println!("{way}: seen after {:.2} s", after.as_secs_f64());
            assert!(after < Duration::from_secs(2), "{way}");
            if attempts > 0 {
                assert_eq!(client.snapshot().max_attempts, attempts, "{way}");
            }
        }
        let rate = calls.load(Ordering::Relaxed) as f64 / start.elapsed().as_secs_f64();
        println!("{rate:.0} calls a second");
        assert!(rate > 0.99 * CALLS_PER_SECOND as f64);
    });
    watch.abort();
    let calls = calls.into_inner();
    let spent = LIMIT - client.limiter().unwrap().snapshot().remaining;
    let snapshot = client.breaker().unwrap().snapshot();
    println!(
        "{calls} calls, none failed; {spent} tokens spent; the breaker's window: {}",
        snapshot.calls
    );
    assert_eq!(spent, calls);
    assert_eq!((snapshot.calls, snapshot.state), (1000, State::Closed));
}
