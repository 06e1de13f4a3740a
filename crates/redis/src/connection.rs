//! Connections: given ones, and ones that are reestablished in the background.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use backstop::store::StoreError;
use redis::aio::{ConnectionLike, MultiplexedConnection};
use redis::{AsyncConnectionConfig, RedisError};
use tokio::time::{Instant, sleep, timeout};

/// A source of connections. Never waits, because a call must not wait for a connection.
pub(crate) trait Source: Clone + Send + Sync + 'static {
    type Connection: ConnectionLike + Send + 'static;

    /// Returns the connection, with its number, if there is one.
    fn get(&self) -> Result<(Self::Connection, u64), StoreError>;

    /// Gives up the connection of this number, if it is still in use.
    fn broke(&self, number: u64, error: &dyn std::fmt::Display);

    /// Replaces the connection of this number by a new one, as soon as there is one. Its requests are not affected.
    fn renew(&self, number: u64);
}

/// A connection given by the user, which reconnects on its own if it can.
#[derive(Clone)]
pub(crate) struct Given<C>(pub(crate) C);

impl<C: ConnectionLike + Clone + Send + Sync + 'static> Source for Given<C> {
    type Connection = C;

    fn get(&self) -> Result<(C, u64), StoreError> {
        Ok((self.0.clone(), 0))
    }

    fn broke(&self, _: u64, _: &dyn std::fmt::Display) {}

    fn renew(&self, _: u64) {}
}

/// A connection that is reestablished in the background when it breaks.
#[derive(Clone)]
pub(crate) struct Reconnecting {
    inner: Arc<Inner>,
}

struct Inner {
    client: redis::Client,
    state: Mutex<State>,
}

enum State {
    Up {
        connection: MultiplexedConnection,
        number: u64,
        /// When it was established, or was to be renewed last.
        since: Instant,
    },
    /// A task is reconnecting.
    Down(StoreError),
}

/// The longest duration of an attempt to connect. A suspended server accepts connections but does not answer.
const ATTEMPT: Duration = Duration::from_millis(500);
/// The pause between attempts.
const PAUSE: Duration = Duration::from_millis(100);
/// The shortest time between renewals of a connection that works. Longer than an attempt.
const RENEWAL: Duration = Duration::from_secs(1);

impl Reconnecting {
    /// Connects. If that fails, spawns a task that keeps trying in the background.
    pub(crate) async fn new(client: redis::Client) -> (Self, Result<(), RedisError>) {
        let first = attempt(&client).await;
        let (state, result) = match first {
            Ok(connection) => (State::up(connection, 0), Ok(())),
            Err(error) => (State::Down(StoreError::new(&error)), Err(error)),
        };
        let this = Self {
            inner: Arc::new(Inner {
                client,
                state: Mutex::new(state),
            }),
        };
        if result.is_err() {
            this.reconnect(1);
        }
        (this, result)
    }

    /// Reconnects in the background, until it succeeds or the store is dropped.
    fn reconnect(&self, number: u64) {
        let (inner, client) = (Arc::downgrade(&self.inner), self.inner.client.clone());
        tokio::spawn(async move {
            loop {
                let attempted = attempt(&client).await;
                let Some(inner) = inner.upgrade() else { return };
                if inner.attempted(attempted, number) {
                    return;
                }
                drop(inner);
                sleep(PAUSE).await;
            }
        });
    }
}

impl State {
    fn up(connection: MultiplexedConnection, number: u64) -> Self {
        Self::Up {
            connection,
            number,
            since: Instant::now(),
        }
    }
}

impl Inner {
    /// Returns whether the connection of this number is in use and was not renewed recently. Counts as a renewal.
    fn is_renewal_due(&self, number: u64) -> bool {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        match &mut *state {
            State::Up {
                number: current,
                since,
                ..
            } if *current == number && since.elapsed() >= RENEWAL => {
                *since = Instant::now();
                true
            }
            _ => false,
        }
    }

    /// Replaces the connection of this number, unless it broke meanwhile.
    fn renewed(&self, connection: MultiplexedConnection, number: u64) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let new = match &*state {
            State::Up {
                number: current, ..
            } if *current == number => State::up(connection, number + 1),
            _ => return,
        };
        let old = std::mem::replace(&mut *state, new);
        drop(state);
        drop(old);
    }

    /// Records an attempt to connect. Returns whether it succeeded.
    fn attempted(&self, attempted: Result<MultiplexedConnection, RedisError>, number: u64) -> bool {
        let is_up = attempted.is_ok();
        let new = match attempted {
            Ok(connection) => State::up(connection, number),
            Err(error) => State::Down(StoreError::new(&error)),
        };
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let old = std::mem::replace(&mut *state, new);
        drop(state);
        drop(old);
        is_up
    }
}

/// The client's own response timeout. It must not be shorter than that of
/// [`RedisStoreBuilder`](crate::RedisStoreBuilder), which is the one that applies.
const NEVER: Duration = Duration::from_secs(3600);

async fn attempt(client: &redis::Client) -> Result<MultiplexedConnection, RedisError> {
    // A `Duration` in version 0.32, and an `Option` in 1.
    #[allow(
        clippy::useless_conversion,
        reason = "not in all versions of the client"
    )]
    let config = AsyncConnectionConfig::new().set_response_timeout(NEVER.into());
    let connection = client.get_multiplexed_async_connection_with_config(&config);
    match timeout(ATTEMPT, connection).await {
        Ok(result) => result,
        Err(_) => Err(std::io::Error::from(std::io::ErrorKind::TimedOut).into()),
    }
}

impl Source for Reconnecting {
    type Connection = MultiplexedConnection;

    fn get(&self) -> Result<(MultiplexedConnection, u64), StoreError> {
        let state = &self.inner.state;
        match &*state.lock().unwrap_or_else(PoisonError::into_inner) {
            State::Up {
                connection, number, ..
            } => Ok((connection.clone(), *number)),
            State::Down(error) => Err(error.clone()),
        }
    }

    fn broke(&self, number: u64, error: &dyn std::fmt::Display) {
        let next = number + 1;
        let broken = {
            let state = &self.inner.state;
            let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
            match &*state {
                State::Up {
                    number: current, ..
                } if *current == number => {
                    std::mem::replace(&mut *state, State::Down(StoreError::new(error)))
                }
                _ => return,
            }
        };
        drop(broken);
        self.reconnect(next);
    }

    fn renew(&self, number: u64) {
        if !self.inner.is_renewal_due(number) {
            return;
        }
        let (inner, client) = (Arc::downgrade(&self.inner), self.inner.client.clone());
        tokio::spawn(async move {
            let attempted = attempt(&client).await;
            if let (Ok(connection), Some(inner)) = (attempted, inner.upgrade()) {
                inner.renewed(connection, number);
            }
        });
    }
}
