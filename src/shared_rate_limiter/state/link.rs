//! The availability of the store: a circuit breaker that opens on the first failure and never stops probing.

use std::time::Duration;

use crate::instant::{Instant, nanos};

/// The connection of a limiter to its store.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Link {
    outage: Option<Outage>,
    /// The last outage, and its end.
    last: Option<(Outage, Instant)>,
    /// Number of outages so far.
    count: u64,
}

#[derive(Clone, Copy, Debug)]
struct Outage {
    since: Instant,
    /// When the first of the outages that count as one with this began.
    first_since: Instant,
    /// Number of failed probes.
    failed: u32,
    probe_at: Instant,
    /// Whether a probe is in flight.
    probing: bool,
}

impl Outage {
    /// Returns when an outage that follows at `now` began. If the store was up from `back` on for less than twice the
    /// length of this outage, other processes may not have noticed its return, so the two count as one.
    fn joined(&self, back: Instant, now: Instant) -> Instant {
        let lost_for = back.saturating_duration_since(self.since);
        match now.saturating_duration_since(back) < 2 * lost_for {
            true => self.first_since,
            false => now,
        }
    }
}

/// The state of the link, for leases.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Contact {
    /// The store answers.
    Up {
        /// Until this time, processes keep to their shares after an outage.
        pace_until: Instant,
    },
    /// The store does not answer.
    Lost {
        /// The number of the outage.
        number: u64,
        /// When the next probe is due.
        probe_at: Instant,
    },
}

impl Contact {
    /// Combines this contact with `other`, the contact about a single key: a store that is up may be lost for that key.
    pub(crate) fn or(self, other: Self) -> Self {
        match (self, other) {
            (Self::Up { pace_until }, Self::Up { pace_until: other }) => Self::Up {
                pace_until: pace_until.max(other),
            },
            (Self::Up { .. }, Self::Lost { number, probe_at }) => Self::Lost {
                // Differs from the number of any outage of all keys.
                number: number | 1 << 63,
                probe_at,
            },
            (lost, _) => lost,
        }
    }
}

/// The wait before the first probe, doubled after each.
const FIRST_PROBE: Duration = Duration::from_millis(50);
/// The longest wait between probes, before jitter.
const LAST_PROBE: Duration = Duration::from_secs(1);
/// The longest time for which processes keep to their shares after an outage. By then, every process has probed.
const LONGEST_PACE: Duration = Duration::from_millis(1250);

impl Link {
    /// Records a request that failed or was not answered in time. `unit` is a random number in `[0, 1)`.
    /// Returns whether the store was up before.
    pub(crate) fn failed(&mut self, now: Instant, unit: f64) -> bool {
        let is_new = self.outage.is_none();
        self.count += u64::from(is_new);
        let last = self.last;
        let outage = self.outage.get_or_insert_with(|| Outage {
            since: now,
            first_since: last.map_or(now, |(last, back)| last.joined(back, now)),
            failed: 0,
            probe_at: now,
            probing: true,
        });
        // Requests sent before the outage may fail too; they are not probes.
        if std::mem::take(&mut outage.probing) {
            let wait = (FIRST_PROBE * 2_u32.pow(outage.failed.min(10))).min(LAST_PROBE);
            outage.probe_at = now + wait.mul_f64(0.75 + unit / 2.0);
            outage.failed += 1;
        }
        is_new
    }

    /// Claims the probe that is due, if one is. A probe that never ends is followed by the next after twice the
    /// timeout.
    pub(crate) fn claim_probe(&mut self, now: Instant, timeout: Duration) -> bool {
        match &mut self.outage {
            Some(outage) if now >= outage.probe_at => {
                outage.probe_at = now + timeout.saturating_mul(2);
                outage.probing = true;
                true
            }
            _ => false,
        }
    }

    /// Records an answer. Returns the length of the outage that it ends, if any.
    pub(crate) fn answered(&mut self, now: Instant) -> Option<Duration> {
        let outage = self.outage.take()?;
        self.last = Some((outage, now));
        Some(now.saturating_duration_since(outage.since))
    }

    /// Returns the state of the link.
    pub(crate) fn contact(&self) -> Contact {
        if let Some(outage) = self.outage {
            return Contact::Lost {
                number: self.count,
                probe_at: outage.probe_at,
            };
        }
        let pace = |(outage, back): (Outage, Instant)| {
            let length = back.saturating_duration_since(outage.first_since);
            back.after(nanos(length.min(LONGEST_PACE)))
        };
        Contact::Up {
            pace_until: self.last.map_or(Instant::ORIGIN, pace),
        }
    }

    /// Returns when the current outage began.
    pub(crate) fn lost_since(&self) -> Option<Instant> {
        self.outage.map(|outage| outage.since)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Instant {
        Instant::from_nanos(millis * 1_000_000)
    }

    #[test]
    fn probes_back_off_and_never_stop() {
        let mut link = Link::default();
        assert!(link.failed(at(0), 0.5));
        let timeout = Duration::from_millis(25);
        assert!(!link.claim_probe(at(49), timeout));
        let mut now = at(50);
        let mut waits = Vec::new();
        for _ in 0..8 {
            assert!(link.claim_probe(now, timeout), "one probe is due");
            assert!(!link.claim_probe(now, timeout), "and claimed once");
            // The probe times out.
            now += timeout;
            assert!(!link.failed(now, 0.5));
            let Contact::Lost { probe_at, .. } = link.contact() else {
                panic!("the store is lost");
            };
            waits.push(probe_at.saturating_duration_since(now).as_millis());
            now = probe_at;
        }
        assert_eq!(waits, [100, 200, 400, 800, 1000, 1000, 1000, 1000]);
    }

    #[test]
    fn after_an_outage_shares_are_kept_for_its_length_up_to_a_bound() {
        let mut link = Link::default();
        let paced = |link: &Link| match link.contact() {
            Contact::Up { pace_until } => pace_until,
            Contact::Lost { .. } => panic!("the store is back"),
        };
        link.failed(at(1000), 0.0);
        assert_eq!(link.answered(at(1100)), Some(Duration::from_millis(100)));
        assert_eq!(paced(&link), at(1200));
        link.failed(at(2000), 0.0);
        link.answered(at(9000));
        assert_eq!(paced(&link), at(10_250));
        assert_eq!(link.answered(at(9001)), None);
    }

    #[test]
    fn outages_between_which_the_store_was_up_only_briefly_count_as_one() {
        let mut link = Link::default();
        let mut paced = |since: u64, back: u64| {
            link.failed(at(since), 0.0);
            link.answered(at(back));
            match link.contact() {
                Contact::Up { pace_until } => pace_until,
                Contact::Lost { .. } => panic!("the store is back"),
            }
        };
        assert_eq!(paced(1000, 1100), at(1200));
        assert_eq!(paced(1299, 1349), at(1349 + 349));
        assert_eq!(paced(1449, 1459), at(1459 + 10), "a new one");
        assert_eq!(paced(1480, 2000), at(2000 + 520));
        assert_eq!(paced(2100, 3000), at(3000 + 1250), "at most");
    }
}
