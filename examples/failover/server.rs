//! A real HTTP server on a loopback port that can be killed, restarted, and slowed down.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio::sync::watch;

const FAST: Duration = Duration::from_millis(4);
const SLOW: Duration = Duration::from_millis(120);

pub(crate) struct Server {
    address: SocketAddr,
    slow: Arc<AtomicBool>,
    /// Dropping it ends the server and its connections.
    life: Mutex<Option<watch::Sender<()>>>,
}

impl Server {
    pub(crate) async fn start() -> io::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let server = Self {
            address: listener.local_addr()?,
            slow: Arc::default(),
            life: Mutex::default(),
        };
        server.listen(listener);
        Ok(server)
    }

    pub(crate) const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Closes the port and all connections.
    pub(crate) fn kill(&self) {
        drop(self.life.lock().expect("no thread panics").take());
    }

    /// Listens at the same address again.
    pub(crate) async fn restart(&self) -> io::Result<()> {
        self.listen(TcpListener::bind(self.address).await?);
        Ok(())
    }

    pub(crate) fn set_slow(&self, slow: bool) {
        self.slow.store(slow, Ordering::Relaxed);
    }

    fn listen(&self, listener: TcpListener) {
        let (life, dead) = watch::channel(());
        *self.life.lock().expect("no thread panics") = Some(life);
        let slow = self.slow.clone();
        tokio::spawn(async move {
            let mut over = dead.clone();
            let accept = async {
                while let Ok((stream, _)) = listener.accept().await {
                    let (slow, mut over) = (slow.clone(), dead.clone());
                    tokio::spawn(async move {
                        let service = service_fn(|_: Request<Incoming>| answer(&slow));
                        let connection = hyper::server::conn::http1::Builder::new()
                            .serve_connection(TokioIo::new(stream), service);
                        // Ends with the connection, or with the server.
                        tokio::select! {
                            _ = connection => {}
                            _ = over.changed() => {}
                        }
                    });
                }
            };
            tokio::select! {
                () = accept => {}
                _ = over.changed() => {}
            }
        });
    }
}

async fn answer(slow: &AtomicBool) -> Result<Response<Full<Bytes>>, Infallible> {
    let takes = if slow.load(Ordering::Relaxed) {
        SLOW
    } else {
        FAST
    };
    tokio::time::sleep(takes).await;
    Ok(Response::new("hello".into()))
}
