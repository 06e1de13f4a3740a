//! A connection pool with a bulkhead. As with sqlx or a Redis client, calls wait for a connection, and a pool lets any
//! number of them wait. The bulkhead bounds how many wait, and for how long.
//!
//! ```sh
//! cargo run --example connection_pool
//! ```

use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use backstop::{Bulkhead, Policy};
use bb8::{ManageConnection, Pool};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// Number of connections that the database handles well.
const CONNECTIONS: u32 = 4;
/// Time that the database takes for a query.
const QUERY: Duration = Duration::from_millis(20);
/// Number of queries that arrive at once.
const QUERIES: usize = 100;

type Database = Pool<Connections>;

async fn query(database: &Database) -> io::Result<u8> {
    let mut connection = database.get().await.map_err(io::Error::other)?;
    connection.write_u8(b'?').await?;
    connection.read_u8().await
}

/// Sends all queries at once, and prints the results.
async fn load(name: &str, database: &Database, bulkhead: Option<Bulkhead>) -> Duration {
    let start = Instant::now();
    let queries = (0..QUERIES).map(|_| {
        let (database, bulkhead) = (database.clone(), bulkhead.clone());
        tokio::spawn(async move {
            let result = bulkhead.call(|| query(&database)).await;
            (result.map_err(|error| error.reason()), start.elapsed())
        })
    });
    let mut answered = Vec::new();
    let mut rejected = std::collections::BTreeMap::new();
    for query in queries.collect::<Vec<_>>() {
        match query.await.expect("it does not panic") {
            (Ok(_), elapsed) => answered.push(elapsed),
            (Err(reason), _) => {
                let reason = reason.map_or("failed", |reason| reason.as_str());
                *rejected.entry(reason).or_insert(0) += 1;
            }
        }
    }
    let slowest = answered.iter().max().copied().unwrap_or_default();
    println!(
        "{name}: {} of {QUERIES} answered, the last one after {} ms; rejected: {rejected:?}",
        answered.len(),
        slowest.as_millis()
    );
    slowest
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let database = Pool::builder()
        .max_size(CONNECTIONS)
        .build(Connections(server().await?))
        .await?;

    let alone = load("pool alone", &database, None).await;

    // recipe: pool with a bulkhead, at most 6 lines
    let bulkhead = Bulkhead::builder()
        .max_concurrent(CONNECTIONS) // so that no call waits inside the pool
        .max_waiting(20)
        .max_wait(Duration::from_millis(500))
        .build()?;
    // end of recipe
    let guarded = load("with a bulkhead", &database, Some(bulkhead)).await;
    assert!(guarded < alone, "the wait queue is shorter");
    Ok(())
}

/// Connects to the database below, as a driver would.
struct Connections(SocketAddr);

impl ManageConnection for Connections {
    type Connection = TcpStream;
    type Error = io::Error;

    async fn connect(&self) -> io::Result<TcpStream> {
        TcpStream::connect(self.0).await
    }

    async fn is_valid(&self, _: &mut TcpStream) -> io::Result<()> {
        Ok(())
    }

    fn has_broken(&self, _: &mut TcpStream) -> bool {
        false
    }
}

/// A database that answers each byte with a byte.
async fn server() -> io::Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    tokio::spawn(async move {
        while let Ok((mut connection, _)) = listener.accept().await {
            tokio::spawn(async move {
                while connection.read_u8().await.is_ok() {
                    tokio::time::sleep(QUERY).await;
                    let _ = connection.write_u8(b'!').await;
                }
            });
        }
    });
    Ok(address)
}
