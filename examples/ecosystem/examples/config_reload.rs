//! Clients whose settings come from a file, which changes while they are in use.
//!
//! ```sh
//! cargo run --release --example config_reload
//! ```

use std::error::Error as StdError;
use std::time::Duration;

use backstop::config::Registry;
use backstop::{Event, Policy};

#[tokio::main]
async fn main() -> Result<(), Box<dyn StdError>> {
    let path = std::env::temp_dir().join(format!("backstop-{}.toml", std::process::id()));
    std::fs::write(&path, "[clients.github]\nlimiter.quota = \"3/h\"\n")?;

    // recipe: configuration with reload, at most 5 lines
    let clients = Registry::builder().observer(report);
    let clients = clients.open(&path, |text| toml::from_str(text))?;
    tokio::spawn(clients.watch());
    let github = clients.get("github").ok_or("no such client")?;
    // end of recipe

    for file in [
        "[clients.github]\nlimiter.quota = \"5/h\"\n",
        "[clients.github]\nlimiter.quota = \"none\"\nretry.max_attempt = 5\n",
        "[clients.github]\nlimiter.enabled = false\n",
    ] {
        let mut admitted = 0;
        for _ in 0..10 {
            let result = github.call(|| async { Ok::<_, std::io::Error>(()) }).await;
            admitted += usize::from(result.is_ok());
        }
        println!("{admitted} of 10 calls admitted\n\n{file}");
        std::fs::write(&path, file)?;
        tokio::time::sleep(Duration::from_secs(2)).await;
        if let Some(error) = clients.last_error() {
            println!("{error}");
        }
    }
    println!("limiter: {:?}", github.limiter());
    std::fs::remove_file(&path)?;
    Ok(())
}

fn report(event: &Event) {
    if let Event::Config { .. } = event {
        println!("{event}");
    }
}
