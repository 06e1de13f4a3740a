//! A tonic client: a deadline for the whole call, which the server sees, and retries that obey the server's pushback.
//!
//! The messages are plain text with a codec of their own, so nothing is generated and `protoc` is not needed. With
//! generated code only `greet` changes.
//!
//! ```sh
//! cargo run --example grpc_client
//! ```

use std::convert::Infallible;
use std::error::Error as StdError;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use backstop::http::{attempt, grpc};
use backstop::{Attempt, Classify, Error, Policy, Retry, Timeout};
use bytes::{Buf, BufMut};
use http::uri::PathAndQuery;
use tonic::client::Grpc;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::transport::{Channel, Server};
use tonic::{Request, Response, Status};

/// Makes one attempt of the call, with its deadline and its number in the metadata.
async fn greet(channel: &Channel, attempt: Attempt, name: &str) -> Result<String, Status> {
    let mut request = Request::new(name.to_owned());
    if let Some(remaining) = attempt.remaining() {
        // Longer, so that the policy's timeout ends the attempt: tonic reports its own one as CANCELLED, which is ignored.
        request.set_timeout(remaining + Duration::from_millis(10));
    }
    if attempt.number() > 1 {
        let headers: &mut http::HeaderMap = request.metadata_mut().as_mut();
        headers.insert(attempt::PREVIOUS_ATTEMPTS, (attempt.number() - 1).into());
    }
    let mut client = Grpc::new(channel.clone());
    let ready = client.ready().await;
    ready.map_err(|error| Status::unavailable(error.to_string()))?;
    let path = PathAndQuery::from_static("/demo.Greeter/Greet");
    Ok(client.unary(request, path, Text).await?.into_inner())
}

async fn call(channel: &Channel, name: &str) -> Result<String, Error<Status>> {
    // recipe: gRPC client, at most 10 lines
    let stack = (
        Timeout::after(Duration::from_secs(2)),
        Retry::builder().build().expect("the settings are valid"),
        Classify::errors(|status: &Status| {
            grpc::verdict(status.code() as i32, status.metadata().as_ref())
        }),
    );
    stack
        .call_with(|attempt| greet(channel, attempt, name))
        .await
    // end of recipe
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn StdError>> {
    let channel = Channel::from_shared(server().await?)?.connect_lazy();
    for (name, what) in [
        ("busy", "pushback of 250 ms, then an answer"),
        ("never", "pushback of -1: no second attempt"),
        ("unknown", "NOT_FOUND: no second attempt"),
        ("slow", "the deadline of the call is over"),
    ] {
        let start = Instant::now();
        let result = call(&channel, name).await;
        let result = match &result {
            Ok(answer) => answer.clone(),
            Err(Error::Operation(status)) => format!("{:?}", status.code()),
            Err(error) => error.to_string(),
        };
        let elapsed = start.elapsed().as_secs_f64();
        println!("{name:>8}: {result}, after {elapsed:.2} s ({what})");
        let expected = match name {
            "busy" => "hello busy, attempt 2",
            "never" => "Unavailable",
            "unknown" => "NotFound",
            _ => "timed out",
        };
        assert!(result.contains(expected), "{result}");
        assert!(
            name != "busy" || elapsed >= 0.25,
            "the server asked to wait"
        );
    }
    Ok(())
}

/// Returns the server's answer to a name.
async fn answer(asked: u32, request: Request<String>) -> Result<Response<String>, Status> {
    let number = attempt::read(request.metadata().as_ref()).unwrap_or(1);
    assert!(request.metadata().contains_key("grpc-timeout"));
    let pushback = |milliseconds: &'static str| {
        let mut status = Status::unavailable("busy");
        let headers: &mut http::HeaderMap = status.metadata_mut().as_mut();
        headers.insert(grpc::PUSHBACK, milliseconds.parse().expect("a number"));
        status
    };
    match request.get_ref().as_str() {
        "busy" if asked == 0 => Err(pushback("250")),
        "never" => Err(pushback("-1")),
        "unknown" => Err(Status::not_found("no such name")),
        "slow" => std::future::pending().await,
        name => Ok(Response::new(format!("hello {name}, attempt {number}"))),
    }
}

async fn server() -> std::io::Result<String> {
    // A port that is free.
    let address = tokio::net::TcpListener::bind("127.0.0.1:0")
        .await?
        .local_addr()?;
    let server = Server::builder()
        .add_service(Greeter::default())
        .serve(address);
    tokio::spawn(async move { server.await.expect("the port is free") });
    while tokio::net::TcpStream::connect(address).await.is_err() {
        tokio::task::yield_now().await;
    }
    Ok(format!("http://{address}"))
}

/// Stands in for a generated server.
#[derive(Clone, Default)]
struct Greeter {
    asked: Arc<AtomicU32>,
}

impl tonic::server::NamedService for Greeter {
    const NAME: &'static str = "demo.Greeter";
}

impl tower::Service<http::Request<tonic::body::Body>> for Greeter {
    type Response = http::Response<tonic::body::Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<tonic::body::Body>) -> Self::Future {
        let asked = self.asked.fetch_add(1, Ordering::Relaxed);
        let method = tower::service_fn(move |request| answer(asked, request));
        Box::pin(async move { Ok(tonic::server::Grpc::new(Text).unary(method, request).await) })
    }
}

/// Messages are text.
#[derive(Clone, Copy)]
struct Text;

impl Codec for Text {
    type Encode = String;
    type Decode = String;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        *self
    }

    fn decoder(&mut self) -> Self {
        *self
    }
}

impl Encoder for Text {
    type Item = String;
    type Error = Status;

    fn encode(&mut self, text: String, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put_slice(text.as_bytes());
        Ok(())
    }
}

impl Decoder for Text {
    type Item = String;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<String>, Status> {
        let bytes = buffer.copy_to_bytes(buffer.remaining());
        let text = String::from_utf8(bytes.into());
        text.map(Some)
            .map_err(|error| Status::internal(error.to_string()))
    }
}
