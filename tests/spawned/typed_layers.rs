//! Layers whose types name the value or the error.

use std::error::Error as StdError;
use std::sync::{Arc, LazyLock};

use backstop::{
    Classify, Coalesce, Error, Event, Fallback, Inspect, MaybeStale, Pipeline, Policy, Stale,
    Verdict,
};

use super::{MINUTE, breaker, fetch, hedge, retry, spawn, timeout};

/// Layers whose type names the value or the error, with types without a lifetime.
#[tokio::test(start_paused = true)]
async fn typed_layers_with_a_custom_error() {
    #[derive(Debug, PartialEq)]
    enum MyError {
        Busy,
    }
    impl Clone for MyError {
        fn clone(&self) -> Self {
            Self::Busy
        }
    }
    static COALESCE: LazyLock<Coalesce<u64, u64, MyError>> =
        LazyLock::new(|| Coalesce::builder().build().unwrap());
    macro_rules! typed {
        ($($policy:expr),* $(,)?) => {$(
            let policy = $policy;
            spawn(async move {
                let text = String::from("borrowed");
                let result = policy.call(|| async {
                    tokio::task::yield_now().await;
                    match text.len() {
                        0 => Ok(1_u64),
                        _ => Err(MyError::Busy),
                    }
                });
                assert_eq!(result.await, Err(Error::Operation(MyError::Busy)));
                let once = policy.call_reported(|| async { Err::<u64, _>(MyError::Busy) });
                assert_eq!(once.await.attempts, 1);
            })
            .await;
        )*};
    }
    let errors = || Classify::errors(|_: &MyError| Verdict::permanent());
    typed![
        errors(),
        Classify::by(|result: Result<&u64, &Error<MyError>>| Verdict::default_for(result)),
        Classify::retry_if(|_: &MyError| false),
        Inspect::errors(|_: &MyError, _| {}),
        (
            timeout(),
            retry(),
            breaker(),
            errors(),
            Inspect::errors(|_: &MyError, _| {})
        ),
        Pipeline::new((retry(), errors())).observer(|_: &Event| {}),
        Fallback::value(7_u64).on_errors(false),
        Fallback::with(|_: &Error<MyError>| 7_u64).on_errors(false),
        (
            Fallback::try_with(|_: &Error<MyError>| None::<u64>),
            timeout()
        ),
        (
            Fallback::to(|_: &Error<MyError>| async { Err::<u64, _>(MyError::Busy) }),
            hedge(),
            errors(),
        ),
        COALESCE.get(&7),
        (timeout(), COALESCE.get(&7), retry(), errors()),
        Arc::new((retry(), Some(errors()))),
    ];
}

/// The last good value, and the cure for errors that cannot be cloned.
#[tokio::test(start_paused = true)]
async fn stale_values_and_shared_errors() {
    let stale = Stale::<String>::builder().max_age(MINUTE).build().unwrap();
    let result = spawn(async move {
        let text = String::from("borrowed");
        let load = || async {
            tokio::task::yield_now().await;
            Ok::<_, std::io::Error>(MaybeStale::fresh(text.clone()))
        };
        (stale, timeout()).call(load).await.map(|value| value.len())
    });
    assert_eq!(result.await.unwrap(), 8);
    static FILES: LazyLock<Coalesce<String, Arc<str>, Arc<std::io::Error>>> =
        LazyLock::new(|| Coalesce::builder().build().unwrap());
    let result = spawn(async {
        let name = String::from("name");
        let stack = (timeout(), FILES.get(name.as_str()), retry());
        stack.call(|| async { Ok(Arc::from(name.as_str())) }).await
    });
    assert_eq!(&*result.await.unwrap(), "name");
}

/// The cure for boxed errors and errors with lifetimes: a classifier for any lifetime.
#[tokio::test(start_paused = true)]
async fn typed_layers_with_a_lifetime_take_a_function() {
    #[allow(clippy::borrowed_box, reason = "the type of the error is the box")]
    fn boxed(error: &Box<dyn StdError + Send + Sync + '_>) -> Verdict {
        match error.to_string().is_empty() {
            true => Verdict::transient(),
            false => Verdict::permanent(),
        }
    }
    fn text(error: &&str) -> Verdict {
        match error.is_empty() {
            true => Verdict::transient(),
            false => Verdict::permanent(),
        }
    }
    let attempts = spawn(async {
        let stack = (timeout(), retry(), Classify::errors(boxed));
        stack.call_reported(|| fetch("no", false)).await.attempts
    });
    assert_eq!(attempts.await, 1);
    let attempts = spawn(async {
        let stack = (timeout(), retry(), Classify::errors(text));
        stack
            .call_reported(|| async { Err::<(), _>("no") })
            .await
            .attempts
    });
    assert_eq!(attempts.await, 1);
}
