//! Following a file, on a manual clock: real files, no real time.

use std::fs;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::{Arc, Mutex, mpsc};
use std::task::{Context, Poll, Waker};
use std::thread;
use std::time::Duration;

use backstop::config::{LoadError, Registry, Reloaded, Value};
use backstop::{Event, ManualClock};

use crate::watchdog::within_a_minute;

/// A folder that is removed at the end of a test.
pub(crate) struct Folder(PathBuf);

impl Folder {
    pub(crate) fn new(name: &str) -> Self {
        let path =
            std::env::temp_dir().join(format!("backstop-config-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    pub(crate) fn join(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A registry that follows a file.
pub(crate) struct Watched {
    clock: ManualClock,
    clients: Registry,
    events: Arc<Mutex<Vec<String>>>,
    watch: Pin<Box<dyn Future<Output = ()> + Send>>,
}

impl Watched {
    pub(crate) fn open(path: &Path) -> Self {
        let clock = ManualClock::new();
        let events = Arc::new(Mutex::new(Vec::new()));
        let log = events.clone();
        let observer = move |event: &Event| log.lock().unwrap().push(event.kind().to_owned());
        let builder = Registry::builder().clock(clock.clone()).observer(observer);
        let clients = builder.open(path, |text| toml::from_str(text)).unwrap();
        assert_eq!(
            std::mem::take(&mut *events.lock().unwrap()),
            ["config_applied"]
        );
        let watch = Box::pin(clients.watch());
        let mut watched = Self {
            clock,
            clients,
            events,
            watch,
        };
        assert!(watched.poll().is_pending());
        watched
    }

    fn poll(&mut self) -> Poll<()> {
        self.watch
            .as_mut()
            .poll(&mut Context::from_waker(Waker::noop()))
    }

    /// Lets time pass in small steps. Returns the kinds of the events.
    pub(crate) fn pass(&mut self, millis: u64) -> Vec<String> {
        for _ in 0..millis / 50 {
            self.clock.advance(Duration::from_millis(50));
            assert!(self.poll().is_pending());
        }
        std::mem::take(&mut *self.events.lock().unwrap())
    }

    pub(crate) fn attempts(&self) -> u32 {
        self.clients.get("a").unwrap().snapshot().max_attempts
    }
}

pub(crate) fn text(attempts: u32) -> String {
    format!("[clients.a]\nretry.max_attempts = {attempts}\n")
}

pub(crate) const APPLIED: [&str; 1] = ["config_applied"];
const REJECTED: [&str; 1] = ["config_rejected"];

#[test]
fn every_way_of_replacing_a_file_is_seen_within_two_seconds() {
    let folder = Folder::new("ways");
    let path = folder.join("clients.toml");
    fs::write(&path, text(1)).unwrap();
    let mut watched = Watched::open(&path);
    assert_eq!(watched.attempts(), 1);
    assert!(watched.pass(10_000).is_empty());

    // Rename over it, as editors do.
    let other = folder.join("new.toml");
    fs::write(&other, text(2)).unwrap();
    fs::rename(&other, &path).unwrap();
    assert_eq!(watched.pass(2000), APPLIED);
    assert_eq!(watched.attempts(), 2);

    // Truncate and write.
    fs::write(&path, text(10)).unwrap();
    assert_eq!(watched.pass(2000), APPLIED);
    assert_eq!(watched.attempts(), 10);

    // Delete and create again, at once and later.
    fs::remove_file(&path).unwrap();
    fs::write(&path, text(4)).unwrap();
    assert_eq!(watched.pass(2000), APPLIED);
    assert_eq!(watched.attempts(), 4);
    fs::remove_file(&path).unwrap();
    assert_eq!(watched.pass(10_000), REJECTED);
    assert!(matches!(
        *watched.clients.last_error().unwrap(),
        LoadError::Read(_)
    ));
    assert_eq!(watched.attempts(), 4);
    fs::write(&path, text(5)).unwrap();
    assert_eq!(watched.pass(2000), APPLIED);
    assert_eq!(watched.attempts(), 5);
    assert!(watched.pass(10_000).is_empty());
}

#[test]
fn a_watch_passes_the_mistakes_of_each_reload_to_its_closure() {
    let folder = Folder::new("closure");
    let path = folder.join("clients.toml");
    fs::write(&path, text(1)).unwrap();
    let mut watched = Watched::open(&path);
    let reports = Arc::new(Mutex::new(Vec::new()));
    let (log, events) = (reports.clone(), watched.events.clone());
    let report = move |reload: &Result<Reloaded, LoadError>| {
        let text = match reload {
            Ok(reloaded) => format!("{:?}", reloaded.changed),
            Err(error) => error.to_string(),
        };
        log.lock()
            .unwrap()
            .push((text, events.lock().unwrap().len()));
    };
    watched.watch = Box::pin(watched.clients.watch_with(report));
    assert!(watched.pass(5000).is_empty());

    fs::write(&path, text(0)).unwrap();
    assert_eq!(watched.pass(2000), REJECTED);
    fs::write(&path, text(2)).unwrap();
    assert_eq!(watched.pass(2000), APPLIED);
    fs::remove_file(&path).unwrap();
    assert_eq!(watched.pass(10_000), REJECTED);

    let reports = std::mem::take(&mut *reports.lock().unwrap());
    let missing = reports.last().unwrap().0.clone();
    assert!(
        missing.starts_with("cannot be read: ") && missing.contains("clients.toml"),
        "{missing}"
    );
    let mistake = "clients.a.retry.max_attempts: must be at least 1, is 0".to_owned();
    // Each after its event, and the missing file once.
    assert_eq!(
        reports,
        [(mistake, 1), ("[\"a\"]".to_owned(), 1), (missing, 1)]
    );
}

#[cfg(unix)]
#[test]
fn the_link_of_a_config_map_is_followed() {
    use std::os::unix::fs::symlink;

    let folder = Folder::new("map");
    // clients.toml -> ..data/clients.toml, and ..data -> a folder for each version.
    for (version, attempts) in [("..v1", 1), ("..v2", 2)] {
        fs::create_dir(folder.join(version)).unwrap();
        fs::write(folder.join(version).join("clients.toml"), text(attempts)).unwrap();
    }
    symlink("..v1", folder.join("..data")).unwrap();
    let path = folder.join("clients.toml");
    symlink("..data/clients.toml", &path).unwrap();
    let mut watched = Watched::open(&path);
    assert_eq!(watched.attempts(), 1);
    symlink("..v2", folder.join("..data_tmp")).unwrap();
    fs::rename(folder.join("..data_tmp"), folder.join("..data")).unwrap();
    assert_eq!(watched.pass(2000), APPLIED);
    assert_eq!(watched.attempts(), 2);
}

#[test]
fn a_half_written_file_is_not_applied() {
    let folder = Folder::new("half");
    let path = folder.join("clients.toml");
    fs::write(&path, text(1)).unwrap();
    let mut watched = Watched::open(&path);
    // Every prefix that ends with a line is a valid file, and none of them may be applied.
    let whole: String = (0..20)
        .map(|n| format!("[clients.c{n}]\n"))
        .collect::<String>()
        + &text(7);
    for end in (0..whole.len()).step_by(17) {
        fs::write(&path, &whole[..end]).unwrap();
        assert!(watched.pass(400).is_empty());
        assert_eq!(watched.clients.names(), ["a"]);
    }
    fs::write(&path, &whole).unwrap();
    assert_eq!(watched.pass(2000), APPLIED);
    assert_eq!(watched.clients.names().len(), 21);
    // A writer that stops in the middle of its work leaves an empty file, which is none.
    fs::write(&path, "").unwrap();
    assert_eq!(watched.pass(10_000), REJECTED);
    assert_eq!(watched.clients.names().len(), 21);
}

#[test]
fn a_broken_file_is_reported_once_and_the_former_settings_stay() {
    let folder = Folder::new("broken");
    let path = folder.join("clients.toml");
    fs::write(&path, text(3)).unwrap();
    let mut watched = Watched::open(&path);
    for broken in ["[clients.a", "[clients.a]\nretry.max_attempts = 0"] {
        fs::write(&path, broken).unwrap();
        assert_eq!(watched.pass(2000), REJECTED);
        assert!(watched.pass(60_000).is_empty());
        assert_eq!(watched.attempts(), 3);
    }
    let error = watched.clients.last_error().unwrap();
    assert_eq!(
        error.to_string(),
        "clients.a.retry.max_attempts: must be at least 1, is 0"
    );
    fs::write(&path, text(6)).unwrap();
    assert_eq!(watched.pass(2000), APPLIED);
    assert!(watched.clients.last_error().is_none());
    assert_eq!(watched.attempts(), 6);
}

#[test]
fn a_file_that_was_reloaded_explicitly_is_not_read_again() {
    let folder = Folder::new("hand");
    let path = folder.join("clients.toml");
    fs::write(&path, text(3)).unwrap();
    let mut watched = Watched::open(&path);
    fs::write(&path, text(12)).unwrap();
    let reloaded = watched.clients.reload().unwrap();
    assert_eq!(reloaded.changed, ["a"]);
    assert_eq!(watched.pass(10_000), APPLIED);
    assert_eq!(watched.attempts(), 12);
}

#[test]
fn a_file_that_cannot_be_read_is_named() {
    let path = Folder::new("none").join("clients.toml");
    let clients = Registry::builder().clock(ManualClock::new());
    let error = clients.open(&path, |_| Err::<backstop::config::Value, _>("not reached"));
    let error = error.unwrap_err();
    assert!(matches!(&error, LoadError::Read(e) if e.kind() == std::io::ErrorKind::NotFound));
    assert!(
        error.to_string().contains(path.to_str().unwrap()),
        "{error}"
    );
}

#[test]
fn a_file_that_cannot_be_read_is_tried_again_and_reported_once() {
    let folder = Folder::new("unreadable");
    let path = folder.join("clients.toml");
    fs::write(&path, text(3)).unwrap();
    let mut watched = Watched::open(&path);
    // Not UTF-8, so reading it fails.
    fs::write(&path, vec![0xff; text(4).len()]).unwrap();
    assert_eq!(watched.pass(2000), REJECTED);
    assert!(watched.pass(60_000).is_empty());
    // Readable now, with the same size and time, as after a change of its permissions.
    let written = fs::metadata(&path).unwrap().modified().unwrap();
    fs::write(&path, text(4)).unwrap();
    let file = fs::File::options().write(true).open(&path).unwrap();
    file.set_modified(written).unwrap();
    assert_eq!(watched.pass(2000), APPLIED);
    assert_eq!(watched.attempts(), 4);
}

/// The first of two loads parses its text so slowly that the second one overtakes it.
#[test]
fn a_load_that_is_overtaken_does_not_bring_back_an_older_file() {
    let folder = Folder::new("overtaken");
    let path = folder.join("clients.toml");
    fs::write(&path, text(1)).unwrap();
    let (begun, begins) = mpsc::channel();
    let (go_on, waits) = mpsc::channel::<()>();
    let waits = Mutex::new(waits);
    let parse = move |read: &str| {
        if read == text(2) {
            begun.send(()).unwrap();
            waits.lock().unwrap().recv().unwrap();
        }
        toml::from_str::<Value>(read)
    };
    let builder = Registry::builder().clock(ManualClock::new());
    let clients = builder.open(&path, parse).unwrap();
    fs::write(&path, text(2)).unwrap();
    let slow = thread::spawn({
        let clients = clients.clone();
        move || clients.reload().unwrap()
    });
    begins.recv().unwrap();
    fs::write(&path, text(3)).unwrap();
    assert_eq!(clients.reload().unwrap().changed, ["a"]);
    go_on.send(()).unwrap();
    assert!(slow.join().unwrap().is_empty());
    assert_eq!(clients.get("a").unwrap().snapshot().max_attempts, 3);
}

#[test]
fn a_watch_ends_with_its_registry() {
    let folder = Folder::new("end");
    let path = folder.join("clients.toml");
    fs::write(&path, text(3)).unwrap();
    let Watched {
        clock,
        clients,
        mut watch,
        ..
    } = Watched::open(&path);
    drop(clients);
    clock.advance(Duration::from_secs(1));
    let mut cx = Context::from_waker(Waker::noop());
    assert!(watch.as_mut().poll(&mut cx).is_ready());
}

#[test]
fn the_closure_of_a_watch_may_reload_and_drop_the_registry() {
    let folder = Folder::new("reentrant");
    let path = folder.join("clients.toml");
    fs::write(&path, text(1)).unwrap();
    let mut watched = Watched::open(&path);
    let kept = Arc::new(Mutex::new(Some(watched.clients.clone())));
    let reports = Arc::new(Mutex::new(Vec::new()));
    let log = reports.clone();
    let report = move |reload: &Result<Reloaded, LoadError>| {
        let clients = kept.lock().unwrap().take().expect("called once");
        let again = clients.reload().unwrap();
        log.lock().unwrap().push((reload.is_ok(), again.len()));
    };
    watched.watch = Box::pin(watched.clients.watch_with(report));
    let Watched {
        clock,
        clients,
        mut watch,
        ..
    } = watched;
    fs::write(&path, text(2)).unwrap();
    let mut cx = Context::from_waker(Waker::noop());
    assert!(watch.as_mut().poll(&mut cx).is_pending());
    let client = clients.get("a").unwrap();
    // The closure holds the last handle from here on.
    drop(clients);
    for step in 0.. {
        assert!(step < 40, "the watch goes on");
        clock.advance(Duration::from_millis(50));
        if watch.as_mut().poll(&mut cx).is_ready() {
            break;
        }
    }
    assert_eq!(*reports.lock().unwrap(), [(true, 0)]);
    assert_eq!(client.snapshot().max_attempts, 2);
}

#[test]
fn a_folder_in_place_of_the_file_is_reported_once() {
    let folder = Folder::new("folder");
    let path = folder.join("clients.toml");
    fs::write(&path, text(1)).unwrap();
    let mut watched = Watched::open(&path);
    fs::remove_file(&path).unwrap();
    fs::create_dir(&path).unwrap();
    assert_eq!(watched.pass(2000), REJECTED);
    assert!(watched.pass(60_000).is_empty());
    assert_eq!(watched.attempts(), 1);
    fs::remove_dir(&path).unwrap();
    fs::write(&path, text(2)).unwrap();
    assert_eq!(watched.pass(2000), APPLIED);
    assert_eq!(watched.attempts(), 2);
}

#[test]
fn a_byte_order_mark_is_skipped_in_every_format() {
    let folder = Folder::new("mark");
    let path = folder.join("clients");
    fs::write(&path, "\u{feff}{ \"clients\": { \"a\": {} } }").unwrap();
    let builder = Registry::builder().clock(ManualClock::new());
    let clients = builder
        .clone()
        .open(&path, |text| serde_json::from_str(text));
    assert_eq!(clients.unwrap().names(), ["a"]);
    fs::write(&path, format!("\u{feff}{}", text(1))).unwrap();
    let clients = builder.open(&path, |text| toml::from_str(text)).unwrap();
    assert_eq!(clients.names(), ["a"]);
}

#[test]
fn a_change_of_equal_size_right_after_the_file_was_read_is_seen() {
    let folder = Folder::new("racy");
    let path = folder.join("clients.toml");
    fs::write(&path, text(3)).unwrap();
    let written = fs::metadata(&path).unwrap().modified().unwrap();
    let mut watched = Watched::open(&path);
    // Both are written within one tick of the file system's clock.
    fs::write(&path, text(4)).unwrap();
    let file = fs::File::options().write(true).open(&path).unwrap();
    file.set_modified(written).unwrap();
    assert_eq!(watched.pass(2000), APPLIED);
    assert_eq!(watched.attempts(), 4);
    assert!(watched.pass(60_000).is_empty());
}

#[cfg(unix)]
#[test]
fn a_pipe_in_place_of_the_file_is_rejected_and_not_waited_for() {
    within_a_minute(|| {
        let folder = Folder::new("pipe");
        let path = folder.join("clients.toml");
        let made = std::process::Command::new("mkfifo").arg(&path).status();
        assert!(made.unwrap().success());
        let builder = Registry::builder().clock(ManualClock::new());
        let error = builder
            .open(&path, |text| toml::from_str(text))
            .unwrap_err();
        assert!(matches!(error, LoadError::Read(_)));
        let text = error.to_string();
        assert!(
            text.ends_with("clients.toml: must be a regular file"),
            "{text}"
        );
    });
}

#[test]
fn a_file_longer_than_16_mib_is_rejected() {
    let folder = Folder::new("long");
    let path = folder.join("clients.toml");
    let longest = |more: usize| format!("clients = {{}}{}", "\n".repeat((16 << 20) - 12 + more));
    let builder = Registry::builder().clock(ManualClock::new());
    fs::write(&path, longest(0)).unwrap();
    let parse = |text: &str| toml::from_str::<Value>(text.trim_end());
    builder.clone().open(&path, parse).unwrap();
    fs::write(&path, longest(1)).unwrap();
    let error = builder.open(&path, parse).unwrap_err().to_string();
    assert!(
        error.ends_with("clients.toml: must not be longer than 16 MiB"),
        "{error}"
    );
}

#[test]
fn a_file_is_followed_again_after_its_parser_panicked() {
    let folder = Folder::new("panic");
    let path = folder.join("clients.toml");
    fs::write(&path, text(1)).unwrap();
    let clock = ManualClock::new();
    let builder = Registry::builder().clock(clock.clone());
    let parse = |read: &str| {
        assert_ne!(read, text(22), "panic of the parser");
        toml::from_str::<Value>(read)
    };
    let clients = builder.open(&path, parse).unwrap();
    let attempts = || clients.get("a").unwrap().snapshot().max_attempts;
    // Returns whether the watch ended with a panic.
    let follow = || {
        let mut watch = Box::pin(clients.watch());
        let polls = std::panic::AssertUnwindSafe(|| {
            for _ in 0..40 {
                let mut cx = Context::from_waker(Waker::noop());
                assert!(watch.as_mut().poll(&mut cx).is_pending());
                clock.advance(Duration::from_millis(50));
            }
        });
        std::panic::catch_unwind(polls).is_err()
    };
    fs::write(&path, text(22)).unwrap();
    assert!(follow());
    assert!(!follow());
    assert_eq!(attempts(), 1);
    fs::write(&path, text(333)).unwrap();
    assert!(!follow());
    assert_eq!(attempts(), 333);
}
