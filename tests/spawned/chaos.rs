//! Injected faults.

use backstop::Policy;

use super::{MINUTE, fetch, retry, spawn};

#[tokio::test(start_paused = true)]
async fn injected_faults_can_be_spawned() {
    let chaos = backstop::Chaos::builder()
        .latency(0.5, MINUTE)
        .behavior(0.5, tokio::task::yield_now)
        .max_share(1.0);
    let chaos = chaos.build().unwrap();
    spawn(async move {
        let text = String::from("borrowed");
        for _ in 0..20 {
            assert_eq!(
                (retry(), &chaos).call(|| fetch(&text, true)).await.unwrap(),
                "borrowed"
            );
        }
    })
    .await;
    let errors = backstop::Chaos::builder()
        .error(1.0, || 7_u32)
        .max_share(1.0)
        .build()
        .unwrap();
    spawn(async move {
        let text = String::from("borrowed");
        let text = text.as_str();
        let call = errors.call(|| async move { Ok::<_, u32>(text) });
        assert_eq!(call.await.unwrap_err().into_operation(), Some(7));
    })
    .await;
}
