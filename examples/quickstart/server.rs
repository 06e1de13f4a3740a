//! A real HTTP server on a loopback port that misbehaves by a seeded script.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::RETRY_AFTER;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use rand::rngs::Xoshiro256PlusPlus;
use rand::{RngExt, SeedableRng};
use tokio::net::{TcpListener, TcpStream};

/// When the server is down, from its start.
const OUTAGE: std::ops::Range<Duration> = Duration::from_millis(2000)..Duration::from_millis(2300);

/// Answers that take this long are spikes.
const SLOW: Duration = Duration::from_millis(500);

/// The fate of one request.
enum Fate {
    Answer { after: Duration },
    Busy,
    Down,
    Reset,
}

/// Counts of requests by their fate.
#[derive(Clone, Copy, Default)]
pub(crate) struct Counts {
    pub(crate) good: u64,
    pub(crate) slow: u64,
    pub(crate) busy: u64,
    pub(crate) down: u64,
    pub(crate) reset: u64,
}

impl Counts {
    pub(crate) const fn total(&self) -> u64 {
        self.good + self.slow + self.busy + self.down + self.reset
    }
}

/// Counts requests, and decides the fate of each. The fates depend only on the seed, except for the outage, which
/// depends on time.
pub(crate) struct Server {
    seed: u64,
    started: Instant,
    requests: AtomicU64,
    counts: Mutex<Counts>,
}

impl Server {
    /// Starts a server and returns it with its address.
    pub(crate) async fn start(seed: u64) -> io::Result<(Arc<Self>, SocketAddr)> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?;
        let server = Arc::new(Self {
            seed,
            started: Instant::now(),
            requests: AtomicU64::new(0),
            counts: Mutex::default(),
        });
        tokio::spawn(server.clone().accept(listener));
        Ok((server, address))
    }

    /// Returns the counts of the requests so far.
    pub(crate) fn counts(&self) -> Counts {
        *self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns whether the server is down now.
    pub(crate) fn is_down(&self) -> bool {
        OUTAGE.contains(&self.started.elapsed())
    }

    fn count(&self, fate: &Fate) {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let count = match fate {
            Fate::Answer { after } if *after >= SLOW => &mut counts.slow,
            Fate::Answer { .. } => &mut counts.good,
            Fate::Busy => &mut counts.busy,
            Fate::Down => &mut counts.down,
            Fate::Reset => &mut counts.reset,
        };
        *count += 1;
    }

    async fn accept(self: Arc<Self>, listener: TcpListener) {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(self.clone().serve(stream));
        }
    }

    async fn serve(self: Arc<Self>, stream: TcpStream) {
        let service = service_fn(|_: Request<Incoming>| self.answer());
        // An error here is a connection that the script has reset, or a client that disconnected.
        let _ = hyper::server::conn::http1::Builder::new()
            .timer(TokioTimer::new())
            .serve_connection(TokioIo::new(stream), service)
            .await;
    }

    fn fate(&self) -> Fate {
        let number = self.requests.fetch_add(1, Ordering::Relaxed);
        if self.is_down() {
            return Fate::Down;
        }
        let mut rng = Xoshiro256PlusPlus::seed_from_u64(self.seed.wrapping_add(number));
        match rng.random_range(0..1000) {
            0..40 => Fate::Answer {
                after: Duration::from_millis(rng.random_range(500..1500)),
            },
            40..46 => Fate::Busy,
            46..80 => Fate::Reset,
            _ => Fate::Answer {
                after: Duration::from_millis(rng.random_range(2..20)),
            },
        }
    }

    async fn answer(&self) -> Result<Response<Full<Bytes>>, io::Error> {
        let status = |status| Response::builder().status(status);
        let fate = self.fate();
        self.count(&fate);
        let response = match fate {
            Fate::Answer { after } => {
                tokio::time::sleep(after).await;
                status(StatusCode::OK).body("hello".into())
            }
            Fate::Busy => status(StatusCode::SERVICE_UNAVAILABLE)
                .header(RETRY_AFTER, "1")
                .body("busy".into()),
            Fate::Down => status(StatusCode::BAD_GATEWAY).body("down".into()),
            // An error makes hyper close the connection without an answer.
            Fate::Reset => return Err(io::ErrorKind::ConnectionReset.into()),
        };
        Ok(response.unwrap_or_else(|error| Response::new(error.to_string().into())))
    }
}
