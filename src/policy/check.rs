//! Known mistakes in the order of layers.

use std::fmt;

use super::describe::Layer;

/// Two layers in an order, or of a kind, that does not do what it seems to.
///
/// `Display` gives both layers, counted from 0 (the outermost), and the reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Misorder {
    outer: (usize, Layer),
    inner: (usize, Layer),
    why: &'static str,
}

impl Misorder {
    /// The outer layer's place, from 0.
    pub const fn outer(&self) -> usize {
        self.outer.0
    }

    /// The inner layer's place, from 0.
    pub const fn inner(&self) -> usize {
        self.inner.0
    }

    /// Why it is a mistake.
    pub const fn why(&self) -> &'static str {
        self.why
    }
}

impl fmt::Display for Misorder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ((outer, outside), (inner, inside)) = (self.outer, self.inner);
        write!(
            f,
            "layer {inner} ({}) inside layer {outer} ({}): {}",
            inside.as_str(),
            outside.as_str(),
            self.why
        )
    }
}

/// Asks the rules about every pair of layers, the outer one first.
pub(super) fn misorders(layers: &[Layer]) -> Vec<Misorder> {
    let mut found = Vec::new();
    for (outer, &outside) in layers.iter().enumerate() {
        for (inner, &inside) in layers.iter().enumerate().skip(outer + 1) {
            if let Some(why) = mistake(outside, inside) {
                found.push(Misorder {
                    outer: (outer, outside),
                    inner: (inner, inside),
                    why,
                });
            }
        }
    }
    found
}

/// What is wrong with `inside` standing anywhere inside `outside`.
fn mistake(outside: Layer, inside: Layer) -> Option<&'static str> {
    match (outside, inside) {
        (
            Layer::Timeout {
                limit: Some(outside),
            },
            Layer::Timeout {
                limit: Some(inside),
            },
        ) if inside >= outside => Some("the inner one is not shorter, so it never fires"),
        (Layer::Retry { .. }, Layer::Retry { .. }) => {
            Some("attempts multiply, which turns an outage into a storm; retry at one layer")
        }
        (Layer::CircuitBreaker, Layer::Retry { .. }) => Some(
            "the breaker sees one result for all attempts, and an open circuit ends no retries; put it inside",
        ),
        (Layer::Bulkhead { adaptive: true }, Layer::Retry { .. }) => {
            Some("it would take the waits between attempts for latency; put it inside the retry")
        }
        (Layer::LoadShedder { queue_delay: true }, Layer::Bulkhead { .. }) => Some(
            "it sheds by how long calls have waited before it, and they wait inside; put it inside the bulkhead",
        ),
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
            misorders(&[
                timeout(30),
                RETRY,
                Layer::CircuitBreaker,
                timeout(10),
                Layer::Classify
            ]),
            []
        );
        assert_eq!(misorders(&[Layer::Timeout { limit: None }, timeout(1)]), []);
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

    #[test]
    fn each_rule_names_the_two_layers() {
        let by_delay = Layer::LoadShedder { queue_delay: true };
        let bulkhead = Layer::Bulkhead { adaptive: false };
        let table: [(&[Layer], usize, usize); 11] = [
            (&[by_delay, RETRY, bulkhead], 0, 2),
            (&[Layer::Throttle, RETRY], 0, 1),
            (&[Layer::Bulkhead { adaptive: true }, RETRY], 0, 1),
            (&[Layer::CircuitBreaker, timeout(9), RETRY], 0, 2),
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
