//! Known mistakes in the order of layers.

use std::fmt;

use super::describe::{Describe, LayerKind};
use crate::clock::ClockHandle;

/// A known mistake in the order or the settings of layers.
///
/// Most mistakes concern two layers. `Display` names them, counted from 0 (the outermost), and the reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OrderWarning {
    outer: (usize, LayerKind),
    inner: (usize, LayerKind),
    why: &'static str,
}

impl OrderWarning {
    /// Returns the position of the outer layer, from 0.
    pub const fn outer(&self) -> usize {
        self.outer.0
    }

    /// Returns the position of the inner layer, from 0: that of the outer one if the mistake concerns a
    /// single layer.
    pub const fn inner(&self) -> usize {
        self.inner.0
    }

    /// Returns an explanation of the mistake, and the remedy.
    pub const fn why(&self) -> &'static str {
        self.why
    }
}

impl fmt::Display for OrderWarning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ((outer, outside), (inner, inside)) = (self.outer, self.inner);
        write!(f, "layer {inner} ({inside})")?;
        if outer != inner {
            write!(f, " inside layer {outer} ({outside})")?;
        }
        write!(f, ": {}", self.why)
    }
}

/// Returns all mistakes in the layers of a policy.
pub(super) fn warnings(policy: &impl Describe) -> Vec<OrderWarning> {
    let (mut layers, mut clocks) = (Vec::new(), Vec::new());
    policy.describe(&mut layers);
    policy.clocks(&mut clocks);
    let mut found = order_warnings(&layers);
    found.extend(clock_warnings(&layers, &clocks));
    found
}

/// Compares each clock with the nearest clock outside it.
fn clock_warnings(layers: &[LayerKind], clocks: &[Option<ClockHandle>]) -> Vec<OrderWarning> {
    if layers.len() != clocks.len() {
        // A user's policy may describe more layers than clocks, so their positions are unknown.
        return Vec::new();
    }
    let clocks = clocks.iter().enumerate();
    let mut clocks = clocks.filter_map(|(at, clock)| Some((at, clock.as_ref()?.id())));
    let mut outer = clocks.next();
    let mut found = Vec::new();
    for (at, clock) in clocks {
        if let Some((outside, _)) = outer.replace((at, clock)).filter(|outer| outer.1 != clock) {
            found.push(OrderWarning {
                outer: (outside, layers[outside]),
                inner: (at, layers[at]),
                why: "they are on different clocks, so each reads its own, and a test that moves \
                      one leaves the other behind; give both the same clock",
            });
        }
    }
    found
}

/// Applies the rules to each layer, and to each pair of an outer and an inner layer.
fn order_warnings(layers: &[LayerKind]) -> Vec<OrderWarning> {
    let mut found = Vec::new();
    for (outer, &outside) in layers.iter().enumerate() {
        let mut report = |inner: usize, why: Option<&'static str>| {
            found.extend(why.map(|why| OrderWarning {
                outer: (outer, outside),
                inner: (inner, layers[inner]),
                why,
            }));
        };
        report(outer, mistake_of_layer(&layers[..outer], outside));
        for inner in outer + 1..layers.len() {
            let (between, inward) = (&layers[outer + 1..inner], &layers[inner + 1..]);
            report(
                inner,
                mistake_of_pair(outside, between, layers[inner], inward),
            );
        }
    }
    found
}

/// Returns the mistake of a layer with these layers outside it, if any.
fn mistake_of_layer(outside: &[LayerKind], layer: LayerKind) -> Option<&'static str> {
    match layer {
        LayerKind::Classify if !outside.iter().any(|layer| layer.reads_verdicts()) => Some(
            "no layer outside of it reads verdicts, so it changes nothing; \
             put it inside the retry or the breaker that it is for",
        ),
        _ => None,
    }
}

/// Returns the mistake of the pair `outside` and `inside`, if any. `between` and `inward` are the layers between and
/// inside them.
fn mistake_of_pair(
    outside: LayerKind,
    between: &[LayerKind],
    inside: LayerKind,
    inward: &[LayerKind],
) -> Option<&'static str> {
    let retries = |layer: &LayerKind| matches!(layer, LayerKind::Retry { max_attempts: 2.. });
    match (outside, inside) {
        (
            LayerKind::Timeout {
                limit: Some(outside),
            },
            LayerKind::Timeout {
                limit: Some(inside),
            },
        ) => {
            if inside >= outside {
                Some("the inner one is not shorter, so it never fires")
            } else if outside < inside.saturating_mul(2) && between.iter().any(retries) {
                Some(
                    "the total is shorter than two attempts, so after an attempt that timed out \
                     the retry never has time for another; lengthen the total or shorten the attempt",
                )
            } else {
                None
            }
        }
        (LayerKind::Timeout { .. }, _)
            if !between.iter().chain(inward).any(LayerKind::may_time_out) =>
        {
            match inside {
                LayerKind::CircuitBreaker => Some(
                    "a call that is cut off from outside tells the breaker nothing, so a dependency that \
                     hangs never opens it; put a timeout for each attempt inside the breaker",
                ),
                LayerKind::Throttle => Some(
                    "a call that is cut off from outside tells the throttle nothing, so a dependency that \
                     hangs is never spared; put a timeout for each attempt inside the throttle",
                ),
                LayerKind::Endpoints => Some(
                    "a call that is cut off from outside says nothing about its endpoint, so one that \
                     hangs is never ejected; put a timeout for each attempt inside the endpoints",
                ),
                _ => None,
            }
        }
        (LayerKind::Retry { .. }, LayerKind::Retry { .. }) => {
            Some("attempts multiply, which turns an outage into a storm; retry at one layer")
        }
        (LayerKind::CircuitBreaker, LayerKind::Retry { .. }) => Some(
            "the breaker sees one result for all attempts, and an open circuit ends no retries; \
             put the breaker inside the retry",
        ),
        (LayerKind::Bulkhead { adaptive: true }, LayerKind::Retry { .. }) => Some(
            "the bulkhead would count the waits between attempts as latency; \
             put the bulkhead inside the retry",
        ),
        (LayerKind::RateLimiter, LayerKind::Bulkhead { .. }) => Some(
            "calls that the bulkhead rejects, or that are cancelled while they wait for it, have \
             already spent their tokens; put the limiter inside the bulkhead",
        ),
        (LayerKind::LoadShedder { queue_delay: true }, LayerKind::Bulkhead { .. }) => Some(
            "the shedder sheds by how long calls have waited before it, and they wait inside; \
             put the shedder inside the bulkhead",
        ),
        (LayerKind::Endpoints, LayerKind::Retry { .. }) => Some(
            "all attempts of a call would go to one endpoint; put the endpoints inside the retry",
        ),
        (LayerKind::Endpoints, LayerKind::Hedge) => Some(
            "all copies of a call would go to one endpoint; put the endpoints inside the hedge",
        ),
        (LayerKind::Chaos, LayerKind::Endpoints) => Some(
            "injected faults would say nothing about any endpoint; put the chaos inside the endpoints",
        ),
        (LayerKind::Throttle, LayerKind::Retry { .. }) => Some(
            "the throttle counts one request where there are several, and does not see retries; \
             put the throttle inside the retry",
        ),
        (LayerKind::Hedge, LayerKind::Retry { .. }) => Some(
            "each copy would be retried, and its backoff counts as latency; put the hedge inside the retry",
        ),
        (LayerKind::Hedge, LayerKind::Hedge) => {
            Some("only one of them hedges: copies are not copied")
        }
        (LayerKind::Retry { .. }, LayerKind::Fallback) => {
            Some("there is nothing left to retry; put the fallback outside the retry")
        }
        (LayerKind::CircuitBreaker, LayerKind::Coalesce) => Some(
            "the breaker counts a shared result once for each call that gets it; \
             put the breaker inside the coalesce",
        ),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const fn timeout(seconds: u64) -> LayerKind {
        LayerKind::Timeout {
            limit: Some(Duration::from_secs(seconds)),
        }
    }
    const RETRY: LayerKind = LayerKind::Retry { max_attempts: 3 };
    const BREAKER: LayerKind = LayerKind::CircuitBreaker;

    #[test]
    fn the_usual_order_has_no_mistakes() {
        assert_eq!(
            order_warnings(&[
                timeout(30),
                RETRY,
                BREAKER,
                timeout(10),
                LayerKind::Classify
            ]),
            []
        );
        assert_eq!(
            order_warnings(&[LayerKind::Timeout { limit: None }, timeout(1)]),
            []
        );
        let limiter = LayerKind::RateLimiter;
        let github = [timeout(10), RETRY, BREAKER, limiter, timeout(2)];
        assert_eq!(order_warnings(&github), []);
        let (fixed, adaptive) = (false, true);
        for order in [
            [LayerKind::Bulkhead { adaptive: fixed }, RETRY],
            [RETRY, LayerKind::Bulkhead { adaptive }],
            [
                LayerKind::Bulkhead { adaptive },
                LayerKind::LoadShedder { queue_delay: true },
            ],
            [
                LayerKind::LoadShedder { queue_delay: false },
                LayerKind::Bulkhead { adaptive },
            ],
        ] {
            assert_eq!(order_warnings(&order), []);
        }
    }

    #[test]
    fn each_remedy_names_the_layer_to_move() {
        let adaptive = LayerKind::Bulkhead { adaptive: true };
        let queue_delay = LayerKind::LoadShedder { queue_delay: true };
        for (outer, inner, remedy) in [
            (BREAKER, RETRY, "put the breaker inside the retry"),
            (adaptive, RETRY, "put the bulkhead inside the retry"),
            (
                LayerKind::RateLimiter,
                adaptive,
                "put the limiter inside the bulkhead",
            ),
            (queue_delay, adaptive, "put the shedder inside the bulkhead"),
            (
                LayerKind::Endpoints,
                RETRY,
                "put the endpoints inside the retry",
            ),
            (
                LayerKind::Endpoints,
                LayerKind::Hedge,
                "put the endpoints inside the hedge",
            ),
            (
                LayerKind::Chaos,
                LayerKind::Endpoints,
                "put the chaos inside the endpoints",
            ),
            (
                LayerKind::Throttle,
                RETRY,
                "put the throttle inside the retry",
            ),
            (LayerKind::Hedge, RETRY, "put the hedge inside the retry"),
            (
                RETRY,
                LayerKind::Fallback,
                "put the fallback outside the retry",
            ),
            (
                BREAKER,
                LayerKind::Coalesce,
                "put the breaker inside the coalesce",
            ),
        ] {
            let (_, _, text) = only(&[outer, inner]);
            assert!(text.ends_with(remedy), "{text}");
        }
    }

    /// Returns the positions and the text of the only mistake.
    fn only(layers: &[LayerKind]) -> (usize, usize, String) {
        let found = order_warnings(layers);
        assert_eq!(found.len(), 1, "{layers:?}: {found:?}");
        (found[0].outer(), found[0].inner(), found[0].to_string())
    }

    #[test]
    fn a_total_timeout_around_a_retry_has_time_for_two_attempts() {
        let (outer, inner, text) = only(&[timeout(3), RETRY, BREAKER, timeout(2)]);
        assert_eq!((outer, inner), (0, 3));
        assert!(
            text.contains(
                "layer 3 (timeout) inside layer 0 (timeout): the total is shorter than two"
            )
        );
        let once = LayerKind::Retry { max_attempts: 1 };
        for layers in [
            [timeout(4), RETRY, timeout(2)],
            [timeout(3), once, timeout(2)],
            [timeout(3), LayerKind::Other, timeout(2)],
            [RETRY, timeout(3), timeout(2)],
        ] {
            assert_eq!(order_warnings(&layers), []);
        }
        let (outer, inner, text) = only(&[timeout(1), RETRY, timeout(2)]);
        assert_eq!((outer, inner), (0, 2));
        assert!(text.contains("never fires"), "{text}");
    }

    #[test]
    fn a_breaker_without_a_timeout_inside_is_reported() {
        for layers in [
            &[timeout(9), RETRY, BREAKER][..],
            &[
                timeout(9),
                RETRY,
                BREAKER,
                LayerKind::RateLimiter,
                LayerKind::Guard,
            ],
            &[LayerKind::Timeout { limit: None }, RETRY, BREAKER],
        ] {
            let (outer, inner, text) = only(layers);
            assert_eq!((outer, inner), (0, 2));
            assert!(text.contains("tells the breaker nothing"), "{text}");
        }
        for layers in [
            &[BREAKER][..],
            &[timeout(9), BREAKER, LayerKind::Inspect, timeout(2)],
            &[timeout(9), BREAKER, LayerKind::Timeout { limit: None }],
            // A layer of another kind may have a timeout in it.
            &[timeout(9), BREAKER, LayerKind::Other],
        ] {
            assert_eq!(order_warnings(layers), []);
        }
    }

    #[test]
    fn a_throttle_and_endpoints_without_a_timeout_inside_never_see_one_either() {
        for (layer, reason) in [
            (LayerKind::Throttle, "tells the throttle nothing"),
            (LayerKind::Endpoints, "says nothing about its endpoint"),
        ] {
            let (outer, inner, text) = only(&[timeout(9), RETRY, layer]);
            assert_eq!((outer, inner), (0, 2));
            assert!(text.contains(reason), "{text}");
            for layers in [
                &[layer][..],
                &[timeout(9), layer, timeout(2)],
                &[timeout(9), layer, LayerKind::Other],
            ] {
                assert_eq!(order_warnings(layers), []);
            }
        }
    }

    #[test]
    fn a_classifier_stands_inside_a_layer_that_reads_verdicts() {
        for layers in [
            &[LayerKind::Classify][..],
            &[LayerKind::Classify, RETRY],
            &[LayerKind::Classify, LayerKind::Other],
        ] {
            let (outer, inner, text) = only(layers);
            assert_eq!((outer, inner), (0, 0));
            assert!(
                text.starts_with("layer 0 (classify): no layer outside"),
                "{text}"
            );
        }
        let (outer, inner, _) = only(&[timeout(9), LayerKind::Inspect, LayerKind::Classify, RETRY]);
        assert_eq!((outer, inner), (2, 2));
        let adaptive = LayerKind::Bulkhead { adaptive: true };
        for outside in [
            RETRY,
            BREAKER,
            LayerKind::Throttle,
            LayerKind::Guard,
            adaptive,
            LayerKind::Other,
        ] {
            assert_eq!(order_warnings(&[outside, LayerKind::Classify]), []);
        }
    }

    #[test]
    fn a_limiter_outside_a_bulkhead_spends_tokens_of_calls_that_never_run() {
        for adaptive in [false, true] {
            let bulkhead = LayerKind::Bulkhead { adaptive };
            let (outer, inner, text) = only(&[LayerKind::RateLimiter, RETRY, bulkhead]);
            assert_eq!((outer, inner), (0, 2));
            assert!(text.contains("spent their tokens"), "{text}");
            assert_eq!(order_warnings(&[bulkhead, LayerKind::RateLimiter]), []);
        }
    }

    #[test]
    fn each_rule_names_the_two_layers() {
        let by_delay = LayerKind::LoadShedder { queue_delay: true };
        let bulkhead = LayerKind::Bulkhead { adaptive: false };
        let table: [(&[LayerKind], usize, usize); 14] = [
            (&[LayerKind::Endpoints, LayerKind::Hedge], 0, 1),
            (&[LayerKind::Endpoints, timeout(2), RETRY], 0, 2),
            (&[RETRY, LayerKind::Chaos, LayerKind::Endpoints], 1, 2),
            (&[by_delay, RETRY, bulkhead], 0, 2),
            (&[LayerKind::Throttle, RETRY], 0, 1),
            (&[LayerKind::Bulkhead { adaptive: true }, RETRY], 0, 1),
            (&[BREAKER, timeout(9), RETRY], 0, 2),
            (&[timeout(2), RETRY, timeout(10)], 0, 2),
            (&[timeout(2), timeout(2)], 0, 1),
            (&[timeout(9), RETRY, LayerKind::Other, RETRY], 1, 3),
            (&[LayerKind::Hedge, RETRY], 0, 1),
            (&[LayerKind::Hedge, timeout(2), LayerKind::Hedge], 0, 2),
            (
                &[RETRY, LayerKind::CircuitBreaker, LayerKind::Fallback],
                0,
                2,
            ),
            (&[LayerKind::CircuitBreaker, LayerKind::Coalesce], 0, 1),
        ];
        for (layers, outer, inner) in table {
            let found = order_warnings(layers);
            assert_eq!(found.len(), 1, "{found:?}");
            assert_eq!((found[0].outer(), found[0].inner()), (outer, inner));
            assert!(!found[0].why().is_empty());
        }
    }

    #[test]
    fn layers_on_different_clocks_are_named() {
        let (a, b) = (crate::ManualClock::new(), crate::ManualClock::new());
        let timeout = |clock: &crate::ManualClock, seconds| {
            let timeout = crate::Timeout::builder().after(Duration::from_secs(seconds));
            timeout.clock(clock.clone()).build().unwrap()
        };
        let inspect = || super::super::Inspect::errors(|(): &(), _| {});
        assert_eq!(warnings(&(timeout(&a, 3), inspect(), timeout(&a, 1))), []);

        let nested = (timeout(&a, 9), (inspect(), timeout(&b, 3)), timeout(&b, 1));
        let found = warnings(&nested);
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!((found[0].outer(), found[0].inner()), (0, 2));
        let text = found[0].to_string();
        assert!(text.contains("different clocks"), "{text}");

        let there_and_back = (timeout(&a, 9), Some(timeout(&b, 3)), &timeout(&a, 1));
        assert_eq!(warnings(&there_and_back).len(), 2);
    }
}
