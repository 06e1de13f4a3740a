//! Model checks of the pocket: two calls and the lock.

use loom::sync::Arc;
use loom::thread;

use super::pocket::{Contents, Pocket, Spent};
use crate::instant::Instant;

fn contents(tokens: u64) -> Contents {
    Contents {
        tokens,
        expires: Instant::FAR_FUTURE,
        low: 0,
        closed_until: Instant::ORIGIN,
        ready_at: Instant::ORIGIN,
    }
}

#[test]
fn loom_each_token_is_spent_or_left_once() {
    // Bounded, because all interleavings take minutes.
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(3);
    model.check(|| {
        let pocket = Arc::new(Pocket::new());
        pocket.open(contents(2));
        let call = |pocket: Arc<Pocket>| {
            let spent = pocket.spend(Instant::from_nanos(1), 1);
            u64::from(matches!(spent, Spent::Taken | Spent::TakenLow))
        };
        let calls: Vec<_> = (0..2)
            .map(|_| {
                let pocket = pocket.clone();
                thread::spawn(move || call(pocket))
            })
            .collect();
        // The lock closes the pocket, adds a token, and opens it again.
        let (left, _) = pocket.close();
        pocket.open(contents(left + 1));
        let spent: u64 = calls.into_iter().map(|call| call.join().unwrap()).sum();
        let (rest, _) = pocket.close();
        assert_eq!(spent + rest, 3);
    });
}
