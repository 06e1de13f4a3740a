//! The shop: sells, and stores the payments that the service does not accept.

use std::error::Error;
use std::io;
use std::ops::Range;
use std::path::Path;
use std::time::Duration;

use backstop::circuit_breaker::Trip;
use backstop::dead_letter::{DeadLetterQueue, FileSink, NewLetter};
use backstop::{Backoff, CircuitBreaker, Policy, Retry};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

pub(crate) const IN_FLIGHT: usize = 4;

#[derive(Deserialize, Serialize)]
pub(crate) struct Payment {
    order: usize,
    cents: u32,
}

pub(crate) fn open(folder: &Path) -> Result<DeadLetterQueue<Payment>, Box<dyn Error>> {
    let sink = FileSink::builder(folder).open()?;
    Ok(DeadLetterQueue::builder()
        .sink(sink)
        .name("payments")
        .build()?)
}

/// Sells, and prints a line for each payment that is charged or stored.
pub(crate) async fn sell(
    folder: &str,
    address: &str,
    orders: Range<usize>,
) -> Result<(), Box<dyn Error>> {
    let queue = open(Path::new(folder))?;
    let stack = (
        Retry::builder()
            .max_attempts(2)
            .backoff(Backoff::fixed(Duration::from_millis(2)))
            .build()?,
        CircuitBreaker::builder()
            .trip_on(Trip::consecutive(20))
            .build()?,
    );
    for order in orders {
        let payment = Payment { order, cents: 1999 };
        let key = format!("order-{order}");
        let report = stack
            .call_reported(|| charge(address, &key, &payment))
            .await;
        if let Err(error) = &report.result {
            let letter = NewLetter::of_error(payment, error).attempts(report.attempts);
            queue.push(letter.idempotency_key(key)).await?;
        }
        println!("{order}");
    }
    Ok(())
}

/// Replays the payments, and prints a line for each one that is sent.
pub(crate) async fn replay(folder: &str, address: &str) -> Result<(), Box<dyn Error>> {
    let queue = open(Path::new(folder))?;
    let replay = queue.replay().rate(400.0).max_concurrent(IN_FLIGHT);
    replay
        .run(|letter| {
            println!("{}", letter.id());
            async move { charge(address, letter.idempotency_key(), letter.request()).await }
        })
        .await?;
    Ok(())
}

async fn charge(address: &str, key: &str, payment: &Payment) -> io::Result<()> {
    let mut stream = TcpStream::connect(address).await?;
    let line = format!("{key} {} {}\n", payment.order, payment.cents);
    stream.write_all(line.as_bytes()).await?;
    let mut answer = String::new();
    BufReader::new(stream).read_line(&mut answer).await?;
    match &*answer {
        "ok\n" => Ok(()),
        _ => Err(io::ErrorKind::ConnectionReset.into()),
    }
}
