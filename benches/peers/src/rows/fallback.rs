//! Fallbacks: of a call that succeeds, and of one that fails.

use std::future::{Ready, ready as ready_future};

use backstop::{Fallback, Policy};

use super::Row;
use crate::work::{Failure, future, leak, pending_once, ready};

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
    vec![
        Row::race(
            "fallback, not used, pending once",
            1,
            1.1,
            future("value", || fallback.call(pending_once)),
            vec![future("by hand", || by_hand(pending_once))],
        ),
        Row::no_allocations(
            "fallback, allocations",
            future("value", || fallback.call(failing)),
            vec![future("by hand", || by_hand(ready))],
        ),
        // A use is counted; a hand-written one is not.
        Row::race(
            "fallback, used, beside counting",
            1,
            1.1,
            future("value", || fallback.call(failing)),
            vec![future("by hand", || by_hand(failing))],
        )
        .beside({
            let count = std::sync::atomic::AtomicU64::new(0);
            crate::work::blocking("count", move || {
                count.fetch_add(1, std::sync::atomic::Ordering::Relaxed)
            })
        }),
    ]
}
