//! Known mistakes in the order of layers.

use std::fmt;

use super::describe::Layer;

/// A layer in an order, or of a kind, that does not do what it seems to.
///
/// Most mistakes are about two layers. `Display` gives them, counted from 0 (the outermost), and the reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Misorder {
    outer: (usize, Layer),
    inner: (usize, Layer),
    why: &'static str,
}

impl Misorder {
    /// Returns the position of the outer layer, from 0.
    pub const fn outer(&self) -> usize {
        self.outer.0
    }

    /// Returns the position of the inner layer, from 0: that of the outer one if the mistake is about a
    /// single layer.
    pub const fn inner(&self) -> usize {
        self.inner.0
    }

    /// Returns why it is a mistake, and the remedy.
    pub const fn why(&self) -> &'static str {
        self.why
    }
}

impl fmt::Display for Misorder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ((outer, outside), (inner, inside)) = (self.outer, self.inner);
        write!(f, "layer {inner} ({})", inside.as_str())?;
        if outer != inner {
            write!(f, " inside layer {outer} ({})", outside.as_str())?;
        }
        write!(f, ": {}", self.why)
    }
}

/// Applies the rules to each layer, and to each pair of layers, the outer one first.
pub(super) fn misorders(layers: &[Layer]) -> Vec<Misorder> {
    let mut found = Vec::new();
    for (outer, &outside) in layers.iter().enumerate() {
        let mut report = |inner: usize, why: Option<&'static str>| {
            found.extend(why.map(|why| Misorder {
                outer: (outer, outside),
                inner: (inner, layers[inner]),
                why,
            }));
        };
        report(outer, alone(&layers[..outer], outside));
        for inner in outer + 1..layers.len() {
            let (between, inward) = (&layers[outer + 1..inner], &layers[inner + 1..]);
            report(inner, mistake(outside, between, layers[inner], inward));
        }
    }
    found
}

/// Returns what is wrong with `layer` behind the layers `outside` of it.
fn alone(outside: &[Layer], layer: Layer) -> Option<&'static str> {
    match layer {
        Layer::Classify if !outside.iter().any(|layer| layer.reads_verdicts()) => Some(
            "no layer outside of it reads verdicts, so it changes nothing; \
             put it inside the retry or the breaker that it is for",
        ),
        _ => None,
    }
}

/// Returns what is wrong with `inside` behind `outside`, with the layers `between` them and `inward` of both.
fn mistake(
    outside: Layer,
    between: &[Layer],
    inside: Layer,
    inward: &[Layer],
) -> Option<&'static str> {
    let retries = |layer: &Layer| matches!(layer, Layer::Retry { max_attempts: 2.. });
    match (outside, inside) {
        (
            Layer::Timeout {
                limit: Some(outside),
            },
            Layer::Timeout {
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
        (Layer::Timeout { .. }, Layer::CircuitBreaker)
            if !between.iter().chain(inward).any(Layer::may_time_out) =>
        {
            Some(
                "a call that is cut from outside tells the breaker nothing, so a dependency that \
                 hangs never opens it; put a timeout for each attempt inside the breaker",
            )
        }
        (Layer::Retry { .. }, Layer::Retry { .. }) => {
            Some("attempts multiply, which turns an outage into a storm; retry at one layer")
        }
        (Layer::CircuitBreaker, Layer::Retry { .. }) => Some(
            "the breaker sees one result for all attempts, and an open circuit ends no retries; put it inside",
        ),
        (Layer::Bulkhead { adaptive: true }, Layer::Retry { .. }) => {
            Some("it would take the waits between attempts for latency; put it inside the retry")
        }
        (Layer::RateLimiter, Layer::Bulkhead { .. }) => Some(
            "calls that the bulkhead rejects, or that are canceled while they wait for it, have \
             already spent their tokens; put the limiter inside the bulkhead",
        ),
        (Layer::LoadShedder { queue_delay: true }, Layer::Bulkhead { .. }) => Some(
            "it sheds by how long calls have waited before it, and they wait inside; put it inside the bulkhead",
        ),
        (Layer::Endpoints, Layer::Retry { .. }) => {
            Some("all attempts of a call would go to one endpoint; put the endpoints inside")
        }
        (Layer::Endpoints, Layer::Hedge) => {
            Some("all copies of a call would go to one endpoint; put the endpoints inside")
        }
        (Layer::Chaos, Layer::Endpoints) => {
            Some("injected faults would say nothing about any endpoint; put the chaos inside")
        }
        (Layer::Throttle, Layer::Retry { .. }) => Some(
            "it counts one request where there are several, and lets retries through; put it inside",
        ),
        (Layer::Hedge, Layer::Retry { .. }) => Some(
            "each copy would be retried, and its backoff is taken for latency; put the hedge inside the retry",
        ),
        (Layer::Hedge, Layer::Hedge) => Some("only one of them hedges: copies are not copied"),
        (Layer::Retry { .. }, Layer::Fallback) => {
            Some("there is nothing left to retry; put the fallback outside")
        }
        (Layer::CircuitBreaker, Layer::Coalesce) => {
            Some("it counts a shared result once for each call that gets it; put it inside")
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const fn timeout(seconds: u64) -> Layer {
        Layer::Timeout {
            limit: Some(Duration::from_secs(seconds)),
        }
    }
    const RETRY: Layer = Layer::Retry { max_attempts: 3 };

    #[test]
    fn the_usual_order_has_no_mistakes() {
        assert_eq!(
            misorders(&[timeout(30), RETRY, BREAKER, timeout(10), Layer::Classify]),
            []
        );
        assert_eq!(misorders(&[Layer::Timeout { limit: None }, timeout(1)]), []);
        let limiter = Layer::RateLimiter;
        let github = [timeout(10), RETRY, BREAKER, limiter, timeout(2)];
        assert_eq!(misorders(&github), []);
        let (fixed, adaptive) = (false, true);
        for order in [
            [Layer::Bulkhead { adaptive: fixed }, RETRY],
            [RETRY, Layer::Bulkhead { adaptive }],
            [
                Layer::Bulkhead { adaptive },
                Layer::LoadShedder { queue_delay: true },
            ],
            [
                Layer::LoadShedder { queue_delay: false },
                Layer::Bulkhead { adaptive },
            ],
        ] {
            assert_eq!(misorders(&order), []);
        }
    }

    const BREAKER: Layer = Layer::CircuitBreaker;

    /// The positions and the text of the only mistake.
    fn only(layers: &[Layer]) -> (usize, usize, String) {
        let found = misorders(layers);
        assert_eq!(found.len(), 1, "{layers:?}: {found:?}");
        (found[0].outer(), found[0].inner(), found[0].to_string())
    }

    #[test]
    fn a_total_has_time_for_two_attempts_where_a_retry_stands_between() {
        let (outer, inner, text) = only(&[timeout(3), RETRY, BREAKER, timeout(2)]);
        assert_eq!((outer, inner), (0, 3));
        assert!(
            text.contains(
                "layer 3 (timeout) inside layer 0 (timeout): the total is shorter than two"
            )
        );
        let once = Layer::Retry { max_attempts: 1 };
        for layers in [
            [timeout(4), RETRY, timeout(2)],
            [timeout(3), once, timeout(2)],
            [timeout(3), Layer::Other, timeout(2)],
            [RETRY, timeout(3), timeout(2)],
        ] {
            assert_eq!(misorders(&layers), []);
        }
        let (outer, inner, text) = only(&[timeout(1), RETRY, timeout(2)]);
        assert_eq!((outer, inner), (0, 2));
        assert!(text.contains("never fires"), "{text}");
    }

    #[test]
    fn a_breaker_without_a_timeout_inside_never_sees_one() {
        for layers in [
            &[timeout(9), RETRY, BREAKER][..],
            &[timeout(9), RETRY, BREAKER, Layer::RateLimiter, Layer::Guard],
            &[Layer::Timeout { limit: None }, RETRY, BREAKER],
        ] {
            let (outer, inner, text) = only(layers);
            assert_eq!((outer, inner), (0, 2));
            assert!(text.contains("tells the breaker nothing"), "{text}");
        }
        for layers in [
            &[BREAKER][..],
            &[timeout(9), BREAKER, Layer::Inspect, timeout(2)],
            &[timeout(9), BREAKER, Layer::Timeout { limit: None }],
            // A layer of another kind may have a timeout in it.
            &[timeout(9), BREAKER, Layer::Other],
        ] {
            assert_eq!(misorders(layers), []);
        }
    }

    #[test]
    fn a_classifier_stands_inside_a_layer_that_reads_verdicts() {
        for layers in [
            &[Layer::Classify][..],
            &[Layer::Classify, RETRY],
            &[Layer::Classify, Layer::Other],
        ] {
            let (outer, inner, text) = only(layers);
            assert_eq!((outer, inner), (0, 0));
            assert!(
                text.starts_with("layer 0 (classify): no layer outside"),
                "{text}"
            );
        }
        let (outer, inner, _) = only(&[timeout(9), Layer::Inspect, Layer::Classify, RETRY]);
        assert_eq!((outer, inner), (2, 2));
        let adaptive = Layer::Bulkhead { adaptive: true };
        for outside in [
            RETRY,
            BREAKER,
            Layer::Throttle,
            Layer::Guard,
            adaptive,
            Layer::Other,
        ] {
            assert_eq!(misorders(&[outside, Layer::Classify]), []);
        }
    }

    #[test]
    fn a_limiter_outside_a_bulkhead_spends_tokens_of_calls_that_never_run() {
        for adaptive in [false, true] {
            let bulkhead = Layer::Bulkhead { adaptive };
            let (outer, inner, text) = only(&[Layer::RateLimiter, RETRY, bulkhead]);
            assert_eq!((outer, inner), (0, 2));
            assert!(text.contains("spent their tokens"), "{text}");
            assert_eq!(misorders(&[bulkhead, Layer::RateLimiter]), []);
        }
    }

    #[test]
    fn each_rule_names_the_two_layers() {
        let by_delay = Layer::LoadShedder { queue_delay: true };
        let bulkhead = Layer::Bulkhead { adaptive: false };
        let table: [(&[Layer], usize, usize); 14] = [
            (&[Layer::Endpoints, Layer::Hedge], 0, 1),
            (&[Layer::Endpoints, timeout(2), RETRY], 0, 2),
            (&[RETRY, Layer::Chaos, Layer::Endpoints], 1, 2),
            (&[by_delay, RETRY, bulkhead], 0, 2),
            (&[Layer::Throttle, RETRY], 0, 1),
            (&[Layer::Bulkhead { adaptive: true }, RETRY], 0, 1),
            (&[BREAKER, timeout(9), RETRY], 0, 2),
            (&[timeout(2), RETRY, timeout(10)], 0, 2),
            (&[timeout(2), timeout(2)], 0, 1),
            (&[timeout(9), RETRY, Layer::Other, RETRY], 1, 3),
            (&[Layer::Hedge, RETRY], 0, 1),
            (&[Layer::Hedge, timeout(2), Layer::Hedge], 0, 2),
            (&[RETRY, Layer::CircuitBreaker, Layer::Fallback], 0, 2),
            (&[Layer::CircuitBreaker, Layer::Coalesce], 0, 1),
        ];
        for (layers, outer, inner) in table {
            let found = misorders(layers);
            assert_eq!(found.len(), 1, "{found:?}");
            assert_eq!((found[0].outer(), found[0].inner()), (outer, inner));
            assert!(!found[0].why().is_empty());
        }
    }
}
