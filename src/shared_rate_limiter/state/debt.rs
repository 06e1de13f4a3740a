//! What a process spent while it alone was cut off from the store.

use super::rules::Rules;
use crate::store::{StoreTime, Taken};

/// Tokens of the next grants that were spent already. At most a burst.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Debt(u64);

impl Debt {
    pub(crate) const fn get(&self) -> u64 {
        self.0
    }

    /// Records an answer to a request that debited `spent` tokens. `before` is when the store answered the last time, and
    /// what it held then, if it is known; `others` is what the other processes got since.
    ///
    /// What the bucket did not hold is owed, less what the rate brought meanwhile and no process got. If all
    /// processes were cut off, the bucket was full, and could not keep it; if only this one was, the others got it.
    pub(crate) fn record(
        &mut self,
        rules: &Rules,
        before: (StoreTime, Option<f64>),
        taken: &Taken,
        (spent, others): (u64, u64),
    ) {
        if taken.owed == 0 {
            return;
        }
        let (since, level) = before;
        let burst = rules.burst as f64;
        let passed = taken.now.as_micros().saturating_sub(since.as_micros());
        let earned = passed as f64 * 1e3 / rules.token;
        let debited = spent.saturating_sub(taken.owed);
        let lost = level.unwrap_or(burst) + earned - (others + debited) as f64;
        let owed = (taken.owed as f64 - lost.max(0.0)).max(0.0) as u64;
        self.0 = (self.0 + owed).min(rules.burst);
    }

    /// Pays out of a grant. Returns how many tokens of it.
    pub(crate) fn pay(&mut self, granted: u64) -> u64 {
        let paid = self.0.min(granted);
        self.0 -= paid;
        paid
    }
}

#[cfg(all(test, not(backstop_loom)))]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::rate_limiter::Quota;
    use crate::shared_rate_limiter::state::rules::{Outage, SyncMode};

    /// The debts of processes that spent so much in 3 s at 1000/s without the store, from an empty bucket of 100
    /// or 1000, and debit it one after the other. `others` got so much meanwhile.
    fn debts(burst: u64, spent: &[u64], others: u64) -> Vec<u64> {
        let quota = Quota::per_second(1000).burst(burst);
        let every = Duration::from_millis(50);
        let rules = Rules::new(quota, SyncMode::Leased, every, Outage::OwnShare);
        let mut free = burst.saturating_sub(others);
        let mut before = others;
        let debts = spent.iter().map(|&spent| {
            let mut taken = Taken::new(0, 0, StoreTime::from_micros(10_000_000));
            taken.owed = spent.saturating_sub(free);
            free = free.saturating_sub(spent);
            let mut debt = Debt::default();
            let since = (StoreTime::from_micros(7_000_000), Some(0.0));
            debt.record(&rules, since, &taken, (spent, before));
            before += spent;
            debt.get()
        });
        debts.collect()
    }

    #[test]
    fn processes_that_were_all_cut_off_owe_nothing_for_what_the_rate_brought() {
        assert_eq!(debts(100, &[1440, 720, 480, 360], 0), [0; 4]);
        assert_eq!(debts(1000, &[1440, 720, 480, 360], 0), [0; 4]);
        assert_eq!(debts(1000, &[1440, 720, 480, 460], 0), [0, 0, 0, 100]);
    }

    #[test]
    fn a_process_that_alone_was_cut_off_owes_what_it_spent_up_to_a_burst() {
        assert_eq!(debts(1000, &[480], 3000), [480]);
        assert_eq!(debts(100, &[480], 3000), [100]);
    }

    #[test]
    fn a_debt_is_paid_out_of_grants() {
        let mut debt = Debt(7);
        assert_eq!((debt.pay(5), debt.pay(5), debt.pay(5)), (5, 2, 0));
    }
}
