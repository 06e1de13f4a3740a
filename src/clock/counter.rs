//! The CPU's time stamp counter as [`Instant`]s, if the counters of all cores are known to agree.

use std::sync::OnceLock;

use super::system;
use crate::instant::Instant;
use crate::sync::cold_path;

struct Counter {
    clock: quanta::Clock,
    first: u64,
}

/// Returns the counter; `None` if the counters of the cores may differ.
#[inline]
fn counter() -> Option<&'static Counter> {
    static COUNTER: OnceLock<Option<Counter>> = OnceLock::new();
    let calibrate = || {
        is_synchronized().then(|| {
            let clock = quanta::Clock::new();
            let first = clock.raw();
            Counter { clock, first }
        })
    };
    COUNTER.get_or_init(calibrate).as_ref()
}

/// Calibrates the counter once per process.
pub(super) fn init() {
    counter();
}

#[inline]
pub(super) fn now() -> Instant {
    match counter() {
        Some(Counter { clock, first }) => {
            Instant::from_nanos(clock.delta_as_nanos(*first, clock.raw()))
        }
        None => {
            cold_path();
            system::now()
        }
    }
}

/// Returns whether the counters of all cores are known to agree.
///
/// A constant rate, which is all that the CPU guarantees, is not enough: cores may have started at different times,
/// and a virtual machine may migrate between them. Linux compares the counters of an x86 machine at boot and watches
/// them afterwards; it uses `tsc` as its own clock only while they agree. On 64-bit ARM, all cores share one counter
/// by architecture.
fn is_synchronized() -> bool {
    const CLOCKSOURCE: &str = "/sys/devices/system/clocksource/clocksource0/current_clocksource";

    if cfg!(target_arch = "aarch64") {
        return true;
    }
    cfg!(target_os = "linux")
        && std::fs::read_to_string(CLOCKSOURCE).is_ok_and(|name| is_counter(&name))
}

fn is_counter(clocksource: &str) -> bool {
    clocksource.trim_end() == "tsc"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_counter_is_used_only_where_the_kernel_uses_it_too() {
        assert!(is_counter("tsc\n"));
        for other in [
            "",
            "kvm-clock\n",
            "hpet\n",
            "acpi_pm\n",
            "xen\n",
            "tsc-early\n",
        ] {
            assert!(!is_counter(other), "{other}");
        }
    }
}
