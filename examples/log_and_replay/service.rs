//! The payment service: reads text lines with a key and an amount, and writes one answer for each.

use std::collections::BTreeSet;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

/// Charges each key once, however often it is sent.
pub(crate) struct Service {
    address: SocketAddr,
    is_up: AtomicBool,
    charged: Mutex<BTreeSet<String>>,
    repeated: AtomicUsize,
}

impl Service {
    /// Starts a service that is down.
    pub(crate) async fn start() -> io::Result<Arc<Self>> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let service = Arc::new(Self {
            address: listener.local_addr()?,
            is_up: AtomicBool::new(false),
            charged: Mutex::default(),
            repeated: AtomicUsize::new(0),
        });
        let accepting = service.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(accepting.clone().serve(stream));
            }
        });
        Ok(service)
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) fn recover(&self) {
        self.is_up.store(true, Ordering::Relaxed);
    }

    /// How many payments were charged, and how many repetitions were recognized.
    pub(crate) fn counts(&self) -> (usize, usize) {
        let charged = self.charged.lock().map_or(0, |charged| charged.len());
        (charged, self.repeated.load(Ordering::Relaxed))
    }

    async fn serve(self: Arc<Self>, mut stream: TcpStream) -> io::Result<()> {
        if !self.is_up.load(Ordering::Relaxed) {
            return Ok(()); // hangs up
        }
        let (reader, mut writer) = stream.split();
        let mut line = String::new();
        BufReader::new(reader).read_line(&mut line).await?;
        let Some((key, _)) = line.split_once(' ') else {
            return Ok(());
        };
        let is_new = self
            .charged
            .lock()
            .is_ok_and(|mut charged| charged.insert(key.to_owned()));
        if !is_new {
            self.repeated.fetch_add(1, Ordering::Relaxed);
        }
        writer.write_all(b"ok\n").await
    }
}
