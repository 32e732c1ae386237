//! The resource usage of this process, from `/proc`: known on Linux only.

/// The usage of this process. A number is `None` when it cannot be read, or has no limit.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct ProcessUsage {
    /// Seconds since 1970.
    pub(super) started: Option<f64>,
    /// User and system time.
    pub(super) cpu_seconds: Option<f64>,
    pub(super) resident_bytes: Option<u64>,
    pub(super) virtual_bytes: Option<u64>,
    pub(super) open_fds: Option<u64>,
    pub(super) max_fds: Option<u64>,
}

impl ProcessUsage {
    #[cfg(target_os = "linux")]
    #[allow(clippy::cast_precision_loss, reason = "these times are exact up to 2^53 ticks")]
    pub(super) fn read() -> Self {
        use procfs::process::{LimitValue, Process};

        let Ok(process) = Process::myself() else {
            return Self::default();
        };
        let (stat, status, limits) = (process.stat().ok(), process.status().ok(), process.limits().ok());
        let seconds = |ticks: u64| ticks as f64 / procfs::ticks_per_second() as f64;
        let boot = procfs::boot_time_secs().ok();
        // `Process::fd_count` is wrong before Linux 6.2. One entry is the directory that is read,
        // one is `process`.
        let fds = std::fs::read_dir("/proc/self/fd").ok();
        Self {
            started: stat.as_ref().and_then(|stat| Some(boot? as f64 + seconds(stat.starttime))),
            cpu_seconds: stat.as_ref().map(|stat| seconds(stat.utime + stat.stime)),
            resident_bytes: status.as_ref().and_then(|status| Some(status.vmrss? * 1024)),
            virtual_bytes: status.as_ref().and_then(|status| Some(status.vmsize? * 1024)),
            open_fds: fds.map(|fds| fds.count().saturating_sub(2) as u64),
            max_fds: limits.and_then(|limits| match limits.max_open_files.soft_limit {
                LimitValue::Value(most) => Some(most),
                LimitValue::Unlimited => None,
            }),
        }
    }

    #[cfg(not(target_os = "linux"))]
    pub(super) fn read() -> Self {
        Self::default()
    }
}

#[cfg(all(test, target_os = "linux"))]
#[allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
mod tests {
    use std::time::SystemTime;

    use super::*;

    #[test]
    fn usage_is_known_on_linux() {
        let usage = ProcessUsage::read();
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs_f64();
        // A test binary runs for less than a day.
        assert!((now - 86_400.0..now + 1.0).contains(&usage.started.unwrap()), "{usage:?}");
        assert!(usage.cpu_seconds.unwrap() < 86_400.0, "{usage:?}");
        let resident = usage.resident_bytes.unwrap();
        assert!((100 << 10..usage.virtual_bytes.unwrap()).contains(&resident), "{usage:?}");
        assert!((3..usage.max_fds.unwrap()).contains(&usage.open_fds.unwrap()), "{usage:?}");
    }
}
