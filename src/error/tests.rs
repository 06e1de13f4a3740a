//! Tests of errors.

use std::io;

use super::*;

const REJECTED: Rejected = Rejected::new("github", Reason::CircuitOpen);

#[test]
fn display_is_one_lower_case_line() {
    let table: [(Error<io::Error>, &str); 4] = [
        (
            Error::Operation(io::Error::other("Boom")),
            "the operation failed",
        ),
        (REJECTED.into(), "rejected by github: circuit open"),
        (
            REJECTED
                .with_retry_after(Duration::from_millis(2500))
                .into(),
            "rejected by github: circuit open, retry after 2.5s",
        ),
        (
            TimedOut::new("attempt", Duration::from_secs(2)).into(),
            "timed out by attempt after 2s",
        ),
    ];
    for (error, text) in &table {
        assert_eq!(error.to_string(), *text);
    }
    let policies = table.each_ref().map(|(error, _)| error.policy());
    assert_eq!(
        policies,
        [None, Some("github"), Some("github"), Some("attempt")]
    );
    let [operation, rejected, ..] = table.map(|(error, _)| format!("{error:#}"));
    assert_eq!(operation, "the operation failed: Boom");
    assert_eq!(rejected, "rejected by github: circuit open");
    let error = ConfigError::new("retry", "max_attempts", "must be at least 1");
    assert_eq!(error.to_string(), "retry: max_attempts must be at least 1");
    assert_eq!(
        (error.policy(), error.setting(), error.problem()),
        ("retry", "max_attempts", "must be at least 1")
    );
}

#[test]
fn the_source_is_the_operations_error() {
    let error = Error::Operation(io::Error::other("boom"));
    assert_eq!(error.source().unwrap().to_string(), "boom");
    let error: Error<io::Error> = REJECTED.into();
    assert!(error.source().is_none());
}

#[test]
fn a_question_mark_converts_it_to_a_boxed_error() {
    fn application() -> Result<(), Box<dyn StdError + Send + Sync>> {
        Err(Error::Operation(io::Error::other("boom")))?
    }
    assert!(application().is_err());
}

#[test]
fn accessors_return_none_for_other_variants() {
    let rejected: Error<u8> = REJECTED.with_retry_after(Duration::from_secs(1)).into();
    assert!(rejected.is_rejected() && !rejected.is_timeout());
    assert_eq!(rejected.reason(), Some(Reason::CircuitOpen));
    assert_eq!(rejected.retry_after(), Some(Duration::from_secs(1)));
    assert_eq!(rejected.into_operation(), None);

    let own = Error::Operation(7_u8);
    assert_eq!((own.reason(), own.retry_after()), (None, None));
    assert_eq!(own.operation(), Some(&7));
    assert_eq!(own.map(u32::from).into_operation(), Some(7_u32));
    assert_eq!(Error::Operation(own).flatten(), own);
    assert_eq!(
        Error::<Error<u8>>::from(REJECTED).flatten(),
        REJECTED.into()
    );
}

#[test]
fn a_rejection_keeps_its_reason_and_its_time() {
    let reasons = (0..=11).map(Reason::of_number);
    for (number, reason) in reasons.enumerate() {
        assert_eq!(reason as usize, number);
        const EXACT: u64 = u64::MAX >> 5;
        for nanos in [0, 1, EXACT - 1, EXACT, EXACT + 1, u64::MAX - 1, u64::MAX] {
            let after = Duration::from_nanos(nanos);
            let rejected = Rejected::new("x", reason).with_retry_after(after);
            assert_eq!(rejected.reason(), reason);
            match rejected.retry_after() {
                None => assert_eq!(nanos, u64::MAX),
                Some(told) if nanos < EXACT => assert_eq!(told, after),
                Some(told) => {
                    let early = told.saturating_sub(after);
                    assert!(told >= after && early < Duration::from_nanos(1024));
                }
            }
        }
    }
}

#[test]
fn a_retry_time_beyond_a_word_is_unknown() {
    assert_eq!(REJECTED.with_retry_after(Duration::MAX).retry_after(), None);
    assert_eq!(
        REJECTED.with_retry_after(Duration::ZERO).retry_after(),
        Some(Duration::ZERO)
    );
}

#[test]
fn display_rounds_times_up_to_three_digits() {
    let rejected = REJECTED.with_retry_after(Duration::from_nanos(1_234_567_891));
    assert_eq!(
        rejected.to_string(),
        "rejected by github: circuit open, retry after 1.235s"
    );
    let timed_out = TimedOut::new("attempt", Duration::from_nanos(2_000_001));
    assert_eq!(timed_out.to_string(), "timed out by attempt after 2.001ms");
}

#[test]
fn unwrap_or_else_converts_the_errors_of_policies_only() {
    let unwrap = |error: Error<String>| error.unwrap_or_else(|error| format!("converted: {error}"));
    assert_eq!(unwrap(Error::Operation("boom".to_owned())), "boom");
    let rejected = unwrap(REJECTED.into());
    assert_eq!(rejected, "converted: rejected by github: circuit open");
    let timed_out = unwrap(TimedOut::new("attempt", Duration::from_secs(2)).into());
    assert_eq!(timed_out, "converted: timed out by attempt after 2s");
}
