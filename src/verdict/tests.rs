use super::*;

#[test]
fn constructors_have_the_health_and_the_advice_of_their_names() {
    let second = Duration::from_secs(1);
    let table = [
        (Verdict::success(), Health::Healthy, RetryAdvice::No),
        (Verdict::transient(), Health::Unhealthy, RetryAdvice::Yes),
        (
            Verdict::throttled(None),
            Health::Unhealthy,
            RetryAdvice::Yes,
        ),
        (
            Verdict::throttled(second),
            Health::Unhealthy,
            RetryAdvice::After(second),
        ),
        (Verdict::permanent(), Health::Healthy, RetryAdvice::No),
        (Verdict::failure(), Health::Unhealthy, RetryAdvice::No),
        (Verdict::ignore(), Health::Neutral, RetryAdvice::No),
        (Verdict::timed_out(), Health::Unhealthy, RetryAdvice::Yes),
    ];
    for (verdict, health, retry) in table {
        assert_eq!((verdict.health(), verdict.retry()), (health, retry));
        assert!(verdict.may_have_been_executed());
    }
}

#[test]
fn retries_can_be_allowed_and_forbidden_afterwards() {
    let allowed = Verdict::failure().with_retry(true);
    assert_eq!(allowed.retry(), RetryAdvice::Yes);
    let forbidden = Verdict::transient().with_retry(false);
    assert_eq!(forbidden.retry(), RetryAdvice::No);
}

#[test]
fn a_rejection_says_nothing_about_the_dependency() {
    for reason in [
        Reason::RateLimited,
        Reason::BulkheadFull,
        Reason::QueueTimeout,
        Reason::Shed,
        Reason::Throttled,
        Reason::NoEndpoint,
    ] {
        let verdict = Verdict::of_rejected(&Rejected::new("x", reason));
        assert_eq!(verdict.health(), Health::Neutral);
        assert!(verdict.is_retryable() && !verdict.may_have_been_executed());
    }
    for reason in [
        Reason::CircuitOpen,
        Reason::Isolated,
        Reason::DeadlineTooClose,
        Reason::CostExceedsLimit,
        Reason::NotRepeatable,
    ] {
        let verdict = Verdict::of_rejected(&Rejected::new("x", reason));
        assert_eq!(verdict.health(), Health::Neutral);
        assert!(!verdict.is_retryable());
    }
}

#[test]
fn an_endless_hint_is_kept_as_a_hint() {
    for after in [Duration::from_nanos(u64::MAX), Duration::MAX] {
        let hint = Verdict::throttled(after).hint();
        assert_eq!(hint, Some(Duration::from_nanos(u64::MAX - 1)));
    }
    assert_eq!(Verdict::throttled(None).hint(), None);
}

#[test]
fn a_verdict_is_two_words() {
    assert!(size_of::<Verdict>() <= 16);
}

#[test]
fn a_custom_rejection_is_retried_if_it_states_a_time() {
    let rejected = Rejected::new("maintenance", Reason::Custom);
    assert!(!Verdict::of_rejected(&rejected).is_retryable());
    let second = Duration::from_secs(1);
    let verdict = Verdict::of_rejected(&rejected.with_retry_after(second));
    assert_eq!(verdict.retry(), RetryAdvice::After(second));
}

#[test]
fn setters_change_one_part_each() {
    let classes = [
        ErrorClass::Transient,
        ErrorClass::Throttled,
        ErrorClass::Timeout,
    ];
    for health in [Health::Healthy, Health::Unhealthy, Health::Neutral] {
        for class in classes {
            for retry in [false, true] {
                let verdict = Verdict::pushback(Duration::from_secs(7))
                    .not_executed()
                    .with_health(health)
                    .with_class(class)
                    .with_retry(retry);
                assert_eq!((verdict.health(), verdict.class()), (health, class));
                assert_eq!(verdict.is_retryable(), retry);
                assert!(verdict.resets_backoff() && !verdict.may_have_been_executed());
                assert_eq!(verdict.hint(), Some(Duration::from_secs(7)));
            }
        }
    }
}

#[test]
fn a_verdict_prints_words() {
    let verdict = Verdict::throttled(Duration::from_secs(5)).not_executed();
    assert_eq!(
        verdict.to_string(),
        "unhealthy, retry after 5s, not executed"
    );
    assert_eq!(Verdict::success().to_string(), "healthy, no retry");
    assert_eq!(
        format!("{:?}", Verdict::transient()),
        "Verdict { health: Unhealthy, retry: true, hint: None, class: Transient, \
         resets_backoff: false, may_have_been_executed: true }"
    );
}
