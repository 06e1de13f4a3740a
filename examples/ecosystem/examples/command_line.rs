//! A command-line program without a runtime: `call_blocking` around a blocking client, here ureq.
//!
//! ```sh
//! cargo run --example command_line
//! ```

use std::error::Error as StdError;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::time::{Duration, Instant};

use backstop::http::{self as rules, ClassifyResponses};
use backstop::{Classify, Error, Policy, Retry, Timeout, Verdict};
use ureq::Agent;

/// An invalid URL or a redirect loop is the same at each attempt, and says nothing about the server's health.
fn verdict(error: &ureq::Error) -> Verdict {
    use ureq::Error::{BadUri, Http, RedirectFailed, TooManyRedirects};

    match error {
        BadUri(_) | Http(_) | RedirectFailed | TooManyRedirects => Verdict::permanent(),
        error => rules::transport_error(error),
    }
}

fn fetch(agent: &Agent, url: &str) -> Result<String, Box<dyn StdError>> {
    // recipe: blocking HTTP client, at most 10 lines
    let stack = (
        Timeout::after(Duration::from_secs(10)), // no attempt starts later
        Retry::builder()
            .on_retry(|next| eprintln!("retrying in {:.1?}", next.delay()))
            .build()?,
        ClassifyResponses::new(),
        Classify::errors(verdict),
    );
    let mut response = stack.call_blocking(|| agent.get(url).call())?;
    // end of recipe
    println!("status {}", response.status());
    Ok(response.body_mut().read_to_string()?)
}

fn main() -> Result<(), Box<dyn StdError>> {
    // Statuses are responses: the stack assigns their verdicts.
    let agent: Agent = Agent::config_builder()
        .http_status_as_error(false)
        .timeout_per_call(Some(Duration::from_secs(2)))
        .build()
        .into();
    let url = server()?;

    let start = Instant::now();
    let text = fetch(&agent, &url)?;
    println!("{text:?} after {:.1} s", start.elapsed().as_secs_f64());
    assert!(text == "hello" && start.elapsed() >= Duration::from_secs(1));

    let error = fetch(&agent, "http://127.0.0.1:1/").unwrap_err();
    println!("{error:#}");
    assert!(matches!(
        error.downcast_ref::<Error<ureq::Error>>(),
        Some(Error::Operation(_))
    ));

    let error = fetch(&agent, "no URL").unwrap_err();
    println!("{error:#}");
    Ok(())
}

/// A server that is busy once.
fn server() -> std::io::Result<String> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let url = format!("http://{}/", listener.local_addr()?);
    std::thread::spawn(move || {
        let busy =
            "HTTP/1.1 503 Busy\r\nretry-after: 1\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
        let hello = "HTTP/1.1 200 OK\r\ncontent-length: 5\r\nconnection: close\r\n\r\nhello";
        for (connection, answer) in listener.incoming().zip([busy, hello]) {
            let Ok(mut connection) = connection else {
                return;
            };
            let _ = connection.read(&mut [0; 1024]);
            let _ = connection.write_all(answer.as_bytes());
        }
    });
    Ok(url)
}
