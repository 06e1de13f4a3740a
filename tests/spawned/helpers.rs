//! Functions that take any policy and any closure, called in spawned tasks.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use backstop::policy::Calls;
use backstop::{Coalesce, Error, Pipeline, Standard};

use super::{BoxError, breaker, endpoints, limiter, retry, timeout};

async fn helper<P: Calls<F>, F>(policy: &P, op: F) -> Result<P::Value, Error<P::Error>> {
    policy.call_any(op).await
}

#[tokio::test]
async fn a_helper_takes_any_policy_and_any_closure() {
    let stack = Arc::new((timeout(), retry(), breaker(), limiter()));
    let text = String::from("captured");
    let (policy, capture) = (stack.clone(), text.clone());
    let length = tokio::spawn(async move {
        let op = || async { Ok::<_, BoxError>(capture.len()) };
        helper(&*policy, op).await
    });
    assert_eq!(length.await.unwrap().unwrap(), 8);
    let policy = stack.clone();
    let failed =
        tokio::spawn(
            async move { helper(&policy, || async { Err::<&'static str, _>("down") }).await },
        );
    assert_eq!(failed.await.unwrap(), Err(Error::Operation("down")));
    let pipeline = Pipeline::new(retry());
    let value = tokio::spawn(async move {
        let op = || async { Ok::<_, Cow<'static, str>>(Cow::Borrowed("value")) };
        helper(&pipeline, op).await
    });
    assert_eq!(value.await.unwrap().unwrap(), "value");
    let standard = Standard::new("helper");
    let value =
        tokio::spawn(
            async move { helper(&standard, || async { anyhow::Ok(Duration::ZERO) }).await },
        );
    assert_eq!(value.await.unwrap().unwrap(), Duration::ZERO);
    assert_eq!(
        helper(&Some(retry()), || async { Ok::<_, ()>(1) }).await,
        Ok(1)
    );
    assert_eq!(
        helper(&endpoints(), || async { Ok::<_, ()>(1) }).await,
        Ok(1)
    );
    let pages = Coalesce::<u8, u8, u8>::builder().build().unwrap();
    assert_eq!(helper(&pages.get(&1), || async { Ok(1) }).await, Ok(1));
}

/// Owns its policy.
struct Owner<P>(P);

impl<P> Owner<P> {
    async fn call<F>(&self, op: F) -> Result<P::Value, Error<P::Error>>
    where
        P: Calls<F>,
    {
        self.0.call_any(op).await
    }
}

#[tokio::test]
async fn a_type_that_owns_a_policy_takes_any_closure() {
    let owner = Arc::new(Owner((timeout(), retry())));
    let text = String::from("captured");
    let length =
        tokio::spawn(async move { owner.call(|| async { Ok::<_, BoxError>(text.len()) }).await });
    assert_eq!(length.await.unwrap().unwrap(), 8);
}
