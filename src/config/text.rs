//! Names of policies from texts, and serde's forms of fields that have none of their own.

use std::collections::BTreeSet;
use std::sync::Mutex;

use crate::sync::lock;

/// Names are `&'static str`, so that events are `Copy`. Each is kept once, until the process ends.
static NAMES: Mutex<BTreeSet<&'static str>> = Mutex::new(BTreeSet::new());

/// Returns a text as the name of a policy.
pub(crate) fn interned(text: &str) -> &'static str {
    let mut names = lock(&NAMES);
    match names.get(text) {
        Some(name) => name,
        None => {
            let name: &'static str = Box::leak(text.into());
            names.insert(name);
            name
        }
    }
}
