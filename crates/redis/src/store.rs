//! The store: a task that pipelines requests, and never makes a caller wait.

use std::fmt;
use std::future::poll_fn;
use std::num::NonZeroUsize;
use std::task::Poll;
use std::time::Duration;

use backstop::store::{
    Held, Hold, PermitStore, Reply, Store, StoreError, Take, Taken, Tally, Vote, VoteStore,
};
use futures_util::stream::{FuturesUnordered, StreamExt};
use redis::aio::ConnectionLike;
use redis::{RedisError, Value};
use tokio::sync::mpsc;
use tokio::task::unconstrained;
use tokio::time::timeout;

use crate::connection::{Given, Reconnecting, Source};
use crate::script::{Request, Scripts};

/// A store on Redis or Valkey. See the [crate page](crate).
///
/// Cheap to clone; clones share one connection. Its task ends when the last clone is dropped.
#[derive(Clone)]
pub struct RedisStore {
    requests: mpsc::UnboundedSender<Request>,
}

impl RedisStore {
    /// Returns a builder with the default settings.
    pub const fn builder() -> RedisStoreBuilder {
        RedisStoreBuilder {
            prefix: None,
            max_in_flight: NonZeroUsize::new(256).expect("not zero"),
            response_timeout: Duration::from_secs(1),
        }
    }

    /// Returns a store on your own connection, with the default settings. See
    /// [`RedisStoreBuilder::build`].
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime.
    pub fn new<C>(connection: C) -> Self
    where
        C: ConnectionLike + Clone + Send + Sync + 'static,
    {
        Self::builder().build(connection)
    }

    /// Connects, with the default settings. See [`RedisStoreBuilder::connect`].
    ///
    /// # Errors
    ///
    /// As for [`RedisStoreBuilder::connect`].
    pub async fn connect(client: redis::Client) -> Result<Self, RedisError> {
        Self::builder().connect(client).await
    }
}

/// Builds a [`RedisStore`].
///
/// | setting | default |
/// |---|---|
/// | [`prefix`](Self::prefix) | `backstop:` |
/// | [`max_in_flight`](Self::max_in_flight) | 256 |
/// | [`response_timeout`](Self::response_timeout) | 1 s |
#[derive(Clone, Debug)]
#[must_use = "a builder does nothing until `build` or `connect`"]
pub struct RedisStoreBuilder {
    prefix: Option<String>,
    max_in_flight: NonZeroUsize,
    response_timeout: Duration,
}

impl RedisStoreBuilder {
    /// Sets the prefix of all keys in Redis.
    pub fn prefix(mut self, prefix: impl Into<String>) -> Self {
        self.prefix = Some(prefix.into());
        self
    }

    /// Sets the most requests that are sent before the first of them is answered. Further ones wait.
    pub const fn max_in_flight(mut self, requests: NonZeroUsize) -> Self {
        self.max_in_flight = requests;
        self
    }

    /// Sets the time after which a request without an answer marks the connection as broken. Calls do not wait that
    /// long, because the limits have a timeout of their own.
    pub const fn response_timeout(mut self, timeout: Duration) -> Self {
        self.response_timeout = timeout;
        self
    }

    /// Builds a store on your own connection: a `ConnectionManager`, a cluster's connection, or any other that
    /// reconnects on its own. A `MultiplexedConnection` does not: use [`connect`](Self::connect).
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime.
    pub fn build<C>(self, connection: C) -> RedisStore
    where
        C: ConnectionLike + Clone + Send + Sync + 'static,
    {
        self.start(Given(connection))
    }

    /// Connects to one server, and reconnects in the background whenever the connection breaks.
    ///
    /// # Errors
    ///
    /// When the first attempt fails, or takes longer than 500 ms. Use [`connect_lazy`](Self::connect_lazy) for a
    /// process that must start even without its store.
    pub async fn connect(self, client: redis::Client) -> Result<RedisStore, RedisError> {
        let (source, result) = Reconnecting::new(client).await;
        result.map(|()| self.start(source))
    }

    /// Like [`connect`](Self::connect), but keeps trying in the background if the first attempt fails. Until it
    /// succeeds, limits treat the store as lost.
    pub async fn connect_lazy(self, client: redis::Client) -> RedisStore {
        let (source, _) = Reconnecting::new(client).await;
        self.start(source)
    }

    fn start<S: Source>(self, source: S) -> RedisStore {
        let (requests, queue) = mpsc::unbounded_channel();
        let worker = Worker {
            source,
            scripts: Scripts::new(),
            prefix: self.prefix.unwrap_or_else(|| "backstop:".to_owned()),
            response_timeout: self.response_timeout,
        };
        // Requests must not wait behind all tasks that are ready to run, so the task does not yield while it has
        // requests to send or answers to pass on. Both are bounded by `max_in_flight`.
        tokio::spawn(unconstrained(work(worker, queue, self.max_in_flight.get())));
        RedisStore { requests }
    }
}

struct Worker<S> {
    source: S,
    scripts: Scripts,
    prefix: String,
    response_timeout: Duration,
}

/// Sends requests in the order of their arrival, until the last store is dropped and all are answered.
async fn work<S: Source>(
    worker: Worker<S>,
    mut queue: mpsc::UnboundedReceiver<Request>,
    max_in_flight: usize,
) {
    let worker = &worker;
    let mut in_flight = FuturesUnordered::new();
    let mut is_open = true;
    poll_fn(|task| {
        loop {
            while is_open && in_flight.len() < max_in_flight {
                match queue.poll_recv(task) {
                    Poll::Ready(Some(request)) => in_flight.push(worker.execute(request)),
                    Poll::Ready(None) => is_open = false,
                    Poll::Pending => break,
                }
            }
            match in_flight.poll_next_unpin(task) {
                Poll::Ready(Some(())) => {}
                Poll::Ready(None) if !is_open => return Poll::Ready(()),
                Poll::Ready(None) | Poll::Pending => return Poll::Pending,
            }
        }
    })
    .await;
}

impl<S: Source> Worker<S> {
    async fn execute(&self, request: Request) {
        let (mut connection, number) = match self.source.get() {
            Ok(connection) => connection,
            Err(error) => return request.fail(error),
        };
        let sent = self.send(&mut connection, &request);
        match timeout(self.response_timeout, sent).await {
            Ok(Ok(value)) => request.answer(&value),
            Ok(Err(error)) => {
                if error.is_unrecoverable_error() || error.is_io_error() || is_demoted(&error) {
                    self.source.broke(number, &error);
                } else if error.code() == Some("MOVED") {
                    // A node of a cluster that has become a replica, or that never had this key but has others.
                    self.source.renew(number);
                }
                request.fail(StoreError::new(error));
            }
            Err(elapsed) => {
                self.source.broke(number, &elapsed);
                request.fail(StoreError::new("no answer in time"));
            }
        }
    }

    /// Executes the script by its hash. If the server does not know it, sends the script's text instead, in one
    /// request, so that a flush or a failover in between cannot make it fail again.
    async fn send(
        &self,
        connection: &mut S::Connection,
        request: &Request,
    ) -> Result<Value, RedisError> {
        let command = request.command(&self.scripts, &self.prefix, true);
        let result = answer(connection.req_packed_command(&command).await);
        match result {
            Err(error) if error.code() == Some("NOSCRIPT") => {
                let command = request.command(&self.scripts, &self.prefix, false);
                answer(connection.req_packed_command(&command).await)
            }
            result => result,
        }
    }
}

/// Returns whether the server rejects writes because it has become a replica, or also reads because it is one without
/// its primary. Another connection, by the name of the primary, leads to the promoted server. Versions before 7 put the
/// code into the text of an error of the script.
fn is_demoted(error: &RedisError) -> bool {
    let is =
        |code| error.code() == Some(code) || error.detail().is_some_and(|text| text.contains(code));
    is("READONLY") || is("MASTERDOWN")
}

/// Some connections return errors of the server as values.
fn answer(result: Result<Value, RedisError>) -> Result<Value, RedisError> {
    match result {
        Ok(Value::ServerError(error)) => Err(error.into()),
        result => result,
    }
}

impl RedisStore {
    fn request(&self, request: Request) {
        // If the worker is gone, so is its runtime. Then the request is dropped, which reports an error.
        let _ = self.requests.send(request);
    }
}

impl Store for RedisStore {
    fn take(&self, takes: Vec<Take>, reply: Reply<Vec<Taken>>) {
        self.request(Request::Take(takes, reply));
    }
}

impl PermitStore for RedisStore {
    fn hold(&self, hold: Hold, reply: Reply<Held>) {
        self.request(Request::Hold(hold, reply));
    }
}

impl VoteStore for RedisStore {
    fn vote(&self, vote: Vote, reply: Reply<Tally>) {
        self.request(Request::Vote(vote, reply));
    }
}

impl fmt::Debug for RedisStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisStore")
            .field("is_running", &!self.requests.is_closed())
            .finish()
    }
}
