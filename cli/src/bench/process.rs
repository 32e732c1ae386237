//! CPU time and resident memory of a process, from `/proc`: known on Linux only.

use std::time::{Duration, Instant};

/// CPU time and memory that a process has used so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Usage {
    /// User and system time, in clock ticks of 10 ms.
    ticked: Duration,
    /// CPU time of the threads that run now, from the scheduler, to the nanosecond; zero when it is
    /// not kept.
    scheduled: Duration,
    /// Resident memory, in bytes.
    pub(super) rss: u64,
}

impl Usage {
    pub(super) fn of(pid: Option<u32>) -> Option<Self> {
        read(pid?)
    }

    /// CPU time since an earlier look.
    pub(super) fn cpu_since(self, earlier: Self) -> Duration {
        let ticked = self.ticked.saturating_sub(earlier.ticked);
        let scheduled = self.scheduled.saturating_sub(earlier.scheduled);
        // A thread that has ended takes its time out of the sum; and some systems keep no such sum.
        if scheduled + Duration::from_millis(40) < ticked { ticked } else { scheduled }
    }
}

#[cfg(target_os = "linux")]
fn read(pid: u32) -> Option<Usage> {
    let process = procfs::process::Process::new(pid.try_into().ok()?).ok()?;
    let stat = process.stat().ok()?;
    let rss = process.status().ok()?.vmrss? * 1024;
    let tasks = process.tasks().into_iter().flatten().flatten();
    let scheduled = tasks.filter_map(|task| task.schedstat().ok()).map(|task| task.sum_exec_runtime).sum();
    Some(Usage {
        ticked: Duration::from_millis((stat.utime + stat.stime) * 1000 / procfs::ticks_per_second()),
        scheduled: Duration::from_nanos(scheduled),
        rss,
    })
}

#[cfg(not(target_os = "linux"))]
fn read(_pid: u32) -> Option<Usage> {
    None
}

/// Measures from its start on: the time, the broker's process when it is known, and this process.
#[derive(Debug, Clone, Copy)]
pub(super) struct Meter {
    pub(super) started: Instant,
    pid: Option<u32>,
    broker: Option<Usage>,
    own: Option<Usage>,
}

/// The time, CPU time and memory between start and stop.
#[derive(Debug, Clone, Copy)]
pub(super) struct Measured {
    pub(super) elapsed: Duration,
    pub(super) broker_cpu: Option<Duration>,
    /// At the end.
    pub(super) broker_rss: Option<u64>,
    pub(super) own_cpu: Option<Duration>,
}

impl Meter {
    pub(super) fn start(pid: Option<u32>) -> Self {
        let own = Usage::of(Some(std::process::id()));
        Self { broker: Usage::of(pid), own, pid, started: Instant::now() }
    }

    pub(super) fn stop(self) -> Measured {
        let elapsed = self.started.elapsed();
        let (broker, own) = (Usage::of(self.pid), Usage::of(Some(std::process::id())));
        let between = |before: Option<Usage>, after: Option<Usage>| Some(after?.cpu_since(before?));
        Measured {
            elapsed,
            broker_cpu: between(self.broker, broker),
            broker_rss: broker.map(|usage| usage.rss),
            own_cpu: between(self.own, own),
        }
    }
}

/// Lets this process hold so many connections, if the system permits.
pub(super) fn allow_connections(count: u64) -> Result<(), String> {
    #[cfg(unix)]
    {
        use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
        let wanted = count + 64;
        let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
        if current.is_some_and(|current| current < wanted) {
            let raised = Rlimit { current: Some(wanted), maximum };
            setrlimit(Resource::Nofile, raised).map_err(|_| {
                let most = maximum.unwrap_or_default();
                format!("{count} connections need {wanted} open files, but the limit is {most}: raise ulimit -n")
            })?;
        }
    }
    Ok(())
}

/// Lets this thread be woken up when it asked for, not up to 50 µs later.
pub(super) fn wake_punctually() {
    #[cfg(target_os = "linux")]
    let _ = rustix::thread::set_current_timer_slack(std::num::NonZeroU64::new(1));
}

#[cfg(all(test, target_os = "linux"))]
#[allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
mod tests {
    use super::*;

    #[test]
    fn this_process_uses_something() {
        let before = Usage::of(Some(std::process::id())).unwrap();
        let mut x = 1_u64;
        for n in 0..100_000_000 {
            x = std::hint::black_box(x ^ n);
        }
        let after = Usage::of(Some(std::process::id())).unwrap();
        assert!(after.rss > 0 && after.cpu_since(before) > Duration::ZERO, "{before:?} {after:?}");
    }
}
