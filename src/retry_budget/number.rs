//! Numbers that identify budgets in the context of a call.

use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::policy::BudgetNumber;

/// The number of a budget, unique among live budgets. Dropping it frees the number.
///
/// `None` for budgets beyond [`BudgetNumber::MAX`]: nested calls in the same one are then counted twice.
#[derive(Debug)]
pub(super) struct Number(Option<BudgetNumber>);

/// Numbers that no live budget has.
struct Unused {
    /// Numbers of dropped budgets.
    freed: Vec<BudgetNumber>,
    /// The smallest number never used.
    next: u64,
}

// A mutex of std even under loom, because the numbers order nothing.
static UNUSED: Mutex<Unused> = Mutex::new(Unused {
    freed: Vec::new(),
    next: 1,
});

impl Unused {
    fn lock() -> MutexGuard<'static, Self> {
        UNUSED.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&mut self) -> Option<BudgetNumber> {
        self.freed.pop().or_else(|| {
            let number = BudgetNumber::new(self.next)?;
            self.next += 1;
            Some(number)
        })
    }
}

impl Number {
    pub(super) fn take() -> Self {
        Self(Unused::lock().take())
    }

    pub(super) const fn get(&self) -> Option<BudgetNumber> {
        self.0
    }
}

impl Drop for Number {
    fn drop(&mut self) {
        if let Some(number) = self.0 {
            Unused::lock().freed.push(number);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_reused_and_run_out() {
        let mut unused = Unused {
            freed: Vec::new(),
            next: BudgetNumber::MAX,
        };
        let last = unused.take();
        assert_eq!(last.map(BudgetNumber::get), Some(BudgetNumber::MAX));
        assert_eq!(unused.take(), None);
        unused.freed.extend(last);
        assert_eq!(unused.take(), last);
    }

    #[test]
    fn the_number_of_a_budget_that_is_dropped_is_reused() {
        // Another test may take the number first.
        let is_reused = |_| {
            let first = Number::take().get();
            Number::take().get() == first
        };
        assert!((0..1000).any(is_reused));
    }
}
