//! A server that answers scripts as a test says.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{SystemTime, UNIX_EPOCH};

/// A script that a client sends.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    /// Number of the connection, from 0.
    pub(crate) connection: usize,
    /// `EVALSHA` or `EVAL`.
    pub(crate) command: String,
    pub(crate) key: String,
    /// Number of tokens requested.
    pub(crate) ask: u64,
}

/// The answer of the server.
pub(crate) enum Answer {
    /// Grants all tokens.
    Grant,
    Send(Vec<u8>),
    /// Sends this and closes the connection.
    Close(Vec<u8>),
}

impl Answer {
    pub(crate) fn error(text: &str) -> Self {
        Self::Send(format!("-{text}\r\n").into_bytes())
    }
}

type Script = dyn FnMut(&Request) -> Answer + Send;

/// A server on a free port of the loopback interface.
#[derive(Clone)]
pub(crate) struct Fake {
    port: u16,
    inner: Arc<Inner>,
}

struct Inner {
    script: Mutex<Box<Script>>,
    connections: AtomicUsize,
    requests: Mutex<Vec<Request>>,
}

impl Fake {
    /// Starts a server that grants all tokens.
    pub(crate) fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let fake = Self {
            port: listener.local_addr().unwrap().port(),
            inner: Arc::new(Inner {
                script: Mutex::new(Box::new(|_| Answer::Grant)),
                connections: AtomicUsize::new(0),
                requests: Mutex::default(),
            }),
        };
        let inner = fake.inner.clone();
        thread::spawn(move || {
            for stream in listener.incoming() {
                let inner = inner.clone();
                let number = inner.connections.fetch_add(1, Ordering::Relaxed);
                thread::spawn(move || inner.serve(&stream.unwrap(), number));
            }
        });
        fake
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/", self.port)
    }

    /// Sets the answers from now on.
    pub(crate) fn script(&self, script: impl FnMut(&Request) -> Answer + Send + 'static) {
        *self.inner.script.lock().unwrap() = Box::new(script);
    }

    /// Returns the number of connections so far.
    pub(crate) fn connections(&self) -> usize {
        self.inner.connections.load(Ordering::Relaxed)
    }

    /// Removes and returns the scripts received so far.
    pub(crate) fn requests(&self) -> Vec<Request> {
        std::mem::take(&mut self.inner.requests.lock().unwrap())
    }
}

impl Inner {
    /// Serves a connection until its client closes it.
    fn serve(&self, stream: &TcpStream, connection: usize) {
        let mut reader = BufReader::new(stream.try_clone().unwrap());
        let mut stream = stream;
        while let Some(words) = read(&mut reader) {
            let command = words[0].to_uppercase();
            let sent = match &*command {
                "EVALSHA" | "EVAL" => {
                    let keys: usize = words[2].parse().unwrap();
                    let request = Request {
                        connection,
                        command,
                        key: words[3].clone(),
                        ask: words[3 + keys + 2].parse().unwrap_or_default(),
                    };
                    self.requests.lock().unwrap().push(request.clone());
                    let answer = (self.script.lock().unwrap())(&request);
                    match answer {
                        Answer::Grant => stream.write_all(&grant(request.ask)),
                        Answer::Send(bytes) => stream.write_all(&bytes),
                        Answer::Close(bytes) => {
                            let _ = stream.write_all(&bytes);
                            let _ = stream.shutdown(std::net::Shutdown::Both);
                            return;
                        }
                    }
                }
                "HELLO" => stream.write_all(b"%1\r\n$5\r\nproto\r\n:3\r\n"),
                _ => stream.write_all(b"+OK\r\n"),
            };
            if sent.is_err() {
                return;
            }
        }
    }
}

/// Returns the answer that grants these tokens and leaves a thousand.
pub(crate) fn grant(tokens: u64) -> Vec<u8> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let now = now.as_micros();
    format!("*6\r\n:{tokens}\r\n:1000\r\n:0\r\n:1\r\n:{tokens}\r\n:{now}\r\n").into_bytes()
}

/// Reads a command. `None` at the end of the connection.
fn read(reader: &mut impl BufRead) -> Option<Vec<String>> {
    let mut line = String::new();
    let mut number = |reader: &mut dyn BufRead| {
        line.clear();
        reader.read_line(&mut line).ok()?;
        line.get(1..)?.trim().parse::<usize>().ok()
    };
    let count = number(reader)?;
    let mut words = Vec::with_capacity(count);
    for _ in 0..count {
        let length = number(reader)?;
        let mut word = vec![0; length + 2];
        reader.read_exact(&mut word).ok()?;
        word.truncate(length);
        words.push(String::from_utf8_lossy(&word).into_owned());
    }
    Some(words)
}
