use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

use backstop::http::{ClassifyResponses, transport_error};
use backstop::{Backoff, Classify, Policy, Retry, Verdict};
use reqwest_middleware::{ClientBuilder, ClientWithMiddleware};
use reqwest_retry::RetryTransientMiddleware;
use reqwest_retry::policies::ExponentialBackoff;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Starts a server that answers each request with the next of some raw responses, and closes the connection.
async fn server(answers: Vec<&'static str>) -> (String, Arc<AtomicUsize>) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    let asked = Arc::new(AtomicUsize::new(0));
    let count = asked.clone();
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            let _ = socket.read(&mut [0; 4096]).await;
            let number = count.fetch_add(1, Relaxed).min(answers.len() - 1);
            let _ = socket.write_all(answers[number].as_bytes()).await;
        }
    });
    (url, asked)
}

const MOVED: &str =
    "HTTP/1.1 302 Found\r\nlocation: /\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 5\r\nconnection: close\r\n\r\nhello";
const BROKEN: &str = "HTTP/1.1 200 OK\r\ncontent-length: 5\r\nconnection: close\r\n\r\nhe";
const DOWN: &str = "HTTP/1.1 500 Down\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
const THROTTLED: &str =
    "HTTP/1.1 429 Slow\r\nretry-after: 3600\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";

fn client() -> ClientWithMiddleware {
    let backoff = ExponentialBackoff::builder()
        .retry_bounds(Duration::from_millis(1), Duration::from_millis(2))
        .build_with_max_retries(3);
    ClientBuilder::new(reqwest::Client::new())
        .with(RetryTransientMiddleware::new_with_policy(backoff))
        .build()
}

#[tokio::test]
async fn reqwest_retry_repeats_a_post() {
    let (url, asked) = server(vec![DOWN, OK]).await;
    let response = client().post(url).body("order 7").send().await.unwrap();
    assert_eq!((response.status().as_u16(), asked.load(Relaxed)), (200, 2));
}

#[tokio::test]
async fn reqwest_retry_does_not_read_retry_after() {
    let (url, asked) = server(vec![THROTTLED, OK]).await;
    let start = Instant::now();
    let response = client().get(url).send().await.unwrap();
    assert_eq!((response.status().as_u16(), asked.load(Relaxed)), (200, 2));
    assert!(start.elapsed() < Duration::from_secs(3600));
}

#[tokio::test]
async fn reqwest_retry_returns_before_the_body() {
    let (url, asked) = server(vec![BROKEN, OK]).await;
    let response = client().get(url).send().await.unwrap();
    assert!(response.text().await.is_err());
    assert_eq!(asked.load(Relaxed), 1);
}

#[tokio::test]
async fn a_retry_of_ours_covers_the_body() {
    let (url, asked) = server(vec![BROKEN, OK]).await;
    let (http, retry) = (
        reqwest::Client::new(),
        backstop::Retry::builder().build().unwrap(),
    );
    let text = retry.call(|| async { http.get(&url).send().await?.text().await });
    assert_eq!(text.await.unwrap(), "hello");
    assert_eq!(asked.load(Relaxed), 2);
}

#[tokio::test]
async fn an_invalid_url_and_a_redirect_loop_need_a_classifier() {
    let (url, asked) = server(vec![MOVED]).await;
    let redirects = reqwest::redirect::Policy::limited(2);
    let http = reqwest::Client::builder().redirect(redirects).build();
    let http = http.unwrap();
    let theirs = ClientBuilder::new(http.clone())
        .with(RetryTransientMiddleware::new_with_policy(
            ExponentialBackoff::builder().build_with_max_retries(3),
        ))
        .build();
    assert!(theirs.get(&url).send().await.is_err());
    assert_eq!(asked.swap(0, Relaxed), 3);

    let retry = Retry::builder().backoff(Backoff::NONE).build().unwrap();
    let by_head = ClassifyResponses::by(|r: &reqwest::Response| (r.status(), r.headers()));
    let of_the_io = Classify::errors(|error: &reqwest::Error| transport_error(error));
    let of_reqwest = Classify::errors(|error: &reqwest::Error| {
        match error.is_builder() || error.is_redirect() {
            true => Verdict::permanent(),
            false => transport_error(error),
        }
    });
    for (url, sent) in [(&*url, 3), ("no URL", 0)] {
        let get = || http.get(url).send();
        let report = (&retry, by_head, &of_the_io).call_reported(get).await;
        assert_eq!((report.attempts, asked.swap(0, Relaxed)), (3, 3 * sent));
        let report = (&retry, by_head, &of_reqwest).call_reported(get).await;
        assert_eq!((report.attempts, asked.swap(0, Relaxed)), (1, sent));
    }
}
