//! Wrappers: `Option`, `Arc`, nested tuples, and pipelines.

use std::sync::Arc;

use backstop::event::Ending::{Failed, TimedOut};
use backstop::{Event, ManualClock, Pipeline, Policy, Retry, Timeout};

use super::Does::{Bad, Good, Hang};
use super::Fault::Down;
use super::{Does, Fault, retry, timeout};

#[test]
fn wrappers_change_nothing() {
    let scripts: [&[Does]; 4] = [
        &[Hang],
        &[Bad(0, Down)],
        &[Bad(5, Down), Good(5)],
        &[Good(0)],
    ];
    for script in scripts {
        let bare = when!(|c| (timeout(c, 250), retry(c), timeout(c, 40)), script);
        macro_rules! same {
            ($(|$clock:ident| $stack:expr;)*) => {$(
                assert_eq!(when!(|$clock| $stack, script), bare, "{}", stringify!($stack));
            )*};
        }
        same! {
            |c| Some((timeout(c, 250), retry(c), timeout(c, 40)));
            |c| Arc::new((timeout(c, 250), retry(c), timeout(c, 40)));
            |c| (Some(timeout(c, 250)), retry(c), timeout(c, 40));
            |c| (timeout(c, 250), Some(Arc::new(retry(c))), timeout(c, 40));
            |c| (timeout(c, 250), Arc::new(retry(c)), Arc::new(Some(timeout(c, 40))));
            |c| ((timeout(c, 250), retry(c)), (timeout(c, 40),));
            |c| (timeout(c, 250), (retry(c), timeout(c, 40)));
            |c| (timeout(c, 250), None::<Retry>, retry(c), timeout(c, 40), None::<Timeout>);
            |c| (timeout(c, 250), Pipeline::new((retry(c), timeout(c, 40))));
            |c| Pipeline::new((timeout(c, 250), retry(c), timeout(c, 40))).observer(|_: &Event| {});
        }
    }
}

#[test]
fn none_is_as_if_it_were_not_there() {
    given! {
        |c| (None::<Timeout>, retry(c)) => { [Bad(0, Down)] => Failed, 3, 300; }
        |c| (timeout(c, 50), None::<Retry>) => {
            [Bad(0, Down)] => Failed, 1, 0;
            [Hang] => TimedOut, 1, 50;
        }
    }
    let nothing = (None::<Retry>, Arc::new(None::<Timeout>));
    let result = nothing.call_blocking(|| Ok::<_, Fault>(7));
    assert_eq!(result, Ok(7));
    let one_retry = Pipeline::new((None::<Retry>, retry(&ManualClock::new())));
    assert!(one_retry.check().is_empty());
}
