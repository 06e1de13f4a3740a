//! What keeps a bulkhead right where a slip would go unnoticed.

use backstop::ManualClock;
use futures::future::join;

use super::{ms, on};

#[test]
fn a_line_that_empties_each_time_is_no_overload() {
    let clock = ManualClock::new();
    let bulkhead = on(&clock)
        .max_concurrent(1)
        .queue(5)
        .codel(ms(5), ms(100))
        .build()
        .unwrap();
    clock.block_on(async {
        for _ in 0..20 {
            let permit = bulkhead.try_acquire().unwrap();
            let release = async {
                clock.sleep(ms(50)).await;
                drop(permit);
            };
            // It waits ten times the target, but nobody is left in line behind it.
            let (served, ()) = join(bulkhead.acquire(), release).await;
            assert!(served.is_ok());
            clock.sleep(ms(7)).await;
        }
    });
}
