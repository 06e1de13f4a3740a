//! Coalesced calls: alone, and four at the same time.

use std::sync::Arc;

use async_singleflight::Group;
use backstop::{Coalesce, FastClock, Policy};
use moka::future::Cache;

use super::Row;
use crate::measure::Candidate;
use crate::work::{Failure, future, leak, pending_once, ready};

pub fn rows() -> Vec<Row> {
    let coalesce = Coalesce::<u64, u64, Failure>::builder().clock(FastClock::new());
    let coalesce = leak(coalesce.build().expect("the settings are sound"));
    let group = leak(Group::<u64, u64, Failure>::new());
    let cache = leak(Cache::<u64, u64>::new(1000));
    // A cache keeps what it loaded: to load again, it has to forget.
    let through_cache = || async {
        let value = cache.try_get_with(7, pending_once()).await;
        cache.invalidate(&7).await;
        value.map_err(|error: Arc<Failure>| *error)
    };
    let four = || {
        future("coalesce", || async {
            let call = || async { coalesce.get(&7).call(pending_once).await };
            tokio::join!(call(), call(), call(), call())
        })
    };
    let four_of_peers = || -> Vec<Candidate> {
        vec![
            future("async_singleflight", || async {
                let call = || group.work(&7, pending_once());
                tokio::join!(call(), call(), call(), call())
            }),
            future("moka, get and invalidate", || async {
                let call = || cache.try_get_with(7, pending_once());
                let values = tokio::join!(call(), call(), call(), call());
                cache.invalidate(&7).await;
                values
            }),
        ]
    };
    vec![
        Row::race(
            "coalesce, one call, ready",
            1,
            1.0,
            future("coalesce", || async { coalesce.get(&7).call(ready).await }),
            vec![future("async_singleflight", || group.work(&7, ready()))],
        ),
        Row::race(
            "coalesce, one call, pending once",
            1,
            1.0,
            future("coalesce", || async {
                coalesce.get(&7).call(pending_once).await
            }),
            vec![
                future("async_singleflight", || group.work(&7, pending_once())),
                future("moka, get and invalidate", through_cache),
            ],
        ),
        Row::race(
            "coalesce, four calls of a key",
            1,
            1.0,
            four(),
            four_of_peers(),
        ),
    ]
}
