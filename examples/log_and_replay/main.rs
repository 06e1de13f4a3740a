//! A payment service is down. The payments are stored in files, and sent once it is up again, although the process that
//! stores them is killed twice.
//!
//! ```sh
//! cargo run --release --example log_and_replay --features dead-letter-file
//! ```
//!
//! This program is the payment service. It starts itself once more as the shop, and kills the shop with SIGKILL: once
//! while it stores payments, once while it replays them.

mod service;
mod shop;

use std::error::Error;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

use self::service::Service;

const PAYMENTS: usize = 600;
/// Number of lines of output after which the shop is killed.
const KILL_SALES_AT: usize = 250;
const KILL_REPLAY_AT: usize = 200;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().collect();
    if let [_, role, folder, address, from] = &args[..] {
        let first = from.parse()?;
        return match &**role {
            "sell" => shop::sell(folder, address, first..PAYMENTS).await,
            _ => shop::replay(folder, address).await,
        };
    }

    let folder = std::env::temp_dir().join(format!("log-and-replay-{}", std::process::id()));
    let service = Service::start().await?;
    println!(
        "{:<34} {:>8} {:>10} {:>8} {:>9}",
        "", "payments", "in letters", "charged", "repeated"
    );

    let sold = run_shop("sell", &folder, &service, 0, Some(KILL_SALES_AT)).await?;
    report("service down, shop killed", sold, &folder, &service)?;
    let more = run_shop("sell", &folder, &service, sold, None).await?;
    report(
        "service down, shop started again",
        sold + more,
        &folder,
        &service,
    )?;

    service.recover();
    let replayed = run_shop("replay", &folder, &service, 0, Some(KILL_REPLAY_AT)).await?;
    report(
        "service back, killed in the replay",
        PAYMENTS,
        &folder,
        &service,
    )?;
    let rest = run_shop("replay", &folder, &service, 0, None).await?;
    report("replay goes on", PAYMENTS, &folder, &service)?;

    println!("\nreplays: {replayed} before the kill and {rest} after it, at 400 a second");
    let (charged, repeated) = service.counts();
    assert_eq!(charged, PAYMENTS, "a payment is lost");
    assert!(
        repeated <= shop::IN_FLIGHT,
        "more than what was in flight was repeated"
    );
    println!(
        "every payment was charged once; repetitions that the service recognized by their idempotency keys: {repeated}"
    );
    std::fs::remove_dir_all(&folder)?;
    Ok(())
}

/// Runs the shop, and kills it after this many lines of output. Returns the number of lines.
async fn run_shop(
    role: &str,
    folder: &Path,
    service: &Arc<Service>,
    first: usize,
    kill_at: Option<usize>,
) -> Result<usize, Box<dyn Error>> {
    let mut shop = Command::new(std::env::current_exe()?)
        .arg(role)
        .arg(folder)
        .arg(service.address().to_string())
        .arg(first.to_string())
        .stdout(Stdio::piped())
        .spawn()?;
    let output = shop.stdout.take().ok_or("no output")?;
    let lines = tokio::task::spawn_blocking(move || {
        let mut lines = 0;
        for line in BufReader::new(output).lines() {
            line?;
            lines += 1;
            if Some(lines) == kill_at {
                shop.kill()?;
            }
        }
        shop.wait()?;
        Ok::<_, std::io::Error>(lines)
    });
    Ok(lines.await??)
}

fn report(
    what: &str,
    payments: usize,
    folder: &Path,
    service: &Service,
) -> Result<(), Box<dyn Error>> {
    let letters = shop::open(folder)?.snapshot().letters;
    let (charged, repeated) = service.counts();
    println!("{what:<34} {payments:>8} {letters:>10} {charged:>8} {repeated:>9}");
    Ok(())
}
