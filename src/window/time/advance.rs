//! Which slice is the present one, and how a window moves on to it.

use super::{COUNT_BITS, PLACE_BITS, SWEEP_BITS, TimeWindow, UNKNOWN, tag};
use crate::instant::Instant;
use crate::sync::{Ordering, lock_checked};

impl TimeWindow {
    /// When the first slice began, in nanoseconds, which is `now` when there was no call yet. A call
    /// begins it.
    ///
    /// Asked after `newest`: whoever sees a slice then sees where it begins.
    #[inline]
    fn origin(&self, now: u64, is_call: bool) -> u64 {
        // Relaxed: what it belongs with is ordered by `newest`.
        let origin = self.origin.load(Ordering::Relaxed);
        if origin == UNKNOWN {
            self.first_origin(now, is_call)
        } else {
            origin
        }
    }

    #[cold]
    fn first_origin(&self, now: u64, is_call: bool) -> u64 {
        if !is_call {
            return now;
        }
        // Relaxed: nothing else depends on who comes first.
        let order = Ordering::Relaxed;
        match self.origin.compare_exchange(UNKNOWN, now, order, order) {
            Ok(_) => {
                self.publish(UNKNOWN, now);
                now
            }
            Err(first) => first,
        }
    }

    /// The origin was `before`, and is another one since a slice was published that goes by it.
    fn publish(&self, before: u64, origin: u64) {
        // Release: pairs with the load in `begin_anew`. Fails when the window was cleared meanwhile.
        let _ =
            self.published
                .compare_exchange(before, origin, Ordering::Release, Ordering::Relaxed);
    }

    /// The number of the present slice, by `now` or by what was recorded, whichever is later. Only
    /// reads.
    #[inline]
    pub(super) fn epoch(&self, now: Instant) -> u64 {
        let now = now.as_nanos();
        // Acquire: as in `origin`.
        let newest = self.newest.load(Ordering::Acquire) >> PLACE_BITS;
        let elapsed = now.saturating_sub(self.origin(now, false));
        if elapsed.wrapping_sub(newest * self.slice) < self.slice {
            return newest;
        }
        let epoch = elapsed / self.slice;
        epoch.max(newest)
    }

    /// The present slice and its place; moves on to it.
    #[inline]
    pub(super) fn present(&self, now: Instant) -> u64 {
        let now = now.as_nanos();
        // Acquire: whoever comes to a slice sees the words swept that were swept before it, and
        // where it begins.
        let newest = self.newest.load(Ordering::Acquire);
        let origin = self.origin(now, true);
        let elapsed = now.saturating_sub(origin);
        if elapsed.wrapping_sub((newest >> PLACE_BITS) * self.slice) < self.slice {
            newest
        } else {
            self.advance(newest, origin, now)
        }
    }

    #[cold]
    fn advance(&self, newest: u64, origin: u64, now: u64) -> u64 {
        let elapsed = now.saturating_sub(origin);
        let epoch = elapsed / self.slice;
        let before = newest >> PLACE_BITS;
        let is_empty = epoch.saturating_sub(before) >= self.slices;
        if is_empty && !self.aligned {
            return self.begin_anew(now);
        }
        self.advance_to(epoch, before)
    }

    /// The window has run empty: the present slice begins with this call, and has the number it
    /// would have had.
    ///
    /// One call moves the origin at a time. Others that come before its slice is published go by
    /// where it has moved it to, so that no slice is longer than the others; one from before the
    /// window's beginning is then not in it.
    fn begin_anew(&self, now: u64) -> u64 {
        // Acquire: the slice that was published with it is seen next, or a newer one.
        let published = self.published.load(Ordering::Acquire);
        let before = self.newest.load(Ordering::Acquire) >> PLACE_BITS;
        let origin = self.origin(now, true);
        let elapsed = now.saturating_sub(origin);
        let epoch = elapsed / self.slice;
        if origin != published || epoch.saturating_sub(before) < self.slices {
            return self.advance_to(epoch, before);
        }
        // Relaxed: as in `origin`.
        let order = Ordering::Relaxed;
        let begins = origin + elapsed % self.slice;
        match self.origin.compare_exchange(origin, begins, order, order) {
            Ok(_) => {
                let present = self.advance_to(epoch, before);
                self.publish(origin, begins);
                present
            }
            Err(origin) => self.advance_to(now.saturating_sub(origin) / self.slice, before),
        }
    }

    /// Moves on to a slice from the slice `before`.
    fn advance_to(&self, epoch: u64, before: u64) -> u64 {
        if epoch >> SWEEP_BITS > before >> SWEEP_BITS {
            self.sweep_and_advance_to(epoch)
        } else {
            self.publish_slice(epoch)
        }
    }

    /// As [`advance_to`](Self::advance_to), unless somebody else has swept meanwhile.
    fn sweep_and_advance_to(&self, epoch: u64) -> u64 {
        let _sweeping = lock_checked(&self.sweeping);
        // Relaxed: who has swept has published its slice before it unlocked.
        let before = self.newest.load(Ordering::Relaxed) >> PLACE_BITS;
        if epoch >> SWEEP_BITS > before >> SWEEP_BITS {
            let is_empty = epoch.saturating_sub(before) >= self.slices;
            self.sweep(epoch, is_empty);
        }
        self.publish_slice(epoch)
    }

    fn publish_slice(&self, epoch: u64) -> u64 {
        // Never backwards: a late thread gets the newest slice.
        let present = self.numbered(epoch);
        self.newest
            .fetch_max(present, Ordering::AcqRel)
            .max(present)
    }

    /// A slice as `newest` has it.
    const fn numbered(&self, epoch: u64) -> u64 {
        (epoch << PLACE_BITS) | (epoch % self.slices)
    }

    /// Empties the words of slices that have left the window, long before their tags could be
    /// mistaken for those of newer ones: they become those of the slice that has just left it.
    fn sweep(&self, epoch: u64, all: bool) {
        for (index, word) in self.words.iter().enumerate() {
            let bits = match index < self.second {
                true => self.bits_of(index % self.stride),
                false => COUNT_BITS,
            };
            let empty = tag(epoch.wrapping_sub(self.slices), bits) << bits;
            let mut content = word.load(Ordering::Relaxed);
            let mut is_old = all || !self.is_live(content, epoch, bits);
            while is_old {
                match word.compare_exchange(content, empty, Ordering::Relaxed, Ordering::Relaxed) {
                    Ok(_) => break,
                    // Somebody has just counted into it: if it is a new slice's by now, it stays.
                    Err(now) => content = now,
                }
                is_old = !self.is_live(content, epoch, bits);
            }
        }
    }
}
