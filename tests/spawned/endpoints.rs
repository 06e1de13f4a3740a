//! Operations that need a node.

use backstop::Policy;

use super::{BoxError, endpoints, fetch, retry, spawn, timeout};

/// Operations that need a node, in tasks and with every kind of value and error.
#[tokio::test(start_paused = true)]
async fn operations_for_nodes_can_be_spawned() {
    let endpoints = endpoints();
    let stack = (timeout(), retry(), endpoints.clone(), timeout());
    spawn(async move {
        let text = String::from("borrowed");
        let text = text.as_str();
        let one = endpoints.call(|node| async move {
            tokio::task::yield_now().await;
            match node.is_empty() {
                true => Err::<&str, BoxError>("empty".into()),
                false => Ok(text),
            }
        });
        assert_eq!(one.await.unwrap(), "borrowed");
        let each = endpoints.each(|node| async move { fetch(text, node.is_empty()).await });
        assert!(stack.call_with(each).await.is_err());
        let sticky = (&stack.1, endpoints.sticky("user-7"));
        let each = endpoints.each(|node| async move {
            tokio::task::yield_now().await;
            Err::<(), &'static str>(if node.is_empty() { "empty" } else { "static" })
        });
        assert!(sticky.call_with(each).await.is_err());
        let _permit = endpoints.try_acquire().unwrap();
        tokio::task::yield_now().await;
    })
    .await;
}
