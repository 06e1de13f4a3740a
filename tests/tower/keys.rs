use std::net::{IpAddr, SocketAddr};

use backstop::circuit_breaker::Trip;
use backstop::http::ClassifyResponses;
use backstop::tower::{ExtractKey, KeyedLayer, NoKey, key};
use backstop::{Backoff, CircuitBreaker, Keyed, Reason, Retry};
use http::{HeaderName, Request, Response};
use tower_layer::Layer;

use crate::{from, scripted, send};

fn forwarded(fields: &[&str]) -> Request<()> {
    let mut request = Request::builder();
    for field in fields {
        request = request.header(
            "x-forwarded-for",
            http::HeaderValue::from_bytes(field.as_bytes()).unwrap(),
        );
    }
    request.body(()).unwrap()
}

fn ip(text: &str) -> Option<IpAddr> {
    Some(text.parse().unwrap())
}

#[test]
fn a_forwarded_address_is_counted_from_the_right() {
    let one = key::forwarded(1);
    assert_eq!(
        one.extract(&forwarded(&["192.0.2.66, 192.0.2.7"])),
        ip("192.0.2.7")
    );
    assert_eq!(
        one.extract(&forwarded(&["evil, 192.0.2.7"])),
        ip("192.0.2.7")
    );
    // Several fields are one list.
    assert_eq!(
        one.extract(&forwarded(&["evil", "192.0.2.7"])),
        ip("192.0.2.7")
    );
    let two = key::forwarded(2);
    assert_eq!(
        two.extract(&forwarded(&["evil, 192.0.2.7", "10.0.0.1"])),
        ip("192.0.2.7")
    );
    assert_eq!(
        two.extract(&forwarded(&["evil", "192.0.2.7, 10.0.0.1"])),
        ip("192.0.2.7")
    );
    assert_eq!(
        two.extract(&forwarded(&["\u{e9}", "192.0.2.7,10.0.0.1"])),
        ip("192.0.2.7")
    );
}

#[test]
fn a_forwarded_address_that_is_missing_or_malformed_gives_no_key() {
    for (hops, fields) in [
        (0, vec!["192.0.2.7"]),
        (2, vec!["192.0.2.7"]),
        (1, vec![]),
        (1, vec![""]),
        (1, vec!["192.0.2.7, "]),
        (1, vec!["192.0.2.7, unknown"]),
        (1, vec!["192.0.2.7, \u{e9}"]),
        (usize::MAX, vec!["192.0.2.7", "192.0.2.7"]),
    ] {
        assert_eq!(
            key::forwarded(hops).extract(&forwarded(&fields)),
            None,
            "{hops} {fields:?}"
        );
    }
}

#[test]
fn addresses_are_read_with_ports_and_brackets() {
    for (text, address) in [
        ("192.0.2.7:80", "192.0.2.7"),
        ("[2001:db8::1]:80", "2001:db8::"),
        ("[2001:db8::1]", "2001:db8::"),
        ("\"[2001:db8::1]\"", "2001:db8::"),
        ("2001:db8::1", "2001:db8::"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
    ] {
        assert_eq!(
            key::forwarded(1).extract(&forwarded(&[text])),
            ip(address),
            "{text}"
        );
    }
}

#[test]
fn all_addresses_of_one_subnet_are_one_key() {
    let keys: std::collections::HashSet<IpAddr> = (0..10_000_u128)
        .map(|host| {
            let address = std::net::Ipv6Addr::from_bits(
                (0x2001_0db8_u128 << 96) | (host << 40 & u128::from(u64::MAX)) | host,
            );
            key::peer_ip().extract(&from(&address.to_string())).unwrap()
        })
        .collect();
    assert_eq!(keys.len(), 1);
    assert_ne!(
        key::subnet("2001:db8:0:1::1".parse().unwrap()),
        key::subnet("2001:db8:0:2::1".parse().unwrap())
    );
    assert_eq!(key::peer_ip().extract(&Request::new(())), None);
}

#[test]
fn keys_come_from_headers_extensions_and_functions() {
    let header = key::header(HeaderName::from_static("x-tenant"));
    let request = Request::builder()
        .header("x-tenant", "acme")
        .header("authorization", "bearer  abc")
        .extension(7_u32)
        .body(())
        .unwrap();
    assert_eq!(header.extract(&request).as_deref(), Some("acme"));
    assert_eq!(key::bearer().extract(&request).as_deref(), Some("abc"));
    assert_eq!(
        key::extension(|user: &u32| *user).extract(&request),
        Some(7)
    );
    let host = |request: &Request<()>| request.uri().host().map(str::to_owned);
    assert_eq!(
        host.extract(&Request::get("http://a.example/x").body(()).unwrap())
            .as_deref(),
        Some("a.example")
    );
    let none = Request::new(());
    assert_eq!(header.extract(&none), None);
    let empty = Request::builder().header("x-tenant", "").body(()).unwrap();
    assert_eq!(header.extract(&empty), None);
    assert_eq!(
        key::bearer().extract(
            &Request::builder()
                .header("authorization", "Basic abc")
                .body(())
                .unwrap()
        ),
        None
    );
    assert_eq!(
        key::bearer().extract(
            &Request::builder()
                .header("authorization", "Bearer ")
                .body(())
                .unwrap()
        ),
        None
    );
    assert_eq!(key::extension(|user: &u32| *user).extract(&none), None);
    // An axum-like extension, and the peer as a second choice.
    #[derive(Clone)]
    struct Info(SocketAddr);
    let info = key::either(key::peer_by(|info: &Info| info.0), key::peer_ip());
    let mut both = from("192.0.2.1");
    assert_eq!(info.extract(&both), ip("192.0.2.1"));
    both.extensions_mut()
        .insert(Info("192.0.2.2:1".parse().unwrap()));
    assert_eq!(info.extract(&both), ip("192.0.2.2"));
}

#[tokio::test(start_paused = true)]
async fn each_key_has_a_policy_of_its_own() {
    let breakers = Keyed::<String, (CircuitBreaker, ClassifyResponses)>::builder(|_: &String| {
        let breaker = CircuitBreaker::builder().trip_on(Trip::consecutive(3));
        (breaker.build().unwrap(), ClassifyResponses::new())
    })
    .max_keys(100)
    .build()
    .unwrap();
    let host = key::by(|request: &Request<()>| request.uri().host().map(str::to_owned));
    let layer = KeyedLayer::new(breakers.clone(), host);
    let inner = scripted(|_, request: Request<()>| async move {
        let is_bad = request.uri().host() == Some("bad");
        Ok::<_, ()>(
            Response::builder()
                .status(if is_bad { 500 } else { 200 })
                .body(())
                .unwrap(),
        )
    });
    let get = |host: &str| Request::get(format!("http://{host}/")).body(()).unwrap();
    let mut service = layer.layer(inner.clone());
    for _ in 0..3 {
        assert!(send(&mut service, get("bad")).await.is_ok());
    }
    // Also of another service that the layer makes.
    let mut service = layer.layer(inner.clone());
    let open = send(&mut service, get("bad")).await.unwrap_err();
    assert_eq!(open.reason(), Some(Reason::CircuitOpen));
    assert!(send(&mut service, get("good")).await.is_ok());
    assert_eq!(breakers.len(), 2);
    // Without a key: rejected, admitted, or under a shared key.
    let none = || Request::get("/").body(()).unwrap();
    let rejected = send(&mut service, none()).await.unwrap_err();
    assert_eq!(
        (rejected.policy(), rejected.reason()),
        (Some("no key"), Some(Reason::Custom))
    );
    let mut admits = layer.clone().no_key(NoKey::Admit).layer(inner.clone());
    assert!(send(&mut admits, none()).await.is_ok());
    assert_eq!(breakers.len(), 2);
    let mut shares = layer.no_key(NoKey::Share("bad".into())).layer(inner);
    let rejected = send(&mut shares, none()).await.unwrap_err();
    assert_eq!(rejected.reason(), Some(Reason::CircuitOpen));
}

#[tokio::test]
async fn requests_of_a_key_have_options_and_further_attempts() {
    let retries = Keyed::<String, _>::try_builder(|| {
        let retry = Retry::builder().backoff(Backoff::NONE).build()?;
        Ok((retry, ClassifyResponses::new()))
    });
    let tenant = HeaderName::from_static("x-tenant");
    let layer = KeyedLayer::new(retries.build().unwrap(), key::header(tenant))
        .cloned()
        .options(|r: &Request<()>| backstop::http::call_options(r.method(), r.headers()))
        .on_attempt(|r: &mut Request<()>, number| {
            backstop::http::attempt::write(r.headers_mut(), &number);
        });
    let echo = scripted(|_, request: Request<()>| async move {
        let mut response = Response::builder().status(503).body(()).unwrap();
        *response.headers_mut() = request.headers().clone();
        Ok::<_, ()>(response)
    });
    let mut service = layer.layer(echo);
    let mut attempts = async |method| {
        let request = Request::builder().method(method).header("x-tenant", "a");
        let request = request.body(()).unwrap();
        let response = send(&mut service, request).await.unwrap();
        backstop::http::attempt::read(response.headers())
    };
    assert_eq!(attempts("GET").await, Some(3));
    assert_eq!(attempts("POST").await, Some(1));
}
