//! A real HTTP server on a loopback port with a slow tail.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use rand::rngs::Xoshiro256PlusPlus;
use rand::{RngExt, SeedableRng};
use tokio::net::TcpListener;

/// Time that an answer takes, except for one in a hundred.
pub(crate) const FAST: Duration = Duration::from_millis(5);
const SLOW: Duration = Duration::from_millis(500);

pub(crate) struct Server {
    seed: u64,
    requests: AtomicU64,
}

impl Server {
    /// Starts a server and returns it with its address.
    pub(crate) async fn start(seed: u64) -> io::Result<(Arc<Self>, SocketAddr)> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?;
        let requests = AtomicU64::new(0);
        let server = Arc::new(Self { seed, requests });
        let accept = server.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let server = accept.clone();
                tokio::spawn(async move {
                    let service = service_fn(|_: Request<Incoming>| server.answer());
                    // An error here is a client that has dropped the losing copy.
                    let _ = hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(stream), service)
                        .await;
                });
            }
        });
        Ok((server, address))
    }

    pub(crate) fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }

    async fn answer(&self) -> Result<Response<Full<Bytes>>, Infallible> {
        let number = self.requests.fetch_add(1, Ordering::Relaxed);
        // Depends only on the number, so that each client meets the same server.
        let mut rng = Xoshiro256PlusPlus::seed_from_u64(self.seed.wrapping_add(number));
        let takes = if rng.random_range(0..100) == 0 {
            SLOW
        } else {
            FAST
        };
        tokio::time::sleep(takes).await;
        Ok(Response::new("hello".into()))
    }
}
