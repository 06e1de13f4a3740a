//! Keyed layers inside a temporary stack.

use std::sync::Arc;

use backstop::{
    CallOptions, CircuitBreaker, Error, Event, Keyed, KeyedRateLimiter, Pipeline, Policy, Retry,
    Timeout,
};

use super::{BoxError, KEYS, MINUTE, breaker, fetch, retry, spawn, timeout};

/// Keyed layers inside a temporary stack need no type names.
#[tokio::test(start_paused = true)]
async fn a_client_with_keyed_layers() {
    struct Client {
        total: Timeout,
        retry: Retry,
        breakers: Keyed<String, CircuitBreaker>,
        limits: KeyedRateLimiter<u64>,
        attempt: Timeout,
        pipeline: Pipeline<()>,
    }

    impl Client {
        async fn get(&self, host: &str, tenant: u64) -> Result<String, Error<BoxError>> {
            (
                &self.total,
                &self.retry,
                &self.breakers.get(host),
                self.limits.get(&tenant),
                &self.attempt,
            )
                .call(|| fetch(host, true))
                .await
        }

        async fn get_observed(&self, host: &str) -> Result<String, Error<BoxError>> {
            let options = CallOptions::new().deadline(MINUTE);
            self.pipeline
                .with(options)
                .around((&self.total, &self.retry, &self.breakers.get(host)))
                .call(|| fetch(host, true))
                .await
        }
    }

    let client = Arc::new(Client {
        total: timeout(),
        retry: retry(),
        breakers: Keyed::new(|_: &String| breaker()),
        limits: KEYS.clone(),
        attempt: timeout(),
        pipeline: Pipeline::new(())
            .with_name("hosts")
            .observer(|_: &Event| {}),
    });
    let task = client.clone();
    assert_eq!(
        spawn(async move { task.get("host", 7).await.unwrap() }).await,
        "host"
    );
    assert_eq!(
        spawn(async move { client.get_observed("host").await.unwrap() }).await,
        "host"
    );
}
