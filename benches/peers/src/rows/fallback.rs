//! Fallbacks: of a call that succeeds, and of one that fails.

use std::future::{Ready, ready as ready_future};

use backstop::{Fallback, Policy};

use super::{Row, Target};
use crate::work::{Failure, future, leak, pending_once};

fn failing() -> Ready<Result<u64, Failure>> {
    ready_future(Err(Failure))
}

async fn by_hand<Fut>(operation: impl Fn() -> Fut) -> Result<u64, Failure>
where
    Fut: Future<Output = Result<u64, Failure>>,
{
    match operation().await {
        Err(_) => Ok(0),
        value => value,
    }
}

pub fn rows() -> Vec<Row> {
    let fallback = leak(Fallback::value(0_u64));
    let mut used = Row::race(
        "fallback, used",
        1,
        1.0,
        future("value", || fallback.call(failing)),
        vec![future("by hand", || by_hand(failing))],
    );
    // The hand-written one neither counts nor reports its uses, and costs nothing.
    used.target = Target::AtMost(20.0);
    vec![
        Row::race(
            "fallback, not used, pending once",
            1,
            1.25,
            future("value", || fallback.call(pending_once)),
            vec![future("by hand", || by_hand(pending_once))],
        ),
        Row::no_allocations(
            "fallback, allocations",
            future("value", || fallback.call(failing)),
            vec![future("by hand", || by_hand(failing))],
        ),
        used,
    ]
}
