//! A bounded map from policy names to values, for observers.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

/// The number of buckets.
const BUCKETS: usize = 64;

/// The most names with values of their own. Further names share one value.
pub(crate) const MAX_NAMES: usize = 1000;

/// The name of the shared value.
pub(crate) const OTHER: &str = "other";

/// The name of a policy, and that of its call's pipeline.
pub(crate) type Name = (&'static str, Option<&'static str>);

/// Values by name, made on first use and kept until the map is dropped. Lookups are lock-free and do not allocate.
pub(crate) struct Names<V> {
    buckets: [Slot<V>; BUCKETS],
    len: AtomicUsize,
}

type Slot<V> = OnceLock<Box<Node<V>>>;

struct Node<V> {
    name: Name,
    value: V,
    next: Slot<V>,
}

impl<V> Names<V> {
    pub(crate) fn new() -> Self {
        Self {
            buckets: std::array::from_fn(|_| OnceLock::new()),
            len: AtomicUsize::new(0),
        }
    }

    /// Returns the value of this name. `make` is called outside locks; of two values made concurrently, one is
    /// dropped.
    #[inline]
    pub(crate) fn get(&self, name: Name, make: impl Fn(Name) -> V) -> &V {
        let mut slot = &self.buckets[bucket(name)];
        while let Some(node) = slot.get() {
            if is_same(node.name, name) {
                return &node.value;
            }
            slot = &node.next;
        }
        self.add(name, make)
    }

    #[cold]
    #[inline(never)]
    fn add(&self, name: Name, make: impl Fn(Name) -> V) -> &V {
        // Relaxed: the bound is approximate, and concurrent threads may exceed it by one each.
        let name = if self.len.load(Ordering::Relaxed) < MAX_NAMES {
            name
        } else {
            (OTHER, None)
        };
        let mut new = None;
        let mut slot = &self.buckets[bucket(name)];
        loop {
            match slot.get() {
                Some(node) if is_same(node.name, name) => return &node.value,
                Some(node) => slot = &node.next,
                None => {
                    let node = new.take().unwrap_or_else(|| {
                        Box::new(Node {
                            name,
                            value: make(name),
                            next: OnceLock::new(),
                        })
                    });
                    match slot.set(node) {
                        Ok(()) => _ = self.len.fetch_add(1, Ordering::Relaxed),
                        // Another thread was faster, possibly with the same name.
                        Err(node) => new = Some(node),
                    }
                }
            }
        }
    }

    /// Calls `visit` with each name and its value, in arbitrary order.
    #[cfg(feature = "tracing")]
    pub(crate) fn for_each(&self, mut visit: impl FnMut(Name, &V)) {
        for bucket in &self.buckets {
            let mut slot = bucket;
            while let Some(node) = slot.get() {
                visit(node.name, &node.value);
                slot = &node.next;
            }
        }
    }
}

/// Names are short and known at build time, so length and last letter distinguish most of them.
#[inline]
fn bucket((policy, pipeline): Name) -> usize {
    let of = |name: &str| {
        let bytes = name.as_bytes();
        let last = bytes.last().copied().unwrap_or_default();
        let first = bytes.first().copied().unwrap_or_default();
        bytes.len() * 31 + usize::from(last) * 7 + usize::from(first)
    };
    (of(policy) * 5 + pipeline.map_or(0, of)) % BUCKETS
}

/// Compares addresses first, because equal names usually share one address.
#[inline]
fn is_same(one: Name, other: Name) -> bool {
    let same = |one: &str, other: &str| std::ptr::eq(one, other) || one == other;
    same(one.0, other.0)
        && match (one.1, other.1) {
            (None, None) => true,
            (Some(one), Some(other)) => same(one, other),
            _ => false,
        }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[test]
    fn equal_texts_are_interned_once() {
        let names = Names::new();
        let made = Cell::new(0);
        let make = |_| made.replace(made.get() + 1);
        let copy: &'static str = Box::leak("github".to_owned().into_boxed_str());
        assert_eq!(*names.get(("github", None), make), 0);
        assert_eq!(*names.get((copy, None), make), 0);
        assert_eq!(*names.get(("github", Some("pipeline")), make), 1);
        assert_eq!(made.get(), 2);
    }

    #[test]
    fn names_beyond_the_bound_share_a_value() {
        let names = Names::new();
        for number in 0..MAX_NAMES + 100 {
            let name: &'static str = Box::leak(format!("policy {number}").into_boxed_str());
            let seen = *names.get((name, None), |(name, _)| name);
            assert_eq!(seen, if number < MAX_NAMES { name } else { OTHER });
        }
        assert_eq!(names.len.load(Ordering::Relaxed), MAX_NAMES + 1);
    }
}
