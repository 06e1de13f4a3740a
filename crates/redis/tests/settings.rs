//! Settings of a store from files.
#![cfg(feature = "config")]

use std::time::Duration;

use backstop_redis::{RedisStore, RedisStoreSettings};

fn read(text: &str) -> Result<RedisStoreSettings, String> {
    serde_json::from_str(text).map_err(|error| error.to_string())
}

#[test]
fn each_setting_reaches_its_setter() {
    let text = r#"{"prefix":"shop:","max_in_flight":7,"response_timeout":"1s 500ms"}"#;
    let settings = read(text).unwrap();
    let by_hand = RedisStore::builder()
        .prefix("shop:")
        .max_in_flight(7.try_into().unwrap())
        .response_timeout(Duration::from_millis(1500));
    let builder = settings.apply_to(RedisStore::builder());
    assert_eq!(format!("{builder:?}"), format!("{by_hand:?}"));
    assert_eq!(serde_json::to_string(&settings).unwrap(), text);
}

#[test]
fn settings_that_are_not_given_stay_as_they_were() {
    let settings = read("{}").unwrap();
    let builder = RedisStore::builder().prefix("mine:");
    let same = settings.apply_to(builder.clone());
    assert_eq!(format!("{same:?}"), format!("{builder:?}"));
    assert_eq!(serde_json::to_string(&settings).unwrap(), "{}");
    let endless = read(r#"{"response_timeout":"unlimited"}"#).unwrap();
    assert_eq!(endless.response_timeout, Some(Duration::MAX));
}

#[test]
fn mistakes_are_errors_that_name_the_setting() {
    for (text, says) in [
        (r#"{"prefixes":"a"}"#, "unknown field `prefixes`"),
        (r#"{"max_in_flight":0}"#, "nonzero"),
        (r#"{"response_timeout":"5"}"#, "must be a duration such as"),
        (
            r#"{"response_timeout":"soon"}"#,
            "must be a duration such as",
        ),
    ] {
        let error = read(text).unwrap_err();
        assert!(error.contains(says), "{error}");
    }
}
