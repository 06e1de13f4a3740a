use std::sync::{Arc, Mutex};
use std::time::Duration;

use backstop::http::{self as rules, attempt, deadline};
use backstop::tower::PolicyLayer;
use backstop::{Clock, Policy, Timeout, TokioClock};
use http::{Request, Response};
use tower_layer::Layer;
use tower_service::Service;

use crate::{ms, scripted, send};

type Handler = Arc<
    dyn Fn(Request<()>) -> std::pin::Pin<Box<dyn Future<Output = Response<String>> + Send>>
        + Send
        + Sync,
>;

/// A server under a policy whose deadline comes from the request, and that calls the next one after some work.
fn server(next: Option<Handler>, work: Duration, seen: Arc<Mutex<Vec<Duration>>>) -> Handler {
    let handler = scripted(move |_, request: Request<()>| {
        let (next, seen) = (next.clone(), seen.clone());
        async move {
            seen.lock()
                .unwrap()
                .push(deadline::read(request.headers()).unwrap());
            tokio::time::sleep(work).await;
            let Some(next) = next else {
                return Ok::<_, ()>(Response::new(String::from("done")));
            };
            // The policy of the server has set the deadline of the task: the call inherits it.
            let client = Timeout::after(ms(60_000));
            let call = client.call_with(|number| {
                let mut request = Request::new(());
                attempt::write(request.headers_mut(), &number);
                let next = next.clone();
                async move { Ok::<_, ()>(next(request).await) }
            });
            Ok(call.await.unwrap())
        }
    });
    let policy = (
        Timeout::after(ms(60_000)),
        deadline::at_least(ms(200), TokioClock),
    );
    let layer = PolicyLayer::new(policy)
        .options(|request: &Request<()>| rules::call_options(request.method(), request.headers()));
    let service = layer.respond().layer(handler);
    Arc::new(move |request| {
        let mut service = service.clone();
        Box::pin(async move { send(&mut service, request).await.unwrap() })
    })
}

fn request(left: Duration) -> Request<()> {
    let mut request = Request::new(());
    deadline::write(request.headers_mut(), left);
    request
}

#[tokio::test(start_paused = true)]
async fn a_deadline_shrinks_from_hop_to_hop_and_late_work_is_not_begun() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let last = server(None, ms(10), seen.clone());
    let middle = server(Some(last.clone()), ms(200), seen.clone());
    let first = server(Some(middle), ms(200), seen.clone());
    assert_eq!(first(request(ms(1000))).await.status(), 200);
    let times = std::mem::take(&mut *seen.lock().unwrap());
    assert_eq!(times.len(), 3);
    assert!(
        times.windows(2).all(|pair| pair[1] + ms(200) <= pair[0]),
        "{times:?}"
    );
    // Each has its minimum; a request with less gets 504, and the handler does not run.
    assert!(times.iter().all(|left| *left >= ms(200)), "{times:?}");
    let start = TokioClock.now();
    assert_eq!(last(request(ms(200))).await.status(), 504);
    assert_eq!(last(request(ms(0))).await.status(), 504);
    assert!(seen.lock().unwrap().is_empty());
    assert_eq!(
        TokioClock.now().saturating_duration_since(start),
        Duration::ZERO
    );
}

#[tokio::test(start_paused = true)]
async fn a_handler_is_cut_off_at_the_deadline_of_its_request() {
    let slow = server(None, ms(5000), Arc::default());
    let start = tokio::time::Instant::now();
    assert_eq!(slow(request(ms(1000))).await.status(), 504);
    assert_eq!(start.elapsed(), ms(950));
}

/// The service types are nameable and spawn.
#[tokio::test(start_paused = true)]
async fn services_with_options_are_spawned() {
    let layer = PolicyLayer::new(Timeout::after(ms(100)))
        .options(|_: &Request<()>| backstop::CallOptions::new());
    let mut service = layer.layer(scripted(|_, _: Request<()>| async { Ok::<_, ()>(7) }));
    let ready = std::future::poll_fn(|task| service.poll_ready(task)).await;
    assert!(ready.is_ok());
    assert_eq!(
        tokio::spawn(service.call(Request::new(()))).await.unwrap(),
        Ok(7)
    );
}
