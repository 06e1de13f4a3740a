//! Keys of requests: the client, host, or route that a request belongs to.

use std::fmt;
#[cfg(feature = "http")]
use std::marker::PhantomData;
#[cfg(feature = "http")]
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

#[cfg(feature = "http")]
use ::http::Request;
#[cfg(feature = "http")]
use ::http::header::{AUTHORIZATION, HeaderMap, HeaderName};

/// Extracts the key of a request. A function `Fn(&R) -> Option<K>` is an extractor.
#[diagnostic::on_unimplemented(
    message = "`{Self}` extracts no key from a `{R}`",
    note = "extractors are those of `backstop::tower::key`, and closures such as `|request: &Request<Body>| Some(..)`",
    note = "the two of `key::either` need keys of the same type"
)]
pub trait ExtractKey<R> {
    /// The key.
    type Key;

    /// Returns the key of the request; `None` if it has none.
    fn extract(&self, request: &R) -> Option<Self::Key>;
}

impl<R, K, F: Fn(&R) -> Option<K>> ExtractKey<R> for F {
    type Key = K;

    fn extract(&self, request: &R) -> Option<K> {
        self(request)
    }
}

/// Returns an extractor that tries `first`, then `second`. Their keys have the same type; for keys of two types, call
/// [`ExtractKey::extract`] of both in a closure.
pub const fn either<A, B>(first: A, second: B) -> Or<A, B> {
    Or(first, second)
}

/// Extracts a key with the first of two extractors that finds one. Returned by [`either`].
#[derive(Clone, Copy, Debug)]
pub struct Or<A, B>(A, B);

impl<R, A: ExtractKey<R>, B: ExtractKey<R, Key = A::Key>> ExtractKey<R> for Or<A, B> {
    type Key = A::Key;

    fn extract(&self, request: &R) -> Option<A::Key> {
        self.0.extract(request).or_else(|| self.1.extract(request))
    }
}

/// Returns an extractor that calls a function.
pub const fn by<R, K, F: Fn(&R) -> Option<K>>(find: F) -> ByFunction<F> {
    ByFunction(find)
}

/// Extracts a key with a function. Returned by [`by`].
#[derive(Clone, Copy)]
pub struct ByFunction<F>(F);

impl<R, K, F: Fn(&R) -> Option<K>> ExtractKey<R> for ByFunction<F> {
    type Key = K;

    fn extract(&self, request: &R) -> Option<K> {
        (self.0)(request)
    }
}

impl<F> fmt::Debug for ByFunction<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ByFunction").finish_non_exhaustive()
    }
}

/// Returns the subnet of one client: an IPv6 address cut to its /64, because a client may use any address in it, or
/// an IPv4 address unchanged. IPv4 addresses mapped into IPv6 become IPv4.
#[cfg(feature = "http")]
pub fn subnet(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() >> 64 << 64).into(),
        v4 @ IpAddr::V4(_) => v4,
    }
}

/// Returns an extractor for the [subnet] of the connection's peer, from a `SocketAddr` in the request's extensions.
///
/// axum puts a type of its own there: see [`peer_by`].
#[cfg(feature = "http")]
pub fn peer_ip() -> PeerIp<SocketAddr, fn(&SocketAddr) -> SocketAddr> {
    peer_by(|address: &SocketAddr| *address)
}

/// Like [`peer_ip`], with an extension of another type. For axum, with
/// `into_make_service_with_connect_info::<SocketAddr>()`: `key::peer_by(|info: &ConnectInfo<SocketAddr>| info.0)`.
#[cfg(feature = "http")]
pub const fn peer_by<T, F>(address: F) -> PeerIp<T, F>
where
    T: Send + Sync + 'static,
    F: Fn(&T) -> SocketAddr,
{
    PeerIp {
        address,
        extension: PhantomData,
    }
}

/// Extracts the subnet of the peer. Returned by [`peer_ip`] and [`peer_by`].
#[cfg(feature = "http")]
pub struct PeerIp<T, F> {
    address: F,
    extension: PhantomData<fn(&T)>,
}

#[cfg(feature = "http")]
impl<B, T, F> ExtractKey<Request<B>> for PeerIp<T, F>
where
    T: Send + Sync + 'static,
    F: Fn(&T) -> SocketAddr,
{
    type Key = IpAddr;

    fn extract(&self, request: &Request<B>) -> Option<IpAddr> {
        let found = request.extensions().get()?;
        Some(subnet((self.address)(found).ip()))
    }
}

/// Returns an extractor for the [subnet] of a client behind proxies, from `X-Forwarded-For`.
///
/// Each proxy appends the address of its peer, and a client may send any content. So the address is counted from the
/// right: `trusted_hops`, at least 1, is the number of your proxies that a request passes. There is no key if the
/// field has fewer addresses, or a malformed one at that position.
///
/// ```
/// use backstop::tower::{ExtractKey, key};
///
/// let request = http::Request::builder().header("x-forwarded-for", "10.9.9.9, 192.0.2.7");
/// let request = request.body(()).unwrap();
/// assert_eq!(key::forwarded(1).extract(&request), Some([192, 0, 2, 7].into()));
/// assert_eq!(key::forwarded(3).extract(&request), None);
/// ```
#[cfg(feature = "http")]
pub const fn forwarded(trusted_hops: usize) -> Forwarded {
    Forwarded { trusted_hops }
}

/// Extracts the subnet of a client behind proxies. Returned by [`forwarded`].
#[cfg(feature = "http")]
#[derive(Clone, Copy, Debug)]
pub struct Forwarded {
    trusted_hops: usize,
}

#[cfg(feature = "http")]
impl<B> ExtractKey<Request<B>> for Forwarded {
    type Key = IpAddr;

    fn extract(&self, request: &Request<B>) -> Option<IpAddr> {
        let before = self.trusted_hops.checked_sub(1)?;
        forwarded_address(request.headers(), before).map(subnet)
    }
}

/// Returns the address with `before` others to its right.
#[cfg(feature = "http")]
fn forwarded_address(headers: &HeaderMap, mut before: usize) -> Option<IpAddr> {
    let values: Vec<_> = headers.get_all("x-forwarded-for").iter().collect();
    for value in values.into_iter().rev() {
        // Searches bytes, because clients may put anything to the left.
        let mut addresses = value.as_bytes().rsplit(|byte| *byte == b',');
        let count = addresses.clone().count();
        if before < count {
            return parse_address(std::str::from_utf8(addresses.nth(before)?).ok()?);
        }
        before -= count;
    }
    None
}

/// Parses an address, perhaps with a port, in brackets, or in quotes.
#[cfg(feature = "http")]
fn parse_address(text: &str) -> Option<IpAddr> {
    let text = text.trim().trim_matches('"');
    let bare = text
        .strip_prefix('[')
        .and_then(|text| text.strip_suffix(']'));
    let address = bare.unwrap_or(text).parse().ok();
    address.or_else(|| Some(text.parse::<SocketAddr>().ok()?.ip()))
}

/// Returns an extractor for the value of a header. An empty value is no key, so that clients without an identity do not
/// share one.
#[cfg(feature = "http")]
pub const fn header(name: HeaderName) -> Header {
    Header { name }
}

/// Extracts the value of a header. Returned by [`header`].
#[cfg(feature = "http")]
#[derive(Clone, Debug)]
pub struct Header {
    name: HeaderName,
}

#[cfg(feature = "http")]
impl<B> ExtractKey<Request<B>> for Header {
    type Key = String;

    fn extract(&self, request: &Request<B>) -> Option<String> {
        let value = request.headers().get(&self.name)?.to_str().ok()?;
        // Copied, because the value keeps the memory of the whole head alive.
        (!value.is_empty()).then(|| value.to_owned())
    }
}

/// Returns an extractor for the token of `Authorization: Bearer`. The token is a secret and not verified: put the
/// layer behind the authentication, and prefer the authenticated user as the key.
#[cfg(feature = "http")]
pub const fn bearer() -> Bearer {
    Bearer
}

/// Extracts the bearer token. Returned by [`bearer`].
#[cfg(feature = "http")]
#[derive(Clone, Copy, Debug)]
pub struct Bearer;

#[cfg(feature = "http")]
impl<B> ExtractKey<Request<B>> for Bearer {
    type Key = String;

    fn extract(&self, request: &Request<B>) -> Option<String> {
        let value = request.headers().get(AUTHORIZATION)?.to_str().ok()?;
        let (scheme, token) = value.split_once(' ')?;
        scheme
            .eq_ignore_ascii_case("bearer")
            .then(|| token.trim().to_owned())
            .filter(|token| !token.is_empty())
    }
}

/// Returns an extractor that reads an extension of the request, such as the authenticated user or the path template
/// of a router. For axum: `key::extension(|path: &MatchedPath| path.as_str().to_owned())`.
#[cfg(feature = "http")]
pub const fn extension<T, K, F>(find: F) -> Extension<T, F>
where
    T: Send + Sync + 'static,
    F: Fn(&T) -> K,
{
    Extension {
        find,
        extension: PhantomData,
    }
}

/// Extracts a key from an extension. Returned by [`extension`].
#[cfg(feature = "http")]
pub struct Extension<T, F> {
    find: F,
    extension: PhantomData<fn(&T)>,
}

#[cfg(feature = "http")]
impl<B, T, K, F> ExtractKey<Request<B>> for Extension<T, F>
where
    T: Send + Sync + 'static,
    F: Fn(&T) -> K,
{
    type Key = K;

    fn extract(&self, request: &Request<B>) -> Option<K> {
        Some((self.find)(request.extensions().get()?))
    }
}

/// Derived implementations would require `T: Clone`.
#[cfg(feature = "http")]
macro_rules! of_extension {
    ($name:ident { $function:ident }) => {
        impl<T, F: Clone> Clone for $name<T, F> {
            fn clone(&self) -> Self {
                Self {
                    $function: self.$function.clone(),
                    extension: PhantomData,
                }
            }
        }

        impl<T, F> fmt::Debug for $name<T, F> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.debug_struct(stringify!($name)).finish_non_exhaustive()
            }
        }
    };
}

#[cfg(feature = "http")]
of_extension!(PeerIp { address });
#[cfg(feature = "http")]
of_extension!(Extension { find });
