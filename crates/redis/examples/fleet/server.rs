//! A `redis-server` process.

use std::collections::hash_map::RandomState;
use std::env;
use std::fs;
use std::hash::BuildHasher;
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

/// A server on a free port of the loopback interface. Killed when dropped.
pub(crate) struct Server {
    child: Child,
    port: u16,
    folder: PathBuf,
}

impl Server {
    /// Starts a server; `None` if `redis-server` is not installed.
    pub(crate) fn start() -> Option<Self> {
        // Another process may take a port before the server does.
        for _ in 0..20 {
            let port = free_port()?;
            let folder = format!("backstop-redis-{}-{port}", std::process::id());
            let folder = env::temp_dir().join(folder);
            fs::create_dir_all(&folder).ok()?;
            let child = spawn(port, &folder).ok()?;
            let mut server = Self {
                child,
                port,
                folder,
            };
            if server.accepts_connections() {
                return Some(server);
            }
        }
        panic!("redis-server does not start");
    }

    /// Waits until it accepts connections. Returns `false` if it has ended or does not begin to.
    fn accepts_connections(&mut self) -> bool {
        for _ in 0..500 {
            let has_ended = !matches!(self.child.try_wait(), Ok(None));
            if has_ended {
                return false;
            }
            if self.is_reachable() {
                return true;
            }
            thread::sleep(Duration::from_millis(10));
        }
        false
    }

    /// Returns whether this server, and not another one on the same port, answers.
    fn is_reachable(&self) -> bool {
        let client = redis::Client::open(self.url()).expect("a URL");
        let Ok(mut connection) = client.get_connection_with_timeout(Duration::from_secs(1)) else {
            return false;
        };
        let info = redis::cmd("INFO").arg("server").query(&mut connection);
        let line = format!("process_id:{}", self.child.id());
        info.is_ok_and(|info: String| info.lines().any(|it| it == line))
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/", self.port)
    }

    /// Returns the path of a file in its folder.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// Kills it, as `kill -9` does.
    pub(crate) fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Starts it again on the same port, without its data.
    pub(crate) fn restart(&mut self) {
        self.child = spawn(self.port, &self.folder).expect("it started before");
        assert!(self.accepts_connections(), "redis-server does not start");
    }

    /// Sends a signal.
    pub(crate) fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        let status = Command::new("kill")
            .args([&format!("-{name}"), &pid])
            .status();
        assert!(status.is_ok_and(|status| status.success()), "kill -{name}");
    }

    /// Executes a command, on a connection of its own.
    pub(crate) fn command(&self, words: &[&str]) -> redis::Value {
        let client = redis::Client::open(self.url()).expect("a URL");
        let mut connection = client.get_connection().expect("a connection");
        let mut command = redis::cmd(words[0]);
        for word in &words[1..] {
            command.arg(*word);
        }
        command.query(&mut connection).expect("it works")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// Returns a port that nothing listens on, below those that systems give to outgoing connections: one of these could
/// take it, or connect to itself.
fn free_port() -> Option<u16> {
    let random = RandomState::new();
    let mut ports = (0..1000_u32).map(|n| 10_000 + (random.hash_one(n) % 20_000) as u16);
    ports.find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok())
}

fn spawn(port: u16, folder: &PathBuf) -> std::io::Result<Child> {
    let port = port.to_string();
    let settings = [
        "--port",
        &port,
        "--bind",
        "127.0.0.1",
        "--save",
        "",
        "--appendonly",
        "no",
    ];
    Command::new("redis-server")
        .args(settings)
        .arg("--dir")
        .arg(folder)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
}
