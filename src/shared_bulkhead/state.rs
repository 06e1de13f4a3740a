//! The permits that a process holds of a shared bulkhead: a pure state machine that decides when to ask the store,
//! and for how many.

use std::time::Duration;

use crate::instant::{Instant, nanos};
use crate::store::Held;

/// The permits of one process.
#[derive(Clone, Debug)]
pub(crate) struct Block {
    limit: u64,
    ttl: u64,
    /// Permits held until `until`.
    held: u64,
    until: Instant,
    in_flight: u64,
    /// The maximum of permits in flight and waited for since the last request.
    peak: u64,
    request: Option<Request>,
    sent_at: Instant,
    /// No request for more permits is sent before this time.
    scarce_until: Instant,
    /// The most permits this process asks for: an equal part of the limit while permits are scarce.
    fair: u64,
    /// The most permits in flight, below the number held while the process gives some up to others.
    keeps: u64,
    /// When the process gives permits up, so that others get a turn. Never, unless equal parts, rounded up, leave some
    /// process without permits.
    turn_ends: Instant,
    /// The permits that it keeps after its turn: an equal part, rounded down.
    least: u64,
    /// Whether the store may know of this process.
    is_known: bool,
}

/// A request to the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Request {
    pub(crate) permits: u64,
    pub(crate) in_use: u64,
    pub(crate) sent: Instant,
    /// Whether it returns permits that others lack: those that are too few for the first waiter, or beyond an equal
    /// part, or those of a turn.
    gives_way: bool,
}

/// Mean wait before the next request after the store had too few permits, in nanoseconds.
const SCARCE: f64 = 50e6;
/// With each request, a process that has more than its equal part gives up this share of the rest. Its calls may need
/// all of its permits at all times, so none would ever be idle. The others may not need more, so the share is small.
const GIVEN_UP: u64 = 16;
/// Time for which a process keeps its permits while others have none, in nanoseconds. It is several times the pause
/// before another process asks for them.
const TURN: u64 = 200_000_000;

impl Block {
    pub(crate) const fn new(limit: u64, ttl: Duration) -> Self {
        Self {
            limit,
            ttl: nanos(ttl),
            held: 0,
            until: Instant::ORIGIN,
            in_flight: 0,
            peak: 0,
            request: None,
            sent_at: Instant::ORIGIN,
            scarce_until: Instant::ORIGIN,
            fair: limit,
            keeps: limit,
            turn_ends: Instant::FAR_FUTURE,
            least: 0,
            is_known: false,
        }
    }

    pub(crate) const fn limit(&self) -> u64 {
        self.limit
    }

    pub(crate) const fn in_flight(&self) -> u64 {
        self.in_flight
    }

    /// Returns the permits held, free or in flight; zero once they have expired.
    pub(crate) const fn held(&self, now: Instant) -> u64 {
        if now.as_nanos() < self.until.as_nanos() {
            self.held
        } else {
            0
        }
    }

    /// Returns whether the store may count permits of this process, or its part of the limit: also those of a request
    /// whose answer is missing.
    pub(crate) const fn is_known(&self, now: Instant) -> bool {
        self.is_known && now.as_nanos() < self.sent_at.after(self.ttl).as_nanos()
    }

    /// Returns the permits that may be in flight.
    fn usable(&self, now: Instant) -> u64 {
        match self.in_flight {
            _ if self.turn_is_over(now) => self.least,
            // A call that costs more than is kept must not wait for good.
            0 => self.held(now),
            _ => self.held(now).min(self.keeps),
        }
    }

    /// Returns whether the process only waits for the end of calls, to give their permits up.
    fn turn_is_over(&self, now: Instant) -> bool {
        now >= self.turn_ends && self.held(now) > self.least
    }

    /// Admits a call if the process holds enough free permits.
    pub(crate) fn admit(&mut self, now: Instant, permits: u64) -> bool {
        let fits = self.in_flight + permits <= self.usable(now);
        if fits {
            self.in_flight += permits;
            self.peak = self.peak.max(self.in_flight);
        }
        fits
    }

    /// Takes back the permits of a call.
    pub(crate) const fn release(&mut self, permits: u64) {
        self.in_flight -= permits;
    }

    /// Returns the request to send now, if one is due. `waiting` is the number of permits that waiters need, and `first`
    /// that of the first one.
    pub(crate) fn plan(&mut self, now: Instant, waiting: u64, first: u64) -> Option<Request> {
        self.peak = self.peak.max(self.in_flight + waiting);
        if self.request.is_some() {
            return None;
        }
        // Without calls in flight, permits that do not suffice for the first waiter are idle, and another process may
        // lack just these. Each process would wait for the others for good.
        let held = self.held(now);
        let too_few = self.in_flight == 0 && (1..first).contains(&held) && now < self.scarce_until;
        let turn_is_over = self.turn_is_over(now);
        if too_few || turn_is_over && self.in_flight <= self.least {
            self.held = if too_few { 0 } else { self.least };
            self.peak = self.in_flight;
            return Some(self.send(now, self.held, true));
        }
        let lacks = !turn_is_over
            && self.in_flight + waiting > self.usable(now)
            && now >= self.scarce_until;
        let refreshes = now >= self.sent_at.after(self.ttl / 3) && (self.held > 0 || self.peak > 0);
        if !(waiting > 0 && lacks || refreshes) {
            return None;
        }
        // A quarter more than the recent peak, so that few calls need a request.
        let needed = self.peak + self.peak / 4;
        // A call that costs more than a fair part gets it if no other call of this process is in flight.
        let part = match self.in_flight {
            0 => self.fair.max(first),
            _ => self.fair,
        };
        let permits = needed.min(part.max(1)).max(self.in_flight).min(self.limit);
        let permits = if self.peak == 0 { 0 } else { permits };
        // Another process may have the permits that are given back before the answer comes, and the answer may
        // get lost.
        let gives_up = waiting > 0 && permits < held;
        self.held = self.held.min(permits);
        self.peak = self.in_flight;
        Some(self.send(now, permits, gives_up))
    }

    const fn send(&mut self, now: Instant, permits: u64, gives_way: bool) -> Request {
        let request = Request {
            permits,
            in_use: self.in_flight,
            sent: now,
            gives_way,
        };
        self.sent_at = now;
        self.is_known |= permits > 0;
        self.request = Some(request);
        request
    }

    /// Returns the request in flight.
    pub(crate) const fn request(&self) -> Option<&Request> {
        self.request.as_ref()
    }

    /// Records the answer to a request. `unit` is a random number in `[0, 1)`.
    pub(crate) fn answered(&mut self, now: Instant, request: &Request, held: Held, unit: f64) {
        self.request = None;
        self.is_known = request.permits > 0 || held.permits > 0;
        let held_before = self.held(now);
        // A user's store may grant more than was requested.
        self.held = held.permits.min(request.permits.max(request.in_use));
        self.until = request.sent.after(self.ttl);
        // While permits are scarce, a process asks for no more than its equal part.
        self.fair = match held.free {
            0 => self.limit.div_ceil(held.instances.max(1)),
            _ => self.limit,
        };
        let surplus = self.held.saturating_sub(self.fair);
        self.keeps = self.held - surplus.div_ceil(GIVEN_UP);
        let others = held.instances.saturating_sub(1);
        self.least = self.limit / held.instances.max(1);
        let leave_none = self.limit <= self.fair.saturating_mul(others);
        let takes_turns = held.free == 0 && leave_none && self.held > self.least;
        self.turn_ends = match takes_turns {
            // The answer about the end of the last turn may have got lost.
            true if held_before <= self.least => now.after(TURN),
            true => self.turn_ends.min(now.after(TURN)),
            false => Instant::FAR_FUTURE,
        };
        // A process that has asked for the whole limit cannot ask for more.
        let has_all = request.permits >= self.limit;
        let is_short = held.permits < request.permits || held.free == 0;
        self.scarce_until = match has_all || is_short || request.gives_way {
            true => now.after((SCARCE * (0.5 + unit)) as u64),
            false => Instant::ORIGIN,
        };
    }

    /// Records that the request in flight failed.
    pub(crate) fn failed(&mut self, now: Instant, unit: f64) {
        self.request = None;
        self.scarce_until = now.after((2.0 * SCARCE * (0.5 + unit)) as u64);
    }

    /// Returns whether a request would be in vain: the store lacked permits a moment ago, or others have a turn.
    pub(crate) fn is_scarce(&self, now: Instant) -> bool {
        self.request.is_none() && (now < self.scarce_until || self.turn_is_over(now))
    }

    /// Returns when a waiter should be polled again if no request is in flight.
    pub(crate) fn poll_at(&self, now: Instant) -> Instant {
        match self.turn_is_over(now) {
            // The last call in flight sends the next request.
            true => self.refresh_at(),
            false => self.scarce_until,
        }
    }

    /// Returns when the permits must be renewed or given up, but not before `soon` what needs a repeated request.
    pub(crate) fn maintain_at(&self, now: Instant, soon: Instant) -> Instant {
        let refresh_at = self.refresh_at().max(soon);
        match now < self.turn_ends {
            true => refresh_at.min(self.turn_ends),
            false => refresh_at,
        }
    }

    /// Returns when the permits must be renewed.
    const fn refresh_at(&self) -> Instant {
        self.sent_at.after(self.ttl / 3)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TTL: Duration = Duration::from_secs(9);

    fn at(millis: u64) -> Instant {
        Instant::from_nanos(millis * 1_000_000)
    }

    fn answer(block: &mut Block, now: Instant, permits: u64, free: u64, instances: u64) {
        let request = *block.request().unwrap();
        block.answered(now, &request, Held::new(permits, free, instances), 0.5);
    }

    #[test]
    fn permits_expire_at_the_time_to_live_of_the_request() {
        let mut block = Block::new(10, TTL);
        assert_eq!(block.plan(at(0), 4, 1).unwrap().permits, 5);
        answer(&mut block, at(100), 5, 5, 1);
        assert!(block.admit(at(8999), 5));
        block.release(1);
        assert!(!block.admit(at(9000), 1), "another process may have it");
    }

    #[test]
    fn a_quiet_process_gives_permits_back() {
        let mut block = Block::new(100, TTL);
        block.plan(at(0), 40, 1);
        answer(&mut block, at(0), 50, 50, 1);
        assert!(block.admit(at(1), 40));
        block.release(39);
        assert_eq!(block.plan(at(2999), 0, 0), None);
        assert_eq!(
            block.plan(at(3000), 0, 0).unwrap().permits,
            50,
            "40 were needed since"
        );
        answer(&mut block, at(3000), 50, 50, 1);
        assert_eq!(block.plan(at(6000), 0, 0).unwrap().permits, 1);
        answer(&mut block, at(6000), 1, 99, 1);
        block.release(1);
        block.plan(at(9000), 0, 0);
        answer(&mut block, at(9000), 1, 99, 1);
        assert_eq!(block.plan(at(12_000), 0, 0).unwrap().permits, 0);
    }

    #[test]
    fn permits_given_back_are_not_used_while_the_answer_is_missing() {
        let mut block = Block::new(100, TTL);
        block.plan(at(0), 40, 1);
        answer(&mut block, at(0), 50, 50, 1);
        assert!(block.admit(at(1), 1));
        assert_eq!(block.plan(at(3000), 0, 0).unwrap().permits, 1);
        assert!(!block.admit(at(3001), 1), "before the answer");
        block.failed(at(3025), 0.5);
        assert!(!block.admit(at(3026), 1), "after the answer is lost");
        block.release(1);
        assert!(block.admit(at(3027), 1));
    }

    #[test]
    fn a_turn_is_as_long_after_one_whose_end_got_no_answer() {
        let mut block = Block::new(1, TTL);
        block.plan(at(0), 1, 1);
        answer(&mut block, at(0), 1, 0, 2);
        assert!(block.admit(at(0), 1));
        block.release(1);
        assert_eq!(block.plan(at(200), 1, 1).unwrap().permits, 0, "its end");
        block.failed(at(225), 0.5);
        assert_eq!(block.plan(at(400), 1, 1).unwrap().permits, 1);
        answer(&mut block, at(400), 1, 0, 2);
        assert!(block.admit(at(599), 1));
        block.release(1);
        assert!(!block.admit(at(600), 1), "the next turn is over");
    }

    #[test]
    fn while_permits_are_scarce_a_process_asks_for_its_share() {
        let mut block = Block::new(12, TTL);
        block.plan(at(0), 12, 1);
        answer(&mut block, at(0), 12, 0, 1);
        assert!(block.admit(at(0), 12));
        block.plan(at(3000), 20, 1);
        answer(&mut block, at(3000), 12, 0, 3);
        block.release(10);
        let request = block.plan(at(6000), 20, 1).unwrap();
        assert_eq!((request.permits, request.in_use), (4, 2));
    }

    #[test]
    fn a_call_that_needs_all_permits_held_is_admitted_alone() {
        let mut block = Block::new(10, TTL);
        block.plan(at(0), 10, 1);
        // Three processes: one of the ten permits is given up to the others.
        answer(&mut block, at(0), 10, 0, 3);
        assert!(block.admit(at(1), 10));
        block.release(9);
        assert!(!block.admit(at(2), 9), "beside another call");
    }

    #[test]
    fn an_idle_process_asks_for_nothing() {
        let mut block = Block::new(10, TTL);
        assert_eq!(block.plan(at(60_000), 0, 0), None);
    }

    #[test]
    fn permits_that_are_given_way_are_not_used_while_the_answer_is_missing() {
        let mut block = Block::new(10, TTL);
        block.plan(at(0), 6, 6);
        answer(&mut block, at(0), 3, 0, 2);
        let request = block.plan(at(1), 6, 6).unwrap();
        assert_eq!(request.permits, 0);
        assert!(!block.admit(at(2), 1), "another process may have it");
    }

    #[test]
    fn a_call_that_costs_more_than_a_fair_part_is_asked_for() {
        let mut block = Block::new(12, TTL);
        block.plan(at(0), 12, 1);
        answer(&mut block, at(0), 4, 0, 3);
        // Nothing is in flight: the whole call. Beside another call, the fair part.
        assert_eq!(block.clone().plan(at(3000), 9, 9).unwrap().permits, 9);
        assert!(block.admit(at(1), 1));
        assert_eq!(block.plan(at(3000), 9, 9).unwrap().permits, 4);
    }

    #[test]
    fn permits_in_flight_are_never_given_back() {
        let mut block = Block::new(12, TTL);
        block.plan(at(0), 12, 1);
        answer(&mut block, at(0), 12, 0, 1);
        assert!(block.admit(at(0), 12));
        block.plan(at(3000), 20, 1);
        // Three processes now, so the fair part is 4.
        answer(&mut block, at(3000), 12, 0, 3);
        let request = block.plan(at(6000), 20, 1).unwrap();
        assert_eq!((request.permits, request.in_use), (12, 12));
    }

    #[test]
    fn a_sixteenth_of_what_is_beyond_the_fair_part_is_given_up() {
        let mut block = Block::new(40, TTL);
        block.plan(at(0), 40, 1);
        answer(&mut block, at(0), 40, 0, 2);
        // The fair part is 20; of the other 20, two are given up. A lone call may use all.
        assert!(block.admit(at(1), 1));
        assert!(block.admit(at(1), 37));
        assert!(!block.admit(at(1), 1));
    }

    #[test]
    fn requests_pause_for_50_ms_after_a_short_grant_and_for_100_after_a_failure() {
        let mut block = Block::new(10, TTL);
        block.plan(at(0), 4, 1);
        answer(&mut block, at(0), 0, 0, 2);
        assert_eq!(block.plan(at(49), 4, 1), None);
        assert!(block.is_scarce(at(49)) && !block.is_scarce(at(50)));
        assert!(block.plan(at(50), 4, 1).is_some());
        block.failed(at(75), 0.5);
        assert_eq!(block.plan(at(174), 4, 1), None);
        assert!(block.plan(at(175), 4, 1).is_some());
    }

    #[test]
    fn a_turn_that_is_over_while_calls_run_is_scarce_until_they_end() {
        let mut block = Block::new(1, TTL);
        block.plan(at(0), 1, 1);
        answer(&mut block, at(0), 1, 0, 2);
        assert!(block.admit(at(0), 1));
        assert!(!block.is_scarce(at(199)), "its own turn");
        assert_eq!(block.maintain_at(at(199), at(199)), at(200));
        assert!(block.is_scarce(at(200)));
        assert_eq!(block.poll_at(at(200)), at(3000), "the release sends");
        assert_eq!(block.plan(at(200), 1, 1), None);
        block.release(1);
        assert_eq!(block.plan(at(200), 1, 1).unwrap().permits, 0);
    }

    #[test]
    fn a_process_that_was_granted_nothing_has_no_turn_to_end() {
        let mut block = Block::new(1, TTL);
        block.plan(at(0), 1, 1);
        answer(&mut block, at(0), 0, 0, 2);
        assert_eq!(block.maintain_at(at(0), at(0)), at(3000));
    }
}
