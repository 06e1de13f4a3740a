//! A registry of erased policies.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;

use backstop::policy::Boxable;
use backstop::{BoxPolicy, Classified, Classify, Event, Pipeline, Verdict};

use super::{BoxError, breaker, bulkhead, fetch, limiter, retry, spawn, throttle, timeout};

#[tokio::test(start_paused = true)]
async fn a_registry_of_boxed_policies() {
    let mut policies: HashMap<String, BoxPolicy<String, BoxError>> = HashMap::new();
    policies.insert("timeout".into(), BoxPolicy::new(timeout()));
    policies.insert("none".into(), BoxPolicy::new(()));
    policies.insert(
        "stack".into(),
        BoxPolicy::new((timeout(), retry(), breaker(), limiter(), bulkhead())),
    );
    policies.insert(
        "pipeline".into(),
        BoxPolicy::new(Pipeline::new((retry(), Some(throttle()))).observer(|_: &Event| {})),
    );
    let classify = |error: &BoxError| match error.to_string().is_empty() {
        true => Verdict::transient(),
        false => Verdict::permanent(),
    };
    policies.insert(
        "typed".into(),
        BoxPolicy::new((retry(), Classify::errors(classify))),
    );
    let policies = Arc::new(policies);
    for name in policies.keys() {
        let (policies, name) = (policies.clone(), name.clone());
        spawn(async move {
            let (policy, text) = (&policies[&name], String::from("borrowed"));
            assert_eq!(
                policy.call(|| fetch(&text, true)).await.unwrap(),
                "borrowed"
            );
            let with = policy.call_with(|attempt| fetch(&text, attempt.number() == 1));
            assert_eq!(with.await.unwrap(), "borrowed");
            let classified = policy.call_classified(|| async {
                let result = fetch(&text, false).await;
                result.map_err(Classified::permanent)
            });
            assert!(classified.await.unwrap_err().operation().is_some());
        })
        .await;
    }
    let fixed: BoxPolicy<Cow<'static, str>, &'static str> = BoxPolicy::new((timeout(), retry()));
    let task = spawn(async move { fixed.clone().call(|| async { Ok("static".into()) }).await });
    assert_eq!(task.await, Ok(Cow::Borrowed("static")));
}

/// A registry that takes any policy needs one bound.
#[tokio::test(start_paused = true)]
async fn a_registry_that_takes_any_policy() {
    #[derive(Default)]
    struct Hosts(HashMap<&'static str, BoxPolicy<String, BoxError>>);

    impl Hosts {
        fn add<P: Boxable<String, BoxError>>(&mut self, name: &'static str, policy: P) {
            self.0.insert(name, BoxPolicy::new(policy));
        }
    }

    let mut hosts = Hosts::default();
    hosts.add("retry", (timeout(), retry()));
    hosts.add("none", ());
    for (name, policy) in hosts.0 {
        let task = spawn(async move { policy.call(|| fetch(name, true)).await.unwrap() });
        assert_eq!(task.await, name);
    }
}
